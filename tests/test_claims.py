"""The ledger: every verdict follows from the stored results, and would not from others."""

import copy
import math
import re

import numpy as np
import pytest
from scipy import stats
from test_runs import amft

from amft_lite import claims, results
from amft_lite.claims import HOLDS, NOT, PARTLY, PENDING, UNTESTABLE, Finding, judge
from amft_lite.statistics import Interval

ROWS = claims.read_claims()


def test_every_verdict_follows_from_the_stored_results():
    assert claims.check() == []
    assert f"All {len(ROWS)} rows follow" in amft("claims", "--check")


def test_the_ledger_is_long_enough_and_mostly_testable():
    assert len(ROWS) >= 20 and len({row["id"] for row in ROWS}) == len(ROWS)
    verdicts = [row["verdict"] for row in ROWS]
    assert set(verdicts) <= {HOLDS, PARTLY, NOT, UNTESTABLE, PENDING}
    assert verdicts.count(UNTESTABLE) <= len(ROWS) / 3
    for row in ROWS:  # each says where the claim is from; untestable ones say why
        assert any(word in row["source"] for word in ("abstract", "notes", "code", "ours"))
        assert row["because"]


def test_a_changed_number_in_a_stored_result_makes_the_check_fail(monkeypatch):
    rows = [row for row in ROWS if row.get("key_number") and "study" in row["test"]]
    assert rows
    for name in {row["test"]["study"] for row in rows}:
        changed = copy.deepcopy(results.shipped(name))
        number = {arm: n for n, arm in enumerate({c["arm"]: 0 for c in changed["cells"]}, 1)}
        for cell in changed["cells"]:
            n = number[cell["arm"]]
            for found in cell.get("splits", {}).values():
                for kind in ("sampled", "greedy"):
                    found[kind] += 0.01 * (cell["seed"] % 2) + 0.001 * n
            for key in ("meta_movement", "final_entropy", "demonstration_nll"):
                if cell.get(key) is not None:
                    cell[key] += 0.01 * (cell["seed"] % 3) * n
            for blocks in cell.get("traces", {}).values():
                blocks[1] = (blocks[1] or 0.0) + 0.01 * n * (cell["seed"] % 3)
            for point in cell.get("curve") or []:
                point["rollouts"] += 64 * n
        with monkeypatch.context() as patch:
            patch.setattr(claims, "shipped", lambda n, name=name, changed=changed: (
                changed if n == name else results.shipped(n)))  # fmt: skip
            of_it = [row for row in rows if row["test"]["study"] == name]
            patch.setattr(claims, "read_claims", lambda of_it=of_it: of_it)
            wrong = {line.split(": ")[0] for line in claims.check()}
        assert wrong == {row["id"] for row in of_it}, name


def found(overall, **each):
    return Finding(Interval(*overall, 5), {k: Interval(*v, 5) for k, v in each.items()})


def test_verdicts_by_hand():
    above, around, below = (0.2, 0.1, 0.3), (0.0, -0.1, 0.1), (-0.2, -0.3, -0.1)
    assert judge(found(above), 0.0) == (HOLDS, "the interval lies above the threshold")
    assert judge(found(above), 0.1)[0] == NOT  # its end is the threshold: not above it
    assert judge(found(above, a=around, b=below), 0.0) == (PARTLY, "the opposite is shown in b")
    assert judge(found(above, a=above, b=around), 0.0) == (
        HOLDS, "the interval lies above the threshold; by itself in 1 of 2")  # fmt: skip
    assert judge(found(around, a=above, b=around), 0.0) == (PARTLY, "shown in a only")
    assert judge(found(around, a=above, b=below), 0.0) == (
        PARTLY, "shown in a only; the opposite is shown in b")  # fmt: skip
    assert judge(found(around, a=around, b=below), 0.0) == (NOT, (
        "not shown: the interval includes the threshold; the opposite is shown in b"))  # fmt: skip
    assert judge(found(around, a=around, b=around), 0.0) == (
        NOT, "not shown: the interval includes the threshold")  # fmt: skip
    assert judge(found(below), 0.0) == (NOT, "the opposite is shown")
    assert judge(found(below, a=above, b=below), 0.0)[1].endswith(
        "the opposite is shown in b; on average the opposite is shown")  # fmt: skip
    worse = found(below, a=around, b=below)
    worse = Finding(worse.overall, worse.each, "against")
    assert judge(worse, 0.0) == (NOT, "the opposite is shown against b")


