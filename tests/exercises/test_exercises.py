"""The checks are checked: wrong solutions get the sentence meant for them, right ones pass."""

import time
from collections import Counter, defaultdict

import pytest
import torch
from right_solutions import RIGHT
from wrong_solutions import WRONG

from amft_lite.exercises import COURSE, check, exercises, names
from amft_lite.exercises.checking import Exercise, Mistake, WrongAnswer, judge, same

#: Kinds without a sentence of their own: rejected, with the numbers that differ.
UNFORESEEN = {
    "value", "gradient", "shape", "zero", "other", "no gradient", "raises", "no result",
    "no number", "changes its input",
}  # fmt: skip
KNOWN = {(e.name, m.kind): m for e in exercises().values() for m in e.mistakes}


def places(items):
    """Ids for parametrised cases that come without names of their own."""
    seen = Counter()
    for item in items:
        seen[item[0]] += 1
        yield f"{item[0]}-{seen[item[0]]}"


@pytest.mark.parametrize(("name", "kind", "fn"), WRONG, ids=places(WRONG))
def test_a_wrong_solution_gets_the_sentence_meant_for_it(name, kind, fn):
    result = check(name, fn)
    assert not result.passed and result.kind == kind
    if kind not in UNFORESEEN:
        assert result.message == KNOWN[name, kind].message
    with pytest.raises(WrongAnswer, match=name):
        result.require()


@pytest.mark.parametrize(("name", "fn"), RIGHT, ids=places(RIGHT))
def test_an_unusual_right_solution_passes(name, fn):
    result = check(name, fn)
    assert result.passed and result.require() is result, result.message
    began = time.process_time()  # the second time: a first one may pay for imports
    check(name, fn)
    assert time.process_time() - began < 1


def test_there_are_enough_exercises_and_wrong_and_right_solutions():
    assert len(names()) == len(set(names())) >= 25
    assert all(4 <= len(part) <= 9 for part in COURSE.values())
    named = defaultdict(set)
    for name, kind, _ in WRONG:
        if kind not in UNFORESEEN:
            named[name].add(kind)
    right = Counter(name for name, _ in RIGHT)
    assert set(named) == set(right) == set(names())
    assert min(map(len, named.values())) >= 3 and min(right.values()) >= 2
    assert sum(map(len, named.values())) >= 80


@pytest.mark.parametrize("exercise", exercises().values(), ids=names())
def test_every_known_mistake_is_wrong_and_is_named(exercise):
    assert len({m.kind for m in exercise.mistakes}) == len(exercise.mistakes) >= 3
    for mistake in exercise.mistakes:
        result = judge(exercise, lambda *given, fn=mistake.twin: fn(*given))
        assert (result.passed, result.kind) == (False, mistake.kind)


def test_no_two_kinds_share_a_sentence():
    kinds = defaultdict(set)
    for (_, kind), mistake in KNOWN.items():
        kinds[mistake.message].add(kind)
    assert [ks for ks in kinds.values() if len(ks) > 1] == []


@pytest.mark.parametrize("name", names())
def test_stubs_and_rubbish_never_pass_and_never_raise(name):
    def stub(*given):
        raise NotImplementedError("your code here")

    assert check(name, stub).kind == "stub"
    with pytest.raises(NotImplementedError):
        check(name, stub).require()

    def crash(*given):
        return {}["no such key"]

    assert check(name, crash).message.startswith("the function raised KeyError")
    assert check(name, lambda *given: None).kind == "no result"
    for rubbish in (object(), lambda: 0, "text", torch.zeros(2), [], {}, float("nan"), 1j, True):
        assert not check(name, lambda *given, r=rubbish: r).passed
    assert check(name, 3).kind == "no function"
    assert check(name, lambda: 0).passed is False  # wrong number of arguments


def test_the_package_s_own_function_is_not_the_learner_s_work():
    from amft_lite.objectives import ppo_clip_loss, token_entropy

    assert check("ppo_clip_loss", ppo_clip_loss).kind == "borrowed"
    assert check("token_entropy", token_entropy).kind == "borrowed"


def test_an_unknown_name_says_which_was_meant():
    with pytest.raises(ValueError, match="did you mean 'ppo_clip_loss'"):
        check("ppo_clip_los", lambda: 0)


def test_a_function_that_changes_its_input_is_told_so():
    def clip_in_place(grad, max_norm):
        grad *= min(1.0, max_norm / grad.norm())
        return grad

    assert check("clip_by_norm", clip_in_place).kind == "changes its input"


def test_a_list_that_is_used_up_is_told_so_and_is_there_again_for_the_next():
    def used_up(outcomes, points, shaped):
        answer = right(list(outcomes), points, shaped)
        while outcomes:
            outcomes.pop(0)
        return answer

    def filled_with_numbers(values, decay):
        values[0] = 0.0
        return values[1]

    assert check("moving_average", filled_with_numbers).kind == "changes its input"
    right = next(fn for name, fn in RIGHT if name == "walk_reward")
    for _ in range(2):
        assert check("walk_reward", used_up).kind == "changes its input"
    assert check("walk_reward", right).passed
    assert not check("walk_reward", lambda outcomes, points, shaped: -float(shaped)).passed


def test_a_result_shows_itself_and_a_wrong_one_shows_no_traceback():
    good, bad = check("multiplier", lambda mu: mu / (1 - mu)), check("multiplier", lambda mu: mu)
    assert repr(good).startswith("✓ multiplier: right")
    with pytest.raises(WrongAnswer) as caught:
        bad.require()
    [line] = caught.value._render_traceback_()
    assert line.startswith("✗ multiplier: this is mu.")


def test_comparison_is_relative_to_the_size_of_the_numbers():
    tiny = [torch.tensor([1e-6, 2e-6], dtype=torch.float64)]
    assert same(tiny, [tiny[0] * (1 + 1e-7)]) and not same(tiny, [tiny[0] * 1.01])
    assert not same(tiny, [torch.zeros(2, dtype=torch.float64)])
    assert not same(tiny, [tiny[0].unsqueeze(0)])
    nan = [torch.tensor([float("nan"), 1.0], dtype=torch.float64)]
    assert same(nan, nan) and not same(nan, [torch.tensor([0.0, 1.0], dtype=torch.float64)])


def test_gradients_count_even_where_values_agree():
    exercise = Exercise(
        "square", lambda x: x**2, [(torch.tensor([1.0, 2.0], dtype=torch.float64),)],
        [Mistake("cube", "that is the cube", lambda x: x**3)], gradients=(0,),
    )  # fmt: skip
    assert judge(exercise, lambda x: x * x).passed
    assert judge(exercise, lambda x: x.detach() ** 2).kind == "no gradient"
    assert judge(exercise, lambda x: x * x.detach()).kind == "gradient"
    assert judge(exercise, lambda x: x * x * x).kind == "cube"
