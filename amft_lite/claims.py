"""The claim ledger: what the paper says, how it is tested here, and what came out.

`data/claims.yaml` has one row a claim. A row that is tested says of which stored result, what
number, and which threshold; those parts were committed before the result, unless the row says that
it was known. `verdict`, `key_number` and `because` are written by `amft-lite claims --write` and
recomputed by `--check`:

    holds            the 95 % interval of the number lies above the threshold; `because` says in how
                     many regimes by itself (Bonferroni over regimes)
    holds partly     it does not, but in single regimes it does; or it does, but in single regimes
                     the opposite is shown; of several rivals: against some of them (Holm)
    does not hold    neither; `because` says whether the opposite is shown or nothing is
    not testable     at this scale; the row says why

The unit of an interval is the seed (in the row on recorded moments, the moment); differences are
paired by seed, regimes are averaged. An interval is at 95 %; that of several rivals which ends
lowest is at the level that Holm's procedure gave it, and `because` says so.

Left out: judgement. A row's words may be argued with; its number follows from the files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from amft_lite.files import write_text
from amft_lite.grids import grid_names, read_grid
from amft_lite.models import DATA
from amft_lite.results import is_recorded, recording, shipped, shipped_or_none
from amft_lite.statistics import Interval, mean_interval, p_value, regret, table
from amft_lite.tables import ceiling, point_reached, regimes_of

PATH = DATA / "claims.yaml"
HOLDS, PARTLY, NOT, UNTESTABLE = "holds", "holds partly", "does not hold", "not testable"
PENDING = "pending"  #: its study has no committed result yet, or not all seeds


class ClaimError(ValueError):
    """A ledger that cannot be read or whose verdicts do not follow; one sentence."""


@dataclass(frozen=True)
class Finding:
    """What a row's test gave: the number over all regimes, and in each regime (or, with `place`
    "against", against each rival)."""

    overall: Interval
    each: dict[str, Interval]
    place: str = "in"


# --- what can be measured of a stored result -----------------------------------------------------


def _column(result: dict[str, Any], arm: str, test: dict[str, Any]) -> np.ndarray:
    """[regimes, seeds] of what `test` names: success, or a field of the cells."""
    cells = [c for c in result["cells"] if c["arm"] == arm]
    if not cells:
        raise ClaimError(f"the study {result['study']} has no arm {arm!r}.")
    names = _regimes(result, test)
    if name := test.get("field"):
        seeds = sorted({c["seed"] for c in cells})
        of = {(c["regime"], c["seed"]): _field(c, name) for c in cells}
        values = np.array([[of[r, s] for s in seeds if all((x, s) in of for x in names)]
                           for r in names])  # fmt: skip
        if not np.isfinite(values).all():
            raise ClaimError(f"{result['study']}: a run of {arm} has no {name}; did it diverge?")
        return values
    values, _ = table(cells, test.get("split", "test"), test.get("kind", "sampled"), regimes=names)
    return values[0]


def _regimes(result: dict[str, Any], test: dict[str, Any]) -> list[str]:
    """The regimes that `test` names; else all, in the order of the cells."""
    return test.get("regimes") or regimes_of(result)


def _field(cell: dict[str, Any], name: str) -> float:
    """A number of a cell; `mu:fall` is mu's first less its last thinned block after warm-up, and
    `rollouts to 0.15` how many rollouts a curve took to that success (all, if it never did)."""
    if "diverged" in cell:
        return math.nan
    if name == "mu:fall":
        blocks = [x for x in cell["traces"]["mu"][1:] if x is not None]
        return blocks[0] - blocks[-1]
    if name.startswith("rollouts to "):
        return point_reached(cell["curve"], float(name.removeprefix("rollouts to ")))["rollouts"]
    value = cell.get(name)
    return math.nan if value is None else float(value)


def difference(test: dict[str, Any]) -> Finding:
    """arm - minus (or the arm alone), paired by seed."""
    result = shipped(test["study"])
    x = _column(result, test["arm"], test)
    if other := test.get("minus"):
        x = x - _column(result, other, test)  # of the same seeds: `seeds_lacking` saw to that
    return _finding(x, _regimes(result, test))


def _finding(values: np.ndarray, regimes: list[str]) -> Finding:
    """Of [regimes, seeds]: the mean over regimes at 95 %, single regimes by Bonferroni."""
    level = 1 - 0.05 / len(regimes)
    each = {r: mean_interval(row, level) for r, row in zip(regimes, values, strict=True)}
    return Finding(mean_interval(values.mean(0)), each)


def best_constant(test: dict[str, Any]) -> Finding:
    """arm minus the constant that the other seeds say is best in the regime (leave one out)."""
    result = shipped(test["study"])
    constants = [c["arm"] for c in result["cells"] if c["arm"].startswith("fixed-")]
    arms = [*dict.fromkeys(constants), test["arm"]]
    values = np.stack([_column(result, arm, test) for arm in arms])
    gain = -regret(values, list(range(len(arms) - 1)), leave_one_out=True)[-1]
    return _finding(gain, _regimes(result, test))


def schedule_gain(test: dict[str, Any]) -> Finding:
    """The best schedule of a study less its best constant, both chosen on the other seeds."""
    found = ceiling(shipped(test["study"]))
    return _finding(np.stack([row["chosen_elsewhere"] for row in found.values()]), list(found))


def beats_each(test: dict[str, Any]) -> Finding:
    """arm less each of the rivals in `minus`, regimes averaged, by Holm's procedure.

    The rival of the smallest p value is judged at .05 / m, the next at .05 / (m - 1), ... and from
    the first that is not settled on at its level. `overall` is the one whose interval ends lowest.
    """
    result, threshold = shipped(test["study"]), test.get("threshold", 0.0)
    x, rivals = _column(result, test["arm"], test), test["minus"]
    gaps = {rival: (x - _column(result, rival, test)).mean(0) for rival in rivals}
    order = sorted(rivals, key=lambda rival: p_value(gaps[rival] - threshold))
    each, rank = {}, 0
    for rival in order:
        each[rival] = interval = mean_interval(gaps[rival], 1 - 0.05 / (len(order) - rank))
        rank += not interval.low <= threshold <= interval.high
    return Finding(min(each.values(), key=lambda interval: interval.low), each, "against")


def steadier(test: dict[str, Any]) -> Finding:
    """log of the ratio of two arms' standard deviations over seeds, mean over regimes.

    Above 0 where `minus` varies more. The interval is a jackknife's over seeds.
    """
    result = shipped(test["study"])
    x, y = (_column(result, test[name], test) for name in ("arm", "minus"))
    seeds = x.shape[1]

    def ratio(keep: np.ndarray) -> float:
        return float(np.mean(np.log(y[:, keep].std(1, ddof=1) / x[:, keep].std(1, ddof=1))))

    every = np.arange(seeds)
    whole = ratio(every)
    pseudo = [seeds * whole - (seeds - 1) * ratio(np.delete(every, s)) for s in range(seeds)]
    return Finding(mean_interval(pseudo), {})


def right_signs(test: dict[str, Any]) -> Finding:
    """Share of one-step signals with the right sign at the recorded moments (`data/recordings`)."""
    shares = [
        s["minibatch"] for b in recording("noise")["blocks"] for s in b["shares"]
        if s["rollouts"] == test["rollouts"]
    ]  # fmt: skip
    return Finding(mean_interval(shares), {})


def gain_of_twenty_steps(moment: dict[str, Any]) -> float:
    """Success after twenty steps of nearly pure imitation less that of nearly pure exploration."""
    low, high = (np.mean(moment["after"][mu]) for mu in sorted(moment["after"], key=float))
    return float(high - low)


def same_sign(x: float, y: float) -> float:
    """1 or 0; half where one of them is 0, as a coin would have it."""
    return 0.5 if x * y == 0 else float(x * y > 0)


#: What is asked of one moment of the recording `signal`; each is a share, and a coin's is .5.
OF_A_MOMENT: dict[str, Callable[[dict[str, Any]], float]] = {
    "signal foresees twenty steps": lambda m: same_sign(m["signal"], gain_of_twenty_steps(m)),
    "single estimates agree with the reference": lambda m: float(
        np.mean([same_sign(x, m["reference"]["value"]) for x in m["single"]])
    ),
    "right experts above wrong ones": lambda m: m["worth"]["256"]["right_above_wrong"],
}


def along_runs(test: dict[str, Any]) -> Finding:
    """A share over the moments of a run (`OF_A_MOMENT`), by regime and seed."""
    blocks, ask = recording("signal")["blocks"], OF_A_MOMENT[test["share"]]
    regimes = test.get("regimes") or list(dict.fromkeys(b["regime"] for b in blocks))
    values = [
        [np.mean([ask(m) for m in b["moments"]]) for b in blocks if b["regime"] == regime]
        for regime in regimes
    ]
    return _finding(np.array(values), regimes)


TESTS: dict[str, Callable[[dict[str, Any]], Finding]] = {
    "difference": difference,
    "best_constant": best_constant,
    "schedule_gain": schedule_gain,
    "beats_each": beats_each,
    "steadier": steadier,
    "right_signs": right_signs,
    "along_runs": along_runs,
}


_SUCCESS = {"split", "kind", "field", "regimes"}
#: kind_of -> (what its test must say, what it may say besides)
KEYS: dict[str, tuple[set[str], set[str]]] = {
    "difference": ({"study", "arm"}, {"minus", *_SUCCESS}),
    "best_constant": ({"study", "arm"}, _SUCCESS),
    "schedule_gain": ({"study"}, set()),
    "beats_each": ({"study", "arm", "minus"}, _SUCCESS),
    "steadier": ({"study", "arm", "minus"}, _SUCCESS),
    "right_signs": ({"rollouts"}, set()),
    "along_runs": ({"share"}, {"regimes"}),
}


# --- verdicts -------------------------------------------------------------------------------------


def judge(found: Finding, threshold: float) -> tuple[str, str]:
    """(verdict, because) by the rules of the module's docstring."""
    each, place = found.each, found.place
    above = [name for name, interval in each.items() if interval.low > threshold]
    below = [name for name, interval in each.items() if interval.high < threshold]
    opposite = f"the opposite is shown {place} {', '.join(below)}"
    if found.overall.low > threshold:
        if below:
            return PARTLY, opposite
        alone = f"; by itself {place} {len(above)} of {len(each)}" if len(each) > 1 else ""
        return HOLDS, f"the interval lies above the threshold{alone}"
    reverse = found.overall.high < threshold
    if above and len(each) > 1:
        rest = f"; {opposite}" if below else ""
        rest += "; on average the opposite is shown" if reverse and place == "in" else ""
        return PARTLY, f"shown {place} {', '.join(above)} only{rest}"
    if reverse:
        return NOT, "the opposite is shown" if place == "in" else opposite
    return NOT, "not shown: the interval includes the threshold" + (
        f"; {opposite}" if below else ""
    )


