"""Intervals: over problems for one run, over seeds for a comparison, over both for a study.

Answers to one hand, and hands of one value multiset, resemble each other; counting each draw as
independent would make intervals too short. So one run's interval resamples whole multisets, and a
comparison of methods counts seeds.

S, R and A are numbers of seeds, regimes and arms. What compares two methods takes [S, R], seeds
first; `table` gives [A, R, S], so one arm of it is handed over as `values[a].T`.

Left out: performance profiles, models of several effects at once, Bayesian intervals.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean with an interval (of 95 % where nothing else is said), and how many independent
    things it rests on."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self:.3f} n={self.n}"

    def __format__(self, form: str) -> str:
        """`f"{interval:+.3f}"` is "+0.012 [+0.005, +0.019]"; without a form, as `str`."""
        if not form:
            return str(self)
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"


def _optional(name: str) -> Any:
    """A module that only the extra `study` brings."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        package = name.split(".")[0]
        raise ImportError(
            f"intervals over seeds need {package}: pip install 'amft-lite[study]'"
        ) from None


# --- one run --------------------------------------------------------------------------------------


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


# --- cells of a study -----------------------------------------------------------------------------


def score(cell: Mapping[str, Any], split: str, kind: str = "sampled") -> float:
    """Success of a cell; a diverged run has none."""
    return 0.0 if "diverged" in cell else cell["splits"][split][kind]


def _named(places: Sequence[tuple[str, str, int]]) -> str:
    """At most ten cells in words."""
    words = [f"{arm} in {regime}, seed {seed}" for arm, regime, seed in places]
    more = f"; and {len(words) - 10} more" if len(words) > 10 else ""
    return "; ".join(words[:10]) + more


def table(
    cells: Sequence[Mapping[str, Any]],
    split: str,
    kind: str = "sampled",
    arms: Sequence[str] | None = None,
    regimes: Sequence[str] | None = None,
) -> tuple[np.ndarray, list[int]]:
    """Success as [A, R, S], and the seeds; a diverged run counts 0.

    Seeds are those that all arms and regimes have (a study that was stopped lacks some cells of its
    last seed), ascending. `arms` and `regimes` default to all, in the order of the cells.

    Raises:
        ValueError: no seed is whole, a cell was not measured so, or two cells are of one place
            (candidates of a tuning study); the cells are named.
    """
    arms = list(dict.fromkeys(c["arm"] for c in cells)) if arms is None else list(arms)
    regimes = list(dict.fromkeys(c["regime"] for c in cells)) if regimes is None else list(regimes)
    found: dict[tuple[str, str, int], Mapping[str, Any]] = {}
    for cell in cells:
        place = (cell["arm"], cell["regime"], cell["seed"])
        if cell["arm"] in arms and cell["regime"] in regimes:
            if place in found:
                raise ValueError(f"two cells of {_named([place])}: keep one candidate of each arm")
            found[place] = cell
    lacking = {
        seed: [(a, r, seed) for a in arms for r in regimes if (a, r, seed) not in found]
        for seed in sorted({seed for _, _, seed in found})
    }
    seeds = [seed for seed, places in lacking.items() if not places]
    if not lacking:
        raise ValueError(f"no cell is of the arms {arms} and the regimes {regimes}")
    if not seeds:
        raise ValueError(f"no seed is whole; missing: {_named(min(lacking.values(), key=len))}")
    places = [(a, r, s) for a in arms for r in regimes for s in seeds]
    lost = [
        place for place in places
        if "diverged" not in found[place] and kind not in found[place]["splits"].get(split, {})
    ]  # fmt: skip
    if lost:
        raise ValueError(f"not measured on {split}, {kind}: {_named(lost)}")
    values = np.array([score(found[place], split, kind) for place in places], float)
    return values.reshape(len(arms), len(regimes), len(seeds)), seeds


def regret(
    values: np.ndarray, reference_arms: Sequence[int], leave_one_out: bool = False
) -> np.ndarray:
    """[A, R, S] -> [A, R, S]: each regime's best reference arm minus the value, seed by seed.

    The best is the one of the highest mean over seeds, of equal ones the first. Chosen by the very
    seeds it is judged on, it is flattered: the highest of several noisy means lies above the
    highest true mean, so every other arm's regret comes out too large. With `leave_one_out` the
    best for seed s is chosen on the other seeds; that is not inflated (what one loses by not having
    tuned a constant on S - 1 seeds).

    Raises:
        ValueError: not [A, R, S], no such reference arm, or one seed to leave out.
    """
    values = np.asarray(values, float)
    if values.ndim != 3:
        raise ValueError(f"regret needs [arms, regimes, seeds], not {list(values.shape)}")
    places = list(reference_arms)
    if not places or not all(0 <= place < len(values) for place in places):
        raise ValueError(f"reference arms must be among 0..{len(values) - 1}, not {places}")
    reference, seeds = values[places], values.shape[2]
    means = reference.mean(2, keepdims=True)
    if leave_one_out:
        if seeds < 2:
            raise ValueError("leaving one seed out needs at least two of them")
        means = (reference.sum(2, keepdims=True) - reference) / (seeds - 1)
    best = means.round(12).argmax(0, keepdims=True)  # rounded, so that equal means are equal
    best = np.broadcast_to(best, (1, *reference.shape[1:]))
    return np.take_along_axis(reference, best, 0) - values


