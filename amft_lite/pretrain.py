"""The base model: a tiny Llama pretrained on a task's own texts, which has the skill unpaid.

It stands in for what a pretrained language model brings along. What it reads is the task's matter:
the module named by `TaskEntry.pretraining` holds

    texts(task, informative, format_share, rng)   an endless stream of (prompt, completion), or of
               (prompt, completion, pictures); the completion of a dialogue is all that is said in
               turn, (text, is it to be learned?)
    RECIPES    size -> the settings of `PretrainConfig` that this task and size want
    BANDS      name -> (lowest, highest): what a base must look like for the task to be worth it
    CHECKS     name -> (split, does this answer count?): how each band is measured
    PROMPTS    where there is one: over how many prompts bands are measured
    STARTS_FROM  where there is one: a task whose base of this size brings its weights along
    LANGUAGE_LR_SCALE  where there is one: the learning rate of all but the eye, in the eye's

Left out: any text but a task's.
"""

from __future__ import annotations

import importlib
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch

from amft_lite.batches import stacked
from amft_lite.checkpoint import save_model
from amft_lite.evaluation import answers
from amft_lite.models import (
    base_folder,
    completion_logits,
    eye_for,
    load_policy,
    positions,
    take_weights,
    tiny_llama,
    token_logps,
    word_tokenizer,
)
from amft_lite.objectives import sft_loss
from amft_lite.provenance import provenance
from amft_lite.tasks import REGISTRY, load_task


@dataclass(frozen=True)
class PretrainConfig:
    """The recipe of a base; `recipe()` fills in what a task and a size want."""

    task: str = "general_points"
    size: str = "0.2M"
    seed: int = 0
    steps: int = 1200
    stop: int = 0  # end after so many steps of that schedule, skills half learned; 0 for all of it
    batch: int = 256
    lr: float = 4e-3  # 100 steps of warm-up, then a cosine to a tenth
    informative: float = 0.30  # share of texts whose working leads to what the prompt asks
    format_share: float = 0.01  # share of texts in the form that is paid

    @property
    def last(self) -> int:
        """Steps that are taken."""
        return min(self.stop or self.steps, self.steps)


def curriculum(task: str) -> ModuleType:
    """The module that says how to pretrain a base for `task`.

    Raises:
        ValueError: the task has none.
    """
    having = [name for name, entry in REGISTRY.items() if entry.pretraining]
    if task not in having:
        raise ValueError(f"bases are pretrained for {', '.join(having)}, not for {task!r}")
    return importlib.import_module(REGISTRY[task].pretraining)


def recipe(size: str = "0.2M", task: str = "general_points", **changes) -> PretrainConfig:
    """The recipe for a task and size, with `changes`.

    Raises:
        ValueError: there is none for that task, or for that size of it.
    """
    known = curriculum(task).RECIPES
    if size not in known:
        raise ValueError(f"bases of {task} come in the sizes {', '.join(known)}, not {size!r}")
    return PretrainConfig(**{"task": task, "size": size, **known[size], **changes})


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Linear warm-up over 100 steps, then a cosine to a tenth of `config.lr`."""
    if step < 100:
        return config.lr * (step + 1) / 100
    progress = (step - 100) / max(1, config.steps - 100)
    return config.lr * (0.55 + 0.45 * math.cos(math.pi * progress))


def padded(
    pairs: list[tuple[str, str | list[tuple[str, bool]]]], tokenizer
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(prompt, completion) as ids and attention [B, L + T], and the mask [B, T] of what is learned.

    Prompts are left-padded, completions right-padded; an answer ends with end-of-text. An unknown
    word is a KeyError: no text may be of words that the task does not have.
    """
    table, pad, eos = tokenizer.get_vocab(), tokenizer.pad_token_id, tokenizer.eos_token_id
    prompts = [[table[w] for w in prompt.split()] for prompt, _ in pairs]
    ends, learned = [], []
    for _, completion in pairs:
        spoken = [(completion, True)] if isinstance(completion, str) else completion
        parts = [([table[w] for w in text.split()] + [eos] * own, own) for text, own in spoken]
        ends.append([token for ids, _ in parts for token in ids])
        learned.append([int(own) for ids, own in parts for _ in ids])
    L, T = max(map(len, prompts)), max(map(len, ends))
    ids = [[pad] * (L - len(p)) + p + a + [pad] * (T - len(a))
           for p, a in zip(prompts, ends, strict=True)]  # fmt: skip
    there = [[0] * (L - len(p)) + [1] * (len(p) + len(a)) + [0] * (T - len(a))
             for p, a in zip(prompts, ends, strict=True)]  # fmt: skip
    mask = [own + [0] * (T - len(own)) for own in learned]
    return torch.tensor(ids), torch.tensor(there), torch.tensor(mask)


