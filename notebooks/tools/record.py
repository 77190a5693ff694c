"""Make data/recordings/*.json: runs and measurements that notebooks show but cannot wait for.

    runs       ten methods x five seeds with their curves (notebooks 02 and 04)
    bugs       one healthy run and four with a planted bug each; in all five a third of the
               expert answers stop after reading the cards, so that lengths differ (notebook 03)
    noise      what one meta-gradient estimate is worth, at three moments of a run (notebook 03)
    lookahead  one step against twenty, at the same three moments (notebook 03)
    signal     along whole runs with all demonstrations, right or half of them wrong: the
               controller's averaged signal, single estimates, a reference and twenty steps
    smollm2    SmolLM2-135M with LoRA through TRL, one seed (notebook 08; about 40 minutes and 4 GB
               by itself, so only made when named; `make smollm2` first)

Everything is written in blocks to runs/recordings/ and skipped where it is there, so a stopped
call goes on. `make recordings`: about 40 minutes on two cores, signal half an hour more; or name
the ones you want. The blocks of one recording must be made with the same versions on the same
system.

Rules, fixed before the first result. Seeds 1-5 (seed 0 chose the base). Success is the share of
right answers at temperature 1 by the final policy on all test problems; differences to `amft` are
paired by seed, with Student's 95 % interval. Five seeds and no tuning: the recordings teach what
the methods do, and rank nothing closer than their intervals. A reference sign in `noise` counts
only where the reference is more than 2 standard errors from 0; estimates never share rollouts
with the reference. Constant mu, for `lookahead`, are .05, .5 and .95, on the same seeds.
`signal`, fixed before its first result: seeds 1-4, seven moments; a signal is judged by the share
of moments with the sign of what twenty steps at mu = .95 gain on .05 (all moments, and those beyond
2 standard errors), by run; and by its correlation with that gain over moments. `worth` asks whether
a mu for each demonstration could be learned: the correlation, over demonstrations, of two estimates
of how much one would rise, and how often a right one rises more than a wrong one.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from amft_lite import objectives
from amft_lite.batches import encode, generator, graded_rollouts, shuffled_passes
from amft_lite.config import build
from amft_lite.evaluation import Evaluation, answers, evaluate
from amft_lite.files import to_json, write_text
from amft_lite.gate import uphill_direction
from amft_lite.loop import AMFT
from amft_lite.meta_gradient import (
    adam_direction,
    adam_state,
    adam_update,
    cosine,
    mix,
    naive_direction,
    sgd_direction,
)  # fmt: skip
from amft_lite.models import base_folder, load_policy, token_logps
from amft_lite.provenance import provenance
from amft_lite.tasks import load_task

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = ROOT / "runs" / "recordings"
SEEDS = (1, 2, 3, 4, 5)

#: name -> settings. All share steps, demonstrations, warm-up (but for `no warm-up`) and lr.
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"method": "sft"},
    "rl": {"method": "rl"},
    "warm-up, then rl": {"method": "sft_then_rl", "switch": 0.1},
    "fixed": {"method": "fixed"},
    "amft": {"method": "amft"},
    "amft + entropy (equation)": {"method": "amft", "entropy_form": "equation"},
    "amft + entropy (text)": {"method": "amft", "entropy_form": "text"},
    "entropy only (equation)": {"method": "entropy_only", "entropy_form": "equation"},
    "entropy only (text)": {"method": "entropy_only", "entropy_form": "text"},
    "no warm-up": {"method": "amft", "warmup_steps": 0},
}
POINTS = (20, 60, 120)  #: the moments of `noise` and `lookahead`, in steps of a fixed-mu run
MUS = (0.05, 0.5, 0.95)


def start(settings: dict[str, Any], kind: type[AMFT] = AMFT) -> AMFT:
    policy, tokenizer = load_policy(base_folder("general_points"))
    config = build(settings)
    return kind(policy, tokenizer, load_task("general_points", **config.task_options()), config)


def rounded(x: Any, digits: int = 5) -> Any:
    return round(x, digits) if isinstance(x, float) and math.isfinite(x) else x


# --- runs -----------------------------------------------------------------------------------------


def demonstrated(amft: AMFT, samples: int = 4) -> float:
    """Success on the very prompts that were demonstrated: what has been memorised."""
    hands = [d.example for d in amft.demonstrations]
    drawn = answers(amft.policy, amft.tokenizer, amft.task, hands, samples, 1.0, 0)
    right = [
        sum(amft.task.reward(hand, text).correct for text in texts)
        for hand, texts in zip(hands, drawn, strict=True)
    ]
    return sum(right) / (samples * len(hands))


def look(amft: AMFT, prompts: int, samples: int) -> dict[str, Any]:
    def success(split: str) -> float:
        found: Evaluation = evaluate(
            amft.policy, amft.tokenizer, amft.task, split, prompts, samples, greedy=False
        )
        return found.success.mean

    point = {"demonstrated": demonstrated(amft), **{s: success(s) for s in ("test", "ood_rule")}}
    return {"step": amft.step, **{k: rounded(v) for k, v in point.items()}}


COLUMNS = "mu entropy reward mu_signal cos_utility_sft cos_utility_rl cos_sft_rl sft_loss".split()
MORE = (
    "rollouts_tokens rl_loss grad_norm_sft grad_norm_rl grad_norm_utility validation_reward mu_meta"
).split()


def train(settings: dict[str, Any], kind: type[AMFT] = AMFT, more: bool = False) -> dict[str, Any]:
    """One run: a curve every 15 steps, chosen columns of its metrics, success at the end."""
    amft = start(settings, kind)
    curve, lines = [look(amft, 150, 4)], []
    while amft.step < amft.config.steps:
        lines.append(amft.train_step())
        if amft.step % 15 == 0:
            curve.append(look(amft, 150, 4))
    return {
        "settings": settings,
        "curve": curve,
        "metrics": {
            name: [rounded(line.get(name)) for line in lines]
            for name in [*COLUMNS, *(MORE if more else ())]
            if any(name in line for line in lines)
        },
        "target_entropy": rounded(lines[-1]["target_entropy"]),
        "final": look(amft, 0, 8),
    }


def record_run(name: str, seed: int) -> dict[str, Any]:
    return {"name": name, "seed": seed, **train({**METHODS[name], "seed": seed})}


# --- planted bugs ---------------------------------------------------------------------------------


class Healthy(AMFT):
    """AMFT, with an impatient expert: each third answer stops after the cards. Answers then differ
    in length, without which a mean of means is no bug at all."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        for place in range(0, len(self.demonstrations), 3):
            whole = self.demonstrations[place]
            cards = " ".join(whole.completion.split()[:3])
            self.demonstrations[place] = replace(whole, completion=cards)
        self.expert_answers = encode(self.tokenizer, self.demonstrations)


