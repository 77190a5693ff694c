"""Interactive figures of runs, and their appearance where nothing is interactive.

Every figure is a plain `plotly.graph_objects.Figure`. `use_plotly()` makes notebooks store each
one twice: interactive, and as a PNG for GitHub's preview (`amft_lite.figures_png`).

A slider shows one of several groups of traces; the PNG then holds the first group. The alt text
of a figure travels in its `layout.meta`; `notebooks/tools/build.py` hands it to the PNG.

Left out: animation, and chart types other than lines, bands, markers, bars and heat maps.
"""

from __future__ import annotations

import base64
import io
import itertools
import os
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

from amft_lite.figures_png import to_png

#: Okabe-Ito: told apart by colour-blind readers, and on light and dark pages.
COLOURS = {
    "amft": "#0072B2",
    "amft_full": "#D55E00",
    "amft_full-equal": "#D55E00",
    "sft": "#E69F00",
    "rl": "#009E73",
    "sft_then_rl": "#56B4E9",
    "published": "#CC79A7",
    "placebo": "#7f7f7f",
    "grey": "#7f7f7f",
}
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7f7f7f")
DASHES = ("solid", "dash", "dot", "dashdot")

SPLIT_NAMES = {"test": "same rule", "ood_rule": "new rule", "ood_visual": "red suits"}

Line = dict[str, Any]


def colour(name: str, place: int = 0) -> str:
    """A method keeps its colour in every figure; other names take the palette's in order."""
    return COLOURS.get(name, PALETTE[place % len(PALETTE)])


def colours(names: Sequence[str]) -> dict[str, str]:
    """A method keeps its colour; other names take in order what the methods here leave."""
    own = {name: COLOURS[name] for name in names if name in COLOURS}
    left = itertools.cycle([c for c in PALETTE if c not in own.values()] or PALETTE)
    return {name: own.get(name) or next(left) for name in names}


def translucent(hexadecimal: str, alpha: float = 0.15) -> str:
    red, green, blue = (int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def new_figure(title: str, x: str, y: str, height: int = 380) -> go.Figure:
    """An empty figure in the house style: title = what is shown, axes with units."""
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0.01, "xanchor": "left"},
        xaxis_title=x,
        yaxis_title=y,
        height=height,
        margin={"l": 60, "r": 20, "t": 60, "b": 50},
        legend={"orientation": "h", "y": -0.2, "x": 0},
        hovermode="x unified",
        showlegend=True,
    )
    return figure


def describe(figure: go.Figure, alt: str) -> go.Figure:
    """Give the figure its alt text: what a reader who does not see it should know."""
    return figure.update_layout(meta={"alt": alt})


def line_figure(
    title: str,
    x: str,
    y: str,
    lines: dict[str, tuple[Sequence, Sequence]],
    alt: str = "",
    markers: bool = False,
    height: int = 380,
) -> go.Figure:
    """Named lines (xs, ys) in the palette's order; a method's name brings its own colour."""
    figure = new_figure(title, x, y, height)
    for place, (name, (xs, ys)) in enumerate(lines.items()):
        figure.add_scatter(
            x=list(xs), y=list(ys), name=name, mode="lines+markers" if markers else "lines",
            line={"color": colour(name, place)},
        )  # fmt: skip
    return describe(figure, alt) if alt else figure


def add_slider(
    figure: go.Figure, label: str, groups: dict[str, Sequence[int]], y: dict[str, str] | None = None
) -> go.Figure:
    """A slider whose positions (the keys) show only the traces listed for them.

    Traces that no position lists are always shown. The first position is where it starts. `y` gives
    positions a title of the y axis each, where they differ.
    """
    listed = {place for places in groups.values() for place in places}
    steps = []
    for name, places in groups.items():
        shown = [n in places or n not in listed for n in range(len(figure.data))]
        step = {"method": "restyle", "label": name, "args": [{"visible": shown}]}
        if y:
            step["method"] = "update"
            step["args"].append({"yaxis.title.text": y[name]})
        steps.append(step)
    if y:
        figure.update_yaxes(title_text=y[steps[0]["label"]])
    first = steps[0]["args"][0]["visible"]
    for trace, shown in zip(figure.data, first, strict=True):
        trace.visible = shown
    lower = figure.layout.margin.b + 75
    return figure.update_layout(
        sliders=[{
            "steps": steps, "currentvalue": {"prefix": f"{label}: "}, "pad": {"t": 75}, "len": 0.9,
        }],
        margin={"b": lower}, height=(figure.layout.height or 380) + 90,
        legend={"y": -0.16},
    )  # fmt: skip


