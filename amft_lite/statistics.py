"""Intervals: over problems for one run, over seeds for a comparison.

Answers to one hand, and hands of one value multiset, resemble each other; counting each draw as
independent would make intervals too short. So one run's interval resamples whole multisets, and a
comparison of methods counts seeds.

Left out: aggregate measures over many tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean with a 95 % interval, and how many independent things it rests on."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n}"


def cluster_bootstrap(
    successes: Sequence[float],
    trials: Sequence[float],
    groups: Sequence[str],
    draws: int = 4000,
    seed: int = 0,
) -> Interval:
    """Share of successes with a percentile bootstrap over groups.

    One entry a problem: its successes, its trials, its group. Groups are drawn with replacement;
    the seed is fixed, so an interval never changes between calls.

    Raises:
        ValueError: nothing to average, or lengths differ.
    """
    if not len(successes) or not len(successes) == len(trials) == len(groups):
        raise ValueError("successes, trials and groups need one entry a problem, and at least one")
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    hits = np.bincount(place, np.asarray(successes, float))
    total = np.bincount(place, np.asarray(trials, float))
    chosen = np.random.default_rng(seed).integers(0, len(names), (draws, len(names)))
    means = hits[chosen].sum(1) / total[chosen].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(hits.sum() / total.sum()), float(low), float(high), len(names))


def attempts_at(k: int, successes: int, samples: int) -> float:
    """Chance that at least one of `k` independent answers is right, unbiased from `samples` of
    them of which `successes` were (Chen et al. 2021, arXiv 2107.03374, Eq. 1).

    Raises:
        ValueError: fewer than `k` samples.
    """
    if samples < k:
        raise ValueError(f"attempts@{k} needs at least {k} samples, not {samples}")
    return 1.0 - math.comb(samples - successes, k) / math.comb(samples, k)


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over seeds with Student's t interval; give paired differences to compare methods.

    Raises:
        ValueError: fewer than two values.
        ImportError: scipy is missing (the extra `study` brings it).
    """
    try:
        from scipy.stats import t
    except ImportError:
        raise ImportError(
            "intervals over seeds need scipy: pip install 'amft-lite[study]'"
        ) from None
    x = np.asarray(values, float)
    if len(x) < 2:
        raise ValueError("an interval over seeds needs at least two of them")
    half = float(t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, len(x))
