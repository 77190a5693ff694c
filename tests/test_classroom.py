"""Student versions and grading, on a small source of its own."""

import copy
import csv
import json

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_output
from nbgrader.utils import determine_grade
from nbgrader.validator import Validator
from tools import ROOT, tool

pytestmark = pytest.mark.filterwarnings("ignore")  # nbgrader's and its libraries'
PLAIN = {"schema_version": 3, "grade": False, "locked": False, "solution": False}
KERNEL = "# ---\n# jupyter:\n#   kernelspec:\n#     name: python3\n#     language: python\n"
KERNEL += "#     display_name: Python 3\n# ---\n"
DOUBLE = "def double(x):\n    return 2 * x"
HALF = "def half(x):\n    return x / 2"


def head(**metadata):
    return f"# %% nbgrader={json.dumps(PLAIN | metadata)}\n"


SOURCE = f'''{KERNEL}
# %% [markdown]
# # Two exercises

# %%
start = 2

{head(grade_id="double", solution=True)}def double(x):
    """Twice x."""
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION

{head(grade_id="test_double", grade=True, locked=True, points=2)}assert double(start) == 4
### BEGIN HIDDEN TESTS
assert double(-1) == -2
### END HIDDEN TESTS

{head(grade_id="half", solution=True)}def half(x):
    """Half of x."""
    ### BEGIN SOLUTION
    return x / 2
    ### END SOLUTION

{head(grade_id="test_half", grade=True, locked=True, points=1)}assert half(start) == 1
"""what a graded cell shows is no score"""
'''


