"""Studies: what is trained when, what is kept; committed tables follow from their cells."""

import io
import json
import os
import re
import signal
import subprocess
import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy import stats
from test_runs import amft, command
from tools import tool

from amft_lite import grids, results, study_figures, study_tables, tables
from amft_lite import study as studies
from amft_lite.config import build
from amft_lite.grids import StudyError, grid_names, key, plan_cells, read_grid
from amft_lite.loop import AMFT
from amft_lite.models import DATA, base_folder, load_policy
from amft_lite.results import choices, shipped, shipped_or_none
from amft_lite.statistics import mean_interval, score
from amft_lite.study import reshaped, run_study, tuned

TINY = {
    "question": "does it run",
    "settings": {"steps": 4, "warmup_steps": 2, "validation_prompts": 4, "meta_every": 1,
                 "demonstrations": 20, "prompts_per_step": 4, "sft_batch": 8},
    "splits": {"test": [6, 2], "ood_rule": [4, 2]},
    "regimes": {"few": {}, "wrong": {"wrong_demonstrations": 0.5}},
    "arms": {"amft": {"method": "amft"}, "sft": {"method": "sft"}},
    "seeds": [5, 2],
}  # fmt: skip


def grid_file(folder, name="tiny", **changes):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
    return path


def quiet():
    return Console(file=io.StringIO(), record=True, width=250)


@pytest.fixture
def here(monkeypatch):
    """Cells are trained in this process: a worker's imports take longer than a tiny cell."""

    class Executor:
        def __init__(self, *_):
            pass

        def submit(self, function, *given):
            future = Future()
            try:
                future.set_result(function(*given))
            except Exception as error:
                future.set_exception(error)
            return future

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(studies, "ProcessPoolExecutor", Executor)


def column(result, arm, split, kind="sampled", regime=None):
    rows = sorted(
        (c["seed"], c["splits"][split][kind]) for c in result["cells"]
        if c["arm"] == arm and regime in (None, c["regime"])
    )  # fmt: skip
    return np.array([value for _, value in rows])


# --- committed results ----------------------------------------------------------------------------

COMMITTED = [name for name in grid_names() if shipped_or_none(name)]


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_result_is_of_its_grid_and_resuming_it_trains_nothing(name, tmp_path):
    result, grid = shipped(name), read_grid(name)
    assert set(result["provenance"]) >= {"commit", "torch", "transformers", "python", "system"}
    plan = plan_cells(grid, grid.seed_list, tuned(grid))
    settings = {key(cell): cell["settings"] for cell in plan}
    there = [key(cell) for cell in result["cells"]]
    assert there == [key for key in settings if key in set(there)]  # in the grid's order, each once
    for cell in result["cells"]:
        assert cell["settings"] == settings[key(cell)] | (
            {"trace": cell["settings"]["trace"]} if cell["arm"] in grid.replay else {}
        )
        # made from a committed tree, or the file says what differed
        assert "+" not in cell["commit"] or {"converted", "note"} & set(result)
    # where an arm's first seed is whole, nothing of it is trained (a study in progress has more)
    first = {
        arm: [k for k in settings if (k[0], k[2]) == (arm, grid.seeds[0])] for arm in grid.arms
    }
    whole = [arm for arm, keys in first.items() if set(keys) <= set(there)]
    if not whole:
        return
    console = quiet()
    again = run_study(name, tmp_path, resume=True, console=console, seeds=1, arms=whole)
    assert "nothing to do" in console.export_text() and not list(tmp_path.iterdir())
    assert again["cells"] == [
        c for c in result["cells"] if c["arm"] in whole and c["seed"] == grid.seeds[0]
    ]


@pytest.mark.parametrize("name", COMMITTED)
def test_success_is_the_hits_over_the_answers(name):
    """The share of a cell, and its hits by group of problems, are two ways to one number."""
    for cell in shipped(name)["cells"]:
        for found in cell.get("splits", {}).values():
            if "hits" in found:
                hits = [h if isinstance(h, int) else h[0] for h in found["hits"].values()]
                share = sum(hits) / (found["problems"] * found["samples"])
                assert found["sampled"] == pytest.approx(share, abs=6e-6)
                reason = "arrived" if name.startswith("navigation") else "correct"
                assert found["outcomes"].get(reason, 0) == pytest.approx(share, abs=6e-4)


def test_quick_is_ten_seeds_of_six_methods_and_its_tables_follow():
    quick = shipped("quick")
    found = tables.comparison(quick)
    assert found["seeds"] == list(range(1, 11))
    for other in ("sft", "rl", "placebo"):
        for measure, (split, kind) in {
            "test": ("test", "sampled"), "test_greedy": ("test", "greedy"),
            "ood_rule": ("ood_rule", "sampled"),
        }.items():  # fmt: skip
            difference = column(quick, "amft", split, kind) - column(quick, other, split, kind)
            low, high = stats.t.interval(0.95, 9, difference.mean(), stats.sem(difference))
            row = found["differences"][f"amft - {other}"][measure]
            assert (row["mean"], row["low"], row["high"]) == pytest.approx(
                (difference.mean(), low, high)
            )
    for other in ("sft", "rl"):
        assert found["differences"][f"amft - {other}"]["test"]["low"] > 0
    moved = {c["arm"]: c["meta_movement"] for c in quick["cells"]}
    assert moved["amft"] >= 0.1 and moved["sft"] == 0 and moved["rl"] == 0


def test_make_results_writes_the_tables_that_stand_in_the_pages():
    writer = tool("results")
    for path, text in writer.pages().items():
        assert text == path.read_text(encoding="utf-8"), path
    study, table = next(writer.tables_of_the_page())
    page, section = writer.PAGE.read_text(encoding="utf-8"), f"## {study}: "
    row = table.splitlines()[5]
    broken = page.replace(row, "| lost |")
    assert broken != page and writer.replaced(broken, table, section) == page
    with pytest.raises(ValueError, match="no table of the head"):
        writer.replaced(page, "| x |\n|---|\n", section)
    # not the table of the next study, and not more than the table at the end of a page
    text = "## a: one\n\nwords\n\n## b: two\n\n| x |\n|---|\n| 1 |\n"
    with pytest.raises(ValueError, match="in '## a: '"):
        writer.replaced(text, "| x |\n|---|\n| 2 |\n", "## a: ")
    with pytest.raises(ValueError, match="in '## c: '"):
        writer.replaced(text, "| x |\n|---|\n| 2 |\n", "## c: ")
    assert writer.replaced(text, "| x |\n|---|\n| 2 |\n", "## b: ") == text.replace("1", "2")


def test_a_page_shows_arms_of_which_all_seeds_are_there():
    cells = [
        {"arm": arm, "regime": "r", "seed": s, "splits": {"test": {"sampled": 0.1 + s / 100}}}
        for arm, n in {"a": 10, "b": 9, "c": 10}.items() for s in range(n)
    ]  # fmt: skip
    assert tables.arms_of(tables.finished({"cells": cells})) == ["a", "b", "c"]
    shown = tables.markdown({"cells": cells})
    assert "| a |" in shown and "| b |" not in shown and "| c |" in shown
    shown = tables.differences_markdown({"cells": cells}, "a")
    assert "| b |" not in shown and "| c |" in shown


def test_the_readme_s_table_of_regimes_follows_from_the_stored_runs():
    readme = (DATA.parent / "README.md").read_text(encoding="utf-8")
    named = {"mu alone": "amft", "cheap form": "amft_full-equal", "exploration": "rl",
             "imitation": "sft", "SFT→RL": "sft_then_rl", "CHORD-mu": "chord_mu",
             "mu = .5": "fixed-.5", "the cut": "cut_low"}  # fmt: skip
    result = shipped("regimes")
    halves = {word: [r for r in tables.regimes_of(result) if word in r]
              for word in ("clean", "wrong")}  # fmt: skip
    right = {}
    for arm in ("amft", "amft_full-equal"):
        made = tables.differences_markdown(result, arm, ["test", "ood_rule"], halves)
        for line in made.splitlines()[2:]:
            other, test, new_rule, clean, wrong = line.strip("| ").split(" | ")
            right[arm, other] = [test, clean, wrong, new_rule]
    shown = readme.split("| difference in success |")[1].split("\n\n")[0].splitlines()[2:]
    rows = [line.strip("| ").split(" | ") for line in shown]
    assert len(rows) == 12
    for words, *told in rows:
        arm, other = words.split(" less ")
        assert told == right[named[arm], named[other]], words


