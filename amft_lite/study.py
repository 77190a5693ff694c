"""A study: a grid of methods, regimes and seeds, trained cell by cell.

`amft_lite.grids` says what a grid is. Seeds go outermost, so a study that was stopped early has
whole seeds. Every cell is a file of its own, written whole, which says with what settings it was
made; one of other settings is made anew. A folder also knows which cells were begun anew, without
the committed ones: `--resume` goes on with these and takes none of them from the committed result.

A seed sets the demonstrations, the order of prompts and minibatches and all sampling, the same for
every arm.

Left out: the result's file (`amft_lite.results`); what the numbers mean (`amft_lite.tables`).
"""

from __future__ import annotations

import fcntl
import math
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from amft_lite.config import read_file
from amft_lite.files import to_json, write_text
from amft_lite.grids import (
    Grid,
    StudyError,
    config_of,
    file_name,
    grid_names,
    how,
    key,
    plan_cells,
    read_grid,
)
from amft_lite.provenance import provenance
from amft_lite.results import (
    ANEW,
    HEAD,
    begun_anew,
    choices,
    collect,
    committed_cells,
    read_cells,
    shipped,
    shipped_or_none,
    write_result,
)
from amft_lite.tasks import load_task

SECONDS_A_CELL = 25.0  #: where no stored cell tells better


def tuned(grid: Grid) -> dict[str, dict[str, Any]]:
    """arm -> settings that the study named by `tuned_by` chose for it.

    `family` says whose choice an arm takes that was not tuned itself (all constants: that of
    `fixed`); an arm without one keeps the recipe's settings.

    Raises:
        StudyError: that study chooses nothing, is not finished, or lacks the arm that `family`
            names.
    """
    if not grid.tuned_by:
        return {}
    shipped(grid.tuned_by)  # there is none: say so
    tuning = read_grid(grid.tuned_by)
    if not (tuning.choose or tuning.only):
        raise StudyError(f"{grid.name}: tuned_by: the study {grid.tuned_by} has nothing to choose.")
    plan = plan_cells(tuning, tuning.seed_list, {})
    done = {key(cell): cell for cell in committed_cells(grid.tuned_by)}
    if lacking := missing(plan, tuning, done):
        raise StudyError(
            f"{grid.name}: tuned_by: the study {grid.tuned_by} lacks {len(lacking)} of "
            f"{len(plan)} cells; first `amft-lite study {grid.tuned_by} --resume`."
        )
    taken = choices({"cells": [done[key(cell)] for cell in plan]})
    if stray := [name for name in grid.family.values() if name not in taken]:
        raise StudyError(
            f"{grid.name}: family: the study {grid.tuned_by} chose for no {stray[0]!r}, but for "
            f"{', '.join(taken)}."
        )
    tried = {key(cell)[::3]: cell["settings"] for cell in plan}  # (arm, candidate)
    names = {arm: grid.family.get(arm, arm) for arm in grid.arms}
    return {  # as the arm was run: its own settings win over a candidate's
        arm: {k: tried[name, taken[name]][k] for k in tuning.candidates(name)[taken[name]]}
        for arm, name in names.items() if name in taken
    }  # fmt: skip


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
        StudyError: another process is in it, or it is a file.
    """
    if out.is_file():
        raise StudyError(f"{out} is a file; --out needs a folder.")
    out.mkdir(parents=True, exist_ok=True)
    ends = [x for x in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(x) != signal.SIG_IGN]
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
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
        and list(made.get("how", shared)["splits"]) == list(shared["splits"])  # the first counts
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


def folder_of(name: str | Path) -> Path:
    """Where a study's cells go unless told otherwise."""
    return Path("runs") / f"study-{Path(name).stem}"