@pytest.fixture(scope="module")
def classroom(tmp_path_factory):
    """The script, with folders of its own and SOURCE as its only notebook."""
    root = tmp_path_factory.mktemp("classroom")
    (root / "src").mkdir()
    (root / "src" / "07_tiny.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        module = tool("classroom")
        patch.setenv("PATH", "/usr/bin:/bin")  # make calls .venv/bin/python without activating
        patch.setattr(module, "log_to", lambda path: None)  # logging stays pytest's
        patch.setattr(module, "SOURCES", root / "src")
        patch.setattr(module, "STUDENT", root / "student")
        patch.setattr(module, "COURSE", root / "build")
        yield module


@pytest.fixture(scope="module")
def released(classroom):
    """The student version."""
    assert classroom.main(["student"]) == 0
    return classroom.STUDENT / "07_tiny.ipynb"


def marked(notebook):
    return {
        c.metadata["nbgrader"]["grade_id"]: c for c in notebook.cells if "nbgrader" in c.metadata
    }


def test_a_student_version_has_stubs_and_no_solutions_and_is_made_the_same_again(
    classroom, released
):
    first = released.read_bytes()
    assert classroom.main(["student", "07"]) == 0
    assert released.read_bytes() == first
    text = first.decode()
    for secret in ("SOLUTION", "HIDDEN", "2 * x", "double(-1)"):
        assert secret not in text
    cells = marked(nbformat.read(released, as_version=4))
    assert list(cells) == ["badge", "install", "double", "test_double", "half", "test_half"]
    assert "notebooks/student/07_tiny.ipynb" in cells["badge"].source
    assert classroom.NOTE in cells["badge"].source
    assert cells["double"].source == (
        'def double(x):\n    """Twice x."""\n    # Replace the next line by your code.\n'
        '    raise NotImplementedError("your code here")'
    )


def test_solutions_pass_stubs_fail_and_raise_nothing_but_that(classroom, released):
    full = classroom.COURSE / "source" / "07_tiny" / "07_tiny.ipynb"
    assert Validator().validate(str(full)) == {}
    assert Validator(invert=True).validate(str(released)) == {}
    notebook = nbformat.read(released, as_version=4)
    NotebookClient(notebook, timeout=60, allow_error_names=["NotImplementedError"]).execute()


def test_grading_counts_only_what_students_wrote(classroom, released, tmp_path, capsys):
    folder, out = tmp_path / "submissions", tmp_path / "grades"
    folder.mkdir()
    empty = nbformat.read(released, as_version=4)

    def hand_in(where, leave_out=(), copied=(), **sources):
        notebook = copy.deepcopy(empty)
        for name, cell in marked(notebook).items():
            cell.source = sources.get(name, cell.source)
            if name in leave_out:
                notebook.cells.remove(cell)
            if name in copied:
                notebook.cells.append(copy.deepcopy(cell))
                notebook.cells[-1].id = "again"
        (folder / where).parent.mkdir(exist_ok=True)
        nbformat.write(notebook, folder / where)

    hand_in("perfect/07_tiny.ipynb", double=DOUBLE, half=HALF)
    hand_in("mary-ann_07_tiny.ipynb")
    hand_in("wrong/07_tiny.ipynb", double=DOUBLE, half=HALF.replace("/ 2", "/ 3"))
    hand_in("tampers/07_tiny.ipynb", half=HALF, test_double="pass", test_half="assert False")
    hand_in("deletes/07_tiny.ipynb", leave_out=["test_double", "test_half"], half=HALF)
    loud = "import sys\n" + DOUBLE.replace(
        "    return", "    print(1, file=sys.stderr)\n    return"
    )
    hand_in("loud/07_tiny.ipynb", double=loud)
    hand_in("loses/07_tiny.ipynb", leave_out=["half"], double=DOUBLE)
    hand_in("copies/07_tiny.ipynb", copied=["half"], double=DOUBLE, half=HALF)
    hand_in("perfect/other.ipynb")
    hand_in("broken/07_tiny.ipynb")
    (folder / "broken" / "07_tiny.ipynb").write_text("{")
    assert classroom.main(["grade", str(folder), "--out", str(out)]) == 1

    said = capsys.readouterr().out
    assert "wrong, 07_tiny: 2 of 3 points" in said
    assert "broken, 07_tiny: this is not a readable notebook (NotJSONError)" in said
    assert "loses, 07_tiny: the cell of half is gone or has lost its metadata" in said
    assert "copies, 07_tiny: the cell of half was copied or split; keep one" in said
    assert "perfect, other: other.ipynb is not the name of a notebook with exercises" in said

    wanted = {
        "perfect": ("2", "1"),
        "mary-ann": ("0", "0"),
        "wrong": ("2", "0"),
        "tampers": ("0", "1"),  # graded cells are restored, for better and for worse
        "deletes": ("0", "1"),
        "loud": ("2", "0"),
        "loses": ("0", "0"),
        "copies": ("0", "0"),
        "broken": ("0", "0"),
    }
    each = list(csv.DictReader((out / "grades.csv").open()))
    assert {(r["exercise"], r["max_points"]) for r in each} == {("double", "2"), ("half", "1")}
    for who, points in wanted.items():
        assert tuple(r["points"] for r in each if r["student"] == who) == points, who
        feedback = out / "feedback" / who / "07_tiny.html"
        assert feedback.exists() == (who not in ("loses", "copies", "broken"))
    totals = list(csv.DictReader((out / "totals.csv").open()))
    assert {(r["notebook"], r["max_points"]) for r in totals} == {("07_tiny", "3"), ("other", "0")}
    sums = {r["student"]: r["points"] for r in totals if r["notebook"] == "07_tiny"}
    assert sums == {who: str(int(a) + int(b)) for who, (a, b) in wanted.items()}


def test_nbgrader_gives_nothing_for_a_cell_with_stderr_unless_told_to_ignore_it():
    """Why classroom.py sets IgnorePattern (and `loud` above gets its points)."""
    cell = new_code_cell(metadata={"nbgrader": {**PLAIN, "grade": True, "points": 2}})
    assert determine_grade(cell) == (2, 2)
    cell.outputs = [new_output("stream", name="stderr", text="UserWarning: hm")]
    assert determine_grade(cell) == (0, 2)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (head(grade_id="half", solution=True), "# %%\n", "lack"),
        (head(grade_id="test_half", grade=True, locked=True, points=1), "# %%\n", "each solution"),
        ('"grade_id": "test_half"', '"grade_id": "half_test"', "does not follow"),
        ('"grade_id": "half"', '"grade_id": "double"', "does not follow"),
        ('"schema_version": 3', '"schema_version": 2', "Outdated schema version: 2"),
        (', "points": 1', "", "does not have points"),
        ("### BEGIN SOLUTION", "###", "needs ### BEGIN SOLUTION"),
    ],
)
def test_bad_metadata_stop_with_a_sentence(
    classroom, monkeypatch, tmp_path, capsys, old, new, sentence
):
    assert old in SOURCE
    (tmp_path / "07_tiny.py").write_text(SOURCE.replace(old, new))
    monkeypatch.setattr(classroom, "SOURCES", tmp_path)
    assert classroom.main(["student"]) == 2
    said = capsys.readouterr().err
    assert sentence in said and "07_tiny.py" in said and said.count("\n") == 1


def test_a_bad_folder_stops_with_a_sentence(classroom, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    twice = tmp_path / "twice"
    (twice / "eve").mkdir(parents=True)
    for name in ("eve/07_tiny.ipynb", "eve_07_tiny.ipynb"):
        (twice / name).touch()
    for folder in ("", str(tmp_path / "none"), str(tmp_path / "a"), str(twice)):
        assert classroom.main(["grade", folder]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_student_versions_in_the_repository_are_fresh(classroom, monkeypatch, tmp_path):
    monkeypatch.setattr(classroom, "SOURCES", ROOT / "notebooks" / "src")
    monkeypatch.setattr(classroom, "STUDENT", tmp_path / "student")
    monkeypatch.setattr(classroom, "COURSE", tmp_path / "build")
    classroom.main(["student"])
    made, kept = (
        {p.name: p.read_bytes() for p in folder.glob("*.ipynb")}
        for folder in (tmp_path / "student", ROOT / "notebooks" / "student")
    )
    assert made.keys() == kept.keys()
    stale = [name for name in made if made[name] != kept[name]]
    assert not stale, "run make student"