@pytest.mark.parametrize(("changes", "words"), [
    ({"kind_of": "differense"}, "kind_of must be one of"),
    ({"splits": "ood_rule"}, "difference knows no 'splits', but arm, field, kind, minus"),
    ({"split": "ood_rules"}, "split 'ood_rules' is not in quick; known: test, ood_rule"),
    ({"kind": "Greedy"}, "kind 'Greedy' is not in quick; known: sampled, greedy"),
    ({"arm": "amtf"}, "arm 'amtf' is not in quick; known: amft"),
    ({"minus": ["sft", "rlx"]}, "minus 'rlx' is not in quick"),
    ({"regimes": ["heavy"]}, "regimes 'heavy' is not in quick; known: lite"),
    ({"study": "quik"}, "no study is called 'quik'; known: "),
    ({"arm": None}, "the test difference lacks arm"),
])  # fmt: skip
def test_a_slip_in_a_row_is_an_error_and_neither_pending_nor_another_measure(changes, words):
    test = next(row["test"] for row in ROWS if row["id"] == "information")
    claims.check_test("row", test)
    wrong = {k: v for k, v in (test | changes).items() if v is not None}
    with pytest.raises(claims.ClaimError, match=f"^row: .*{re.escape(words)}"):
        claims.check_test("row", wrong)


@pytest.mark.parametrize(("text", "words"), [
    ("- id: [", "is not YAML"), ("", "must be a list of rows"), ("- x", "must be a list of rows"),
    ("- id: a\n  claim: b\n", "the row 'a' lacks source"),
])  # fmt: skip
def test_a_ledger_that_is_none_gets_one_sentence(text, words, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "PATH", tmp_path / "claims.yaml")
    claims.PATH.write_text(text)
    with pytest.raises(claims.ClaimError, match=words):
        claims.read_claims()


def cells(**arms):
    """arm -> [regime][seed] of success, as a stored result."""
    return {"study": "s", "cells": [
        {"arm": arm, "regime": f"r{r}", "seed": s, "splits": {"test": {"sampled": x, "greedy": x}},
         "traces": {"mu": [1.0, 0.5 + x, None, 0.5]}, "curve": [
             {"step": 15, "test": x, "rollouts": 110},
             {"step": 30, "test": 2 * x, "rollouts": 330}],
         "training_rollouts": 300, "validation_rollouts": 30, "meta_movement": x}
        for arm, rows in arms.items() for r, row in enumerate(rows) for s, x in enumerate(row)
    ]}  # fmt: skip


@pytest.fixture
def stored(monkeypatch):
    def put(**arms):
        result = cells(**arms)
        monkeypatch.setattr(claims, "shipped", lambda name: result)

    return put


def test_a_difference_is_student_s_over_seeds_of_the_mean_over_regimes(stored):
    a = [[0.3, 0.5, 0.4], [0.2, 0.1, 0.3]]
    b = [[0.1, 0.2, 0.3], [0.2, 0.2, 0.1]]
    stored(a=a, b=b)
    got = claims.difference({"study": "s", "arm": "a", "minus": "b"})
    gaps = np.array(a) - np.array(b)
    seeds = gaps.mean(0)
    low, high = stats.t.interval(0.95, 2, seeds.mean(), stats.sem(seeds))
    assert (got.overall.low, got.overall.high) == pytest.approx((low, high))
    low, high = stats.t.interval(0.975, 2, gaps[1].mean(), stats.sem(gaps[1]))  # .05 / 2 regimes
    assert (got.each["r1"].low, got.each["r1"].high) == pytest.approx((low, high))
    one = claims.difference({"study": "s", "arm": "a", "minus": "b", "regimes": ["r1"]})
    assert one.overall.mean == pytest.approx(gaps[1].mean())
    both = claims.difference({"study": "s", "arm": "a", "minus": "b", "regimes": ["r1", "r0"]})
    for name, row in (("r0", gaps[0]), ("r1", gaps[1])):
        assert both.each[name].mean == pytest.approx(row.mean())
    with pytest.raises(claims.ClaimError, match="no arm 'c'"):
        claims.difference({"study": "s", "arm": "c"})