def test_the_page_s_table_of_efficiency_is_that_of_the_curves():
    page = (DATA / "studies" / "README.md").read_text(encoding="utf-8")
    section = page[page.index("## efficiency") : page.index("## arithmetic: five seeds")]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "]
    shown = {row[0]: row[1:] for row in rows}
    cells = shipped("efficiency")["cells"]
    for arm in {cell["arm"] for cell in cells}:
        wanted = []
        for regime in ("clean", "wrong"):
            curves = [c["curve"] for c in cells if (c["arm"], c["regime"]) == (arm, regime)]
            paid, reached = [], 0
            for curve in curves:
                there = [point["rollouts"] for point in curve if point["test"] >= 0.15]
                reached += bool(there)
                paid.append(there[0] if there else curve[-1]["rollouts"])
            half = stats.t.ppf(0.975, 4) * stats.sem(paid)
            mean = np.mean(paid)
            wanted += [f"{reached} of 5", f"{mean:,.0f} [{mean - half:,.0f}, {mean + half:,.0f}]"]
        assert shown[arm] == wanted, arm


def test_the_page_s_table_of_the_signal_is_that_of_the_recording():
    page = (DATA / "studies" / "README.md").read_text(encoding="utf-8")
    columns = []
    for regime in ("right", "half wrong"):
        runs = [b["moments"] for b in results.recording("signal")["blocks"]
                if b["regime"] == regime]  # fmt: skip
        gains = np.array([[np.mean(m["after"]["0.95"]) - np.mean(m["after"]["0.05"]) for m in run]
                          for run in runs])  # fmt: skip
        more = [np.array([[m[kind] for m in run] for run in runs]) for kind in ("signal", "single")]
        reference = np.array([[m["reference"]["cosine"] for m in run] for run in runs])
        same = (np.sign(more[1]) == np.sign(reference)[..., None]).mean((1, 2))
        worth = [np.mean([m["worth"][n]["correlation"] for run in runs for m in run])
                 for n in ("256", "2048")]  # fmt: skip
        columns.append([
            str(mean_interval(gains.mean(1))).removesuffix(" n=4"), f"{(gains > 0).sum()} of 28",
            f"{(reference > 0).sum()} of 28", f"{(more[0] > 0).sum()} of 28",
            str(mean_interval(same)).removesuffix(" n=4"), *(f"{x:.2f}" for x in worth),
        ])  # fmt: skip
    section = page[page.index("## signal:") : page.index("## efficiency")]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "]
    assert [row[1:] for row in rows[1:]] == [list(pair) for pair in zip(*columns, strict=True)]


def test_the_readme_s_first_table_is_quick_s():
    readme = (DATA.parent / "README.md").read_text(encoding="utf-8")
    quick = shipped("quick")
    found = tables.comparison(quick, "amft")
    measures = ("test", "test_greedy", "ood_rule")
    for arm in tables.arms_of(quick):
        shown = " | ".join(tables.number(found["means"][arm][m]) for m in measures)
        assert re.search(rf"^\| {arm}( \([^|]*\))? \| {re.escape(shown)} \|$", readme, re.M), arm
    shown_pairs = {"amft": ("sft", "rl", "placebo"), "amft_full": ("amft", "cut_low")}
    for first, others in shown_pairs.items():
        differences = tables.comparison(quick, first)["differences"]
        for arm in others:
            row = [differences[f"{first} - {arm}"][m] for m in measures]
            shown = " | ".join(f"{m['mean']:+.3f} [{m['low']:+.3f}, {m['high']:+.3f}]" for m in row)
            assert f"| **{first} - {arm}**, paired | {shown} |" in readme


@pytest.mark.parametrize(
    ("study", "shown"),
    [
        ("vision", [("test", "sampled"), ("ood_rule", "sampled"), ("ood_visual", "sampled"),
                    ("ood_visual", "cards read right")]),
        ("navigation", [("test", "sampled"), ("test", "turns right"), ("ood_rule", "turns right"),
                        ("ood_visual", "turns right")]),
    ],
)  # fmt: skip
def test_the_page_shows_the_studies_of_memorising_as_they_are_stored(study, shown):
    readme = (DATA / "studies" / "README.md").read_text(encoding="utf-8")
    result, best = shipped(study), choices(shipped(f"{study}_tune"))
    for arm in ("sft", "rl", "amft"):
        [rate] = {c["settings"]["lr"] for c in result["cells"] if c["arm"] == arm}
        assert best[arm] == f"lr={rate:.0e}".replace("e-0", "e-")
        row = []
        for split, kind in shown:
            values = column(result, arm, split, kind)
            low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
            row.append(f"{values.mean():.3f} [{low:.3f}, {high:.3f}]")
        line = f"| {arm} | {best[arm].removeprefix('lr=')} | {' | '.join(row)} |"
        assert line in readme


#: How the page names the arms of its two lists of controllers, where it is not by their name.
FULL = {
    "amft_gate-entropy": "amft_gate-entropy = `amft_full`",
    "amft_gate-entropy-cheap": "amft_full with 64 validation rollouts",
    "amft_gate-entropy-cheap-equal": "amft_full with 64, and 14 prompts a step in place of 16",
    "amft_gate-still-entropy": "amft_full with gates that stay where they start",
}


@pytest.mark.parametrize(("name", "words"), [("controllers", {}), ("controllers_again", FULL)])
def test_the_page_of_results_shows_how_the_default_was_chosen(name, words):
    page = (DATA / "studies" / "README.md").read_text(encoding="utf-8").replace("**", "")
    section = page[page.index("## controllers:") : page.index("## controls")]
    first, second = section.split("Then the leader again")
    table = {"controllers": first, "controllers_again": second}[name]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line[:2] == "| "]
    shown = {row[0]: [x for x in row if re.fullmatch(r"0\.\d{3}", x)][:2] for row in rows}
    cells = shipped(name)["cells"]
    for arm in dict.fromkeys(cell["arm"] for cell in cells):
        of = [cell["splits"]["validation"] for cell in cells if cell["arm"] == arm]
        means = [f"{np.mean([split[kind] for split in of]):.3f}" for kind in ("sampled", "greedy")]
        assert shown[words.get(arm, arm)] == means, arm


def test_figures_of_costs_insides_and_gains_are_means_of_the_stored_cells():
    result = shipped("efficiency")
    figure = study_figures.cost_figure(result, "cost")
    [trace] = [t for t in figure.data if t.name == "luffy" and t.mode == "lines+markers"][:1]
    curves = [c["curve"] for c in result["cells"] if (c["arm"], c["regime"]) == ("luffy", "clean")]
    assert list(trace.x) == [point["rollouts"] for point in curves[0]]
    assert list(trace.y) == pytest.approx(np.mean([[p["test"] for p in c] for c in curves], 0))

    result = shipped("regimes")
    regime = {"all-wrong-middle": "half wrong"}
    figure = study_figures.dynamics_figure(
        result, "mu", ["amft", "sft"], regime, {"entropy": "entropy"}
    )
    assert {t.name for t in figure.data} == {"amft"}  # sft has no rollouts, so no entropy
    [trace] = [t for t in figure.data if t.mode == "lines+markers"]
    traces = [c["traces"]["entropy"][1:] for c in result["cells"]
              if (c["arm"], c["regime"]) == ("amft", "all-wrong-middle")]  # fmt: skip
    assert list(trace.x)[:2] == [22.5, 37.5]  # means over 15 steps; warm-up has no rollouts
    assert list(trace.y) == pytest.approx(np.mean(traces, 0))

    figure = study_figures.gain_figure(result, ["cut_low", "no such arm"], "gain")
    [trace] = figure.data
    for regime, gain in zip(trace.x, trace.y, strict=True):
        mean = {}
        for cell in result["cells"]:
            if cell["regime"] == regime:
                mean.setdefault(cell["arm"], []).append(cell["splits"]["test"]["sampled"])
        best = max(np.mean(v) for arm, v in mean.items() if arm.startswith("fixed-"))
        assert gain == pytest.approx(np.mean(mean["cut_low"]) - best)


