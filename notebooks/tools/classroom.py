"""Student versions of the notebooks with exercises, and the grading of what comes back.

`student` writes notebooks/student/*.ipynb: as in notebooks/, but with stubs and not executed.
`grade FOLDER` grades what students handed in and writes points and feedback. nbgrader does the
work, in build/classroom/. Grading runs the students' code with your rights: use an account or a
container that holds nothing of value.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from nbgrader.nbgraderformat import MetadataValidator
from nbgrader.nbgraderformat.common import SchemaMismatchError, ValidationError
from rich.console import Console
from rich.table import Table
from traitlets.config import Config

from build import NOTEBOOKS, ROOT, SOURCES, assemble

STUDENT = NOTEBOOKS / "student"
COURSE = ROOT / "build" / "classroom"  # nbgrader's folders and gradebook; every call makes it anew

STUB = '# Replace the next line by your code.\nraise NotImplementedError("your code here")'
NOTE = (
    "**To do:** fill in the cells that say *your code here*. Please do not copy, split, merge or "
    "delete graded cells: the grader finds them by marks that you do not see."
)


class Fault(Exception):
    """Something that cannot be used; the text is the sentence for the teacher."""


def exercises(notebook: NotebookNode, name: str) -> dict[str, float]:
    """Exercise -> points, in the notebook's order; empty if it has none.

    Raises Fault if nbgrader would refuse the metadata, or silently make something bad of them.
    """
    solutions, points = [], {}
    for cell in notebook.cells:
        where = f"{name}, cell {cell.source[:40]!r}"
        try:
            MetadataValidator().validate_cell(cell)
        except (SchemaMismatchError, ValidationError) as error:
            raise Fault(f"{where}: {getattr(error, 'message', error)}") from None
        meta = cell.metadata.get("nbgrader", {})
        markers = re.findall(r"(BEGIN|END) SOLUTION", cell.source)
        if meta.get("solution"):
            solutions.append(meta["grade_id"])
            # without markers nbgrader would blank the signature and the docstring as well
            if markers != ["BEGIN", "END"] * max(1, len(markers) // 2):
                raise Fault(f"{where}: needs ### BEGIN SOLUTION and then ### END SOLUTION")
        elif markers:
            raise Fault(f'{where}: holds a solution, but its metadata lack "solution": true')
        if meta.get("grade"):
            if [meta["grade_id"]] != [f"test_{x}" for x in solutions[-1:]]:
                raise Fault(f"{where}: {meta['grade_id']} does not follow the exercise it tests")
            points[solutions[-1]] = meta["points"]
    if list(points) != solutions:
        raise Fault(f"{name}: each solution x needs a name of its own and a graded cell test_x")
    return points


def course(names: tuple[str, ...] = ()) -> dict[str, tuple[NotebookNode, dict[str, float]]]:
    """Name -> the assembled notebook and its exercises, for each source with exercises."""
    found = {}
    for source in sorted(SOURCES.glob("*.py")):
        if source.stem.startswith(names or ""):
            notebook = assemble(source, f"notebooks/student/{source.stem}.ipynb")
            notebook.cells[0].source += f"\n\n{NOTE}"
            if points := exercises(notebook, source.name):
                found[source.stem] = notebook, points
    if not found:
        raise Fault(f"no notebook in {SOURCES} has such a name and exercises")
    return found


def nbgrader(step: type, notebook: str, student: str = ".") -> None:
    """One step of nbgrader for one notebook, its own assignment. Raises Fault if it fails."""
    config = Config()  # no nbgrader_config.py is read
    config.CourseDirectory.root = str(COURSE)
    config.ClearSolutions.code_stub = {"python": STUB}
    config.OverwriteCells.add_missing_cells = True  # deleted graded cells come back
    config.ExecutePreprocessor.timeout = 120
    config.ExecutePreprocessor.extra_arguments = ["--log-level=ERROR"]  # kernels are talkative
    config.IgnorePattern.enabled = True
    config.IgnorePattern.pattern = "^"  # any stderr would cost a right solution all its points
    directory = CourseDirectory(config=config, assignment_id=notebook, student_id=student)
    try:
        step(coursedir=directory, config=config, force=True).start()
    except Exception:  # of many kinds: a dead kernel, metadata that were edited, ...
        raise Fault(f"nbgrader's {step.__name__} failed; nbgrader.log says why") from None


def log_to(path: Path) -> None:
    """From now on nbgrader's messages and all warnings go to a file, not to the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=path, filemode="w", level=logging.INFO, force=True)
    logging.captureWarnings(True)


def release(found: dict[str, tuple[NotebookNode, dict[str, float]]]) -> None:
    """A new gradebook, and nbgrader's source/ and release/ of each notebook."""
    shutil.rmtree(COURSE, ignore_errors=True)
    for name, (notebook, _) in found.items():
        source = COURSE / "source" / name / f"{name}.ipynb"
        source.parent.mkdir(parents=True)
        nbformat.write(notebook, source)
        nbgrader(GenerateAssignment, name)


def make_student_versions(names: tuple[str, ...], console: Console) -> int:
    """Write the student versions. The same source gives the same bytes."""
    found = course(names)
    log_to(COURSE.parent / "nbgrader.log")
    release(found)
    STUDENT.mkdir(parents=True, exist_ok=True)
    for name, (_, points) in found.items():
        shutil.copyfile(COURSE / "release" / name / f"{name}.ipynb", STUDENT / f"{name}.ipynb")
        console.print(f"notebooks/student/{name}.ipynb: {len(points)} exercises")
    return 0