class ReversedSign(Healthy):
    """mu steps against its meta-gradient."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.rule.options = replace(self.rule.options, eta_mu=-1.0)


class StaleGradient(Healthy):
    """grad U is measured once, at the first meta step, and used ever after."""

    first: tuple[torch.Tensor, dict] | None = None

    def measure_utility(self, number: int, signals: Any, facts: dict, reused: Any = None) -> None:
        if self.first is None:
            super().measure_utility(number, signals, facts, reused)
            kept = {k: facts[k] for k in ("validation_reward", "grad_norm_utility")}
            self.first = signals.grad_utility, kept
        signals.grad_utility, kept = self.first
        signals.informative = True
        facts |= kept
        facts["cos_utility_sft"] = cosine(signals.grad_utility, -signals.grad_sft)
        facts["cos_utility_rl"] = cosine(signals.grad_utility, -signals.grad_rl)


class MeanOfMeans(Healthy):
    """Both losses average each answer first, and then the answers."""

    def token_share(self, rows: Any, whole: Any) -> torch.Tensor:
        return rows.mask / rows.mask.sum(1, keepdim=True) / len(whole.ids)

    def sft_loss(self, rows: Any, whole: Any) -> tuple:
        logps = token_logps(self.logits(rows), rows.tokens)
        loss = -(logps * self.token_share(rows, whole)).sum()
        return loss, {"sft_loss": loss}

    def rl_loss(self, rows: Any, whole: Any) -> tuple:
        _, facts = super().rl_loss(rows, whole)
        logps = token_logps(self.logits(rows), rows.tokens)
        gain = (logps - logps.detach()).exp() * rows.advantages.unsqueeze(1)  # on-policy: r = 1
        loss = -(gain * self.token_share(rows, whole)).sum()
        return loss, {**facts, "rl_loss": loss}


class LeakingValidation(Healthy):
    """grad U comes from the very rollouts that g_RL was made of."""

    def roll_out(self, facts: dict) -> Any:
        self.rollouts = super().roll_out(facts)
        return self.rollouts

    def measure_utility(self, number: int, signals: Any, facts: dict, reused: Any = None) -> None:
        batch, n = copy.copy(self.rollouts), self.config.rollouts_per_prompt
        batch.advantages = objectives.leave_one_out_advantages(batch.rewards, n)
        signals.grad_utility = -self.gradient(self.utility_loss, batch, {})
        signals.informative = bool(batch.advantages.any())
        facts["validation_reward"] = batch.rewards.mean().item()
        facts["grad_norm_utility"] = signals.grad_utility.norm().item()
        facts["cos_utility_sft"] = cosine(signals.grad_utility, -signals.grad_sft)
        facts["cos_utility_rl"] = cosine(signals.grad_utility, -signals.grad_rl)


BUGS = {
    "healthy": Healthy,
    "reversed meta sign": ReversedSign,
    "stale gradient": StaleGradient,
    "mean of means": MeanOfMeans,
    "leaking validation": LeakingValidation,
}


def record_bug(name: str) -> dict[str, Any]:
    return {"name": name, **train({"method": "amft", "seed": 1}, BUGS[name], more=True)}


# --- noise and look-ahead -------------------------------------------------------------------------


def at_point(step: int) -> AMFT:
    """A run with mu = .5 throughout (seed 1), stopped after `step` steps."""
    amft = start({"method": "fixed", "seed": 1})
    while amft.step < step:
        amft.train_step()
    return amft


def validation_gradient(amft: AMFT, number: int, prompts: int, purpose: str) -> tuple:
    """grad U from `prompts` x 8 fresh validation rollouts, and their batch."""
    hands = amft.task.prompts("validation", prompts, seed=1_000 + number)
    source = generator(7, purpose, number)
    batch = graded_rollouts(amft.policy, amft.tokenizer, amft.task, hands, 8, 1.0, source)
    batch.advantages = objectives.leave_one_out_advantages(batch.rewards, 8)
    return -amft.gradient(amft.utility_loss, batch, {}), batch


def training_rollouts(amft: AMFT, number: int) -> Any:
    hands = amft.task.prompts("train", 16, seed=2_000 + number)
    source = generator(7, "training", number)
    batch = graded_rollouts(amft.policy, amft.tokenizer, amft.task, hands, 8, 1.0, source)
    batch.advantages = objectives.group_advantages(batch.rewards, 8)
    return batch


def measured_change(amft: AMFT, moved: dict[float, torch.Tensor], blocks: int) -> tuple:
    """[U(mu = .95) - U(mu = .05)] / .9 after one step, by importance weights on fresh rollouts.

    `moved` maps mu to theta' - theta. Every block has 256 rollouts of the policy before the step;
    the same rollouts serve both, so what they share cancels. Returns mean and standard error.
    """
    changes = []
    for number in range(blocks):
        hands = amft.task.prompts("validation", 32, seed=9_000 + number)
        source = generator(7, "measure", number)
        batch = graded_rollouts(amft.policy, amft.tokenizer, amft.task, hands, 8, 1.0, source)
        advantages = objectives.leave_one_out_advantages(batch.rewards, 8)
        value = {}
        with torch.no_grad():
            old = (token_logps(amft.logits(batch), batch.tokens) * batch.mask).sum(1)
            kept = [p.clone() for p in amft.parameters]
            for mu, change in moved.items():
                parts = change.split([p.numel() for p in amft.parameters])
                for p, part in zip(amft.parameters, parts, strict=True):
                    p += part.view_as(p)
                new = (token_logps(amft.logits(batch), batch.tokens) * batch.mask).sum(1)
                value[mu] = ((new - old).exp() * advantages).mean().item()
                for p, old_p in zip(amft.parameters, kept, strict=True):
                    p.copy_(old_p)
        changes.append((value[0.95] - value[0.05]) / 0.9)
    return mean_and_error(changes)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    x = torch.tensor(values, dtype=torch.float64)
    return x.mean().item(), (x.std() / math.sqrt(len(x))).item()


def record_noise(step: int) -> dict[str, Any]:
    """Directions and signs at one moment. Pools: 32,768 validation rollouts for the reference and
    as many others for the estimates, 64 training minibatches."""
    amft = at_point(step)
    state = adam_state(amft.optimizer, amft.config.max_grad_norm)
    batches = [training_rollouts(amft, number) for number in range(64)]
    rl = [amft.gradient(amft.rl_loss, batch, {}) for batch in batches]
    grad_rl = torch.stack(rl).mean(0)
    grad_sft = amft.gradient(amft.sft_loss, encode(amft.tokenizer, amft.demonstrations), {})
    sft = [
        amft.gradient(amft.sft_loss, amft.expert_answers.rows(places), {})
        for places in torch.stack(
            [torch.randperm(100, generator=generator(7, "sft", n))[:64] for n in range(64)]
        )
    ]
    exact = {
        "sgd": sgd_direction(grad_sft, grad_rl, 0.05),
        "adam": adam_direction(grad_sft, grad_rl, state, 0.5, 0.9),
        "naive": naive_direction(grad_sft, grad_rl, state),
    }
    single = torch.stack(
        [adam_direction(s, r, state, 0.5, 0.9) for s, r in zip(sft, rl, strict=True)]
    )
    reference = {name: [] for name in exact}
    for number in range(128):
        grad, _ = validation_gradient(amft, number, 32, "reference")
        for name, direction in exact.items():
            reference[name].append(torch.dot(grad, direction).item())
    with_exact, with_single = [], []  # of blocks of 64 rollouts
    for number in range(512):
        grad, _ = validation_gradient(amft, 500 + number, 8, "estimate")
        with_exact.append(torch.dot(grad, exact["adam"]).item())
        with_single.append(single @ grad)
    products = torch.stack(with_single)  # [512 blocks, 64 minibatches]
    sign = math.copysign(1.0, mean_and_error(reference["adam"])[0])
    shares = []
    for size in (1, 2, 4, 8, 16, 32):
        averaged = torch.tensor(with_exact).view(-1, size).mean(1)
        mixed = products.view(-1, size, 64).mean(1)
        # one minibatch an estimate: each average of blocks meets one minibatch
        pairs = torch.stack([mixed[i, i % 64] for i in range(len(mixed))])
        shares.append(
            {
                "rollouts": 64 * size,
                "estimates": len(averaged),
                "exact": (averaged * sign > 0).float().mean().item(),
                "minibatch": (pairs * sign > 0).float().mean().item(),
            }
        )
    leaked = []
    for number, batch in enumerate(batches):
        batch.advantages = objectives.leave_one_out_advantages(batch.rewards, 8)
        grad = -amft.gradient(amft.utility_loss, batch, {})
        other, _ = validation_gradient(amft, 3_000 + number, 16, "beside")
        leaked.append(
            {
                "same": cosine(grad, single[number]),
                "fresh": cosine(other, single[number]),
            }
        )
    steps = {
        "sgd": {mu: -0.05 * mix(grad_sft, grad_rl, mu) for mu in (0.95, 0.05)},
        "adam": {mu: adam_update(mix(grad_sft, grad_rl, mu), state) for mu in (0.95, 0.05)},
    }
    return {
        "step": step,
        "formula": {
            name: dict(zip(("value", "error"), mean_and_error(v), strict=True))
            for name, v in reference.items()
        },
        "measured": {
            name: dict(zip(("value", "error"), measured_change(amft, moved, 128), strict=True))
            for name, moved in steps.items()
        },
        "cosines": {"sft_rl": cosine(grad_sft, grad_rl)},
        "shares": shares,
        "leak": [{k: rounded(v) for k, v in pair.items()} for pair in leaked],
        "single": [rounded(v) for v in torch.tensor(with_exact).view(-1, 4).mean(1).tolist()],
    }


def record_lookahead(step: int, seed: int) -> dict[str, Any]:
    """Validation reward after 20 more steps with one constant mu; same seed, same prompts."""
    amft = at_point(step)
    state = copy.deepcopy(amft.state_dict())
    after = {}
    for mu in MUS:
        branch = start({"method": "fixed", "mu_start": mu, "seed": 100 + seed, "steps": 150})
        branch.demonstrations, branch.expert_answers = amft.demonstrations, amft.expert_answers
        branch.load_state_dict(copy.deepcopy(state))
        branch.rule.mu = mu
        for _ in range(20):
            branch.train_step()
        found = evaluate(
            branch.policy, branch.tokenizer, branch.task, "validation", 0, 16, greedy=False
        )
        after[str(mu)] = rounded(found.success.mean)
    return {"step": step, "seed": seed, "after": after}


SIGNAL = {"demonstrations": 903, "demonstrated_prompts": 0.5, "lr": 1e-3}  #: as in `controls`
REGIMES = {"right": {}, "half wrong": {"wrong_demonstrations": 0.5}}
MOMENTS = (20, 35, 50, 65, 80, 95, 110)  #: meta steps


def record_signal(regime: str, seed: int) -> dict[str, Any]:
    """What the controller's signal is worth at moments of its own run, weights as it found them."""
    settings = {**SIGNAL, **REGIMES[regime], "seed": seed}
    amft, moments = start({**settings, "method": "amft"}), []
    while amft.step <= MOMENTS[-1]:
        found = measure_signal(amft, settings) if amft.step in MOMENTS else None
        facts = amft.train_step()  # takes its signal from the same weights
        if found:
            moments.append({**found, "signal": rounded(facts["mu_signal"])})
    return {"regime": regime, "seed": seed, "moments": moments}


