"""Methods compared over seeds. `quick` is the first one: does AMFT beat its two halves?

Each (method, seed) is an ordinary run folder, trained in a process of its own; finished ones are
kept, so a stopped study goes on where it was. The result is one JSON file with every run's
figures, the paired differences and provenance.

Rules of judgement, fixed before the first result: success on `test` of the final policy, mean of
8 draws on each of its problems; differences are paired by seed; a difference is called real
if Student's 95 % interval over seeds leaves out 0. Seed 0 was used to choose the base and is not
among the seeds.

Left out: aggregate statistics over tasks, tuning of rivals.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from amft_lite.config import build
from amft_lite.models import DATA
from amft_lite.provenance import provenance
from amft_lite.runs import Run, write_text
from amft_lite.statistics import Interval, mean_interval

#: study -> (methods, first seed, settings of every run)
STUDIES: dict[str, tuple[tuple[str, ...], int, dict[str, Any]]] = {
    "quick": (("amft", "sft", "rl", "placebo"), 1, {"eval_every": 0}),
}


def train_all(
    jobs: list[tuple[str, int, Path]], settings: dict, processes: int, console: Console
) -> None:
    """Train every (method, seed, folder), `processes` at a time."""
    from rich.progress import Progress as Bar

    assignments = [f"{key}={value}" for key, value in settings.items()]
    waiting, running = list(jobs), {}
    with Bar(console=console) as bar:
        task = bar.add_task("runs", total=len(jobs))
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    method, seed, folder = waiting.pop(0)
                    command = [sys.executable, "-m", "amft_lite.cli", "run", "--out", str(folder)]
                    if (folder / "config.yaml").is_file():
                        command += ["--resume"]
                    else:
                        command += ["--method", method, "--seed", str(seed)]
                        command += [word for a in assignments for word in ("--set", a)]
                    log = open(folder.with_suffix(".log"), "w")  # noqa: SIM115
                    process = subprocess.Popen(
                        command, stdout=log, stderr=subprocess.STDOUT,
                        env={**os.environ, "OMP_NUM_THREADS": "1"},
                    )  # fmt: skip
                    running[process] = (folder, log)
                time.sleep(0.2)
                for process in [p for p in running if p.poll() is not None]:
                    folder, log = running.pop(process)
                    log.close()
                    if process.returncode:
                        tail = folder.with_suffix(".log").read_text()[-500:]
                        raise ValueError(f"the run {folder} failed: {tail.strip()}")
                    bar.advance(task)
        finally:
            for process, (_, log) in running.items():
                process.terminate()
                process.wait()
                log.close()


def collect(name: str, folders: dict[tuple[str, int], Path]) -> dict[str, Any]:
    """The result of a finished study."""
    runs = []
    for (method, seed), folder in folders.items():
        summary = Run.open(folder).summary
        final = summary["splits"]["final"]
        runs.append(
            {
                "method": method,
                "seed": seed,
                "test": final["test"]["success"]["mean"],
                "test_greedy": final["test"]["greedy"]["mean"],
                "ood_rule": final["ood_rule"]["success"]["mean"],
                "after_warmup_test": (summary["splits"]["warm-up"] or final)["test"]["success"][
                    "mean"
                ],
                "mean_mu": summary["mean_mu"],
                "meta_movement": summary["meta_movement"],
                "training_seconds": summary["training_seconds"],
                "rollout_tokens": summary["training_rollout_tokens"],
                "validation_tokens": summary["validation_rollout_tokens"],
            }
        )
    return {"study": name, **judge(runs), "runs": runs, "provenance": provenance()}


def judge(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and differences of the first method to each other one, paired by seed.

    Raises:
        ValueError: a method lacks a seed that another has.
    """
    methods = list(dict.fromkeys(run["method"] for run in runs))
    table = {(run["method"], run["seed"]): run for run in runs}
    seeds = sorted({run["seed"] for run in runs})
    missing = [(m, s) for m in methods for s in seeds if (m, s) not in table]
    if missing:
        raise ValueError(f"the study lacks the runs {missing}")
    measures = ("test", "test_greedy", "ood_rule")

    def values(method: str, measure: str) -> list[float]:
        return [table[method, seed][measure] for seed in seeds]

    means = {m: {k: asdict(mean_interval(values(m, k))) for k in measures} for m in methods}
    first = methods[0]
    differences = {
        f"{first} - {other}": {
            k: asdict(
                mean_interval(
                    [a - b for a, b in zip(values(first, k), values(other, k), strict=True)]
                )
            )
            for k in measures
        }
        for other in methods[1:]
    }
    return {"seeds": seeds, "means": means, "differences": differences}


def run_study(
    name: str,
    out: Path | None = None,
    seeds: int = 10,
    processes: int = 2,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run what is missing, judge, and write `<out>/result.json`.

    The result that the repository ships is `data/studies/<name>.json`; this never overwrites it.
    """
    mean_interval([0.0, 1.0])  # scipy is there: better known now than in ten minutes
    methods, first, settings = STUDIES[name]
    build(settings)  # a mistake in them is better known now, too
    out = out or Path("runs") / f"study-{name}"
    out.mkdir(parents=True, exist_ok=True)
    folders = {
        (method, seed): out / f"{method}-seed{seed}"
        for seed in range(first, first + seeds)
        for method in methods
    }
    jobs = [
        (method, seed, folder)
        for (method, seed), folder in folders.items()
        if not (folder / "summary.json").is_file()
    ]
    train_all(jobs, settings, processes, console or Console())
    result = collect(name, folders)
    write_text(out / "result.json", json.dumps(result, indent=1) + "\n")
    return result


def shipped(name: str) -> dict[str, Any]:
    """The committed result of a study."""
    return json.loads((DATA / "studies" / f"{name}.json").read_text(encoding="utf-8"))


def recording(name: str) -> dict[str, Any]:
    """One of data/recordings/, made by `make recordings` (notebooks/tools/record.py says how)."""
    return json.loads((DATA / "recordings" / f"{name}.json").read_text(encoding="utf-8"))


def print_result(result: dict[str, Any], console: Console) -> None:
    """Two tables: means, and paired differences."""
    n = len(result["seeds"])
    for key, title in (
        ("means", f"Share of right answers, mean and 95 % interval over {n} seeds"),
        ("differences", f"Differences paired by seed, 95 % interval over {n} seeds"),
    ):
        table = Table("", "test", "test, greedy", "ood_rule (new rule)", title=title)
        for name, row in result[key].items():
            cells = [str(Interval(**row[k])) for k in ("test", "test_greedy", "ood_rule")]
            table.add_row(name, *cells)
        console.print(table)