def seeds_lacking(test: dict[str, Any]) -> str:
    """A sentence where the study is not finished for the arms that `test` compares."""
    grid, cells = read_grid(test["study"]), shipped(test["study"])["cells"]
    rivals = test.get("minus", [])
    arms = {test.get("arm"), *([rivals] if isinstance(rivals, str) else rivals)} - {None}
    if test["kind_of"] == "schedule_gain":
        arms = set(grid.arms)
    if test["kind_of"] == "best_constant":
        arms |= {arm for arm in grid.arms if arm.startswith("fixed-")}
    count, seeds = Counter(c["arm"] for c in cells), grid.seeds[1]
    lacking = [arm for arm in grid.arms if arm in arms and count[arm] < seeds * len(grid.regimes)]
    if not lacking:
        return ""
    return f"of {', '.join(lacking)} the study {test['study']} has not all {seeds} seeds yet"


def evaluate(row: dict[str, Any]) -> dict[str, Any]:
    """verdict, because and key_number of a row, from the stored results."""
    if "untestable" in row:
        return {"verdict": UNTESTABLE, "because": row["untestable"], "key_number": None}
    test = row["test"]
    if "study" in test and shipped_or_none(test["study"]) is None:
        return {"verdict": PENDING, "because": f"the study {test['study']} has not been run",
                "key_number": None}  # fmt: skip
    if "study" in test and (lacking := seeds_lacking(test)):
        return {"verdict": PENDING, "because": lacking, "key_number": None}
    if test["kind_of"] == "along_runs" and not is_recorded("signal"):
        return {"verdict": PENDING, "because": "the recording signal has not been made",
                "key_number": None}  # fmt: skip
    found = TESTS[test["kind_of"]](test | {"threshold": row["threshold"]})
    verdict, because = judge(found, row["threshold"])
    if test["kind_of"] == "beats_each":
        because += "; the number is of the rival whose interval ends lowest, at Holm's level"
    o = found.overall
    counts = row["test"].get("field", "").startswith("rollouts")
    form = "+,.0f" if counts else "+.3f"
    number = f"{o:{form}} n={o.n}"
    return {"verdict": verdict, "because": because, "key_number": number}


