"""Interactive figures of runs, and their appearance where nothing is interactive.

Every figure is a plain `plotly.graph_objects.Figure`. `use_plotly()` makes notebooks store each
one twice: interactive, and as a PNG for GitHub's preview. The PNG is drawn by matplotlib, because
plotly's own export needs an installed browser. Matplotlib is optional; without it notebooks keep
the interactive form alone.

A slider shows one of several groups of traces; the PNG then holds the first group. The alt text
of a figure travels in its `layout.meta`; `notebooks/tools/build.py` hands it to the PNG.

Left out: animation, and chart types other than lines, bands, markers, bars and heat maps.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import os
import re
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

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


# --- pictures where nothing is interactive -------------------------------------------------------

_SYMBOLS = {None: "o", "circle": "o", "diamond": "D", "square": "s", "x": "X"}
_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", None: "-"}


def _rgba(text: str) -> tuple[float, ...]:
    """A plotly colour for matplotlib."""
    from matplotlib.colors import to_rgba

    if text.startswith("rgba("):
        red, green, blue, alpha = (float(part) for part in text[5:-1].split(","))
        return red / 255, green / 255, blue / 255, alpha
    return to_rgba(text)


def _symbol(marker: Any) -> Any:
    """A plotly marker for matplotlib; an arrow is a triangle that points along its angle."""
    if marker.symbol == "arrow":
        return (3, 0, -(marker.angle or 0))
    return _SYMBOLS[marker.symbol]


def _write_names(axes: Any, trace: Any) -> None:
    """The text of a trace's points, beside them."""
    places = trace.textposition
    places = [places] * len(trace.x) if isinstance(places, str) else places
    for x, y, word, place in zip(trace.x, trace.y, trace.text, places, strict=True):
        upright, side = place.split()
        axes.annotate(
            word, (x, y), xytext=(4 * ((side == "right") - (side == "left")),
                                  4 * ((upright == "top") - (upright == "bottom"))),
            textcoords="offset points", fontsize=8, color=trace.textfont.color,
            ha={"left": "right", "right": "left", "center": "center"}[side],
            va={"top": "bottom", "bottom": "top", "middle": "center"}[upright],
            annotation_clip=True,
        )  # fmt: skip


def _write_beside(canvas: Any, note: Any) -> None:
    """A text that stands beside the axes: its place is given on paper both ways."""
    text = note.text.replace("<br>", "\n")
    canvas.text(
        note.x, 0.93, html.unescape(re.sub("<[^>]*>", "", text)), ha="left", va="top",
        fontsize=8.5, color=note.font.color, family=note.font.family, linespacing=1.5,
    )  # fmt: skip


