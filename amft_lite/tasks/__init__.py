"""What a task is, and where to find one by name.

A task makes its problems from a seed, knows expert answers to them, and grades any text without
running it. Everything above (loop, evaluation, notebooks) sees only the protocol below.

Left out: how a task is drawn, and multi-turn episodes.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Example:
    """One prompt.

    `group` names what splits must not share and what intervals are computed over (for General
    Points the multiset of card values); `key` names the problem itself.
    """

    prompt: str
    split: str
    group: str
    key: str


@dataclass(frozen=True)
class Demonstration:
    """An expert's answer to an example."""

    example: Example
    completion: str

    @property
    def prompt(self) -> str:
        return self.example.prompt


@dataclass(frozen=True)
class Reward:
    """A number for the learner and the named reason for it."""

    value: float
    reason: str
    correct: bool


@runtime_checkable
class Task(Protocol):
    """The whole border between a task and the rest of the kit."""

    name: str
    splits: tuple[str, ...]
    max_new_tokens: int  #: tokens of the longest right answer, end-of-text included

    def prompts(self, split: str, n: int | None = None, seed: int = 0) -> list[Example]:
        """Every problem of `split` once (n=None), or `n` examples in shuffled passes over it."""

    def demonstrations(self, n: int, seed: int = 0, split: str = "train") -> list[Demonstration]:
        """`n` expert answers to problems of `split`, a new draw for every seed."""

    def reward(self, example: Example, completion: str) -> Reward:
        """Grade `completion`; any text is an answer, none raises."""

    def vocabulary(self) -> list[str]:
        """The words of the task, without special tokens."""


@dataclass(frozen=True)
class TaskEntry:
    """Where a task lives: module, class, and the arguments of a preset."""

    module: str
    cls: str
    options: dict[str, Any] = field(default_factory=dict)


REGISTRY: dict[str, TaskEntry] = {
    "general_points": TaskEntry("amft_lite.tasks.general_points", "GeneralPoints"),
    "general_points_classic": TaskEntry(
        "amft_lite.tasks.general_points", "GeneralPoints", {"preset": "classic"}
    ),
}


def load_task(name: str, **options: Any) -> Task:
    """Build the task called `name`.

    Raises:
        ValueError: no task has that name.
    """
    if name not in REGISTRY:
        raise ValueError(f"no task is called {name!r}; known tasks: {', '.join(REGISTRY)}")
    entry = REGISTRY[name]
    cls = getattr(importlib.import_module(entry.module), entry.cls)
    return cls(**{**entry.options, **options})
