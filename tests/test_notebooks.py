"""The built notebooks: all are there, fresh, executed, and show their figures everywhere.

nbmake runs them (`make test`); here only what they look like is checked, and how they are built.
"""

import subprocess
import sys

import jupytext
import nbformat
import pytest
from tools import ROOT, tool

SOURCES = sorted((ROOT / "notebooks" / "src").glob("*.py"))
BUILT = sorted((ROOT / "notebooks").glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"


def cells(path, kind="code"):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def figures(cell):
    return [o for o in cell.get("outputs", []) if PLOTLY in o.get("data", {})]


def test_every_source_has_its_notebook_and_nothing_else_is_there():
    assert SOURCES and [p.stem for p in BUILT] == [p.stem for p in SOURCES]


@pytest.mark.parametrize("path", BUILT, ids=lambda p: p.stem)
def test_a_built_notebook_has_the_cells_of_its_source_between_the_generated_ones(path):
    source = jupytext.read(ROOT / "notebooks" / "src" / f"{path.stem}.py")
    built = nbformat.read(path, as_version=4)
    badge, title, install, *rest = built.cells
    assert badge.source.startswith("[![Open in Colab]") and "find_spec" in install.source
    assert [c.source for c in (title, *rest)] == [c.source for c in source.cells]


@pytest.mark.parametrize("path", BUILT, ids=lambda p: p.stem)
def test_a_built_notebook_is_fresh(path):
    build = tool("build")
    source = ROOT / "notebooks" / "src" / f"{path.stem}.py"
    assert build.built_from(path) == build.digest(source), "run make notebooks"


@pytest.mark.parametrize("path", BUILT, ids=lambda p: p.stem)
def test_every_code_cell_ran_in_order_without_error_or_stderr(path):
    ran = cells(path)
    assert [c.execution_count for c in ran] == list(range(1, len(ran) + 1))
    for cell in ran:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")


@pytest.mark.parametrize("path", BUILT, ids=lambda p: p.stem)
def test_figures_are_interactive_and_pictures_with_alt_text(path):
    shown = [o for cell in cells(path) for o in figures(cell)]
    assert len(shown) >= 3
    for output in shown:
        assert len(output["data"]["image/png"]) > 5000
        assert "text/html" not in output["data"]  # GitHub would prefer it and strip it
        assert any(len(trace["x"]) for trace in output["data"][PLOTLY]["data"])
        assert len(output["metadata"]["image/png"]["alt"]) > 20
    told = " ".join(c.source for c in cells(path, "markdown"))
    assert told.count("**How to read it.**") >= 3
    assert told.count("**What would prove it wrong.**") >= 3


@pytest.mark.parametrize("path", BUILT, ids=lambda p: p.stem)
def test_a_figure_or_a_check_comes_at_least_every_third_code_cell(path):
    quiet = 0
    for cell in cells(path):
        if ("import" in cell.source and not cell.outputs) or cell.metadata.get("tags"):
            continue  # imports and parameters
        shows = any(o.output_type != "stream" or o.text.strip() for o in cell.outputs)
        quiet = 0 if shows else quiet + 1
        assert quiet <= 2, cell.source[:80]


LESSONS = ("01", "02", "03", "04", "05", "06", "07", "08")


@pytest.mark.parametrize("path", [p for p in BUILT if p.stem[:2] in LESSONS], ids=lambda p: p.stem)
def test_a_lesson_says_its_goals_cost_sources_and_ends_with_a_self_test(path):
    told = [c.source for c in cells(path, "markdown")]
    words = sum(len(text.split()) for text in told)
    assert 1200 < words < 3000
    whole = "\n".join(told)
    for part in ("**You will be able to**", "memory", "second-hand", "## Self-test",
                 "## What was left out", "**Predict"):  # fmt: skip
        assert part in whole, part
    exercises = [text for text in told if "### Exercise" in text]
    assert 4 <= len(exercises) <= 9
    for text in exercises:
        assert any(dots in text for dots in ("●○○", "●●○", "●●●")) and "minutes" in text


def test_the_exercises_of_the_notebooks_are_those_of_the_package():
    from amft_lite.exercises import COURSE

    classroom = tool("classroom")
    found = {name: list(points) for name, (_, points) in classroom.course().items()}
    assert found.keys() == COURSE.keys()
    for name, exercises in COURSE.items():
        assert sorted(found[name]) == sorted(e.name for e in exercises)


def test_a_change_of_source_package_data_or_address_makes_a_notebook_stale(tmp_path, monkeypatch):
    build = tool("build")
    for name in ("amft_lite", "data"):
        (tmp_path / name).mkdir()
    source, code = tmp_path / "a.py", tmp_path / "amft_lite" / "x.py"
    for path in (source, code, tmp_path / "constraints.txt", tmp_path / "data" / "w"):
        path.write_text("1")
    project = '[project]\nversion = "1"\nurls = {Repository = "https://github.com/a/b"}\n'
    (tmp_path / "pyproject.toml").write_text(project)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    seen = {build.digest(source)}
    for path in (source, code, tmp_path / "constraints.txt", tmp_path / "data" / "w"):
        path.write_text("2")
        seen.add(build.digest(source))
    (tmp_path / "pyproject.toml").write_text(project.replace("a/b", "c/b"))
    seen.add(build.digest(source))
    assert len(seen) == 6


def test_recordings_are_whole_and_say_where_they_come_from():
    from amft_lite.study import recording

    record = tool("record")
    for name, jobs in record.JOBS.items():
        kept = recording(name)
        assert len(kept["blocks"]) == len(jobs)
        assert kept["provenance"]["torch"] and len(kept["provenance"]["commit"]) == 1
    runs = recording("runs")["blocks"]
    assert {(b["name"], b["seed"]) for b in runs} == {
        (name, seed) for name in record.METHODS for seed in record.SEEDS
    }
    for block in runs:
        assert block["settings"] == {**record.METHODS[block["name"]], "seed": block["seed"]}


def test_a_recorded_run_can_be_made_again():
    """The first steps of the recorded healthy run, on this machine."""
    from amft_lite.study import recording

    record = tool("record")
    for name, column in (("healthy", "rl_loss"), ("mean of means", "rl_loss")):
        [kept] = [b for b in recording("bugs")["blocks"] if b["name"] == name]
        amft = record.start(kept["settings"], record.BUGS[name])
        lines = [amft.train_step() for _ in range(17)]
        for step, line in enumerate(lines):
            old = kept["metrics"][column][step]
            assert (old is None) == (column not in line)
            if old is not None:
                assert line[column] == pytest.approx(old, abs=0.02)
    assert abs(lines[-1]["rl_loss"]) < 1e-6  # mean of means: the lab's fingerprint


def test_the_fingerprints_of_the_lab_are_there():
    """Exercise 9 can be solved from the plots, and each bug leaves one mark that is its own."""
    from amft_lite.study import recording

    runs = {b["name"]: b["metrics"] for b in recording("bugs")["blocks"]}

    def known(name, column):
        return [v for v in runs[name][column][15:] if v is not None]

    for name in runs:
        flat = max(map(abs, known(name, "rl_loss"))) < 1e-5
        assert flat == (name == "mean of means")
        assert (len(set(known(name, "grad_norm_utility"))) == 1) == (name == "stale gradient")
        agreement = known(name, "cos_utility_rl")
        loud = sum(agreement) / len(agreement) > 0.8
        assert loud == (name == "leaking validation")
        pairs = zip(known(name, "mu_signal"), [
            c for s, c in zip(runs[name]["mu_signal"], runs[name]["mu_meta"], strict=True)
            if s is not None
        ], strict=True)  # fmt: skip
        against = all(s * c <= 0 for s, c in pairs)
        assert against == (name == "reversed meta sign")


def test_the_builder_finds_nothing_to_do_and_knows_a_wrong_name():
    command = [sys.executable, ROOT / "notebooks" / "tools" / "build.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("up to date") == len(SOURCES)
    wrong = subprocess.run([*command, "99"], capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2 and "no notebook begins so" in wrong.stderr
