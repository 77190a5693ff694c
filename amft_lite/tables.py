"""A study's result as tables: success, differences and regret, with intervals over seeds.

Left out: printing (`amft_lite.study_tables`); figures (`amft_lite.study_figures`); verdicts on the
paper's claims (`amft_lite.claims`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from amft_lite.statistics import (
    Interval,
    holm,
    mean_interval,
    over_problems,
    p_value,
    regret,
    score,
    table,
)

#: Bootstrap draws of what is only printed.
DRAWS = 1000
#: Constants are arms of this beginning; regret is counted from the best of them.
CONSTANT = "fixed-"


def arms_of(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(cell["arm"] for cell in result["cells"]))


def regimes_of(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(cell["regime"] for cell in result["cells"]))


def finished(result: dict[str, Any], behind: float = 0.2) -> dict[str, Any]:
    """The result without arms that are far behind: more than a seed, and more than `behind` of the
    most whole seeds (0: at all). Where no seed is whole nothing is left out.

    Arms are compared on the seeds that all of them have; an arm just begun would leave none.
    """
    regimes, whole = set(regimes_of(result)), {}
    for cell in result["cells"]:
        place = whole.setdefault(cell["arm"], {}).setdefault(cell["seed"], set())
        place.add(cell["regime"])
    count = {arm: sum(found == regimes for found in by.values()) for arm, by in whole.items()}
    most = max(count.values())
    least = max(min((1 - behind) * most, most - (behind > 0)), min(most, 1))
    kept = {arm for arm, n in count.items() if n >= least}
    return result | {"cells": [c for c in result["cells"] if c["arm"] in kept]}


def measures_of(result: dict[str, Any]) -> list[tuple[str, str]]:
    """(split, sampled or greedy), what every cell that did not diverge has."""
    whole = [cell["splits"] for cell in result["cells"] if "splits" in cell]
    if not whole:
        raise ValueError("every run diverged")
    return [
        (split, kind)
        for split in whole[0]
        for kind in ("sampled", "greedy")
        if all(kind in splits[split] for splits in whole)
    ]


def label(split: str, kind: str) -> str:
    return f"{split}, greedy" if kind == "greedy" else split


def measure_name(split: str, kind: str) -> str:
    """How `comparison` calls it."""
    return f"{split}_greedy" if kind == "greedy" else split


def over_seeds(values: np.ndarray) -> Interval:
    """Mean over regimes and seeds of [R, S]; the seed is the unit."""
    return mean_interval(values.mean(0)) if values.shape[1] > 1 else Interval(
        float(values.mean()), float("nan"), float("nan"), 1
    )  # fmt: skip


def comparison(result: dict[str, Any], first: str = "") -> dict[str, Any]:
    """Means, and differences of `first` (the first arm) to each other one, paired by seed.

    {"seeds", "means": arm -> measure -> Interval as a dict, "differences": "a - b" -> ...}; a
    measure is `test`, `test_greedy`, `ood_rule`, ...; over several regimes it is their mean.

    Raises:
        ValueError: no seed is there for every arm and regime.
    """
    arms = arms_of(result)
    first = first or arms[0]
    means: dict[str, dict] = {arm: {} for arm in arms}
    differences: dict[str, dict] = {f"{first} - {arm}": {} for arm in arms if arm != first}
    seeds: list[int] = []
    for split, kind in measures_of(result):
        values, seeds = table(result["cells"], split, kind)
        name = measure_name(split, kind)
        own = values[arms.index(first)]
        for arm, x in zip(arms, values, strict=True):
            means[arm][name] = asdict(over_seeds(x))
            if arm != first:
                differences[f"{first} - {arm}"][name] = asdict(over_seeds(own - x))
    return {"seeds": seeds, "means": means, "differences": differences}


def regrets(result: dict[str, Any], split: str = "test", kind: str = "sampled") -> dict[str, Any]:
    """arm -> {"each": regime -> mean, "mean": Interval}: best constant of the regime minus arm.

    The best constant is the one with the highest mean over the seeds at hand, which flatters it.
    """
    arms, regimes = arms_of(result), regimes_of(result)
    values, _ = table(result["cells"], split, kind)
    found = regret(values, [i for i, arm in enumerate(arms) if arm.startswith(CONSTANT)])
    return {
        arm: {
            "each": dict(zip(regimes, x.mean(1).tolist(), strict=True)),
            "mean": asdict(over_seeds(x)),
        }
        for arm, x in zip(arms, found, strict=True)
    }


def point_reached(
    curve: list[dict[str, float]], target: float, split: str = "test"
) -> dict[str, float]:
    """The first point of a curve with that success; its last one if there is none."""
    return next((point for point in curve if point[split] >= target), curve[-1])


def largest_drop(curve: list[dict[str, float]], split: str = "test") -> float:
    """The deepest fall of success below an earlier point's; 0 for a curve that only rises."""
    best, deepest = 0.0, 0.0
    for point in curve:
        best = max(best, point[split])
        deepest = max(deepest, best - point[split])
    return deepest


