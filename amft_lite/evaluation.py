"""How often a policy is right on a split, with an interval, and how it fails.

Success is the share of right answers among fresh draws at temperature 1. Two evaluations with one
seed see the same prompts, so models can be compared problem by problem.

Left out: feedback between attempts; where a task gives any, it is within one (its `tries`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch

from amft_lite.batches import roll
from amft_lite.statistics import Interval, attempts_at, cluster_bootstrap
from amft_lite.tasks import Completion, Example, Task, readings_of


@dataclass
class Evaluation:
    """One split: `correct[i]` of `samples` answers to prompt i, whose group is `groups[i]`."""

    split: str
    samples: int
    correct: list[int]
    groups: list[str]
    greedy: list[int] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    #: of each of the task's further questions, how often the answer to it is yes for prompt i, and
    #: of how many times it was asked (of each answer once, if not `asked` more often)
    readings: dict[str, list[int]] = field(default_factory=dict)
    asked: dict[str, list[int]] = field(default_factory=dict)

    @property
    def success(self) -> Interval:
        """Share of right answers; the interval is over the task's groups."""
        return cluster_bootstrap(self.correct, [self.samples] * len(self.correct), self.groups)

    @property
    def greedy_success(self) -> Interval:
        return cluster_bootstrap(self.greedy, [1] * len(self.greedy), self.groups)

    def reading(self, name: str) -> Interval:
        """How often the answer to one of the task's further questions is yes: a share of all."""
        return cluster_bootstrap(self.readings[name], self.times_asked(name), self.groups)

    def times_asked(self, name: str) -> list[int]:
        """How often prompt i was asked that question."""
        return self.asked.get(name, [self.samples] * len(self.correct))

    def share(self, name: str) -> float:
        """`reading` without its interval."""
        return sum(self.readings[name]) / max(1, sum(self.times_asked(name)))

    def attempts(self, k: int) -> Interval:
        """Share of problems solved within `k` answers, without feedback."""
        shares = [attempts_at(k, c, self.samples) for c in self.correct]
        return cluster_bootstrap(shares, [1] * len(shares), self.groups)

    def summary(self) -> dict:
        """What `summary.json` keeps: every figure with its n and interval."""
        facts = {
            "success": asdict(self.success),
            "greedy": asdict(self.greedy_success) if self.greedy else None,
            "attempts_at_5": asdict(self.attempts(5)) if self.samples >= 5 else None,
            "prompts": len(self.correct),
            "samples_per_prompt": self.samples,
            "outcomes": dict(sorted(self.outcomes.items())),
            "readings": {k: asdict(self.reading(k)) for k in self.readings} or None,
        }
        return {key: value for key, value in facts.items() if value is not None}


def answers(
    policy, tokenizer, task: Task, prompts: Sequence[Example], n: int, temperature: float, seed: int
) -> list[list[Completion]]:
    """`n` completions of every prompt, in batches of 256 sequences; dialogues to the end."""
    texts: list[list[Completion]] = []
    source = torch.Generator().manual_seed(seed)
    size = max(1, 256 // n)
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        _, flat, _ = roll(policy, tokenizer, task, part, n, temperature, source, to_the_end=True)
        texts += [flat[i * n : (i + 1) * n] for i in range(len(part))]
    return texts


def evaluate(
    policy,
    tokenizer,
    task: Task,
    split: str,
    prompts: int = 0,
    samples: int = 8,
    greedy: bool = True,
    seed: int = 0,
) -> Evaluation:
    """Grade `samples` answers to at most `prompts` problems of `split` (0: all of them)."""
    examples = task.prompts(split, None, seed)
    examples = examples[:prompts] if prompts else examples
    drawn = answers(policy, tokenizer, task, examples, samples, 1.0, seed)
    first = []
    if greedy:
        likeliest = answers(policy, tokenizer, task, examples, 1, 0.0, seed)
        first = [texts[0] for texts in likeliest]
    return graded(task, split, examples, drawn, first)


def graded(
    task: Task,
    split: str,
    examples: Sequence[Example],
    drawn: Sequence[Sequence[Completion]],
    likeliest: Sequence[Completion] = (),
) -> Evaluation:
    """The evaluation of completions: several in `drawn` for each example, one in `likeliest`."""
    outcomes: Counter[str] = Counter()
    correct, questions = [], readings_of(task)
    readings: dict[str, list[int]] = {name: [] for name in questions}
    asked: dict[str, list[int]] = {}
    for example, texts in zip(examples, drawn, strict=True):
        rewards = [task.reward(example, text) for text in texts]
        outcomes.update(reward.reason for reward in rewards)
        correct.append(sum(reward.correct for reward in rewards))
        for name, holds in questions.items():
            found = [holds(example, text) for text in texts]
            if isinstance(found[0], tuple):
                asked.setdefault(name, []).append(sum(times for _, times in found))
                found = [times for times, _ in found]
            readings[name].append(sum(found))
    greedy = []
    if likeliest:
        pairs = zip(examples, likeliest, strict=True)
        greedy = [int(task.reward(example, text).correct) for example, text in pairs]
    groups = [example.group for example in examples]
    return Evaluation(
        split, len(drawn[0]), correct, groups, greedy, dict(outcomes), readings, asked
    )
