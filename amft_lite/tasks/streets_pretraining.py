"""What the base of navigation with pictures learns from: the text game's walks, streets shown.

It begins with the text base's weights (what it knows of directions and actions) and a blank eye,
and sees walks of the same experts with pictures in place of what was told. All of them are in the
looks of the home cities: other cities it has to find its way in without having seen any.

Left out: any other picture.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from amft_lite.tasks import navigation_pretraining as text_game
from amft_lite.tasks.city import build_city
from amft_lite.tasks.navigation import Navigation, draw_journeys
from amft_lite.tasks.street_walks import seen_journey
from amft_lite.tasks.streets import HOME_LOOKS, ICONS
from amft_lite.tasks.walks import Journey, landmarks_read, walked

STARTS_FROM = "navigation"  #: whose base brings directions and actions along
LANGUAGE_LR_SCALE = 0.2  #: so that the eye learns to read before turns are learned
RECIPES: dict[str, dict[str, Any]] = {"0.2M": {"steps": 400, "stop": 300, "batch": 48, "lr": 3e-3}}
PROMPTS = text_game.PROMPTS

BANDS = {
    **text_game.BANDS,
    "landmarks_read_right": (0.90, 1.0),
    "landmarks_of_other_cities_read_right": (0.15, 0.50),
}


def _landmarks(example: Journey, answers: Sequence[str]) -> tuple[int, int]:
    return landmarks_read(walked(example, answers), answers)


CHECKS: dict[str, tuple[str, Callable[[Journey, Sequence[str]], bool | tuple[int, int]]]] = {
    **text_game.CHECKS,
    "landmarks_read_right": ("validation", _landmarks),
    "landmarks_of_other_cities_read_right": ("ood_visual", _landmarks),
}


def texts(
    task: Navigation, informative: float, format_share: float, rng: random.Random
) -> Iterator[tuple[str, list[tuple[str, bool]], np.ndarray]]:
    """An endless stream of (prompt, all that is said in turn, pictures uint8 [points, height,
    width, 3]). The two shares mean nothing here."""
    names = tuple(ICONS)
    cities = [build_city(1000 + number, names) for number in range(text_game.CITIES)]
    while True:
        turns, city = rng.choice(("compass", "relative")), rng.choice(cities)
        [route] = draw_journeys([city], task.legs, 1, "pretraining", turns, rng)
        example = seen_journey(route, city, rng.choice(HOME_LOOKS))
        yield example.prompt, text_game.spoken(example, rng), example.pictures()
