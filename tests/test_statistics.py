"""Intervals against closed forms, simulation of their coverage, and other libraries."""

import itertools

import numpy as np
import pytest

from amft_lite.evaluation import Evaluation, evaluate
from amft_lite.statistics import attempts_at, cluster_bootstrap, mean_interval


def test_attempts_at_k_by_enumerating_every_choice_of_k_samples():
    for samples in (5, 7):
        for successes in range(samples + 1):
            marks = [1] * successes + [0] * (samples - successes)
            for k in (1, 2, 5):
                tries = list(itertools.combinations(marks, k))
                expected = sum(any(t) for t in tries) / len(tries)
                assert attempts_at(k, successes, samples) == pytest.approx(expected)
    with pytest.raises(ValueError, match="at least 5"):
        attempts_at(5, 1, 4)


def test_mean_interval_is_scipy_s_and_needs_two_values():
    from scipy import stats

    x = [0.1, 0.4, 0.2, 0.35]
    found = mean_interval(x)
    low, high = stats.t.interval(0.95, 3, np.mean(x), stats.sem(x))
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((0.2625, low, high, 4))
    with pytest.raises(ValueError, match="two"):
        mean_interval([1.0])


def test_bootstrap_resamples_groups_not_draws():
    """Ten groups that are all right or all wrong: the spread is that of 10 coins, not of 1000."""
    successes = [100, 0] * 5
    found = cluster_bootstrap(successes, [100] * 10, [str(i) for i in range(10)])
    assert (found.mean, found.n) == (0.5, 10)
    assert found.high - found.low == pytest.approx(2 * 1.96 * (0.25 / 10) ** 0.5, rel=0.1)
    pooled = cluster_bootstrap([c for c in successes for _ in range(10)], [100] * 100,
                               [str(i) for i in range(10) for _ in range(10)])  # fmt: skip
    assert (pooled.low, pooled.high) == (found.low, found.high)


def test_bootstrap_is_the_same_on_every_call_and_covers():
    args = ([1, 3, 0, 2], [4] * 4, ["a", "b", "c", "a"])
    assert cluster_bootstrap(*args) == cluster_bootstrap(*args)
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        rates = rng.beta(2, 6, 40)  # 40 multisets, mean 0.25, 8 draws each
        found = cluster_bootstrap(rng.binomial(8, rates), [8] * 40, list(map(str, range(40))), 500)
        covered += found.low <= 0.25 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_unequal_groups_are_weighted_by_their_trials():
    assert cluster_bootstrap([8, 0], [8, 2], ["a", "b"]).mean == pytest.approx(0.8)
    for bad in (([], [], []), ([1], [1, 1], ["a"])):
        with pytest.raises(ValueError, match="one entry a problem"):
            cluster_bootstrap(*bad)


def test_an_evaluation_by_hand():
    found = Evaluation("test", 5, [5, 0, 1], ["a", "a", "b"], [1, 0, 0])
    assert found.success.mean == pytest.approx(6 / 15) and found.success.n == 2
    assert found.greedy_success.mean == pytest.approx(1 / 3)
    assert found.attempts(5).mean == pytest.approx(2 / 3)


def test_evaluation_grades_the_right_prompt_and_repeats(base, task):
    """A policy that answers one known problem: only that problem counts as solved."""
    policy, tokenizer = base
    a = evaluate(policy, tokenizer, task, "test", 40, 5)
    assert a == evaluate(policy, tokenizer, task, "test", 40, 5)
    assert len(a.correct) == 40 and sum(a.outcomes.values()) == 200
    assert sum(a.correct) == a.outcomes.get("correct", 0)
    assert set(a.groups) <= {e.group for e in task.prompts("test")}
    whole = evaluate(policy, tokenizer, task, "test", 0, 1, greedy=False)
    assert len(whole.correct) == len(task.problems("test"))
