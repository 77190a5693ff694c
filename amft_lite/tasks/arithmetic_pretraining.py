"""What the base of `arithmetic` learns from: problems of every form, worked out and announced.

* Every family occurs, those of the `ood_` splits too: without their words and forms nothing could
  be said about them. So out of distribution means here: not in post-training.
* Only groups of the part `train` occur; no question of any held-out split does.
* 99 % of the texts announce their result by ``answer``, and `format_share` = 1 % by the ``boxed``
  that is paid. The base can do much more than it is paid for.

Left out: any text but these.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from amft_lite.tasks.arithmetic import Arithmetic, expert_answer, share_of
from amft_lite.tasks.arithmetic_grader import BOX, DRAFT, Question, grade
from amft_lite.tasks.arithmetic_problems import ID_FAMILIES, OOD_FAMILIES, draw

#: size -> what it sets. 400 steps leave the skill half learned: after 200 it was .06 (success with
#: drafts), and `ood_choice` at chance.
RECIPES: dict[str, dict[str, Any]] = {"0.2M": {"steps": 400, "lr": 4e-3, "informative": 1.0}}
#: Shares of the texts. The four ID families are rare enough to be half learned when the form of
#: `ood_choice` is known; equations are learned fastest.
WEIGHTS = {
    "chain_sum": 0.08,
    "basic_arithmetic": 0.10,
    "simple_equations": 0.04,
    "products": 0.08,
    "ood_length": 0.10,
    "ood_choice": 0.35,
    "ood_words": 0.25,
}

#: What a base must look like: name -> (lowest, highest).
BANDS = {
    "success": (0.0, 0.02),  # graded as in training
    "success_with_drafts": (0.10, 0.25),  # had `answer` been paid too: latent ability
    "ood_choice_with_drafts": (0.45, 0.80),  # the same, where letters are asked for; chance: .25
}


def _paid(question: Question, text: str) -> bool:
    return grade(text, question) == "correct"


def _right(question: Question, text: str) -> bool:
    return grade(text, question, draft=True) == "correct"


#: How a band is measured: name -> (split, does this answer count?).
CHECKS: dict[str, tuple[str, Callable[[Question, str], bool]]] = {
    "success": ("validation", _paid),
    "success_with_drafts": ("validation", _right),
    "ood_choice_with_drafts": ("ood_choice", _right),
}


def texts(
    task: Arithmetic, informative: float, format_share: float, rng: random.Random
) -> Iterator[tuple[str, str]]:
    """An endless stream of (prompt, completion).

    `informative` has no meaning here and is 1: every working answers its question.
    """
    families = {**ID_FAMILIES, **OOD_FAMILIES}
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    while True:
        [name] = rng.choices(names, weights)
        problem = draw(families[name], rng, lambda group: share_of(group) == "train")
        mark = BOX if rng.random() < format_share else DRAFT
        yield problem.question, expert_answer(problem.steps, problem.answer, mark)
