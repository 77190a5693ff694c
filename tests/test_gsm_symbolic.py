"""GSM-Symbolic: splits by template, strict grading, experts that earn their reward."""

import builtins
import hashlib
import itertools
import re

import pytest

from amft_lite.batches import refuse_leaks
from amft_lite.tasks import Task, load_task
from amft_lite.tasks.gsm_symbolic import EXCLUDED, FLAWED, PROBLEMS, SEEDS, expert, templates


def test_templates_are_split_without_any_package():
    found = templates()
    train, validation, ood = (found[s] for s in ("train", "validation", "ood_template"))
    assert (len(train), len(validation), len(ood)) == (48, 12, 21)
    assert found["test"] == train
    assert not train & validation and not train & ood and not validation & ood
    every = train | validation | ood
    assert every == set(range(100)) - set(EXCLUDED) - {2, 3, 49, 96} and set(FLAWED) == {
        2,
        3,
        49,
        96,
    }
    order = sorted(every, key=lambda t: hashlib.sha256(b"gsm_symbolic/%d" % t).hexdigest())
    assert set(order[:48]) == train and set(order[60:]) == ood


def test_seeds_are_spaced_wider_than_any_split_draws():
    starts = sorted(SEEDS.values())
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert min(gaps) > 20 * max(PROBLEMS.values())


def test_without_the_package_there_is_one_sentence(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "reasoning_gym":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    task = load_task("gsm_symbolic", reward="binary")
    assert isinstance(task, Task) and task.vocabulary() == []
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'amft-lite\[gym\]'"):
        task.prompts("train", 1)


def test_bad_options():
    with pytest.raises(ValueError, match="binary only"):
        load_task("gsm_symbolic", reward="shaped")
    with pytest.raises(ValueError, match="at least 1"):
        load_task("gsm_symbolic", max_new_tokens=0)


@pytest.fixture(scope="module")
def task():
    pytest.importorskip("reasoning_gym", reason="pip install 'amft-lite[gym]'")
    return load_task("gsm_symbolic")


def test_splits_share_no_question_and_only_test_shares_templates(task):
    drawn = {split: task.prompts(split) for split in task.splits}
    assert {split: len(found) for split, found in drawn.items()} == PROBLEMS
    texts = [e.prompt for found in drawn.values() for e in found]
    assert len(set(texts)) == len({e.key for found in drawn.values() for e in found}) == 3300
    groups = {split: {e.group for e in found} for split, found in drawn.items()}
    assert groups["test"] == groups["train"] and len(groups["train"]) == 48
    assert (
        not groups["train"] & groups["validation"] and not groups["train"] & groups["ood_template"]
    )
    assert not groups["validation"] & groups["ood_template"]
    assert all(re.fullmatch("-?[0-9]+", e.gold) for found in drawn.values() for e in found)
    refuse_leaks(drawn["train"], drawn["validation"], [])
    assert not {f"template {t}" for t in FLAWED} & set().union(*groups.values())


def test_experts_end_in_the_right_box_and_say_what_the_package_says(task):
    for split in ("train", "validation", "test"):
        for demonstration in task.demonstrations(300, split=split):
            example = demonstration.example
            assert task.reward(example, demonstration.completion).correct
            assert "####" not in demonstration.completion
            claimed = example.worked.rpartition("####")[2].replace(",", "")
            assert float(re.sub(r"[^0-9.-]", "", claimed)) == int(example.gold)
            assert demonstration.completion.count("\\boxed{") == 1
    with pytest.raises(ValueError, match="known templates only"):
        task.demonstrations(1, split="ood_template")
    with pytest.raises(ValueError, match="no split is called 'ood'; known: train, validation"):
        task.prompts("ood")


def test_the_package_s_generous_scores_earn_nothing_here(task):
    [example] = task.prompts("train", 1)
    gold = int(example.gold)
    texts = [f"{gold}", f"{gold} is it", f"\\boxed{{{gold + 1}}} {gold}", example.prompt]
    boxes = [f"\\boxed{{{x}}}" for x in (f"{gold}+0", f"{gold}.0", f"-{gold}", f"{gold}={gold}")]
    for answer in texts + boxes:
        assert task.reward(example, answer).value == 0
    assert task.reward(example, f"Nonsense 99. \\boxed{{{gold}}}").value == 1
    assert task.reward(example, expert(example)).value == 1


def test_draws_are_fixed_by_the_seed(task):
    again = load_task("gsm_symbolic")
    drawn = [e.prompt for e in task.prompts("train", 60, 1)]
    assert drawn == [e.prompt for e in again.prompts("train", 60, 1)]
    assert drawn != [e.prompt for e in task.prompts("train", 60, 2)]
    assert len({e.key for e in task.prompts("validation", 300, 5)}) == 300