# --- over seeds: Student's t ----------------------------------------------------------------------


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean over seeds with Student's t interval; give `seed_differences` to compare methods.

    Why t and not a percentile bootstrap of seeds: by simulation of normal differences t covers .95
    at any n, the bootstrap .84 at 5 seeds and .90 at 10; of lognormal ones t covers .82 and .84,
    the bootstrap .72 and .81.

    Raises:
        ValueError: fewer than two values.
        ImportError: scipy is missing (the extra `study` brings it).
    """
    t = _optional("scipy.stats").t
    x = np.asarray(values, float)
    if len(x) < 2:
        raise ValueError("an interval over seeds needs at least two of them")
    half = float(t.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, len(x))


def seed_differences(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x - y of two methods, averaged over regimes: [S, R] (or [S]) twice -> [S].

    The seed is the unit, for it sets demonstrations and order of both methods and all regimes.

    Raises:
        ValueError: shapes differ.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim not in (1, 2):
        raise ValueError(f"pairs need two equal [seeds, regimes], not {x.shape} and {y.shape}")
    return (x - y).reshape(len(x), -1).mean(1)


def p_value(differences: Sequence[float]) -> float:
    """Two-sided p value of a t test that the mean of [S] paired differences is 0.

    Of equal differences: 0, or 1 where they are all 0.

    Raises:
        ValueError: fewer than two differences.
        ImportError: scipy is missing (the extra `study` brings it).
    """
    stats, x = _optional("scipy.stats"), np.asarray(differences, float)
    if len(x) < 2:
        raise ValueError("a test over seeds needs at least two of them")
    if np.ptp(x) == 0:
        return float(x[0] == 0)
    return float(2 * stats.t.sf(abs(x.mean()) / x.std(ddof=1) * math.sqrt(len(x)), len(x) - 1))


def detectable(differences: Sequence[float], alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided paired t test sees with that power.

    By the noncentral t distribution, at the n and the standard deviation of these [S] differences
    (taken for the true one). Printed beside a difference: a smaller one may well be there unseen.

    Raises:
        ValueError: fewer than two differences.
        ImportError: scipy is missing (the extra `study` brings it).
    """
    stats, optimize = _optional("scipy.stats"), _optional("scipy.optimize")
    x = np.asarray(differences, float)
    if len(x) < 2:
        raise ValueError("a detectable difference needs at least two seeds")
    free = len(x) - 1
    edge = float(stats.t.ppf(1 - alpha / 2, free))

    def lacking(shift: float) -> float:  # on the wrong side: 1 in 10^6
        return float(stats.nct.sf(edge, free, shift)) - power

    return float(optimize.brentq(lacking, 0.0, 3 * edge + 5) * x.std(ddof=1) / math.sqrt(len(x)))


#: Share of nominal 95 % percentile bootstrap intervals that hold the mean of n normal scores, by
#: simulation (60 000 samples each).
COVERAGE = {2: 0.50, 3: 0.75, 4: 0.80, 5: 0.84, 6: 0.86, 7: 0.88, 8: 0.885, 9: 0.89}


def seeds_warning(n: int) -> str:
    """Nothing for 10 seeds or more, else what an interval of `n` of them is worth."""
    if n >= 10:
        return ""
    if n not in COVERAGE:
        return "One seed tells nothing of the spread over seeds: take the numbers as anecdotes."
    return (
        f"Only {n} seeds: a percentile bootstrap that claims 95 % covers {100 * COVERAGE[n]:.3g} % "
        f"(simulated, normal scores), so read Student's t intervals and trust no small difference."
    )


