"""Build notebooks/*.ipynb from notebooks/src/*.py: convert, execute, drop what changes by itself.

A notebook is built again only when its source, the package, the shipped data or the constraints
have changed, so a second call changes nothing. `--force` builds all, `--check` only tells.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def digest(source: Path) -> str:
    """Of everything that decides what the executed notebook looks like."""
    parts = [source, ROOT / "constraints.txt", *sorted((ROOT / "amft_lite").rglob("*.py"))]
    parts += [p for p in sorted((ROOT / "data").rglob("*")) if p.is_file()]
    total = hashlib.sha256()
    for path in parts:
        total.update(path.relative_to(ROOT).as_posix().encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def built_from(target: Path) -> str | None:
    """The digest an existing notebook was built from."""
    if not target.is_file():
        return None
    return nbformat.read(target, as_version=4).metadata.get("amft_lite", {}).get("built_from")


def build(source: Path, target: Path) -> None:
    """Convert and execute one source; a cell that fails stops the build."""
    notebook = jupytext.read(source)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(HERE)}}).execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata.pop("execution", None)  # when each cell ran
    kept = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    notebook.metadata.language_info = kept  # without the builder's Python version
    notebook.metadata.pop("jupytext", None)
    notebook.metadata["amft_lite"] = {"built_from": digest(source)}
    nbformat.write(notebook, target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--force", action="store_true", help="build all of them")
    parser.add_argument("--check", action="store_true", help="exit 1 if one is out of date")
    options = parser.parse_args()
    stale = 0
    for source in sorted((HERE / "src").glob("*.py")):
        target = HERE / f"{source.stem}.ipynb"
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
