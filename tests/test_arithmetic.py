"""Maths lite: its problems by hand and by an independent evaluator, its grader under attack."""

import itertools
import json
import random
import re
import time
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from amft_lite.cli import app
from amft_lite.models import base_folder, load_policy, tiny_llama, word_tokenizer
from amft_lite.pretrain import bands, padded, pretrain, recipe, timed_log
from amft_lite.tasks import Task, load_task, reported_splits
from amft_lite.tasks.arithmetic import TIERS, Arithmetic, expert_answer, share_of
from amft_lite.tasks.arithmetic_grader import OUTCOMES, Question, grade
from amft_lite.tasks.arithmetic_pretraining import BANDS, RECIPES, WEIGHTS, texts
from amft_lite.tasks.arithmetic_problems import worked

TASK = Arithmetic()
ID = [split for split in TASK.splits if not split.startswith("ood")]
OOD = ["ood_choice", "ood_length", "ood_words"]
FOLDER = base_folder("arithmetic")


# --- an evaluator of its own: precedence by splitting text, equations by trying -------------------


def total(text):
    """The value of sums, differences and products, written another way than the task's steps."""
    text = " " + text.strip()
    for sign in ("+", "-"):  # the last sum or difference binds least
        text = text.replace(f" {sign} ", f" {sign}@ ")
    parts = re.split(r" ([+-])@ ", text)
    value = 0
    for sign, part in zip(["+", *parts[1::2]], parts[::2], strict=True):
        product = 1
        for factor in part.split(" * "):
            product *= int(factor)
        value += product if sign == "+" else -product
    return value


def solve(question):
    """The answer to any question of the task, from its text alone."""
    body = question.removesuffix(" ?")
    if body.startswith(("largest", "smallest")):
        asked, options = body.split(" ; ")
        words = options.split()
        ranked = sorted(zip(map(int, words[1::2]), words[::2], strict=True))
        assert sorted(words[::2]) == ["A", "B", "C", "D"] and len({n for n, _ in ranked}) == 4
        return ranked[-1 if asked == "largest" else 0][1]
    if body.startswith("legs of "):
        legs = {"hens": 1 + 1, "dogs": 4, "ants": 6, "spiders": 8}
        words = body.removeprefix("legs of ").split()
        return str(
            sum(int(n) * legs[kind] for n, kind in zip(words[::2], words[1::2], strict=True))
        )
    if "=" in body:
        left, right = body.split(" = ")
        unknown = next(word for word in left.split() if word in "xyz")
        [x] = [n for n in range(100) if total(left.replace(unknown, str(n))) == int(right)]
        return str(x)
    return str(total(body))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("48 + 7 - 9 ?", "46"),
        ("90 - 8 * 9 ?", "18"),
        ("3 * 4 * 5 ?", "60"),
        ("3 * x + 2 = 14 ?", "4"),
        ("9 + 2 * y = 27 ?", "9"),
        ("largest ; A 14 B 72 C 9 D 33 ?", "B"),
        ("smallest ; A 14 B 72 C 9 D 33 ?", "C"),
        ("legs of 3 dogs 2 hens ?", "16"),
        ("legs of 1 spiders 9 ants ?", "62"),
    ],
)
def test_the_evaluator_of_these_tests_is_right_by_hand(question, answer):
    assert solve(question) == answer


@pytest.mark.parametrize("split", TASK.splits)
def test_every_answer_is_what_the_question_says(split):
    for problem in TASK.problems(split):
        assert solve(problem.question) == problem.answer, problem
        for step in problem.steps:
            if "=" in step:
                left, right = step.split(" = ")
                a, sign, b = left.split()
                value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b),
                         "/": Fraction(int(a), max(int(b), 1))}[sign]  # fmt: skip
                highest = 199 if problem.family == "products" else 99
                assert value == int(right) and 0 <= value <= highest, step
        if split != "ood_choice":
            assert problem.steps[-1].split(" = ")[1] == problem.answer
            numbers = [int(w) for w in problem.question.split() if w.isdigit()]
            used = [int(w) for w in " ".join(problem.steps).split() if w.isdigit()]
            assert set(numbers) <= set(used)  # the working is of this question
            assert expert_answer(problem.steps, problem.answer).endswith(
                f"| boxed {problem.answer}"
            )


