"""The base: what its recipe shows it, the shipped weights' bands, and that the recipe repeats."""

import itertools
import json
import random
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from amft_lite import pretrain as module
from amft_lite.cli import app
from amft_lite.grids import read_grid
from amft_lite.models import SIZES, base_folder, tiny_llama, word_tokenizer
from amft_lite.pretrain import (
    PretrainConfig,
    bands,
    learning_rate,
    pretrain,
    recipe,
    timed_log,
)
from amft_lite.tasks.general_points import card_values, group_name, parse
from amft_lite.tasks.points_pretraining import BANDS, RECIPES, random_rule, texts

FOLDER = base_folder("general_points")


def facts():
    return json.loads((FOLDER / "recipe.json").read_text())


def test_shipped_weights_lie_in_their_bands(base):
    found = bands(*base, PretrainConfig())
    for name, (low, high) in BANDS.items():
        assert low <= found[name] <= high, (name, found[name])
    assert found == pytest.approx(facts()["bands"], abs=0.02)
    assert (FOLDER / "model.safetensors").stat().st_size <= 1.5e6


def test_bands_can_fail():
    """A fresh model reads no card: the bands tell it from a base."""
    from amft_lite.tasks import load_task

    tokenizer = word_tokenizer(load_task("general_points"))
    found = bands(tiny_llama(len(tokenizer)).eval(), tokenizer, PretrainConfig(), prompts=100)
    assert found["values_read_right"] < 0.5 and found["success_with_drafts"] < 0.05