def test_curves_are_means_over_seeds_with_their_intervals():
    """Two seeds of one arm: 0.2 and 0.4 at step 5; Student's t with one degree of freedom."""
    cells = [
        {"arm": "sft", "curve": [{"step": 5, "test": x, "ood_rule": 0.0}, {"step": 9, "test": 0.5,
                                                                           "ood_rule": 0.1}]}
        for x in (0.2, 0.4)
    ]  # fmt: skip
    words = {"test": "same rule", "ood_rule": "new rule"}
    figure = study_figures.curves_figure({"cells": cells}, "title", "share", words, str)
    band, line = figure.data[0], figure.data[1]
    assert list(line.x) == [5, 9] and list(line.y) == pytest.approx([0.3, 0.5])
    half = stats.t.ppf(0.975, 1) * 0.1  # standard error: 0.1414 / sqrt 2
    assert list(band.y) == pytest.approx([0.3 + half, 0.5, 0.5, 0.3 - half])
    assert [step.label for step in figure.layout.sliders[0].steps] == list(words.values())
    assert figure.data[3].y[1] == pytest.approx(0.1)


def test_every_rate_of_arithmetic_was_chosen_on_validation_and_used():
    taken = choices(shipped("arithmetic_tune"))
    assert taken == {"amft": "lr=5e-4", "sft": "lr=1e-3", "rl": "lr=2e-4", "sft_then_rl": "lr=2e-4"}
    rates = {c["arm"]: c["settings"]["lr"] for c in shipped("arithmetic")["cells"]}
    assert rates == {"amft": 5e-4, "sft": 1e-3, "rl": 2e-4, "sft_then_rl": 2e-4}


# --- running --------------------------------------------------------------------------------------


def test_a_study_runs_stops_and_goes_on(tmp_path):
    path, out = grid_file(tmp_path), tmp_path / "out"
    result = run_study(path, out, console=quiet())
    assert [(c["seed"], c["regime"], c["arm"]) for c in result["cells"]] == [
        (seed, regime, arm) for seed in (5, 6) for regime in ("few", "wrong")
        for arm in ("amft", "sft")
    ]  # fmt: skip
    written = json.loads((out / "result.json").read_text())
    assert results.unpacked(written)["cells"] == result["cells"] and written["core_hours"] >= 0
    with pytest.raises(StudyError, match="holds cells"):
        run_study(path, out, console=quiet())
    stamps = {p.name: p.stat().st_mtime_ns for p in (out / "cells").iterdir()}
    (out / "cells" / "few--amft--6.json").unlink()
    again = run_study(path, out, jobs=1, resume=True, console=quiet())

    def lasting(cell):
        return {k: v for k, v in cell.items() if "seconds" not in k}

    assert list(map(lasting, again["cells"])) == list(map(lasting, result["cells"]))
    kept = {p.name: p.stat().st_mtime_ns for p in (out / "cells").iterdir()}
    assert [n for n in kept if kept[n] != stamps[n]] == ["few--amft--6.json"]
    # other settings: those cells are made anew, the others stay
    changed = grid_file(
        tmp_path, arms={"amft": {"method": "amft", "eta_mu": 0.5}, "sft": {"method": "sft"}}
    )
    run_study(changed, out, resume=True, console=quiet())
    third = {p.name: p.stat().st_mtime_ns for p in (out / "cells").iterdir()}
    assert {n for n in third if third[n] != kept[n]} == {n for n in third if "--amft--" in n}


def test_a_cell_that_was_measured_otherwise_is_made_anew(tmp_path, here):
    sft = {"arms": {"sft": {"method": "sft"}}, "seeds": [5, 1], "regimes": {"few": {}}}
    out = tmp_path / "out"
    run_study(grid_file(tmp_path, **sft), out, console=quiet())
    changed = grid_file(tmp_path, **sft, splits={"test": [5, 2]})
    console = quiet()
    environment = dict(os.environ)
    left = run_study(changed, out, resume=True, max_hours=0.0, console=console)
    assert "1 of 1 cells to train" in console.export_text() and os.environ == environment
    assert left["cells"] == []  # what is to be made anew is no result of this grid
    [cell] = run_study(changed, out, resume=True, console=quiet())["cells"]
    assert cell["splits"]["test"]["problems"] == 5 and "how" not in cell
    # a recipe in a file counts by what it says
    recipe = tmp_path / "mine.yaml"
    for rate in ("1e-3", "2e-3"):
        recipe.write_text(f"task: general_points\nlr: {rate}\n")
        console, path = quiet(), grid_file(tmp_path, **sft, recipe=str(recipe))
        run_study(path, tmp_path / "mine", resume=True, console=console)
        assert "1 of 1 cells to train" in console.export_text()
    assert studies.missing(*planned(path), read_back(tmp_path / "mine")) == []
    # a grid of one's own takes nothing from the committed study of the same name
    own = grid_file(tmp_path, "quick", **sft)
    assert results.committed_cells(own) == [] and results.committed_cells("quick") != []


def test_a_replay_is_made_anew_with_its_source(tmp_path, here):
    arms = {"amft": {"method": "amft"}, "again": {"method": "replay"}}
    grid = {"regimes": {"few": {}}, "replay": {"again": "amft"}}
    path, out = grid_file(tmp_path, arms=arms, **grid), tmp_path / "out"
    first = run_study(path, out, console=quiet())
    assert studies.missing(*planned(path), {key(c): c for c in first["cells"]}) == []
    arms["amft"] = {"method": "amft", "mu_start": 0.2}
    path = grid_file(tmp_path, arms=arms, **grid)
    waiting = studies.missing(*planned(path), {key(c): c for c in first["cells"]})
    assert [c["arm"] for c in waiting] == ["amft", "again"] * 2
    console = quiet()  # nor is the old trace taken where the source is not asked for
    part = run_study(path, out, resume=True, arms=["again"], console=console)
    assert "2 cells are left out: their traces are missing" in console.export_text()
    assert part["cells"] == []
    second = run_study(path, out, resume=True, console=quiet())
    mu = {(c["arm"], c["seed"]): c["mu"] for c in second["cells"] if c["arm"] == "amft"}
    for cell in second["cells"]:
        if cell["arm"] == "again":
            source = mu["amft", {5: 6, 6: 5}[cell["seed"]]]
            assert cell["settings"]["trace"].split() == [f"{x:.4f}" for x in source]


def read_back(out):
    return {key(cell): cell for cell in results.read_cells(out)}


def planned(path):
    grid = read_grid(path)
    return plan_cells(grid, grid.seed_list, {}), grid


def test_what_tuning_chose_wins_over_the_study_s_settings_and_not_over_the_arm_s(tmp_path):
    path = grid_file(tmp_path, settings={**TINY["settings"], "lr": 1e-4}, arms={
        "amft": {"method": "amft"}, "sft": {"method": "sft", "lr": 3e-3}})  # fmt: skip
    grid = read_grid(path)
    cells = plan_cells(grid, [5], {"amft": {"lr": 1e-3}, "sft": {"lr": 1e-3}})
    assert {c["arm"]: c["settings"]["lr"] for c in cells} == {"amft": 1e-3, "sft": 3e-3}


SFT = {"arms": {"sft": {"method": "sft"}}, "regimes": {"few": {}}}


@pytest.fixture
def committed(tmp_path, here, monkeypatch):
    """A study of the package with a committed result: two cells, and a note."""
    monkeypatch.setattr(grids, "GRIDS", tmp_path)
    monkeypatch.setattr(results, "DATA", tmp_path)
    grid_file(tmp_path, "tiny", **SFT)
    result = run_study("tiny", tmp_path / "first", console=quiet())
    (tmp_path / "studies").mkdir()
    results.write_result(tmp_path / "studies" / "tiny.json", result | {"note": "kept"})
    return result