def test_steps_by_hand():
    assert worked(48, "+", 7) == ("48 + 7 = 55", 55) and worked(12, "/", 3) == ("12 / 3 = 4", 4)
    steps, answer = ("48 + 7 = 55", "55 - 9 = 46"), "46"
    assert expert_answer(steps, answer) == "48 + 7 = 55 ; 55 - 9 = 46 | boxed 46"


# --- splits ---------------------------------------------------------------------------------------


def canonical(question):
    """What a question comes down to: the same for reordered sums and products, for any unknown."""
    body = question.removesuffix(" ?")
    if body.startswith(("largest", "smallest")):
        asked, options = body.split(" ; ")
        return (asked, *sorted(options.split()[1::2]))
    if body.startswith("legs of "):
        words = body.split()[2:]
        return frozenset(zip(words[::2], words[1::2], strict=True))
    body, _, right = re.sub("[xyz]", "u", body).partition(" = ")
    signs = ["+", *re.findall(r" ([+-]) ", body)]
    parts = [" * ".join(sorted(p.split(" * "))) for p in re.split(r" [+-] ", body)]
    return (*sorted(zip(signs, parts, strict=True)), right)


def test_no_two_splits_share_a_question_or_one_that_comes_to_the_same():
    seen = {}
    for split in TASK.splits:
        problems = TASK.problems(split)
        assert len({p.question for p in problems}) == len(problems)
        for form in {canonical(p.question) for p in problems}:
            assert seen.setdefault(form, split) == split, form
    assert len(seen) > 2000


def test_groups_are_what_comes_to_the_same():
    for split in TASK.splits:
        pairs = {(canonical(p.question), p.group) for p in TASK.problems(split)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_sizes_and_families():
    count = {split: Counter(p.family for p in TASK.problems(split)) for split in TASK.splits}
    mix = ["chain_sum", "basic_arithmetic", "simple_equations", "products"]
    assert count["train"] == dict.fromkeys(mix, 500)
    assert count["validation"] == count["test"] == dict.fromkeys(mix, 80)
    assert [dict(count[f"tier_{i}"]) for i in range(1, 5)] == [{family: 80} for family in mix]
    assert count["tier_5"] == dict.fromkeys(mix, 40) and list(TIERS.values()) == mix
    assert [dict(count[split]) for split in OOD] == [
        {"extremes": 240}, {"chain_sum": 240}, {"leg_counting": 240},
    ]  # fmt: skip
    assert reported_splits(TASK) == ("test", *OOD) and isinstance(TASK, Task)


def test_the_top_tier_is_harder_and_long_sums_are_longer():
    def numbers(p):
        return [int(w) for w in p.question.split() if w.isdigit()]

    for p in TASK.problems("tier_5"):
        if p.family == "chain_sum":
            assert len(numbers(p)) == 3 and min(numbers(p)) >= 10
        elif p.family == "products":
            assert len(numbers(p)) == 3
        elif p.family == "basic_arithmetic":
            assert max(numbers(p)) >= 10
        else:
            assert int(p.answer) >= 5 and numbers(p)[-1] >= 25 - 9
    assert {len(numbers(p)) for p in TASK.problems("train") if p.family == "chain_sum"} == {2, 3}
    assert {len(numbers(p)) for p in TASK.problems("ood_length")} == {4, 5}


def test_the_parts_have_their_shares():
    parts = Counter(share_of(f"group {i}") for i in range(10_000))
    assert parts["train"] / 10_000 == pytest.approx(0.6, abs=0.02)
    for part in ("validation", "test", "tier", "top"):
        assert parts[part] / 10_000 == pytest.approx(0.1, abs=0.012)


def test_prompts_are_passes_over_the_split_and_seeds_lie_apart():
    whole = TASK.prompts("test")
    assert sorted(q.prompt for q in whole) == sorted(p.question for p in TASK.problems("test"))
    twice = TASK.prompts("test", 640, seed=3)
    assert Counter(Counter(q.prompt for q in twice).values()) == {2: 320}
    assert twice == TASK.prompts("test", 640, seed=3)
    orders = [[q.prompt for q in TASK.prompts("train", 300, seed=s)] for s in range(6)]
    orders += [[d.prompt for d in TASK.demonstrations(300, seed=s)] for s in range(6)]
    for a, b in itertools.combinations(orders, 2):
        same = sum(x == y for x, y in zip(a, b, strict=True))
        assert same <= 5 and len(set(a) & set(b)) < 90  # 300 of 2000: 45 in common by chance


def test_demonstrations_are_right_and_fit():
    for split in ID:
        for d in TASK.demonstrations(200, seed=1, split=split):
            assert d.example.split == split and TASK.reward(d.example, d.completion).correct
    tokens = word_tokenizer(TASK).get_vocab()
    for split in TASK.splits:
        for q in TASK.prompts(split):
            answer = expert_answer(q.steps, q.answer).split()
            assert set(q.prompt.split()) | set(answer) <= tokens.keys()
            assert len(answer) + 1 <= TASK.max_new_tokens
            assert len(q.prompt.split()) + TASK.max_new_tokens <= 64  # the tiny Llama's positions
    longest = max(len(expert_answer(q.steps, q.answer).split()) for q in TASK.prompts("ood_length"))
    assert longest + 1 == TASK.max_new_tokens


@pytest.mark.parametrize("split", OOD)
def test_there_are_no_experts_out_of_distribution(split):
    with pytest.raises(ValueError, match=f"not for {split}"):
        TASK.demonstrations(1, split=split)


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="no split is called 'tier_6'"):
        TASK.prompts("tier_6")
    with pytest.raises(ValueError, match="not 'shaped'"):
        load_task("arithmetic", reward="shaped")


