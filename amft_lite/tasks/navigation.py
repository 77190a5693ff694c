"""Navigation: follow written directions through a city, one answer a step.

The game is the language version of V-IRL in Chu et al., "SFT Memorizes, RL Generalizes" (arXiv
2501.17161; environment LeslieTrue/SFTvsRL, gym_virl), over cities made by code. A prompt is

    forward stop turn north northeast ... : 1 turn left north 2 go intersection museum right
    3 turn slightly_right northeast 4 reach temple left_front : see nothing :

the allowed actions, the directions, and what is seen at the start. An answer has three parts:
what is seen, the direction to follow now, the action: ``nothing | 1 turn left north | turn north``.
A right action moves one point on, and the task says what is seen there; a wrong one is not
executed: the task says so and asks again, `tries` times a point. Then the walk is over.

Directions name a turn in both ways, ``left`` and ``north``; which of them is an action says the
list. Training knows the compass list only. The split `ood_rule` allows left, right and slight turns
instead, so that following it means reading the list and copying the other word; `ood_visual` walks
through cities whose landmarks occur in no other split.

As in the original, the walker is on a rail: all walks of a route pass the same points. Ours: cities
by code, and directions of a few words.

With `vision` what is seen is a picture of the street (`amft_lite.tasks.streets`): the task says
``see <view> :`` or, as the original's text does at crossings, ``see intersection <view> :``; which
landmark stands there, if any, and on which side, is for the walker to read. Wrong attempts are told
without a second picture. The landmarks are then the same twelve everywhere, and `ood_visual` walks
through cities that look otherwise.

Left out: maps (`amft_lite.tasks.city`), the rules of a walk (`amft_lite.tasks.walks`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from amft_lite.tasks import Demonstration, Reward, Sight, in_passes, one_of
from amft_lite.tasks.city import COMPASS, SIDES, City, build_city, draw_route
from amft_lite.tasks.street_walks import VIEW, seen_journey
from amft_lite.tasks.streets import AWAY_LOOKS, HEIGHT, HOME_LOOKS, ICONS, WIDTH
from amft_lite.tasks.walks import (
    FEEDBACK,
    MAX_CHARACTERS,
    RELATIVE,
    SHAPED_REWARDS,
    Journey,
    Point,
    Stage,
    Walk,
    action_list,
    asked_again,
    grade,
    journey,
    journey_of,
    landmarks_read,
    told,
    walked,
)

__all__ = [
    "AWAY",
    "FEEDBACK",
    "HOME",
    "MAX_CHARACTERS",
    "RELATIVE",
    "SEEN_SPLITS",
    "SHAPED_REWARDS",
    "SPLITS",
    "Journey",
    "Navigation",
    "Point",
    "Stage",
    "Walk",
    "action_list",
    "always_forward",
    "asked_again",
    "draw_journeys",
    "expert",
    "grade",
    "journey",
    "journey_of",
    "told",
    "walked",
]

#: Landmarks of the home cities, and those of the cities of `ood_visual`.
HOME = tuple(
    "bakery bank bookshop bridge butcher cafe chapel cinema clinic florist fountain garage "
    "grocer gym hotel kiosk library museum office park pharmacy pub school shop stadium station "
    "theatre tower".split()
)
AWAY = tuple(
    "bazaar canal castle harbour lighthouse monument mosque pagoda palace pier shrine "
    "temple".split()
)


def always_forward(examples: Sequence[Journey]) -> float:
    """Share of points at which ``forward`` is right: what a walker without sense gets a step."""
    kinds = [point.kind for example in examples for point in example.points]
    return kinds.count("forward") / len(kinds)


#: split -> (first city, cities, routes, how turns are named, landmarks). Cities are in one split.
SPLITS = {
    "train": (0, 32, 1600, "compass", HOME),
    "validation": (100, 4, 160, "compass", HOME),
    "test": (200, 4, 200, "compass", HOME),
    "ood_rule": (300, 4, 200, "relative", HOME),
    "ood_visual": (400, 4, 200, "compass", AWAY),
}
#: With pictures: as many cities as there are other looks.
SEEN_SPLITS = {
    **{name: (*facts[:-1], tuple(ICONS)) for name, facts in SPLITS.items()},
    "ood_visual": (400, len(AWAY_LOOKS), 198, "compass", tuple(ICONS)),
}


class Navigation:
    """The task. `preset="lite"`: routes of 1 to 3 legs; `"classic"`: 2 to 4. With `vision` what is
    seen is a picture."""

    splits = tuple(SPLITS)
    groups = "routes"
    max_new_tokens = 13  #: of one answer, end-of-text included

    def __init__(
        self, preset: str = "lite", reward: str = "binary", tries: int = 2,
        wrong_demonstrations: float = 0.0, vision: bool = False,
    ) -> None:  # fmt: skip
        one_of("preset", preset, "lite", "classic")
        one_of("reward", reward, "binary", "shaped")
        if tries < 1:
            raise ValueError(f"tries must be at least 1, not {tries}")
        if wrong_demonstrations:
            raise ValueError("navigation has no wrong experts: a wrong action is not executed")
        self.name = "navigation" + "_classic" * (preset == "classic") + "_vision" * vision
        self.vision = vision
        self.legs = (1, 2, 3) if preset == "lite" else (2, 3, 4)
        self.shaped, self.tries = reward == "shaped", tries
        self.readings = {"steps right": self._steps_right, "turns right": self._turns_right}
        visual = "other cities" if vision else "other landmarks"
        self.notes = {"ood_rule": "left and right", "ood_visual": visual}
        if vision:
            self.sight = Sight(VIEW, HEIGHT, WIDTH, in_replies=True)
            self.readings["landmarks read right"] = self._landmarks_right
        self.baselines = {"always forward: steps right": always_forward}
        self._journeys: dict[str, list[Journey]] = {}

    @property
    def max_episode_tokens(self) -> int:
        """Of all that is said after the prompt, at most."""
        points = max(self.legs) * 6 + 1
        return points * self.tries * (self.max_new_tokens + 7)

    def journeys(self, split: str) -> list[Journey]:
        """Every route of a split, in a fixed order.

        Raises:
            ValueError: the task has no such split.
        """
        known = SEEN_SPLITS if self.vision else SPLITS
        if split not in known:
            raise ValueError(f"no split is called {split!r}; known: {', '.join(self.splits)}")
        if split not in self._journeys:
            first, cities, routes, turns, names = known[split]
            rng = random.Random(f"{self.name}/{split}")
            built = [build_city(first + number, names) for number in range(cities)]
            drawn = draw_journeys(built, self.legs, routes, split, turns, rng)
            self._journeys[split] = self._seen(drawn, built, split) if self.vision else drawn
        return self._journeys[split]

    @staticmethod
    def _seen(drawn: list[Journey], cities: Sequence[City], split: str) -> list[Journey]:
        """Journeys with pictures; every city has one look."""
        looks, city_of = AWAY_LOOKS if split == "ood_visual" else HOME_LOOKS, {}
        for number, city in enumerate(cities):
            city_of[city.seed] = city, looks[number % len(looks)]
        return [seen_journey(example, *city_of[example.route.city]) for example in drawn]

    def prompts(self, split: str, n: int | None = None, seed: int = 0) -> list[Journey]:
        """Every route once, or `n` in shuffled passes."""
        pool = list(self.journeys(split))
        if n is None:
            return pool
        return list(in_passes(pool, n, random.Random(f"{self.name}/{split}/{seed}")))

    def demonstrations(self, n: int, seed: int = 0, split: str = "train") -> list[Demonstration]:
        """The whole walks of experts, who are right at every first try.

        Raises:
            ValueError: `split` allows other actions (there are no experts for another rule).
        """
        if split == "ood_rule":
            raise ValueError("demonstrations exist under the training rule only, not for ood_rule")
        return [expert(example) for example in self.prompts(split, n, seed + 1_000_003)]

    def episode(self, example: Journey, to_the_end: bool = False) -> Walk:
        """A walk that begins."""
        return Walk(example, self.tries, to_the_end, self.shaped)

    def reward(self, example: Journey, completion: str | Sequence[str]) -> Reward:
        """Grade the answers of a walk; one text is one answer."""
        answers = [completion] if isinstance(completion, str) else completion
        walk = walked(example, answers, self.tries)
        walk.shaped = self.shaped
        return walk.reward

    def _steps_right(self, example: Journey, answers: Sequence[str]) -> tuple[int, int]:
        return walked(example, answers, self.tries).first_tries()

    def _turns_right(self, example: Journey, answers: Sequence[str]) -> tuple[int, int]:
        return walked(example, answers, self.tries).first_tries("turn")

    def _landmarks_right(self, example: Journey, answers: Sequence[str]) -> tuple[int, int]:
        return landmarks_read(walked(example, answers, self.tries), answers)

    def vocabulary(self) -> list[str]:
        """Actions and headings, sides, landmarks, and the few words of directions and answers."""
        words = ["forward", "stop", "turn", *COMPASS, *RELATIVE]
        words += [side for side in SIDES if side not in words]
        words += ["go", "reach", "intersection", "see", "nothing", "wrong", "not_allowed"]
        words += [":", "|", *map(str, range(1, 9)), *HOME, *AWAY]
        return [*words, VIEW] if self.vision else words


def expert(example: Journey) -> Demonstration:
    """The walk of one who is always right."""
    answers = tuple(point.answer for point in example.points)
    return Demonstration(example, answers, replies=tuple(map(told, example.points[1:])))


def draw_journeys(
    cities: Sequence[City], legs: Sequence[int], n: int, split: str, turns: str, rng: random.Random
) -> list[Journey]:
    """`n` different routes through these cities, put into words.

    Raises:
        ValueError: so many are not found in a thousand times as many draws.
    """
    drawn: dict[str, Journey] = {}
    for _ in range(1000 * n):
        if len(drawn) == n:
            break
        city = cities[len(drawn) % len(cities)]
        route = draw_route(city, rng.choice(legs), rng)
        if route is not None:
            drawn.setdefault(route.name, journey(route, city, split, turns))
    if len(drawn) < n:
        raise ValueError(
            f"{len(cities)} cities have only {len(drawn)} of {n} routes that were asked"
        )
    return list(drawn.values())
