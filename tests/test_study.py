"""The committed study: it follows from its own runs, and it shows what the README says."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from amft_lite.config import build
from amft_lite.loop import AMFT
from amft_lite.models import base_folder, load_policy
from amft_lite.study import STUDIES, Study, collect, judge, print_result, run_study, shipped

QUICK = shipped("quick")


def column(method, measure, result=QUICK):
    rows = sorted((r["seed"], r[measure]) for r in result["runs"] if r["method"] == method)
    return np.array([value for _, value in rows])


def test_the_tables_follow_from_the_runs():
    methods, first = STUDIES["quick"].methods, STUDIES["quick"].first_seed
    assert [sorted(r["seed"] for r in QUICK["runs"] if r["method"] == m) for m in methods] == [
        list(range(first, first + 10))
    ] * len(methods)
    for other in methods[1:]:
        for measure in ("test", "test_greedy", "ood_rule"):
            difference = column("amft", measure) - column(other, measure)
            low, high = stats.t.interval(0.95, 9, difference.mean(), stats.sem(difference))
            row = QUICK["differences"][f"amft - {other}"][measure]
            assert (row["mean"], row["low"], row["high"]) == pytest.approx(
                (difference.mean(), low, high)
            )
            assert QUICK["means"][other][measure]["mean"] == pytest.approx(
                column(other, measure).mean()
            )


@pytest.mark.parametrize("other", ["sft", "rl"])
def test_amft_beats_each_of_its_halves_on_held_out_problems(other):
    assert QUICK["differences"][f"amft - {other}"]["test"]["low"] > 0


def test_the_meta_gradient_moves_mu_in_every_run():
    assert column("amft", "meta_movement").min() >= 0.1
    assert not column("sft", "meta_movement").any() and not column("rl", "meta_movement").any()


def test_results_carry_provenance():
    assert set(QUICK["provenance"]) >= {"commit", "torch", "transformers", "python", "system"}
    assert "+" not in QUICK["provenance"]["commit"]  # made from a committed tree


ARITHMETIC = shipped("arithmetic")


def test_the_arithmetic_tables_follow_from_its_runs():
    study = STUDIES["arithmetic"]
    assert [(r["method"], r["seed"]) for r in ARITHMETIC["runs"]] == [
        (method, seed) for seed in range(1, 6) for method in study.methods
    ]
    measures = ("test", "test_greedy", "ood_choice", "ood_length", "ood_words")
    for measure in measures:
        values = {m: column(m, measure, ARITHMETIC) for m in study.methods}
        for method, row in ARITHMETIC["means"].items():
            assert row[measure]["mean"] == pytest.approx(values[method].mean())
            assert row[measure]["n"] == 5 and set(row) == set(measures)
        for other in study.methods[1:]:
            difference = values["amft"] - values[other]
            low, high = stats.t.interval(0.95, 4, difference.mean(), stats.sem(difference))
            row = ARITHMETIC["differences"][f"amft - {other}"][measure]
            assert (row["low"], row["high"]) == pytest.approx((low, high))


def test_every_method_chose_its_rate_among_the_same_three_on_seed_0_and_validation():
    study = STUDIES["arithmetic"]
    for method in study.methods:
        rows = [r for r in ARITHMETIC["sweep"] if r["method"] == method]
        assert tuple(r["lr"] for r in rows) == study.rates and {r["seed"] for r in rows} == {0}
        best = max(r["validation"]["mean"] for r in rows)
        [taken] = [r for r in rows if r["lr"] == ARITHMETIC["lr"][method]]
        assert taken["validation"]["mean"] == best
        assert all(r["lr"] == taken["lr"] for r in ARITHMETIC["runs"] if r["method"] == method)
    assert 0 not in ARITHMETIC["seeds"]


def test_a_study_with_rates_sweeps_them_first(tmp_path, monkeypatch):
    tiny = {"steps": 4, "warmup_steps": 2, "eval_every": 0, "eval_prompts": 5}
    study = Study(("sft",), tiny, recipe="arithmetic_lite", first_seed=7, rates=(1e-6, 5e-3))
    monkeypatch.setitem(STUDIES, "tiny", study)
    result = run_study("tiny", tmp_path, seeds=2)
    assert [(r["lr"], r["seed"]) for r in result["sweep"]] == [(1e-6, 0), (5e-3, 0)]
    figures = {r["lr"]: r["validation"]["mean"] for r in result["sweep"]}
    assert result["lr"] == {"sft": max(figures, key=figures.get)}
    assert {r["lr"] for r in result["runs"]} == {result["lr"]["sft"]}
    assert set(result["base"]) == {"test", "ood_choice", "ood_length", "ood_words"}
    console = Console(file=io.StringIO(), record=True, width=250)
    print_result(result, console)
    printed = console.export_text()
    assert "taken" in printed and "ood_words" in printed


def test_a_missing_run_is_named():
    runs = [r for r in QUICK["runs"] if (r["method"], r["seed"]) != ("rl", 3)]
    with pytest.raises(ValueError, match=r"\('rl', 3\)"):
        judge(runs)


def run_loop(method, **settings):
    config = build({"method": method, **settings})
    policy, tokenizer = load_policy(base_folder(config.task))
    from amft_lite.tasks import load_task

    loop = AMFT(policy, tokenizer, load_task(config.task), config)
    return [loop.train_step() for _ in range(config.steps)]


def test_a_placebo_of_the_same_seed_takes_another_path():
    """Until the coin first differs the two runs are one; the signals come from the same draws."""
    settings = {"steps": 45, "demonstrations": 40, "prompts_per_step": 8, "validation_prompts": 16}
    real, placebo = run_loop("amft", **settings), run_loop("placebo", **settings)
    traces = [[r["mu"] for r in records] for records in (real, placebo)]
    assert traces[0] != traces[1]
    first = next(i for i, pair in enumerate(zip(*traces, strict=True)) if pair[0] != pair[1])
    assert real[first]["mu_signal"] == pytest.approx(placebo[first]["mu_signal"], rel=1e-6)
    assert real[first]["mu_meta"] == pytest.approx(-placebo[first]["mu_meta"], rel=1e-6)


def test_the_released_constants_barely_move_mu_over_the_default_run():
    records = run_loop("published")
    meta = [r["mu_meta"] for r in records if "mu_meta" in r]
    assert len(meta) == 135 and any(meta)  # the term is there ...
    assert sum(map(abs, meta)) < 1e-6  # ... and does nothing


def test_a_study_runs_stops_and_goes_on(tmp_path, monkeypatch):
    """Two methods, two seeds of twelve steps; the second call trains nothing."""
    tiny = {"steps": 4, "warmup_steps": 2, "eval_every": 0, "eval_prompts": 10,
            "validation_prompts": 4, "meta_every": 1}  # fmt: skip
    monkeypatch.setitem(STUDIES, "tiny", Study(("amft", "sft"), tiny, first_seed=5))
    result = run_study("tiny", tmp_path, seeds=2, processes=2)
    assert [(r["method"], r["seed"]) for r in result["runs"]] == [
        ("amft", 5), ("sft", 5), ("amft", 6), ("sft", 6),
    ]  # fmt: skip
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["differences"].keys() == {"amft - sft"}
    stamp = (tmp_path / "sft-seed5" / "summary.json").stat().st_mtime_ns
    (tmp_path / "amft-seed6" / "summary.json").unlink()
    again = run_study("tiny", tmp_path, seeds=2, processes=1)
    for a, b in zip(again["runs"], result["runs"], strict=True):
        assert a | {"training_seconds": 0} == b | {"training_seconds": 0}
    assert (tmp_path / "sft-seed5" / "summary.json").stat().st_mtime_ns == stamp
    assert collect("tiny", {("sft", 5): tmp_path / "sft-seed5"} | {
        ("sft", 6): tmp_path / "sft-seed6"})["differences"] == {}  # fmt: skip
