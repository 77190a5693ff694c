"""A figure as a PNG, for pages where nothing is interactive.

Drawn by matplotlib, because plotly's own export needs an installed browser. Matplotlib is optional;
without it notebooks keep the interactive form alone.

Left out: what `amft_lite.figures` does not draw.
"""

from __future__ import annotations

import html
import io
import re
from typing import Any

import plotly.graph_objects as go

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
