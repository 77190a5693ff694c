"""Methods compared over seeds. `quick`: does AMFT beat its two halves on General Points?
`arithmetic`: the same question on maths lite, and against the two-stage SFT -> RL.

Each (method, seed) is an ordinary run folder, trained in a process of its own; finished ones are
kept, so a stopped study goes on where it was. The result is one JSON file with every run's
figures, the paired differences and provenance.

Rules of judgement, fixed before the first result: success on `test` of the final policy, mean of
8 draws on each of its problems; differences are paired by seed; a difference is called real
if Student's 95 % interval over seeds leaves out 0. Seed 0 was used to choose the base and is not
among the seeds.

`arithmetic` is judged in the same way, over 5 seeds, also on its three `ood_` splits. Before that,
each method's learning rate is chosen: the same three values for every method, seed 0, the highest
success on `validation` (mean of 8 draws on each of its problems; equal ones: the smaller rate).
`rl` keeps its default of no warm-up, the others have the recipe's. (AMFT's controller reads
rewards of validation problems in training, so its own choice rests on the less fresh figure.)

Left out: aggregate statistics over tasks; tuning of anything but the learning rate.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from amft_lite.config import build, read_file
from amft_lite.models import DATA
from amft_lite.provenance import provenance
from amft_lite.runs import Run, write_text
from amft_lite.statistics import Interval, mean_interval


@dataclass(frozen=True)
class Study:
    """What is compared: the first method with each other one."""

    methods: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)  #: of every run
    recipe: str = "lite"
    first_seed: int = 1
    seeds: int = 10
    rates: tuple[float, ...] = ()  #: where there are some, each method's lr is chosen among them


STUDIES: dict[str, Study] = {
    "quick": Study(("amft", "sft", "rl", "placebo"), {"eval_every": 0}),
    "arithmetic": Study(
        ("amft", "sft", "rl", "sft_then_rl"),
        {"eval_every": 0},
        recipe="arithmetic_lite",
        seeds=5,
        rates=(2e-4, 5e-4, 1e-3),
    ),
}
SWEEP_SEED = 0


def train_all(
    jobs: list[tuple[Path, dict[str, Any]]], recipe: str, processes: int, console: Console
) -> None:
    """Train every (folder, settings), `processes` at a time."""
    from rich.progress import Progress as Bar

    waiting, running = list(jobs), {}
    with Bar(console=console) as bar:
        task = bar.add_task("runs", total=len(jobs))
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    folder, settings = waiting.pop(0)
                    command = [sys.executable, "-m", "amft_lite.cli", "run", "--out", str(folder)]
                    if (folder / "config.yaml").is_file():
                        command += ["--resume"]
                    else:
                        command += ["--config", recipe]
                        command += [w for k, v in settings.items() for w in ("--set", f"{k}={v}")]
                    log = open(folder.with_name(f"{folder.name}.log"), "w")  # noqa: SIM115
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
                        tail = folder.with_name(f"{folder.name}.log").read_text()[-500:]
                        raise ValueError(f"the run {folder} failed: {tail.strip()}")
                    bar.advance(task)
        finally:
            for process, (_, log) in running.items():
                process.terminate()
                process.wait()
                log.close()


def choose_rates(
    study: Study, out: Path, processes: int, console: Console
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Each method's lr, and the figures that it was chosen by."""
    places = {(m, lr): out / f"sweep-{m}-lr{lr:g}" for m in study.methods for lr in study.rates}
    common = {"seed": SWEEP_SEED, **study.settings, "eval_prompts": 8}  # test is not looked at
    jobs = [
        (folder, {"method": method, "lr": lr, **common})
        for (method, lr), folder in places.items()
        if not (folder / "summary.json").is_file()
    ]
    train_all(jobs, study.recipe, processes, console)
    sweep = []
    for (method, lr), folder in places.items():
        kept = folder / "validation.json"
        if not kept.is_file():
            run = Run.open(folder)
            run.load()
            found = run.evaluate("validation", 0, 8, greedy=False).success
            write_text(kept, json.dumps(asdict(found)) + "\n")
        found = json.loads(kept.read_text(encoding="utf-8"))
        sweep.append({"method": method, "lr": lr, "seed": SWEEP_SEED, "validation": found})
    rates = {}
    for method in study.methods:
        rows = sorted((r for r in sweep if r["method"] == method), key=lambda r: r["lr"])
        rates[method] = max(rows, key=lambda row: row["validation"]["mean"])["lr"]
    return rates, sweep


