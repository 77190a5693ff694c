"""What AMFTTrainer's own backward passes are fed with: demonstrations and rollouts as tensors.

What a vision-language model sees beside its tokens travels along as TRL's own batches have it
(`pixel_values`, and what a family of models needs besides); cutting it row by row is TRL's work.

Left out: images in an expert's answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from trl.data_utils import apply_chat_template, is_conversational, prepare_multimodal_messages
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

from amft_lite.dialogues import Speech

#: What a forward pass may get besides tokens, under TRL's names; `num_images` counts them by row.
SEEN = (
    "pixel_values", "image_grid_thw", "pixel_attention_mask", "image_sizes", "token_type_ids",
    "mm_token_type_ids", "image_position_ids", "num_images",
)  # fmt: skip


class Answers(NamedTuple):
    """A micro-batch: ids, attention [B, L + T]; tokens, mask [B, T], 1 on the tokens to learn from
    (in dialogues the policy's or the expert's own); advantages [B] if sampled; `seen`: what there
    is of `SEEN`."""

    ids: Tensor
    attention: Tensor
    tokens: Tensor
    mask: Tensor
    advantages: Tensor | None = None
    seen: dict[str, Any] | None = None

    def forward_inputs(self) -> dict[str, Tensor]:
        """A forward pass's arguments."""
        seen = {k: v for k, v in (self.seen or {}).items() if k != "num_images"}
        return {"input_ids": self.ids, "attention_mask": self.attention, **seen}


def answers_of(batch: dict[str, Any]) -> Answers:
    """The token ids of a batch as TRL prepares it; of several turns the policy's are to be learned
    (`tool_mask`), and all are attended to."""
    tokens, there = batch["completion_ids"], batch["completion_mask"]
    ids = torch.cat((batch["prompt_ids"], tokens), 1)
    seen = {k: batch[k] for k in SEEN if batch.get(k) is not None}
    attention = torch.cat((batch["prompt_mask"], there), 1)
    mask = there if batch.get("tool_mask") is None else there * batch["tool_mask"]
    return Answers(ids, attention, tokens, mask, seen=seen or None)


def micro_batches(answers: Answers, size: int) -> list[Answers]:
    """Cut to at most `size` rows."""
    return [
        Answers(*(_rows(x, slice(start, start + size)) for x in answers))
        for start in range(0, len(answers.ids), size)
    ]


def _rows(x: Any, part: slice) -> Any:
    """Some rows of a tensor, or of what belongs to rows with images."""
    if x is None or isinstance(x, Tensor):
        return x if x is None else x[part]
    by_row = split_pixel_values_by_grid(x)
    return unsplit_pixel_values_by_grid({k: v[part] for k, v in by_row.items()})


def images_of(rows: dict[str, list]) -> list[list] | None:
    """Each row's images, from TRL's columns `images` or `image`; None where there is neither."""
    if "images" in rows:
        return [list(images or ()) for images in rows["images"]]
    if "image" in rows:
        return [[] if image is None else [image] for image in rows["image"]]
    return None


def seen_prompts(
    rows: dict[str, list], processing_class: Any, chat_options: dict[str, Any] | None = None
) -> tuple[list[list[int]], dict[str, Any]]:
    """Token ids of prompts with images, and what `SEEN` says of them, as TRL prepares its own."""
    images = images_of(rows)
    prompts = [
        prepare_multimodal_messages(prompt, images=own)
        for prompt, own in zip(rows["prompt"], images, strict=True)
    ]
    texts = [
        apply_chat_template({"prompt": prompt}, processing_class, **(chat_options or {}))["prompt"]
        for prompt in prompts
    ]
    found = dict(processing_class(images=images, text=texts, padding=True, return_tensors="pt"))
    ids, attention = found.pop("input_ids"), found.pop("attention_mask")
    by_row = [row[on.bool()].tolist() for row, on in zip(ids, attention, strict=True)]
    seen = {k: v for k, v in found.items() if k in SEEN}
    return by_row, seen | {"num_images": [len(own) for own in images]}


