"""Intervals against closed forms, simulation of their coverage, and other libraries."""

import itertools
import sys

import numpy as np
import pytest
from scipy import stats

from amft_lite import evaluation
from amft_lite.evaluation import Evaluation, evaluate
from amft_lite.statistics import (
    COVERAGE,
    Interval,
    attempts_at,
    cluster_bootstrap,
    detectable,
    holm,
    iqm,
    mean,
    mean_interval,
    over_problems,
    p_value,
    probability_of_improvement,
    regret,
    score,
    seed_differences,
    seeds_warning,
    table,
)


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
    x = [0.1, 0.4, 0.2, 0.35]
    found = mean_interval(x)
    low, high = stats.t.interval(0.95, 3, np.mean(x), stats.sem(x))
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((0.2625, low, high, 4))
    found = mean_interval(x, 0.99)
    assert (found.low, found.high) == pytest.approx(
        stats.t.interval(0.99, 3, np.mean(x), stats.sem(x))
    )
    with pytest.raises(ValueError, match="two"):
        mean_interval([1.0])


def test_an_interval_in_a_form():
    found = Interval(0.0123, -0.0056, 0.03, 7)
    assert f"{found:+.3f}" == "+0.012 [-0.006, +0.030]"
    assert f"{Interval(1234.5, 1000, 2000, 2):,.0f}" == "1,234 [1,000, 2,000]"
    assert f"{found}" == str(found) and str(found).endswith("n=7")


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


def test_an_answer_is_graded_against_its_own_prompt(task, monkeypatch):
    """A policy that answers one known problem, in whatever batch: that one counts as solved."""
    asked = task.prompts("test", None, 0)
    expert = next(d for d in task.demonstrations(100, split="test") if d.example in asked)

    def roll(policy, tokenizer, task, prompts, n, *rest, **named):
        return None, [expert.completion if e == expert.example else "no" for e in prompts
                      for _ in range(n)], None  # fmt: skip

    monkeypatch.setattr(evaluation, "roll", roll)
    found = evaluate(None, None, task, "test", 0, 5)
    here = [e == expert.example for e in asked]
    assert sum(here) == 1 and len(here) > 256 // 5
    assert found.correct == [5 * x for x in here] and found.greedy == here


def test_an_evaluation_repeats(base, task):
    policy, tokenizer = base
    a = evaluate(policy, tokenizer, task, "test", 40, 5)
    assert a == evaluate(policy, tokenizer, task, "test", 40, 5)
    assert len(a.correct) == 40 and sum(a.outcomes.values()) == 200
    assert sum(a.correct) == a.outcomes.get("correct", 0)
    assert set(a.groups) <= {e.group for e in task.prompts("test")}
    whole = evaluate(policy, tokenizer, task, "test", 0, 1, greedy=False)
    assert len(whole.correct) == len(task.problems("test"))


# --- cells of a study -----------------------------------------------------------------------------


def cell(arm, regime, seed, sampled, **more):
    return {
        "arm": arm, "regime": regime, "seed": seed, "settings": {},
        "splits": {"test": {"sampled": sampled, "greedy": sampled / 2}}, **more,
    }  # fmt: skip


def grid_of_cells(arms="ab", regimes="uvw", seeds=(3, 1, 2)):
    """Success tells the place: arm's tenths, regime's hundredths, seed's thousandths."""
    return [
        cell(arm, regime, seed, round(i / 10 + j / 100 + seed / 1000, 3))
        for seed in seeds for j, regime in enumerate(regimes) for i, arm in enumerate(arms)
    ]  # fmt: skip


def test_table_puts_arms_regimes_and_seeds_where_it_says():
    values, seeds = table(grid_of_cells(), "test", "sampled")
    assert values.shape == (2, 3, 3) and seeds == [1, 2, 3]
    assert values[1, 2].tolist() == pytest.approx([0.121, 0.122, 0.123])
    greedy, _ = table(grid_of_cells(), "test", "greedy", arms=["b", "a"], regimes=["w"])
    assert greedy.tolist() == pytest.approx(values[::-1, 2:] / 2)