def test_fields_of_cells(stored):
    stored(a=[[0.1, 0.2]])
    fall = claims.difference({"study": "s", "arm": "a", "field": "mu:fall"}).overall
    assert fall.mean == pytest.approx(0.15)  # .5 + x, less .5
    moved = claims.difference({"study": "s", "arm": "a", "field": "meta_movement"}).overall
    assert moved.mean == pytest.approx(0.15)
    # success .2 is reached at step 30 by seed 0 (2 x .1), at step 15 by seed 1
    cost = claims.difference({"study": "s", "arm": "a", "field": "rollouts to 0.2"}).overall
    assert cost.mean == pytest.approx((330 + 110) / 2)


def test_a_diverged_run_has_no_field_to_judge_by(monkeypatch):
    result = cells(a=[[0.1, 0.2]])
    result["cells"][0] = {"arm": "a", "regime": "r0", "seed": 0, "diverged": "not finite"}
    monkeypatch.setattr(claims, "shipped", lambda name: result)
    for name in ("meta_movement", "mu:fall", "rollouts to 0.2"):
        with pytest.raises(claims.ClaimError, match="did it diverge"):
            claims.difference({"study": "s", "arm": "a", "field": name})


def test_the_best_constant_is_chosen_on_the_other_seeds(stored):
    low, high = [[0.1, 0.1, 0.9]], [[0.2, 0.3, 0.1]]
    stored(**{"fixed-.1": low, "fixed-.5": high, "a": [[0.5, 0.5, 0.5]]})
    got = claims.best_constant({"study": "s", "arm": "a"})
    # without seed 0: means .5 and .2 -> .1 is taken; without 1: .5, .15; without 2: .1, .25
    taken = [0.1, 0.1, 0.1]
    assert got.overall.mean == pytest.approx(np.mean([0.5 - x for x in taken]))
    stored(**{"fixed-.1": low * 2, "fixed-.5": high + low, "a": [[0.0] * 3, [0.5] * 3]})
    got = claims.best_constant({"study": "s", "arm": "a", "regimes": ["r1"]})
    assert list(got.each) == ["r1"] and got.overall.mean == pytest.approx(0.5 - 1.1 / 3)


def test_several_rivals_are_judged_by_holm(stored):
    """p of b < p of c < p of d: b at .05 / 3, c at .05 / 2, d, not settled, at .05."""
    a = [[0.30, 0.33, 0.31, 0.32]]
    b, c = [[0.10, 0.13, 0.10, 0.12]], [[0.22, 0.30, 0.23, 0.26]]
    d = [[0.31, 0.32, 0.30, 0.33]]
    stored(a=a, b=b, c=c, d=d)
    test = {"kind_of": "beats_each", "study": "s", "arm": "a", "minus": ["d", "c", "b"]}
    got = claims.beats_each(test)
    for rival, values, level in (("b", b, 1 - 0.05 / 3), ("c", c, 1 - 0.05 / 2), ("d", d, 0.95)):
        gaps = (np.array(a) - np.array(values)).mean(0)
        low, high = stats.t.interval(level, 3, gaps.mean(), stats.sem(gaps))
        assert (got.each[rival].low, got.each[rival].high) == pytest.approx((low, high))
    assert got.overall == got.each["d"]
    assert judge(got, 0.0) == (PARTLY, "shown against b, c only")
    beaten = judge(claims.beats_each(test | {"minus": ["b", "c"]}), 0.0)
    assert beaten == (HOLDS, "the interval lies above the threshold; by itself against 2 of 2")
    worse = claims.beats_each(test | {"arm": "b", "minus": ["a", "c"]})
    assert judge(worse, 0.0) == (NOT, "the opposite is shown against a, c")
    # a margin: a is no worse than d by .05, and that is told from -.05, not from 0
    margin = claims.beats_each(test | {"minus": ["d"], "threshold": -0.05})
    assert judge(margin, -0.05)[0] == HOLDS
    # once one is not settled, the others keep its level: here neither is settled at .05 / 2
    e = [[0.30, 0.32, 0.33, 0.31]]
    stored(a=a, d=d, e=e)
    got = claims.beats_each(test | {"minus": ["d", "e"]})
    for rival, values in (("d", d), ("e", e)):
        gaps = (np.array(a) - np.array(values)).mean(0)
        low, _ = stats.t.interval(0.975, 3, gaps.mean(), stats.sem(gaps))
        assert got.each[rival].low == pytest.approx(low)


