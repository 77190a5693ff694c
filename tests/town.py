"""A town and a route through it, made by hand, for the tests of navigation and of its maps."""

from amft_lite.tasks.city import City, Leg, Route

#: South of it the start; the walker looks east, goes north for two points, then north-east for one.
#: The bank lies west of the crossing, the pub south-east of the destination.
TOWN = City(
    7, 3,
    {(0, 0): (0,), (0, 1): (1, 4), (1, 2): (5,)},
    {(0, 0): ("gym", 180), (0, 1): ("bank", 270), (1, 2): ("pub", 135)},
)  # fmt: skip
WAY = Route(7, 90, ((0, 0), (0, 1), (1, 2)), (Leg(0, 2), Leg(45, 1)), (True, True))
