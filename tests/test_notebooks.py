"""The built notebooks: all are there, fresh, executed, and show their figures everywhere.

nbmake runs them (`make test`); here only what they look like is checked, and how they are built.
"""

import json
import subprocess
import sys
from types import SimpleNamespace

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


@pytest.mark.parametrize("folder", ["clone", "pictures/clone"])  # wherever the clone is
def test_a_change_of_source_package_recipe_data_or_address_makes_a_notebook_stale(
    folder, tmp_path, monkeypatch
):
    build, root = tool("build"), tmp_path / folder
    source, picture = root / "a.py", root / "data" / "pictures" / "p.png"
    deciding = [source, root / "constraints.txt", root / "data" / "w"]
    deciding += [root / "amft_lite" / name for name in ("x.py", "configs/studies/grid.yaml")]
    for path in (*deciding, picture):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    project = '[project]\nversion = "1"\nurls = {Repository = "https://github.com/a/b"}\n'
    (root / "pyproject.toml").write_text(project)
    monkeypatch.setattr(build, "ROOT", root)
    seen = [build.digest(source)]
    picture.write_text("2")
    assert build.digest(source) == seen[0]  # made from the notebooks, not the other way round
    for path in deciding:
        path.write_text("2")
        seen.append(build.digest(source))
    (root / "pyproject.toml").write_text(project.replace("a/b", "c/b"))
    seen.append(build.digest(source))
    assert len(set(seen)) == len(seen) == 7


def test_a_build_that_is_killed_while_writing_leaves_the_old_notebook(tmp_path, monkeypatch):
    build, target = tool("build"), tmp_path / "00_quickstart.ipynb"

    class Client:  # runs nothing
        def __init__(self, notebook, **options):
            self.notebook = notebook

        def execute(self):
            kept = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
            self.notebook.metadata.language_info = kept

    def half(notebook, path):
        path.write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "NotebookClient", Client)
    build.build(SOURCES[0], target)
    whole = target.read_bytes()
    assert build.built_from(target) == build.digest(SOURCES[0])
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    monkeypatch.setattr(build.nbformat, "write", half)
    with pytest.raises(KeyboardInterrupt):
        build.build(SOURCES[0], target)
    assert target.read_bytes() == whole


def test_recordings_are_whole_and_say_where_they_come_from():
    from amft_lite.results import recording

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
    """Warm-up and the first meta step of all five, on this machine; a stale one needs a second."""
    from amft_lite.results import recording

    record, made = tool("record"), {}
    for name, kind in record.BUGS.items():
        [kept] = [b for b in recording("bugs")["blocks"] if b["name"] == name]
        amft = record.start(kept["settings"], kind)
        steps = 21 if name == "stale gradient" else 16
        made[name] = [amft.train_step() for _ in range(steps)]
        for step, line in enumerate(made[name]):
            assert {c for c, v in kept["metrics"].items() if v[step] is not None} <= line.keys()
            old = kept["metrics"]["rl_loss"][step]
            assert (old is None) == ("rl_loss" not in line)
            if old is not None:
                assert line["rl_loss"] == pytest.approx(old, abs=0.02)
    for name, lines in made.items():  # the lab's fingerprints
        first = lines[15]
        assert (abs(first["rl_loss"]) < 1e-6) == (name == "mean of means")
        assert (first["cos_utility_rl"] > 0.8) == (name == "leaking validation")
        assert (first["mu_signal"] * first["mu_meta"] < 0) == (name == "reversed meta sign")
    first, second = (made["stale gradient"][step]["grad_norm_utility"] for step in (15, 20))
    assert first == second


MADE = {"date": "2026-01-01", "commit": "a", "torch": "2.13.0", "system": "Linux, 2 cores"}


@pytest.fixture
def three_blocks(tmp_path, monkeypatch):
    """record.py with one recording, `few`, of three blocks that are there; and a writer of one."""
    record = tool("record")
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "BLOCKS", tmp_path / "blocks")
    monkeypatch.setattr(record, "JOBS", {"few": {f"few-{n}": (lambda: {}) for n in range(3)}})
    monkeypatch.setattr(record, "provenance", lambda: MADE)
    for folder in ("data", "blocks"):
        (tmp_path / folder).mkdir()

    def write(number, **changes):
        path = tmp_path / "blocks" / f"few-{number}.json"
        path.write_text(json.dumps({"number": number, "provenance": {**MADE, **changes}}))
        return path

    for number in range(3):
        write(number)
    return record, write


def test_blocks_of_several_days_and_commits_are_collected_and_the_commits_listed(three_blocks):
    record, write = three_blocks
    write(1, date="2026-01-02", commit="b")
    record.collect("few")
    kept = json.loads((record.ROOT / "data" / "recordings" / "few.json").read_text())
    assert [b["number"] for b in kept["blocks"]] == [0, 1, 2]
    assert kept["provenance"] == {**MADE, "commit": ["a", "b"]}


def test_a_block_made_with_other_versions_is_named_and_not_collected(three_blocks, capsys):
    record, write = three_blocks
    odd = write(1, torch="2.12.0")
    with pytest.raises(SystemExit) as left:
        record.collect("few")
    told = capsys.readouterr().err
    assert left.value.code == 2 and told.count("\n") == 1
    assert told.startswith(f"{odd} was made with torch 2.12.0, but the other blocks were")
    assert told.endswith("made with torch 2.13.0: remove it and call again.\n")
    assert len(list(record.BLOCKS.iterdir())) == 3  # nothing is lost
    assert not (record.ROOT / "data" / "recordings").exists()
    odd.unlink()
    record.work(0, 1, ["few"])
    record.collect("few")
    assert (record.ROOT / "data" / "recordings" / "few.json").is_file()


def test_blocks_that_could_not_go_with_new_ones_are_told_before_these_are_made(
    three_blocks, capsys, monkeypatch
):
    record, write = three_blocks
    odd = [write(0, system="Darwin, 8 cores"), write(1, system="Darwin, 8 cores")]
    write(2).unlink()
    monkeypatch.setattr(sys, "argv", ["record.py"])
    monkeypatch.setattr(record, "subprocess", None)  # no worker can be started
    with pytest.raises(SystemExit) as left:
        record.main()
    told = capsys.readouterr().err
    assert left.value.code == 2 and told.count("\n") == 1
    assert f"remove {odd[0]} {odd[1]} and" in told and "would be made with system Linux" in told
    assert all(path.is_file() for path in odd)


def test_all_recordings_but_the_real_model_are_made_when_none_is_named(tmp_path, monkeypatch):
    record, collected = tool("record"), []
    monkeypatch.setattr(record, "BLOCKS", tmp_path)
    started = SimpleNamespace(Popen=lambda _: SimpleNamespace(wait=lambda: 0))
    monkeypatch.setattr(record, "subprocess", started)
    monkeypatch.setattr(record, "collect", collected.append)
    monkeypatch.setattr(sys, "argv", ["record.py"])
    assert record.main() == 0
    assert collected == ["runs", "bugs", "noise", "lookahead", "signal"]


def test_the_fingerprints_of_the_lab_are_there():
    """Exercise 9 can be solved from the plots, and each bug leaves one mark that is its own."""
    from amft_lite.results import recording

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