def to_png(figure: go.Figure, width: float = 8.0, dpi: int = 100) -> bytes:
    """The figure as a PNG, drawn by matplotlib: lines, markers, names of points, bands, bars, heat
    maps, line annotations, and a text beside the axes where their domain leaves room for it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a kind of trace that this drawing does not know.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    layout = figure.layout
    height = (layout.height or 380) - (90 if layout.sliders else 0)
    canvas = Figure(figsize=(width, height / 100), dpi=dpi, layout="constrained")
    FigureCanvasAgg(canvas)
    if layout.xaxis.domain:
        canvas.get_layout_engine().set(rect=(0, 0, layout.xaxis.domain[1], 1))
    left = axes = canvas.add_subplot()
    second = getattr(layout, "yaxis2", None)  # on the right, where there is one
    right = left.twinx() if second else left
    for trace in figure.data:
        if trace.visible in (False, "legendonly"):
            continue
        axes = right if trace.yaxis == "y2" else left
        label = trace.name if trace.showlegend is not False else None
        if trace.type == "bar":
            shades = trace.marker.color
            shades = list(shades) if isinstance(shades, list | tuple) else shades
            bars = axes.bar(list(trace.x), list(trace.y), color=shades, label=label)
            if trace.error_y.array is not None:
                low = trace.error_y.arrayminus
                errors = [low if low is not None else trace.error_y.array, trace.error_y.array]
                centres = [bar.get_x() + bar.get_width() / 2 for bar in bars]
                axes.errorbar(centres, list(trace.y), errors, fmt="none", ecolor="#444444")
        elif trace.type == "heatmap":
            shades = [shade for _, shade in trace.colorscale]
            colours = LinearSegmentedColormap.from_list("", shades)
            shown = axes.imshow(
                [list(row) for row in trace.z], vmin=trace.zmin, vmax=trace.zmax, cmap=colours
            )
            axes.set_xticks(range(len(trace.x)), list(trace.x))
            axes.set_yticks(range(len(trace.y)), list(trace.y))
            canvas.colorbar(shown)
        elif trace.type == "scatter" and trace.fill == "toself":
            axes.fill(list(trace.x), list(trace.y), color=_rgba(trace.fillcolor), lw=0)
        elif trace.type == "scatter":
            lines, markers = "lines" in (trace.mode or "lines"), "markers" in (trace.mode or "")
            shade = trace.line.color or trace.marker.color
            axes.plot(
                list(trace.x), list(trace.y), color=shade, label=label,
                linestyle=_DASHES[trace.line.dash] if lines else "none",
                marker=_symbol(trace.marker) if markers else None,
                markersize=0.7 * trace.marker.size if trace.marker.size else 4,
                linewidth=trace.line.width or 1.5,
                drawstyle="steps-post" if trace.line.shape == "hv" else "default",
            )  # fmt: skip
            if "text" in (trace.mode or ""):
                _write_names(axes, trace)
            if trace.error_y.array is not None:
                bars = list(trace.error_y.array)
                axes.errorbar(list(trace.x), list(trace.y), bars, fmt="none", ecolor=shade)
        else:
            raise ValueError(f"to_png does not draw traces of type {trace.type!r}")
    for shape in layout.shapes:
        style = {"color": shape.line.color, "lw": shape.line.width or 1}
        style["linestyle"] = _DASHES[shape.line.dash]
        if shape.x0 == shape.x1:
            left.axvline(shape.x0, **style)
        else:
            (right if shape.yref == "y2" else left).axhline(shape.y0, **style)
    axes = left
    for note in layout.annotations:
        if note.xref == "paper":
            _write_beside(canvas, note)
            continue
        vertical = (
            axes.get_xaxis_transform() if note.yref == "paper" else axes.get_yaxis_transform()
        )
        top = note.yref == "paper" or note.yref == "y domain"
        place = (note.x, 1.0) if top else (0.99, note.y)
        axes.annotate(
            note.text, place, xycoords=axes.get_xaxis_transform() if top else vertical,
            xytext=(0, 3), textcoords="offset points", ha="center" if top else "right",
            va="bottom", color=note.font.color or "#7f7f7f", fontsize=9,
        )  # fmt: skip
    # a label above the axes
    over = any("text" in (trace.mode or "") for trace in figure.data if trace.type == "scatter")
    over = over or any(n.yref == "paper" and n.xref != "paper" for n in layout.annotations)
    axes.set_title(layout.title.text or "", loc="left", pad=18 if over else 6)
    axes.set_xlabel(layout.xaxis.title.text or "")
    axes.set_ylabel(layout.yaxis.title.text or "")
    if layout.xaxis.type == "log":
        axes.set_xscale("log")
    if layout.yaxis.type == "log":
        axes.set_yscale("log")
    if layout.yaxis.range:
        axes.set_ylim(*layout.yaxis.range)
    elif layout.yaxis.rangemode == "tozero":
        axes.set_ylim(bottom=0)
    if layout.xaxis.range:
        axes.set_xlim(*layout.xaxis.range)
    for part, axis in ((layout.xaxis, axes.xaxis), (layout.yaxis, axes.yaxis)):
        if part.dtick:
            axis.set_major_locator(MultipleLocator(part.dtick))
    if layout.yaxis.scaleanchor and not layout.yaxis.autorange:
        axes.set_aspect("equal")
    if layout.xaxis.ticktext:
        axes.set_xticks(list(layout.xaxis.tickvals), list(layout.xaxis.ticktext))
    if layout.xaxis.tickangle == -90:
        axes.tick_params(axis="x", rotation=90, labelsize=8)
    elif any(len(label.get_text()) > 3 for label in axes.get_xticklabels()[8:]):
        for label in axes.get_xticklabels():  # many words would run into each other
            label.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_axisbelow(True)
    if layout.xaxis.showgrid is not False:
        axes.grid(alpha=0.3)
    left.spines[["top", "right"]].set_visible(False)
    handles, names = left.get_legend_handles_labels()
    if second:
        right.spines[["top", "left"]].set_visible(False)
        right.set_ylim(*second.range)
        right.set_ylabel(second.title.text or "")
        more = right.get_legend_handles_labels()
        handles, names = handles + more[0], names + more[1]
    if handles and layout.showlegend is not False:
        if len(handles) > 5:  # they would cover the drawing
            place = {"loc": "outside lower center", "ncols": 3}
            canvas.legend(handles, names, frameon=False, fontsize=9, **place)
        else:
            axes.legend(handles, names, frameon=False, fontsize=9)
    memory = io.BytesIO()
    canvas.savefig(memory, metadata={"Software": None})
    return memory.getvalue()


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
