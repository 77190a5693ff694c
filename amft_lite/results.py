"""A study's result as it is stored: one JSON file with every cell, and the recordings beside it.

`data/studies/NAME.json` is the committed result of the study NAME. What all its cells share (how
they were made, the names of what was counted, the environments they ran in) stands in it once.

Left out: training what is missing (`amft_lite.study`); what the numbers mean (`amft_lite.tables`).
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from amft_lite.files import to_json, write_text
from amft_lite.grids import Grid, StudyError, combinations, grid_names, how, key
from amft_lite.models import DATA
from amft_lite.statistics import score

ANEW = "anew.json"  #: in a folder of runs: the keys of the cells that were begun anew
#: What `collect` writes; what else a committed result says is carried over.
HEAD = {"study", "question", "how", "core_hours", "provenance", "cells"}


def shipped(name: str) -> dict[str, Any]:
    """The committed result of a study; not to be changed, for the next call gets the same one.

    Raises:
        StudyError: none is committed.
    """
    path = DATA / "studies" / f"{name}.json"
    if not path.is_file():
        raise StudyError(
            f"no result of the study {name} is committed (no data/studies/{name}.json)."
        )
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)  # the ledger asks for each study many times, and some are 2 MB of JSON
def _read(path: Path, written: int) -> dict[str, Any]:
    return unpacked(json.loads(path.read_text(encoding="utf-8")))


def shipped_or_none(name: str) -> dict[str, Any] | None:
    """The committed result, where there is one."""
    return shipped(name) if (DATA / "studies" / f"{name}.json").is_file() else None


def recording(name: str) -> dict[str, Any]:
    """One of data/recordings/, made by `make recordings` (notebooks/tools/record.py says how)."""
    return json.loads((DATA / "recordings" / f"{name}.json").read_text(encoding="utf-8"))


def is_recorded(name: str) -> bool:
    """Is that recording committed?"""
    return (DATA / "recordings" / f"{name}.json").is_file()


def committed_cells(name: str | Path) -> list[dict[str, Any]]:
    """The committed cells of a study that comes with the package; a file's own grid has none."""
    result = shipped_or_none(str(name)) if str(name) in grid_names() else None
    if result is None:
        return []
    shared = {"how": result["how"]} if "how" in result else {}
    return [cell | shared for cell in result["cells"]]


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """The cells in a folder of runs.

    Raises:
        StudyError: a file there is no cell.
    """
    cells = []
    for path in sorted((folder / "cells").glob("*.json")):
        try:
            cells.append(json.loads(path.read_text(encoding="utf-8")))
            key(cells[-1])
        except (ValueError, KeyError, TypeError):
            raise StudyError(f"{path} is no cell of a study; remove it.") from None
    return cells


