"""Walks with pictures: what is seen at each point, and dialogues in which a policy looks again."""

import copy
import dataclasses
import itertools
import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amft_lite.batches import encode, graded_rollouts, pictures_of, roll
from amft_lite.config import ConfigError, build
from amft_lite.episodes import converse
from amft_lite.loop import AMFT
from amft_lite.models import (
    base_folder,
    completion_logits,
    eye_for,
    load_policy,
    positions,
    tiny_llama,
    token_logps,
    word_tokenizer,
)
from amft_lite.picture_llama import Eye, put_pictures_in
from amft_lite.pretrain import bands, pretrain, recipe, timed_log
from amft_lite.tasks import Reward, load_task, street_walks, streets_pretraining
from amft_lite.tasks.city import SIDES, build_city
from amft_lite.tasks.navigation import SEEN_SPLITS, Navigation, Walk, expert, journey, walked
from amft_lite.tasks.original_formats import NavigationOnFile
from amft_lite.tasks.street_walks import VIEW, scenes, seen_journey
from amft_lite.tasks.streets import AWAY_LOOKS, HOME_LOOKS, ICONS, Scene, mosaic
from amft_lite.tasks.walks import landmarks_read
from tests.town import TOWN, WAY

#: The town with landmarks that can be drawn: a bank west of the crossing, a tower south-east of the
#: destination.
DRAWN = dataclasses.replace(TOWN, landmarks=TOWN.landmarks | {(1, 2): ("tower", 135)})
TASK = load_task("navigation_vision")


@pytest.fixture
def bare(monkeypatch):
    """Nothing at the wayside."""
    monkeypatch.setattr(street_walks, "WAYSIDE", 0.0)


def street_walk():
    return seen_journey(journey(WAY, DRAWN, "test"), DRAWN, HOME_LOOKS[0])


@pytest.fixture(scope="module")
def fresh():
    """An untrained eye and Llama, sharpened so that pictures matter and draws are not uniform."""
    tokenizer = word_tokenizer(TASK)
    eye = eye_for(TASK, tokenizer)
    model = tiny_llama(len(tokenizer), seed=5, eye=eye, positions=positions(TASK)).eval()
    with torch.no_grad():
        model.lm_head.weight *= 12
        for p in model.eye.parameters():
            p.mul_(3.0)
    return model, tokenizer


# --- what is seen -----------------------------------------------------------------------------


def test_scenes_are_those_that_one_draws_on_paper(bare):
    """TOWN from above, WAY walked with a finger: see `tests.town`."""
    assert list(scenes(WAY, DRAWN)) == [
        Scene((6,)),  # looking east where the one street leads north: to the left
        Scene((0, 4)), Scene((0, 4)),
        Scene((1, 4), "bank", 6, crossing=True),  # on north-east, or back south; bank in the west
        Scene((0, 4)),
        Scene((4,), "tower", 2),  # facing north-east the south-east is on the right
    ]  # fmt: skip


def test_the_task_tells_where_crossings_are_and_shows_the_rest(bare):
    seen, text = street_walk(), journey(WAY, DRAWN, "test")
    assert seen.prompt == text.prompt.replace("see nothing", f"see {VIEW}")
    walk = Walk(seen)
    replies = [walk.answer(point.answer) for point in seen.points]
    assert replies == [f"see {VIEW} :", f"see {VIEW} :", f"see intersection {VIEW} :",
                       f"see {VIEW} :", f"see {VIEW} :", None]  # fmt: skip
    assert walk.reward == Reward(1.0, "arrived", True)
    assert [p.answer for p in seen.points] == [p.answer for p in text.points]
    assert [p.shown for p in text.points] == [""] * 6
    assert expert(seen).replies == tuple(replies[:-1])