def test_shipped_log_is_that_of_the_default_recipe():
    assert {"stop": 0} | facts()["recipe"] == vars(PretrainConfig())  # older than `stop`
    lines = [json.loads(line) for line in (FOLDER / "log.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 0 and lines[-1]["step"] >= PretrainConfig().steps - 50
    assert lines[0]["loss"] > 4 and lines[-1]["loss"] < 0.4


def test_a_hundred_steps_of_the_recipe_repeat_its_log():
    """The first 100 steps again: the losses of the committed log (floating-point slack only)."""
    expected = [json.loads(line) for line in (FOLDER / "log.jsonl").read_text().splitlines()][:3]
    log, note = timed_log()
    pretrain(PretrainConfig(), stop_after=101, on_step=note)
    assert [line["step"] for line in log] == [line["step"] for line in expected] == [0, 50, 100]
    for line, wanted in zip(log, expected, strict=True):
        assert line["loss"] == pytest.approx(wanted["loss"], abs=0.02)


def test_chains_hold_what_the_recipe_promises(task):
    held_out = {group_name(g) for s in ("validation", "test") for g, _ in task.problems(s)}
    reached = infix = drawn = 0
    for prompt, completion in itertools.islice(texts(task, 0.3, 0.01, random.Random(5)), 20_000):
        rule, target, cards = (
            part.split() for part in prompt.rstrip(" |").replace(":", ";").split(";")
        )
        rule, target = tuple(map(int, rule)), int(*target)
        assert rule not in ((10, 10, 10), (11, 12, 13))
        assert all(2 <= value <= 13 for value in rule) and 10 <= target <= 50
        values = card_values(cards, rule)
        draft, expert = parse(completion, 3, draft=True), parse(completion, 3)
        read, steps = draft if not isinstance(draft, str) else expert
        infix += isinstance(draft, str)
        assert tuple(read) == values
        numbers = list(values)  # replay the chain: it must be true arithmetic on its own cards
        for step in steps:
            numbers.remove(step.left)
            numbers.remove(step.right)
            ops = {"+": step.left + step.right, "-": step.left - step.right,
                   "*": step.left * step.right, "/": step.left / max(1, step.right)}  # fmt: skip
            assert ops[step.operator] == step.result and 0 <= step.result <= 99
            numbers.append(step.result)
        if numbers[0] == target:
            reached += 1
            assert group_name(values) not in held_out
        drawn += 1
    assert reached / drawn == pytest.approx(0.30, abs=0.012)  # 3.7 sd of 20,000 draws
    assert infix / drawn == pytest.approx(0.01, abs=0.003)


def test_rules_are_equal_triples_about_two_times_in_five():
    rng = random.Random(0)
    rules = [random_rule(rng) for _ in range(5000)]
    equal = sum(len(set(rule)) == 1 for rule in rules) / 5000
    assert 0.36 < equal < 0.44


def test_learning_rate_warms_up_and_falls_to_a_tenth():
    config = PretrainConfig(steps=1100, lr=1.0)
    assert learning_rate(0, config) == pytest.approx(0.01)
    assert learning_rate(99, config) == pytest.approx(1.0)
    assert learning_rate(600, config) == pytest.approx(0.55)
    assert learning_rate(1100, config) == pytest.approx(0.1)


def test_sizes_are_what_they_are_called(task):
    for size in SIZES:
        count = sum(p.numel() for p in tiny_llama(118, size).parameters())
        assert count == pytest.approx(float(size[:-1]) * 1e6, rel=0.25), size
    assert set(RECIPES) == set(SIZES) and recipe() == PretrainConfig()
    assert recipe("0.8M", seed=3).lr == RECIPES["0.8M"]["lr"] and recipe("0.8M", seed=3).seed == 3
    with pytest.raises(ValueError, match=r"0\.2M, 0\.8M"):
        tiny_llama(118, "7B")
    a, b = tiny_llama(118, seed=1), tiny_llama(118, seed=1)
    assert all(map(torch.equal, a.parameters(), b.parameters()))


@pytest.fixture
def command(monkeypatch):
    """`amft-lite pretrain --steps 2 --out FOLDER ...`, with few prompts behind its bands; says exit
    code and words."""
    monkeypatch.setattr(module, "bands", lambda *given: bands(*given, prompts=10))

    def call(folder, *words):
        result = CliRunner().invoke(app, ["pretrain", "--steps", "2", "--out", str(folder), *words])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.output

    return call


def test_a_base_of_another_seed_lands_where_the_robustness_study_looks_for_it(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(module, "bands", lambda *given: bands(*given, prompts=10))
    monkeypatch.chdir(tmp_path)
    for seed in ("0", "1", "2"):
        done = CliRunner().invoke(app, ["pretrain", "--steps", "2", "--seed", seed])
        assert done.exit_code == 0, done.output
    made = {path.as_posix() for path in Path("runs/bases").iterdir()}
    named = {settings["base"] for settings in read_grid("robustness").regimes.values()}
    assert made == named | {"runs/bases/general_points-0.2M"} and len(named) == 2
    for base in named:
        recipe = json.loads(Path(base, "recipe.json").read_text())["recipe"]
        assert base.endswith(f"-seed{recipe['seed']}")


def test_who_says_how_many_steps_gets_so_many(command, tmp_path):
    """The recipe of navigation stops early on a longer schedule."""
    code, said = command(tmp_path / "base", "--task", "navigation")
    assert code == 0, said
    made = json.loads((tmp_path / "base" / "recipe.json").read_text())["recipe"]
    assert made["steps"] == 2 and made["stop"] == 0
    assert module.recipe(task="navigation").stop > 0


def stop(*given, **named):
    raise KeyboardInterrupt


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("moment", ["pretrain", "bands", "save_base", "at the end of save_base"])
def test_an_interrupted_pretrain_leaves_nothing_in_its_way(command, tmp_path, monkeypatch, moment):
    """Neither half a base nor an empty folder, so that the same words begin again."""
    folder = tmp_path / "bases" / "mine"
    with monkeypatch.context() as patch:
        if moment in vars(module):
            patch.setattr(module, moment, stop)
        else:
            patch.setattr(module, "asdict", stop)  # weights are written, the recipe is not
        code, words = command(folder)
    assert code == 130 and "Stopped; nothing was written" in words
    assert list((tmp_path / "bases").iterdir()) == []
    code, words = command(folder)
    assert code == 0, words
    assert [path.name for path in (tmp_path / "bases").iterdir()] == ["mine"]
    assert json.loads(content(folder)["recipe.json"])["recipe"]["steps"] == 2
    assert len(content(folder)) >= 5  # of an older base nothing was there to help
    assert folder.stat().st_mode == (tmp_path / "bases").stat().st_mode


def test_an_empty_folder_is_no_obstacle_and_others_are(command, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    assert command(folder)[0] == 0 and "recipe.json" in content(folder)
    code, words = command(folder)
    assert code == 2 and "holds a base; --overwrite replaces it" in words
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for name, sentence in (("other", "holds no base"), ("file", "is a file")):
        for more in ((), ("--overwrite",)):
            code, words = command(tmp_path / name, *more)
            assert code == 2 and sentence in words and len(words.strip().splitlines()) == 1
    code, words = command(tmp_path / "file" / "deeper")
    assert code == 2 and len(words.strip().splitlines()) == 1
    assert content(tmp_path / "other") == {"photo.jpg": b"dear"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "other"]


def test_overwrite_replaces_a_base_whole_or_leaves_it(command, tmp_path, monkeypatch):
    folder, link = tmp_path / "mine", tmp_path / "link"
    link.symlink_to(folder)
    assert command(folder)[0] == 0
    (folder / "notes.txt").write_text("mine")
    before = content(folder)
    with monkeypatch.context() as patch:
        patch.setattr(module, "asdict", stop)
        assert command(folder, "--overwrite", "--seed", "1")[0] == 130
    assert content(folder) == before
    with monkeypatch.context() as patch:  # the older base is aside, the new one cannot be moved
        rename = module.Path.rename
        patch.setattr(
            module.Path, "rename", lambda a, b: stop() if a.name == "new" else rename(a, b)
        )
        assert command(folder, "--overwrite", "--seed", "1")[0] == 130
    assert content(folder) == before
    assert command(link, "--overwrite", "--seed", "1")[0] == 0
    after = content(folder)
    assert after["notes.txt"] == b"mine" and link.is_symlink()
    assert json.loads(after["recipe.json"])["recipe"]["seed"] == 1
    assert after["model.safetensors"] != before["model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "mine"]


def test_a_mount_point_is_refused_before_the_training(command, tmp_path, monkeypatch):
    monkeypatch.setattr(module.Path, "is_mount", lambda path: True)
    monkeypatch.setattr(module, "pretrain", stop)
    code, words = command(tmp_path / "mine")
    assert code == 2 and "mount point" in words


@pytest.mark.slow
def test_the_whole_recipe_makes_a_base_like_the_shipped_one():
    """Four minutes: every logged loss, and the bands."""
    expected = [json.loads(line) for line in (FOLDER / "log.jsonl").read_text().splitlines()]
    log, note = timed_log()
    model, tokenizer = pretrain(PretrainConfig(), on_step=note)
    assert [line["loss"] for line in log] == pytest.approx([e["loss"] for e in expected], abs=0.05)
    found = bands(model, tokenizer, PretrainConfig())
    for name, (low, high) in BANDS.items():
        assert low <= found[name] <= high, (name, found[name])