def measure_signal(amft: AMFT, settings: dict[str, Any], single: int = 8) -> dict[str, Any]:
    """Single estimates (256 rollouts, one minibatch), the formula from 4,096 other rollouts, 16
    other minibatches and all demonstrations, and success after 20 steps at either end."""
    o, state = amft.rule.options, adam_state(amft.optimizer, amft.config.max_grad_norm)

    def direction(sft: torch.Tensor, rl: torch.Tensor) -> torch.Tensor:
        return adam_direction(sft, rl, state, amft.rule.mu, o.width)

    base = 100 * amft.step  # of the numbers that choose prompts and draws
    n = len(amft.demonstrations)
    rl = [amft.gradient(amft.rl_loss, training_rollouts(amft, base + k), {}) for k in range(24)]
    estimates, ups = [], []
    for k in range(single):
        places = torch.randperm(n, generator=generator(7, "sft", base + k))[: amft.config.sft_batch]
        sft = amft.gradient(amft.plain_nll, amft.expert_answers.rows(places), {})
        up, _ = validation_gradient(amft, base + k, 32, "estimate")
        ups.append(up)
        estimates.append(rounded(cosine(up, direction(sft, rl[k]))))
    whole = amft.gradient(amft.plain_nll, amft.expert_answers, {})
    exact_rl = torch.stack(rl[single:]).mean(0)
    exact = direction(whole, exact_rl)
    blocks = [validation_gradient(amft, base + 50 + k, 32, "reference")[0] for k in range(16)]
    value, error = mean_and_error([torch.dot(block, exact).item() for block in blocks])
    mixture = mix(whole, exact_rl, amft.rule.mu)
    worth = {
        "256": [worth_of_each(amft, up, mixture, state) for up in ups],
        "2048": [worth_of_each(amft, torch.stack(half).mean(0), mixture, state)
                 for half in (blocks[:8], blocks[8:])],
    }  # fmt: skip
    return {
        "step": amft.step, "mu": rounded(amft.rule.mu), "single": estimates,
        "reference": {"value": value, "error": error,
                      "cosine": rounded(cosine(torch.stack(blocks).mean(0), exact))},
        "after": {str(mu): [after_twenty(amft, settings, mu, k) for k in (1, 2, 3)]
                  for mu in (MUS[0], MUS[-1])},
        "worth": {name: compared(amft, rises) for name, rises in worth.items()},
    }  # fmt: skip


