"""A study's result on the terminal: the tables that `amft-lite study NAME` prints.

Left out: the numbers in them (`amft_lite.tables`); figures (`amft_lite.study_figures`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from amft_lite.results import choices
from amft_lite.statistics import (
    detectable,
    iqm,
    mean_interval,
    probability_of_improvement,
    score,
    seeds_warning,
    table,
)
from amft_lite.tables import (
    CONSTANT,
    DRAWS,
    arms_of,
    by_stage,
    ceiling,
    comparison,
    finished,
    label,
    largest_drop,
    mean_fact,
    measures_named,
    measures_of,
    number,
    other_problems,
    plain,
    point_reached,
    regimes_of,
    regrets,
    stage_rows,
)


def show(console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, in parts below each other where the console is too narrow: the first column
    stands in each, heads wrap, and no number is cut."""
    widths = [
        max(len(text) for text in (*head[i].split(), *(row[i] for row in rows), ""))
        for i in range(len(head))
    ]
    room = console.width - widths[0] - 4  # a column costs its width and three signs
    parts, left = [[0]], room
    for i in range(1, len(head)):
        if widths[i] + 3 > left and len(parts[-1]) > 1:
            parts.append([0])
            left = room
        parts[-1].append(i)
        left -= widths[i] + 3
    for n, part in enumerate(parts):
        made = Table(title=title if n == 0 else None)
        for i in part:
            made.add_column(escape(head[i]), min_width=widths[i])
        for row in rows:
            made.add_row(*(escape(row[i]) for i in part))
        console.print(made)


def print_result(result: dict[str, Any], console: Console) -> None:
    """Tables of what is there: whole seeds only (those that all arms and regimes have)."""
    if not result["cells"]:
        console.print("No cell is there yet.")
        return
    if any(cell.get("candidate") for cell in result["cells"]):
        return print_choices(result, console)
    everything, result = result, finished(result)
    if behind := [arm for arm in arms_of(everything) if arm not in arms_of(result)]:
        console.print(f"Left out, not finished: {', '.join(behind)}.")
    cells, arms, regimes = result["cells"], arms_of(result), regimes_of(result)
    if all("diverged" in cell for cell in cells):
        console.print(f"All of {len(cells)} runs diverged; a lower lr may keep them together.")
        return
    try:
        found = comparison(result)
    except ValueError:
        wanted = len(arms) * len(regimes)
        console.print(f"{len(cells)} cells are there; no seed has all {wanted} of its own yet.")
        return
    seeds = found["seeds"]
    over = f"{len(seeds)} seeds" + (f", mean of {len(regimes)} regimes" * (len(regimes) > 1))
    measures = measures_named(result)
    show(
        console, f"Share of right answers; 95 % interval over {over}", ["", *measures],
        [[arm, *(number(found["means"][arm][m]) for m in measures.values())] for arm in arms],
    )  # fmt: skip
    shares = {arm: share_applied(cells, arm) for arm in arms}
    applied = ("rule applied to",) * any(share is not None for share in shares.values())
    middle = ("IQM",) * (len(seeds) > 1)
    paid = []
    values, _ = table(cells, *measures_of(result)[0])
    for place, arm in enumerate(arms):
        rollouts = mean_fact(cells, arm, "training_rollouts")
        rollouts += mean_fact(cells, arm, "validation_rollouts")
        paid.append([
            arm, *(number(asdict(iqm(values[place].T, draws=DRAWS))) for _ in middle),
            plain(mean_fact(cells, arm, "mean_mu"), ".2f"),
            plain(mean_fact(cells, arm, "final_entropy"), ".3f"),
            plain(rollouts, ".0f"), plain(mean_fact(cells, arm, "seconds"), ".1f"),
            *(["-" if shares[arm] is None else f"{shares[arm]:.0%} of prompts"] * len(applied)),
        ])  # fmt: skip
    title = f"Middle half of {label(*measures_of(result)[0])}; means over cells"
    show(console, title, ["", *middle, "mu", "end entropy", "rollouts", "seconds", *applied], paid)
    if hours := result.get("core_hours"):
        console.print(f"{len(everything['cells'])} cells, {hours} core-hours in all.")
    if len(regimes) > 1 and any(arm.startswith(CONSTANT) for arm in arms):
        split, kind = measures_of(result)[0]
        lost = regrets(result, split, kind)
        rows = [
            [arm, number(lost[arm]["mean"]), *(f"{lost[arm]['each'][r]:+.3f}" for r in regimes)]
            for arm in arms
        ]
        show(console, f"Regret to the best constant, {split}", ["", "mean", *regimes], rows)
        if len(seeds) > 1 and not arms[0].startswith(CONSTANT):
            print_differences(result, console)
    elif len(seeds) > 1:
        print_differences(result, console)
    both = len({arm.startswith(CONSTANT) for arm in arms}) == 2
    if both and len(seeds) > 1 and all("trace" in cell.get("settings", {}) for cell in cells):
        print_ceiling(result, console)
        print_stages(result, console)
    if all("curve" in cell for cell in cells if "splits" in cell):
        print_curves(result, console, split=measures_of(result)[0][0])
    if warning := seeds_warning(len(seeds)):
        console.print(warning)