def read_claims() -> list[dict[str, Any]]:
    """The rows of the ledger.

    Raises:
        ClaimError: it is no list of rows, or a row lacks what it needs or names what is not there.
    """
    try:
        rows = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ClaimError(f"{PATH} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ClaimError(f"{PATH} must be a list of rows that begin with `- id:`.")
    for row in rows:
        needed = ["id", "claim", "source", "scale"]
        needed += [] if "untestable" in row else ["test", "threshold"]
        if missing := [name for name in needed if name not in row]:
            raise ClaimError(f"{PATH}: the row {row.get('id')!r} lacks {missing[0]}.")
        if "test" in row:
            check_test(f"{PATH}: {row['id']}", row["test"])
    return rows


def check_test(place: str, test: dict[str, Any]) -> None:
    """Does a row's test say all that it must, and name only what there is?

    A slip that passed would be judged by another measure, or wait for ever as pending.

    Raises:
        ClaimError: it does not.
    """
    if test.get("kind_of") not in TESTS:
        raise ClaimError(f"{place}: kind_of must be one of {', '.join(TESTS)}.")
    needed, more = KEYS[test["kind_of"]]
    if missing := sorted(needed - set(test)):
        raise ClaimError(f"{place}: the test {test['kind_of']} lacks {missing[0]}.")
    if stray := sorted(set(test) - needed - more - {"kind_of"}):
        known = ", ".join(sorted(needed | more))
        raise ClaimError(f"{place}: {test['kind_of']} knows no {stray[0]!r}, but {known}.")
    if "study" not in test:
        return
    if test["study"] not in grid_names():
        known = ", ".join(grid_names())
        raise ClaimError(f"{place}: no study is called {test['study']!r}; known: {known}.")
    grid = read_grid(test["study"])
    allowed = {"regimes": grid.regimes, "split": grid.splits, "kind": ("sampled", "greedy"),
               "arm": grid.arms, "minus": grid.arms}  # fmt: skip
    for key, names in allowed.items():
        said = test.get(key, [])
        if stray := [x for x in (said if isinstance(said, list) else [said]) if x not in names]:
            raise ClaimError(
                f"{place}: {key} {stray[0]!r} is not in {test['study']}; known: {', '.join(names)}."
            )


def check() -> list[str]:
    """One line for every row whose stored verdict, reason or number does not follow."""
    wrong = []
    for row in read_claims():
        for name, value in evaluate(row).items():
            if row.get(name) != value:
                wrong.append(f"{row['id']}: {name} is {row.get(name)!r}, but follows as {value!r}")
    return wrong


def write() -> None:
    """Write verdicts, reasons and numbers into the ledger."""
    head = PATH.read_text(encoding="utf-8").split("\n- id:", 1)[0]
    rows = [{**row, **evaluate(row)} for row in read_claims()]
    text = "\n".join(
        yaml.safe_dump([row], sort_keys=False, width=98, allow_unicode=True) for row in rows
    )
    comment = "\n".join(line for line in head.splitlines() if line.startswith("#"))
    write_text(PATH, f"{comment}\n\n{text}")


def markdown() -> str:
    """The README's table."""
    lines = ["| claim (source) | here | number |", "|---|---|---|"]
    for row in read_claims():
        number = row.get("key_number") or row.get("because", "")
        lines.append(f"| {row['claim']} ({row['source']}) | **{row.get('verdict')}** | {number} |")
    return "\n".join(lines) + "\n"


def print_claims(console: Console) -> None:
    rows = Table(
        "claim", "source", "verdict", "number", "why", title="Claim ledger", show_lines=True
    )
    colours = {HOLDS: "green", PARTLY: "yellow", NOT: "red"}
    for row in read_claims():
        verdict = row.get("verdict", "")
        rows.add_row(row["claim"], row["source"], verdict, row.get("key_number") or "-",
                     row.get("because", ""), style=colours.get(verdict, "dim"))  # fmt: skip
    console.print(rows)