def test_a_wrong_attempt_is_told_without_a_second_picture():
    """So that the k-th picture is that of the k-th point, however many attempts there were."""
    walk = Walk(street_walk())
    right = walk.journey.points[0].answer
    assert walk.answer("nothing | 1 turn left north | forward") == "wrong :"
    assert walk.answer(right) == f"see {VIEW} :"
    assert walk.answer("nonsense") == "not_allowed :"


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([], (0, 2)),
        ({3: "intersection bank left"}, (1, 2)),
        ({3: "intersection bank right"}, (0, 2)),  # the wrong side
        ({3: "intersection tower left"}, (0, 2)),  # the wrong landmark
        ({3: "bank left"}, (0, 2)),  # no crossing
        ({3: "intersection bank left", 5: "tower right"}, (2, 2)),
    ],
)
def test_landmarks_count_where_there_is_one_and_all_of_it_is_read(bare, answers, found):
    example = street_walk()
    said = [
        f"{dict(answers).get(k, 'nothing')} | {p.direction} | {p.action}"
        for k, p in enumerate(example.points)
    ]
    assert landmarks_read(walked(example, said), said) == found
    assert TASK.readings["landmarks read right"](example, said) == found
    first = landmarks_read(walked(example, said), said, "turn")  # at the crossing
    last = landmarks_read(walked(example, said), said, "stop")
    assert first[1] == last[1] == 1 and first[0] + last[0] == found[0]


def test_of_two_attempts_the_first_is_what_was_read(bare):
    example = street_walk()
    said = [p.answer for p in example.points]
    wrong = f"intersection cafe left | {example.points[3].direction} | stop"
    twice = [*said[:3], wrong, *said[3:]]
    assert landmarks_read(walked(example, twice), twice) == (1, 2)
    assert landmarks_read(walked(example, said[:4]), said[:4]) == (1, 1)  # the rest was not met


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(["|", VIEW, "see", "intersection", "bank", "\x00", "turn", "north"]),
             max_size=12).map(" ".join)), max_size=14))  # fmt: skip
def test_any_answers_are_graded_and_none_raises(answers):
    example = street_walk()
    assert isinstance(TASK.reward(example, tuple(answers)), Reward)
    for question in TASK.readings.values():
        right, asked = question(example, answers)
        assert 0 <= right <= asked


def test_every_point_has_a_picture_of_its_own_city():
    for split in TASK.splits:
        looks = AWAY_LOOKS if split == "ood_visual" else HOME_LOOKS
        journeys = TASK.journeys(split)
        assert {j.look for j in journeys} == set(looks)
        assert len({(j.route.city, j.look) for j in journeys}) == len(
            {j.route.city for j in journeys}
        )  # one look a city
        for example in journeys[:40]:
            seen = example.pictures()
            assert seen.shape == (len(example.points), 49, 49, 3) and seen.dtype == np.uint8
            assert np.array_equal(seen, example.pictures())  # the same light every time
            for point, scene in zip(example.points, example.scenes, strict=True):
                where = point.seen.split()
                assert ("intersection" in where) == scene.crossing
                assert (scene.landmark in where) if scene.landmark else len(where) == 1
                assert point.shown == ("intersection " * scene.crossing) + VIEW
    assert not set(HOME_LOOKS) & set(AWAY_LOOKS)


def test_at_the_wayside_there_are_landmarks_that_no_direction_names():
    """So nobody reads them without looking, and the first sign is not always the destination."""
    journeys = TASK.journeys("train")
    between = [
        (j, point, scene)
        for j in journeys
        for point, scene in zip(j.points, j.scenes, strict=True)
        if point.kind == "forward"
    ]
    marked = [(j, point, scene) for j, point, scene in between if scene.landmark]
    n = len(between)
    assert abs(len(marked) / n - 0.5) < 4 * (0.25 / n) ** 0.5
    for example, point, scene in marked:
        assert scene.landmark not in example.prompt.split()
        assert point.seen == f"{scene.landmark} {SIDES[scene.side]}"
        assert SIDES[scene.side] not in ("front", "behind")  # there the street leads
    text = journey(journeys[0].route, build_city(journeys[0].route.city, tuple(ICONS)), "train")
    assert [(p.direction, p.action) for p in text.points] == [
        (p.direction, p.action) for p in journeys[0].points
    ]  # what is right is as in the game in words
    assert text.prompt.replace("see nothing", f"see {VIEW}") == journeys[0].prompt