def test_a_study_begun_anew_is_resumed_without_the_committed_cells(tmp_path, committed):
    def said(out, **options):
        console = quiet()
        result = run_study("tiny", tmp_path / out, console=console, **options)
        return " ".join(console.export_text().split()), result

    assert "nothing to do" in said("other", resume=True)[0]
    assert "2 cells are left out" in said("anew", max_hours=0.0)[0]
    text, result = said("anew", resume=True, max_hours=0.0)
    assert "2 of 2 cells to train" in text and "begun anew" in text and result["cells"] == []
    text, result = said("anew", resume=True)
    assert "2 of 2 cells to train" in text and len(result["cells"]) == 2
    # only what was begun anew: the rest of the grid may still be the committed
    assert "1 of 1 cells" in said("part", seeds=1)[0]
    text, result = said("part", resume=True)
    assert "nothing to do" in text and len(result["cells"]) == 2
    assert results.begun_anew(tmp_path / "part") == {("sft", "few", 5, "")}
    (tmp_path / "part" / results.ANEW).write_text("[")
    with pytest.raises(StudyError, match="is damaged"):
        said("part", resume=True)


def test_an_older_cell_in_the_folder_does_not_hide_a_committed_one(tmp_path, committed):
    cell = committed["cells"][0]
    (tmp_path / "out" / "cells").mkdir(parents=True)
    old = cell | {"settings": cell["settings"] | {"lr": 1e-6}}
    (tmp_path / "out" / "cells" / "few--sft--5.json").write_text(json.dumps(old))
    console = quiet()
    result = run_study("tiny", tmp_path / "out", resume=True, console=console)
    assert "nothing to do" in console.export_text()
    assert [c["settings"] for c in result["cells"]] == [c["settings"] for c in committed["cells"]]


def test_a_result_keeps_notes_and_says_in_what_environment_each_cell_ran(tmp_path, committed):
    import torch

    run_study("tiny", tmp_path / "part", seeds=1, console=quiet())
    run_study("tiny", tmp_path / "part", resume=True, console=quiet())
    written = json.loads((tmp_path / "part" / "result.json").read_text())
    assert written["note"] == "kept"
    [environment] = written["environments"]
    assert environment["torch"] == torch.__version__ and "date" not in environment
    assert [cell["environment"] for cell in written["cells"]] == [0, 0]
    committed["cells"][1]["environment"] = {"torch": "0.1"}  # one block on another machine
    packed = json.loads(json.dumps(results.packed(committed)))
    assert [cell["environment"] for cell in packed["cells"]] == [0, 1]
    assert results.unpacked(packed)["cells"] == committed["cells"]


def test_an_error_in_a_cell_names_it_and_loses_no_other(tmp_path, here):
    out = tmp_path / "out"
    (out / "cells" / "few--sft--5.json.partial").mkdir(parents=True)  # it cannot be written
    with pytest.raises(StudyError, match=r"^few--sft--5\.json: .*directory"):
        run_study(grid_file(tmp_path, **SFT), out, console=quiet())
    written = json.loads((out / "result.json").read_text())
    assert [cell["seed"] for cell in written["cells"]] == [6]  # the other worker finished its own


def test_a_file_is_no_folder_for_cells(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(StudyError, match="is a file; --out needs a folder"):
        run_study(grid_file(tmp_path, **SFT), tmp_path / "out", console=quiet())


def test_two_studies_do_not_share_a_folder(tmp_path):
    kept, refused = studies._folder_kept(tmp_path / "out"), "another study is working in"
    with kept, pytest.raises(StudyError, match=refused):
        run_study(grid_file(tmp_path), tmp_path / "out", console=quiet())


def test_a_study_under_nohup_outlives_its_terminal(tmp_path):
    """SIGHUP ends a study as Ctrl-C does, but not one that was told to ignore it."""
    kept = signal.getsignal(signal.SIGHUP)
    try:
        for before in (signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(signal.SIGHUP, before)
            with studies._folder_kept(tmp_path / "out"):
                inside = signal.getsignal(signal.SIGHUP)
            ends = before == signal.SIG_DFL
            assert inside == (signal.default_int_handler if ends else signal.SIG_IGN)
            assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, kept)


def test_an_arm_is_asked_for_by_its_name_or_its_method(tmp_path):
    grid = read_grid("regimes")
    constants = [f"fixed-.{x}" for x in ("05", "1", "3", "5", "9")]
    assert grid.arms_called("fixed") == constants and grid.arms_called("fixed-.1") == ["fixed-.1"]
    assert grid.arms_called("amft_gate") == ["amft_gate-equal"]
    controllers = read_grid("controllers")  # the arm, not also amft_gate-open and others
    assert controllers.arms_called("amft_gate") == ["amft_gate"]
    assert len(read_grid("oracle").arms_called("replay")) == 29  # the grid's settings say so
    with pytest.raises(StudyError, match="regimes has no arm 'cosine'; known: fixed"):
        grid.arms_called("cosine")


def test_a_result_on_disk_names_what_it_counts_once_and_reads_back_as_it_was(tmp_path):
    def cell(seed, hits, outcomes, **more):
        test = {"sampled": 0.5, "hits": hits, "outcomes": outcomes}
        return {"arm": "a", "regime": "r", "seed": seed,
                "splits": {"test": test, "ood": {"sampled": 0.25}}, **more}  # fmt: skip

    # an outcome that a run did not have is not in it; the third one's groups stand in another
    # order and so do its outcomes; the fourth diverged
    cells = [cell(1, {"g": 3, "h": 1}, {"correct": 0.5, "syntax": 0.5}),
             cell(2, {"g": 0, "h": 4}, {"correct": 0.0, "misread": 1.0}),
             cell(3, {"h": 2, "g": 2}, {"syntax": 0.5, "correct": 0.5}),
             {"arm": "a", "regime": "r", "seed": 4, "diverged": "step 3"}]  # fmt: skip
    path = tmp_path / "result.json"
    results.write_result(path, {"study": "s", "cells": cells})
    written = json.loads(path.read_text())
    assert written["groups"] == {"test": ["g", "h"]}
    assert written["outcomes"] == {"test": ["correct", "misread", "syntax"]}
    stored = [c["splits"]["test"] for c in written["cells"][:3]]
    assert [test["hits"] for test in stored] == [[3, 1], [0, 4], {"h": 2, "g": 2}]
    assert [test["outcomes"] for test in stored] == [
        [0.5, None, 0.5], [0.0, 1.0, None], {"syntax": 0.5, "correct": 0.5}]  # fmt: skip
    back = results.unpacked(written)
    assert json.dumps(back) == json.dumps({"study": "s", "cells": cells})  # its order as well


def test_the_mu_of_each_step_is_stored_only_where_it_is_replayed():
    cells = [{"arm": "amft", "regime": "r", "seed": 1, "mu": [0.5, 0.4]}]
    plain, replayed = (
        studies.Grid("g", "?", {"amft": {}}, {"r": {}}, replay=replay)
        for replay in ({}, {"again": "amft"})
    )
    assert "mu" not in results.collect(plain, cells)["cells"][0]
    assert results.collect(replayed, cells)["cells"] == cells


def test_another_trace_is_another_setting_unless_it_comes_from_a_cell():
    def made(trace):
        return {"settings": {"method": "replay", "trace": trace}}

    how = {"splits": {"test": [6, 2], "ood_rule": [4, 2]}}
    assert studies._is_made(made(".5x9"), made(".5x9"), how)
    assert not studies._is_made(made(".5x9"), made(".4x9"), how)
    assert not studies._is_made({"settings": {}}, None, how)
    turned = {"splits": dict(reversed(how["splits"].items()))}  # the first one is what counts
    assert not studies._is_made(made(".5x9"), made(".5x9") | {"how": turned}, how)


def test_no_cell_is_begun_after_the_hours_are_over(tmp_path):
    console = quiet()
    result = run_study(grid_file(tmp_path), tmp_path / "out", max_hours=0.0, console=console)
    assert result["cells"] == [] and "8 cells are left out" in console.export_text()


def test_the_command_says_so_where_the_hours_end_before_a_cell(tmp_path):
    said = amft("study", "quick", "--max-hours", "0", "--out", tmp_path / "out")
    assert "60 cells are left out: 0 hours are over" in " ".join(said.split())


def test_a_killed_study_keeps_its_finished_cells(tmp_path, here):
    out = tmp_path / "out"
    run_study(grid_file(tmp_path), out, seeds=1, arms=["sft"], console=quiet())
    half = out / "cells" / "few--amft--5.json.partial"
    half.write_text('{"arm": "amft", "reg')
    assert len(results.read_cells(out)) == 2
    (out / "cells" / "few--amft--5.json").write_text('{"arm": "amft", "reg')
    with pytest.raises(StudyError, match=r"few--amft--5\.json is no cell"):
        run_study(grid_file(tmp_path), out, resume=True, console=quiet())


def children_of(process):
    found = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True).stdout
    rows = [list(map(int, line.split())) for line in found.splitlines()[1:]]
    return [pid for pid, parent in rows if parent == process.pid]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition, seconds=120):
    """Poll until it holds; False if it never did."""
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.2)
    return condition()


