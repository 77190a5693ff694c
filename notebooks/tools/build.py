"""Build notebooks/*.ipynb from notebooks/src/*.py: convert, add what is generated, execute.

Generated are the badge and the install cell, from the one public address in pyproject.toml. A
notebook is built again only when its source, the package, the shipped data or the constraints
have changed, so a second call changes nothing. `--force` builds all, `--check` only tells;
names (or their beginnings, `01`) choose some.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

NOTEBOOKS = Path(__file__).resolve().parent.parent
ROOT = NOTEBOOKS.parent
SOURCES = NOTEBOOKS / "src"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"

INSTALL = """\
# Installs this release where amft-lite is missing (Colab); in a clone it does nothing.
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

clone = [p for p in Path.cwd().parents if (p / "amft_lite" / "loop.py").is_file()]
sys.path[:0] = map(str, clone[:1])
if find_spec("amft_lite") is None:  # what is there of torch and numpy stays as it is
    kept = " ".join(f"{p}=={version(p)}" for p in ("torch", "numpy") if find_spec(p))
    release = "git+{address}@{release}"
    %pip install -q $kept "amft-lite @ $release"\
"""


def publication() -> tuple[str, str]:
    """(public address, release tag), from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].rstrip("/"), f"v{project['version']}"


def badge(path: str) -> str:
    """A notebook's "Open in Colab" badge; `path` is the notebook's, from the repository's root."""
    address, release = publication()
    where = address.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{where}/blob/{release}/{path}"
    return f"[![Open in Colab]({BADGE})]({link})"


def locked(name: str) -> dict:
    """nbgrader's metadata of a cell that students should not change."""
    return {
        "nbgrader": {
            "schema_version": 3, "grade_id": name, "grade": False, "locked": True,
            "solution": False,
        }
    }  # fmt: skip


def assemble(source: Path, path: str = "") -> NotebookNode:
    """The notebook of a source, not executed: badge, title, install cell, and the rest.

    `path` is where it will be, from the repository's root: notebooks/ if nothing is said.
    """
    notebook = jupytext.read(source)
    address, release = publication()
    install = INSTALL.replace("{address}", address).replace("{release}", release)
    if extra := notebook.metadata.get("amft_lite", {}).get("extra"):  # said in the source's header
        install = install.replace("amft-lite @", f"amft-lite[{extra}] @")
    title, *rest = notebook.cells
    notebook.cells = [
        new_markdown_cell(
            badge(path or f"notebooks/{source.stem}.ipynb"), metadata=locked("badge")
        ),
        title,
        new_code_cell(install, metadata=locked("install")),
        *rest,
    ]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    notebook.metadata.pop("jupytext", None)
    kept = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    notebook.metadata.language_info = kept  # without the builder's Python version
    notebook.metadata["execution"] = {"timeout": 300}
    notebook.metadata["colab"] = {"provenance": [], "toc_visible": True}
    return notebook


def describe_pictures(notebook: NotebookNode) -> None:
    """Give every figure's PNG its alt text: the figure's own, or its title and axes."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            figure = data.get("application/vnd.plotly.v1+json")
            if figure and "image/png" in data:
                layout = figure["layout"]
                told = (layout.get("meta") or {}).get("alt")
                axes = [layout.get(a, {}).get("title", {}).get("text") for a in ("yaxis", "xaxis")]
                plain = f"{layout['title']['text']}: {axes[0]} against {axes[1]}"
                output.metadata["image/png"] = {"alt": told or plain}


def digest(source: Path) -> str:
    """Of everything that decides what the executed notebook looks like."""
    parts = [source, ROOT / "constraints.txt", Path(__file__)]
    for kind in ("*.py", "*.yaml"):  # notebooks read recipes and study grids, too
        parts += sorted((ROOT / "amft_lite").rglob(kind))
    data = sorted((ROOT / "data").rglob("*"))
    parts += [p for p in data if "pictures" not in p.relative_to(ROOT).parts and p.suffix != ".md"]
    parts = [p for p in parts if p.is_file()]
    total = hashlib.sha256(repr(publication()).encode())
    for path in parts:
        total.update(path.name.encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def built_from(target: Path) -> str | None:
    """The digest an existing notebook was built from."""
    if not target.is_file():
        return None
    return nbformat.read(target, as_version=4).metadata.get("amft_lite", {}).get("built_from")


def build(source: Path, target: Path) -> None:
    """Assemble and execute one source; a cell that fails stops the build."""
    notebook = assemble(source)
    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell ran
    notebook.metadata.language_info = {
        key: notebook.metadata.language_info[key] for key in ("name", "file_extension", "mimetype")
    }
    describe_pictures(notebook)
    notebook.metadata["amft_lite"] = {"built_from": digest(source)}
    beside = target.with_name(target.name + ".partial")
    nbformat.write(notebook, beside)
    os.replace(beside, target)  # so that a build that is killed leaves no half notebook


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="notebooks, by the beginning of their names; all")
    parser.add_argument("--force", action="store_true", help="build even what is up to date")
    parser.add_argument("--check", action="store_true", help="exit 1 if one is out of date")
    options = parser.parse_args()
    stale = 0
    sources = sorted(SOURCES.glob("*.py"))
    chosen = [s for s in sources if s.stem.startswith(tuple(options.names) or "")]
    if not chosen:
        parser.error(f"no notebook begins so; there are {', '.join(s.stem for s in sources)}")
    for source in chosen:
        target = NOTEBOOKS / f"{source.stem}.ipynb"
        if not options.force and built_from(target) == digest(source):
            print(f"{target.name}: up to date")
        elif options.check:
            stale += 1
            print(f"{target.name}: out of date; run make notebooks")
        else:
            print(f"{target.name}: building", flush=True)
            build(source, target)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
