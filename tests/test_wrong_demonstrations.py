"""Studies of bad experts: how many are wrong, how they are wrong, and what stays as it was."""

import re

import pytest

from amft_lite.config import ConfigError, build
from amft_lite.tasks import load_task
from amft_lite.tasks.arithmetic_grader import boxed_word
from amft_lite.tasks.points_grader import parse, verify
from amft_lite.tasks.points_solver import apply

CLASSIC = pytest.param("general_points_classic", marks=pytest.mark.slow)  # slow to solve, once
GAMES = ["general_points", CLASSIC]
TASKS = [*GAMES, "arithmetic"]


def demonstrations(name, share, n=40, seed=0, split="train"):
    """The task, told the share as a run tells it, and its demonstrations."""
    config = build({"task": name, "wrong_demonstrations": share})
    task = load_task(name, **config.task_options())
    return task, task.demonstrations(n, seed, split)


def true_steps(text):
    """Every `a op b = c` of an answer, and whether each of them is right."""
    steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", text)
    return steps, [apply(int(a), op, int(b)) == int(c) for a, op, b, c in steps]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    ("share", "n", "wrong"), [(0.0, 40, 0), (0.25, 40, 10), (0.5, 7, 4), (0.9, 30, 27), (1.0, 9, 9)]
)
def test_the_share_is_exact_and_the_grader_agrees_with_the_label(name, share, n, wrong):
    task, found = demonstrations(name, share, n)
    assert len(found) == n and sum(not d.right for d in found) == wrong
    for d in found:
        reward = task.reward(d.example, d.completion)
        assert reward.correct == d.right and reward.value == float(d.right)
        assert reward.reason == ("correct" if d.right else "wrong_value")


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("seed", range(3))
def test_a_wrong_hand_is_played_well_towards_another_number(name, seed):
    _, found = demonstrations(name, 0.5, seed=seed)
    others = set()
    for d in found:
        values, steps = parse(d.completion, len(d.example.values))
        assert tuple(values) == d.example.values  # the cards are read right
        assert len(steps) == len(values) - 1
        assert all(apply(s.left, s.operator, s.right) == s.result for s in steps)
        reached = verify(d.completion, d.example).value
        assert (reached == d.example.target) == d.right
        assert reached == steps[-1].result
        if not d.right:
            others.add(reached)
    assert len(others) > 5  # not one favourite wrong number


@pytest.mark.parametrize("seed", range(3))
def test_a_wrong_expert_of_arithmetic_answers_another_question_of_the_family(seed):
    task, found = demonstrations("arithmetic", 0.5, seed=seed)
    families = set()
    for d in found:
        steps, right = true_steps(d.completion)
        assert all(right) and bool(steps)
        word, fault = boxed_word(d.completion)
        assert not fault and (word == d.example.answer) == d.right
        told = d.completion.split(" | ")[0].split(" ; ")
        if d.right:
            assert tuple(told) == d.example.steps
            continue
        asked = [p for p in task.problems("train") if list(p.steps) == told and p.answer == word]
        assert d.example.family in {p.family for p in asked}
        assert d.example.key not in {p.question for p in asked}
        families.add(d.example.family)
    assert len(families) == 4


@pytest.mark.parametrize("name", TASKS)
def test_problems_and_their_order_are_those_of_right_demonstrations(name):
    _, right = demonstrations(name, 0.0)
    for share in (0.25, 1.0):
        _, found = demonstrations(name, share)
        assert [d.example for d in found] == [d.example for d in right]
        changed = [a.completion != b.completion for a, b in zip(found, right, strict=True)]
        assert all(c for c, d in zip(changed, found, strict=True) if not d.right)


@pytest.mark.parametrize("name", ["arithmetic"])
def test_right_experts_answer_as_they_do_among_right_ones_only(name):
    """So that two shares differ in the wrong experts, and in nothing else. (In General Points the
    others may show another of a hand's solutions: the committed studies were run so.)"""
    _, plain = demonstrations(name, 0.0)
    _, found = demonstrations(name, 0.25)
    for before, now in zip(plain, found, strict=True):
        assert not now.right or now.completion == before.completion


@pytest.mark.parametrize("name", TASKS)
def test_who_is_wrong_is_the_seed_s_choice(name):
    first, again, other = (demonstrations(name, 0.5, seed=s)[1] for s in (0, 0, 1))
    assert first == again
    labels = [[d.right for d in found] for found in (first, other)]
    assert labels[0] != labels[1]
    assert labels[0] != sorted(labels[0]) and labels[0] != sorted(labels[0], reverse=True)


@pytest.mark.parametrize("name", TASKS)
def test_experts_of_validation_are_never_wrong_and_prompts_are_as_ever(name):
    task, found = demonstrations(name, 1.0, split="validation")
    assert all(d.right and task.reward(d.example, d.completion).correct for d in found)
    plain = load_task(name)
    assert found == plain.demonstrations(40, split="validation")
    for split in ("train", "validation", "test"):
        assert task.prompts(split, 12, seed=3) == plain.prompts(split, 12, seed=3)


@pytest.mark.parametrize("reward", ["binary", "shaped"])
def test_a_wrong_demonstration_is_paid_like_any_wrong_answer(reward):
    task = load_task("general_points", reward=reward, wrong_demonstrations=0.5)
    paid = {(d.right, task.reward(d.example, d.completion).value) for d in task.demonstrations(30)}
    right, wrong = (1.0, 0.0) if reward == "binary" else (5.0, -1.0)
    assert paid == {(True, right), (False, wrong)}


@pytest.mark.parametrize("name", ["gsm_symbolic", "dataset", "openr1_math"])
def test_tasks_of_given_experts_refuse_to_make_them_wrong(name):
    build({"task": name})
    with pytest.raises(ConfigError, match=f"wrong_demonstrations .* not for {name}"):
        build({"task": name, "wrong_demonstrations": 0.1})


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_lies_between_0_and_1(share):
    with pytest.raises(ConfigError, match="wrong_demonstrations must lie between 0 and 1"):
        build({"wrong_demonstrations": share})


def test_tasks_without_such_a_setting_are_told_of_it_only_where_it_is_used():
    assert build({"task": "gsm_symbolic"}).task_options() == {}
    assert build({"wrong_demonstrations": 0.25}).task_options() == {"wrong_demonstrations": 0.25}
    options = build({"model": "tiny", "wrong_demonstrations": 0.25}).task_options()
    assert options == {"wrong_demonstrations": 0.25}