# --- the grader -----------------------------------------------------------------------------------


def question(answer, prompt="3 + 4 ?"):
    return Question(prompt, "test", "g", prompt, "chain_sum", (), answer)


@pytest.mark.parametrize(
    ("text", "answer", "outcome"),
    [
        ("3 + 4 = 7 | boxed 7", "7", "correct"),
        ("boxed 7", "7", "correct"),
        ("3 + 4 = 9 | boxed 7", "7", "correct"),  # the working is not read
        ("boxed 9 boxed 7", "7", "correct"),  # the last box counts
        ("boxed 7 boxed 9", "7", "wrong_value"),
        (" \n boxed\t7\r\n", "7", "correct"),
        ("boxed -5", "-5", "correct"),
        ("boxed 0", "0", "correct"),
        ("boxed 8", "7", "wrong_value"),
        ("boxed 3 + 4", "7", "malformed_box"),  # never evaluated ...
        ("boxed 7 + 0", "7", "malformed_box"),  # ... nor read in part
        ("boxed 7 7", "7", "malformed_box"),
        ("boxed 7 |", "7", "malformed_box"),
        ("boxed 7 boxed", "7", "malformed_box"),
        ("boxed", "7", "malformed_box"),
        ("boxed 07", "7", "malformed_box"),
        ("boxed +7", "7", "malformed_box"),
        ("boxed -0", "0", "malformed_box"),
        ("boxed 7.0", "7", "malformed_box"),
        ("boxed 7\u00a0", "7", "malformed_box"),  # a blank that is not ASCII is part of the word
        ("boxed \u0667", "7", "malformed_box"),  # an Arabic 7
        ("boxed \uff17", "7", "malformed_box"),  # a full-width 7
        ("boxed <eos>", "7", "malformed_box"),
        ("Boxed 7", "7", "no_box"),
        ("boxed7", "7", "no_box"),
        ("answer 7", "7", "no_box"),  # the base's way
        ("7", "7", "no_box"),
        ("", "7", "no_box"),
        ("boxed B", "B", "correct"),
        ("boxed C", "B", "wrong_value"),
        ("boxed 15", "B", "wrong_kind"),  # the value where its letter was asked for
        ("boxed b", "B", "malformed_box"),
        ("boxed yes", "7", "malformed_box"),
        ("boxed B", "7", "wrong_kind"),
        ("1 " * 62 + "boxed 7", "7", "correct"),  # 64 words
        ("1 " * 63 + "boxed 7", "7", "too_long"),
        (" " * 2000 + "boxed 7", "7", "too_long"),
    ],
)
def test_outcomes_by_hand(text, answer, outcome):
    assert grade(text, question(answer)) == outcome and outcome in OUTCOMES
    reward = TASK.reward(question(answer), text)
    assert (reward.value, reward.reason) == (float(outcome == "correct"), outcome)
    assert reward.correct == (outcome == "correct")