def number(fact: dict[str, Any], form: str = ".3f") -> str:
    """Mean and interval; how many seeds, a table's title says."""
    interval = Interval(**fact)
    return format(interval.mean if interval.n == 1 else interval, form)


def plain(value: float, form: str) -> str:
    """The number, or a dash where there is none."""
    return "-" if np.isnan(value) else format(value, form)


def mean_fact(cells: list[dict[str, Any]], arm: str, name: str) -> float:
    found = [c[name] for c in cells if c["arm"] == arm and c.get(name) is not None]
    return float(np.mean(found)) if found else float("nan")


def other_problems(result: dict[str, Any], first: str, arm: str, split: str) -> Interval:
    """`over_problems` of two arms, on the seeds that both have."""
    cells = [[c for c in result["cells"] if c["arm"] == name] for name in (first, arm)]
    both = set.intersection(*({(c["regime"], c["seed"]) for c in some} for some in cells))
    x, y = ([c for c in some if (c["regime"], c["seed"]) in both] for some in cells)
    return over_problems(x, y, split, draws=DRAWS)


def ceiling(result: dict[str, Any], split: str = "test") -> dict[str, dict[str, Any]]:
    """How much the best schedule gains on the best constant, regime by regime.

    {regime: {"best", "constant": names, "in_sight": their mean difference where both were chosen
    on these very seeds, "chosen_elsewhere": the difference in each seed [S] of the two that the
    other seeds chose}}. The first is inflated by the choice among many, the second is not.
    """
    arms = arms_of(result)
    values, _ = table(result["cells"], split)
    constants = [i for i, arm in enumerate(arms) if arm.startswith(CONSTANT)]
    schedules = [i for i in range(len(arms)) if i not in constants]

    def gains(leave_one_out: bool) -> np.ndarray:
        """Best schedule less best constant, [R, S]: what the first arm lacks to either."""
        lacking = [regret(values, some, leave_one_out)[0] for some in (schedules, constants)]
        return lacking[0] - lacking[1]

    seen, elsewhere, means = gains(False), gains(True), values.mean(2).round(12)
    return {
        regime: {
            "best": arms[max(schedules, key=lambda i: means[i, r])],
            "constant": arms[max(constants, key=lambda i: means[i, r])],
            "in_sight": float(seen[r].mean()),
            "chosen_elsewhere": elsewhere[r],
        }
        for r, regime in enumerate(regimes_of(result))
    }


def by_stage(
    result: dict[str, Any], split: str = "test"
) -> dict[str, list[dict[float, np.ndarray]]]:
    """Success by what mu was in one stage of a run, the other stages averaged.

    For a study of all schedules of some values: {regime: [of each stage: mu -> [S] seeds]}.
    Constants of other values are left out.

    Raises:
        ValueError: a schedule of these values is missing, so the stages do not average out, or no
            seed is whole.
    """
    stages_of = {
        cell["arm"]: [float(stage.split("x")[0]) for stage in cell["settings"]["trace"].split()]
        for cell in result["cells"]
    }
    values = sorted({mu for stages in stages_of.values() if len(set(stages)) > 1 for mu in stages})
    arms = [arm for arm, stages in stages_of.items() if set(stages) <= set(values)]
    there = {tuple(stages_of[arm]) for arm in arms}
    if len({len(stages) for stages in there}) != 1 or len(there) != len(values) ** len(min(there)):
        raise ValueError(f"not all schedules of {values} are there")
    found, _ = table(result["cells"], split, arms=arms)  # [arms, regimes, seeds]

    def mean(regime: int, stage: int, mu: float) -> np.ndarray:
        return found[[stages_of[arm][stage] == mu for arm in arms], regime].mean(0)

    return {
        name: [{mu: mean(r, stage, mu) for mu in values} for stage in range(len(min(there)))]
        for r, name in enumerate(regimes_of(result))
    }


def stage_rows(stages: list[dict[float, np.ndarray]]) -> tuple[list[str], list[list[str]]]:
    """One regime of `by_stage` as a head and a row a stage: means, and the highest mu less the
    lowest, paired by seed."""
    low, *_, high = values = list(stages[0])
    gaps = [mean_interval(stage[high] - stage[low]) for stage in stages]
    return [f"{mu:g}" for mu in values] + [f"{high:g} less {low:g}"], [
        [f"{stage[mu].mean():.3f}" for mu in values] + [f"{gap:+.3f}"]
        for stage, gap in zip(stages, gaps, strict=True)
    ]


