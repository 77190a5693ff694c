"""A study: a grid of methods, regimes and seeds, trained cell by cell and kept as one JSON file.

A grid is a YAML file (`configs/studies/`):

    question   what it is to answer, in a sentence or two
    recipe     settings of every run, by name; `settings` changes them
    regimes    name -> settings: the situations compared
    arms       name -> settings: the methods compared
    seeds      [first, how many]
    splits     split -> [problems, samples] measured at the end; 0 problems are all of them
    curve      take a look every so many steps, too: success on the splits, kept demonstrations
    glance     [problems, samples] of such a look, on each split
    choose     of each arm, candidates to choose among: name -> settings (a study that tunes)
    only       arm -> further candidates of that arm alone
    tuned_by   the study whose choices the arms start from
    family     arm -> the arm of that study whose choice it takes, where they differ
    replay     arm -> the arm whose recorded mu_t it repeats, from the seed before its own (from its
               own seed the run would be the same run); `arm:constant`, `arm:cosine` keep its mean

Seeds go outermost, so a study that was stopped early has whole seeds. Every cell is a file of its
own, written whole, which says with what settings it was made; one of other settings is made anew.
A seed sets the demonstrations, the order of prompts and minibatches and all sampling, the same for
every arm.

Left out: what the numbers mean (`amft_lite.statistics`, `amft_lite.claims`).
"""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from amft_lite.config import CONFIGS, ConfigError, build, read_file
from amft_lite.models import DATA
from amft_lite.provenance import provenance
from amft_lite.runs import to_json, write_text
from amft_lite.statistics import score

GRIDS = CONFIGS / "studies"
SECONDS_A_CELL = 25.0  #: where no stored cell tells better


class StudyError(ValueError):
    """A study that cannot be run as asked; its text is one sentence."""


@dataclass(frozen=True)
class Grid:
    """What is compared; see the module's docstring for the fields."""

    name: str
    question: str
    arms: dict[str, dict[str, Any]]
    regimes: dict[str, dict[str, Any]] = field(default_factory=lambda: {"lite": {}})
    recipe: str = "lite"
    settings: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, list[int]] = field(
        default_factory=lambda: {"test": [0, 8], "ood_rule": [200, 4]}
    )
    seeds: tuple[int, int] = (1, 10)
    curve: int = 0
    glance: list[int] = field(default_factory=lambda: [200, 4])
    choose: dict[str, dict[str, Any]] = field(default_factory=dict)
    only: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    tuned_by: str = ""
    family: dict[str, str] = field(default_factory=dict)
    replay: dict[str, str] = field(default_factory=dict)

    def candidates(self, arm: str) -> dict[str, dict[str, Any]]:
        """What is tried of an arm: name -> settings; without tuning one nameless candidate."""
        return {**self.choose, **self.only.get(arm, {})} or {"": {}}

    def arms_called(self, name: str) -> list[str]:
        """The arm of that name; else the arms of the method of that name (`fixed`: all constants).

        Raises:
            StudyError: there is none.
        """
        if name in self.arms:
            return [name]
        found = [
            arm for arm, settings in self.arms.items()
            if {**self.settings, **settings}.get("method") == name
        ]  # fmt: skip
        if not found:
            raise StudyError(f"{self.name} has no arm {name!r}; known: {', '.join(self.arms)}.")
        return found

    @property
    def seed_list(self) -> list[int]:
        return list(range(self.seeds[0], self.seeds[0] + self.seeds[1]))