@pytest.fixture
def begin():
    """Begins a study in a process of its own, which Ctrl-C can reach: a shell's `&` makes it
    ignored. A test that fails leaves none behind."""
    started = []

    def study(*words):
        started.append(subprocess.Popen(
            command("study", *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ))  # fmt: skip
        return started[-1]

    yield study
    for process in started:
        process.kill()


def test_workers_end_with_a_parent_that_is_killed(tmp_path, begin):
    out = tmp_path / "out"
    process = begin(grid_file(tmp_path, seeds=[5, 30]), "--out", out)
    assert wait_for(lambda: any((out / "cells").glob("*.json")))
    children = children_of(process)
    assert len(children) >= 2
    process.kill()
    process.communicate()
    assert wait_for(lambda: not any(map(is_running, children)), 30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_cells_in_progress_and_says_how_to_go_on(tmp_path, begin, number):
    out = tmp_path / "out"
    longer = {**TINY["settings"], "steps": 40}
    process = begin(grid_file(tmp_path, settings=longer, seeds=[5, 30]), "--out", out)
    assert wait_for(lambda: any((out / "cells").glob("*.json")))
    time.sleep(1)  # both workers are in the middle of a cell
    before = len(list((out / "cells").glob("*.json")))
    os.killpg(process.pid, number)  # as a terminal and `timeout` do: the workers must not end
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Go on with the same command and --resume" in " ".join(output.split())
    assert "Traceback" not in output + errors
    assert not list((out / "cells").glob("*.partial"))
    assert before < len(results.read_cells(out)) < 120
    written = json.loads((out / "result.json").read_text())
    assert len(written["cells"]) == len(results.read_cells(out))


def test_ctrl_c_twice_ends_at_once(tmp_path, begin):
    long = {**TINY["settings"], "steps": 100_000}
    grid = grid_file(tmp_path, settings=long, seeds=[5, 1], splits={"test": [2, 1]})
    process = begin(grid, "--out", tmp_path / "out")
    assert wait_for(lambda: len(children_of(process)) >= 2)
    children = children_of(process)
    limit = threading.Timer(120, process.kill)  # or a study that says nothing would be waited for
    limit.start()
    process.send_signal(signal.SIGINT)
    said = ""
    while "once more: at once" not in said:
        line = process.stdout.readline()
        assert line, "it ended without a word"
        said += line
    limit.cancel()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in output + errors
    assert wait_for(lambda: not any(map(is_running, children)), 30)


def test_cells_that_a_stopped_call_left_become_a_result(tmp_path, here):
    path, out = grid_file(tmp_path), tmp_path / "out"
    run_study(path, out, console=quiet())
    whole = json.loads((out / "result.json").read_text())
    (out / "result.json").unlink()
    console = quiet()
    run_study(path, out, resume=True, console=console)
    assert "nothing to do" in console.export_text()
    assert json.loads((out / "result.json").read_text())["cells"] == whole["cells"]
    part = run_study(path, out, resume=True, arms=["sft"], seeds=1, console=quiet())
    assert [(c["arm"], c["seed"]) for c in part["cells"]] == [("sft", 5)] * 2
    assert json.loads((out / "result.json").read_text())["cells"] == whole["cells"]


def test_a_replay_takes_the_trace_of_the_seed_before(tmp_path, here):
    grid = {
        "arms": {"amft": {"method": "amft"}, "again": {"method": "replay"},
                 "level": {"method": "replay"}},
        "replay": {"again": "amft", "level": "amft:constant"}, "regimes": {"few": {}},
    }  # fmt: skip
    result = run_study(grid_file(tmp_path, **grid), tmp_path / "out", console=quiet())
    of = {(c["arm"], c["seed"]): c for c in result["cells"]}
    for seed, before in ((5, 6), (6, 5)):  # the first seed takes the last one's
        recorded = of["amft", before]["mu"]
        again = of["again", seed]
        # a cell keeps its trace where mu moves (or a rule moves it)
        assert again.get("mu", [again["mean_mu"]] * 2) == pytest.approx(recorded, abs=1e-4)
        assert of["level", seed]["mean_mu"] == pytest.approx(np.mean(recorded), abs=1e-4)


def test_reshaped_traces_keep_their_mean_and_their_bounds():
    mu = [0.2, 0.4, 0.9]
    assert reshaped(mu, "") == mu
    assert reshaped(mu, "constant") == pytest.approx([0.5] * 3)
    wave = reshaped(mu, "cosine")
    assert wave == pytest.approx([0.95, 0.5, 0.05]) and np.mean(wave) == pytest.approx(0.5)


def test_tuning_tries_candidates_and_the_next_study_uses_the_choice(tmp_path, here, monkeypatch):
    monkeypatch.setattr(grids, "GRIDS", tmp_path)
    monkeypatch.setattr(results, "DATA", tmp_path)
    tune = {"choose": {"slow": {"lr": 1e-6}, "quick": {"lr": 5e-3}}, "seeds": [0, 1],
            "arms": {"sft": {"method": "sft"}, "fixed": {"method": "fixed", "lr": 1e-4}},
            "only": {"sft": {"third": {"lr": 1e-3}}}, "regimes": {"few": {}}}  # fmt: skip
    grid_file(tmp_path, "tune", **tune)
    result = run_study("tune", tmp_path / "out", console=quiet())
    tried = [(c["arm"], c["candidate"], c["settings"]["lr"]) for c in result["cells"]]
    # an arm's own lr overrules both candidates, and is then trained once
    assert sorted(tried) == [("fixed", "slow", 1e-4), ("sft", "quick", 5e-3),
                             ("sft", "slow", 1e-6), ("sft", "third", 1e-3)]  # fmt: skip
    by = {c["candidate"]: c["splits"]["test"]["sampled"] for c in result["cells"]
          if c["arm"] == "sft"}  # fmt: skip
    assert by[choices(result)["sft"]] == max(by.values())
    for cell in result["cells"]:
        cell["splits"]["test"]["sampled"] = float(cell["candidate"] == "third")
    (tmp_path / "studies").mkdir()
    results.write_result(tmp_path / "studies" / "tune.json", result)
    family = {"other": "sft", "half": "fixed"}
    arms = {name: {"method": name} for name in ("sft", "rl")}
    arms |= {"other": {"method": "sft"}, "half": {"method": "fixed"}}
    grid_file(tmp_path, "main", tuned_by="tune", family=family, arms=arms)
    grid = read_grid("main")
    rates = {c["arm"]: c["settings"].get("lr") for c in plan_cells(grid, [1], tuned(grid))}
    # `fixed` was run at its own rate, whatever candidate that was called
    assert rates == {"sft": 1e-3, "other": 1e-3, "rl": None, "half": 1e-4}
    result["cells"] = [cell for cell in result["cells"] if cell["candidate"] != "third"]
    results.write_result(tmp_path / "studies" / "tune.json", result)
    with pytest.raises(StudyError, match=r"tune lacks 1 of 4 cells; first `amft-lite study tune"):
        tuned(grid)


def test_a_cell_is_what_amft_lite_run_trains(tmp_path, here):
    """Same settings, same seed: the cell's success is the run folder's."""
    result = run_study(
        grid_file(tmp_path), tmp_path / "out", seeds=1, arms=["amft"], regimes=["few"],
        console=quiet(),
    )  # fmt: skip
    settings = {**TINY["settings"], "seed": 5, "eval_prompts": 6, "eval_samples": 2,
                "eval_every": 0, "method": "amft"}  # fmt: skip
    words = [w for k, v in settings.items() for w in ("--set", f"{k}={v}")]
    amft("run", "--out", tmp_path / "run", *words)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    [cell] = result["cells"]
    assert cell["splits"]["test"]["sampled"] == pytest.approx(
        summary["splits"]["final"]["test"]["success"]["mean"], abs=1e-5
    )
    assert cell["mean_mu"] == pytest.approx(summary["mean_mu"], abs=1e-4)
    assert cell["training_rollouts"] == 2 * 4 * 8 and cell["validation_rollouts"] == 2 * 4 * 8


def test_a_diverged_run_is_a_cell_without_success(tmp_path, monkeypatch):
    from amft_lite import cells

    def diverge(loop):
        raise FloatingPointError("the gradient of step 0 is not finite")

    monkeypatch.setattr(cells.AMFT, "train_step", diverge)
    cell = {"arm": "sft", "regime": "few", "seed": 1,
            "settings": {**TINY["settings"], "method": "sft", "seed": 1}}  # fmt: skip
    found = cells.run_cell(tmp_path / "c.json", "lite", cell, splits={"test": [4, 2]})
    assert found["diverged"].startswith("the gradient of step 0") and "splits" not in found
    assert score(found, "test") == 0.0
    assert json.loads((tmp_path / "c.json").read_text()) == found


def test_diverged_runs_are_shown_as_what_they_are():
    def cell(arm, seed, **facts):
        return {"arm": arm, "regime": "r", "seed": seed, **facts}

    lost = [cell("a", seed, diverged="not finite") for seed in (0, 1)]
    console = quiet()
    study_tables.print_result({"study": "t", "cells": lost}, console)
    assert "All of 2 runs diverged" in console.export_text()
    fine = {"splits": {"test": {"sampled": 0.6}}}
    tuned = [cell("a", 0, candidate="fast", diverged="not finite"),
             cell("a", 1, candidate="fast", **fine),
             *(cell("a", seed, candidate="slow", splits={"test": {"sampled": 0.4}})
               for seed in (0, 1))]  # fmt: skip
    console = quiet()
    study_tables.print_result({"study": "t", "cells": tuned}, console)  # .3 of fast, .4 of slow
    printed = console.export_text()
    assert "0.300" in printed and "[0.400]" in printed
    assert choices({"study": "t", "cells": tuned}) == {"a": "slow"}
    # not finished: `fast` has only the seed that is good to both, and there `slow` is better
    score = {"slow": (0.5, 0.1), "fast": (0.4,)}
    begun = [cell("a", seed, candidate=name, splits={"test": {"sampled": x}})
             for name, xs in score.items() for seed, x in enumerate(xs)]  # fmt: skip
    assert choices({"study": "t", "cells": begun}) == {"a": "slow"}
    apart = [begun[1], begun[2]]
    assert choices({"study": "t", "cells": apart}) == {}
    study_tables.print_result({"study": "t", "cells": apart}, quiet())


def test_curves_are_read_on_the_first_split_whatever_its_name():
    curve = [
        {"step": 5, "rollouts": 8, "seconds": 1.0, "validation": 0.2, "demonstration_nll": 1.0}
    ]
    console = quiet()
    study_tables.print_result({"study": "t", "cells": [
        {"arm": "a", "regime": "r", "seed": 1, "curve": curve, "traces": {},
         "splits": {"validation": {"sampled": 0.2}}}]}, console)  # fmt: skip
    assert "1 of 1" in console.export_text()


def test_regret_by_hand():
    def cell(arm, regime, seed, x):
        return {"arm": arm, "regime": regime, "seed": seed, "mean_mu": 0.5, "seconds": 1.0,
                "training_rollouts": 8,
                "splits": {"test": {"sampled": x, "greedy": x / 2}}}  # fmt: skip

    values = {("fixed-.1", "r"): 0.2, ("fixed-.9", "r"): 0.4, ("own", "r"): 0.5,
              ("fixed-.1", "s"): 0.3, ("fixed-.9", "s"): 0.1, ("own", "s"): 0.2}  # fmt: skip
    result = {"study": "t", "cells": [
        cell(arm, regime, seed, x + 0.01 * seed) for seed in (0, 1)
        for (arm, regime), x in values.items()
    ]}  # fmt: skip
    lost = tables.regrets(result)
    assert lost["own"]["each"] == pytest.approx({"r": -0.1, "s": 0.1})
    assert lost["fixed-.1"]["mean"]["mean"] == pytest.approx(0.1)  # (.2 + 0) / 2
    console = quiet()
    study_tables.print_result(result, console)
    printed = " ".join(console.export_text().split())  # titles wrap
    assert "Regret to the best constant" in printed and "own" in printed
    assert "2 seeds, mean of 2 regimes" in printed and "Only 2 seeds" in printed
    assert "applied" not in printed
    # an arm just begun is left out, and named; a rule of prompts says where it applied
    gate = [cell("gate", regime, seed, 0.3) | {"traces": {"share_applied": [None, 0.5, 0.25]}}
            for regime in ("r", "s") for seed in (0, 1)]  # fmt: skip
    late = [cell("late", "r", 1, 0.3)]
    more = {"study": "t", "core_hours": 1.5, "cells": [*result["cells"], *gate, *late]}
    assert tables.arms_of(tables.finished(more)) == ["fixed-.1", "fixed-.9", "own", "gate"]
    console = quiet()
    study_tables.print_result(more, console)
    printed = " ".join(console.export_text().split())  # titles wrap
    assert "Left out, not finished: late." in printed and "38% of prompts" in printed
    assert "17 cells, 1.5 core-hours in all." in printed
    # one seed behind is not far behind; two of four are
    behind = {"x": 4, "y": 3, "z": 2}
    cells = [cell(arm, "r", seed, 0.1) for arm, n in behind.items() for seed in range(n)]
    assert tables.arms_of(tables.finished({"cells": cells})) == ["x", "y"]
    begun = [cell("x", "r", 0, 0.1), cell("y", "s", 0, 0.1)]  # nothing whole: nothing left out
    assert tables.arms_of(tables.finished({"cells": begun})) == ["x", "y"]
    rows = [line.strip("| ").split(" | ") for line in tables.markdown(more).splitlines()]
    assert [row[0] for row in rows[2:]] == ["own", "gate", "fixed-.1", "fixed-.9"]
    assert rows[2][1].startswith("0.355 [") and rows[2][3].startswith("0.000 [")
    # own - fixed-.1: +.3 and -.1, own - fixed-.9: +.1 both times, the same in both seeds
    shown = tables.differences_markdown(result, "own", groups={"in s": ["s"]}).splitlines()
    assert shown[0] == "| own less | test | test, greedy | in s |"
    assert shown[2:] == [
        "| fixed-.1 | +0.100 [+0.100, +0.100] * | +0.050 [+0.050, +0.050] * "
        "| -0.100 [-0.100, -0.100] * |",
        "| fixed-.9 | +0.100 [+0.100, +0.100] * | +0.050 [+0.050, +0.050] * "
        "| +0.100 [+0.100, +0.100] * |",
    ]
    only = tables.differences_markdown(result, "own", ["test, greedy"]).splitlines()
    assert only[0] == "| own less | test, greedy |" and "+0.050" in only[2]
    assert tables.markdown(result, ["test, greedy"]).splitlines()[0].startswith(
        "|  | test, greedy | regret")  # fmt: skip
    none = {"cells": [cell(arm, "r", seed, x) for seed in (0, 1)
                      for arm, x in (("sft", 0.2), ("own", 0.5))]}  # fmt: skip
    assert [line.split(" | ")[:2] for line in tables.markdown(none, ["test"]).splitlines()] == [
        ["| ", "test"], ["|---|---|---|---|---|"], ["| own", "0.500 [0.500, 0.500]"],
        ["| sft", "0.200 [0.200, 0.200]"]]  # fmt: skip
    assert "regret" not in tables.markdown(none)


def test_every_table_of_a_committed_result_prints(monkeypatch):
    monkeypatch.setattr(tables, "DRAWS", 50)  # what is printed is looked at elsewhere
    for name in COMMITTED:
        result, console = shipped(name), quiet()
        study_tables.print_result(result, console)
        assert result["cells"][0]["arm"] in console.export_text(), name


def test_the_chance_to_win_and_other_problems_are_printed_beside_differences():
    """Of two arms of the second task; the chance counted pair by pair."""
    result = shipped("second_task")
    cells = [c for c in result["cells"] if c["arm"] in ("amft", "fixed-.1")]
    result = result | {"cells": cells}
    wins = []
    for regime in ("clean", "wrong"):
        x, y = (column(result, arm, "test", regime=regime) for arm in ("amft", "fixed-.1"))
        wins += [(a > b) + (a == b) / 2 for a in x for b in y]
    gap = np.mean(column(result, "amft", "test")) - np.mean(column(result, "fixed-.1", "test"))
    console = quiet()
    study_tables.print_result(result, console)
    printed = console.export_text()
    [row] = [line for line in printed.splitlines() if "amft - fixed-.1" in line][-1:]
    seen, chance, problems = [cell.strip() for cell in row.split("│")[2:5]]
    assert chance.startswith(f"{np.mean(wins):.2f} [")
    assert problems.startswith(f"{gap:.3f} [") and float(seen) > 0
    values = np.sort(np.concatenate([column(result, "amft", "test", regime=r)
                                     for r in ("clean", "wrong")]))  # fmt: skip
    assert f"│ {values[5:15].mean():.3f} [" in printed  # the middle half of twenty


def test_a_star_is_holm_s():
    """Three arms below `own`: by themselves p < .05 for two, by Holm's procedure for one."""
    noise = {"own": (0.30, 0.33, 0.31), "near": (0.29, 0.33, 0.29), "far": (0.10, 0.14, 0.12),
             "mid": (0.26, 0.31, 0.28)}  # fmt: skip
    result = {"study": "t", "cells": [
        {"arm": arm, "regime": "r", "seed": seed, "splits": {"test": {"sampled": x}}}
        for arm, xs in noise.items() for seed, x in enumerate(xs)
    ]}  # fmt: skip
    p = {arm: stats.ttest_rel(noise["own"], noise[arm]).pvalue for arm in ("near", "far", "mid")}
    assert p["far"] < 0.05 / 3 and 0.05 / 2 < p["mid"] < 0.05 < p["near"]
    rows = [row.strip("| ").split(" | ") for row in
            tables.differences_markdown(result, "own").splitlines()[2:]]  # fmt: skip
    assert [row[0] for row in rows] == ["far", "mid", "near"]  # the largest difference first
    assert [row[1].endswith("*") for row in rows] == [True, False, False]


def test_curves_by_hand():
    points = (10, 0.1, 0.5), (20, 0.2, 0.3), (30, 0.12, 0.6), (40, 0.18, 0.7)
    curve = [{"step": s, "rollouts": s * s, "seconds": s / 8, "test": x, "demonstration_nll": n}
             for s, x, n in points]  # fmt: skip
    reached = {x: tables.point_reached(curve, x)["step"] for x in (0.1, 0.15, 0.3)}
    assert reached == {0.1: 10, 0.15: 20, 0.3: 40}  # never: all of the run was paid
    assert tables.largest_drop(curve) == pytest.approx(0.08)
    assert tables.largest_drop(curve[:2]) == 0.0
    result = {"study": "t", "cells": [
        {"arm": "a", "regime": "r", "seed": s, "curve": curve} for s in (1, 2)
    ] + [{"arm": "lost", "regime": "r", "seed": 1, "diverged": "step 3"}]}  # fmt: skip
    console = quiet()
    study_tables.print_curves(result, console)
    row = next(line for line in console.export_text().splitlines() if "2 of 2" in line)
    assert [x.strip() for x in row.strip("│").split("│")] == [
        "a", "2 of 2", "20", "400", "2.5", "0.080", "0.300", "0.700"]  # fmt: skip


def test_the_ceiling_by_hand_and_luck_does_not_survive_the_other_seeds_choice():
    values = {"fixed-.1": (0.2, 0.2, 0.2), "fixed-.9": (0.1, 0.1, 0.3),
              "up": (0.3, 0.1, 0.2), "down": (0.1, 0.3, 0.1)}  # fmt: skip
    result = {"study": "t", "cells": [
        {"arm": arm, "regime": "r", "seed": s, "settings": {"trace": "1"},
         "splits": {"test": {"sampled": x}}}
        for arm, xs in values.items() for s, x in enumerate(xs)]}  # fmt: skip
    row = tables.ceiling(result)["r"]
    assert (row["best"], row["constant"]) == ("up", "fixed-.1")
    assert row["in_sight"] == pytest.approx(0.0)
    # seed 0: down (.2) and fixed-.1 (.2; .9 ties and comes later) chosen -> .1 - .2; seed 1: up,
    # and fixed-.1 by the same tie -> .1 - .2; seed 2: up ties with down, fixed-.1 -> .2 - .2
    assert row["chosen_elsewhere"] == pytest.approx([-0.1, -0.1, 0.0])
    console = quiet()
    study_tables.print_ceiling(result, console)
    assert "-0.067 [" in console.export_text()
    grid = read_grid("oracle")
    traces = {settings["trace"] for settings in grid.arms.values()}
    assert len(traces) == 29 and sum(arm.startswith("fixed-") for arm in grid.arms) == 5


@pytest.mark.parametrize("width", [40, 60, 80, 250])
def test_a_narrow_terminal_gets_more_tables_and_whole_numbers(width):
    head = ["", "first of three", "second", "a-name-of-many-signs"]
    rows = [["arm-one", "0.191 [0.187, 0.196]", "[0.300]", "-"], ["b", "x", "[bold]", "1"]]
    console = Console(file=io.StringIO(), record=True, width=width)
    study_tables.show(console, "A title", head, rows)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    for cell in (*rows[0][1:3], "[bold]", "a-name-of-many-signs"):
        assert text.count(cell) == 1
    assert text.count("arm-one") == text.count("┏") == {40: 3, 60: 2, 80: 1, 250: 1}[width]


def test_success_by_stage_by_hand():
    def cell(seed, stages, success):
        trace = " ".join(f"{mu}x2" for mu in stages)
        return {"arm": trace, "regime": "r", "seed": seed, "settings": {"trace": trace},
                "splits": {"test": {"sampled": success}}}  # fmt: skip

    of_both = {(".1", ".1"): 0.1, (".1", ".9"): 0.5, (".9", ".1"): 0.3, (".9", ".9"): 0.7}
    cells = [cell(seed, stages, x + seed / 10) for seed in (0, 1) for stages, x in of_both.items()]
    cells.append(cell(0, (".5", ".5"), 0.99))  # a constant between belongs to no stage
    first, second = tables.by_stage({"cells": cells})["r"]
    assert first[0.1].tolist() == pytest.approx([0.3, 0.4]) and list(first) == [0.1, 0.9]
    assert first[0.9].tolist() == pytest.approx([0.5, 0.6])
    assert second[0.1].tolist() == pytest.approx([0.2, 0.3])
    assert second[0.9].tolist() == pytest.approx([0.6, 0.7])
    shown = tables.stages_markdown({"cells": cells}).splitlines()
    assert shown[3] == "| stage 2 | 0.250 | 0.650 | +0.400 [+0.400, +0.400] |"
    console = quiet()
    study_tables.print_stages({"cells": cells}, console)
    [row] = [line for line in console.export_text().splitlines() if "stage 2" in line]
    assert [x.strip() for x in row.strip("│").split("│")] == [
        "stage 2", "0.250", "0.650", "+0.400 [+0.400, +0.400]"]  # fmt: skip
    begun = {"cells": [*cells, cell(2, (".1", ".1"), 0.9)]}  # a third seed, not finished
    assert tables.by_stage(begun)["r"][0][0.1].tolist() == first[0.1].tolist()
    few = {"cells": [c for c in cells if c["arm"] != ".9x2 .1x2"]}
    with pytest.raises(ValueError, match="not all schedules"):
        tables.by_stage(few)
    console = quiet()
    study_tables.print_stages(few, console)
    assert console.export_text() == ""


def test_a_curve_is_looked_at_every_so_many_steps(tmp_path):
    arms = {"sft": {"method": "sft"}, "amft": {"method": "amft"}}
    path = grid_file(tmp_path, curve=2, arms=arms, seeds=[5, 1], regimes={"few": {}})
    result = run_study(path, tmp_path / "out", console=quiet())
    paid = {c["arm"]: [point["rollouts"] for point in c["curve"]] for c in result["cells"]}
    # two steps of warm-up cost none; then two steps of 4 x 8, each with 4 x 8 for validation
    assert paid == {"sft": [0, 0], "amft": [0, 2 * (32 + 32)]}
    for cell in result["cells"][:1]:
        assert [point["step"] for point in cell["curve"]] == [2, 4]
        assert set(cell["curve"][0]) == {
            "step", "rollouts", "seconds", "test", "ood_rule", "demonstration_nll"}  # fmt: skip
        # the last point is the end: the same demonstrations under the same policy
        assert cell["curve"][-1]["demonstration_nll"] == cell["demonstration_nll"]
        assert cell["curve"][0]["demonstration_nll"] > cell["demonstration_nll"]  # SFT learns them


def test_cells_outside_the_stored_bands_are_named():
    stored = {"cells": [
        {"arm": "a", "regime": "r", "seed": s, "splits": {"test": {"sampled": x, "greedy": x}}}
        for s, x in enumerate((0.20, 0.21, 0.19, 0.20))
    ]}  # fmt: skip

    def fresh(value):
        return {"cells": [{"arm": "a", "regime": "r", "seed": 9,
                           "splits": {"test": {"sampled": value}}}]}  # fmt: skip

    half = stats.t.ppf(0.995, 3) * np.std([0.2, 0.21, 0.19, 0.2], ddof=1) * (1 + 1 / 4) ** 0.5
    assert tables.outside_bands(fresh(0.2 + 0.99 * half), stored) == ([], 1)
    [line], checked = tables.outside_bands(fresh(0.2 + 1.01 * half), stored)
    assert "a in r, seed 9" in line and checked == 1
    stored["cells"] = stored["cells"][:2]  # two seeds make no band, and none is claimed
    assert tables.outside_bands(fresh(9.0), stored) == ([], 0)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "words"), [
    ({"colour": "red"}, "'colour' is no key"),
    ({"arms": {}}, "lacks arms"),
    ({"arms": {"x": {"method": "amtf"}}}, "did you mean amft"),
    ({"regimes": {"r": {"demos": 3}}}, "x in r: there is no setting called 'demos'"),
    ({"arms": ["sft"]}, "arms must be"),
    ({"seeds": 5}, r"seeds must be \[first, how many\]"),
    ({"seeds": [1, 0]}, r"seeds must be"),
    ({"arms": {"x": "sft"}}, "arms must be `name: {setting: value, ...}` lines"),
    ({"arms": {1: {"method": "sft"}}}, "names are text"),
    ({"arms": {"a/b": {"method": "sft"}}}, "arms must be"),
    ({"settings": ["a"]}, "settings must be"),
    ({"recipe": 5}, "recipe must be a recipe's name"),
    ({"recipe": "lita"}, "did you mean lite"),
    ({"recipe": "smollm2_cpu"}, "a study trains the tiny policies, not smollm2"),
    ({"choose": ["x"]}, "choose must be"),
    ({"splits": {"test": 5}}, r"splits must be `split: \[problems, samples\]`"),
    ({"curve": "x"}, "curve must be a number of steps"),
    ({"replay": {"x": "x:sine"}}, "replay: x must name arms"),
    ({"replay": {"x": "y"}}, "replay: x must name arms"),
    ({"replay": {"x": "x"}}, "its method must be replay"),
    ({"replay": {"x": "x"}, "seeds": [1, 1]}, "two seeds or more"),
    ({"splits": {}}, "lacks splits"),
    ({"regimes": {}}, "lacks regimes"),
    ({"family": {"y": "sft"}, "tuned_by": "tune"}, "family names 'y', which is no arm; arms: x"),
    ({"family": {"x": "sft"}}, "needs tuned_by"),
    ({"arms": {"a--b": {"method": "sft"}}}, "names are text without / and --"),
    ({"only": {"y": {"plain": {}}}}, "only names 'y', which is no arm"),
])  # fmt: skip
def test_a_wrong_grid_gets_one_sentence(changes, words, tmp_path):
    arms = {"arms": {"x": {"method": "sft"}}}
    with pytest.raises((StudyError, ValueError), match=words):
        read_grid(grid_file(tmp_path, **{**arms, **changes}))