def stages_markdown(result: dict[str, Any]) -> str:
    """`by_stage` for a page, regimes side by side."""
    head, rows = ["mu in"], []
    for regime, stages in by_stage(result).items():
        names, found = stage_rows(stages)
        head += [*(f"{regime}: {name}" for name in names[:-1]), names[-1]]
        rows = rows or [[f"stage {n + 1}"] for n in range(len(found))]
        rows = [row + more for row, more in zip(rows, found, strict=True)]
    return rows_of_markdown(head, rows)


def measures_named(result: dict[str, Any], shown: Sequence[str] = ()) -> dict[str, str]:
    """label -> measure of those `shown`, or of all."""
    names = {label(s, k): measure_name(s, k) for s, k in measures_of(result)}
    return {name: names[name] for name in shown or names}


def rows_of_markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]]) + "\n"


def markdown(result: dict[str, Any], shown: Sequence[str] = ()) -> str:
    """The table of a study over regimes for a page: success, regret where there are constants, and
    what was paid. Only of arms of which all seeds are there, for a page says how many once.

    `shown` are measures such as "test, greedy"; without it all.
    """
    result = finished(result, behind=0)
    found, names = comparison(result)["means"], measures_named(result, shown)
    constants = any(arm.startswith(CONSTANT) for arm in arms_of(result))
    lost = regrets(result, *measures_of(result)[0]) if constants else {}
    first, rows = next(iter(names.values())), []
    for arm in sorted(arms_of(result), key=lambda arm: -found[arm][first]["mean"]):
        rollouts = sum(mean_fact(result["cells"], arm, f"{x}_rollouts")
                       for x in ("training", "validation"))  # fmt: skip
        rows.append([
            arm, *(number(found[arm][m]) for m in names.values()),
            *([number(lost[arm]["mean"])] if lost else []),
            plain(mean_fact(result["cells"], arm, "final_entropy"), ".3f"),
            plain(rollouts, ".0f"), plain(mean_fact(result["cells"], arm, "seconds"), ".0f"),
        ])  # fmt: skip
    regret_named = ["regret to the best constant"] * bool(lost)
    head = ["", *names, *regret_named, "end entropy", "rollouts", "seconds"]
    return rows_of_markdown(head, rows)


def differences_markdown(
    result: dict[str, Any],
    first: str,
    shown: Sequence[str] = (),
    groups: dict[str, Sequence[str]] | None = None,
) -> str:
    """`first` less each other arm, paired by seed, regimes averaged: one row an arm.

    Then the first measure again in `groups` of regimes (words -> names). A star: differs from 0 by
    Holm's procedure over the rows of its column. Arms as for `markdown`.
    """
    result = finished(result, behind=0)
    arms, regimes = arms_of(result), regimes_of(result)
    own, gaps = arms.index(first), {}  # column -> [arms, seeds]
    for name in measures_named(result, shown):
        kind = "greedy" if name.endswith(", greedy") else "sampled"
        values, _ = table(result["cells"], name.removesuffix(", greedy"), kind)
        gaps[name] = (values[own] - values).mean(1)
    values, _ = table(result["cells"], *measures_of(result)[0])
    for words, names in (groups or {}).items():
        places = [regimes.index(name) for name in names]
        gaps[words] = (values[own] - values)[:, places].mean(1)
    others = [i for i, arm in enumerate(arms) if arm != first]
    rows = {
        i: [arms[i]] for i in sorted(others, key=lambda i: -next(iter(gaps.values()))[i].mean())
    }
    for column in gaps.values():
        p = holm([p_value(column[i]) for i in others])
        for i, value in zip(others, p, strict=True):
            star = " *" if value < 0.05 else ""
            rows[i].append(f"{mean_interval(column[i]):+.3f}{star}")
    return rows_of_markdown([f"{first} less", *gaps], list(rows.values()))


def outside_bands(result: dict[str, Any], stored: dict[str, Any]) -> tuple[list[str], int]:
    """Which cells of a fresh result lie outside the stored one's bands, and how many were checked.

    A band holds a new seed's value in 99 of 100 cases if the stored seeds are normal: mean +- t s
    sqrt(1 + 1/n). Sampled success on the first split; fewer than 3 stored seeds make no band.
    """
    from scipy.stats import t

    split = measures_of(stored)[0][0]
    kept: dict[tuple[str, str], list[float]] = {}
    for cell in stored["cells"]:
        kept.setdefault((cell["arm"], cell["regime"]), []).append(score(cell, split))
    outside, checked = [], 0
    for cell in result["cells"]:
        x = np.array(kept.get((cell["arm"], cell["regime"]), []))
        if len(x) < 3:
            continue
        checked += 1
        half = t.ppf(0.995, len(x) - 1) * x.std(ddof=1) * (1 + 1 / len(x)) ** 0.5
        value = score(cell, split)
        if abs(value - x.mean()) > half:
            outside.append(
                f"{cell['arm']} in {cell['regime']}, seed {cell['seed']}: {value:.3f} is not in "
                f"{x.mean():.3f} +- {half:.3f}"
            )
    return outside, checked
