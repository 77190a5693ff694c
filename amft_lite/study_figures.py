"""A study's result as figures: gains by regime, curves over steps and over rollouts paid, and what
went on inside the runs.

Left out: numbers to be quoted (`amft_lite.tables`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from amft_lite import figures
from amft_lite.cells import THINNED
from amft_lite.statistics import mean_interval
from amft_lite.tables import CONSTANT, measures_of, regimes_of, regrets


def gain_figure(result: dict[str, Any], shown: Sequence[str], title: str) -> go.Figure:
    """What arms gain on the best constant of each regime, on the first split, sampled.

    The best constant is that of the seeds at hand, which flatters it.
    """
    lost, regimes = regrets(result, *measures_of(result)[0]), regimes_of(result)
    figure = figures.new_figure(title, "regime", "share of right answers, difference", 440)
    for arm, shade in figures.colours([arm for arm in shown if arm in lost]).items():
        constant = arm.startswith(CONSTANT)
        figure.add_scatter(
            x=regimes, y=[-lost[arm]["each"][regime] for regime in regimes], name=arm,
            mode="lines+markers",
            line={"color": shade, "dash": "dot" if constant else "solid"},
        )  # fmt: skip
    return figure.add_hline(y=0, line={"color": "#7f7f7f", "width": 1})


def curves_figure(
    result: dict[str, Any], title: str, y: str, splits: dict[str, str], key: Callable[[str], str]
) -> go.Figure:
    """A study's curves: for each arm the mean over its seeds, with its 95 % interval as a band.

    `splits` (split -> words) are the slider's positions; `key(split)` is what of a curve's points
    is drawn.
    """
    figure = figures.new_figure(title, "training step", y)
    positions = {
        words: _add_curves(figure, _curves(result["cells"], "step", key(split)))
        for split, words in splits.items()
    }
    return figures.add_slider(figure, "split", positions)


def cost_figure(result: dict[str, Any], title: str, split: str = "test") -> go.Figure:
    """Success over rollouts paid, validation included; the slider's positions are regimes."""
    figure = figures.new_figure(title, "rollouts, validation included", "share of right answers")
    positions = {}
    for regime in regimes_of(result):
        cells = [cell for cell in result["cells"] if cell["regime"] == regime]
        positions[regime] = _add_curves(figure, _curves(cells, "rollouts", split))
    return figures.add_slider(figure, "regime", positions)


def dynamics_figure(
    result: dict[str, Any], title: str, arms: Sequence[str], regimes: dict[str, str],
    names: dict[str, str],
) -> go.Figure:  # fmt: skip
    """What went on inside the runs: traces of the cells, means over blocks of steps.

    The slider's positions are `regimes` (regime -> words) times `names` (trace -> words).
    """
    figure = figures.new_figure(title, "training step", "")
    positions, units = {}, {}
    for (regime, where), (name, what) in itertools.product(regimes.items(), names.items()):
        curves = {}
        for arm in arms:
            traces = [cell.get("traces", {}).get(name) for cell in result["cells"]
                      if (cell["arm"], cell["regime"]) == (arm, regime)]  # fmt: skip
            runs = [
                [((n + 0.5) * THINNED, value) for n, value in enumerate(trace) if value is not None]
                for trace in traces
                if trace
            ]
            if runs:
                curves[arm] = runs
        shown = f"{what}, {where}"
        positions[shown], units[shown] = _add_curves(figure, curves), what
    return figures.add_slider(figure, "shown", positions, units)


#: arm -> its runs, each a list of points (x, y); all runs of an arm have the same x.
Curves = dict[str, list[list[tuple[float, float]]]]


def _curves(cells: list[dict[str, Any]], x: str, y: str) -> Curves:
    """The curves of cells that have one, by arm."""
    found: Curves = {}
    for cell in cells:
        if "curve" not in cell:  # it diverged
            continue
        points = [(point[x], point[y]) for point in cell["curve"]]
        found.setdefault(cell["arm"], []).append(points)
    return found


def _add_curves(figure: go.Figure, curves: Curves) -> range:
    """Draw each arm's mean with its 95 % interval; the places of the new traces."""
    first = len(figure.data)
    shades = figures.colours(list(curves))
    for arm, runs in curves.items():
        x = [x for x, _ in runs[0]]
        found = [mean_interval([y for _, y in points]) for points in zip(*runs, strict=True)]
        shade = shades[arm]
        low, high = [f.low for f in found], [f.high for f in found]
        figures.add_band(figure, x, low, high, shade, arm)
        figure.add_scatter(x=x, y=[f.mean for f in found], name=arm,
                           mode="lines+markers", line={"color": shade})  # fmt: skip
    return range(first, len(figure.data))