def test_drafts_are_what_the_base_writes():
    assert grade("3 + 4 = 7 | answer 7", question("7"), draft=True) == "correct"
    assert grade("boxed 7", question("7"), draft=True) == "correct"
    assert grade("boxed 7 answer 8", question("7"), draft=True) == "wrong_value"


def right(text, answer):
    """Is it right? One pattern for the end of the text, and the length."""
    words = re.sub("[ \t\r\n]+", " ", text).strip(" ").split(" ")
    ends = re.fullmatch(r"(?:.* )?boxed (\S+)", " ".join(words), re.DOTALL)
    return bool(len(text) <= 1024 and len(words) <= 64 and ends and ends[1] == answer)


WORDS = [*TASK.vocabulary(), "", "\n", "boxed", "boxed", "7", "B", "yes", "\u00a0", "\ud800", "\0"]


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(
        st.text(max_size=80),
        st.lists(st.sampled_from(WORDS), max_size=70).map(" ".join),
        st.lists(st.sampled_from(["boxed", "7", "+", "B", " "]), max_size=6).map(" ".join),
    ),
    st.sampled_from(["7", "0", "-3", "B"]),
)
def test_any_text_has_an_outcome_and_right_ones_are_right(text, answer):
    outcome = grade(text, question(answer))
    assert outcome in OUTCOMES and (outcome == "correct") == right(text, answer)


def test_long_texts_are_graded_at_once():
    for text in ("boxed " * 10**6, "9" * 10**7, "boxed " + "9" * 1000, "-" * 1000):
        start = time.perf_counter()
        assert grade(text, question("7")) in ("too_long", "wrong_value", "no_box")
        assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("split", TASK.splits)
def test_echoes_score_nothing_and_constants_what_chance_gives(split):
    questions = TASK.prompts(split)
    for q in questions:
        body = q.prompt.removesuffix(" ?")
        for text in (body, q.prompt, f"boxed {body}", f"boxed {q.prompt}", "boxed", "boxed ?",
                     f"| boxed {body} = {q.answer}", f"answer {q.answer}"):  # fmt: skip
            assert TASK.reward(q, text).value == 0, text
    answers = Counter(solve(q.prompt) for q in questions)
    commonest, share = TASK.majority(split)
    scores = {a: sum(TASK.reward(q, f"boxed {a}").value for q in questions) for a in answers}
    assert max(scores.values()) == scores[commonest] == round(share * len(questions))
    highest = {"ood_choice": 0.32, "tier_3": 0.19}.get(split, 0.09)
    assert share < highest


# --- the base -------------------------------------------------------------------------------------


def test_pretraining_texts_are_true_and_hold_no_held_out_question():
    held_out = {
        canonical(p.question) for s in TASK.splits if s != "train" for p in TASK.problems(s)
    }
    boxed, families, n = 0, Counter(), 20_000
    stream = texts(TASK, 1.0, 0.01, random.Random(5))
    for prompt, text in itertools.islice(stream, n):
        assert canonical(prompt) not in held_out
        steps, _, end = text.rpartition(" | ")
        mark, word = end.split()
        assert word == solve(prompt)
        boxed += mark == "boxed"
        assert mark in ("boxed", "answer") and all(
            total(a) == int(b) for a, b in (s.split(" = ") for s in steps.split(" ; ") if "=" in s)
            if "/" not in a
        )  # fmt: skip
        families[prompt.split()[0] if prompt[0] in "sl" else "sum"] += 1
    assert boxed / n == pytest.approx(0.01, abs=0.003)
    found = (families["largest"] + families["smallest"], families["legs"])
    wanted = (WEIGHTS["ood_choice"], WEIGHTS["ood_words"])
    assert [count / n for count in found] == pytest.approx(wanted, abs=0.013)
    assert sum(WEIGHTS.values()) == pytest.approx(1)


