"""One cell of a study: a training run that leaves a few numbers instead of a folder.

A study has thousands of runs, so a cell keeps no checkpoint, but what its tables,
figures and verdicts need: success by split, sampled and greedy, hits by group of problems (for the
bootstrap over problems), thinned traces of mu, entropy and reward, and what it cost.

Left out: which cells there are and when they run (`amft_lite.study`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from amft_lite.config import RunConfig, build, read_file
from amft_lite.evaluation import Evaluation, evaluate
from amft_lite.files import to_json, write_text
from amft_lite.loop import AMFT
from amft_lite.models import token_logps
from amft_lite.objectives import sft_loss
from amft_lite.runs import load_base
from amft_lite.tasks import load_task

#: What of a step's facts becomes a trace, thinned to a mean over so many steps.
TRACED = ("mu", "entropy", "reward", "cos_sft_rl", "validation_reward", "share_applied")
THINNED = 15


def hits_by_group(found: Evaluation) -> dict[str, int]:
    """group -> right answers among the sampled draws, groups in a fixed order."""
    hits = dict.fromkeys(sorted(found.groups), 0)
    for group, correct in zip(found.groups, found.correct, strict=True):
        hits[group] += correct
    return hits


def thinned(records: list[dict[str, Any]], name: str, size: int = THINNED) -> list[float | None]:
    """Means over blocks of `size` steps; None where the block has no such fact."""
    blocks = []
    for start in range(0, len(records), size):
        found = [r[name] for r in records[start : start + size] if r.get(name) is not None]
        found = [x for x in found if math.isfinite(x)]
        blocks.append(round(sum(found) / len(found), 4) if found else None)
    return blocks


def traces(records: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """The thinned traces of the facts that this run has."""
    found = {name: thinned(records, name) for name in TRACED}
    return {name: trace for name, trace in found.items() if any(x is not None for x in trace)}


def measure(
    policy, tokenizer, task, split: str, prompts: int, samples: int, groups: bool
) -> dict[str, Any]:
    """The figures of one split; `prompts` 0 takes all problems, `groups` keeps hits by group."""
    found = evaluate(policy, tokenizer, task, split, prompts, samples)
    answers = sum(found.outcomes.values())
    facts = {
        "sampled": round(sum(found.correct) / (found.samples * len(found.correct)), 5),
        "greedy": round(sum(found.greedy) / len(found.greedy), 5),
        "problems": len(found.correct),
        "samples": found.samples,
        "outcomes": {k: round(n / answers, 3) for k, n in sorted(found.outcomes.items())},
    }
    for name in found.readings:
        facts[name] = round(found.share(name), 5)
    return facts | ({"hits": hits_by_group(found)} if groups else {})


def rollouts_paid(config: RunConfig, records: list[dict[str, Any]]) -> dict[str, int]:
    """How many answers have been sampled so far, to learn from and to validate."""
    return {
        "training_rollouts": config.prompts_per_step
        * config.rollouts_per_prompt
        * sum("rollouts_tokens" in r for r in records),
        "validation_rollouts": config.validation_prompts
        * config.validation_rollouts
        * sum("validation_tokens" in r for r in records),
    }


def glance(
    loop: AMFT, splits: dict[str, list[int]], prompts: int, samples: int
) -> dict[str, float]:
    """A point of a learning curve: success on each split, the task's further readings of it
    (`test: cards read right`), and nats a token of the demonstrations."""
    point: dict[str, float] = {}
    for split in splits:
        found = evaluate(
            loop.policy, loop.tokenizer, loop.task, split, prompts, samples, greedy=False
        )
        point[split] = round(sum(found.correct) / (samples * len(found.correct)), 4)
        point |= {f"{split}: {name}": round(found.share(name), 4) for name in found.readings}
    return point | {"demonstration_nll": round(demonstration_nll(loop), 4)}


@torch.no_grad()
def demonstration_nll(loop: AMFT) -> float:
    """Nats a token of all demonstrations under the policy: what it has kept of them."""
    experts = loop.expert_answers
    return float(sft_loss(token_logps(loop.logits(experts), experts.tokens), experts.mask))


def train_cell(
    recipe: str | dict[str, Any], settings: dict[str, Any], splits: dict[str, list[int]],
    curve: int = 0, look: Sequence[int] = (200, 4),
) -> dict[str, Any]:  # fmt: skip
    """Train, measure `splits` (name -> [problems, samples]), and return the cell's figures.

    `recipe` is one by name, or its settings; `settings` changes them.
    `curve`: also take a `glance` every so many steps, at `look` = problems, samples.
    """
    torch.set_num_threads(1)
    config = build(read_file(recipe) if isinstance(recipe, str) else recipe, settings)
    task = load_task(config.task, reward=config.reward, **config.task_options())
    policy, tokenizer = load_base(config, task)
    loop = AMFT(policy, tokenizer, task, config)
    first = next(iter(splits))
    records, points, start, measuring = [], [], time.process_time(), 0.0
    while loop.step < config.steps:
        records.append(loop.train_step())
        if curve and loop.step % curve == 0:
            before = time.process_time()
            spent = {
                "step": loop.step,
                "rollouts": sum(rollouts_paid(config, records).values()),
                "seconds": round(before - start - measuring, 1),
            }
            points.append(spent | glance(loop, splits, *look))
            measuring += time.process_time() - before
    seconds = time.process_time() - start - measuring
    mixed = [r["mu"] for r in records if r["phase"] != "warm-up"]
    facts = {
        "splits": {
            name: measure(policy, tokenizer, task, name, *size, groups=name == first)
            for name, size in splits.items()
        },
        "mean_mu": round(sum(mixed) / len(mixed), 4) if mixed else None,
        "final_entropy": thinned(records, "entropy")[-1],
        "target_entropy": round(loop.target_entropy, 4),
        "demonstration_nll": round(demonstration_nll(loop), 4),
        "meta_movement": round(sum(abs(r.get("mu_meta") or 0.0) for r in records), 4),
        **rollouts_paid(config, records),
        "rollout_tokens": sum(r.get("rollouts_tokens", 0) for r in records),
        "validation_tokens": sum(r.get("validation_tokens", 0) for r in records),
        "seconds": round(seconds, 1),
        "traces": traces(records),
    }
    if mixed and (loop.rule.every or len(set(mixed)) > 1):
        facts["mu"] = [round(x, 4) for x in mixed]
    if points:
        facts["curve"] = points
    for name in ("gate", "trust"):
        if hasattr(loop.rule, name):
            facts[name] = [round(float(v), 3) for v in getattr(loop.rule, name)]
    return facts


def run_cell(
    path: Path, recipe: str | dict[str, Any], cell: dict[str, Any], **how: Any
) -> dict[str, Any]:
    """Train one cell and write its file whole; `cell` is what identifies it and its settings."""
    start = time.time()
    try:
        facts = train_cell(recipe, cell["settings"], **how)
    except FloatingPointError as error:  # a diverged run is a result, not an accident
        facts = {"diverged": str(error)}
    record = {**cell, **facts, "wall_seconds": round(time.time() - start, 1)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, to_json(record) + "\n")
    return json.loads(to_json(record))
