"""The built notebooks: all are there, fresh, executed, and show their figures everywhere.

nbmake runs them (`make test`); here only what they look like is checked.
"""

import importlib.util
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks" / "src").glob("*.py"))
BUILT = sorted((ROOT / "notebooks").glob("*.ipynb"))


def builder():
    spec = importlib.util.spec_from_file_location("build", ROOT / "notebooks" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(path, kind="code"):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def test_every_source_has_its_notebook_and_nothing_else_is_there():
    assert SOURCES and [p.stem for p in BUILT] == [p.stem for p in SOURCES]


@pytest.mark.parametrize("path", BUILT, ids=lambda p: p.stem)
def test_a_built_notebook_has_the_cells_of_its_source(path):
    import jupytext

    source = jupytext.read(ROOT / "notebooks" / "src" / f"{path.stem}.py")
    built = nbformat.read(path, as_version=4)
    assert [c.source for c in built.cells] == [c.source for c in source.cells]
    assert built.metadata["amft_lite"]["built_from"]


@pytest.mark.parametrize("path", BUILT, ids=lambda p: p.stem)
def test_every_code_cell_ran_in_order_without_error_or_stderr(path):
    ran = cells(path)
    assert [c.execution_count for c in ran] == list(range(1, len(ran) + 1))
    for cell in ran:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")


@pytest.mark.parametrize("path", BUILT, ids=lambda p: p.stem)
def test_figures_are_interactive_and_pictures(path):
    figures = 0
    for cell in cells(path):
        for output in cell.outputs:
            data = output.get("data", {})
            if "application/vnd.plotly.v1+json" in data:
                figures += 1
                assert len(data["image/png"]) > 5000
                assert "text/html" not in data  # GitHub would prefer it and strip it
                assert any(len(trace["x"]) for trace in
                           data["application/vnd.plotly.v1+json"]["data"])  # fmt: skip
    assert figures >= 3
    words = sum(len(c.source.split()) for c in cells(path, "markdown"))
    assert words > 300


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_sources_are_narrow_short_celled_and_have_parameters(path):
    text = path.read_text()
    assert max(map(len, text.splitlines())) <= 100
    assert 'tags=["parameters"]' in text and "FigureWidget" not in text
    built = ROOT / "notebooks" / f"{path.stem}.ipynb"
    assert max(len(c.source.splitlines()) for c in cells(built)) <= 40


def test_a_change_of_source_or_package_makes_a_notebook_stale(tmp_path, monkeypatch):
    module = builder()
    for name in ("amft_lite", "data", "notebooks"):
        (tmp_path / name).mkdir()
    source, code = tmp_path / "notebooks" / "a.py", tmp_path / "amft_lite" / "x.py"
    for path in (source, code, tmp_path / "constraints.txt", tmp_path / "data" / "w"):
        path.write_text("1")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    seen = {module.digest(source)}
    for path in (source, code, tmp_path / "constraints.txt", tmp_path / "data" / "w"):
        path.write_text("2")
        seen.add(module.digest(source))
    assert len(seen) == 5