def test_table_counts_a_diverged_run_as_nothing_and_leaves_incomplete_seeds_out():
    cells = grid_of_cells()
    cells[0] = {"arm": "a", "regime": "u", "seed": 3, "settings": {}, "diverged": "at step 4"}
    assert score(cells[0], "test") == 0.0 and score(cells[1], "test") == 0.103
    values, seeds = table(cells, "test", "sampled")
    assert seeds == [1, 2, 3] and values[0, 0].tolist() == [0.001, 0.002, 0.0]
    del cells[-1]  # b in w of seed 2
    assert table(cells, "test", "sampled")[1] == [1, 3]
    assert table(cells, "test", "sampled", arms=["a"])[1] == [1, 2, 3]
    assert table(cells, "test", "sampled", regimes=["u", "v"])[1] == [1, 2, 3]


def test_table_names_what_is_missing():
    cells = grid_of_cells(seeds=[1, 2])
    short = [c for c in cells if (c["arm"], c["regime"], c["seed"]) not in {
        ("b", "v", 1), ("a", "u", 2), ("a", "w", 2)}]  # fmt: skip
    with pytest.raises(ValueError, match=r"no seed is whole; missing: b in v, seed 1$"):
        table(short, "test", "sampled")
    with pytest.raises(ValueError, match=r"not measured on ood_rule, sampled: a in u, seed 1; .*2"):
        table(cells, "ood_rule", "sampled")
    with pytest.raises(ValueError, match=r"c in u, seed 1; c in v, seed 1; c in w, seed 1$"):
        table(cells, "test", "sampled", arms=["a", "c"])
    with pytest.raises(ValueError, match="no cell"):
        table(cells, "test", "sampled", arms=["c"])
    twice = [*cells, cell("a", "u", 1, 0.5, candidate="lr=1e-3")]
    with pytest.raises(ValueError, match="two cells of a in u, seed 1"):
        table(twice, "test", "sampled")
    assert table(twice, "test", "sampled", arms=["b"])[1] == [1, 2]


def test_table_of_a_committed_study():
    from amft_lite.results import shipped

    values, seeds = table(shipped("quick")["cells"], "test", "sampled")
    assert seeds == list(range(1, 11)) and values.shape[1:] == (1, 10)
    assert ((values > 0.05) & (values < 0.6)).all()


def test_regret_by_hand():
    values = np.array([
        [[0.1, 0.3, 0.5], [0.6, 0.6, 0.6]],  # constants: the best in the second regime
        [[0.4, 0.4, 0.4], [0.0, 0.1, 0.2]],  # ... in the first
        [[0.5, 0.2, 0.4], [0.6, 0.7, 0.5]],
    ])  # fmt: skip
    found = regret(values, [0, 1])
    assert found[2].tolist() == [pytest.approx([-0.1, 0.2, 0.0]), pytest.approx([0, -0.1, 0.1])]
    assert found[1, 0].tolist() == [0, 0, 0] and found[0, 1].tolist() == [0, 0, 0]
    # without the third seed the first constant's mean is .2, without the first .4: a tie
    apart = regret(values, [0, 1], leave_one_out=True)
    assert apart[2, 0].tolist() == pytest.approx([0.1 - 0.5, 0.4 - 0.2, 0.4 - 0.4])
    assert regret(values, [1, 0], leave_one_out=True)[2, 0, 0] == pytest.approx(0.4 - 0.5)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_regret_against_loops(leave_one_out):
    rng = np.random.default_rng(0)
    values, reference = rng.random((5, 4, 6)), [1, 2, 4]
    found = regret(values, reference, leave_one_out)
    for a, r, s in np.ndindex(values.shape):
        kept = [i for i in range(6) if not leave_one_out or i != s]
        best = max(reference, key=lambda c: values[c, r, kept].mean())
        assert found[a, r, s] == pytest.approx(values[best, r, s] - values[a, r, s])