# --- several comparisons --------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> np.ndarray:
    """[m] p values -> [m] adjusted ones, in the same order; below alpha: rejected, and the chance
    of any false rejection among the m is at most alpha (Holm 1979).

    Raises:
        ValueError: a p value is not in [0, 1].
    """
    p = np.asarray(p_values, float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p values lie in [0, 1], not {p.tolist()}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


# --- over seeds and regimes: rliable --------------------------------------------------------------


def _rliable(
    scores: Sequence[np.ndarray], func: Callable[..., float], draws: int, seed: int
) -> Interval:
    """rliable's percentile interval; one [S, R] alone, or two that are resampled apart.

    rliable 1.2.0 takes a RandomState but draws from numpy's global generator, so that is set here
    and put back; arch warns of the argument's name.
    """
    arrays = [np.asarray(x, float) for x in scores]
    if any(x.ndim != 2 or len(x) < 2 for x in arrays) or len({x.shape[1] for x in arrays}) > 1:
        shapes = " and ".join(str(list(x.shape)) for x in arrays)
        raise ValueError(f"rliable needs [seeds, regimes] with at least two seeds, not {shapes}")
    library, key = _optional("rliable.library"), "x,y" if len(arrays) > 1 else "x"
    kept = np.random.get_state()
    try:
        np.random.seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            points, intervals = library.get_interval_estimates(
                {key: arrays if len(arrays) > 1 else arrays[0]},
                lambda *x: np.array([func(*x)]), reps=draws,
                random_state=np.random.RandomState(seed),
            )  # fmt: skip
    finally:
        np.random.set_state(kept)
    low, high = intervals[key][:, 0]
    return Interval(float(points[key][0]), float(low), float(high), min(map(len, arrays)))


def iqm(x: np.ndarray, draws: int = 4000, seed: int = 0) -> Interval:
    """Interquartile mean of [S, R] (the middle half of all values) with rliable's interval.

    A stratified bootstrap: seeds are resampled in each regime by itself, as if a seed's runs in two
    regimes had nothing in common. Where they do, it is too short, and `mean_interval`, of
    seeds taken whole, is right. Of 3 seeds and 1 regime nothing is trimmed. Percentiles: see
    `seeds_warning` (Agarwal et al. 2021, arXiv 2108.13264).

    Raises:
        ValueError: not [S, R], or fewer than two seeds.
        ImportError: rliable is missing (the extra `study` brings it).
    """
    return _rliable([x], _optional("rliable.metrics").aggregate_iqm, draws, seed)


def mean(x: np.ndarray, draws: int = 4000, seed: int = 0) -> Interval:
    """Mean of [S, R] with rliable's interval; the rest as for `iqm`."""
    return _rliable([x], _optional("rliable.metrics").aggregate_mean, draws, seed)


def probability_of_improvement(
    x: np.ndarray, y: np.ndarray, draws: int = 4000, seed: int = 0
) -> Interval:
    """Chance that a run of x [S, R] beats one of y [S', R] in a regime, averaged over regimes.

    Ties count half. rliable's interval resamples both methods, apart: it knows no pairs of seeds.
    The statistic equals `rliable.metrics.probability_of_improvement`, without that one's p values,
    which take nearly all the time (0.5 ms a regime and draw).

    Raises:
        ValueError: not [S, R] both, numbers of regimes differ, or fewer than two seeds.
        ImportError: rliable is missing (the extra `study` brings it).
    """

    def beats(x: np.ndarray, y: np.ndarray) -> float:
        return (np.sign(x[:, None] - y[None]).mean() + 1) / 2

    return _rliable([x, y], beats, draws, seed)


# --- over problems --------------------------------------------------------------------------------


def over_problems(
    cells_x: Sequence[Mapping[str, Any]],
    cells_y: Sequence[Mapping[str, Any]],
    split: str = "test",
    sizes: Mapping[str, int] | None = None,
    draws: int = 4000,
    seed: int = 0,
) -> Interval:
    """Mean success of x minus y, with a percentile interval over other sets of test problems.

    Value multisets (the groups in `hits`) are resampled, the same for both arms and all cells, so
    what the cells share cancels. Seeds stay as they are: this is how far another draw of problems
    would move the difference that these very runs show, to be read beside `mean_interval`.

    Cells are paired by regime and seed. A diverged run answers nothing. `sizes` is each group's
    number of problems, which cells do not keep (but the pilot's, whose hits are [hits, answers]);
    without it groups count as equally large, which leaves the mean as it is and as a rule makes
    the interval of a large difference too wide.

    Raises:
        ValueError: cells do not pair, have no hits, or differ in their groups.
    """
    sides = [{(c["regime"], c["seed"]): c for c in cells} for cells in (cells_x, cells_y)]
    if not sides[0] or sides[0].keys() != sides[1].keys():
        raise ValueError("both arms need one cell in the same regimes and seeds")
    if [len(side) for side in sides] != [len(cells_x), len(cells_y)]:
        raise ValueError("an arm has two cells of one regime and seed: keep one candidate")
    measured = [
        c["splits"].get(split, {}) for s in sides for c in s.values() if "diverged" not in c
    ]
    if not measured or any("hits" not in facts for facts in measured):
        raise ValueError(f"cells keep no hits by group on {split}")
    first = measured[0]
    groups, problems = sorted(first["hits"]), first["problems"]
    if any(set(f["hits"]) != set(groups) or f["problems"] != problems for f in measured):
        raise ValueError("cells were measured on different problems")
    if sizes is None and all(isinstance(hit, list) for hit in first["hits"].values()):
        sizes = {group: n // first["samples"] for group, (_, n) in first["hits"].items()}
    if sizes is not None and (set(sizes) != set(groups) or sum(sizes.values()) != problems):
        raise ValueError(f"sizes must give {problems} problems in the groups of the hits")

    def solved(cell: Mapping[str, Any]) -> np.ndarray:
        if "diverged" in cell:
            return np.zeros(len(groups))
        facts = cell["splits"][split]
        return np.array([np.ravel(facts["hits"][g])[0] for g in groups]) / facts["samples"]

    x, y = (np.mean([solved(cell) for cell in side.values()], axis=0) for side in sides)
    each = [problems / len(groups) if sizes is None else sizes[group] for group in groups]
    return cluster_bootstrap(x - y, each, groups, draws, seed)