def test_a_schedule_s_gain_is_that_of_the_other_seeds_choice(stored):
    """Without seed 0 fixed-.5 is the better constant (.3 to .1), else fixed-.1 (.35 to .25)."""
    stored(**{"fixed-.1": [[0.6, 0.1, 0.1]], "fixed-.5": [[0.2, 0.3, 0.3]],
              "up": [[0.4, 0.4, 0.5]], "down": [[0.1, 0.2, 0.1]]})  # fmt: skip
    got = claims.schedule_gain({"study": "s"})
    gains = [0.4 - 0.2, 0.4 - 0.1, 0.5 - 0.1]
    assert got.overall.mean == pytest.approx(np.mean(gains))


def test_steadier_is_above_zero_where_the_other_varies_more(stored):
    rng = np.random.default_rng(0)
    calm, wild = rng.normal(0.3, 0.01, (3, 10)), rng.normal(0.3, 0.05, (3, 10))
    stored(a=calm.tolist(), b=wild.tolist())
    got = claims.steadier({"study": "s", "arm": "a", "minus": "b"}).overall
    plain = np.log(wild.std(1, ddof=1) / calm.std(1, ddof=1)).mean()
    assert got.low > 0 and got.mean == pytest.approx(plain, abs=0.2)
    assert math.isclose(
        claims.steadier({"study": "s", "arm": "b", "minus": "a"}).overall.mean, -got.mean
    )


def test_shares_along_runs_by_hand(monkeypatch):
    def moment(signal, low, high, single, reference, share):
        return {"signal": signal, "after": {"0.95": high, "0.05": low}, "single": single,
                "reference": {"value": reference},
                "worth": {"256": {"right_above_wrong": share}}}  # fmt: skip

    more, less = ([0.1, 0.2, 0.3], [0.3, 0.3, 0.3]), ([0.5, 0.5, 0.2], [0.1, 0.1, 0.4])
    runs = [  # imitation gains .1 in the first moment and loses .2 in the second
        [
            moment(0.5, *more, [1, 1, -1, 0], 2.0, 0.75),
            moment(0.1, *less, [-1, 1, 1, 1], -3.0, 0.25),
        ],
        [
            moment(0.5, *more, [1, 1, 1, 1], 2.0, 1.0),
            moment(-0.1, *less, [-1, -1, 1, 1], -3.0, 0.5),
        ],
    ]
    blocks = [{"regime": r, "seed": s, "moments": run}
              for r, run in zip("ab", runs, strict=True) for s in (1, 2)]  # fmt: skip
    monkeypatch.setattr(claims, "recording", lambda name: {"blocks": blocks})
    for share, first, second in (
        ("signal foresees twenty steps", 1 / 2, 1),
        ("single estimates agree with the reference", (2.5 / 4 + 1 / 4) / 2, (1 + 2 / 4) / 2),
        ("right experts above wrong ones", 0.5, 0.75),
    ):
        got = claims.along_runs({"share": share})
        assert got.each["a"].mean == pytest.approx(first)
        assert got.each["b"].mean == pytest.approx(second)
        assert got.overall.mean == pytest.approx((first + second) / 2) and got.overall.n == 2
    alone = claims.along_runs({"share": "right experts above wrong ones", "regimes": ["b"]})
    assert list(alone.each) == ["b"] and alone.overall.mean == pytest.approx(0.75)