@pytest.mark.parametrize(("changes", "words"), [
    ({"splits": {"tset": [0, 8]}}, "no split is called 'tset'; general_points has train, valid"),
    ({"settings": {"task": "general_points_vision", "tries": 2}}, "amft in few: .*tries"),
])  # fmt: skip
def test_what_only_the_task_knows_is_asked_before_training(changes, words, tmp_path):
    with pytest.raises(StudyError, match=words):
        run_study(grid_file(tmp_path, **changes), tmp_path / "out", console=quiet())
    assert not list(tmp_path.rglob("*.json"))


def test_a_candidate_without_settings_is_one(tmp_path):
    grid = read_grid(grid_file(tmp_path, only={"sft": {"plain": None}}, regimes={"few": None}))
    assert grid.candidates("sft") == {"plain": {}} and grid.regimes == {"few": {}}


def test_a_misspelt_family_would_leave_an_arm_untuned(tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "GRIDS", tmp_path)
    tuning = grid_file(tmp_path, "tune", choose={"slow": {"lr": 1e-6}}, seeds=[0, 1],
                       arms={"sft": {"method": "sft"}}, regimes={"few": {}})  # fmt: skip
    run_study(tuning, tmp_path / "out", console=quiet())
    monkeypatch.setattr(results, "DATA", tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "out" / "result.json").rename(tmp_path / "studies" / "tune.json")
    grid_file(tmp_path, "next", tuned_by="tune", family={"amft": "fst"})
    with pytest.raises(StudyError, match="the study tune chose for no 'fst', but for sft"):
        tuned(read_grid("next"))
    grid_file(tmp_path, "plain")
    grid_file(tmp_path, "next", tuned_by="plain")
    (tmp_path / "studies" / "tune.json").rename(tmp_path / "studies" / "plain.json")
    with pytest.raises(StudyError, match="the study plain has nothing to choose"):
        tuned(read_grid("next"))


def test_the_command_line_refuses_and_lists(tmp_path):
    for words, text in (
        (("study", "nope"), "no study is called 'nope'; known:"),
        (("study", "quick", "--methods", "amtf"), "quick has no arm 'amtf'; known: amft, sft"),
        (("study", "quick", "--regimes", "x"), "quick has no regime 'x'"),
    ):
        done = amft(*words, code=2)
        assert text in " ".join(done.split())
    listed = " ".join(amft("study").split())
    assert all(f"{name}:" in listed for name in grid_names())


# --- the loop's controls --------------------------------------------------------------------------


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


def test_learning_has_the_cells_of_confirm_digit_for_digit():
    """Its page says that these two arms were copied, not run again."""
    confirm = {results.key(cell): cell for cell in results.shipped("confirm")["cells"]}
    copied = [
        cell for cell in results.shipped("learning")["cells"]
        if cell["arm"] in ("cut_low", "amft_full-equal")
    ]  # fmt: skip
    assert len(copied) == 2 * 6 * 20
    assert all(confirm[results.key(cell)] == cell for cell in copied)