def heat_figure(
    title: str, x: str, y: str, names: Sequence[str], shares: Sequence[Sequence[float]]
) -> go.Figure:
    """Shares from 0 to 1 as a square of colours, row i from above; `names` on both axes."""
    figure = new_figure(title, x, y, 420)
    figure.add_heatmap(
        x=list(names), y=list(names), z=[list(row) for row in shares], zmin=0.0, zmax=1.0,
        colorscale=[[0.0, "#ffffff"], [1.0, COLOURS["amft"]]],
        hovertemplate=f"{y} %{{y}}, {x} %{{x}}: %{{z:.2f}}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False, constrain="domain")
    return figure.update_yaxes(
        type="category", showgrid=False, constrain="domain", autorange="reversed", scaleanchor="x"
    )


def picture(image: Any, alt: str) -> Any:
    """A Pillow image for a notebook: a PNG, with words for those who do not see it."""
    from IPython.display import Image

    memory = io.BytesIO()
    image.save(memory, "PNG")
    return Image(memory.getvalue(), metadata={"alt": alt})  # Colab's IPython 7 knows no `alt`


def column(lines: Sequence[Line], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a metric where it was measured."""
    pairs = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]


def smooth(values: Sequence[float], width: int = 10) -> list[float]:
    """Mean of the last `width` values."""
    return [
        sum(values[max(0, i + 1 - width) : i + 1]) / len(values[max(0, i + 1 - width) : i + 1])
        for i in range(len(values))
    ]


def add_warmup(figure: go.Figure, warmup_steps: int) -> None:
    """A thin line where warm-up ends."""
    if warmup_steps:
        figure.add_vline(x=warmup_steps, line={"color": "#7f7f7f", "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=warmup_steps, y=1, yref="paper", text="warm-up ends", showarrow=False,
            xanchor="center", yanchor="bottom", font={"color": "#7f7f7f"},
        )  # fmt: skip
        figure.update_xaxes(rangemode="tozero")


def add_band(
    figure: go.Figure, x: Sequence, low: Sequence, high: Sequence, shade: str, name: str
) -> None:
    figure.add_scatter(
        x=[*x, *reversed(x)], y=[*high, *reversed(low)], fill="toself", mode="lines",
        line={"width": 0}, fillcolor=translucent(shade), name=name, hoverinfo="skip",
        showlegend=False,
    )  # fmt: skip


def success_figure(
    curves: dict[str, Sequence[Line]], warmup_steps: int = 0, notes: dict[str, str] | None = None
) -> go.Figure:
    """Held-out success against steps; one run, or several by name. Bands: 95 % over groups.

    `notes`: what splits are in a few words, where they are not those of General Points.
    """
    names = SPLIT_NAMES | (notes or {})
    figure = new_figure("Held-out success", "training step", "share of right answers")
    for place, (name, curve) in enumerate(curves.items()):
        splits = [key for key in curve[0] if key != "step"][: len(DASHES)]  # more is unreadable
        for number, split in enumerate(splits):
            dash, shade = DASHES[number], colour(name, place)
            if len(curves) == 1 and number:
                shade = PALETTE[(3 + number) % len(PALETTE)]
            steps = [point["step"] for point in curve]
            low = [point[split]["low"] for point in curve]
            high = [point[split]["high"] for point in curve]
            label = names.get(split, split) if "ood_rule" in splits else split
            if len(curves) == 1 or not number:
                add_band(figure, steps, low, high, shade, f"{name} band")
            figure.add_scatter(
                x=steps, y=[point[split]["mean"] for point in curve], mode="lines+markers",
                line={"color": shade, "dash": dash}, name=f"{name}, {label}",
            )  # fmt: skip
    figure.update_yaxes(rangemode="tozero")
    add_warmup(figure, warmup_steps)
    return figure


def mu_figure(runs: dict[str, Sequence[Line]], warmup_steps: int = 0) -> go.Figure:
    """mu against steps; the meta signal of each update as markers when there is one run."""
    figure = new_figure("mu, the weight of imitation", "training step", "mu")
    for place, (name, lines) in enumerate(runs.items()):
        steps, mu = column(lines, "mu")
        figure.add_scatter(
            x=steps, y=mu, mode="lines", line={"color": colour(name, place), "shape": "hv"},
            name=f"mu ({name})",
        )  # fmt: skip
    if len(runs) == 1:
        steps, signal = column(lines, "mu_signal")
        if steps:
            most = 1.2 * max(0.1, *map(abs, signal))
            figure.add_scatter(
                x=steps, y=signal, mode="markers", marker={"color": PALETTE[4], "size": 6},
                name="meta signal: cosine of grad U with d theta / d mu (right axis)", yaxis="y2",
            )  # fmt: skip
            figure.add_hline(y=0, yref="y2", line={"color": PALETTE[4], "width": 1, "dash": "dot"})
            figure.update_layout(
                yaxis2={
                    "overlaying": "y", "side": "right", "range": [-most, most], "title": "cosine",
                    "showgrid": False,
                },
                margin={"r": 60},
            )  # fmt: skip
    figure.update_layout(yaxis={"range": [-0.03, 1.03]})
    add_warmup(figure, warmup_steps)
    return figure


def entropy_figure(runs: dict[str, Sequence[Line]], warmup_steps: int = 0) -> go.Figure:
    """Policy entropy of the training rollouts, with H* as a line where there is one run."""
    figure = new_figure("Entropy of the policy", "training step", "nats a token")
    for place, (name, lines) in enumerate(runs.items()):
        steps, entropy = column(lines, "entropy")
        figure.add_scatter(
            x=steps, y=entropy, mode="lines", line={"color": colour(name, place)}, name=name
        )
    target = [line["target_entropy"] for line in lines if line.get("target_entropy")]
    if len(runs) == 1 and target:
        figure.add_hline(
            y=target[-1], line={"color": PALETTE[4], "dash": "dash", "width": 1.5},
            annotation_text="H*, the policy after warm-up", annotation_position="top right",
            annotation_font_color=PALETTE[4],
        )  # fmt: skip
        highest = max(target[-1], *(trace_y for trace in figure.data for trace_y in trace.y))
        figure.update_yaxes(range=[0, 1.15 * highest])
    figure.update_yaxes(rangemode="tozero")
    add_warmup(figure, warmup_steps)
    return figure


def reward_figure(runs: dict[str, Sequence[Line]], warmup_steps: int = 0) -> go.Figure:
    """Reward of training rollouts (mean of ten steps), and the share of groups that teach."""
    figure = new_figure("Reward of the rollouts", "training step", "share")
    for place, (name, lines) in enumerate(runs.items()):
        shade = colour(name, place)
        steps, reward = column(lines, "reward")
        figure.add_scatter(
            x=steps, y=smooth(reward), mode="lines", line={"color": shade},
            name=f"reward ({name}), mean of 10 steps",
        )  # fmt: skip
        if len(runs) == 1:
            steps, varied = column(lines, "groups_with_variance")
            figure.add_scatter(
                x=steps, y=smooth(varied), mode="lines",
                line={"color": PALETTE[4], "dash": "dot"},
                name="groups whose rewards differ, mean of 10 steps",
            )  # fmt: skip
    figure.update_yaxes(rangemode="tozero")
    add_warmup(figure, warmup_steps)
    return figure


def gradient_figure(lines: Sequence[Line], warmup_steps: int = 0) -> go.Figure:
    """Do the two losses pull the same way, and which way is up on validation?"""
    figure = new_figure("Cosines between gradients", "training step", "cosine")
    series = (
        ("cos_sft_rl", "g_SFT with g_RL, mean of 10 steps", 6),
        ("cos_utility_sft", "grad U with a step along SFT", 1),
        ("cos_utility_rl", "grad U with a step along RL", 2),
    )
    for name, label, shade in series:
        steps, values = column(lines, name)
        figure.add_scatter(
            x=steps, y=smooth(values) if shade == 6 else values,
            mode="lines" if shade == 6 else "lines+markers",
            line={"color": PALETTE[shade]}, name=label,
        )  # fmt: skip
    figure.add_hline(y=0, line={"color": "#7f7f7f", "width": 1})
    add_warmup(figure, warmup_steps)
    return figure


def gate_figure(lines: Sequence[Line], bins: Sequence[str], warmup_steps: int = 0) -> go.Figure:
    """Learned weights: one line a bin of tokens (`bins` names them) and one a quarter of
    demonstrations, dashed."""
    figure = new_figure(
        "Learned weights of tokens and demonstrations", "training step", "weight", 420
    )
    quarters = ("least likely quarter", "second", "third", "likeliest quarter")
    rows = [(f"mu_gate_{k}", f"tokens, {name}", "solid") for k, name in enumerate(bins)]
    rows += [(f"mu_trust_{j}", name, "dash") for j, name in enumerate(quarters)]
    for place, (name, label, dash) in enumerate(rows):
        steps, values = column(lines, name)
        figure.add_scatter(
            x=steps, y=values, name=label, mode="lines+markers",
            line={"color": PALETTE[place % len(bins)], "dash": dash},
            marker={"symbol": "circle" if dash == "solid" else "diamond"},
        )  # fmt: skip
    figure.update_yaxes(range=[-0.03, 1.03])
    add_warmup(figure, warmup_steps)
    return figure


def use_plotly() -> str:
    """Choose how notebooks show figures; returns the renderer's name.

    Jupyter: interactive, plus a PNG for pages that run no scripts. Colab, or an explicit
    PLOTLY_RENDERER: left as it is.
    """
    if os.environ.get("PLOTLY_RENDERER") or "COLAB_NOTEBOOK_ID" in os.environ:
        return pio.renderers.default
    try:
        import matplotlib  # noqa: F401
        from plotly.io._base_renderers import MimetypeRenderer  # private: tests watch it
    except ImportError:
        pio.renderers.default = "plotly_mimetype"
        return pio.renderers.default

    class Png(MimetypeRenderer):
        def to_mimebundle(self, fig_dict: dict) -> dict[str, str]:
            picture = to_png(go.Figure(fig_dict, skip_invalid=True))
            return {"image/png": base64.b64encode(picture).decode()}

    pio.renderers["amft_png"] = Png()
    pio.renderers.default = "plotly_mimetype+amft_png"
    return pio.renderers.default