def grid_names() -> list[str]:
    """Studies that come with the package."""
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def read_grid(name: str | Path) -> Grid:
    """The grid of that name, or in that YAML file.

    Raises:
        StudyError: there is none, or it has keys or settings that do not exist.
    """
    path = GRIDS / f"{name}.yaml" if str(name) in grid_names() else Path(name)
    if not path.is_file():
        raise StudyError(f"no study is called {str(name)!r}; known: {', '.join(grid_names())}.")
    content = read_file(path)
    known = set(Grid.__dataclass_fields__) - {"name"}
    if stray := sorted(set(content) - known):
        raise StudyError(
            f"{path}: {stray[0]!r} is no key of a study; known: {', '.join(sorted(known))}."
        )
    if missing := [key for key in ("question", "arms") if not content.get(key)]:
        raise StudyError(f"{path} lacks {missing[0]}.")
    for name in {"arms", "regimes", "splits"} & set(content):
        if not isinstance(content[name], dict):
            raise StudyError(f"{path}: {name} must be `name: ...` lines, not {content[name]!r}.")
    for name in {"arms", "regimes"} & set(content):
        content[name] = {key: settings or {} for key, settings in content[name].items()}
    seeds = content.get("seeds", [1, 1])
    if not (isinstance(seeds, list) and [type(x) for x in seeds] == [int, int] and seeds[1] > 0):
        raise StudyError(
            f"{path}: seeds must be [first, how many], such as [1, 10], not {seeds!r}."
        )
    if "seeds" in content:
        content["seeds"] = tuple(seeds)
    grid = Grid(path.stem, **content)
    try:
        recipe = read_file(grid.recipe)
    except ConfigError as error:
        raise StudyError(f"{path}: {error}") from None
    for cell in itertools.islice(_combinations(grid, grid.seed_list[:1]), 10_000):
        try:
            trace = {"trace": "0.5"} if cell["arm"] in grid.replay else {}  # comes when it runs
            build(recipe, cell["settings"], trace)
        except ConfigError as error:
            raise StudyError(f"{path}, {cell['arm']} in {cell['regime']}: {error}") from None
    return grid