def share_applied(cells: list[dict[str, Any]], arm: str) -> float | None:
    """To what share of prompts a rule of prompts or groups applied, mean after warm-up."""
    blocks = [x for c in cells if c["arm"] == arm
              for x in c.get("traces", {}).get("share_applied", []) if x is not None]  # fmt: skip
    return float(np.mean(blocks)) if blocks else None


def print_differences(result: dict[str, Any], console: Console) -> None:
    """The first arm less each other one; of the first measure also what would have been seen, the
    chance that a run of the first arm beats one of the other, and how far other problems would
    move the difference."""
    arms = arms_of(result)
    if len(arms) < 2:
        return
    split, kind = measures_of(result)[0]
    values, _ = table(result["cells"], split, kind)
    more = []
    for arm, x in zip(arms[1:], values[1:], strict=True):
        seen = f"{detectable((values[0] - x).mean(0)):.3f}"
        wins = probability_of_improvement(values[0].T, x.T, draws=DRAWS)
        try:
            problems = number(asdict(other_problems(result, arms[0], arm, split)))
        except ValueError:  # no hits by group, or greedy answers alone
            problems = "-"
        chance = f"{wins:.2f}"
        more.append([f"{arms[0]} - {arm}", seen, chance, problems])
    measures = measures_named(result)
    rows = [
        [name, *(number(row[m]) for m in measures.values())]
        for name, row in comparison(result)["differences"].items()
    ]
    show(console, "Differences paired by seed", ["", *measures], rows)
    head = ["", "seen if above", "chance to win", "over other problems"]
    show(console, f"{label(split, kind)}, the same differences", head, more)


def print_ceiling(result: dict[str, Any], console: Console) -> None:
    """The oracle's gain, and what is left of it when other seeds choose."""
    head = ["", "best schedule", "best constant", "gain, chosen in sight",
            "gain, chosen on the other seeds"]  # fmt: skip
    rows = [
        [regime, row["best"], row["constant"], f"{row['in_sight']:+.3f}",
         str(mean_interval(row["chosen_elsewhere"]))]
        for regime, row in ceiling(result).items()
    ]  # fmt: skip
    show(console, "What a schedule could gain", head, rows)


def print_stages(result: dict[str, Any], console: Console) -> None:
    """`by_stage`, a table a regime; none where schedules are missing."""
    try:
        found = by_stage(result)
    except ValueError:
        return
    for regime, stages in found.items():
        names, means = stage_rows(stages)
        rows = [[f"stage {n + 1}", *row] for n, row in enumerate(means)]
        show(console, f"Success by what mu was in one stage, {regime}", ["mu in", *names], rows)


#: Success that the efficiency of methods is compared at: between what SFT and the best reach.
TARGET = 0.15


def print_curves(
    result: dict[str, Any], console: Console, target: float = TARGET, split: str = "test"
) -> None:
    """What an arm paid for `target` success, how deep its curve fell, what it forgot."""
    title = f"Paid for {target:.0%} (the whole run where it was not reached); means over cells"
    forgetting = ("demonstrations' nats a token: least", "at the end")
    names = ("reached", "steps", "rollouts", "seconds", "largest drop", *forgetting)
    rows = []
    for arm in arms_of(result):
        cells = [c for c in result["cells"] if c["arm"] == arm and "curve" in c]
        facts = []
        for cell in cells:
            curve = cell["curve"]
            paid = point_reached(curve, target, split)
            nll = [point["demonstration_nll"] for point in curve]
            drop = largest_drop(curve, split)
            facts.append((*(paid[x] for x in ("step", "rollouts", "seconds")), drop, min(nll),
                          nll[-1]))  # fmt: skip
        if not cells:  # all of them diverged
            rows.append([arm, *"-" * len(names)])
            continue
        reached = sum(max(p[split] for p in c["curve"]) >= target for c in cells)
        steps, rollouts, seconds, drop, least, end = np.mean(facts, 0)
        rows.append([arm, f"{reached} of {len(cells)}", f"{steps:.0f}", f"{rollouts:.0f}",
                     f"{seconds:.1f}", f"{drop:.3f}", f"{least:.3f}", f"{end:.3f}"])  # fmt: skip
    show(console, title, ["", *names], rows)


def print_choices(result: dict[str, Any], console: Console) -> None:
    """What a tuning study tried, and what it chose."""
    taken = choices(result)
    tried = list(dict.fromkeys(cell.get("candidate", "") for cell in result["cells"]))
    split = next((next(iter(c["splits"])) for c in result["cells"] if "splits" in c), "")
    rows = []
    for arm in arms_of(result):
        texts = []
        for candidate in tried:
            of = [
                c for c in result["cells"] if (arm, candidate) == (c["arm"], c.get("candidate", ""))
            ]
            mean = np.mean([score(c, split) for c in of] or [0.0])
            mark = "[{}]" if taken.get(arm) == candidate else "{}"
            texts.append(mark.format(f"{mean:.3f}") if of else "-")
        rows.append([arm, *texts])
    show(console, "Mean success on validation; \\[...]: taken", ["", *tried], rows)
