"""Checks of notebook 04: putting Algorithm 1 together, and judging its runs."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from amft_lite import meta_gradient as mg
from amft_lite.exercises.checking import Exercise, Mistake


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


_S, _R = _randn(5), _randn(5, seed=1)

MIX = Exercise(
    "mix",
    mg.mix,
    [(_S, _R, 0.3), (_S, _R, 1.0), (_S, _R, 0.0)],
    [
        Mistake(
            "swapped",
            "mu weighs g_RL here; in Eq. 3 mu is the weight of imitation, so it belongs to g_SFT",
            lambda s, r, mu: mu * r + (1 - mu) * s,
        ),
        Mistake(
            "not convex",
            "g_RL keeps its full weight; Eq. 3 takes from it what it gives to g_SFT: 1 - mu",
            lambda s, r, mu: r + mu * s,
        ),
        Mistake(
            "difference",
            "this is the derivative with respect to mu, g_SFT - g_RL, not the mixture",
            lambda s, r, mu: s - r,
        ),
        Mistake(
            "plain mean",
            "mu is not used; both gradients weigh one half",
            lambda s, r, mu: (s + r) / 2,
        ),
        Mistake(
            "minus",
            "the two parts are subtracted; Eq. 3 adds them",
            lambda s, r, mu: (1 - mu) * r - mu * s,
        ),
        Mistake(
            "only imitation",
            "g_RL is missing",
            lambda s, r, mu: mu * s,
        ),
    ],
)

CLIP_BY_NORM = Exercise(
    "clip_by_norm",
    mg.clip_by_norm,
    [(_S, 0.5), (0.01 * _R, 0.5), (3 * _R, 1.0)],
    [
        Mistake(
            "each coordinate",
            "every coordinate is clamped on its own, which turns the gradient; scale the whole "
            "vector",
            lambda g, most: g.clamp(-most, most),
        ),
        Mistake(
            "always scaled",
            "short gradients are stretched to max_norm; clipping only ever shortens",
            lambda g, most: g * most / g.norm(),
        ),
        Mistake(
            "squared norm",
            "the squared norm is used; take its root",
            lambda g, most: g * min(1.0, most / float((g**2).sum())),
        ),
        Mistake(
            "largest coordinate",
            "the largest coordinate is used in place of the (Euclidean) norm",
            lambda g, most: g * min(1.0, most / float(g.abs().max())),
        ),
        Mistake(
            "divided",
            "the gradient is divided by its norm but not multiplied by max_norm",
            lambda g, most: g / g.norm() if g.norm() > most else g,
        ),
    ],
)


def _linear(step, steps, warmup_steps, high, low):
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return high + (low - high) * min(max(progress, 0.0), 1.0)


def _schedule(progress):
    def mu(step, steps, warmup_steps, high, low):
        return high + (low - high) * min(max(progress(step, steps, warmup_steps), 0.0), 1.0)

    return mu


LINEAR_MU = Exercise(
    "linear_mu",
    _linear,
    [(15, 150, 15, 0.95, 0.05), (149, 150, 15, 0.95, 0.05), (60, 150, 15, 0.9, 0.1),
     (5, 150, 15, 0.95, 0.05)],
    [
        Mistake(
            "warm-up ignored",
            "the way is measured from step 0; it starts when warm-up ends",
            _schedule(lambda t, T, W: t / (T - 1)),
        ),
        Mistake(
            "never arrives",
            "the last step is T - 1, and there mu should have arrived at `low`",
            _schedule(lambda t, T, W: (t - W) / (T - W)),
        ),
        Mistake(
            "reversed",
            "mu rises here; imitation comes first, so it falls from `high` to `low`",
            lambda t, T, W, high, low: _linear(t, T, W, low, high),
        ),
        Mistake(
            "not held",
            "before the end of warm-up the line goes on upwards; hold mu at `high` there",
            lambda t, T, W, high, low: high + (low - high) * (t - W) / (T - 1 - W),
        ),
        Mistake(
            "low ignored",
            "mu falls to 0 and not to `low`",
            lambda t, T, W, high, low: high * (1 - min(max((t - W) / (T - 1 - W), 0.0), 1.0)),
        ),
    ],
)  # fmt: skip


def _shared(training: list[str], validation: list[str]) -> list[str]:
    return sorted(set(training) & set(validation))


def _name_of(prompt: str) -> str:
    return "-".join(map(str, sorted(int(card) for card in prompt.split())))


def _leaks(training: list[str], validation: list[str]) -> list[str]:
    return _shared([_name_of(p) for p in training], [_name_of(p) for p in validation])


LEAKS = Exercise(
    "leaks",
    _leaks,
    [
        (["3 8 10", "2 2 5", "1 4 9"], ["8 10 3", "2 5 7", "9 9 1"]),
        (["1 2 3", "3 2 1", "7 8 9"], ["2 1 3", "9 8 7", "3 1 2"]),
        (["10 2 2"], ["2 2 10", "2 10 2"]),
    ],
    [
        Mistake(
            "text compared",
            "the prompts are compared as they are written; the same hand in another order is the "
            "same hand. Sort the numbers first",
            lambda train, val: _shared(
                ["-".join(p.split()) for p in train], ["-".join(p.split()) for p in val]
            ),
        ),
        Mistake(
            "sorted as text",
            "the cards are sorted as text, where '10' comes before '2'; sort them as numbers",
            lambda train, val: _shared(
                ["-".join(sorted(p.split())) for p in train],
                ["-".join(sorted(p.split())) for p in val],
            ),
        ),
        Mistake(
            "sets of cards",
            "a hand is turned into a set, so 9 9 1 and 9 1 1 become one; cards may repeat",
            lambda train, val: _shared(
                ["-".join(map(str, sorted({int(c) for c in p.split()}))) for p in train],
                ["-".join(map(str, sorted({int(c) for c in p.split()}))) for p in val],
            ),
        ),
        Mistake(
            "repeated",
            "a shared hand is listed once for each time it occurs; list it once",
            lambda train, val: sorted(
                name for name in map(_name_of, val) if name in set(map(_name_of, train))
            ),
        ),
        Mistake(
            "all names",
            "these are all hands; only those on both sides leak",
            lambda train, val: sorted({*map(_name_of, train), *map(_name_of, val)}),
        ),
    ],
    fallback=(
        "the list of shared hands is not right. For ['3 8 10', '2 2 5'] and ['8 10 3', '2 5 7'] "
        "it is ['3-8-10']: values sorted as numbers, joined by '-', each hand once, in order"
    ),
)


def _g_sft(theta: Tensor) -> Tensor:
    return theta - 1.0


def _g_rl(theta: Tensor) -> Tensor:
    return torch.sin(theta) + 0.5


def _rule(mu: float, g_sft: Tensor, g_rl: Tensor) -> float:
    """A rule that depends on all it is given."""
    return 0.9 * mu + 0.05 * math.tanh(float(g_rl.norm() - g_sft.norm()))


def _amft_step(theta, mu, g_sft, g_rl, rule, lr, new=True, late=False, sign=-1, swap=False):
    s, r = g_sft(theta), g_rl(theta)
    mu_next = rule(mu, s, r)
    used = mu_next if new else mu
    moved = theta + sign * lr * mg.mix(*((r, s) if swap else (s, r)), used)
    if late:
        moved = theta + sign * lr * mg.mix(s, r, mu)
        mu_next = rule(mu, g_sft(moved), g_rl(moved))
    return moved, mu_next


AMFT_STEP = Exercise(
    "amft_step",
    _amft_step,
    [(_randn(4, seed=7), 0.5, _g_sft, _g_rl, _rule, 0.1),
     (_randn(4, seed=8), 0.8, _g_sft, _g_rl, _rule, 0.3)],
    [
        Mistake(
            "old mu",
            "the step uses the old mu. In Algorithm 1 line 9 comes before line 11: the loss is "
            "mixed with the *new* mu",
            lambda *a: _amft_step(*a, new=False),
        ),
        Mistake(
            "rule after the step",
            "the rule is asked with gradients at the new weights; it comes before the step, with "
            "the gradients that the step uses",
            lambda *a: _amft_step(*a, late=True),
        ),
        Mistake(
            "ascent",
            "the weights move up the loss: the step is against the gradient",
            lambda *a: _amft_step(*a, sign=1),
        ),
        Mistake(
            "weights swapped",
            "mu weighs g_RL here; it belongs to g_SFT",
            lambda *a: _amft_step(*a, swap=True),
        ),
        Mistake(
            "mu not returned",
            "the old mu is returned beside the new weights; the next step needs the new one",
            lambda theta, mu, *a: (_amft_step(theta, mu, *a)[0], mu),
        ),
    ],
)  # fmt: skip


def _paired(a, b, t_value):
    d = np.asarray(a) - np.asarray(b)
    half = t_value * d.std(ddof=1) / math.sqrt(len(d))
    return float(d.mean()), float(d.mean() - half), float(d.mean() + half)


def _around(mean: float, half: float) -> tuple[float, float, float]:
    return mean, mean - half, mean + half


def _unpaired(a, b, t_value):
    a, b = np.asarray(a), np.asarray(b)
    half = t_value * math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    return _around(float(a.mean() - b.mean()), half)


_SEEDS_A = [0.21, 0.18, 0.24, 0.19, 0.22]
_SEEDS_B = [0.16, 0.15, 0.20, 0.13, 0.18]

PAIRED_INTERVAL = Exercise(
    "paired_interval",
    _paired,
    [(_SEEDS_A, _SEEDS_B, 2.776), (_SEEDS_B[:3], _SEEDS_A[:3], 4.303)],
    [
        Mistake(
            "unpaired",
            "the two spreads are added, as if the seeds had nothing to do with each other. Take "
            "the differences seed by seed first",
            _unpaired,
        ),
        Mistake(
            "no root of n",
            "this is the spread of single differences; the mean of n is sqrt(n) times steadier",
            lambda a, b, t: _around(*(lambda d: (float(d.mean()), t * float(d.std(ddof=1))))(
                np.asarray(a) - np.asarray(b))),
        ),
        Mistake(
            "population spread",
            "the spread is divided by n; with few seeds that is too small: use n - 1 (ddof=1)",
            lambda a, b, t: _around(*(lambda d: (
                float(d.mean()), t * float(d.std()) / math.sqrt(len(d))))(
                np.asarray(a) - np.asarray(b))),
        ),
        Mistake(
            "normal quantile",
            "1.96 belongs to many seeds; with n = 5 Student's t asks for 2.776 (it is an argument)",
            lambda a, b, t: _paired(a, b, 1.96),
        ),
        Mistake(
            "wrong way round",
            "this is b - a",
            lambda a, b, t: _paired(b, a, t),
        ),
    ],
)  # fmt: skip

EXERCISES = (MIX, AMFT_STEP, CLIP_BY_NORM, LINEAR_MU, LEAKS, PAIRED_INTERVAL)
