"""Dialogues sampled in one pass: the policy answers, the task replies, the cache stays.

Every row takes one token a step, whoever says it: where the task has replied, its words are put in
instead of drawn ones, until the policy's turn comes again. So rows need not wait for each other,
nothing is computed twice, and a dialogue lies in one piece, as if it were one completion, of which
the mask says what the policy said.

Left out: what is replied (`amft_lite.tasks`), and any model but a Llama (`amft_lite.sampling`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from amft_lite.sampling import Layers, Rollouts, draw, forward, padding_bias, read_prompts

#: What is said to an answer, as token ids; None ends the dialogue. Called with (row, answer).
Speak = Callable[[int, list[int]], list[int] | None]

COLUMNS = 64  #: by so many the cache grows


class Shown:
    """What has been seen in dialogues, `n` from every prompt: each picture is encoded once.

    Raises:
        ValueError: the model could say its picture token, and so take pictures out of turn.
    """

    def __init__(self, model, pictures: Tensor, n: int) -> None:
        if getattr(model, "unsaid", None) is None:
            raise ValueError("dialogues with pictures want a model with pictures_in_replies")
        self.token = model.config.picture_token_id
        self.seen = model.encode(pictures)
        self.n = n
        self.number: list[int] = []  # of pictures that each row has been shown

    def prompts(self, x: Tensor, ids: Tensor) -> Tensor:
        """Embeddings x [P, L, d] of the prompts ids [P, L], pictures put in."""
        from amft_lite.picture_llama import put_pictures_in  # of pictures only: loads transformers

        self.number = (ids == self.token).sum(1).repeat_interleave(self.n).tolist()
        return put_pictures_in(x, ids, self.seen, self.token)

    def next(self, x: Tensor, ids: Tensor, rows: list[int]) -> Tensor:
        """Embeddings x [B, 1, d] of the next tokens ids [B, 1] of these rows, pictures put in.

        Raises:
            ValueError: a row is shown more than it has.
        """
        places = [place for place, token in enumerate(ids[:, 0].tolist()) if token == self.token]
        for place in places:
            row = rows[place]
            if self.number[row] == self.seen.shape[1]:
                raise ValueError(f"a dialogue has {self.seen.shape[1]} pictures, and shows more")
            x[place, 0] = self.seen[row // self.n, self.number[row]]
            self.number[row] += 1
        return x


@torch.no_grad()
def converse(
    model,
    prompt_ids: Tensor,
    attention: Tensor,
    speak: Speak,
    n: int = 1,
    max_new_tokens: int = 32,
    max_episode_tokens: int = 512,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    pictures: Tensor | None = None,
) -> Rollouts:
    """Sample `n` dialogues from every prompt; `temperature=0` takes the likeliest tokens.

    An answer ends with its end-of-text, which belongs to it, or after `max_new_tokens`; a dialogue
    when `speak` returns None, or is cut off after `max_episode_tokens` of both sides. `speak` gets
    the answer without end-of-text. `prompt_ids`, `attention` [P, L], left-padded. In the result
    `attention` covers both sides, `mask` the policy's own tokens alone; T is that of the longest.
    `pictures` uint8 [P, m, height, width, 3] for a model with an eye: those of the prompt and of
    all that may be replied, in turn.

    Raises:
        ValueError: the model is no plain Llama, could say its picture token, or is shown more
            pictures than there are.
    """
    w, L = Layers(model), prompt_ids.shape[1]
    eos, pad = model.config.eos_token_id, model.config.pad_token_id
    shown = None if pictures is None else Shown(model, pictures, n)
    x = F.embedding(prompt_ids, w.embedding)
    x = x if shown is None else shown.prompts(x, prompt_ids)
    logits, cache = read_prompts(w, x, attention, L + COLUMNS)

    def repeat(x: Tensor) -> Tensor:
        return x.repeat_interleave(n, 0) if n > 1 else x

    logits, cache = repeat(logits), [(repeat(k), repeat(v)) for k, v in cache]
    ids, attention = repeat(prompt_ids), repeat(attention)
    bias = None
    if not bool(attention.all()):
        bias = padding_bias(w, attention, L + max_episode_tokens)
    position = attention.sum(1, keepdim=True)
    rows = list(range(len(ids)))  # of those that go on; all tensors above have a row for each
    said: list[list[int]] = [[] for _ in rows]  # by whoever
    own: list[list[int]] = [[] for _ in rows]  # 1 where by the policy
    answer: list[list[int]] = [[] for _ in rows]
    reply: list[list[int]] = [[] for _ in rows]
    for t in range(max_episode_tokens):
        drawn = draw(logits, temperature, generator).tolist()
        ended = []
        for place, row in enumerate(rows):
            if reply[row]:
                said[row].append(reply[row].pop(0))
                own[row].append(0)
                continue
            token = drawn[place]
            said[row].append(token)
            own[row].append(1)
            answer[row].append(token)
            if token == eos or len(answer[row]) == max_new_tokens:
                spoken = speak(row, answer[row][:-1] if token == eos else answer[row])
                answer[row] = []
                if spoken is None:
                    ended.append(place)
                else:
                    reply[row] = list(spoken)
        if len(ended) == len(rows) or t + 1 == max_episode_tokens:
            break
        if ended:
            kept = [place for place in range(len(rows)) if place not in set(ended)]
            rows, places = [rows[place] for place in kept], torch.tensor(kept)
            cache = [(k[places], v[places]) for k, v in cache]
            position, bias = position[places], None if bias is None else bias[places]
        if L + t + 1 > cache[0][0].shape[2]:
            cache = [(F.pad(k, (0, 0, 0, COLUMNS)), F.pad(v, (0, 0, 0, COLUMNS))) for k, v in cache]
        last = torch.tensor([[said[row][-1]] for row in rows])
        x = F.embedding(last, w.embedding)
        if shown is not None:
            x = shown.next(x, last, rows)
        hidden = None if bias is None else bias[..., : L + t + 1]
        logits = forward(w, x, position + t, hidden, cache, L + t)
    T = max(map(len, said))
    tokens = torch.tensor([s + [pad] * (T - len(s)) for s in said])
    there = torch.tensor([[1] * len(s) + [0] * (T - len(s)) for s in said])
    mask = torch.tensor([o + [0] * (T - len(o)) for o in own])
    return Rollouts(torch.cat((ids, tokens), 1), torch.cat((attention, there), 1), tokens, mask)