def worth_of_each(amft: AMFT, up: torch.Tensor, mixture: torch.Tensor, state: Any) -> torch.Tensor:
    """Of the demonstrations that `AMFT.influence` takes at this step: the mean rise of log p."""
    _, rise, mask = amft.influence(uphill_direction(up, mixture, state))
    return (rise * mask).sum(1) / mask.sum(1)


def compared(amft: AMFT, rises: list[torch.Tensor]) -> dict[str, float | None]:
    """Mean correlation of two estimates; share of pairs in which the right expert rises more (None
    where all are right)."""
    n, c = len(amft.demonstrations), amft.config
    places = shuffled_passes(n, min(n, 128), amft.step, c.seed, "influence").tolist()
    right = torch.tensor([amft.demonstrations[place].right for place in places])
    table = torch.corrcoef(torch.stack(rises))
    pairs = table[torch.triu_indices(len(rises), len(rises), 1).unbind()]
    higher = [(r[right, None] > r[None, ~right]).double().mean().item() for r in rises]
    share = None if right.all() else rounded(sum(higher) / len(higher))
    return {"correlation": rounded(pairs.mean().item()), "right_above_wrong": share}


def after_twenty(amft: AMFT, settings: dict[str, Any], mu: float, number: int) -> float:
    """Validation success after 20 steps with one mu; `number` chooses prompts and draws."""
    changed = {"method": "fixed", "mu_start": mu, "seed": 100 * settings["seed"] + number}
    branch = start({**settings, **changed})
    branch.demonstrations, branch.expert_answers = amft.demonstrations, amft.expert_answers
    branch.load_state_dict(copy.deepcopy(amft.state_dict()))
    branch.rule.mu = mu
    for _ in range(20):
        branch.train_step()
    found = evaluate(
        branch.policy, branch.tokenizer, branch.task, "validation", 0, 8, greedy=False
    )  # fmt: skip
    return rounded(found.success.mean)


