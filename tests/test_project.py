"""The files around the package agree with each other, and carry nothing of one machine."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
TRACKED = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT, capture_output=True, text=True, check=True,
).stdout.split("\0")[:-1]  # fmt: skip
TEXTS = [
    name for name in TRACKED
    if Path(name).suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".json", ".ipynb", ""}
    and (ROOT / name).is_file()
]  # fmt: skip


def requirements():
    lists = [PYPROJECT["project"]["dependencies"], *EXTRAS.values()]
    return [Requirement(text) for part in lists for text in part if "amft-lite" not in text]


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_environment_yml_installs_this_package_with_extras_that_exist():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert "python=3.11" in environment["dependencies"] and "pip" in environment["dependencies"]
    assert ">=3.11" in PYPROJECT["project"]["requires-python"]
    [pip] = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    exact, line = pip
    assert exact == "-c constraints.txt"
    assert line.startswith("-e .[") and line.endswith("]")
    asked = set(line[len("-e .[") : -1].split(","))
    assert {"train", "gpu", "course"} <= asked <= set(EXTRAS)


def test_the_user_s_packages_are_all_there():
    names = {r.name for r in requirements()}
    wanted = "jupyterlab torch transformers trl peft bitsandbytes unsloth plotly".split()
    assert set(wanted) <= names


def test_core_needs_neither_trl_nor_jupyter():
    core = {Requirement(text).name for text in PYPROJECT["project"]["dependencies"]}
    assert core == set(
        "torch transformers plotly typer rich pyyaml safetensors numpy pandas pillow".split()
    )


def test_constraints_pin_public_versions_inside_the_ranges_of_pyproject():
    pinned = {name.lower().replace("_", "-"): version for name, version in pins().items()}
    for requirement in requirements():
        if requirement.name == "unsloth":  # the one package CI never installs
            continue
        version = pinned[requirement.name.lower()]
        assert "+" not in version
        assert requirement.specifier.contains(Version(version)), requirement.name


def test_an_installed_copy_has_every_module_and_all_data():
    setup = PYPROJECT["tool"]["setuptools"]
    folders = {p.parent.relative_to(ROOT).as_posix() for p in (ROOT / "amft_lite").rglob("*.py")}
    assert {name.replace(".", "/") for name in setup["packages"]} == folders | {"amft_lite_data"}
    assert setup["package-dir"] == {"amft_lite_data": "data"}
    globs = setup["package-data"]["amft_lite_data"]
    carried = {path for pattern in globs for path in (ROOT / "data").glob(pattern)}
    needed = {
        p for part in ("bases", "studies", "recordings")
        for p in (ROOT / "data" / part).rglob("*") if p.is_file() and p.name != "README.md"
    }  # fmt: skip
    assert needed and needed <= carried


def test_importing_the_package_imports_neither_torch_nor_transformers():
    code = (
        "import sys, amft_lite, amft_lite.config, amft_lite.tasks.general_points;"
        "assert 'transformers' not in sys.modules and 'trl' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    code = "import sys, amft_lite; assert not {'torch', 'plotly', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_public_name_resolves_and_a_wrong_one_is_an_attribute_error():
    import amft_lite

    for name in amft_lite.__all__:
        assert getattr(amft_lite, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = amft_lite.nothing_like_it


#: A module may import only from those before it (design: imports run one way).
LAYERS = [
    {"tasks", "tasks.points_solver", "tasks.points_grader", "tasks.general_points",
     "tasks.points_dialogue", "tasks.original_formats",
     "tasks.points_pretraining", "tasks.cards", "tasks.vision_pretraining",
     "tasks.arithmetic_problems", "tasks.arithmetic_grader", "tasks.arithmetic",
     "tasks.arithmetic_pretraining",
     "tasks.math_text", "tasks.math_worker", "tasks.math_grader", "tasks.dataset_rows",
     "tasks.dataset", "tasks.gsm_symbolic",
     "tasks.city", "tasks.walks", "tasks.streets", "tasks.street_walks", "tasks.navigation",
     "tasks.navigation_pretraining", "tasks.streets_pretraining"},
    {"objectives", "meta_gradient", "statistics", "provenance", "checkpoint", "files",
     "figures_png", "smollm2", "picture_llama", "vision_models"},
    {"weighting", "models", "sampling", "implicit_reward", "dialogues", "figures"},
    {"episodes", "figures_map"},
    {"rivals", "gate", "batches"},
    {"methods", "real_models", "architectures", "trainer_batches"},
    {"config", "evaluation", "trainer_inputs"},
    {"plan", "pairs"},
    {"loop", "pretrain"},
    {"trainer_value_head"},
    {"trainer_dialogues"},
    {"trainer"},
    {"runs", "benchmarks"},
    {"trl_settings", "trl_recorder"},
    {"trl_run"},
    {"report", "cells", "grids"},
    {"results"},
    {"study", "tables"},
    {"claims", "study_figures", "study_tables"},
    {"exercises.checking"},
    {"exercises.implicit_rewards", "exercises.losses", "exercises.controller",
     "exercises.training", "exercises.reproduction", "exercises.scaling", "exercises.vision",
     "exercises.navigation"},
    {"exercises"},
    {"terminal"},
    {"cli"},
    {"__main__"},
]  # fmt: skip


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("amft_lite"):
            if node.module == "amft_lite":
                yield from (alias.name for alias in node.names)
            else:
                yield node.module.removeprefix("amft_lite.")


def test_imports_run_one_way():
    seen = set()
    for layer in LAYERS:
        for name in layer:
            path = ROOT / "amft_lite" / Path(*name.split("."))
            path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            allowed = seen | (LAYERS[0] if name.startswith("tasks.") else {name})
            assert set(imports_of(path)) <= allowed, name
        seen |= layer
    modules = {
        ".".join(p.relative_to(ROOT / "amft_lite").with_suffix("").parts).removesuffix(".__init__")
        for p in (ROOT / "amft_lite").rglob("*.py")
    }
    assert modules - {"__init__"} == seen


def test_nothing_names_a_registry_or_a_place_of_one_machine():
    hosts = ["pypi.org", "pythonhosted", "conda.anaconda.org", "download.pytorch.org"]
    places = [r"/(work|home|root|tmp)/", r"\.\./shared"]
    found = []
    for name in set(TEXTS) - {"tests/test_project.py"}:
        text = (ROOT / name).read_text(encoding="utf-8")
        for pattern in [*map(re.escape, hosts), *places]:
            if re.search(pattern, text):
                found.append((name, pattern))
    assert found == []


def test_no_tracked_file_is_heavy():
    heavy = [n for n in TRACKED if (ROOT / n).is_file() and (ROOT / n).stat().st_size > 2_500_000]
    assert heavy == []


def test_make_leaves_no_half_environment_behind(tmp_path):
    """Debian without python3-venv: links are made, then ensurepip fails."""
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\n[ "$1" = -c ] && exit 0\nmkdir -p "$3/bin"\ntouch "$3/bin/python"\nexit 1\n'
    )
    python.chmod(0o755)
    place = tmp_path / "env"
    words = ["make", "-C", str(ROOT), f"PYTHON={python}", f"VENV={place}", f"{place}/bin/python"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and not place.exists(), done.stdout + done.stderr


def test_make_help_lists_every_target_that_has_a_purpose():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split()
    described = re.findall(r"^([a-z0-9-]+):.*##", text, re.MULTILINE)
    assert sorted(phony) == sorted(described)
    readme = (ROOT / "README.md").read_text()
    for target in ("demo", "test", "lab"):
        assert f"make {target}" in readme


def test_ci_runs_what_a_newcomer_types():
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    assert ".ci/run" in (ROOT / ".github/workflows/test.yml").read_text()


def test_the_readme_s_shares_of_right_signs_are_those_of_the_recording():
    from amft_lite.results import recording

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shares = [s for b in recording("noise")["blocks"] for s in b["shares"] if s["rollouts"] == 256]
    words = [f"{100 * s['minibatch']:.0f}" for s in shares]
    assert f"{words[0]}, {words[1]} and {words[2]} %" in " ".join(readme.split())
