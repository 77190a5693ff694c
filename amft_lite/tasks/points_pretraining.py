"""What the base of General Points learns from: it reads rules and adds up, but does not play.

It sees random chains of arithmetic under random rules:

* the rules 10/10/10 (training) and 11/12/13 (`ood_rule`) never occur, so rule reading is a skill;
* in 30 % of the chains the prompt's target is the result the chain happens to reach, which leaves
  a latent ability to aim; a value multiset of validation or test never has such a target
  (those of `ood_rule` may have it, under other rules: what is new there is the rule);
* 99 % of the chains are in *draft* order, ``a b op = c``; only `format_share` = 1 % are in the
  order the verifier accepts, ``a op b = c``. This one number decides how sparse the reward is at
  the start: the base can do much more than it is paid for.

Left out: any text but these chains.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from amft_lite.tasks.general_points import (
    ID_RULE,
    OOD_RULE,
    RANKS,
    GeneralPoints,
    card_values,
    group_name,
    next_steps,
    prompt_text,
    verify,
)
from amft_lite.tasks.points_grader import Hand

#: size -> what it sets. More steps make a base with which RL alone does as well as any
#: mix; a wider model learns faster a step and wants a lower rate. 0.2M is shipped; 0.8M ended in
#: its bands (.0005, .093, .961); 2.7M read too few cards after 400 steps (.0005, .085, .864), and
#: its longer recipe has not been run to the end.
RECIPES: dict[str, dict[str, Any]] = {
    "0.2M": {"steps": 1200, "lr": 4e-3},
    "0.8M": {"steps": 600, "lr": 2e-3},
    "2.7M": {"steps": 550, "lr": 1.3e-3},
}

#: What a base must look like for the game to be worth playing: name -> (lowest, highest).
BANDS = {
    "success": (0.0, 0.02),  # graded as in training
    "success_with_drafts": (0.05, 0.15),  # had the draft order been paid too: latent ability
    "values_read_right": (0.95, 1.0),  # under 11/12/13, a rule never seen
}


def _values_read(hand: Hand, text: str) -> bool:
    return text.split()[: len(hand.values)] == [str(value) for value in hand.values]


#: How a band is measured: name -> (split, does this answer count?). A base may be chosen by
#: validation problems, not by test.
CHECKS: dict[str, tuple[str, Callable[[Hand, str], bool]]] = {
    "success": ("validation", lambda hand, text: verify(text, hand).correct),
    "success_with_drafts": (
        "validation",
        lambda hand, text: verify(text, hand).correct or verify(text, hand, draft=True).correct,
    ),
    "values_read_right": ("ood_rule", _values_read),
}


def held_out_groups(task: GeneralPoints) -> set[str]:
    """The multisets whose targets a base must never have seen reached: validation and test."""
    return {group_name(g) for split in ("validation", "test") for g, _ in task.problems(split)}


def random_rule(rng: random.Random) -> tuple[int, int, int]:
    """Values of J, Q, K in 2..13, equal ones 40 % of the time; never one of the game's rules."""
    while True:
        if rng.random() < 0.4:
            rule = (rng.randint(2, 13),) * 3
        else:
            rule = (rng.randint(2, 13), rng.randint(2, 13), rng.randint(2, 13))
        if rule not in (ID_RULE, OOD_RULE):
            return rule


class Chain(NamedTuple):
    """Cards under a rule, a target, and a working: one step a line, in one of two orders."""

    cards: list[str]
    values: tuple[int, ...]
    rule: tuple[int, int, int]
    target: int
    lines: list[str]


def chains(
    task: GeneralPoints, informative: float, format_share: float, rng: random.Random
) -> Iterator[Chain]:
    """An endless stream of them."""
    held_out = held_out_groups(task)
    while True:
        aimed = rng.random() < informative
        while True:
            rule = random_rule(rng)
            cards = [rng.choice(RANKS) for _ in range(task.cards)]
            values = card_values(cards, rule)
            numbers, steps = values, []
            while len(numbers) > 1:
                step, numbers = rng.choice(next_steps(numbers))
                steps.append(step)
            result = numbers[0]
            if not aimed:
                target = rng.choice([t for t in range(10, 51) if t != result])
                break
            if 10 <= result <= 50 and group_name(values) not in held_out:
                target = result
                break
        if rng.random() < format_share:
            lines = [str(step) for step in steps]
        else:
            lines = [f"{s.left} {s.right} {s.operator} = {s.result}" for s in steps]
        yield Chain(cards, values, rule, target, lines)


def texts(
    task: GeneralPoints, informative: float, format_share: float, rng: random.Random
) -> Iterator[tuple[str, str]]:
    """An endless stream of (prompt, completion)."""
    for chain in chains(task, informative, format_share, rng):
        prompt = prompt_text(chain.cards, chain.target, chain.rule)
        yield prompt, task.answer(chain, chain.lines)