# --- putting them together ------------------------------------------------------------------------

JOBS: dict[str, dict[str, Any]] = {
    "runs": {
        f"runs-{place}-{seed}": partial(record_run, name, seed)
        for seed in SEEDS
        for place, name in enumerate(METHODS)
    },
    "bugs": {f"bugs-{place}": partial(record_bug, name) for place, name in enumerate(BUGS)},
    "noise": {f"noise-{step}": partial(record_noise, step) for step in POINTS},
    "lookahead": {
        f"lookahead-{step}-{seed}": partial(record_lookahead, step, seed)
        for step in POINTS
        for seed in range(8)
    },
    "signal": {
        f"signal-{place}-{seed}": partial(record_signal, regime, seed)
        for seed in (1, 2, 3, 4)
        for place, regime in enumerate(REGIMES)
    },
}


def work(share: int, of: int, names: list[str]) -> None:
    """Every block that is missing; with several workers, each takes its share."""
    torch.set_num_threads(1)
    jobs = [(key, job) for name in names for key, job in JOBS[name].items()]
    for place, (key, job) in enumerate(jobs):
        path = BLOCKS / f"{key}.json"
        if place % of != share or path.is_file():
            continue
        began = time.time()
        result = job()
        write_text(path, to_json({**result, "provenance": provenance()}))
        print(f"{key}: {time.time() - began:.0f} s", flush=True)