def begun_anew(folder: Path) -> set[tuple]:
    """Keys of the cells in a folder of runs that were begun without the committed ones.

    Raises:
        StudyError: its list of them cannot be read.
    """
    path = folder / ANEW
    try:
        return set(map(tuple, json.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        return set()
    except (ValueError, TypeError):
        raise StudyError(
            f"{path} is damaged; without it --resume takes committed cells, too."
        ) from None


def collect(grid: Grid, cells: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The result: the grid, every cell in the grid's order, and how they were made."""
    order = {key(cell)[:2]: n for n, cell in enumerate(combinations(grid, [0]))}

    def place(cell: dict) -> tuple:
        arm, regime, seed, candidate = key(cell)
        known = list(grid.candidates(arm)) if arm in grid.arms else []
        number = known.index(candidate) if candidate in known else len(known)
        return seed, order.get((arm, regime), len(order)), number

    cells = sorted(cells, key=place)
    # the mu of each step is kept where another cell repeats it; `how` is the same for all
    spare = {"how"} if grid.replay else {"how", "mu"}
    cells = [{k: v for k, v in cell.items() if k not in spare} for cell in cells]
    return {
        "study": grid.name,
        "question": " ".join(grid.question.split()),
        "how": how(grid),
        "core_hours": round(sum(c.get("wall_seconds", 0.0) for c in cells) / 3600, 2),
        **more,
        "cells": cells,
    }


#: Facts of a split that name the same things in every cell -> where a stored result names them.
NAMED = {"hits": "groups", "outcomes": "outcomes"}


def packed(result: dict[str, Any]) -> dict[str, Any]:
    """The result with every split's `hits` and `outcomes` as lists (None: not there), what they
    count once, in `groups` and `outcomes`; each cell's `environment` as its place in the list
    `environments`."""
    found: dict[str, dict[str, list[dict]]] = {where: {} for where in NAMED.values()}
    for cell in result["cells"]:
        for split, facts in cell.get("splits", {}).items():
            for fact, where in NAMED.items():
                if isinstance(facts.get(fact), dict):
                    found[where].setdefault(split, []).append(facts[fact])
    groups = {split: list(first) for split, (first, *_) in found["groups"].items()}
    outcomes = {  # a run tells only the outcomes that it had
        split: sorted(set().union(*all_of_it)) for split, all_of_it in found["outcomes"].items()
    }
    names = {"groups": groups, "outcomes": outcomes}
    environments: list[dict[str, Any]] = []
    cells = []
    for cell in result["cells"]:
        splits = {
            split: facts
            | {
                fact: _listed(facts[fact], names[where][split])
                for fact, where in NAMED.items()
                if isinstance(facts.get(fact), dict)
            }
            for split, facts in cell.get("splits", {}).items()
        }
        cell = cell | ({"splits": splits} if splits else {})
        if environment := cell.get("environment"):
            if environment not in environments:
                environments.append(environment)
            cell["environment"] = environments.index(environment)
        cells.append(cell)
    once = {"environments": environments, **names}
    return result | {k: v for k, v in once.items() if v} | {"cells": cells}


def unpacked(result: dict[str, Any]) -> dict[str, Any]:
    """A stored result as it was before `packed`."""
    names = {where: result.pop(where, {}) for where in NAMED.values()}
    environments = result.pop("environments", [])
    for cell in result["cells"]:
        if "environment" in cell:
            cell["environment"] = environments[cell["environment"]]
        for split, facts in cell.get("splits", {}).items():
            for fact, where in NAMED.items():
                if isinstance(facts.get(fact), list):
                    facts[fact] = _named(facts[fact], names[where][split])
    return result


def _listed(fact: dict[str, Any], names: list[str]) -> list | dict[str, Any]:
    """The values in the order of the names; `fact` as it is where that would not read back."""
    values = [fact.get(name) for name in names]
    return values if list(_named(values, names).items()) == list(fact.items()) else fact


def _named(values: list, names: list[str]) -> dict[str, Any]:
    return {n: value for n, value in zip(names, values, strict=True) if value is not None}


def write_result(path: Path, result: dict[str, Any]) -> None:
    """One line a cell, so that a change of one is a change of one line."""
    result = packed(result)
    head = {k: v for k, v in result.items() if k != "cells"}
    lines = ",\n".join(to_json(cell) for cell in result["cells"])
    text = to_json(head, indent=1)[:-2] + ',\n "cells": [\n' + lines + "\n]}\n"
    write_text(path, text)


def choices(result: dict[str, Any]) -> dict[str, str]:
    """arm -> the candidate of the highest mean success over a tuning study's regimes and seeds.

    Success on the first split that the study measured, sampled; equal ones: the earlier candidate.
    In a study that is not finished candidates are compared where all of an arm's have been run (one
    that lacks the hard regime would look better); an arm without such a place has no choice yet.
    """
    found: dict[str, dict[str, dict[tuple, float]]] = {}
    for cell in result["cells"]:
        split = next(iter(cell.get("splits", {})), "")
        by = found.setdefault(cell["arm"], {}).setdefault(cell.get("candidate", ""), {})
        by[cell["regime"], cell["seed"]] = score(cell, split)
    taken = {}
    for arm, by in found.items():
        if places := set.intersection(*map(set, by.values())):
            taken[arm] = max(by, key=lambda c: sum(by[c][place] for place in sorted(places)))
    return taken
