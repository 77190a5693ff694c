"""What the command line says: its two consoles, how it refuses, and a run's progress and table."""

from __future__ import annotations

import shlex
import signal
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from amft_lite.config import ModelConfig, RunConfig
from amft_lite.methods import METHODS

if TYPE_CHECKING:
    from amft_lite.runs import Run

console = Console(highlight=False)
problems = Console(stderr=True, highlight=False, soft_wrap=True)

BAD_INPUT, STOPPED = 2, 130


def refuse(message: object) -> typer.Exit:
    """One sentence on stderr and exit code 2; `raise refuse(...)`."""
    problems.print(f"amft-lite: {message}", markup=False)
    return typer.Exit(BAD_INPUT)


def print_summary(summary: dict) -> None:
    """The table base / after warm-up / after training; the report has further columns."""
    from amft_lite.report import headings, summary_rows, table_note

    table = Table(title=f"{summary['method']}, seed {summary['seed']}", title_justify="left")
    shown = len(headings(summary)) - 2
    for place, heading in enumerate(headings(summary)[:shown]):
        table.add_column(heading, justify="left" if place == 0 else "right")
    for row in summary_rows(summary):
        table.add_row(*row[:shown])
    console.print(table)
    console.print(table_note(summary), style="dim")
    mu = "mu: all warm-up"
    if summary["mean_mu"] is not None:
        mu = (
            f"mu after warm-up: mean {summary['mean_mu']:.2f}, final {summary['final_mu']:.2f}, "
            f"moved by the meta-gradient {summary['meta_movement']:.2f} in all"
        )
    console.print(f"{mu}; training took {summary['training_seconds']:.0f} s.")


def in_smaller_parts(config: RunConfig | ModelConfig) -> str:
    """How a step of this run can be computed piece by piece, if it can."""
    if isinstance(config, ModelConfig):
        return ", or raise accumulation"
    return "" if METHODS[config.method].whole_batch else ", or set micro_batch"


def train_with_progress(run: Run) -> dict:
    """Train `run` under a progress bar; Ctrl-C saves first. Raises typer.Exit when stopped."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from amft_lite.runs import Interrupted, Progress

    asked: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt  # the second time at once
        asked.append(number)
        console.print("Stopping after this step (once more: at once, losing it).")

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
    )  # fmt: skip
    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Bar(*columns, console=console) as bar:
            task = bar.add_task(run.config.method, total=run.config.steps, facts="")

            def show(p: Progress) -> None:
                phase, parts = p.facts["phase"], []
                if phase != "train":
                    parts.append(phase)
                for name in ("mu", "entropy", "reward"):
                    if name in p.facts:
                        parts.append(f"{name} {p.facts[name]:.2f}")
                if p.success is not None:
                    parts.append(f"success {p.success:.2f}")
                bar.update(task, completed=p.step, facts=" ".join(parts))

            def say(text: str) -> None:
                bar.console.print(text, markup=False)  # it may name a folder in brackets

            return run.train(show, say, lambda: bool(asked))
    except (MemoryError, RuntimeError) as error:
        # torch's own words on a CPU and on a GPU
        short = any(x in str(error) for x in ("allocate memory", "out of memory"))
        if not short and not isinstance(error, MemoryError):
            raise
        raise refuse(
            f"these settings need more memory than this machine has; lower prompts_per_step, "
            f"rollouts_per_prompt, sft_batch, validation_prompts or eval_samples"
            f"{in_smaller_parts(run.config)}."
        ) from None
    except (Interrupted, KeyboardInterrupt):
        again = f"amft-lite run --resume --out {shlex.quote(str(run.folder))}"
        console.print(f"Stopped. Go on with: {again}", soft_wrap=True, markup=False)
        raise typer.Exit(STOPPED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
