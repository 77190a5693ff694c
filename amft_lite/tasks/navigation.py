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

Left out: pictures.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from amft_lite.tasks import Demonstration, Example, Reward, one_of
from amft_lite.tasks.city import COMPASS, SIDES, City, Route, build_city, draw_route, side_word
from amft_lite.tasks.city import turn_word as relative

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
RELATIVE = ("left", "right", "slightly_left", "slightly_right")
MAX_CHARACTERS = 400  #: an answer longer than this is not looked at

#: The original's rewards of an attempt; a walk that ends before its destination costs 1 more.
SHAPED_REWARDS = {
    "right": 1.0, "wrong": -1.0, "not_allowed": -1.0, "syntax": -1.0, "wrong_place": -1.5,
}  # fmt: skip
#: What the task says of an attempt that was not right.
FEEDBACK = {"wrong": "wrong", "wrong_place": "wrong", "not_allowed": "not_allowed",
            "syntax": "not_allowed"}  # fmt: skip


def action_list(turns: str) -> str:
    """The allowed actions as a prompt names them; `turns` is compass or relative."""
    return f"forward stop turn {' '.join(COMPASS if turns == 'compass' else RELATIVE)}"


@dataclass(frozen=True)
class Point:
    """One stop of the rail: what is seen, the direction that holds, the right action."""

    seen: str
    direction: str
    action: str

    @property
    def kind(self) -> str:
        """turn, forward or stop."""
        return self.action.split()[0]

    @property
    def answer(self) -> str:
        return f"{self.seen} | {self.direction} | {self.action}"


@dataclass(frozen=True)
class Journey(Example):
    """A route with its directions; `turns` says which words are actions, compass or relative.
    Where it is one of a file, `route` is None."""

    route: Route | None
    turns: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Stage:
    """A leg in words: its turn said in both ways, how many points lie between its ends, and the
    landmark seen at its end with its side, ``museum right``, or nothing."""

    turn: str
    compass: str
    points: int
    seen: str