def made_before(
    name: str | Path, grid: Grid, plan: list[dict], out: Path, resume: bool
) -> dict[tuple, dict]:
    """The cells that are there before a call: with `resume` those of `out`, and committed ones of
    which `out` was not begun anew.

    Raises:
        StudyError: without `resume` there must be none.
    """
    if not resume:
        if any((out / "cells").glob("*.json")):
            raise StudyError(f"{out} holds cells; --resume keeps them, or name another --out.")
        return {}
    anew, shared, wanted = begun_anew(out), how(grid), {key(cell): cell for cell in plan}
    done = {key(cell): cell for cell in committed_cells(name) if key(cell) not in anew}
    for cell in read_cells(out):
        place = key(cell)
        # one of other settings, from an older grid, does not hide a committed one
        if place not in done or cell["arm"] in grid.replay or (
            place in wanted and _is_made(wanted[place], cell, shared)
        ):  # fmt: skip
            done[place] = cell
    return done


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
    out = out or folder_of(name)
    plan = plan_cells(grid, grid.seed_list, tuned(grid))
    asked = {
        key(c) for c in plan
        if c["arm"] in (arms or grid.arms) and c["regime"] in (regimes or grid.regimes)
        and c["seed"] in grid.seed_list[:seeds]
    }  # fmt: skip

    def look() -> tuple[dict[tuple, dict], list[dict]]:
        """What is there, and what is to be trained."""
        done = made_before(name, grid, plan, out, resume)
        lacking = missing(plan, grid, done)
        for cell in lacking:  # what lies there is of other settings: no result, and no source
            done.pop(key(cell), None)
        return done, [cell for cell in lacking if key(cell) in asked]

    done, waiting = look()
    if not waiting:
        console.print(f"{grid.name}: all {len(asked)} cells are there; nothing to do.")
    else:
        known = [c["wall_seconds"] for c in done.values() if c.get("wall_seconds")]
        each = sum(known) / len(known) if known else SECONDS_A_CELL
        console.print(
            f"{grid.name}: {len(waiting)} of {len(asked)} cells to train, about {each:.0f} s each: "
            f"{len(waiting) * each / jobs / 3600:.1f} hours on {jobs} processes."
        )
        if resume and begun_anew(out) & set(map(key, waiting)):
            console.print(f"They were begun anew in {out}: no committed cell stands for them.")
        check_tasks(waiting, grid)
    committed = shipped_or_none(grid.name) if resume and str(name) in grid_names() else None
    noted = {k: v for k, v in (committed or {}).items() if k not in HEAD}

    def collected(places: Iterable[tuple]) -> dict[str, Any]:
        cells = [done[k] for k in places if k in done]
        return collect(grid, cells, **noted, provenance=provenance())

    if waiting or (out / "cells").is_dir():  # a stopped call may have left cells and no result
        with _folder_kept(out):
            done, waiting = look()  # again: another study may have been at work in it until now
            if not resume:
                write_text(out / ANEW, to_json(sorted(asked)))
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

    shared, environment, made_by = how(grid), dict(os.environ), provenance()
    commit, _ = made_by.pop("commit"), made_by.pop("date")
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
                    cell |= {"commit": commit, "how": shared, "environment": made_by}
                    running[pool.submit(_train, out / "cells" / file_name(cell), cell)] = cell
                if not running:
                    reason = "their traces are missing (the seed before has not been run)"
                    reason = f"{max_hours:g} hours are over" if late else reason
                    console.print(f"{len(waiting)} cells are left out: {reason}.")
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    cell = running[future]
                    try:
                        done[key(cell)] = future.result()
                    except BrokenProcessPool:
                        raise
                    except (OSError, ValueError, RuntimeError) as error:
                        raise StudyError(f"{file_name(cell)}: {error}") from error
                    del running[future]
                    bar.update(task, advance=1, last=f"{cell['regime']} {cell['arm']}")
    except BrokenProcessPool:
        raise StudyError(
            f"a worker was killed (too little memory?); finished cells are in {out}, go on by "
            f"--resume."
        ) from None
    except (KeyboardInterrupt, Exception):
        try:  # the folder is ours until no worker writes in it
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
