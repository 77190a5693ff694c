"""A study: a grid of methods, regimes and seeds, trained cell by cell and kept as one JSON file.

`amft_lite.grids` says what a grid is. Seeds go outermost, so a study that was stopped early has
whole seeds. Every cell is a file of its own, written whole, which says with what settings it was
made; one of other settings is made anew.

A seed sets the demonstrations, the order of prompts and minibatches and all sampling, the same for
every arm.

Left out: what the numbers mean (`amft_lite.statistics`, `amft_lite.claims`).
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from amft_lite.config import read_file
from amft_lite.grids import (
    Grid,
    StudyError,
    combinations,
    config_of,
    file_name,
    grid_names,
    how,
    key,
    plan_cells,
    read_grid,
)
from amft_lite.models import DATA
from amft_lite.provenance import provenance
from amft_lite.runs import to_json, write_text
from amft_lite.statistics import score
from amft_lite.tasks import load_task

SECONDS_A_CELL = 25.0  #: where no stored cell tells better


# --- results --------------------------------------------------------------------------------------


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


def tuned(grid: Grid) -> dict[str, dict[str, Any]]:
    """arm -> settings that the study named by `tuned_by` chose for it.

    `family` says whose choice an arm takes that was not tuned itself (all constants: that of
    `fixed`); an arm without one keeps the recipe's settings.

    Raises:
        StudyError: that study has no committed result, or not the arm that `family` names.
    """
    if not grid.tuned_by:
        return {}
    tuning, taken = read_grid(grid.tuned_by), choices(shipped(grid.tuned_by))
    if stray := [name for name in grid.family.values() if name not in taken]:
        raise StudyError(
            f"{grid.name}: family: the study {grid.tuned_by} chose for no {stray[0]!r}, but for "
            f"{', '.join(taken)}."
        )
    names = {arm: grid.family.get(arm, arm) for arm in grid.arms}
    return {
        arm: tuning.candidates(name)[taken[name]] for arm, name in names.items() if name in taken
    }


# --- running --------------------------------------------------------------------------------------


def _train(path: Path, cell: dict[str, Any]) -> dict[str, Any]:
    from amft_lite.cells import run_cell  # in the worker: torch is imported there

    return run_cell(path, cell=cell, **cell["how"])


def _begin_worker(parent: int) -> None:
    """Ctrl-C, `timeout` and a closed terminal are the parent's: workers, a process group of their
    own, finish and write their cells, so nothing is lost. But a parent that was killed cannot stop
    them, so they watch for that themselves."""
    os.setpgrp()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _folder_kept(out: Path) -> Iterator[None]:
    """Keep other studies out of the folder; SIGTERM and a closed terminal end it as Ctrl-C does
    (not a closed terminal under `nohup`).

    Raises:
        StudyError: another process is in it.
    """
    out.mkdir(parents=True, exist_ok=True)
    ends = [x for x in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(x) != signal.SIG_IGN]
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StudyError(f"another study is working in {out}; wait for it.") from None
        main = threading.current_thread() is threading.main_thread()
        before = [signal.signal(x, signal.default_int_handler) for x in ends] if main else []
        try:
            yield
        finally:
            for number, handler in zip(ends, before, strict=False):
                signal.signal(number, handler)


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


def _is_made(cell: dict[str, Any], made: dict[str, Any] | None, shared: dict[str, Any]) -> bool:
    """Is there a cell of these very settings, made as `shared` says (older ones do not say how)?"""
    return (
        made is not None
        and made["settings"] == cell["settings"]
        and made.get("how", shared) == shared
    )


def missing(
    cells: list[dict[str, Any]], grid: Grid, done: dict[tuple, dict]
) -> list[dict[str, Any]]:
    """The cells to train. A replay counts as made if its trace is what its source now gives."""
    shared = how(grid)
    waiting = [
        c for c in cells
        if c["arm"] not in grid.replay and not _is_made(c, done.get(key(c)), shared)
    ]  # fmt: skip
    stale = {key(c) for c in waiting}
    kept = {k: c for k, c in done.items() if k not in stale}
    for cell in cells:
        if cell["arm"] in grid.replay:
            ready = _ready(cell, grid, kept)
            if ready is None or not _is_made(ready, done.get(key(cell)), shared):
                waiting.append(cell)
    order = {key(c): n for n, c in enumerate(cells)}
    return sorted(waiting, key=lambda c: order[key(c)])


def check_tasks(cells: list[dict[str, Any]], grid: Grid) -> None:
    """Can every task be made, and has it the splits that are measured? Better known before.

    Raises:
        StudyError: one sentence.
    """
    recipe, known = read_file(grid.recipe), set()
    for cell in cells:
        config = config_of(grid, cell, recipe)
        options = {"reward": config.reward, **config.task_options()}
        if (named := (config.task, repr(options))) in known:
            continue
        known.add(named)
        try:
            splits = load_task(config.task, **options).splits
        except ValueError as error:
            raise StudyError(f"{grid.name}, {cell['arm']} in {cell['regime']}: {error}") from None
        if stray := set(grid.splits) - set(splits):
            raise StudyError(
                f"{grid.name}: no split is called {min(stray)!r}; {config.task} has "
                f"{', '.join(splits)}."
            )


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
    `seeds`, `arms`, `regimes` take a part of the grid (an arm also by its method's name), which is
    returned; the file has all that is there. With `max_hours` no cell is begun after so long.

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
        done = {key(cell): cell for cell in [*committed_cells(name), *read_cells(out)]}
    elif out.is_dir() and any((out / "cells").glob("*.json")):
        raise StudyError(f"{out} holds cells; --resume keeps them, or name another --out.")
    plan = plan_cells(grid, grid.seed_list, tuned(grid))
    asked = {
        key(c) for c in plan
        if c["arm"] in (arms or grid.arms) and c["regime"] in (regimes or grid.regimes)
        and c["seed"] in grid.seed_list[:seeds]
    }  # fmt: skip
    lacking = missing(plan, grid, done)
    for cell in lacking:  # what lies there is of other settings: no result, and no source
        done.pop(key(cell), None)
    waiting = [cell for cell in lacking if key(cell) in asked]
    if not waiting:
        console.print(f"{grid.name}: all {len(asked)} cells are there; nothing to do.")
    else:
        known = [c["wall_seconds"] for c in done.values() if c.get("wall_seconds")]
        each = sum(known) / len(known) if known else SECONDS_A_CELL
        console.print(
            f"{grid.name}: {len(waiting)} of {len(asked)} cells to train, about {each:.0f} s each: "
            f"{len(waiting) * each / jobs / 3600:.1f} hours on {jobs} processes."
        )
        check_tasks(waiting, grid)

    def collected(places: Iterable[tuple]) -> dict[str, Any]:
        return collect(grid, [done[k] for k in places if k in done], provenance=provenance())

    if waiting or (out / "cells").is_dir():  # a stopped call may have left cells and no result
        with _folder_kept(out):
            try:
                if waiting:
                    _run_cells(waiting, grid, out, jobs, max_hours, done, console)
            finally:  # a stopped study has a result, too
                write_result(out / "result.json", collected(map(key, plan)))
    return collected(asked)


def _run_cells(
    waiting: list[dict], grid: Grid, out: Path, jobs: int, max_hours: float | None,
    done: dict[tuple, dict], console: Console,
) -> None:  # fmt: skip
    """Train `waiting` in worker processes; results go into `done` and into files."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    commit, shared, environment = provenance()["commit"], how(grid), dict(os.environ)
    # Workers inherit these; the allocator keeps its memory, which makes a step 5-10 % faster.
    os.environ |= {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_MAX_": "0"}
    os.environ |= {"MALLOC_TRIM_THRESHOLD_": str(10**11), "MALLOC_TOP_PAD_": str(2**28)}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[last]}"))  # fmt: skip
    started, running = time.monotonic(), {}
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _begin_worker, (os.getpid(),))
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
                    cell |= {"commit": commit, "how": shared}
                    running[pool.submit(_train, out / "cells" / file_name(cell), cell)] = cell
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
        try:
            console.print("Stopping when the cells in progress are done (once more: at once).")
            pool.shutdown(cancel_futures=True)
            finished = [f for f in running if f.done() and not f.cancelled() and not f.exception()]
            done.update((key(running[future]), future.result()) for future in finished)
        except KeyboardInterrupt:  # workers ignore it, and the interpreter would wait for them
            for worker in active_children():
                worker.kill()
            raise
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ |= environment
