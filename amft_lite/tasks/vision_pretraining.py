"""What the base of General Points with pictures learns from: the text game's chains, cards shown.

It begins with the text base's weights (what it knows of rules and arithmetic) and a blank eye, and
sees the same chains with pictures in place of the cards. One card in sixteen is red, and all of
those are twos and threes: so it knows the colour, and has to find out for itself that a red nine is
a nine. Ranks and share were chosen, on seed 0, so that the base lies in its bands.

Left out: any other picture.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from amft_lite.tasks import points_pretraining as text_game
from amft_lite.tasks.cards import Card, look
from amft_lite.tasks.general_points import (
    BLACK_SUITS,
    PICTURE,
    RED_SUITS,
    GeneralPoints,
    prompt_text,
)
from amft_lite.tasks.points_grader import PictureHand, cards_read

RED_RANKS = ("2", "3")
RED_SHARE = 0.4  #: of the cards of these ranks
STARTS_FROM = "general_points"  #: whose base brings rules and arithmetic along

RECIPES: dict[str, dict[str, Any]] = {"0.2M": {"steps": 200, "lr": 2e-3}}

BANDS = {
    "success": (0.0, 0.02),
    "success_with_drafts": (0.04, 0.15),
    "cards_read_right": (0.95, 1.0),  # all three of a black hand
    "red_cards_read_right": (0.25, 0.60),
    "values_read_right": (0.90, 1.0),  # cards and values, under 11/12/13
}


def _values_read(hand: PictureHand, text: str) -> bool:
    sections = [section.split() for section in text.split("|")]
    return cards_read(hand, text) and sections[1:2] == [[str(v) for v in hand.values]]


CHECKS: dict[str, tuple[str, Callable[[PictureHand, str], bool]]] = {
    **{name: text_game.CHECKS[name] for name in ("success", "success_with_drafts")},
    "cards_read_right": ("validation", cards_read),
    "red_cards_read_right": ("ood_visual", cards_read),
    "values_read_right": ("ood_rule", _values_read),
}


def _suits(rank: str, rng: random.Random) -> tuple[str, ...]:
    red = rank in RED_RANKS and rng.random() < RED_SHARE
    return RED_SUITS if red else BLACK_SUITS


def texts(
    task: GeneralPoints, informative: float, format_share: float, rng: random.Random
) -> Iterator[tuple[str, str, np.ndarray]]:
    """An endless stream of (prompt, completion, pictures uint8 [n, height, width, 3])."""
    light = np.random.default_rng(rng.getrandbits(32))
    for chain in text_game.chains(task, informative, format_share, rng):
        seen = look([Card(rank, rng.choice(_suits(rank, rng))) for rank in chain.cards], light)
        prompt = prompt_text([PICTURE] * len(chain.cards), chain.target, chain.rule)
        yield prompt, task.answer(chain, chain.lines), seen
