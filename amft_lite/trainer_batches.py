"""What AMFTTrainer's own backward passes are fed with: demonstrations and rollouts as tensors.

Left out: images.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from trl.data_utils import apply_chat_template, is_conversational


class Answers(NamedTuple):
    """A micro-batch: ids, attention [B, L + T]; tokens, mask [B, T]; advantages [B] if sampled."""

    ids: Tensor
    attention: Tensor
    tokens: Tensor
    mask: Tensor
    advantages: Tensor | None = None


def answers_of(batch: dict[str, Any]) -> Answers:
    """The token ids of a batch as TRL prepares it."""
    tokens, mask = batch["completion_ids"], batch["completion_mask"]
    ids = torch.cat((batch["prompt_ids"], tokens), 1)
    return Answers(ids, torch.cat((batch["prompt_mask"], mask), 1), tokens, mask)


def micro_batches(answers: Answers, size: int) -> list[Answers]:
    """Cut to at most `size` rows."""
    return [
        Answers(*(None if x is None else x[start : start + size] for x in answers))
        for start in range(0, len(answers.ids), size)
    ]


def tokenized(
    dataset: Dataset,
    tokenize_prompts: Callable[[list], tuple],
    tokenizer: Any,
    processing_class: Any,
    max_length: int | None = None,
    chat_options: dict[str, Any] | None = None,
) -> Dataset:
    """Demonstrations (columns prompt, completion) with the columns prompt_ids and answer_ids alone.

    `tokenize_prompts` is TRL's, so that an expert's prompt is what the policy is asked. The end of
    text is added, unless a chat template has ended the answer already; `max_length` cuts answers.
    """

    def tokens(rows: dict[str, list]) -> dict[str, list]:
        answers = []
        for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True):
            row = {"prompt": prompt, "completion": completion}
            chat = is_conversational(row)
            if chat:
                row = apply_chat_template(row, processing_class, **(chat_options or {}))
            ids = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
            if not chat and ids[-1:] != [tokenizer.eos_token_id]:
                ids = [*ids, tokenizer.eos_token_id]
            answers.append(ids[:max_length])
        return {"prompt_ids": tokenize_prompts(rows["prompt"])[0], "answer_ids": answers}

    return dataset.map(
        tokens,
        batched=True,
        remove_columns=dataset.column_names,
        desc="Tokenizing demonstrations",
        new_fingerprint=uuid.uuid4().hex,  # or datasets would pickle TRL's trainer, model included
    )


def demonstration_batch(rows: dict[str, list], pad: int, device: torch.device) -> Answers:
    """Rows of `tokenized` as tensors: prompts padded on the left, answers on the right."""
    prompt, before = _padded(rows["prompt_ids"], pad, "left", device)
    tokens, mask = _padded(rows["answer_ids"], pad, "right", device)
    return Answers(torch.cat((prompt, tokens), 1), torch.cat((before, mask), 1), tokens, mask)


def _padded(
    rows: Sequence[Sequence[int]], pad: int, side: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """ids and mask [B, longest], padded on one side."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row, dtype=torch.long), 1
    return ids.to(device), mask.to(device)