def as_stored(data: Dataset) -> Dataset:
    """The rows without a transform: pictures that are drawn when read stay what they are drawn
    from."""
    return data.with_format(None) if data.format["type"] == "custom" else data


def tokenized(
    dataset: Dataset,
    tokenize_prompts: Callable[[list], tuple],
    tokenizer: Any,
    processing_class: Any,
    max_length: int | None = None,
    chat_options: dict[str, Any] | None = None,
    speech: Callable[[bool], Speech] | None = None,
) -> Dataset:
    """Demonstrations (columns prompt, completion) with the columns prompt_ids and answer_ids alone;
    of dialogues, which `speech` spells (with a chat template or without), also `learned`.

    `tokenize_prompts` is TRL's, so that an expert's prompt is what the policy is asked. The end of
    text is added, unless a chat template has ended the answer already; `max_length` cuts answers.
    Prompts with images stay as they are, and are prepared when their turn comes (`seen_prompts`):
    pixels would fill the memory.
    """
    sees = bool({"images", "image"} & set(dataset.column_names))

    def turns(rows: dict[str, list]) -> dict[str, list]:
        spelled = [
            speech(isinstance(completion[0], dict)).spell(spoken_turns(completion))
            for completion in rows["completion"]
        ]
        return {
            "answer_ids": [ids[:max_length] for ids, _ in spelled],
            "learned": [own[:max_length] for _, own in spelled],
            "prompt_ids": tokenize_prompts(rows["prompt"])[0],
        }

    def tokens(rows: dict[str, list]) -> dict[str, list]:
        answers = []
        for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True):
            row = {"prompt": prompt, "completion": completion}
            chat = is_conversational(row)
            if chat:
                if sees:
                    row = {k: prepare_multimodal_messages(v) for k, v in row.items()}
                row = apply_chat_template(row, processing_class, **(chat_options or {}))
            ids = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
            if not chat and ids[-1:] != [tokenizer.eos_token_id]:
                ids = [*ids, tokenizer.eos_token_id]
            answers.append(ids[:max_length])
        found = {"answer_ids": answers}
        return found if sees else found | {"prompt_ids": tokenize_prompts(rows["prompt"])[0]}

    kept = {"prompt", "images", "image"} if sees else set()
    found = as_stored(dataset).map(
        tokens if speech is None else turns,
        batched=True,
        remove_columns=[name for name in dataset.column_names if name not in kept],
        desc="Tokenizing demonstrations",
        new_fingerprint=uuid.uuid4().hex,  # or datasets would pickle TRL's trainer, model included
    )
    if dataset.format["type"] == "custom":
        return found.with_transform(dataset.format["format_kwargs"]["transform"])
    return found


def spoken_turns(completion: Sequence[str | dict[str, str]]) -> list[tuple[str, bool]]:
    """A dialogue's turns after its prompt, (text, is it the expert's?): messages, or texts, of
    which the expert has the first, the third and so on."""
    if isinstance(completion[0], dict):
        return [(message["content"], message["role"] == "assistant") for message in completion]
    return [(text, place % 2 == 0) for place, text in enumerate(completion)]


def demonstration_batch(
    rows: dict[str, list], pad: int, device: torch.device, seen: dict[str, Any] | None = None
) -> Answers:
    """Rows with prompt_ids and answer_ids as tensors: prompts padded on the left, answers on the
    right; `seen` of their prompts. In dialogues `learned` says which tokens are the expert's."""
    prompt, before = padded(rows["prompt_ids"], pad, "left", device)
    tokens, there = padded(rows["answer_ids"], pad, "right", device)
    mask = padded(rows["learned"], 0, "right", device)[0] if "learned" in rows else there
    if seen:
        seen = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in seen.items()}
        for name in ("token_type_ids", "mm_token_type_ids"):  # one a token: answers see nothing
            if name in seen:
                kinds, _ = padded(seen[name].tolist(), 0, "left", device)
                kinds = kinds[:, -prompt.shape[1] :] * before
                seen[name] = torch.cat((kinds, torch.zeros_like(tokens)), 1)
    attention = torch.cat((before, there), 1)
    return Answers(torch.cat((prompt, tokens), 1), attention, tokens, mask, seen=seen)


def padded(
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
