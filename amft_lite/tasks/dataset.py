r"""Real question/answer sets as a task: local files or the hub, graded by their boxed answer.

A set is a row of `datasets.yaml` (or of a file of yours): where it is, which columns hold question,
answer and the expert's worked solution, and how answers are graded. One row trains, any number
test:

    load_task("openr1_math")  # the paper's family, from the hub
    load_task("dataset", train="gsm8k", tests=["gsm8k_test"])
    load_task("dataset", train={"path": "my.jsonl", "question": "q", "answer": "a",
                                "grader": "math", "solution": "worked"})

Splits are `train`, `validation` (a fixed number of training questions, chosen by the hash of their
text) and each test set under its own name. They share no question: what a test set asks is taken
out of training, and counted in `removed`. Nothing is read before the first prompt is asked for.

Left out: reading the sets (`dataset_rows`), chat templates (the trainer applies them; prompts here
are plain text) and pictures.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from amft_lite.tasks import Demonstration, Reward, in_passes
from amft_lite.tasks.dataset_rows import (
    Question,
    Source,
    choice_columns,
    open_table,
    read_question,
    read_rows,
    read_text,
)
from amft_lite.tasks.math_grader import check_grader, gradable, grade


class DatasetTask:
    """The task. `train` and `tests` are names of rows, or rows; `datasets` a YAML file of yours.

    Args:
        train: the set to learn from; "" for a task that only tests.
        tests: names of rows, or {split name: name of a row or a row}.
        validation: number of training questions held out for U; of a small set at most half.
        max_new_tokens: length of an answer (8192 in the paper's family).
        reward: only binary.

    Raises:
        ValueError: a row is unknown or wrong.
    """

    def __init__(
        self,
        train: str | Mapping[str, Any] = "",
        tests: Sequence[str] | Mapping[str, Any] = (),
        datasets: str | Path | None = None,
        validation: int = 256,
        max_new_tokens: int = 2048,
        reward: str = "binary",
        name: str = "dataset",
    ) -> None:
        if reward != "binary":
            raise ValueError(f"a data set knows the reward binary only, not {reward!r}")
        if validation < 1 or max_new_tokens < 1:
            raise ValueError("validation and max_new_tokens must be at least 1")
        rows = read_rows(datasets)
        tests = dict(tests) if isinstance(tests, Mapping) else {str(test): test for test in tests}
        if not train and not tests:
            raise ValueError(f"name a set: train or tests; known rows: {', '.join(rows)}")
        if taken := {"train", "validation"} & set(tests):
            raise ValueError(f"a test set cannot be called {', '.join(sorted(taken))}")
        self.name = name
        self.max_new_tokens = max_new_tokens
        self.validation_size = validation
        self.sources: dict[str, Source] = {}
        for split, row in {**({"train": train} if train else {}), **tests}.items():
            called = row if isinstance(row, str) else split
            if isinstance(row, str) and row not in rows:
                raise ValueError(f"no data set is called {row!r}; known: {', '.join(rows)}")
            self.sources[split] = Source.from_row(
                rows[row] if isinstance(row, str) else row, called
            )
        self.splits = (*(("train", "validation") if train else ()), *tests)
        #: Questions left out: `repeated` in a set, `in_test` (of train), `ungradable` (of train).
        self.removed: Counter[str] = Counter()
        self._tables: dict[str, Any] = {}

    # --- the protocol ----------------------------------------------------------------------------

    def prompts(self, split: str, n: int | None = None, seed: int = 0) -> list[Question]:
        """Every question of `split` once, or `n` in shuffled passes.

        Raises:
            ValueError: there is no such split; or, at the first call, a set cannot be used.
            ModuleNotFoundError: `datasets` or math-verify is not installed.
        """
        if split not in self.splits:
            raise ValueError(f"no split is called {split!r}; known: {', '.join(self.splits)}")
        questions = self._questions[split]
        rng = random.Random(f"{self.name}/{split}/{seed}")
        return list(in_passes(questions, len(questions) if n is None else n, rng))

    def demonstrations(self, n: int, seed: int = 0, split: str = "train") -> list[Demonstration]:
        r"""`n` worked answers of the data set; where one ends without a box, it is added.

        Raises:
            ValueError: as in `prompts`, or the set has no column of solutions.
        """
        origin = "train" if split == "validation" else split
        if split in self.splits and not self.sources[origin].solution:
            raise ValueError(
                f"the set of {split} has no worked answers; name their column by the key `solution`"
            )
        questions = self.prompts(split, n, seed + 1_000_003)  # not the order of the RL prompts
        return [Demonstration(q, self._worked(origin, q)) for q in questions]

    def reward(self, example: Question, completion: str) -> Reward:
        """1 if the last boxed answer is right, else 0, with the grader's reason."""
        return grade(completion, example.gold, example.grader, example.text)

    def vocabulary(self) -> list[str]:
        """None: only models with a tokenizer of their own can answer."""
        return []

    # --- reading ---------------------------------------------------------------------------------

    @cached_property
    def _questions(self) -> dict[str, list[Question]]:
        for source in self.sources.values():
            check_grader(source.grader)
        questions = {split: self._read(split) for split in self.sources}
        if "train" not in questions:
            return questions
        asked = {q.key for split, found in questions.items() if split != "train" for q in found}
        fresh = [q for q in questions["train"] if q.key not in asked]
        self.removed["in_test"] += len(questions["train"]) - len(fresh)
        usable = [q for q in fresh if gradable(q.gold, q.grader)]  # else no answer earns anything
        self.removed["ungradable"] += len(fresh) - len(usable)
        if len(usable) < 2:
            raise ValueError(
                f"{self.sources['train'].path} has {len(usable)} questions to train on, after "
                f"{self.removed['in_test']} that are also in a test set and "
                f"{self.removed['ungradable']} that cannot be graded; it needs at least 2"
            )
        size = min(self.validation_size, len(usable) // 2)
        held_out = {q.key for q in sorted(usable, key=lambda q: q.key)[:size]}
        questions["train"] = [q for q in usable if q.key not in held_out]
        questions["validation"] = [
            dataclasses.replace(q, split="validation") for q in usable if q.key in held_out
        ]
        return questions

    def _read(self, split: str) -> list[Question]:
        source = self.sources[split]
        table = self._tables[split] = open_table(source)
        wanted = [source.question, source.answer, *choice_columns(source)]
        for column in (*wanted, *([source.solution] if source.solution else [])):
            if column.split(".")[0] not in table.column_names and column not in table.column_names:
                raise ValueError(
                    f"{source.path} has no column {column!r}; its columns: "
                    f"{', '.join(table.column_names)}"
                )
        # solutions, which are long, stay in the file until they are asked for
        needed = {c if c in table.column_names else c.split(".")[0] for c in wanted}
        found: dict[str, Question] = {}
        for number, row in enumerate(table.select_columns(sorted(needed))):
            question = read_question(source, row, number, split)
            if question.key in found:
                self.removed["repeated"] += 1
            else:
                found[question.key] = question
        if not found:
            raise ValueError(f"{source.path} is empty")
        return list(found.values())

    def _worked(self, origin: str, question: Question) -> str:
        source = self.sources[origin]
        row = self._tables[origin][question.row]
        text = read_text(source, row, source.solution, question.row, "assistant").strip()
        if source.answer_after and source.answer_after in text:
            text = text[: text.rindex(source.answer_after)].rstrip()
            text = re.sub(r"<<[^<>]*>>", "", text)  # GSM8K's notes for a calculator
        if r"\boxed{" not in text:
            text += f"\n\nThe final answer is $\\boxed{{{question.gold}}}$."
        return text
