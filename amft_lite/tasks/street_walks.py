"""Walks on which streets are seen, not told: every point of a journey has a picture.

Along the way there are landmarks besides those of the directions, at about every second point
between crossings. Without them a walker could say what it sees without looking, from the directions
alone, and would have arrived at the first sign that stands at no crossing.

Left out: how a street is drawn (`amft_lite.tasks.streets`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from amft_lite.tasks.city import SIDES, City, Route
from amft_lite.tasks.streets import ICONS, Look, Scene, look_at
from amft_lite.tasks.walks import Journey, told

VIEW = "<view>"  #: the word whose place a picture takes
WAYSIDE = 0.5  #: share of the points between crossings at which there is a landmark


@dataclass(frozen=True)
class StreetJourney(Journey):
    """A journey through a city that looks like something; it has a scene for each point."""

    look: Look
    scenes: tuple[Scene, ...]

    def pictures(self) -> np.ndarray:
        """What is seen at each point: uint8 [points, height, width, 3]."""
        light = np.random.default_rng(list(f"{self.look.name}/{self.key}".encode()))
        return look_at(self.scenes, self.look, light)


def seen_journey(example: Journey, city: City, look: Look) -> StreetJourney:
    """The same journey through that city, with pictures in place of what is told.

    Raises:
        ValueError: it has no route on a map, or passes a landmark without an icon.
    """
    if example.route is None:
        raise ValueError(f"{example.key} has no route on a map, so there is nothing to draw")
    found = tuple(scenes(example.route, city))
    points = tuple(
        replace(point, seen=words(scene), shown=f"intersection {VIEW}" if scene.crossing else VIEW)
        for point, scene in zip(example.points, found, strict=True)
    )
    directions = example.prompt.rsplit(" : ", 1)[0]
    facts = vars(example) | {"prompt": f"{directions} : {told(points[0])}", "points": points}
    return StreetJourney(**facts, look=look, scenes=found)


def scenes(route: Route, city: City) -> Iterator[Scene]:
    """What there is to see at every point of a route, as the walker faces it.

    Zebras are painted where the task speaks of an intersection: on the way, not at either end. No
    landmark at the wayside is one of a crossing of the route.
    """
    rng = random.Random(f"wayside/{route.name}")
    others = [n for n in ICONS if n not in {city.landmarks[p][0] for p in route.crossings}]
    heading, last = route.start_heading, len(route.legs)
    for number, place in enumerate(route.crossings):
        ways = sorted((way - heading // 45) % 8 for way in city.streets[place])
        name, bearing = city.landmarks[place]
        side = (bearing - heading) % 360 // 45
        seen = number > 0 and route.shown[number - 1]
        landmark = {"landmark": name, "side": side} if seen else {}
        yield Scene(tuple(ways), **landmark, crossing=0 < number < last)
        if number < last:
            heading = route.legs[number].heading
            for _ in range(route.legs[number].points):
                mark = rng.choice(others), rng.choice((1, 2, 3, 5, 6, 7))  # beside the street
                yield Scene((0, 4), *(mark if rng.random() < WAYSIDE else ("", 0)))


def words(scene: Scene) -> str:
    """What one who sees it says of it: ``intersection bank left``, ``bank left`` or nothing."""
    parts = ["intersection"] * scene.crossing
    parts += [scene.landmark, SIDES[scene.side]] * bool(scene.landmark)
    return " ".join(parts) or "nothing"
