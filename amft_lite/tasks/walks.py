"""A route in words, and a walk along it: what is told, what is right, what it is worth.

The rules of `amft_lite.tasks.navigation`, which draws routes and explains the game.

Left out: cities (`amft_lite.tasks.city`), pictures (`amft_lite.tasks.street_walks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from amft_lite.tasks import Example, Reward
from amft_lite.tasks.city import COMPASS, City, Route, side_word
from amft_lite.tasks.city import turn_word as relative

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
    """One stop of the rail: what is seen, the direction that holds, the right action; and how what
    is seen is told, where that is not in the same words."""

    seen: str
    direction: str
    action: str
    shown: str = ""

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
    return f"see {point.shown or point.seen} :"


def asked_again(outcome: str, point: Point) -> str:
    """What it says where an attempt was not right; a picture is not shown a second time."""
    verdict = f"{FEEDBACK[outcome]} :"
    return verdict if point.shown else f"{verdict} {told(point)}"


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
                return asked_again(outcome, points[self.place])
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


def landmarks_read(walk: Walk, answers: Sequence[str], kind: str = "") -> tuple[int, int]:
    """(right, all) among the points met, of that kind or any, at which there is a landmark: does
    the first attempt, one of these `answers` of the walk, say exactly what is seen?"""
    points, first = walk.journey.points, {}
    for (place, _), text in zip(walk.attempts, answers, strict=False):
        first.setdefault(place, text[:MAX_CHARACTERS].split("|")[0].split())
    asked = [
        place
        for place in first
        if points[place].seen not in ("nothing", "intersection")
        and kind in ("", points[place].kind)
    ]
    return sum(first[place] == points[place].seen.split() for place in asked), len(asked)
