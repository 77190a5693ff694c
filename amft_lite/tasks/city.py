"""Cities on a grid, and routes through them: headings, turns, sides, and nothing of language.

A city is a square of crossings. Streets lead from a crossing to some of its eight neighbours, no
two of them cross, and every crossing has one landmark beside it. A route is a walk along a few
*legs*, each a street from one crossing to the next; it never goes straight on or back, so every leg
begins with a turn.

Headings are compass degrees, 0 north, 90 east, multiples of 45. Differences are wrapped to
(-180, 180] before anything is read from them; the original environment does not wrap, and calls a
turn from 350 to 10 degrees "left" (VIRL-Platform/VIRL and LeslieTrue/SFTvsRL, gym_virl).

Left out: what is said of a route (`amft_lite.tasks.navigation`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

#: Compass words by heading / 45.
COMPASS = ("north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest")
#: Where something lies for a person who faces it along a heading, by clockwise difference / 45.
SIDES = ("front", "right_front", "right", "right_behind", "behind", "left_behind", "left",
         "left_front")  # fmt: skip
#: (east, north) of one step along each compass heading.
STEPS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
#: Differences of heading that a route may turn by.
TURNS = (-135, -90, -45, 45, 90, 135)

Place = tuple[int, int]  #: (east, north), in streets from the south-west corner


def wrapped(degrees: int) -> int:
    """The same angle in (-180, 180]: wrapped(350) is -10, wrapped(-180) is 180."""
    return 180 - (180 - degrees) % 360


def turn_word(before: int, after: int) -> str:
    """left, slightly_left, slightly_right or right: the turn from one heading to another.

    As the original's words: up to 45 degrees is slight. Half a circle is said to be right.

    Raises:
        ValueError: the headings are the same, which is no turn.
    """
    angle = wrapped(after - before)
    if angle == 0:
        raise ValueError(f"from {before} to {after} degrees is no turn")
    side = "left" if angle < 0 else "right"
    return f"slightly_{side}" if abs(angle) <= 45 else side


def side_word(heading: int, bearing: int) -> str:
    """Where one who faces `heading` finds what lies at `bearing`; both in degrees."""
    return SIDES[(bearing - heading) % 360 // 45]


@dataclass(frozen=True)
class Leg:
    """One street of a route: the heading, and how many points of it lie between its crossings."""

    heading: int
    points: int


@dataclass(frozen=True)
class Route:
    """A walk: `crossings` [legs + 1], and which of them (not the first) show their landmark."""

    city: int
    start_heading: int
    crossings: tuple[Place, ...]
    legs: tuple[Leg, ...]
    shown: tuple[bool, ...]

    @property
    def name(self) -> str:
        """What no other split may have: the city, the crossings and the heading at the start."""
        path = "-".join(f"{east}.{north}" for east, north in self.crossings)
        return f"city{self.city}:{COMPASS[self.start_heading // 45]}:{path}"


@dataclass(frozen=True)
class City:
    """A street map.

    streets    crossing -> headings / 45 of the streets that leave it
    landmarks  crossing -> (name, bearing in degrees from the crossing)
    """

    seed: int
    size: int
    streets: dict[Place, tuple[int, ...]]
    landmarks: dict[Place, tuple[str, int]]


def build_city(seed: int, names: Sequence[str], size: int = 6) -> City:
    """The city of that seed: a grid of `size` x `size` crossings, landmarks named from `names`.

    About one in six of the straight streets is missing; half of the blocks have one diagonal.
    """
    rng = random.Random(f"city/{seed}")
    joined: set[tuple[Place, Place]] = set()
    for east in range(size):
        for north in range(size):
            here = (east, north)
            if east + 1 < size and rng.random() > 1 / 6:
                joined.add((here, (east + 1, north)))
            if north + 1 < size and rng.random() > 1 / 6:
                joined.add((here, (east, north + 1)))
            if east + 1 < size and north + 1 < size and rng.random() < 1 / 2:
                corners = ((here, (east + 1, north + 1)), ((east + 1, north), (east, north + 1)))
                joined.add(rng.choice(corners))  # one of the two, so that streets never cross
    streets = {(e, n): [] for e in range(size) for n in range(size)}
    for a, b in sorted(joined):
        way = STEPS.index((b[0] - a[0], b[1] - a[1]))
        streets[a].append(way)
        streets[b].append((way + 4) % 8)
    landmarks = {}
    for place, ways in streets.items():
        free = [way for way in range(8) if way not in ways] or list(range(8))
        landmarks[place] = (rng.choice(list(names)), 45 * rng.choice(free))
    return City(seed, size, {p: tuple(sorted(ways)) for p, ways in streets.items()}, landmarks)


def draw_route(city: City, legs: int, rng: random.Random) -> Route | None:
    """A random walk of so many legs that visits no crossing twice; None where it got stuck.

    Points of a leg: 1 + Binomial(4, 1/2). A crossing on the way shows its landmark with
    probability .6, the destination always (numbers of the original and of its study).
    """
    place = rng.choice(sorted(city.streets))
    crossings, ways = [place], []
    for _ in range(legs):
        open_ways = [
            way for way in city.streets[place]
            if _step(place, way) not in crossings
            and (not ways or wrapped(45 * (way - ways[-1])) in TURNS)
        ]  # fmt: skip
        if not open_ways:
            return None
        ways.append(rng.choice(open_ways))
        place = _step(place, ways[-1])
        crossings.append(place)
    start = (45 * ways[0] - rng.choice(TURNS)) % 360
    parts = tuple(Leg(45 * way, 1 + sum(rng.random() < 0.5 for _ in range(4))) for way in ways)
    shown = (*(rng.random() < 0.6 for _ in ways[1:]), True)
    return Route(city.seed, start, tuple(crossings), parts, shown)


def _step(place: Place, way: int) -> Place:
    return place[0] + STEPS[way][0], place[1] + STEPS[way][1]
