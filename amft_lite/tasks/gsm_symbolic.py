r"""GSM-Symbolic: school word problems made from templates, with names and numbers drawn anew.

The problems are those of reasoning-gym's `gsm_symbolic` (Apache-2.0, 0.1.25; after Mirzadeh et al.,
arXiv 2410.05229), an optional extra: `pip install 'amft-lite[gym]'`. Of its 85 templates four are
left aside, whose worked answers round silently (2, 3, 49) or miss a bracket (96). The others are
split by template, in an order fixed by a hash:

- 48 for `train`; `test` has the same templates with numbers of its own,
- 12 for `validation`,
- 21 for `ood_template`, never trained on.

So `group` is the template; intervals over groups say what is known about new templates, and `train`
and `test` share groups on purpose, but no question.

Grading is ours (`math_grader`, integer): the package's scorer takes the first number anywhere in a
text, loses a minus sign, and pays .01 for any other number. Problems whose answer is no integer
(some of template 27) are left out.

Left out: difficulty (the package knows one), and the 15 templates the package itself excludes.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from amft_lite.tasks import Demonstration, Example, Reward, in_passes
from amft_lite.tasks.math_grader import grade

EXCLUDED = (32, 35, 37, 61, 63, 65, 74, 76, 77, 79, 86, 87, 90, 97, 98)  #: by the package
FLAWED = (2, 3, 49, 96)  #: by us
COUNTS = {"train": 48, "validation": 12, "ood_template": 21}  #: templates
PROBLEMS = {"train": 2000, "validation": 300, "test": 500, "ood_template": 500}
#: The package draws item i from seed + i, so seeds closer than a split is long would share items.
SEEDS = {"train": 0, "validation": 10**7, "test": 2 * 10**7, "ood_template": 3 * 10**7}
INSTRUCTION = r"Put your final answer within \boxed{}."

_INTEGER = re.compile(r"-?[0-9]+")


@dataclass(frozen=True)
class WordProblem(Example):
    """An example, its right answer (an integer as text) and the package's worked answer."""

    gold: str
    worked: str


def templates() -> dict[str, frozenset[int]]:
    """The templates of each split, the same on every machine."""
    usable = [t for t in range(100) if t not in EXCLUDED and t not in FLAWED]
    usable.sort(key=lambda t: hashlib.sha256(f"gsm_symbolic/{t}".encode()).hexdigest())
    found, start = {}, 0
    for split, count in COUNTS.items():
        found[split] = frozenset(usable[start : start + count])
        start += count
    return {**found, "test": found["train"]}


def open_generator(seed: int, size: int) -> Any:
    """The package's data set: `size` items, drawn when indexed.

    Raises:
        ModuleNotFoundError: reasoning-gym is not installed.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise ModuleNotFoundError(
            f"the task gsm_symbolic needs reasoning-gym; pip install 'amft-lite[gym]' brings it "
            f"({error})"
        ) from None
    return reasoning_gym.create_dataset("gsm_symbolic", seed=seed, size=size)


class GsmSymbolic:
    """The task; problems are drawn when first asked for (a second)."""

    name = "gsm_symbolic"
    splits = tuple(PROBLEMS)

    def __init__(self, max_new_tokens: int = 320, reward: str = "binary") -> None:
        if reward != "binary":
            raise ValueError(f"gsm_symbolic knows the reward binary only, not {reward!r}")
        if max_new_tokens < 1:
            raise ValueError("max_new_tokens must be at least 1")
        self.max_new_tokens = max_new_tokens

    @cached_property
    def _problems(self) -> dict[str, list[WordProblem]]:
        seen: set[str] = set()
        found: dict[str, list[WordProblem]] = {split: [] for split in self.splits}
        for split, wanted in templates().items():
            # a seventh of all items at the least is of a split's templates; 20 times is plenty
            items = open_generator(SEEDS[split], 20 * PROBLEMS[split])
            for i, template in enumerate(items.task_indices):
                if len(found[split]) == PROBLEMS[split]:
                    break
                if template not in wanted:
                    continue
                item = items[i]
                question, gold = item["question"].strip(), str(item["answer"])
                if question in seen or not _INTEGER.fullmatch(gold):
                    continue
                seen.add(question)
                found[split].append(
                    WordProblem(
                        prompt=f"{question} {INSTRUCTION}",
                        split=split,
                        group=f"template {template}",
                        key=hashlib.sha256(question.encode()).hexdigest()[:16],
                        gold=gold,
                        worked=item["metadata"]["answer_cot"],
                    )
                )
        return found

    def prompts(self, split: str, n: int | None = None, seed: int = 0) -> list[WordProblem]:
        """Every problem of `split` once, or `n` in shuffled passes.

        Raises:
            ValueError: there is no such split.
            ModuleNotFoundError: reasoning-gym is not installed.
        """
        if split not in self.splits:
            raise ValueError(f"no split is called {split!r}; known: {', '.join(self.splits)}")
        problems = self._problems[split]
        rng = random.Random(f"{self.name}/{split}/{seed}")
        return list(in_passes(problems, len(problems) if n is None else n, rng))

    def demonstrations(self, n: int, seed: int = 0, split: str = "train") -> list[Demonstration]:
        """`n` worked answers of the package, their last line (``#### 12``) put into a box.

        Raises:
            ValueError: `split` is the one whose templates are never shown.
        """
        if split == "ood_template":
            raise ValueError("demonstrations exist for known templates only, not for ood_template")
        problems = self.prompts(split, n, seed + 1_000_003)  # not the order of the RL prompts
        return [Demonstration(problem, expert(problem)) for problem in problems]

    def reward(self, example: WordProblem, completion: str) -> Reward:
        """1 if the last box holds exactly the right integer, else 0."""
        return grade(completion, example.gold, "integer")

    def vocabulary(self) -> list[str]:
        """None: only models with a tokenizer of their own can answer."""
        return []


def expert(problem: WordProblem) -> str:
    """The worked answer, ending in the boxed one."""
    steps = problem.worked.rpartition("####")[0].strip()
    return f"{steps}\nThe final answer is $\\boxed{{{problem.gold}}}$."
