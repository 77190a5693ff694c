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
from torch.nn.utils.rnn import pad_sequence

from amft_lite.episodes import converse
from amft_lite.sampling import Rollouts, answer_texts, sample
from amft_lite.tasks import Completion, Demonstration, Example, Reward, Task, is_dialogue


@dataclass
class Batch:
    """B answers to learn from.

    ids, attention  [B, L + T]  left-padded prompts, then right-padded answers
    tokens, mask    [B, T]      what follows the prompts; 1 on the tokens to learn from (the whole
                                answer, end-of-text included; in dialogues the policy's side)
    rewards         [B]         of sampled answers
    advantages      [B] or [B, T], and what PPO and the value head need besides
    pictures        uint8 [B, n, height, width, 3], what is seen, in turn (`Example.pictures`)
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
    return None if not seen or seen[0] is None else stacked(seen)


def stacked(seen: Sequence[np.ndarray]) -> Tensor:
    """Pictures of several rows, uint8 [n_i, height, width, 3] each, as one tensor; rows with fewer
    than the longest end in black ones, which nothing shows."""
    return pad_sequence(list(map(torch.from_numpy, seen)), batch_first=True)


def encode(tokenizer: Any, demonstrations: Sequence[Demonstration]) -> Batch:
    """Demonstrations as a batch; each answer ends with end-of-text."""
    prompts = tokenizer([d.prompt for d in demonstrations], padding=True, return_tensors="pt")
    rows = [spell(tokenizer, d.spoken) for d in demonstrations]
    T = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    tokens = torch.tensor([ids + [pad] * (T - len(ids)) for ids, _ in rows])
    there = torch.tensor([[1] * len(ids) + [0] * (T - len(ids)) for ids, _ in rows])
    return Batch(
        ids=torch.cat((prompts.input_ids, tokens), 1),
        attention=torch.cat((prompts.attention_mask, there), 1),
        tokens=tokens,
        mask=torch.tensor([own + [0] * (T - len(own)) for _, own in rows]),
        pictures=pictures_of([d.example for d in demonstrations]),
    )


def spell(tokenizer: Any, spoken: Sequence[tuple[str, bool]]) -> tuple[list[int], list[int]]:
    """Token ids of all that is said in turn, (text, is it to be learned?); 1 where it is.

    End-of-text is added to what is learned: it is how an answer ends.
    """
    ids: list[int] = []
    own: list[int] = []
    for text, learned in spoken:
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        found = [*found, tokenizer.eos_token_id] if learned else found
        ids, own = ids + found, own + [int(learned)] * len(found)
    return ids, own


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


def roll(
    policy: torch.nn.Module,
    tokenizer: Any,
    task: Task,
    prompts: Sequence[Example],
    n: int,
    temperature: float,
    source: torch.Generator,
    to_the_end: bool = False,
    pictures: Tensor | None = None,
) -> tuple[Rollouts, list[Completion], list[Reward] | None]:
    """`n` fresh completions of every prompt: tokens, texts, and the rewards of dialogues.

    Dialogues go on `to_the_end` where they are measured. `pictures` are `pictures_of(prompts)`, if
    they are drawn already.
    """
    pictures = pictures_of(prompts) if pictures is None else pictures
    encoded = tokenizer([e.prompt for e in prompts], padding=True, return_tensors="pt")
    ids, attention = encoded.input_ids, encoded.attention_mask
    if not is_dialogue(task):
        rolled = sample(
            policy, ids, attention, n, task.max_new_tokens, temperature, source, pictures
        )  # fmt: skip
        return rolled, answer_texts(rolled, tokenizer), None
    episodes = [task.episode(prompt, to_the_end) for prompt in prompts for _ in range(n)]
    answers: list[list[str]] = [[] for _ in episodes]

    def speak(row: int, said: list[int]) -> list[int] | None:
        text = tokenizer.decode(said, skip_special_tokens=False)
        answers[row].append(text)
        reply = episodes[row].answer(text)
        return None if reply is None else tokenizer(reply, add_special_tokens=False)["input_ids"]

    rolled = converse(
        policy, ids, attention, speak, n, task.max_new_tokens, task.max_episode_tokens,
        temperature, source, pictures,
    )  # fmt: skip
    return rolled, list(map(tuple, answers)), [episode.reward for episode in episodes]


def graded_rollouts(
    policy: torch.nn.Module,
    tokenizer: Any,
    task: Task,
    prompts: Sequence[Example],
    n: int,
    temperature: float,
    source: torch.Generator,
) -> Batch:
    """`n` fresh completions of every prompt, with their rewards."""
    seen = pictures_of(prompts)
    rolled, texts, rewards = roll(
        policy, tokenizer, task, prompts, n, temperature, source, pictures=seen
    )
    if rewards is None:
        rewards = [task.reward(prompts[i // n], text) for i, text in enumerate(texts)]
    return Batch(
        rolled.ids,
        rolled.attention,
        rolled.tokens,
        rolled.mask,
        torch.tensor([reward.value for reward in rewards]),
        pictures=None if seen is None else seen.repeat_interleave(n, 0),
    )