def test_a_study_without_a_result_is_pending_and_a_broken_row_is_named(monkeypatch, tmp_path):
    row = {"test": {"kind_of": "difference", "study": "nowhere", "arm": "a"}, "threshold": 0}
    assert claims.evaluate(row)["verdict"] == PENDING
    path = tmp_path / "claims.yaml"
    monkeypatch.setattr(claims, "PATH", path)
    path.write_text("- {id: x, claim: c, source: abstract, scale: s}\n")
    assert "lacks test" in amft("claims", code=2)
    path.write_text("- {id: x, claim: c, source: abstract, scale: s, test: {kind_of: guess}, "
                    "threshold: 0}\n")  # fmt: skip
    assert "kind_of must be one of" in amft("claims", code=2)


def test_two_things_at_once_are_refused():
    assert "ask for one of them" in amft("claims", "--check", "--write", code=2)


def test_writing_changes_nothing_but_verdicts(monkeypatch, tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(claims.PATH.read_text().replace("verdict: does not hold", "verdict: holds"))
    monkeypatch.setattr(claims, "PATH", path)
    assert claims.check()
    claims.write()
    assert claims.check() == [] and claims.read_claims() == ROWS
    once = path.read_text()
    claims.write()
    assert path.read_text() == once and once.startswith("# The claim ledger.")


def test_the_readme_s_ledger_is_generated():
    """And while rows are pending the README says so besides."""
    readme = (claims.DATA.parent / "README.md").read_text(encoding="utf-8")
    assert claims.markdown() in readme
    pending = any(row["verdict"] == PENDING for row in ROWS)
    assert ("The main study is not finished" in readme) == pending


INTERVAL = re.compile(r"([+-]?\d?\.\d+) \[([+-]?\d?\.\d+), ([+-]?\d?\.\d+)\]")


def test_every_interval_that_the_readme_tells_is_in_a_table_or_the_ledger():
    """Prose is written by hand; a study run again must not leave its old numbers there. A
    difference may be told the other way round (a less b, or by how much b loses)."""
    readme = (claims.DATA.parent / "README.md").read_text(encoding="utf-8")
    told = readme.split("## When does a learned mu pay?")[1].split("<details>")[0]
    page = (claims.DATA / "studies" / "README.md").read_text(encoding="utf-8")
    shown = " ".join(f"{page} {claims.markdown()}".split())
    known = [[float(x) for x in found] for found in INTERVAL.findall(shown)]
    known += [[-value, -high, -low] for value, low, high in known]
    intervals = INTERVAL.findall(" ".join(told.split()))
    assert len(intervals) > 10
    for found in intervals:
        digits = len(found[0].split(".")[1])
        given = [float(x) for x in found]
        near = 0.5 * 10.0**-digits + 1e-9
        assert any(
            all(abs(x - y) <= near for x, y in zip(given, row, strict=True)) for row in known
        ), found


def test_a_study_in_progress_decides_nothing(monkeypatch):
    quick = copy.deepcopy(results.shipped("quick"))
    row = next(row for row in ROWS if row["id"] == "information")
    assert claims.evaluate(row)["verdict"] == NOT
    quick["cells"] = [c for c in quick["cells"] if c["seed"] < 10 or c["arm"] != "placebo"]
    monkeypatch.setattr(claims, "shipped", lambda name: quick)
    yet = "the study quick has not all 10 seeds yet"
    assert claims.evaluate(row)["because"] == f"of placebo {yet}"
    several = {"kind_of": "beats_each", "arm": row["test"]["arm"], "minus": ["placebo"]}
    lacking = claims.evaluate({**row, "test": row["test"] | several})
    assert lacking["because"] == f"of placebo {yet}"
    quick["cells"] = [c for c in quick["cells"] if c["seed"] > 1 or c["arm"] != "amft"]
    assert claims.evaluate(row)["because"] == f"of amft, placebo {yet}"
