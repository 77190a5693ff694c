"""The course as a teacher uses it: full versions pass, student versions stop at their stubs only,
and three fixed submissions get the marks they deserve.
"""

import ast
import copy
import csv

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbgrader.validator import Validator
from tools import ROOT, tool

pytestmark = pytest.mark.filterwarnings("ignore")  # nbgrader's and its libraries'
FULL = sorted(p for p in (ROOT / "notebooks").glob("*.ipynb") if p.stem[:2] != "00")
STUDENT = sorted((ROOT / "notebooks" / "student").glob("*.ipynb"))


def one_or_all(paths):
    """nbmake runs every full version, and a graded cell that fails raises; so one shows the rest of
    the machinery in every run, and all do in the long one."""
    return [paths[0], *(pytest.param(p, marks=pytest.mark.slow) for p in paths[1:])]


def graded(notebook):
    return {
        c.metadata.nbgrader.grade_id.removeprefix("test_"): c
        for c in notebook.cells
        if c.metadata.get("nbgrader", {}).get("grade")
    }


def solutions(notebook):
    return {
        c.metadata.nbgrader.grade_id: c
        for c in notebook.cells
        if c.metadata.get("nbgrader", {}).get("solution")
    }


@pytest.mark.parametrize("path", one_or_all(FULL), ids=lambda p: p.stem)
def test_every_graded_cell_of_a_full_version_passes(path):
    assert Validator().validate(str(path)) == {}


@pytest.mark.parametrize("path", STUDENT, ids=lambda p: p.stem)
def test_a_student_version_s_checks_fail_and_nothing_else_needs_an_exercise(path):
    """So its other cells do what they do in the full version, which nbmake runs to the end."""
    notebook = nbformat.read(path, as_version=4)
    checks, stubs, names = graded(notebook), solutions(notebook), {}
    assert checks.keys() == stubs.keys() != set()
    for cell in notebook.cells:
        if cell in stubs.values():
            exec(cell.source, names)
        elif cell in checks.values():
            with pytest.raises(NotImplementedError):
                exec(cell.source, names)
        elif cell.cell_type == "code":
            tree = ast.parse(TransformerManager().transform_cell(cell.source))
            used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            assert not used & stubs.keys(), cell.source


@pytest.mark.parametrize("path", one_or_all(STUDENT), ids=lambda p: p.stem)
def test_a_student_version_loads_to_the_end_and_passes_no_check(path):
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(
        notebook, timeout=300, allow_error_names=["NotImplementedError"], resources=place
    ).execute()
    checks = graded(notebook)
    assert checks
    for name, cell in checks.items():
        errors = [o.ename for o in cell.outputs if o.output_type == "error"]
        assert errors == ["NotImplementedError"], name
    others = [c for c in notebook.cells if c.cell_type == "code" and c not in checks.values()]
    assert not [c.source[:60] for c in others for o in c.outputs if o.output_type == "error"]


@pytest.mark.parametrize("path", one_or_all(FULL), ids=lambda p: p.stem)
def test_three_fixed_submissions_get_their_marks(path, tmp_path, monkeypatch):
    classroom = tool("classroom")
    monkeypatch.setattr(classroom, "COURSE", tmp_path / "build")
    monkeypatch.setattr(classroom, "log_to", lambda path: None)  # logging stays pytest's
    name, full = path.stem, nbformat.read(path, as_version=4)
    empty = nbformat.read(ROOT / "notebooks" / "student" / path.name, as_version=4)
    answers = solutions(full)
    wrong_one = list(answers)[1]
    for who in ("perfect", "empty", "wrong"):
        notebook = copy.deepcopy(empty)
        for exercise, cell in solutions(notebook).items():
            if who != "empty":
                cell.source = answers[exercise].source
            if who == "wrong" and exercise == wrong_one:
                cell.source = f"def {exercise}(*given):\n    return 0 * given[0]"
        (tmp_path / "in" / who).mkdir(parents=True)
        nbformat.write(notebook, tmp_path / "in" / who / path.name)
    assert classroom.main(["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0

    rows = list(csv.DictReader((tmp_path / "out" / "grades.csv").open()))
    assert len(rows) == 3 * len(answers) and {r["notebook"] for r in rows} == {name}
    for row in rows:
        lost = row["student"] == "empty" or (
            row["student"] == "wrong" and row["exercise"] == wrong_one
        )
        assert row["points"] == ("0" if lost else row["max_points"]), row
    feedback = (tmp_path / "out" / "feedback" / "wrong" / f"{name}.html").read_text()
    assert f"✗ {wrong_one}:" in feedback

    graded_cells = graded(nbformat.read(
        tmp_path / "build" / "autograded" / "perfect" / name / path.name, as_version=4
    ))  # fmt: skip
    for cell in graded_cells.values():  # nbgrader scores 0 on stderr; and they are quick
        assert not [o for o in cell.outputs if o.get("name") == "stderr"]
        times = cell.metadata.get("execution", {})
        if {"iopub.execute_input", "shell.execute_reply"} <= times.keys():
            import datetime as dt

            began, ended = (
                dt.datetime.fromisoformat(times[k].replace("Z", "+00:00"))
                for k in ("iopub.execute_input", "shell.execute_reply")
            )
            assert (ended - began).total_seconds() < 10