def journey(route: Route, city: City, split: str, turns: str = "compass") -> Journey:
    """A route put into words."""
    heading, stages = route.start_heading, []
    for leg, shown, crossing in zip(route.legs, route.shown, route.crossings[1:], strict=True):
        name, bearing = city.landmarks[crossing]
        there = f"{name} {side_word(leg.heading, bearing)}" if shown else ""
        turn, compass = relative(heading, leg.heading), COMPASS[leg.heading // 45]
        stages.append(Stage(turn, compass, leg.points, there))
        heading = leg.heading
    return journey_of(stages, route.name, split, turns, route)


def journey_of(
    stages: Sequence[Stage], name: str, split: str, turns: str, route: Route | None = None
) -> Journey:
    """Legs put together; at the end of the last, which is seen, is the destination."""
    directions: list[str] = []
    points: list[Point] = []
    seen = "nothing"
    for number, stage in enumerate(stages, 1):
        turn = f"{2 * number - 1} turn {stage.turn} {stage.compass}"
        word = stage.compass if turns == "compass" else stage.turn
        points.append(Point(seen, turn, f"turn {word}"))
        last = number == len(stages)
        seen = stage.seen if last else f"intersection {stage.seen}".strip()
        go = f"{2 * number} {'reach' if last else 'go'} {seen}"
        points += [Point("nothing", go, "forward")] * stage.points
        directions += [turn, go]
    points.append(Point(seen, directions[-1], "stop"))
    said = f"{action_list(turns)} : {' '.join(directions)} : {told(points[0])}"
    return Journey(said, split, name, f"{name}/{turns}", route, turns, tuple(points))


def told(point: Point) -> str:
    """What the task says at a point."""
    return f"see {point.seen} :"


def grade(text: str, point: Point, turns: str) -> str:
    """The outcome of one attempt, a key of `SHAPED_REWARDS`. Any text has one.

    Only the action decides whether it is right, as in the original. `wrong_place`: a wrong action
    by one who does not see whether there is an intersection.
    """
    sections = [s.split() for s in text[: MAX_CHARACTERS + 1].split("|")]
    if len(text) > MAX_CHARACTERS or len(sections) != 3:
        return "syntax"
    seen, _, action = sections
    if action == point.action.split():
        return "right"
    if ("intersection" in seen) != ("intersection" in point.seen.split()):
        return "wrong_place"
    turns_allowed = COMPASS if turns == "compass" else RELATIVE
    allowed = action in (["forward"], ["stop"]) or (
        len(action) == 2 and action[0] == "turn" and action[1] in turns_allowed
    )
    return "wrong" if allowed else "not_allowed"


@dataclass
class Walk:
    """A walk in progress: `attempts` holds (point, outcome) of every answer so far.

    With `to_the_end` a point that was failed is passed all the same: for measuring, because all
    points are then met. The walk counts as failed.
    """

    journey: Journey
    tries: int = 2
    to_the_end: bool = False
    shaped: bool = False
    attempts: list[tuple[int, str]] = field(default_factory=list)
    place: int = 0
    failed: int | None = None  #: the first point at which no try was right
    over: bool = False

    def answer(self, text: str) -> str | None:
        """Take an answer; what the task says next, None when the walk is over.

        Raises:
            ValueError: it is over already.
        """
        if self.over:
            raise ValueError("this walk is over")
        points = self.journey.points
        outcome = grade(text, points[self.place], self.journey.turns)
        self.attempts.append((self.place, outcome))
        if outcome != "right":
            tried = sum(place == self.place for place, _ in self.attempts)
            if tried < self.tries:
                return f"{FEEDBACK[outcome]} : {told(points[self.place])}"
            if self.failed is None:
                self.failed = self.place
            if not self.to_the_end:
                self.over = True
                return None
        self.place += 1
        if self.place == len(points):
            self.over = True
            return None
        return told(points[self.place])

    @property
    def reward(self) -> Reward:
        """Arrived or not; shaped: the original's rewards of all attempts, added."""
        arrived = self.over and self.failed is None
        if arrived:
            reason = "arrived"
        elif self.failed is None:
            reason = "unfinished"
        else:
            reason = f"lost_at_{self.journey.points[self.failed].kind}"
        value = float(arrived)
        if self.shaped:
            value = sum(SHAPED_REWARDS[outcome] for _, outcome in self.attempts) - (not arrived)
        return Reward(value, reason, arrived)

    def first_tries(self, kind: str = "") -> tuple[int, int]:
        """(right, all) among the first attempts at the points of that kind, or at all points."""
        first = {place: outcome for place, outcome in reversed(self.attempts)}
        asked = [p for p in first if kind in ("", self.journey.points[p].kind)]
        return sum(first[place] == "right" for place in asked), len(asked)


def walked(example: Journey, answers: Sequence[str], tries: int = 2) -> Walk:
    """The walk that these answers made, failed points passed; answers after its end are dropped."""
    walk = Walk(example, tries, to_the_end=True)
    for text in answers:
        if walk.over:
            break
        walk.answer(text)
    return walk


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


class Navigation:
    """The task. `preset="lite"`: routes of 1 to 3 legs; `"classic"`: 2 to 4."""

    splits = tuple(SPLITS)
    groups = "routes"
    notes = MappingProxyType({"ood_rule": "left and right", "ood_visual": "other landmarks"})
    max_new_tokens = 13  #: of one answer, end-of-text included

    def __init__(
        self, preset: str = "lite", reward: str = "binary", tries: int = 2,
        wrong_demonstrations: float = 0.0,
    ) -> None:  # fmt: skip
        one_of("preset", preset, "lite", "classic")
        one_of("reward", reward, "binary", "shaped")
        if tries < 1:
            raise ValueError(f"tries must be at least 1, not {tries}")
        if wrong_demonstrations:
            raise ValueError("navigation has no wrong experts: a wrong action is not executed")
        self.name = "navigation" + "_classic" * (preset == "classic")
        self.legs = (1, 2, 3) if preset == "lite" else (2, 3, 4)
        self.shaped, self.tries = reward == "shaped", tries
        self.readings = {"steps right": self._steps_right, "turns right": self._turns_right}
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
        if split not in SPLITS:
            raise ValueError(f"no split is called {split!r}; known: {', '.join(self.splits)}")
        if split not in self._journeys:
            first, cities, routes, turns, names = SPLITS[split]
            rng = random.Random(f"{self.name}/{split}")
            built = [build_city(first + number, names) for number in range(cities)]
            self._journeys[split] = list(draw_journeys(built, self.legs, routes, split, turns, rng))
        return self._journeys[split]

    def prompts(self, split: str, n: int | None = None, seed: int = 0) -> list[Journey]:
        """Every route once, or `n` in shuffled passes."""
        pool = list(self.journeys(split))
        if n is None:
            return pool
        rng = random.Random(f"{self.name}/{split}/{seed}")
        chosen: list[Journey] = []
        while len(chosen) < n:
            rng.shuffle(pool)
            chosen += pool[: n - len(chosen)]
        return chosen

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

    def vocabulary(self) -> list[str]:
        """Actions and headings, sides, landmarks, and the few words of directions and answers."""
        words = ["forward", "stop", "turn", *COMPASS, *RELATIVE]
        words += [side for side in SIDES if side not in words]
        words += ["go", "reach", "intersection", "see", "nothing", "wrong", "not_allowed"]
        return [*words, ":", "|", *map(str, range(1, 9)), *HOME, *AWAY]


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
