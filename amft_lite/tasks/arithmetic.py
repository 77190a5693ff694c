"""Maths lite: short problems answered step by step, ending in a box that is checked exactly.

It stands in for training on real maths with expert solutions (the paper's OpenR1-Math-46k, five
in-distribution and three out-of-distribution benchmarks, second-hand notes); no real benchmark is
in it, and its sets are named for what they hold:

* train, validation, test: an equal mix of four families, ``48 + 7 - 9 ?``, ``7 + 2 * 3 ?``,
  ``3 * x + 2 = 14 ?``, ``3 * 4 * 5 ?``;
* tier_1 .. tier_4: one family each, in that order; tier_5: the mix at its top difficulty;
* ood_choice: ``largest ; A 14 B 72 C 9 D 33 ?``, answered by a letter; ood_length: sums of four
  or five terms; ood_words: ``legs of 3 dogs 2 hens ?``. Neither demonstrated nor rewarded in
  training; the base has met their words and form.

An answer is ``48 + 7 = 55 ; 55 - 9 = 46 | boxed 46``; the grader reads the box alone.

Left out: negative numbers, and everything else that `arithmetic_problems` leaves out.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections import Counter

from amft_lite.tasks import Demonstration, Reward, in_passes
from amft_lite.tasks.arithmetic_grader import BOX, DRAFT, Question, grade
from amft_lite.tasks.arithmetic_problems import (
    EXTREMES,
    ID_FAMILIES,
    LEGS,
    LETTERS,
    OOD_FAMILIES,
    OPERATORS,
    PRODUCT_LIMIT,
    UNKNOWNS,
    Family,
    Problem,
    draw,
)

TIERS = {f"tier_{place}": name for place, name in enumerate(ID_FAMILIES, 1)}
#: split -> (families, questions a family, top difficulty, the shares of groups it draws from)
_PLAN: dict[str, tuple[tuple[Family, ...], int, bool, tuple[str, ...]]] = {
    "train": (tuple(ID_FAMILIES.values()), 500, False, ("train",)),
    "validation": (tuple(ID_FAMILIES.values()), 80, False, ("validation",)),
    "test": (tuple(ID_FAMILIES.values()), 80, False, ("test",)),
    **{tier: ((ID_FAMILIES[name],), 80, False, ("tier",)) for tier, name in TIERS.items()},
    "tier_5": (tuple(ID_FAMILIES.values()), 40, True, ("top",)),
    **{split: ((family,), 240, False, ("validation", "test", "tier", "top"))
       for split, family in OOD_FAMILIES.items()},
}  # fmt: skip
_SHARES = (("train", 0.6), ("validation", 0.7), ("test", 0.8), ("tier", 0.9), ("top", 1.0))


def share_of(group: str) -> str:
    """Which part of all groups this one belongs to: train 60 %, the others 10 % each.

    A hash decides, the same on every machine; pretraining, too, keeps to the part `train`.
    """
    place = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
    return next(name for name, end in _SHARES if place < end)


@functools.cache
def _problems(split: str) -> tuple[Problem, ...]:
    """Every problem of a split: no question twice."""
    families, each, top, shares = _PLAN[split]
    rng = random.Random(f"arithmetic/{split}")
    found: dict[str, Problem] = {}
    for number, family in enumerate(families, 1):
        while len(found) < number * each:
            problem = draw(family, rng, lambda group: share_of(group) in shares, top)
            found.setdefault(problem.question, problem)
    return tuple(found.values())


def expert_answer(steps: tuple[str, ...], answer: str, mark: str = BOX) -> str:
    """``48 + 7 = 55 ; 55 - 9 = 46 | boxed 46``."""
    return f"{' ; '.join(steps)} | {mark} {answer}"


class Arithmetic:
    """The task."""

    name = "arithmetic"
    splits = tuple(_PLAN)
    reported = ("test", *OOD_FAMILIES)
    max_new_tokens = 27  # four steps of five words, three semicolons, | boxed 46, end-of-text

    def __init__(self, reward: str = "binary", wrong_demonstrations: float = 0.0) -> None:
        if reward != "binary":
            raise ValueError(f"arithmetic pays 1 or 0: reward must be binary, not {reward!r}")
        self.wrong_demonstrations = wrong_demonstrations

    def problems(self, split: str) -> tuple[Problem, ...]:
        """Every problem of a split.

        Raises:
            ValueError: the task has no such split.
        """
        if split not in _PLAN:
            raise ValueError(f"no split is called {split!r}; known: {', '.join(self.splits)}")
        return _problems(split)

    def prompts(self, split: str, n: int | None = None, seed: int = 0) -> list[Question]:
        """Every problem once, or `n` in shuffled passes."""
        problems = self.problems(split)
        rng = random.Random(f"{self.name}/{split}/{seed}")
        return [
            Question(p.question, split, p.group, p.question, p.family, p.steps, p.answer)
            for p in in_passes(problems, len(problems) if n is None else n, rng)
        ]

    def demonstrations(self, n: int, seed: int = 0, split: str = "train") -> list[Demonstration]:
        """`n` expert answers; a problem has one.

        With `wrong_demonstrations` that share of training experts answers another question of the
        same family.

        Raises:
            ValueError: `split` is out of distribution (there are no experts for those).
        """
        if split in OOD_FAMILIES:
            raise ValueError(
                f"demonstrations exist for the four training families only, not for {split}"
            )
        questions = self.prompts(split, n, seed=seed + 1_000_003)  # not the RL prompts' order
        found = [Demonstration(q, expert_answer(q.steps, q.answer)) for q in questions]
        rng = random.Random(f"{self.name}/wrong/{seed}")
        number_wrong = round(self.wrong_demonstrations * n) if split == "train" else 0
        for place in rng.sample(range(n), number_wrong):
            q = questions[place]
            others = [p for p in self.problems(split)
                      if p.family == q.family and p.answer != q.answer]  # fmt: skip
            other = rng.choice(others)
            found[place] = Demonstration(q, expert_answer(other.steps, other.answer), right=False)
        return found

    def reward(self, example: Question, completion: str) -> Reward:
        """1 or 0 (Eq. 1 of the paper, second-hand notes)."""
        outcome = grade(completion, example)
        return Reward(float(outcome == "correct"), outcome, outcome == "correct")

    def majority(self, split: str) -> tuple[str, float]:
        """The commonest answer of a split and what giving it always would score."""
        answers = Counter(problem.answer for problem in self.problems(split))
        answer, count = answers.most_common(1)[0]
        return answer, count / sum(answers.values())

    def vocabulary(self) -> list[str]:
        """Numbers 0..199, operators and signs, unknowns, letters, the words of the form."""
        signs = ("=", ";", "|", "?")
        words = (*UNKNOWNS, *LETTERS, *EXTREMES, "legs", "of", *LEGS, BOX, DRAFT)
        return [*map(str, range(PRODUCT_LIMIT + 1)), *OPERATORS, *signs, *words]
