"""One HTML file about one run, or several side by side; it opens offline.

Left out: aggregation over seeds (a study's business).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio
import yaml

from amft_lite import figures
from amft_lite.files import RunError, read_json, write_text
from amft_lite.gate import BINS
from amft_lite.runs import PHASES, Run
from amft_lite.tasks import notes_of

STYLE = """
body{font:16px/1.55 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.35rem .8rem;text-align:right;
border-bottom:1px solid #ddd}th:first-child,td:first-child{text-align:left}
.note{color:#555;font-size:.92rem}pre{background:#f6f6f6;padding:.8rem;overflow:auto;font-size:.85rem}
"""

READING = {
    "success": "Share of right answers to problems never trained on. Solid: the training rule, "
    "J=Q=K=10. Dashed: the rule 11, 12, 13, never trained on. Bands resample value multisets "
    "(95 %). One run shows that something was learned, not what made it so.",
    "success by split": "Share of right answers to problems never trained on. Solid: problems of "
    "the kinds trained on. Other lines: kinds never trained on. Bands resample problems (95 %). "
    "One run shows that something was learned, not what made it so.",
    "mu": "1 is pure imitation, 0 pure exploration. Orange markers, where there are any: the meta "
    "signal of one update, above 0 where more imitation would have helped validation reward. A "
    "controller that did nothing would leave the line flat.",
    "entropy": "How undecided the policy is. A fall towards 0 means it has stopped exploring.",
    "reward": "What the learner itself sees on its training prompts. Where no group of rollouts "
    "differs in reward, L_RL has no gradient at all.",
    "gradient": "Above 0: the two losses agree, or a step along that loss would raise validation "
    "reward. One estimate is noisy; read the tendency.",
    "gate": "1: imitated fully, 0: not at all. Solid: tokens by how likely the policy finds them. "
    "Dashed: demonstrations, in quarters of their batch by likelihood. A token's weight is the "
    "product of the two.",
}


def cell(fact: dict[str, Any] | None) -> str:
    """mean [low, high]."""
    if not fact:
        return "-"
    return f"{fact['mean']:.3f} [{fact['low']:.3f}, {fact['high']:.3f}]"


def headings(summary: dict[str, Any]) -> tuple[str, ...]:
    """Of `summary_rows`: every split that the run was measured on, and more about the first."""
    notes = summary.get("notes", {})
    splits = [f"{s} ({notes[s]})" if s in notes else s for s in summary["splits"]["final"]]
    return ("", *splits, f"{splits[0]}, greedy", f"{splits[0]}, attempts@5")


def summary_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """(phase, each split, the first one greedy and attempts@5) for each phase of a finished run,
    a row for each of the task's further questions (`tasks.readings_of`), and its baselines."""
    names = {"base": "base", "warm-up": "after warm-up", "final": f"after {summary['method']}"}
    rows = []
    for phase in PHASES:
        found = summary["splits"].get(phase)
        if found:
            main = next(iter(found.values()))
            more = (cell(main.get("greedy")), cell(main.get("attempts_at_5")))
            rows.append((names[phase], *(cell(of["success"]) for of in found.values()), *more))
            for question in main.get("readings", {}):
                shares = (cell(of.get("readings", {}).get(question)) for of in found.values())
                rows.append((f"  {question}", *shares, "-", "-"))
    for words, shares in summary.get("baselines", {}).items():
        rows.append((words, *(f"{share:.3f}" for share in shares.values()), "-", "-"))
    return rows


def table_note(summary: dict[str, Any]) -> str:
    """What the figures of the table rest on."""
    final = summary["splits"]["final"]
    groups = summary.get("groups", "value multisets")
    first, *others = [
        f"{split}: {found['prompts']} of {found['success']['n']}" for split, found in final.items()
    ]
    first = first.replace(" of ", " prompts of ") + f" {groups.split()[-1]}"
    return (
        f"Share of right answers, 95 % interval over {groups} ({'; '.join([first, *others])}), "
        f"{next(iter(final.values()))['samples_per_prompt']} answers each, temperature 1."
    )


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(h)}</th>" for h in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_figure(name: str, figure: go.Figure, first: bool, reading: str) -> str:
    drawn = pio.to_html(
        figure, include_plotlyjs=first, full_html=False, div_id=f"figure-{name}",
        config={"displaylogo": False, "responsive": True},
    )  # fmt: skip
    return f"{drawn}<p class='note'><b>How to read it.</b> {html.escape(READING[reading])}</p>"


def label(run: Run, runs: Sequence[Run]) -> str:
    """The shortest name that tells several runs apart; method and seed for one alone."""
    name = f"{run.config.method}, seed {run.config.seed}"
    if len(runs) > 1 and [r.config.method for r in runs].count(run.config.method) == 1:
        return run.config.method
    names = [f"{r.config.method}, seed {r.config.seed}" for r in runs]
    return name if names.count(name) == 1 else run.folder.name


def labelled(runs: Sequence[Run]) -> dict[str, Run]:
    """The runs by the names they go by in figures.

    Raises:
        RunError: a run has no steps yet.
    """
    for run in runs:
        if not run.metrics:
            raise RunError(f"{run.folder} has no steps yet; train it first.")
    names = [label(run, runs) for run in runs]
    if len(set(names)) < len(names):  # equal folder names in different places
        names = [str(run.folder) for run in runs]
    return dict(zip(names, runs, strict=True))


def draw(runs: dict[str, Run]) -> dict[str, go.Figure]:
    """Every figure that these runs have data for."""
    lines = {name: run.metrics for name, run in runs.items()}
    curves = {name: run.curve for name, run in runs.items() if run.curve}
    first = next(iter(runs.values()))
    warmup = first.config.warmup_steps if len(runs) == 1 else 0
    notes = dict(notes_of(first.task))
    drawn = {"success": figures.success_figure(curves, warmup, notes)} if curves else {}
    drawn["mu"] = figures.mu_figure(lines, warmup)
    if any("entropy" in line for run in lines.values() for line in run):
        drawn["entropy"] = figures.entropy_figure(lines, warmup)
        drawn["reward"] = figures.reward_figure(lines, warmup)
    if len(runs) == 1 and any("cos_sft_rl" in line for line in first.metrics):
        drawn["gradient"] = figures.gradient_figure(first.metrics, warmup)
    if len(runs) == 1 and any("mu_gate_0" in line for line in first.metrics):
        drawn["gate"] = figures.gate_figure(first.metrics, BINS, warmup)
    return drawn


def write_pictures(runs: Sequence[Run], folder: Path) -> list[Path]:
    """The figures as PNG files, for places that run no scripts."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in draw(labelled(runs)).items():
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(figures.to_png(figure))
    return paths


def write_report(runs: Sequence[Run], path: Path) -> Path:
    """Write the report of one finished or unfinished run, or of several.

    Raises:
        RunError: a run has no steps yet.
    """
    named = labelled(runs)
    drawn = draw(named)
    title = f"amft-lite: {', '.join(named)}"
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for name, run in named.items():
        if len(runs) > 1:
            parts.append(f"<h2>{html.escape(name)}</h2>")
        summary = run.summary
        if summary:
            parts.append(html_table(headings(summary), summary_rows(summary)))
            parts.append(f"<p class='note'>{html.escape(table_note(summary))}</p>")
        else:
            parts.append(f"<p>Not finished: {len(run.metrics)} of {run.config.steps} steps.</p>")
    for place, (name, figure) in enumerate(drawn.items()):
        rules = all(run.config.task.startswith("general_points") for run in runs)
        reading = "success by split" if name == "success" and not rules else name
        parts.append(html_figure(name, figure, place == 0, reading))
    parts.append("<h2>How these numbers were made</h2>")
    for name, run in named.items():
        settings = (run.folder / "config.yaml").read_text(encoding="utf-8")
        written = read_json(run.folder / "provenance.json")
        made = yaml.safe_dump(written, sort_keys=False) if written else "versions: unknown\n"
        parts.append(
            f"<details><summary>{html.escape(name)}: settings and versions</summary>"
            f"<pre>{html.escape(made)}\n{html.escape(settings)}</pre></details>"
        )
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )
    write_text(path, page)
    return path