def made_with(made: dict[str, str]) -> dict[str, str]:
    """What must be the same for all blocks of a recording: versions and system. The commit may
    differ, for a stopped call may go on after one; `collect` lists them."""
    return {key: word for key, word in made.items() if key not in ("date", "commit")}


def check_alike(name: str) -> None:
    """Leave with code 2 where a block was made with something else than the others: than those
    still to be made now, or, if none is missing, than most. Blocks are only read here."""
    there = [path for key in JOBS[name] if (path := BLOCKS / f"{key}.json").is_file()]
    made = [made_with(json.loads(path.read_text(encoding="utf-8"))["provenance"]) for path in there]
    if not there:
        return
    missing = len(there) < len(JOBS[name])
    usual = made_with(provenance()) if missing else max(made, key=made.count)
    odd = [(path, words) for path, words in zip(there, made, strict=True) if words != usual]
    if odd:
        path, words = odd[0]
        unlike = [key for key in usual | words if words.get(key) != usual.get(key)]
        was, rest = (", ".join(f"{k} {w.get(k)}" for k in unlike) for w in (words, usual))
        others = "blocks that are missing would be" if missing else "the other blocks were"
        which = "it" if len(odd) == 1 else " ".join(str(path) for path, _ in odd)
        print(
            f"{path} was made with {was}, but {others} made with {rest}: "
            f"remove {which} and call again.",
            file=sys.stderr,
        )
        sys.exit(2)


