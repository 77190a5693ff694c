"""What the base of `navigation` learns from: walks of experts who sometimes err, by both lists.

* Half of the walks are by compass words, half by left and right: without the second list its words
  could not be spoken later. So `ood_rule` is new to post-training, not to the base.
* All landmarks occur, those of the cities of `ood_visual` too; the cities are others than any
  split's.
* At one point in ten the first attempt is wrong. It is read, not learned; what is learned is what
  to answer when the task has said so.

Training ends early, on purpose: the base walks straight on where it should, and is right at about
half of the turns that are compass words: it does not yet copy the right one from the directions. A
base that did would leave nothing to learn. Left and right it copies already.

Left out: any text but these.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from amft_lite.tasks.city import COMPASS, build_city
from amft_lite.tasks.navigation import (
    AWAY,
    HOME,
    RELATIVE,
    Journey,
    Navigation,
    asked_again,
    draw_journeys,
    grade,
    told,
    walked,
)

RECIPES: dict[str, dict[str, Any]] = {"0.2M": {"steps": 600, "stop": 400, "batch": 48, "lr": 4e-3}}
PROMPTS = 320  #: walks; a walk is ten answers
ERRING = 0.1  #: share of points whose first attempt is wrong
CITIES = 24  #: their seeds begin at 1000

BANDS = {
    "turns_right": (0.40, 0.80),  # first tries, by the compass list
    "turns_right_by_the_other_list": (0.40, 1.0),
    "forwards_right": (0.90, 1.0),
    "routes": (0.05, 0.60),  # walked to the end, two tries a point
}


def _first_tries(kind: str) -> Callable[[Journey, Sequence[str]], tuple[int, int]]:
    return lambda example, answers: walked(example, answers).first_tries(kind)


def _arrived(example: Journey, answers: Sequence[str]) -> bool:
    return walked(example, answers).reward.correct


CHECKS: dict[str, tuple[str, Callable[[Journey, Sequence[str]], bool | tuple[int, int]]]] = {
    "turns_right": ("validation", _first_tries("turn")),
    "turns_right_by_the_other_list": ("ood_rule", _first_tries("turn")),
    "forwards_right": ("validation", _first_tries("forward")),
    "routes": ("validation", _arrived),
}


def texts(
    task: Navigation, informative: float, format_share: float, rng: random.Random
) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """An endless stream of (prompt, all that is said in turn). The two shares mean nothing here."""
    cities = [build_city(1000 + number, HOME + AWAY) for number in range(CITIES)]
    while True:
        turns = rng.choice(("compass", "relative"))
        [example] = draw_journeys([rng.choice(cities)], task.legs, 1, "pretraining", turns, rng)
        yield example.prompt, spoken(example, rng)


def spoken(example: Journey, rng: random.Random) -> list[tuple[str, bool]]:
    """An expert's walk, with a wrong first attempt at some points."""
    words = COMPASS if example.turns == "compass" else RELATIVE
    actions = ["forward", "stop", *(f"turn {word}" for word in words)]
    said: list[tuple[str, bool]] = []
    for number, point in enumerate(example.points):
        if number:
            said.append((told(point), False))
        if rng.random() < ERRING:
            wrong = rng.choice([action for action in actions if action != point.action])
            text = f"{point.seen} | {point.direction} | {wrong}"
            outcome = grade(text, point, example.turns)
            said += [(f"{text} <eos>", False), (asked_again(outcome, point), False)]
        said.append((point.answer, True))
    return said