def test_the_best_of_equal_constants_is_flattered_unless_a_seed_is_left_out():
    """Eight constants and an arm of one true success: regret should be 0 on the average."""
    rng = np.random.default_rng(0)
    plain, apart = [], []
    for _ in range(300):
        values = rng.normal(0.3, 0.03, (9, 1, 5))
        plain.append(regret(values, range(8))[8].mean())
        apart.append(regret(values, range(8), leave_one_out=True)[8].mean())
    largest_of_eight = 1.4236  # mean of the largest of eight standard normal values
    assert np.mean(plain) == pytest.approx(largest_of_eight * 0.03 / 5**0.5, rel=0.15)
    assert abs(np.mean(apart)) < 3 * np.std(apart) / 300**0.5


def test_regret_refuses_what_it_cannot_read():
    for places in ([], [2], [-1]):
        with pytest.raises(ValueError, match="reference arms"):
            regret(np.zeros((2, 1, 3)), places)
    with pytest.raises(ValueError, match="arms, regimes, seeds"):
        regret(np.zeros((2, 3)), [0])
    with pytest.raises(ValueError, match="at least two"):
        regret(np.zeros((2, 1, 1)), [0], leave_one_out=True)


# --- over seeds -----------------------------------------------------------------------------------


def paired_difference(x, y):
    return mean_interval(seed_differences(x, y))


def test_a_paired_difference_is_a_t_interval_of_the_seeds_means():
    rng = np.random.default_rng(1)
    x, y = rng.random((6, 4)), rng.random((6, 4))
    found = paired_difference(x, y)
    low, high = stats.ttest_rel(x.mean(1), y.mean(1)).confidence_interval(0.95)
    assert (found.low, found.high, found.n) == pytest.approx((low, high, 6))
    assert found.mean == pytest.approx((x - y).mean())
    assert seed_differences(x, y).tolist() == pytest.approx((x - y).mean(1).tolist())
    assert paired_difference(x[:, 0], y[:, 0]).n == 6
    with pytest.raises(ValueError, match=r"\(6, 4\) and \(6, 3\)"):
        paired_difference(x, y[:, :3])
    with pytest.raises(ValueError, match="two"):
        paired_difference(x[:1], y[:1])


def test_pairing_takes_out_what_a_seed_does_to_both():
    rng = np.random.default_rng(2)
    luck = rng.normal(0, 1, (10, 1))
    x, y = luck + rng.normal(0.1, 0.01, (10, 3)), luck + rng.normal(0, 0.01, (10, 3))
    found = paired_difference(x, y)
    assert found.low > 0.08 and found.high < 0.12


def test_paired_t_covers_as_it_says_and_the_bootstrap_does_not():
    rng = np.random.default_rng(3)
    x, shared = rng.normal(0.05, 0.03, (2000, 10, 2)), rng.normal(0.3, 0.1, (2000, 10, 1))
    found = [paired_difference(a + c, np.zeros((10, 2)) + c)
             for a, c in zip(x, shared, strict=True)]  # fmt: skip
    assert np.mean([f.low <= 0.05 <= f.high for f in found]) == pytest.approx(0.95, abs=0.015)
    short = [cluster_bootstrap(a[:5].mean(1), np.ones(5), range(5), 500) for a in x]
    assert np.mean([f.low <= 0.05 <= f.high for f in short]) == pytest.approx(0.84, abs=0.03)


def test_a_bootstrap_of_seeds_against_every_resample():
    d = np.array([0.1, -0.05, 0.2, 0.02, 0.11])
    means = [np.mean(c) for c in itertools.product(d, repeat=5)]
    found = cluster_bootstrap(d, np.ones(5), range(5), 20_000)
    assert (found.low, found.high) == pytest.approx(np.percentile(means, (2.5, 97.5)), abs=0.01)


def test_p_value_is_scipy_s():
    x = [0.02, 0.05, -0.01, 0.03]
    assert p_value(x) == pytest.approx(stats.ttest_1samp(x, 0).pvalue)
    assert p_value(np.negative(x)) == pytest.approx(p_value(x))
    assert p_value([0.0, 0.0]) == 1.0 and p_value([0.1, 0.1]) == 0.0
    with pytest.raises(ValueError, match="two"):
        p_value([0.1])