def test_batches_of_texts_are_padded_around_the_answer():
    tokenizer = word_tokenizer(TASK)
    ids, attention, mask = padded(
        [("1 + 2 ?", "boxed 3"), ("9 ?", "1 + 2 = 3 | boxed 3")], tokenizer
    )
    assert [" ".join(tokenizer.convert_ids_to_tokens(row)) for row in ids] == [
        "1 + 2 ? boxed 3 <eos> <pad> <pad> <pad> <pad> <pad> <pad>",
        "<pad> <pad> 9 ? 1 + 2 = 3 | boxed 3 <eos>",
    ]
    assert ids.shape == attention.shape == (2, 4 + 9) and mask.shape == (2, 9)
    assert mask.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0, 0], [1] * 9]
    assert attention[0].tolist() == [1] * 7 + [0] * 6 and attention[1].tolist() == [0, 0] + [1] * 11
    with pytest.raises(KeyError):
        padded([("one ?", "boxed 1")], tokenizer)


def facts():
    return json.loads((FOLDER / "recipe.json").read_text())


def log_lines():
    return [json.loads(line) for line in (FOLDER / "log.jsonl").read_text().splitlines()]


def test_shipped_weights_lie_in_their_bands():
    assert {"stop": 0} | facts()["recipe"] == vars(recipe(task="arithmetic"))  # older than `stop`
    for name, (low, high) in BANDS.items():
        assert low <= facts()["bands"][name] <= high, name
    found = bands(*load_policy(FOLDER), recipe(task="arithmetic"), prompts=500)
    for name, (low, high) in BANDS.items():  # 500 draws: within three standard errors of a band
        assert low - 0.055 <= found[name] <= high + 0.055, (name, found[name])
        assert found[name] == pytest.approx(facts()["bands"][name], abs=0.06)
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) <= 1.5e6


def test_bands_can_fail():
    """A fresh model knows no word of an answer: the bands tell it from a base."""
    tokenizer = word_tokenizer(TASK)
    model = tiny_llama(len(tokenizer)).eval()
    found = bands(model, tokenizer, recipe(task="arithmetic"), prompts=100)
    assert found["success_with_drafts"] < 0.05 and found["ood_choice_with_drafts"] < 0.1


def test_the_first_steps_of_the_recipe_repeat_its_log():
    log, note = timed_log()
    pretrain(recipe(task="arithmetic"), stop_after=51, on_step=note)
    for line, wanted in zip(log, log_lines()[:2], strict=True):
        assert line["step"] == wanted["step"]
        assert line["loss"] == pytest.approx(wanted["loss"], abs=0.02)


@pytest.mark.slow
def test_the_whole_recipe_makes_a_base_like_the_shipped_one():
    """A few minutes: every logged loss, and the bands."""
    log, note = timed_log()
    model, tokenizer = pretrain(recipe(task="arithmetic"), on_step=note)
    losses = [line["loss"] for line in log_lines()]
    assert [line["loss"] for line in log] == pytest.approx(losses, abs=0.05)
    found = bands(model, tokenizer, recipe(task="arithmetic"))
    for name, (low, high) in BANDS.items():
        assert low <= found[name] <= high, (name, found[name])


def test_recipes_exist_for_what_can_be_pretrained():
    assert recipe(task="arithmetic", steps=3).steps == 3 and set(RECIPES) == {"0.2M"}
    with pytest.raises(ValueError, match=r"come in the sizes 0\.2M, not '0\.8M'"):
        recipe("0.8M", "arithmetic")
    with pytest.raises(ValueError, match="navigation_vision, not for 'dataset'"):
        recipe(task="dataset")


# --- a run ----------------------------------------------------------------------------------------


def test_a_run_measures_every_reported_split(tmp_path):
    words = ["run", "--config", "arithmetic_lite", "--out", tmp_path / "a"]
    short = "steps=4 warmup_steps=2 meta_every=1 validation_prompts=4 prompts_per_step=4"
    for setting in f"{short} eval_prompts=10 curve_prompts=5 eval_every=2".split():
        words += ["--set", setting]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.stderr)
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    for phase in ("base", "warm-up", "final"):
        assert list(summary["splits"][phase]) == ["test", *OOD]
        assert summary["splits"][phase]["ood_words"]["prompts"] == 10
    assert summary["groups"] == "groups" and "multisets" not in result.output
    for split in ("test", *OOD):
        assert split in result.output
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "ood_choice" in page and "J=Q=K" not in page
    words = ["evaluate", tmp_path / "a", "--split", "tier_5", "--prompts", 5, "--samples", 2]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0 and "tier_5" in result.output