def test_splits_share_no_city_and_all_have_the_twelve_landmarks():
    cities = {split: {j.route.city for j in TASK.journeys(split)} for split in TASK.splits}
    every = [city for found in cities.values() for city in found]
    assert len(every) == len(set(every))
    assert len(cities["ood_visual"]) == 9  # as in the original
    for split in TASK.splits:
        named = {s.landmark for j in TASK.journeys(split) for s in j.scenes} - {""}
        assert named == set(ICONS)
    assert {facts[-1] for facts in SEEN_SPLITS.values()} == {tuple(ICONS)}


def test_every_expert_gets_the_whole_reward():
    for split in ("train", "test", "ood_visual"):
        for demonstration in TASK.demonstrations(30, split=split):
            assert TASK.reward(demonstration.example, demonstration.completion).correct
            told = " ".join([demonstration.prompt, *demonstration.replies])
            assert told.split().count(VIEW) == len(demonstration.example.points)
            assert not any(VIEW in answer for answer in demonstration.completion)


def test_the_game_in_words_is_as_it_was():
    """Pictures are an option: without it nothing is shown."""
    plain = Navigation()
    assert plain.prompts("test", 1)[0].pictures() is None and not hasattr(plain, "sight")
    assert VIEW not in plain.vocabulary() and "landmarks read right" not in plain.readings
    assert plain.notes["ood_visual"] == "other landmarks"


# --- a Llama that looks again -----------------------------------------------------------------


def test_rows_with_fewer_places_show_their_first_pictures():
    """Against a loop over rows and places."""
    torch.manual_seed(0)
    words, pictures = torch.randn(4, 7, 3), torch.randn(4, 2, 3)
    ids = torch.tensor([[9, 0, 9, 0, 0, 0, 0], [0, 0, 0, 9, 0, 0, 0], [0] * 7, [9] * 7])
    expected = words.clone()
    for row in range(4):
        number = 0
        for column in range(7):
            if ids[row, column] == 9 and number < 2:
                expected[row, column] = pictures[row, number]
                number += 1
    assert torch.equal(put_pictures_in(words, ids, pictures, 9), expected)


def test_pictures_of_shorter_walks_end_in_black():
    examples = sorted(TASK.prompts("test", 6), key=lambda e: len(e.points))
    seen = pictures_of(examples)
    assert seen.shape == (6, len(examples[-1].points), 49, 49, 3)
    for row, example in zip(seen, examples, strict=True):
        n = len(example.points)
        assert np.array_equal(row[:n], example.pictures()) and not row[n:].any()


