"""General Points with pictures: what is shown, how answers are graded, and a Llama with an eye."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from amft_lite.batches import encode, graded_rollouts, pictures_of
from amft_lite.config import ConfigError, build
from amft_lite.loop import AMFT
from amft_lite.models import (
    base_folder,
    completion_logits,
    eye_for,
    hidden_states,
    load_policy,
    take_weights,
    tiny_llama,
    token_logps,
    word_tokenizer,
)
from amft_lite.pretrain import bands, pretrain, recipe
from amft_lite.sampling import sample
from amft_lite.tasks import load_task
from amft_lite.tasks.cards import Card, look
from amft_lite.tasks.general_points import PICTURE, picture_hand
from amft_lite.tasks.vision_pretraining import BANDS, texts

TASK = load_task("general_points_vision")
TEXT = load_task("general_points")


def hand(cards=("J", "3", "8"), values=(10, 3, 8), target=22, rule=(10, 10, 10)):
    facts = {"split": "test", "group": "3-8-10", "key": "3-8-10>22", "cards": cards,
             "values": values, "target": target, "rule": rule}  # fmt: skip
    return picture_hand(facts, ["S", "C", "S"], 7)


@pytest.fixture(scope="module")
def model():
    """An untrained eye on an untrained Llama, with weights large enough to disagree."""
    tokenizer = word_tokenizer(TASK)
    model = tiny_llama(len(tokenizer), seed=3, eye=eye_for(TASK, tokenizer))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
    return model.eval(), tokenizer


# --- the task -------------------------------------------------------------------------------------


def test_a_prompt_hides_the_cards_and_its_picture_shows_them():
    shown = hand()
    assert shown.prompt == "10 10 10 ; 22 : <card> <card> <card> |"
    assert shown.deck == (Card("J", "S"), Card("3", "C"), Card("8", "S"))
    wanted = look(shown.deck, np.random.default_rng(7))
    assert (shown.pictures() == wanted).all() and shown.pictures().shape == (3, 32, 24, 3)
    assert TEXT.prompts("test", 1)[0].pictures() is None
    assert TASK.vocabulary() == [*TEXT.vocabulary(), PICTURE]


def test_suits_are_the_visual_variation_and_problems_stay_the_same():
    assert TASK.splits == (*TEXT.splits, "ood_visual")
    for split in TASK.splits:
        hands = TASK.prompts(split, 60)
        suits = {suit for hand in hands for suit in hand.suits}
        assert suits == ({"H", "D"} if split == "ood_visual" else {"S", "C"})
        twins = TASK.prompts(split, 60)
        assert [h.view for h in hands] == [h.view for h in twins]
        assert len({h.view for h in hands}) == 60  # no two lie alike
    assert TASK.problems("ood_visual") == TASK.problems("test") == TEXT.problems("test")
    with pytest.raises(ValueError, match="belongs to the game with pictures"):
        TEXT.problems("ood_visual")


def test_experts_are_right_and_fill_the_longest_answer():
    demonstrations = TASK.demonstrations(50, seed=2)
    for d in demonstrations:
        assert TASK.reward(d.example, d.completion).correct
        assert len(d.completion.split()) + 1 == TASK.max_new_tokens
        assert d.completion.startswith(" ".join(d.example.cards) + " | ")
    wrong = load_task("general_points_vision", wrong_demonstrations=0.5).demonstrations(40)
    rewards = [TASK.reward(d.example, d.completion) for d in wrong]
    assert [r.correct for r in rewards] == [d.right for d in wrong]
    assert {r.reason for r in rewards} == {"correct", "wrong_value"}


@pytest.mark.parametrize(("answer", "outcome"), [
    ("J 3 8 | 10 3 8 | 10 * 3 = 30 30 - 8 = 22", "correct"),
    # wrong cards come before whatever else is wrong
    ("Q 3 8 | 10 3 8 | 10 * 3 = 30 30 - 8 = 22", "wrong_cards"),
    ("3 J 8 | 3 10 8 | 10 * 3 = 30 30 - 8 = 22", "wrong_cards"),
    ("Q 3 8 | 9 3 8 | 10 * 3 = 31 x", "wrong_cards"),
    ("Q 3 8 | 10 3", "wrong_cards"),  # before the form of what comes after is looked at
    ("J 3 8 | 10 3", "syntax"),
    ("J 3 8 | 11 3 8 | 11 * 3 = 33 33 - 8 = 25", "misread"),
    ("J 3 8 | 10 3 8 | 10 + 3 = 13 13 + 8 = 21", "wrong_value"),
    ("J 3 8 | 10 3 8 | 10 * 3 = 31 31 - 8 = 23", "wrong_arithmetic"),
    ("J 3 8 | 10 3 8 | 10 * 3 = 30", "unused_number"),
    ("J 3 8 | 10 3 8 | 10 * 8 = 80 80 - 10 = 70", "wrong_number"),
    ("J 3 8 | 10 3 8 | 10 * 3 = 30 30 - eight = 22", "illegal"),
    ("J 3 8 10 3 8 10 * 3 = 30 30 - 8 = 22", "syntax"),
    ("J 3 8 | 10 3 8 | 10 * 3 = 30 | 30 - 8 = 22", "syntax"),
    ("J 3 | 10 3 8 | 10 * 3 = 30 30 - 8 = 22", "syntax"),
    ("J 3 8 | 10 3 8 10 * 3 = 30 | 30 - 8 = 22", "syntax"),
    ("J 3 10 8 | 10 3 8 | 10 * 3 = 30 30 - 8 = 22", "syntax"),
    ("<card> 3 8 | 10 3 8 | 10 * 3 = 30 30 - 8 = 22", "syntax"),
    ("", "syntax"),
    ("J 3 8 | " * 200, "too_long"),
])  # fmt: skip
def test_answers_graded_by_hand(answer, outcome):
    assert TASK.reward(hand(), answer).reason == outcome
    assert TASK.reward(hand(), answer).value == float(outcome == "correct")


def test_wrong_cards_cost_what_they_cost_in_the_original():
    shaped = load_task("general_points_vision", reward="shaped")
    assert shaped.reward(hand(), "Q 3 8 | 10 3 8 | 10 * 3 = 30 30 - 8 = 22").value == -1.5
    assert shaped.reward(hand(), "J 3 8 | 10 3 8 | 10 * 3 = 30 30 - 8 = 22").value == 5.0


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=500), st.lists(
    st.sampled_from(["|", "J", "3", "8", "10", "*", "=", "30", PICTURE, "٣", "\x00"]),
    max_size=40).map(" ".join)))  # fmt: skip
def test_any_text_gets_a_verdict(text):
    assert TASK.reward(hand(), text).reason != "" and not TASK.reward(hand(), text + " |").correct


def test_the_json_form_names_the_cards_that_were_read():
    from amft_lite.tasks.general_points import from_json, to_json

    answer = "Q 3 8 | 10 3 8 | 10 * 3 = 30 30 - 8 = 22"
    found = to_json(answer, hand())
    assert found == {"cards": ["Q", "3", "8"], "number": [10, 3, 8], "formula": "(10*3)-8=22"}
    assert from_json(found) == answer.split(" | ", 1)[1].replace(" | ", " ")
    with pytest.raises(ValueError, match="syntax"):
        to_json("10 3 8 10 * 3 = 30 30 - 8 = 22", hand())


# --- the model ------------------------------------------------------------------------------------


def inputs(tokenizer, hands):
    encoded = tokenizer([h.prompt for h in hands], padding=True, return_tensors="pt")
    return encoded.input_ids, encoded.attention_mask, pictures_of(hands)


def test_it_saves_loads_and_generates_like_any_other(model, tmp_path):
    policy, tokenizer = model
    ids, attention, seen = inputs(tokenizer, TASK.prompts("test", 4))
    with torch.no_grad():
        before = policy(ids, attention, pixel_values=seen).logits
    policy.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load_policy(tmp_path)
    assert type(again) is type(policy)
    with torch.no_grad():
        assert torch.equal(again(ids, attention, pixel_values=seen).logits, before)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), type(policy))
    greedy = policy.generate(
        ids, attention_mask=attention, pixel_values=seen, max_new_tokens=8, do_sample=False
    )
    ours = sample(policy, ids, attention, 1, 8, 0.0, pictures=seen)
    for row, mine in zip(greedy, ours.ids, strict=True):  # up to an end-of-text
        length = min(len(row), len(mine))
        assert row[:length].tolist() == mine[:length].tolist()


def test_pictures_matter_and_each_has_its_own_place(model):
    policy, tokenizer = model
    hands = TASK.prompts("test", 2)
    ids, attention, seen = inputs(tokenizer, hands)
    with torch.no_grad():
        logits = completion_logits(policy, ids, attention, 1, seen)
        swapped = completion_logits(policy, ids, attention, 1, seen.flip(1))
        blank = completion_logits(policy, ids, attention, 1, torch.zeros_like(seen))
    assert (logits - swapped).abs().max() > 1e-3 and (logits - blank).abs().max() > 1e-3
    # by hand: the eye's vectors in the places of the tokens
    x = policy.model.embed_tokens(ids)
    for row, picture in enumerate(seen):
        places = (ids[row] == tokenizer.get_vocab()[PICTURE]).nonzero().flatten()
        for place, one in zip(places, picture, strict=True):
            x[row, place] = policy.eye(one.unsqueeze(0))[0]
    assert torch.allclose(policy.embed(ids, seen), x, atol=1e-5)


def test_rows_alike_are_looked_at_once_and_change_nothing(model):
    policy, tokenizer = model
    ids, attention, seen = inputs(tokenizer, [h for h in TASK.prompts("test", 3) for _ in range(4)])
    looked = []
    policy.eye.register_forward_hook(lambda module, args, out: looked.append(len(out)))
    with torch.no_grad():
        together = completion_logits(policy, ids, attention, 1, seen)
        alone = torch.cat([completion_logits(policy, ids[i : i + 1], attention[i : i + 1], 1,
                                             seen[i : i + 1]) for i in range(12)])  # fmt: skip
    policy.eye._forward_hooks.clear()
    assert looked == [9] + [3] * 12
    assert torch.allclose(together, alone, atol=1e-4)


def test_a_picture_token_in_an_answer_is_a_word(model):
    policy, tokenizer = model
    ids, _, seen = inputs(tokenizer, TASK.prompts("test", 2))
    token = tokenizer.get_vocab()[PICTURE]
    longer = torch.cat((ids, torch.full((2, 2), token)), 1)
    x = policy.embed(longer, seen)
    assert torch.allclose(x[:, :-2], policy.embed(ids, seen), atol=1e-5)
    assert torch.equal(x[0, -1], policy.model.embed_tokens.weight[token])
    with pytest.raises(ValueError, match="2 rows of 3 pictures"):
        policy.embed(ids[:, :6], seen)


def test_the_sampler_s_probabilities_are_those_of_the_training_forward(model):
    policy, tokenizer = model
    hands = TASK.prompts("test", 3)
    source = torch.Generator().manual_seed(0)
    batch = graded_rollouts(policy, tokenizer, TASK, hands, 4, 1.0, source)
    assert batch.pictures.shape == (12, 3, 32, 24, 3)
    assert torch.equal(batch.pictures[4], batch.pictures[7])
    length = batch.tokens.shape[1]
    with torch.no_grad():
        logits = completion_logits(policy, batch.ids, batch.attention, length, batch.pictures)
        first = policy(*inputs(tokenizer, hands)[:2], pixel_values=pictures_of(hands)).logits[:, -1]
        states = hidden_states(policy, batch.ids, batch.attention, length, batch.pictures)
    assert torch.allclose(logits[::4, 0], first, atol=1e-4)
    assert torch.allclose(policy.lm_head(states), logits, atol=1e-4)
    part = batch.rows(slice(4, 8))
    assert torch.equal(part.pictures, batch.pictures[4:8])


# --- training -------------------------------------------------------------------------------------


def test_the_loop_trains_eye_and_language_alike(model):
    policy, tokenizer = copy.deepcopy(model[0]), model[1]
    config = build({
        "task": "general_points_vision", "steps": 3, "warmup_steps": 1, "demonstrations": 12,
        "sft_batch": 6, "prompts_per_step": 3, "rollouts_per_prompt": 2, "validation_prompts": 3,
        "validation_rollouts": 2, "meta_every": 1, "advantage": "gae",
    })  # fmt: skip
    task = copy.copy(TASK)
    paid = iter(range(10**6))  # untrained, it is never right; alternating rewards stand in

    def reward(example, text):
        found = TASK.reward(example, text)
        return type(found)(float(next(paid) % 2), found.reason, False)

    task.reward = reward
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    loop = AMFT(policy, tokenizer, task, config)
    for _ in range(3):
        facts = loop.train_step()
        assert facts["grad_norm_sft"] > 0 and np.isfinite(facts["grad_norm"])
    assert facts["grad_norm_rl"] > 0 and facts["grad_norm_utility"] > 0
    for name, p in policy.named_parameters():
        assert (p - before[name]).abs().max() > 0, name
    # micro-batches add up, pictures and all
    batch = encode(tokenizer, TASK.demonstrations(6))
    whole = loop.gradient(loop.sft_loss, batch, {})
    loop.config = build({"task": "general_points_vision", "micro_batch": 2})
    parts = loop.gradient(loop.sft_loss, batch, {})
    assert (whole - parts).norm() < 1e-4 * whole.norm()


def test_the_vision_base_starts_from_the_text_base(model):
    policy, tokenizer = copy.deepcopy(model[0]), model[1]
    eye = copy.deepcopy(policy.eye.state_dict())
    take_weights(policy, tokenizer, *load_policy(base_folder("general_points")))
    base, words = load_policy(base_folder("general_points"))
    assert all(torch.equal(eye[k], v) for k, v in policy.eye.state_dict().items())
    hands = TEXT.prompts("test", 3)
    for text in (h.prompt for h in hands):  # a prompt in words: the same next word
        mine = policy(torch.tensor([[tokenizer.get_vocab()[w] for w in text.split()]])).logits
        theirs = base(torch.tensor([[words.get_vocab()[w] for w in text.split()]])).logits
        shared = [w for w in words.get_vocab() if w in tokenizer.get_vocab()]
        a = mine[0, -1, [tokenizer.get_vocab()[w] for w in shared]]
        b = theirs[0, -1, [words.get_vocab()[w] for w in shared]]
        assert torch.allclose(a, b, atol=1e-4)


def test_pretraining_shows_what_the_recipe_says_and_learns():
    import random

    stream = texts(TASK, 0.3, 0.01, random.Random(0))
    rows = [next(stream) for _ in range(1500)]
    low = []  # twos and threes: is it red?
    for _, answer, seen in rows:
        red = (seen[..., 0].astype(int) - seen[..., 1]).max((1, 2)) > 100
        for rank, is_red in zip(answer.split("|")[0].split(), red, strict=True):
            if rank in "2 3".split():
                low.append(is_red)
            else:
                assert not is_red
    assert abs(np.mean(low) - 0.4) < 4 * (0.4 * 0.6 / len(low)) ** 0.5 and len(low) > 500
    for prompt, answer, seen in rows[:200]:
        assert prompt.split().count(PICTURE) == 3 == len(seen) and answer.count("|") == 2
        assert prompt.split()[:3] not in (["10"] * 3, ["11", "12", "13"])
    losses = []
    config = recipe(task="general_points_vision", batch=32)
    pretrain(config, stop_after=6, on_step=lambda step, loss: losses.append(loss))
    assert losses[-1] < losses[0]


def test_the_shipped_base_lies_in_its_bands():
    """Again from its weights: 500 draws, so within three standard errors of a band."""
    stated = json.loads((base_folder(TASK.name) / "recipe.json").read_text())["bands"]
    found = bands(*load_policy(base_folder(TASK.name)), recipe(task=TASK.name), prompts=500)
    assert set(stated) == set(BANDS) == set(found)
    for name, (low, high) in BANDS.items():
        assert low <= stated[name] <= high, name
        assert found[name] == pytest.approx(stated[name], abs=0.06), name


def test_a_point_of_a_curve_says_how_cards_were_read():
    from amft_lite.cells import glance

    config = build({"task": "general_points_vision", "demonstrations": 12, "warmup_steps": 1})
    loop = AMFT(*load_policy(base_folder(TASK.name)), TASK, config)
    point = glance(loop, {"test": [0, 8], "ood_visual": [0, 8]}, 200, 4)
    assert set(point) == {"test", "test: cards read right", "ood_visual",
                          "ood_visual: cards read right", "demonstration_nll"}  # fmt: skip
    assert point["test: cards read right"] > 0.9 > point["ood_visual: cards read right"] > 0.1


def test_the_log_probabilities_of_an_answer_depend_on_the_picture(model):
    policy, tokenizer = model
    batch = encode(tokenizer, TASK.demonstrations(4))
    length = batch.tokens.shape[1]
    with torch.no_grad():
        a, b = (
            token_logps(completion_logits(policy, batch.ids, batch.attention, length, seen),
                        batch.tokens)
            for seen in (batch.pictures, batch.pictures.roll(1, 0))
        )  # fmt: skip
    assert (a - b).abs().max() > 1e-3


def test_pictures_are_refused_where_they_do_not_go_yet():
    with pytest.raises(ConfigError, match="general_points_vision works in runs without `model`"):
        build({"model": "tiny", "task": "general_points_vision"})


def test_recognition_is_measured_beside_success():
    from amft_lite.evaluation import graded
    from amft_lite.report import summary_rows

    hands = [hand(), hand(("K", "3", "8"))]
    right, other = "J 3 8 | 10 3 8 | 10 * 3 = 30 30 - 8 = 22", "K 3 8 | 9"
    found = graded(TASK, "test", hands, [[right, other, "J 3"], [other, other, right]])
    assert found.correct == [1, 0] and found.readings == {"cards read right": [1, 2]}
    assert found.summary()["readings"]["cards read right"]["mean"] == pytest.approx(3 / 6)
    assert "readings" not in graded(TEXT, "test", TEXT.prompts("test", 1), [["1"]]).summary()
    facts = found.summary()
    rows = summary_rows({"method": "amft", "splits": {"base": {"test": facts, "ood_rule": facts}}})
    assert [row[0] for row in rows] == ["base", "  cards read right"]
    assert rows[1][1].startswith("0.500 [") and rows[1][3:] == ("-", "-")


def test_a_task_without_a_tiny_base_says_what_else_there_is(tmp_path):
    from amft_lite.runs import load_base

    task = load_task("general_points_classic_vision")
    with pytest.raises(ConfigError, match="no recipe for one of general_points_classic_vision"):
        load_base(build({"task": "general_points_classic_vision"}), task)