def test_p_value_and_interval_agree():
    rng = np.random.default_rng(4)
    for _ in range(100):
        x = rng.normal(0.02, 0.03, 6)
        found = mean_interval(x)
        assert (p_value(x) < 0.05) == (not found.low <= 0 <= found.high)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
def test_detectable_is_statsmodels(n):
    from statsmodels.stats.power import TTestPower

    x = np.linspace(-0.1, 0.1, n)
    effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert detectable(x) == pytest.approx(effect * x.std(ddof=1), rel=1e-4)
    assert detectable(x + 7) == pytest.approx(detectable(x))  # of the spread alone
    assert detectable(x, power=0.95) > detectable(x) > detectable(x, alpha=0.2)


def test_detectable_by_simulating_the_power():
    x = np.random.default_rng(5).normal(0, 0.02, 8)
    true, sd = detectable(x), x.std(ddof=1)
    runs = np.random.default_rng(6).normal(true, sd, (20_000, 8))
    seen = stats.ttest_1samp(runs, 0, axis=1).pvalue < 0.05
    assert seen.mean() == pytest.approx(0.8, abs=0.01)
    assert detectable([0.1, 0.1, 0.1]) == pytest.approx(0)
    with pytest.raises(ValueError, match="two"):
        detectable([0.1])


def test_the_warning_s_coverage_by_simulation():
    rng = np.random.default_rng(7)
    for n, stated in COVERAGE.items():
        weights = rng.multinomial(n, np.full(n, 1 / n), 600) / n
        means = rng.normal(size=(4000, n)) @ weights.T
        low, high = np.percentile(means, (2.5, 97.5), axis=1)
        assert ((low <= 0) & (high >= 0)).mean() == pytest.approx(stated, abs=0.03), n


def test_seeds_warning_is_one_sentence_below_ten_seeds():
    assert seeds_warning(10) == seeds_warning(50) == ""
    for n, share in ((3, "75 %"), (5, "84 %"), (8, "88.5 %")):
        assert share in seeds_warning(n) and f"Only {n} seeds" in seeds_warning(n)
    assert "One seed" in seeds_warning(1)
    assert all(text.endswith(".") and ". " not in text for text in map(seeds_warning, range(1, 10)))


# --- several comparisons --------------------------------------------------------------------------


def test_holm_by_hand_and_statsmodels():
    from statsmodels.stats.multitest import multipletests

    # sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and never falling
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0] and holm([]).tolist() == []
    rng = np.random.default_rng(8)
    for m in (1, 3, 7):
        p = rng.random(m) ** 3
        assert holm(p).tolist() == pytest.approx(multipletests(p, method="holm")[1].tolist())
    for bad in ([0.1, 1.2], [float("nan")], [-0.1]):
        with pytest.raises(ValueError, match="lie in"):
            holm(bad)


def test_holm_rejects_a_true_null_in_one_of_twenty_studies():
    rng = np.random.default_rng(9)
    x = rng.normal(0, 1, (2000, 6, 8))
    p = stats.ttest_1samp(x, 0, axis=2).pvalue
    assert np.mean([holm(row).min() < 0.05 for row in p]) == pytest.approx(0.05, abs=0.015)


# --- rliable --------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", [iqm, mean, lambda x: probability_of_improvement(x, x[::-1] + 0.1)])
def test_rliable_s_intervals_are_the_same_on_every_call_and_leave_numpy_s_state(one):
    x = np.random.default_rng(11).random((5, 3))
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    first = one(x)
    assert np.random.get_state()[1].tolist() == before
    np.random.seed(2)
    assert one(x) == first and first.n == 5
    assert first.low < first.mean < first.high


def test_rliable_itself_still_forgets_its_random_state():
    """When this fails, rliable is mended and `_rliable` need not set numpy's global state."""
    from rliable import library

    def interval():
        return library.get_interval_estimates(
            {"x": np.arange(15.0).reshape(5, 3) ** 2}, lambda x: np.array([x.mean()]), reps=50,
            random_state=np.random.RandomState(0),
        )[1]["x"].tolist()  # fmt: skip

    with pytest.warns(FutureWarning, match="random_state"):
        np.random.seed(1)
        first = interval()
        np.random.seed(2)
        assert interval() != first


