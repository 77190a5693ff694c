"""Export a notebook as an HTML page that needs no network: figures, formulas and all."""

from __future__ import annotations

import copy
import html
import re
from pathlib import Path

import plotly.io as pio
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

PLOTLY = "application/vnd.plotly.v1+json"
# A page that stands alone: without MathJax, mermaid, and requirejs, which would hide plotly.js.
TEMPLATE = "{% extends 'lab/index.html.j2' %}" + "".join(
    f"{{% block html_head_js_{name} %}}{{% endblock %}}"
    for name in ("requirejs", "mathjax", "mermaidjs")
)
LETTERS = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}  # matplotlib's path codes in SVG


def formula(tex: str) -> str:
    """A formula as inline SVG in the text's colour, drawn by matplotlib: MathJax is a download."""
    label = html.escape(tex.strip(), quote=True)
    try:
        path = TextPath((0, 0), f"${tex.strip()}$", 16, FontProperties(math_fontfamily="cm"))
    except ValueError:  # beyond matplotlib's TeX: an environment, for instance
        return f"<code>{label}</code>"
    line = " ".join(
        LETTERS[code] + ("" if code == 79 else " ".join(f"{p:.2f}" for p in points))
        for points, code in path.iter_segments(simplify=False)
    )
    box = path.get_extents()
    return (
        f'<svg role="img" aria-label="{label}" width="{box.width + 2:.1f}" '
        f'height="{box.height + 2:.1f}" style="vertical-align: {box.y0 - 1:.1f}px">'
        f'<path fill="currentColor" transform="translate({1 - box.x0:.2f} {box.y1 + 1:.2f}) '
        f'scale(1 -1)" d="{line}"/></svg>'
    )


class Renderer(IPythonRenderer):
    """nbconvert's HTML, with `formula` for what stands between dollars."""

    def inline_math(self, body: str) -> str:
        return formula(body)

    def block_math(self, body: str) -> str:
        return f'<p style="text-align: center">{formula(body)}</p>'


def figures(notebook: NotebookNode) -> list[NotebookNode]:
    """The outputs that hold a plotly figure, or should, in reading order."""
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", []) if "data" in o]
    return [
        o for o in outputs if PLOTLY in o.data or o.data.get("text/plain", "").startswith("Figure(")
    ]


def export(notebook: NotebookNode, interactive: bool, target: Path) -> None:
    """Write an HTML page that stands alone; the same notebook gives the same bytes."""
    notebook = copy.deepcopy(notebook)
    for number, output in enumerate(figures(notebook), 1):
        if interactive:
            page = pio.to_html(
                output.data[PLOTLY], config=output.data[PLOTLY].get("config"), full_html=False,
                include_plotlyjs=number == 1, div_id=f"figure-{number}", validate=False,
                auto_play=False,
            )  # fmt: skip
        else:  # by hand, because nbconvert drops the alt text
            alt = html.escape(output.metadata.get("image/png", {}).get("alt", ""), quote=True)
            png = output.data.get("image/png", "").replace("\n", "")
            page = f'<img class="figure" alt="{alt}" src="data:image/png;base64,{png}">'
        output.data = NotebookNode({"text/html": page})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":  # pictures from elsewhere (the badge): their text alone
            cell.source = re.sub(r"!\[([^\]]*)\]\(https?:[^)]*\)", r"\1", cell.source)
    exporter = HTMLExporter(raw_template=TEMPLATE)
    exporter.register_filter(
        "markdown2html", lambda text: MarkdownWithMath(Renderer(escape=False)).render(text)
    )
    text, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": target.stem}})
    target.write_text(text, encoding="utf-8")