def handed_in(folder: Path, known: list[str]) -> Iterator[tuple[str, str, Path]]:
    """(student, notebook, file) of every submission: student/notebook.ipynb, or, side by side,
    student_notebook.ipynb. A notebook that is not `known` is handed on as it is called."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__")):  # .ipynb_checkpoints, __MACOSX
            continue
        if path.is_dir():
            yield from ((path.name, file.stem, file) for file in sorted(path.glob("[!.]*.ipynb")))
        elif path.suffix == ".ipynb":
            named = re.fullmatch(f"(.+?)[_-]({'|'.join(map(re.escape, known))})", path.stem)
            yield (named[1], named[2], path) if named else (path.stem, "?", path)


def inspect(file: Path, wanted: dict[str, float]) -> None:
    """Raises Fault if a submission is not a notebook or nbgrader would not find its exercises."""
    if not wanted:
        raise Fault(f"{file.name} is not the name of a notebook with exercises")
    try:
        cells = nbformat.read(file, as_version=4).cells
        marks = Counter(c.metadata.get("nbgrader", {}).get("grade_id", "") for c in cells)
    except Exception as error:  # anything may have been handed in
        raise Fault(f"this is not a readable notebook ({type(error).__name__})") from None
    if lost := [name for name in wanted if not marks[name]]:
        raise Fault(f"the cell of {' and of '.join(lost)} is gone or has lost its metadata")
    if copied := [mark for mark, times in marks.items() if mark and times > 1]:
        raise Fault(f"the cell of {' and of '.join(copied)} was copied or split; keep one")


def grade_one(student: str, name: str, wanted: dict[str, float], out: Path) -> dict[str, float]:
    """The points for each exercise of a notebook in submitted/; its feedback is written."""
    nbgrader(Autograde, name, student)
    nbgrader(GenerateFeedback, name, student)
    (out / "feedback" / student).mkdir(parents=True, exist_ok=True)
    feedback = COURSE / "feedback" / student / name / f"{name}.html"
    shutil.copyfile(feedback, out / "feedback" / student / f"{name}.html")
    with Gradebook(f"sqlite:///{COURSE / 'gradebook.db'}") as book:
        return {x: book.find_grade(f"test_{x}", name, name, student).auto_score for x in wanted}


def grade(folder: str, out: Path, console: Console) -> int:
    """Grade every submission; 1 if some could not be graded (they get 0 points), else 0."""
    if not folder or not Path(folder).is_dir():
        raise Fault(f"{folder!r} is not a folder with submissions")
    found = course()
    submissions = list(handed_in(Path(folder), list(found)))
    if not submissions:
        raise Fault(f"{folder} holds no notebooks; it needs one folder per student")
    for (student, name), times in Counter(entry[:2] for entry in submissions).items():
        if times > 1:
            raise Fault(f"{student} handed in {name} {times} times; keep the one that counts")
        if re.search(r"[*?\[\]]", student):
            raise Fault(f"nbgrader cannot read names with * ? [ or ]; rename {student}")
    os.environ["OMP_NUM_THREADS"] = "1"
    log_to(out / "nbgrader.log")
    each, totals, failures = [], [], 0
    with console.status("making a new gradebook") as status:
        release(found)
        for number, (student, name, file) in enumerate(submissions, 1):
            line = f"{number}/{len(submissions)} {student}, {name}:"
            status.update(line)
            (out / "feedback" / student / f"{name}.html").unlink(missing_ok=True)  # an old one
            wanted = found[name][1] if name in found else {}
            try:
                inspect(file, wanted)
                (COURSE / "submitted" / student / name).mkdir(parents=True)
                shutil.copyfile(file, COURSE / "submitted" / student / name / f"{name}.ipynb")
                points = grade_one(student, name, wanted, out)
                console.print(line, f"{sum(points.values()):g} of {sum(wanted.values()):g} points")
            except Fault as fault:
                failures += 1
                points = dict.fromkeys(wanted, 0.0)
                console.print(line, str(fault), style="red", soft_wrap=True)
            each += [(student, name, x, points[x], wanted[x]) for x in wanted]
            totals.append((student, name, sum(points.values()), sum(wanted.values())))
    columns = ["student", "notebook", "exercise", "points", "max_points"]
    pd.DataFrame(each, columns=columns).to_csv(out / "grades.csv", index=False, float_format="%g")
    columns.remove("exercise")  # their sums
    pd.DataFrame(totals, columns=columns).to_csv(out / "totals.csv", index=False, float_format="%g")
    table = Table(*columns)
    for student, name, got, most in totals:
        table.add_row(student, name, f"{got:g}", f"{most:g}")
    console.print(table)
    console.print(f"{out}: grades.csv, totals.csv, feedback/, nbgrader.log", soft_wrap=True)
    return 1 if failures else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("student", help="write notebooks/student/*.ipynb")
    one.add_argument("names", nargs="*", help="notebooks, by the beginning of their names; all")
    one = commands.add_parser("grade", help="grade submissions; this runs the students' code")
    one.add_argument("submissions", help="a folder of student/notebook.ipynb files")
    one.add_argument("--out", type=Path, default=ROOT / "build" / "grades", help="%(default)s")
    options = parser.parse_args(arguments)
    console = Console(markup=False, highlight=False)
    # nbgrader calls alembic as a command; it lies beside a Python that need not be activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    try:
        if options.command == "student":
            return make_student_versions(tuple(options.names), console)
        return grade(options.submissions, options.out.resolve(), console)
    except Fault as fault:
        print(fault, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