def test_no_warning_of_rliable_s_parts_reaches_the_reader(recwarn):
    mean(np.random.default_rng(0).random((4, 2)), 50)
    assert not recwarn.list


def test_mean_resamples_seeds_within_each_regime():
    """Against a stratified bootstrap in numpy; regimes differ widely, which must not count."""
    rng = np.random.default_rng(12)
    x = rng.normal(0, 0.05, (6, 4)) + np.array([0.1, 0.3, 0.6, 0.9])
    found = mean(x)
    chosen = rng.integers(0, 6, (20_000, 6, 4))
    means = np.take_along_axis(x[None], chosen, 1).mean((1, 2))
    low, high = np.percentile(means, (2.5, 97.5))
    assert found.mean == pytest.approx(x.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.003)
    same = np.tile([0.1, 0.3, 0.6, 0.9], (5, 1))  # seeds first: no seed differs from another
    assert mean(same).low == pytest.approx(mean(same).high)
    turned = mean(same.T)
    assert turned.high - turned.low > 0.1  # the axes matter


def test_iqm_is_the_trimmed_mean_of_all_values():
    x = np.array([[0.0, 0.2, 0.4, 9.0], [0.1, 0.3, 0.5, 0.6]])
    assert iqm(x, 50).mean == pytest.approx(np.mean([0.2, 0.3, 0.4, 0.5]))
    assert iqm(x, 50).mean == pytest.approx(stats.trim_mean(x, 0.25, axis=None))
    few = np.array([[0.1], [0.2], [0.9]])
    assert iqm(few, 50).mean == pytest.approx(0.4)  # nothing to trim of three
    for bad in (x[:1], x[0]):
        with pytest.raises(ValueError, match="seeds, regimes"):
            iqm(bad)


def test_probability_of_improvement_by_enumerating_pairs_and_as_rliable_has_it():
    from rliable import metrics

    rng = np.random.default_rng(13)
    x, y = rng.integers(0, 5, (6, 3)), rng.integers(0, 4, (4, 3))  # with ties
    pairs = [(1.0 if a > b else 0.5 if a == b else 0.0)
             for r in range(3) for a in x[:, r] for b in y[:, r]]  # fmt: skip
    found = probability_of_improvement(x, y)
    assert found.mean == pytest.approx(np.mean(pairs)) and found.n == 4
    assert found.mean == pytest.approx(metrics.probability_of_improvement(x, y))
    assert 0 <= found.low < found.high <= 1
    assert probability_of_improvement(x, x, 50).mean == 0.5
    above = probability_of_improvement(x + 9.0, y, 50)
    assert (above.low, above.mean, above.high) == (1, 1, 1)
    with pytest.raises(ValueError, match=r"\[6, 3\] and \[4, 2\]"):
        probability_of_improvement(x, y[:, :2])


@pytest.mark.parametrize("package, call", [
    ("scipy.stats", lambda x: mean_interval(x[:, 0])),
    ("scipy.optimize", lambda x: detectable(x[:, 0])),
    ("rliable.library", lambda x: probability_of_improvement(x, x)),
    ("rliable.metrics", iqm),
])  # fmt: skip
def test_a_missing_package_is_one_sentence(monkeypatch, package, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"need {package.split('.')[0]}: pip install 'amft-lite"):
        call(np.random.default_rng(0).random((3, 2)))


# --- over problems --------------------------------------------------------------------------------


def with_hits(seed, hits, problems, samples=4, regime="u"):
    facts = {"problems": problems, "samples": samples, "hits": hits}
    return {"arm": "a", "regime": regime, "seed": seed, "splits": {"test": facts}}


