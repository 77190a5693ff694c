"""What a task is, and where to find one by name.

A task makes its problems from a seed, knows expert answers to them, and grades any text without
running it. Everything above (loop, evaluation, notebooks) sees only the protocol below.

A task may be a dialogue: it has `episode`, which answers back, and a completion is then a tuple of
answers instead of one text.

Left out: how a task is drawn.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np


class Sight(NamedTuple):
    """What a tiny vision-language model is shown: the word whose place a picture takes, the
    picture's size in pixels, and whether pictures also come in what a dialogue's task says."""

    word: str
    height: int
    width: int
    in_replies: bool = False


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

    def pictures(self) -> np.ndarray | None:
        """What a tiny vision-language model sees beside the words: uint8 [n, height, width, 3],
        one for each of its `Sight`'s words in turn; None where there is nothing to see. In a
        dialogue those of the replies follow that of the prompt; one that ends early shows fewer."""
        return None


#: What a policy gives to a prompt: one text, or in a dialogue its answers in turn.
Completion = str | tuple[str, ...]


@dataclass(frozen=True)
class Demonstration:
    """An expert's answer to an example; `right` is False where a study made it wrong on purpose.

    In a dialogue the expert's answers, and between them the task's `replies`.
    """

    example: Example
    completion: Completion
    right: bool = True
    replies: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        return self.example.prompt

    @property
    def spoken(self) -> list[tuple[str, bool]]:
        """All that follows the prompt, in turn: (text, is it the expert's?)."""
        return interleaved(self.completion, self.replies)


def interleaved(completion: Completion, replies: Sequence[str]) -> list[tuple[str, bool]]:
    """Answers and the replies between them, in turn: (text, is it an answer?)."""
    answers = (completion,) if isinstance(completion, str) else completion
    turns = [(answers[0], True)] if answers else []
    for reply, answer in zip(replies, answers[1:], strict=True):
        turns += [(reply, False), (answer, True)]
    return turns


@dataclass(frozen=True)
class Reward:
    """A number for the learner and the named reason for it."""

    value: float
    reason: str
    correct: bool


class Episode(Protocol):
    """A dialogue in progress, the task's side of it."""

    def answer(self, text: str) -> str | None:
        """Take an answer, any text; what the task says to it, or None where the dialogue ends."""

    @property
    def reward(self) -> Reward:
        """The grade of what has been said so far."""


@runtime_checkable
class Task(Protocol):
    """The whole border between a task and the rest of the kit."""

    name: str
    splits: tuple[str, ...]
    max_new_tokens: int  #: tokens of the longest right answer, end-of-text included
    #: and of tasks that are dialogues: `episode(example, to_the_end=False) -> Episode`, which with
    #: `to_the_end` goes on where training would break off, and `max_episode_tokens` of all turns;
    #: of tasks with pictures for tiny models `sight`, a `Sight`

    def prompts(self, split: str, n: int | None = None, seed: int = 0) -> list[Example]:
        """Every problem of `split` once (n=None), or `n` examples in shuffled passes over it."""

    def demonstrations(self, n: int, seed: int = 0, split: str = "train") -> list[Demonstration]:
        """`n` expert answers to problems of `split`, a new draw for every seed."""

    def reward(self, example: Example, completion: Completion) -> Reward:
        """Grade `completion`; any text is an answer, none raises."""

    def vocabulary(self) -> list[str]:
        """The words of the task, without special tokens."""


@dataclass(frozen=True)
class TaskEntry:
    """Where a task lives: module, class, the arguments of a preset; and the module that says how
    to pretrain a base for it, where there is one (`amft_lite.pretrain` lists what it must hold)."""

    module: str
    cls: str
    options: dict[str, Any] = field(default_factory=dict)
    pretraining: str = ""


REGISTRY: dict[str, TaskEntry] = {
    "general_points": TaskEntry(
        "amft_lite.tasks.general_points",
        "GeneralPoints",
        pretraining="amft_lite.tasks.points_pretraining",
    ),
    "general_points_classic": TaskEntry(
        "amft_lite.tasks.general_points",
        "GeneralPoints",
        {"preset": "classic"},
        pretraining="amft_lite.tasks.points_pretraining",
    ),
    "general_points_vision": TaskEntry(
        "amft_lite.tasks.general_points",
        "GeneralPoints",
        {"vision": True},
        pretraining="amft_lite.tasks.vision_pretraining",
    ),
    # the original game of "SFT Memorizes, RL Generalizes"; no tiny base is made for it
    "general_points_classic_vision": TaskEntry(
        "amft_lite.tasks.general_points", "GeneralPoints", {"preset": "classic", "vision": True}
    ),
    "arithmetic": TaskEntry(
        "amft_lite.tasks.arithmetic",
        "Arithmetic",
        pretraining="amft_lite.tasks.arithmetic_pretraining",
    ),
    "navigation": TaskEntry(
        "amft_lite.tasks.navigation",
        "Navigation",
        pretraining="amft_lite.tasks.navigation_pretraining",
    ),
    "navigation_classic": TaskEntry(
        "amft_lite.tasks.navigation",
        "Navigation",
        {"preset": "classic"},
        pretraining="amft_lite.tasks.navigation_pretraining",
    ),
    "navigation_vision": TaskEntry(
        "amft_lite.tasks.navigation",
        "Navigation",
        {"vision": True},
        pretraining="amft_lite.tasks.streets_pretraining",
    ),
    "gsm_symbolic": TaskEntry("amft_lite.tasks.gsm_symbolic", "GsmSymbolic"),
    # real data: rows of datasets.yaml by name, or rows given as options
    "dataset": TaskEntry("amft_lite.tasks.dataset", "DatasetTask"),
    "openr1_math": TaskEntry(
        "amft_lite.tasks.dataset",
        "DatasetTask",
        {
            "name": "openr1_math",
            "train": "openr1_math_46k",
            "tests": (
                *("aime24", "amc", "math500", "minerva", "olympiadbench"),
                *("arc_c", "gpqa_diamond", "mmlu_pro"),
            ),
            "max_new_tokens": 8192,
        },
    ),
}


def reported_splits(task: Task) -> tuple[str, ...]:
    """The splits a run is measured on: `test`, then what else is neither learned from nor tuned on;
    a task with more splits than a run can afford names its choice as `reported`."""
    chosen = getattr(task, "reported", None)
    return chosen or tuple(s for s in task.splits if s not in ("train", "validation"))


def in_passes(pool: Sequence[Any], n: int, rng: random.Random) -> Iterator[Any]:
    """`n` of the pool, in passes, each shuffled anew. What is drawn from `rng` between two of them
    comes before the next pass's shuffle."""
    pool = list(pool)
    if n and not pool:
        raise ValueError("there is nothing to draw from")
    while n > 0:
        rng.shuffle(pool)
        yield from pool[:n]
        n -= len(pool)


def one_of(name: str, value: str, *allowed: str) -> None:
    """Raises ValueError, in one sentence, where an option is none of the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(allowed)}, not {value!r}")


def is_dialogue(task: Task) -> bool:
    """Does the task answer back?"""
    return hasattr(task, "episode")


def sight_of(task: Task) -> Sight | None:
    """How a task shows pictures to tiny models; None where there is nothing to see."""
    return getattr(task, "sight", None)


def new_words(task: Task) -> tuple[str, ...]:
    """Words of a task that a base need not know: it gets untrained ones. Named as `new_words` by
    tasks that can say more than their bases were raised on."""
    return tuple(getattr(task, "new_words", ()))


def retold(task: Task, example: Example, completion: Completion) -> list[tuple[str, bool]]:
    """All that was said in turn: (text, is it the policy's?), the task's replies made anew."""
    if isinstance(completion, str):
        return [(completion, True)]
    episode, said = task.episode(example, to_the_end=True), []
    for text in completion:
        said.append((text, True))
        if (reply := episode.answer(text)) is None:
            break
        said.append((reply, False))
    return said


def readings_of(task: Task) -> dict[str, Callable[[Example, Completion], bool | tuple[int, int]]]:
    """What else a task asks of a completion beside its being right: name -> is it so? (Cards read
    from a picture), or how often, and out of how many (right turns of a walk). Named as `readings`
    by tasks that have such questions."""
    return getattr(task, "readings", {})


def notes_of(task: Task) -> dict[str, str]:
    """What splits are, in two or three words: split -> words, named as `notes` by a task."""
    return getattr(task, "notes", {"ood_rule": "new rule", "ood_visual": "red suits"})


def baselines_of(task: Task) -> dict[str, Callable[[Sequence[Example]], float]]:
    """What someone without sense would get, to stand beside a reading: words -> its share over
    these examples. Named as `baselines` by tasks that have such a share."""
    return getattr(task, "baselines", {})


def groups_word(task: Task) -> str:
    """What `group` counts, in words for a table: ``value multisets``; by default ``groups``."""
    return getattr(task, "groups", "groups")


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