def _combinations(grid: Grid, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    for seed, regime, arm in itertools.product(seeds, grid.regimes, grid.arms):
        for candidate, settings in grid.candidates(arm).items():
            cell = {"arm": arm, "regime": regime, "seed": seed}
            if candidate:
                cell["candidate"] = candidate
            # an arm's own settings win over a candidate's
            cell["settings"] = {
                **grid.settings, **grid.regimes[regime], **settings, **grid.arms[arm], "seed": seed,
            }  # fmt: skip
            yield cell


def plan_cells(grid: Grid, seeds: Sequence[int], chosen: dict[str, dict[str, Any]]) -> list[dict]:
    """Every cell, seeds outermost; `chosen`: arm -> settings that tuning found, beneath its own.

    Of cells with equal settings the first one stays (candidates that an arm overrules).
    """
    cells, seen = [], set()
    for cell in _combinations(grid, seeds):
        arm = chosen.get(cell["arm"], {})
        cell["settings"] = {**grid.settings, **grid.regimes[cell["regime"]], **arm,
                            **cell["settings"]}  # fmt: skip
        same = (cell["arm"], cell["regime"], json.dumps(cell["settings"], sort_keys=True))
        if same not in seen:
            seen.add(same)
            cells.append(cell)
    return cells


def key(cell: dict[str, Any]) -> tuple[str, str, int, str]:
    """What tells cells of one study apart."""
    return cell["arm"], cell["regime"], cell["seed"], cell.get("candidate", "")


def file_name(cell: dict[str, Any]) -> str:
    arm, regime, seed, candidate = key(cell)
    return f"{regime}--{arm}{f'--{candidate}' if candidate else ''}--{seed}.json"


# --- results --------------------------------------------------------------------------------------


def shipped(name: str) -> dict[str, Any]:
    """The committed result of a study.

    Raises:
        StudyError: none is committed.
    """
    path = DATA / "studies" / f"{name}.json"
    if not path.is_file():
        raise StudyError(
            f"no result of the study {name} is committed (no data/studies/{name}.json)."
        )
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


def collect(grid: Grid, cells: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The result: the grid, every cell in the grid's order, and how they were made."""
    order = {key(cell)[:2]: n for n, cell in enumerate(_combinations(grid, [0]))}

    def place(cell: dict) -> tuple:
        arm, regime, seed, candidate = key(cell)
        known = list(grid.candidates(arm)) if arm in grid.arms else []
        number = known.index(candidate) if candidate in known else len(known)
        return seed, order.get((arm, regime), len(order)), number

    cells = sorted(cells, key=place)
    if not grid.replay:  # else the mu of each step is what another cell repeats
        cells = [{k: v for k, v in cell.items() if k != "mu"} for cell in cells]
    return {
        "study": grid.name,
        "question": " ".join(grid.question.split()),
        "core_hours": round(sum(c.get("wall_seconds", 0.0) for c in cells) / 3600, 2),
        **more,
        "cells": cells,
    }


def packed(result: dict[str, Any]) -> dict[str, Any]:
    """The result with every split's `hits` as a list; the names of its groups once, in `groups`."""
    groups: dict[str, list[str]] = {}
    cells = []
    for cell in result["cells"]:
        splits = {}
        for split, facts in cell.get("splits", {}).items():
            hits = facts.get("hits")
            if isinstance(hits, dict) and list(hits) == groups.setdefault(split, list(hits)):
                facts = facts | {"hits": list(hits.values())}
            splits[split] = facts
        cells.append(cell | ({"splits": splits} if splits else {}))
    return result | ({"groups": groups} if groups else {}) | {"cells": cells}


def unpacked(result: dict[str, Any]) -> dict[str, Any]:
    """A stored result with every split's `hits` as group -> hits again."""
    groups = result.pop("groups", {})
    for cell in result["cells"]:
        for split, facts in cell.get("splits", {}).items():
            if isinstance(facts.get("hits"), list):
                facts["hits"] = dict(zip(groups[split], facts["hits"], strict=True))
    return result


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
    """
    found: dict[str, dict[str, list[float]]] = {}
    for cell in result["cells"]:
        split = next(iter(cell.get("splits", {})), "")
        by = found.setdefault(cell["arm"], {})
        by.setdefault(cell.get("candidate", ""), []).append(score(cell, split))
    return {arm: max(by, key=lambda c: sum(by[c]) / len(by[c])) for arm, by in found.items()}


def tuned(grid: Grid) -> dict[str, dict[str, Any]]:
    """arm -> settings that the study named by `tuned_by` chose for it.

    `family` says whose choice an arm takes that was not tuned itself (all constants: that of
    `fixed`); an arm without one keeps the recipe's settings.

    Raises:
        StudyError: that study has no committed result.
    """
    if not grid.tuned_by:
        return {}
    tuning, taken = read_grid(grid.tuned_by), choices(shipped(grid.tuned_by))
    names = {arm: grid.family.get(arm, arm) for arm in grid.arms}
    return {
        arm: tuning.candidates(name)[taken[name]] for arm, name in names.items() if name in taken
    }


# --- running --------------------------------------------------------------------------------------


def _train(path: Path, cell: dict[str, Any], how: dict[str, Any]) -> dict[str, Any]:
    from amft_lite.cells import run_cell  # in the worker: torch is imported there

    return run_cell(path, cell=cell, **how)


def _ready(cell: dict[str, Any], grid: Grid, done: dict[tuple, dict]) -> dict[str, Any] | None:
    """The cell, with the trace it replays; None while that is not recorded yet."""
    source = grid.replay.get(cell["arm"])
    if source is None:
        return cell
    seeds = grid.seed_list
    before = seeds[(seeds.index(cell["seed"]) - 1) % len(seeds)]
    source, _, shape = source.partition(":")
    recorded = done.get((source, cell["regime"], before, ""))
    if recorded is None or "mu" not in recorded:  # not there yet, or diverged
        return None
    trace = " ".join(f"{mu:.4f}" for mu in reshaped(recorded["mu"], shape))
    return {**cell, "settings": {**cell["settings"], "trace": trace}}


def reshaped(mu: Sequence[float], shape: str) -> list[float]:
    """A recorded trace as it is, or a `constant` or falling `cosine` of the same mean.

    The cosine reaches as far from the mean as .05 and .95 allow.
    """
    mean = sum(mu) / len(mu)
    reach = {"": 0.0, "constant": 0.0, "cosine": min(mean - 0.05, 0.95 - mean)}[shape]
    if not shape:
        return list(mu)
    last = max(1, len(mu) - 1)
    return [mean + reach * math.cos(math.pi * t / last) for t in range(len(mu))]


def _is_made(cell: dict[str, Any], made: dict[str, Any] | None) -> bool:
    """Is there a cell of these very settings? (A trace that comes from another cell, which the plan
    does not know yet, is not compared.)"""
    known = dict(made["settings"]) if made else None
    if known and "trace" not in cell["settings"]:
        known.pop("trace", None)
    return known == cell["settings"]


def run_study(
    name: str | Path,
    out: Path | None = None,
    jobs: int = 2,
    resume: bool = False,
    max_hours: float | None = None,
    seeds: int | None = None,
    arms: Sequence[str] = (),
    regimes: Sequence[str] = (),
    console: Console | None = None,
) -> dict[str, Any]:
    """Train the cells that are missing, and write `<out>/result.json`.

    `resume` keeps the cells of `out` and of the committed result; without it `out` must be new.
    `seeds`, `arms`, `regimes` take a part of the grid (an arm also by its method's name). With
    `max_hours` no cell is begun after so long; what is there then is the result.

    Raises:
        StudyError: one sentence for what cannot be done.
    """
    grid, console = read_grid(name), console or Console()
    arms = [arm for name in arms for arm in grid.arms_called(name)]
    if stray := [x for x in regimes if x not in grid.regimes]:
        known = ", ".join(grid.regimes)
        raise StudyError(f"{grid.name} has no regime {stray[0]!r}; known: {known}.")
    out = out or Path("runs") / f"study-{grid.name}"
    done: dict[tuple, dict] = {}
    if resume:
        committed = shipped_or_none(grid.name) or {"cells": []}
        done = {key(cell): cell for cell in [*committed["cells"], *read_cells(out)]}
    elif out.is_dir() and any((out / "cells").glob("*.json")):
        raise StudyError(f"{out} holds cells; --resume keeps them, or name another --out.")
    cells = plan_cells(grid, grid.seed_list[:seeds], tuned(grid))
    cells = [c for c in cells if c["arm"] in (arms or grid.arms)
             and c["regime"] in (regimes or grid.regimes)]  # fmt: skip
    waiting = [c for c in cells if not _is_made(c, done.get(key(c)))]
    begun = bool(waiting)
    if not begun:
        console.print(f"{grid.name}: all {len(cells)} cells are there; nothing to do.")
    else:
        known = [c["wall_seconds"] for c in done.values() if c.get("wall_seconds")]
        each = sum(known) / len(known) if known else SECONDS_A_CELL
        console.print(
            f"{grid.name}: {len(waiting)} of {len(cells)} cells to train, about {each:.0f} s each: "
            f"{len(waiting) * each / jobs / 3600:.1f} hours on {jobs} processes."
        )
        _run_cells(waiting, grid, out, jobs, max_hours, done, console)
    wanted = {key(c) for c in cells}
    result = collect(grid, [c for k, c in done.items() if k in wanted], provenance=provenance())
    if begun:
        out.mkdir(parents=True, exist_ok=True)
        write_result(out / "result.json", result)
    return result


def _run_cells(
    waiting: list[dict], grid: Grid, out: Path, jobs: int, max_hours: float | None,
    done: dict[tuple, dict], console: Console,
) -> None:  # fmt: skip
    """Train `waiting` in worker processes; results go into `done` and into files."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    # Workers inherit these; the allocator keeps its memory, which makes a step 5-10 % faster.
    os.environ |= {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_MAX_": "0"}
    os.environ |= {"MALLOC_TRIM_THRESHOLD_": str(10**11), "MALLOC_TOP_PAD_": str(2**28)}
    commit = provenance()["commit"]
    how = {"recipe": grid.recipe, "splits": grid.splits, "curve": grid.curve, "look": grid.glance}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[last]}"))  # fmt: skip
    started, running = time.monotonic(), {}
    # Ctrl-C is the parent's: workers finish and write their cells, so nothing is lost
    ignore = (signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), signal.signal, ignore)
    try:
        with Bar(*columns, console=console) as bar:
            task = bar.add_task(grid.name, total=len(waiting), last="")
            while waiting or running:
                late = max_hours is not None and time.monotonic() - started > 3600 * max_hours
                while waiting and len(running) < jobs and not late:
                    place = next((i for i, c in enumerate(waiting) if _ready(c, grid, done)), None)
                    if place is None:
                        break
                    cell = _ready(waiting.pop(place), grid, done)
                    cell["commit"] = commit
                    running[pool.submit(_train, out / "cells" / file_name(cell), cell, how)] = cell
                if not running:
                    reason = f"{max_hours:g} hours are over" if late else "their traces are missing"
                    console.print(f"{len(waiting)} cells are left out: {reason}.")
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    cell = running.pop(future)
                    done[key(cell)] = future.result()
                    bar.update(task, advance=1, last=f"{cell['regime']} {cell['arm']}")
    except BrokenProcessPool:
        raise StudyError(
            f"a worker was killed (too little memory?); finished cells are in {out}, go on by "
            f"--resume."
        ) from None
    except KeyboardInterrupt:
        console.print("Stopping when the cells in progress are done (once more: at once).")
        pool.shutdown(cancel_futures=True)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