def collect(name: str) -> None:
    """One file of all blocks; their provenance must agree but for the date and the commit."""
    check_alike(name)
    blocks = [json.loads((BLOCKS / f"{key}.json").read_text()) for key in JOBS[name]]
    made = [block.pop("provenance") for block in blocks]
    commits = sorted({p["commit"] for p in made})
    result = {"recording": name, "blocks": blocks, "provenance": {**made[-1], "commit": commits}}
    path = ROOT / "data" / "recordings" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    write_text(path, to_json(result, separators=(",", ":")) + "\n")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB")


#: A real model on a CPU. The warm-up was taken long enough, in advance and by guess, for 30 % of
#: groups to have reward variance after it; what it came to stands in the recording.
SMOLLM2 = {
    "lr": 5e-4, "steps": 90, "warmup_steps": 40, "prompts_per_step": 4, "rollouts_per_prompt": 4,
    "validation_prompts": 4, "validation_rollouts": 4, "meta_every": 5, "eval_prompts": 32,
    "eval_samples": 2, "demonstrations": 400,
}  # fmt: skip


def record_smollm2() -> None:
    """Train where it is not done, in runs/smollm2, and collect."""
    from amft_lite.config import read_file
    from amft_lite.trl_run import ModelRun

    folder = ROOT / "runs" / "smollm2"
    if (folder / "config.yaml").is_file():
        run = ModelRun(folder, ModelRun.open(folder).config)
    else:
        run = ModelRun.create(folder, build(read_file("smollm2_cpu"), SMOLLM2))
    summary = run.train(lambda p: print(p.step, p.facts.get("reward"), flush=True), print)
    keep = (
        "step phase mu reward entropy sft_loss groups_with_variance validation_reward mu_signal "
        "cos_sft_rl grad_norm_sft grad_norm_rl rollouts_tokens seconds"
    ).split()
    lines = [{k: rounded(line[k]) for k in keep if line.get(k) is not None} for line in run.metrics]
    mixed = [line["groups_with_variance"] for line in lines if line["phase"] == "train"]
    result = {
        "recording": "smollm2",
        "config": vars(run.config),
        "metrics": lines,
        "summary": summary,
        "informative_groups": {
            "mean": rounded(sum(mixed) / len(mixed)), "steps": len(mixed),
            "groups_a_step": run.config.prompts_per_step,
        },
        "provenance": json.loads((folder / "provenance.json").read_text(encoding="utf-8")),
    }  # fmt: skip
    text = to_json(result, indent=1) + "\n"
    write_text(ROOT / "data" / "recordings" / "smollm2.json", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(JOBS)}; all of these. Or smollm2 alone.",
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.names == ["smollm2"]:
        record_smollm2()
        return 0
    names = options.names or list(JOBS)
    if unknown := set(names) - set(JOBS):
        parser.error(f"no recording is called {', '.join(unknown)}; known: {', '.join(JOBS)}")
    BLOCKS.mkdir(parents=True, exist_ok=True)
    if options.share is not None:
        work(options.share, options.processes, names)
        return 0
    for name in names:
        check_alike(name)  # before hours are spent on blocks that could not be collected
    command = [sys.executable, __file__, *names, "--processes", str(options.processes)]
    workers = [subprocess.Popen([*command, "--share", str(n)]) for n in range(options.processes)]
    if any([worker.wait() for worker in workers]):
        return 1
    for name in names:
        collect(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