def encoded(tokenizer, prompts):
    batch = tokenizer([e.prompt for e in prompts], padding=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask, pictures_of(prompts)


def test_a_picture_is_never_said_however_likely_it_would_be(fresh):
    model, tokenizer = copy.deepcopy(fresh[0]), fresh[1]
    token = tokenizer.get_vocab()[VIEW]
    with torch.no_grad():  # words are alike, but the likeliest would be this one
        model.lm_head.weight.zero_()
        model.lm_head.weight[token] = model.model.norm.weight
    ids, attention, seen = encoded(tokenizer, TASK.prompts("test", 3))
    states = model.model(inputs_embeds=model.embed(ids, seen)).last_hidden_state
    model.lm_head.weight.data[token] *= torch.sign(states[0, -1] @ model.lm_head.weight[token])
    assert (states[0, -1] @ model.lm_head.weight.T).argmax() == token
    logits = completion_logits(model, ids, attention, 4, seen)
    p = logits.softmax(-1)
    assert not p[..., token].any()
    assert torch.allclose(p[..., 0], torch.tensor(1 / (len(tokenizer) - 1)))
    assert logits.log_softmax(-1).square().isfinite().all()
    for temperature in (0.0, 1.0):
        source = torch.Generator().manual_seed(0)
        rolled = converse(model, ids, attention, lambda row, said: None, 200, 6, 6, temperature,
                          source, seen)  # fmt: skip
        assert token not in rolled.tokens
    assert len(rolled.tokens.unique()) == len(tokenizer) - 1
    with pytest.raises(ValueError, match="take the loss from the logits"):
        model(ids, attention, pixel_values=seen, labels=ids)


def test_more_pictures_than_there_are_and_models_that_could_say_one_are_errors(fresh):
    model, tokenizer = fresh
    token = tokenizer.get_vocab()[VIEW]
    ids, attention, seen = encoded(tokenizer, TASK.prompts("test", 3))
    with pytest.raises(ValueError, match="of which one has 2 picture tokens"):
        model.embed(torch.tensor([[token, token]]), seen[:1, :1])
    with pytest.raises(ValueError, match="a dialogue has 1 pictures, and shows more"):
        converse(model, ids, attention, lambda row, said: [token], 1, 2, 20, 1.0, None, seen[:, :1])
    talkative = copy.deepcopy(model)
    talkative.config.pictures_in_replies = False
    with pytest.raises(ValueError, match="want a model with pictures_in_replies"):
        converse(talkative, ids, attention, lambda row, said: None, 1, 2, 20, 1.0, None, seen)


@pytest.mark.parametrize("size", [33, 47, 49, 55, 56, 64])
@pytest.mark.parametrize("stride", [1, 2])
def test_an_eye_can_be_made_for_any_size(size, stride):
    pictures = torch.zeros(2, size, size + 7, 3, dtype=torch.uint8)
    assert Eye(size, size + 7, 5, stride)(pictures).shape == (2, 5)


def test_every_row_of_a_batch_sees_its_own_pictures_to_the_end():
    """Several walks of each of several routes, of unlike lengths, some over before others: each
    word that was said greedily is the likeliest in one pass of `transformers` over the whole."""
    model, tokenizer = load_policy(base_folder("navigation_vision"))
    prompts = sorted(TASK.prompts("test", 12), key=lambda e: len(e.points))[::4]
    assert len({len(e.points) for e in prompts}) == 3
    seen = pictures_of(prompts)
    source = torch.Generator()
    rolled, _, _ = roll(model, tokenizer, TASK, prompts, 2, 0.0, source, to_the_end=True)
    T = rolled.tokens.shape[1]
    lengths = rolled.attention[:, -T:].sum(1)
    assert lengths.unique().numel() > 1
    with torch.no_grad():
        logits = completion_logits(
            model, rolled.ids, rolled.attention, T, seen.repeat_interleave(2, 0)
        )
    own = rolled.mask.bool()
    best = logits.max(-1).values[own]
    said = logits.gather(-1, rolled.tokens.unsqueeze(-1)).squeeze(-1)[own]
    assert own.sum() > 400 and (best - said).max() < 1e-3
    other = completion_logits(model, rolled.ids, rolled.attention, T,
                              seen.roll(1, 0).repeat_interleave(2, 0))  # fmt: skip
    assert (other.argmax(-1) != rolled.tokens)[own].any()  # pictures do matter


def test_a_greedy_walk_is_that_of_a_model_that_looks_at_everything_again(fresh):
    """Without a cache and without our sampler: at every word `transformers` reads the whole
    dialogue, whose pictures it is handed anew."""
    model, tokenizer = fresh
    prompts = TASK.prompts("test", 2)
    _, completions, _ = roll(model, tokenizer, TASK, prompts, 1, 0.0, torch.Generator(), True)
    for row, example in enumerate(prompts):
        seen = torch.from_numpy(example.pictures())[None]
        episode = TASK.episode(example, True)
        ids, answers = tokenizer(example.prompt)["input_ids"], []
        for _ in range(3):  # turns
            said = []
            while len(said) < TASK.max_new_tokens and 1 not in said:
                with torch.no_grad():
                    logits = model(torch.tensor([ids + said]), pixel_values=seen).logits
                said.append(int(logits[0, -1].argmax()))
            answers.append(tokenizer.decode([t for t in said if t != 1]))
            reply = episode.answer(answers[-1])
            ids = ids + said + tokenizer(reply)["input_ids"]
        assert completions[row][:3] == tuple(answers)


def test_logps_of_a_walk_are_those_of_transformers_and_depend_on_each_picture(fresh):
    model, tokenizer = fresh
    prompts = TASK.prompts("train", 3)
    batch = graded_rollouts(
        model, tokenizer, TASK, prompts, 2, 1.0, torch.Generator().manual_seed(0)
    )
    T, token = batch.tokens.shape[1], tokenizer.get_vocab()[VIEW]
    assert batch.pictures.shape[:2] == (6, max(len(p.points) for p in prompts))
    with torch.no_grad():
        logits = completion_logits(model, batch.ids, batch.attention, T, batch.pictures)
    logps = token_logps(logits, batch.tokens)
    for row in range(6):
        kept = batch.attention[row].bool()
        ids = batch.ids[row][kept]
        seen = torch.from_numpy(prompts[row // 2].pictures())
        x = model.model.embed_tokens(ids).detach().clone()
        places = (ids == token).nonzero().flatten()
        for place, picture in zip(places, seen, strict=False):
            x[place] = model.eye(picture[None])[0]
        with torch.no_grad():
            alone = model.model(inputs_embeds=x[None]).last_hidden_state @ model.lm_head.weight.T
        alone[..., token] = -torch.inf
        expected = alone[0, :-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
        n = int(batch.attention[row, -T:].sum())
        assert torch.allclose(logps[row, :n], expected[-n:], atol=2e-4)
    changed = batch.pictures.clone()
    changed[0, 0] = 255 - changed[0, 0]
    with torch.no_grad():
        other = completion_logits(model, batch.ids, batch.attention, T, changed)
    assert (other[0] - logits[0]).abs().max() > 1e-2
    assert torch.allclose(other[1:], logits[1:], atol=1e-4)


def test_an_expert_s_walk_shows_the_k_th_picture_at_the_k_th_point(fresh):
    model, tokenizer = fresh
    demonstrations = TASK.demonstrations(4)
    batch = encode(tokenizer, demonstrations)
    x = model.embed(batch.ids, batch.pictures)
    token = tokenizer.get_vocab()[VIEW]
    for row, demonstration in enumerate(demonstrations):
        places = (batch.ids[row] == token).nonzero().flatten()
        seen = model.eye(torch.from_numpy(demonstration.example.pictures()))
        assert torch.allclose(x[row, places], seen, atol=1e-5)
        assert not (batch.mask[row, places - (batch.ids.shape[1] - batch.tokens.shape[1])]
                    * (places >= batch.ids.shape[1] - batch.tokens.shape[1])).any()  # fmt: skip


def test_the_loop_trains_eye_and_language_in_parts_as_in_one(fresh):
    model, tokenizer = copy.deepcopy(fresh[0]), fresh[1]
    settings_ = {"task": "navigation_vision", "steps": 3, "warmup_steps": 1, "demonstrations": 6,
                 "sft_batch": 3, "prompts_per_step": 2, "rollouts_per_prompt": 2, "meta_every": 1,
                 "validation_prompts": 2, "validation_rollouts": 2}  # fmt: skip
    task, paid = load_task("navigation_vision"), itertools.count()

    class Paid(Walk):  # untrained, none arrives; alternating rewards stand in
        reward = property(lambda walk: Reward(float(next(paid) % 2), "paid", False))

    task.episode = lambda example, to_the_end=False: Paid(example, 2, to_the_end)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    loop = AMFT(model, tokenizer, task, build(settings_))
    for _ in range(3):
        facts = loop.train_step()
    assert facts["grad_norm_rl"] > 0 and facts["grad_norm_utility"] > 0
    for name, p in model.named_parameters():
        assert (p - before[name]).abs().max() > 0, name
    batch = encode(tokenizer, task.demonstrations(5))
    whole = loop.gradient(loop.sft_loss, batch, {})
    loop.config = build({**settings_, "micro_batch": 2})
    parts = loop.gradient(loop.sft_loss, batch, {})
    assert (whole - parts).norm() < 1e-4 * whole.norm()


def test_it_saves_and_loads_with_its_manners(fresh, tmp_path):
    model, tokenizer = fresh
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load_policy(tmp_path)
    assert again.unsaid == model.unsaid == tokenizer.get_vocab()[VIEW]
    cards, _ = load_policy(base_folder("general_points_vision"))
    assert cards.unsaid is None  # in a game of one answer a picture token is a word like others


def test_journeys_without_a_map_have_no_pictures(tmp_path):
    walk = dataclasses.replace(journey(WAY, DRAWN, "test"), route=None)
    with pytest.raises(ValueError, match="has no route on a map, so there is nothing to draw"):
        seen_journey(walk, DRAWN, HOME_LOOKS[0])
    with pytest.raises(ValueError, match="no icon is called 'pub'"):
        seen_journey(journey(WAY, TOWN, "test"), TOWN, HOME_LOOKS[0])
    with pytest.raises(ValueError, match="vision must be off"):
        NavigationOnFile(tmp_path / "routes.json", vision=True)


def test_real_models_are_refused_in_one_sentence():
    for model in ("tiny", "Qwen/Qwen2.5-VL-3B-Instruct"):
        with pytest.raises(ConfigError, match="navigation_vision works in runs without `model` on"):
            build({"model": model, "task": "navigation_vision"})


# --- pretraining --------------------------------------------------------------------------------


def test_the_base_reads_home_looks_alone_and_wrong_attempts_too():
    stream = streets_pretraining.texts(TASK, 0.0, 0.0, random.Random(0))
    rows = [next(stream) for _ in range(60)]
    plain = {look: np.median([mosaic(Scene((0, 4)), look)[2, 4:20].mean(0)], 0)
             for look in HOME_LOOKS}  # fmt: skip
    met = set()
    for prompt, said, seen in rows:
        told = " ".join([prompt, *(text for text, own in said if not own)])
        assert told.split().count(VIEW) == len(seen)  # one for each point, none for a second try
        assert not any(VIEW in text for text, own in said if own)
        colour = seen[:, 2, 4:20].mean((0, 1))  # sky, in changing light
        near = {look.name: np.abs(colour / colour.sum() - sky / sky.sum()).sum()
                for look, sky in plain.items()}  # fmt: skip
        best = min(near, key=near.get)
        assert near[best] < 0.03
        met.add(best)
    assert met == {look.name for look in HOME_LOOKS}
    assert any("wrong :" in text for _, said, _ in rows for text, _ in said)


def test_the_first_step_of_pretraining_is_that_of_adam_and_smaller_beside_the_eye():
    """Adam's first step is its learning rate, whatever the gradient: .01 of the peak after one of a
    hundred steps of warm-up."""
    config = recipe(task="navigation_vision", batch=6)
    trained, tokenizer = pretrain(config, stop_after=1)
    start, _ = pretrain(config, stop_after=0)
    moved = {"eye": 0.0, "language": 0.0}
    for (name, p), q in zip(trained.named_parameters(), start.parameters(), strict=True):
        part = "eye" if name.startswith("eye.") else "language"
        moved[part] = max(moved[part], float((p - q).abs().max()))
    rate = config.lr / 100
    assert moved["eye"] == pytest.approx(rate, rel=0.05)
    assert moved["language"] == pytest.approx(
        streets_pretraining.LANGUAGE_LR_SCALE * rate, rel=0.05
    )  # fmt: skip
    text, words = load_policy(base_folder("navigation"))  # where it began
    table, own = words.get_vocab(), tokenizer.get_vocab()
    before = text.model.embed_tokens.weight[table["museum"]]
    assert torch.allclose(start.model.embed_tokens.weight[own["museum"]], before)


def test_the_shipped_base_lies_in_its_bands_and_its_log_begins_as_the_recipe_does():
    folder = base_folder("navigation_vision")
    facts = json.loads((folder / "recipe.json").read_text())
    config = recipe(task="navigation_vision")
    assert facts["recipe"] == vars(config)
    assert (folder / "model.safetensors").stat().st_size <= 1.5e6
    assert set(facts["bands"]) == set(streets_pretraining.BANDS)
    for name, (low, high) in streets_pretraining.BANDS.items():
        assert low <= facts["bands"][name] <= high, name
    found = bands(*load_policy(folder), config, prompts=60)
    for name, share in found.items():
        assert share == pytest.approx(facts["bands"][name], abs=0.15), name
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    log, note = timed_log()
    pretrain(config, stop_after=1, on_step=note)
    assert log[0]["loss"] == pytest.approx(lines[0]["loss"], abs=0.01)