def collect(name: str, folders: dict[tuple[str, int], Path], **more: Any) -> dict[str, Any]:
    """The result of a finished study; `more` is kept beside it."""
    runs, base = [], {}
    for (method, seed), folder in folders.items():
        run = Run.open(folder)
        summary = run.summary
        final = summary["splits"]["final"]
        base = {split: found["success"] for split, found in summary["splits"]["base"].items()}
        others = [split for split in final if split != "test"]
        runs.append(
            {
                "method": method,
                "seed": seed,
                "lr": run.config.lr,
                "test": final["test"]["success"]["mean"],
                "test_greedy": final["test"]["greedy"]["mean"],
                **{split: final[split]["success"]["mean"] for split in others},
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
    facts = {"base": base, **more, "runs": runs, "provenance": provenance()}
    return {"study": name, **judge(runs), **facts}


def measured(run: dict[str, Any]) -> list[str]:
    """What of a run's figures is judged."""
    return ["test", "test_greedy", *(key for key in run if key.startswith("ood_"))]


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
    measures = measured(runs[0])

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
    seeds: int | None = None,
    processes: int = 2,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run what is missing, judge, and write `<out>/result.json`; `seeds`: the study's own number.

    The result that the repository ships is `data/studies/<name>.json`; this never overwrites it.
    """
    mean_interval([0.0, 1.0])  # scipy is there: better known now than in ten minutes
    study, console = STUDIES[name], console or Console()
    build(read_file(study.recipe), study.settings)  # a mistake there is better known now, too
    out = out or Path("runs") / f"study-{name}"
    out.mkdir(parents=True, exist_ok=True)
    chosen, more = {method: {} for method in study.methods}, {}
    if study.rates:
        rates, sweep = choose_rates(study, out, processes, console)
        chosen, more = {m: {"lr": lr} for m, lr in rates.items()}, {"lr": rates, "sweep": sweep}
    folders = {
        (method, seed): out / f"{method}-seed{seed}"
        for seed in range(study.first_seed, study.first_seed + (seeds or study.seeds))
        for method in study.methods
    }
    jobs = [
        (folder, {"method": method, "seed": seed, **study.settings, **chosen[method]})
        for (method, seed), folder in folders.items()
        if not (folder / "summary.json").is_file()
    ]
    train_all(jobs, study.recipe, processes, console)
    result = collect(name, folders, **more)
    write_text(out / "result.json", json.dumps(result, indent=1) + "\n")
    return result


def shipped(name: str) -> dict[str, Any]:
    """The committed result of a study."""
    return json.loads((DATA / "studies" / f"{name}.json").read_text(encoding="utf-8"))


def recording(name: str) -> dict[str, Any]:
    """One of data/recordings/, made by `make recordings` (notebooks/tools/record.py says how)."""
    return json.loads((DATA / "recordings" / f"{name}.json").read_text(encoding="utf-8"))


def print_result(result: dict[str, Any], console: Console) -> None:
    """Two tables: means, and paired differences; before them the sweep, where there was one."""
    n, measures = len(result["seeds"]), measured(result["runs"][0])
    notes = {"test_greedy": "test, greedy", "ood_rule": "ood_rule (new rule)"}
    if result.get("sweep"):
        table = Table("", "lr", "validation", "", title="Learning rates, one run each, seed 0")
        for row in result["sweep"]:
            taken = "taken" if result["lr"][row["method"]] == row["lr"] else ""
            values = (f"{row['lr']:g}", str(Interval(**row["validation"])), taken)
            table.add_row(row["method"], *values)
        console.print(table)
    for key, title in (
        ("means", f"Share of right answers, mean and 95 % interval over {n} seeds"),
        ("differences", f"Differences paired by seed, 95 % interval over {n} seeds"),
    ):
        table = Table("", *(notes.get(m, m) for m in measures), title=title)
        if key == "means" and result.get("base"):
            known = [result["base"].get(m) for m in measures]
            table.add_row("base (over problems)", *(str(Interval(**k)) if k else "" for k in known))
        for name, row in result[key].items():
            table.add_row(name, *(str(Interval(**row[m])) for m in measures))
        console.print(table)
