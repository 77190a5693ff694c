"""What a training step learns from: answers as token batches, graded, with their own randomness.

Nothing here keeps random state: every draw has a generator made from (seed, purpose, step). Two
methods with one seed therefore see the same prompts, and a resumed run makes the same draws.

Left out: what is learned from them (`amft_lite.loop`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amft_lite.sampling import answer_texts, sample
from amft_lite.tasks import Demonstration, Example, Task


@dataclass
class Batch:
    """B answers to learn from.

    ids, attention  [B, L + T]  left-padded prompts, then right-padded answers
    tokens, mask    [B, T]      the answers alone; 1 on their tokens, end-of-text included
    rewards         [B]         of sampled answers
    advantages      [B] or [B, T], and what PPO and the value head need besides
    pictures        uint8 [B, n, height, width, 3], what is seen beside the prompts
    """

    ids: Tensor
    attention: Tensor
    tokens: Tensor
    mask: Tensor
    rewards: Tensor | None = None
    advantages: Tensor | None = None
    old_logps: Tensor | None = None
    returns: Tensor | None = None
    states: Tensor | None = None
    pictures: Tensor | None = None

    def rows(self, part: slice | Tensor) -> Batch:
        """Some of the answers."""
        return Batch(**{k: None if v is None else v[part] for k, v in vars(self).items()})


def generator(seed: int, purpose: str, step: int) -> torch.Generator:
    """The source of one step's random numbers for one purpose."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def refuse_leaks(
    training: Iterable[Example], validation: Iterable[Example], demonstrations: Iterable[Example]
) -> None:
    """Validation rollouts must be of problems the training never sees.

    On training prompts, <grad U, g_RL> would hold the noise of g_RL itself and always say "RL".

    Raises:
        ValueError: they meet; the groups they share are named.
    """
    seen = {example.group for example in (*training, *demonstrations)}
    shared = sorted({example.group for example in validation} & seen)
    if shared:
        raise ValueError(f"validation and training share the problems {', '.join(shared[:5])}")


def pictures_of(examples: Sequence[Example]) -> Tensor | None:
    """What is seen beside these prompts, uint8 [P, n, height, width, 3]; None if nothing is."""
    seen = [example.pictures() for example in examples]
    if not seen or seen[0] is None:
        return None
    return torch.from_numpy(np.stack(seen))


def encode(tokenizer: Any, demonstrations: Sequence[Demonstration]) -> Batch:
    """Demonstrations as a batch; end-of-text is added."""
    prompts = tokenizer([d.prompt for d in demonstrations], padding=True, return_tensors="pt")
    answers = tokenizer(
        [f"{d.completion} {tokenizer.eos_token}" for d in demonstrations],
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    return Batch(
        ids=torch.cat((prompts.input_ids, answers.input_ids), 1),
        attention=torch.cat((prompts.attention_mask, answers.attention_mask), 1),
        tokens=answers.input_ids,
        mask=answers.attention_mask,
        pictures=pictures_of([d.example for d in demonstrations]),
    )


def shuffled_passes(
    n: int, size: int, number: int, seed: int, purpose: str = "demonstrations"
) -> Tensor:
    """Places of the `number`-th minibatch of `size` in endless, freshly shuffled passes over n."""
    places = range(number * size, (number + 1) * size)
    order = {
        p: torch.randperm(n, generator=generator(seed, purpose, p))
        for p in {place // n for place in places}
    }
    chosen = [order[place // n][place % n] for place in places]
    return torch.stack(chosen) if chosen else torch.empty(0, dtype=torch.long)


def graded_rollouts(
    policy: torch.nn.Module,
    tokenizer: Any,
    task: Task,
    prompts: Sequence[Example],
    n: int,
    temperature: float,
    source: torch.Generator,
) -> Batch:
    """`n` fresh answers to every prompt, with their rewards."""
    encoded = tokenizer([e.prompt for e in prompts], padding=True, return_tensors="pt")
    seen = pictures_of(prompts)
    rolled = sample(
        policy,
        encoded.input_ids,
        encoded.attention_mask,
        n,
        task.max_new_tokens,
        temperature,
        source,
        seen,
    )
    texts = answer_texts(rolled, tokenizer)
    rewards = [task.reward(prompts[i // n], text).value for i, text in enumerate(texts)]
    return Batch(
        rolled.ids,
        rolled.attention,
        rolled.tokens,
        rolled.mask,
        torch.tensor(rewards),
        pictures=None if seen is None else seen.repeat_interleave(n, 0),
    )
