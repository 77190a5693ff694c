"""What can be said of the notebooks without running them, and without torch.

Badges, install cells, pins, paths, widths: the things that break on Colab and in print.
"""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STUDENT = sorted((ROOT / "notebooks" / "student").glob("*.ipynb"))
ALL = NOTEBOOKS + STUDENT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADDRESS = PROJECT["urls"]["Repository"]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def sources(path, kind=None):
    return ["".join(c["source"]) for c in read(path)["cells"] if kind in (None, c["cell_type"])]


def where(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", ALL, ids=where)
def test_the_badge_points_at_its_own_file_at_the_release(path):
    text = "\n".join(sources(path, "markdown"))
    found = re.findall(r"colab\.research\.google\.com/github/([^)\s]+)\)", text)
    owner = ADDRESS.removeprefix("https://github.com/")
    assert found == [f"{owner}/blob/v{PROJECT['version']}/{where(path)}"]
    assert (ROOT / where(path)).is_file()


@pytest.mark.parametrize("path", ALL, ids=where)
def test_one_install_cell_comes_first_and_installs_this_release(path):
    code = sources(path, "code")
    installs = [n for n, text in enumerate(code) if "pip" in text and "install" in text]
    assert installs == [0]
    assert f"git+{ADDRESS}@v{PROJECT['version']}" in code[0]
    assert "find_spec" in code[0]
    # nothing but the standard library may be loaded before it: not torch, not numpy
    plain = "\n".join(line for line in code[0].splitlines() if "%pip" not in line)
    for node in ast.walk(ast.parse(plain)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_the_install_cell_keeps_torch_and_numpy_and_does_nothing_in_a_clone(tmp_path):
    text = sources(NOTEBOOKS[0], "code")[0]
    pip = '%pip install -q $kept "amft-lite @ $release"'
    assert pip in text
    program = "asked = []\n" + text.replace(pip, "asked.append(f'{kept} {release}')")
    program += "\nprint(asked)"
    inside = ROOT / "notebooks"
    run = [sys.executable, "-S", "-E", "-c", program]  # no installed packages are seen
    done = subprocess.run(run, cwd=inside, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"git+{ADDRESS}@v{PROJECT['version']}" in done.stdout
    # where torch and numpy are there, their versions are asked for as they are
    seen = program.replace('find_spec("amft_lite") is None', "True")
    done = subprocess.run([sys.executable, "-E", "-c", seen], cwd=tmp_path, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert re.search(r"torch==[\w.+]+ numpy==[\w.]+ git\+", done.stdout)


def test_core_dependencies_are_what_colab_has_or_can_add_without_touching_torch():
    names = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert not names & {"trl", "peft", "bitsandbytes", "unsloth", "jupyterlab", "nbgrader"}
    torch = next(Requirement(t) for t in PROJECT["dependencies"] if Requirement(t).name == "torch")
    assert torch.specifier.contains("2.11.0") and torch.specifier.contains("2.13.0")


@pytest.mark.parametrize("path", ALL, ids=where)
def test_no_absolute_path_no_widget_and_no_wide_line(path):
    for text in sources(path):
        assert "FigureWidget" not in text
        assert not re.search(r"(?<![\w.])/(home|root|tmp|work|usr|content)/", text)
        assert "C:\\" not in text
    for text in sources(path, "code"):
        assert max(map(len, text.splitlines()), default=0) <= 88
        assert len(text.splitlines()) <= 40


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "src").glob("*.py")), ids=where)
def test_a_source_is_narrow_and_has_one_cell_of_parameters(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    wide = [line for line in lines if len(line) > 88 and not line.startswith("# %% nbgrader=")]
    assert wide == []
    assert sum('tags=["parameters"]' in line for line in lines) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=where)
def test_outputs_hold_no_seconds_and_ids_are_fixed(path):
    notebook = read(path)
    assert [c["id"] for c in notebook["cells"]] == [
        f"cell-{n}" for n in range(len(notebook["cells"]))
    ]
    for cell in notebook["cells"]:
        assert "execution" not in cell["metadata"]
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream":
                assert not re.search(r"\d+(\.\d+)? ?(s|sec|seconds)\b", "".join(output["text"]))


@pytest.mark.parametrize("path", STUDENT, ids=where)
def test_a_student_version_has_no_outputs_and_no_solutions(path):
    for cell in read(path)["cells"]:
        assert not cell.get("outputs")
        marks = cell["metadata"].get("nbgrader", {})
        text = "".join(cell["source"])
        assert "BEGIN SOLUTION" not in text
        if marks.get("solution"):
            assert 'raise NotImplementedError("your code here")' in text


def test_this_file_needs_no_torch():
    program = "import sys; sys.path.insert(0, 'tests'); import test_static; " \
              "assert not {'torch', 'numpy', 'plotly'} & set(sys.modules)"  # fmt: skip
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
