"""General Points with feedback between tries: what is said, what is paid, and a base that grows."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from amft_lite.batches import encode
from amft_lite.cli import app
from amft_lite.config import ConfigError, build
from amft_lite.evaluation import evaluate
from amft_lite.models import (
    base_folder,
    completion_logits,
    load_policy,
    positions,
    with_words,
    word_tokenizer,
)
from amft_lite.runs import Interrupted, Run, load_base
from amft_lite.tasks import is_dialogue, load_task, new_words
from amft_lite.tasks.points_dialogue import FEEDBACK, Game, feedback, played
from amft_lite.tasks.points_grader import OUTCOMES, Hand, Verdict, verify

HAND = Hand("10 10 10 ; 22 : J 3 8 |", "train", "3-8-10", "3-8-10>22", ("J", "3", "8"), (10, 3, 8),
            22, (10, 10, 10))  # fmt: skip
RIGHT = "10 3 8 10 * 3 = 30 30 - 8 = 22"
#: An answer -> its outcome, and what the verifier says before it repeats the question.
WRONG = {
    "10 3 8 10 + 3 = 13 13 + 8 = 21": ("wrong_value", "21 wrong_value"),
    "10 3 8 10 * 3 = 31 31 - 8 = 23": ("wrong_arithmetic", "wrong_arithmetic"),
    "11 3 8 11 + 3 = 14 14 + 8 = 22": ("misread", "misread"),
    "10 3 8 10 + 4 = 14 14 + 8 = 22": ("wrong_number", "wrong_number"),
    "10 3 8 10 * 3 = 30": ("unused_number", "unused_number"),
    "10 3 8 10 3 * = 30 30 8 - = 22": ("syntax", "syntax"),
    "10 3 8 ten": ("illegal", "illegal"),
    "10 " * 200: ("too_long", "too_long"),
    "": ("syntax", "syntax"),
}


@pytest.fixture(scope="module")
def task():
    return load_task("general_points", tries=3)


@pytest.mark.parametrize(("answer", "said"), WRONG.items())
def test_the_verifier_says_what_was_wrong_and_asks_again(answer, said):
    outcome, start = said
    game = Game(HAND, tries=2)
    assert game.answer(answer) == f"{start} 10 10 10 ; 22 : J 3 8 |"
    assert [verdict.outcome for verdict in game.verdicts] == [outcome]
    assert not game.over and game.answer(RIGHT) is None and game.won


def test_every_fault_of_an_answer_in_steps_has_its_word(task):
    about_others = {"correct", "wrong_cards", "unbalanced"}  # pictures, and formulas with brackets
    assert set(FEEDBACK) == set(OUTCOMES) - about_others
    words = {*task.vocabulary()}
    for outcome in FEEDBACK:
        for value in (None, 0, 99):
            assert {*feedback(Verdict(outcome, value), HAND).split()} <= words


@pytest.mark.parametrize(
    ("answers", "binary", "shaped", "reason"),
    [
        ([RIGHT], 1, 5, "correct"),
        (["10 3 8 10 * 3 = 30", RIGHT], 1, -2 + 5, "correct"),
        (["", "x", RIGHT], 1, -3 - 3 + 5, "correct"),
        # lost: three answers, and 1 for the call after the last
        (["", "x", "10 3 8 10 + 3 = 13 13 + 8 = 21"], 0, -3 - 3 - 1 - 1, "wrong_value"),
        ([""], 0, -3, "syntax"),  # cut off
        ([], 0, 0, "unfinished"),
        (["", "x", "", RIGHT], 0, -3 - 3 - 3 - 1, "syntax"),  # said too late
        ([RIGHT, "x"], 1, 5, "correct"),  # said after the end
    ],
)
def test_rewards_of_a_game(answers, binary, shaped, reason):
    task, paid = (load_task("general_points", tries=3, reward=r) for r in ("binary", "shaped"))
    reward = task.reward(HAND, tuple(answers))
    assert (reward.value, reward.correct, reward.reason) == (binary, bool(binary), reason)
    assert paid.reward(HAND, tuple(answers)).value == shaped
    assert paid.reward(HAND, tuple(answers)).correct == bool(binary)


def test_one_text_is_one_answer_and_a_game_that_is_over_takes_none(task):
    assert task.reward(HAND, RIGHT).value == 1 and task.reward(HAND, "x").value == 0
    game = played(HAND, RIGHT, 3)
    with pytest.raises(ValueError, match="over"):
        game.answer(RIGHT)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.text()
        | st.lists(st.sampled_from([*"0123456789+-*/=|;:AJQK", "10", "30", "<eos>"])).map(" ".join),
        max_size=4,
    )
)
def test_any_answers_have_a_reward_and_a_reply_of_known_words(answers):
    task = load_task("general_points", tries=3)
    game, words = task.episode(HAND), {*task.vocabulary()}
    for text in answers:
        if game.over:
            break
        reply = game.answer(text)
        assert (reply is None) == game.over
        assert reply is None or {*reply.split()} <= words
    assert game.reward == task.reward(HAND, tuple(answers))
    assert -10 <= load_task("general_points", tries=3, reward="shaped").reward(
        HAND, tuple(answers)
    ).value <= 5  # fmt: skip


def test_one_try_is_the_old_task():
    old, new = load_task("general_points"), load_task("general_points", tries=1)
    dialogue = load_task("general_points", tries=2)
    assert not is_dialogue(old) and not is_dialogue(new) and is_dialogue(dialogue)
    assert old.vocabulary() == new.vocabulary() and new_words(new) == ()
    assert (
        word_tokenizer(new).get_vocab() == load_policy(base_folder("general_points"))[1].get_vocab()
    )
    for split in old.splits:
        assert old.prompts(split, 30, 4) == new.prompts(split, 30, 4)
        assert old.prompts(split, 30, 4) == dialogue.prompts(split, 30, 4)
    assert old.demonstrations(20) == new.demonstrations(20) == dialogue.demonstrations(20)
    for kind in ("binary", "shaped"):
        old, new = (load_task("general_points", reward=kind, **o) for o in ({}, {"tries": 1}))
        for text in [RIGHT, *WRONG]:
            assert old.reward(HAND, text) == new.reward(HAND, text)
            assert new.reward(HAND, text).reason == verify(text, HAND).outcome


def test_the_longest_game_fits(task):
    tokenizer = word_tokenizer(task)
    longest = "10 3 8 10 + 3 = 13 13 + 8 = 21"
    assert len(longest.split()) + 1 == task.max_new_tokens
    reply = feedback(verify(longest, HAND), HAND)
    length = 3 * task.max_new_tokens + 2 * len(tokenizer(reply)["input_ids"])
    assert length == task.max_episode_tokens
    assert positions(task) == 64 + length


def test_a_base_with_more_words_says_of_the_old_ones_what_it_said():
    policy, tokenizer = load_policy(base_folder("general_points"))
    larger, words = with_words(policy, tokenizer, FEEDBACK, seed=3)
    V = len(tokenizer)
    assert len(words) == larger.config.vocab_size == V + len(FEEDBACK)
    old = tokenizer.get_vocab()
    assert {w: n for w, n in words.get_vocab().items() if w in old} == old
    assert words.decode(words("misread ; 10")["input_ids"]) == "misread ; 10"
    demonstrations = load_task("general_points").demonstrations(6)
    a, b = encode(tokenizer, demonstrations), encode(words, demonstrations)
    assert torch.equal(a.ids, b.ids)
    T = a.tokens.shape[1]
    before = completion_logits(policy, a.ids, a.attention, T)
    after = completion_logits(larger, b.ids, b.attention, T)
    torch.testing.assert_close(after[..., :V], before, rtol=1e-5, atol=1e-5)
    assert policy.config.vocab_size == V  # the base itself is as it was
    # the new rows come from the seed, and are tied to the output
    again, other = (with_words(policy, tokenizer, FEEDBACK, seed)[0] for seed in (3, 4))
    rows = larger.model.embed_tokens.weight[V:]
    assert torch.equal(rows, again.model.embed_tokens.weight[V:])
    assert not torch.equal(rows, other.model.embed_tokens.weight[V:])
    assert larger.lm_head.weight is larger.model.embed_tokens.weight


def test_a_base_grows_by_words_of_feedback_only(task):
    policy, tokenizer = load_base(build({"tries": 3}), task)
    assert set(tokenizer.get_vocab()) == {"<pad>", "<eos>", "<unk>", *task.vocabulary()}
    assert policy.config.vocab_size == len(tokenizer)
    with pytest.raises(ConfigError, match=r"does not know the words J Q K : of"):
        load_base(build({"tries": 3, "base": "arithmetic-0.2M"}), task)
    found = evaluate(policy, tokenizer, task, "test", 4, samples=2, greedy=False)
    assert set(found.outcomes) <= set(OUTCOMES)
    assert "right at the first try" in found.readings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"task": "arithmetic", "tries": 2}, "tries is for General Points and navigation, not for"),
        ({"task": "gsm_symbolic", "tries": 1}, "tries is for General Points and navigation"),
        ({"tries": -1}, "tries must be at least 0"),
        ({"tries": 21}, "tries must be at most 20"),
        ({"tries": 1.5}, "tries must be a whole number"),
        ({"tries": 2, "model": "tiny"}, "verifier's words in runs without"),
    ],
)
def test_impossible_tries_are_one_sentence(settings, words):
    with pytest.raises(ConfigError, match=words):
        build(settings)


def test_tries_reach_the_task_only_when_set(tmp_path):
    assert "tries" not in build({}).task_options()
    assert build({"tries": 2, "task": "navigation"}).task_options() == {"tries": 2}
    assert Run(tmp_path, build({"tries": 4, "task": "navigation"})).task.tries == 4
    assert Run(tmp_path, build({"task": "navigation"})).task.tries == 2
    with pytest.raises(ConfigError, match="with pictures has one try"):
        Run(tmp_path, build({"tries": 2, "task": "general_points_vision"}))
    assert not is_dialogue(load_task("general_points_vision", tries=1))


def test_a_run_with_feedback_from_start_to_report(tmp_path):
    folder = tmp_path / "run"
    small = "tries=3 steps=4 warmup_steps=2 meta_every=2 eval_every=0 eval_prompts=4 eval_samples=2"
    words = ["run", "--config", "smoke", "--out", str(folder)]
    words += [word for setting in small.split() for word in ("--set", setting)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (result.output, result.exception)
    summary = json.loads((folder / "summary.json").read_text())
    final = summary["splits"]["final"]["test"]
    first = final["readings"]["right at the first try"]["mean"]
    assert first <= final["success"]["mean"]
    for command in (["report"], ["evaluate", "--prompts", "4", "--samples", "2"]):
        result = CliRunner().invoke(app, [*command, str(folder)])
        assert result.exit_code == 0, (result.output, result.exception)
    # interrupted after some steps and gone on with, it ends at the same weights
    run, half = Run.open(folder), tmp_path / "half"
    other = Run.create(half, run.config)
    with pytest.raises(Interrupted):
        other.train(stop=lambda: other.step >= 3)
    again = Run.open(half)
    other.lock_file.close()
    again.train()
    run.load()
    again.load()
    for a, b in zip(run.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(a, b)