def pretrain(
    config: PretrainConfig,
    stop_after: int | None = None,
    on_step: Callable[[int, float], None] | None = None,
):
    """Train a base; returns (model, tokenizer). `on_step(step, loss)` is told each loss.

    `stop_after` ends early without changing the recipe's schedule: its first steps repeat.
    """
    lessons, task = curriculum(config.task), load_task(config.task)
    tokenizer = word_tokenizer(task)
    eye = eye_for(task, tokenizer)
    model = tiny_llama(len(tokenizer), config.size, config.seed, eye, positions(task))
    if hasattr(lessons, "STARTS_FROM"):
        take_weights(model, tokenizer, *load_policy(base_folder(lessons.STARTS_FROM, config.size)))
    named = dict(model.named_parameters())
    parts = [
        {"params": [p for n, p in named.items() if n.startswith("eye.") == eyes], "scale": scale}
        for eyes, scale in ((True, 1.0), (False, getattr(lessons, "LANGUAGE_LR_SCALE", 1.0)))
    ]
    optimizer = torch.optim.AdamW(parts, lr=config.lr, betas=(0.9, 0.95))
    source = random.Random(config.seed)
    stream = lessons.texts(task, config.informative, config.format_share, source)
    for step in range(config.last if stop_after is None else stop_after):
        rows = [next(stream) for _ in range(config.batch)]
        ids, attention, mask = padded([row[:2] for row in rows], tokenizer)
        pictures = stacked([row[2] for row in rows]) if eye else None
        length = mask.shape[1]
        logits = completion_logits(model, ids, attention, length, pictures)
        loss = sft_loss(token_logps(logits, ids[:, -length:]), mask)
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(step, config)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if on_step:
            on_step(step, loss.item())
    return model.eval(), tokenizer


def bands(model, tokenizer, config: PretrainConfig, prompts: int | None = None) -> dict[str, float]:
    """The shares of the task's BANDS, over one draw to each of `prompts` prompts of a split (2000,
    if the task does not name another number). A check says yes or no, or how often yes, and out of
    how many."""
    lessons, task = curriculum(config.task), load_task(config.task)
    prompts = prompts or getattr(lessons, "PROMPTS", 2000)
    drawn = {}
    for split in dict.fromkeys(split for split, _ in lessons.CHECKS.values()):
        examples = task.prompts(split, prompts)
        said = answers(model, tokenizer, task, examples, 1, 1.0, seed=0)
        drawn[split] = [(e, texts[0]) for e, texts in zip(examples, said, strict=True)]
    shares = {}
    for name, (split, counts) in lessons.CHECKS.items():
        found = [counts(e, text) for e, text in drawn[split]]
        pairs = [x if isinstance(x, tuple) else (x, 1) for x in found]
        shares[name] = sum(yes for yes, _ in pairs) / sum(times for _, times in pairs)
    return shares


@contextmanager
def whole_or_not(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its place at the end, if nothing was raised.

    Else it is removed, and `folder` stays as it was: new, empty or (with `overwrite`) an older
    base, of which what the new one does not have, such as notes, is kept. Only a process that is
    killed outright leaves the folder beside, whose name begins with a dot.

    Raises:
        OSError: there can be no such folder there.
    """
    folder = folder.resolve()  # of a link the target moves, and `.` has a name
    if folder.is_mount():  # known now, not after the training
        raise OSError(f"{folder} is a mount point, which cannot be replaced; name a folder in it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
        new, old = Path(beside) / "new", Path(beside) / "old"
        new.mkdir()  # inside, because the outer one is for this user alone
        yield new
        try:
            if overwrite and folder.is_dir():
                folder.rename(old)
            new.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
        for path in old.iterdir() if old.exists() else ():
            if not (folder / path.name).exists():
                path.rename(folder / path.name)


def save_base(
    folder: Path, model, tokenizer, config: PretrainConfig, log: list[dict], found: dict
) -> None:
    """Write weights and tokenizer in `transformers` layout, the recipe, its log and its bands."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, model, tokenizer)
    facts = {"recipe": asdict(config), "bands": found, "provenance": provenance()}
    (folder / "recipe.json").write_text(json.dumps(facts, indent=2) + "\n")
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))


def timed_log(every: int = 50) -> tuple[list[dict], Callable[[int, float], None]]:
    """A list that fills with {step, loss, seconds}, and the callback that fills it."""
    log: list[dict] = []
    start = time.perf_counter()

    def on_step(step: int, loss: float) -> None:
        if step % every == 0:
            seconds = round(time.perf_counter() - start, 1)
            log.append({"step": step, "loss": round(loss, 4), "seconds": seconds})

    return log, on_step