def test_over_problems_by_hand():
    """Two groups: half the resamples hold both, a quarter each one alone."""
    x = [with_hits(1, {"g": 8, "h": 4}, 4), with_hits(2, {"g": 4, "h": 4}, 4)]
    y = [with_hits(2, {"g": 0, "h": 4}, 4), with_hits(1, {"h": 0, "g": 4}, 4)]
    found = over_problems(x, y)  # per group 4 and 2 more right answers of 8
    assert (found.mean, found.low, found.high, found.n) == (0.375, 0.25, 0.5, 2)
    # g has three of the four problems: 4 of 12 more, 2 of 4 more, 6 of 16 together
    sized = over_problems(x, y, sizes={"g": 3, "h": 1})
    assert (sized.mean, sized.low, sized.high) == pytest.approx((0.375, 1 / 3, 0.5))
    kept = [[with_hits(c["seed"], {g: [n, {"g": 12, "h": 4}[g]] for g, n in
                                   c["splits"]["test"]["hits"].items()}, 4) for c in side]
            for side in (x, y)]  # fmt: skip
    assert over_problems(*kept) == sized  # the pilot's cells keep [hits, answers]
    lost = [{**x[0], "diverged": "at step 3"}, x[1]]
    assert over_problems(lost, lost).mean == 0.0
    assert over_problems(lost, y).mean == pytest.approx((8 - 8) / 32)
    assert over_problems(x, y) == over_problems(x[::-1], y)


def hits_of(rng, rates, samples):
    return {f"g{i}": int(n) for i, n in enumerate(rng.binomial(samples, rates))}


def test_over_problems_cancels_what_arms_share_and_widens_with_fewer_groups():
    rng = np.random.default_rng(14)
    widths = []
    for groups in (60, 6):
        rates = rng.beta(1, 1, groups)
        x = [with_hits(s, hits_of(rng, rates, 8), groups, 8) for s in range(3)]
        same = over_problems(x, x)
        assert (same.mean, same.low, same.high) == (0, 0, 0)
        more = [with_hits(s, {g: n + 1 for g, n in c["splits"]["test"]["hits"].items()}, groups, 8)
                for s, c in enumerate(x)]  # fmt: skip
        shifted = over_problems(more, x)  # groups differ widely, but in both arms alike
        assert (shifted.low, shifted.high) == pytest.approx((1 / 8, 1 / 8))
        y = [with_hits(s, hits_of(rng, rng.beta(1, 1, groups), 8), groups, 8) for s in range(3)]
        found = over_problems(x, y)
        widths.append(found.high - found.low)
    assert widths[1] > 2 * widths[0]


def test_over_problems_covers_the_difference_on_all_problems():
    """Every study draws its own 40 groups; x is better by .1 on the average, unevenly."""
    rng, covered = np.random.default_rng(15), 0
    for _ in range(200):
        easy, gain = rng.uniform(0.1, 0.6, 40), rng.uniform(-0.1, 0.3, 40)
        x = [with_hits(s, hits_of(rng, easy + gain, 8), 40, 8) for s in (1, 2)]
        y = [with_hits(s, hits_of(rng, easy, 8), 40, 8) for s in (1, 2)]
        found = over_problems(x, y, draws=500)
        covered += found.low <= 0.1 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_over_problems_refuses_what_does_not_pair():
    x = [with_hits(1, {"g": 1, "h": 2}, 4)]
    for y, words in (
        ([with_hits(2, {"g": 1, "h": 2}, 4)], "same regimes and seeds"),
        ([with_hits(1, {"g": 1, "h": 2}, 4, regime="v")], "same regimes and seeds"),
        ([], "same regimes and seeds"),
        ([with_hits(1, {"g": 1}, 4)], "different problems"),
        ([with_hits(1, {"g": 1, "h": 2}, 5)], "different problems"),
        ([*x, *x], "two cells"),
        ([{**x[0], "splits": {"test": {"problems": 4, "samples": 4}}}], "no hits"),
    ):
        with pytest.raises(ValueError, match=words):
            over_problems(x, y)
    with pytest.raises(ValueError, match="no hits"):
        over_problems(x, x, split="ood_rule")
    for sizes in ({"g": 4}, {"g": 1, "h": 2}):
        with pytest.raises(ValueError, match="sizes"):
            over_problems(x, x, sizes=sizes)
