"""Navigation against cases worked out by hand: headings, sides, directions, rewards, splits."""

import itertools
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amft_lite.models import base_folder, load_policy, tiny_llama, word_tokenizer
from amft_lite.pretrain import bands, pretrain, recipe, timed_log
from amft_lite.tasks import Task, is_dialogue, load_task, reported_splits
from amft_lite.tasks.city import (
    COMPASS,
    Route,
    build_city,
    draw_route,
    side_word,
    turn_word,
    wrapped,
)
from amft_lite.tasks.navigation import (
    AWAY,
    HOME,
    Navigation,
    Walk,
    always_forward,
    draw_journeys,
    expert,
    grade,
    journey,
    walked,
)
from amft_lite.tasks.navigation_pretraining import BANDS, spoken, texts
from tests.town import TOWN, WAY


@pytest.fixture(scope="module")
def nav():
    return load_task("navigation")


# --- headings and sides ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "same"),
    [(0, 0), (180, 180), (-180, 180), (190, -170), (350, -10), (-350, 10), (360, 0), (-45, -45)],
)
def test_angles_are_wrapped(degrees, same):
    assert wrapped(degrees) == same


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        (0, 45, "slightly_right"), (0, 90, "right"), (0, 135, "right"),
        (0, 315, "slightly_left"), (0, 270, "left"), (0, 225, "left"),
        (315, 0, "slightly_right"),  # over north: the original, which does not wrap, says left
        (0, 315, "slightly_left"), (270, 45, "right"), (45, 270, "left"),
        (315, 45, "right"), (45, 315, "left"), (90, 225, "right"), (225, 90, "left"),
    ],
)  # fmt: skip
def test_turns_have_the_word_that_one_says_with_a_map_in_hand(before, after, word):
    assert turn_word(before, after) == word


def test_the_same_heading_is_no_turn():
    with pytest.raises(ValueError, match="no turn"):
        turn_word(90, 450)


def test_every_turn_and_its_way_back_are_opposite():
    for before in range(0, 360, 45):
        for by in (-135, -90, -45, 45, 90, 135):
            there, back = turn_word(before, before + by), turn_word(before + by, before)
            assert {there, back} in ({"left", "right"}, {"slightly_left", "slightly_right"})


@pytest.mark.parametrize(
    ("heading", "bearing", "side"),
    [
        (0, 0, "front"), (0, 45, "right_front"), (0, 90, "right"), (0, 135, "right_behind"),
        (0, 180, "behind"), (0, 225, "left_behind"), (0, 270, "left"), (0, 315, "left_front"),
        (90, 0, "left"),  # who faces east has the north at the left
        (180, 90, "left"), (225, 0, "right_behind"), (315, 0, "right_front"),
        (315, 270, "left_front"),
    ],
)  # fmt: skip
def test_sides_as_seen_by_one_who_faces_a_heading(heading, bearing, side):
    assert side_word(heading, bearing) == side


# --- a walk by hand -------------------------------------------------------------------------------

EXPERT = (
    "nothing | 1 turn left north | turn north",
    "nothing | 2 go intersection bank left | forward",
    "nothing | 2 go intersection bank left | forward",
    "intersection bank left | 3 turn slightly_right northeast | turn northeast",
    "nothing | 4 reach pub right | forward",
    "pub right | 4 reach pub right | stop",
)


def test_directions_and_the_experts_answers_are_those_written_by_hand():
    example = journey(WAY, TOWN, "test")
    assert example.prompt == (
        "forward stop turn north northeast east southeast south southwest west northwest : "
        "1 turn left north 2 go intersection bank left 3 turn slightly_right northeast "
        "4 reach pub right : see nothing :"
    )
    demonstration = expert(example)
    assert demonstration.completion == EXPERT
    assert demonstration.replies == (
        "see nothing :", "see nothing :", "see intersection bank left :", "see nothing :",
        "see pub right :",
    )  # fmt: skip
    assert example.group == "city7:east:0.0-0.1-1.2"


def test_by_the_other_list_the_other_word_is_the_action():
    example = journey(WAY, TOWN, "ood_rule", "relative")
    assert example.prompt.startswith("forward stop turn left right slightly_left slightly_right :")
    assert [p.action for p in example.points] == [
        "turn left", "forward", "forward", "turn slightly_right", "forward", "stop",
    ]  # fmt: skip
    assert grade(EXPERT[0], example.points[0], "relative") == "not_allowed"


def test_a_landmark_that_is_not_shown_is_neither_seen_nor_said():
    hidden = Route(7, 90, WAY.crossings, WAY.legs, (False, True))
    example = journey(hidden, TOWN, "test")
    assert "2 go intersection 3 turn" in example.prompt
    assert example.points[3].seen == "intersection"


FIRST, TURN = journey(WAY, TOWN, "test").points[0], journey(WAY, TOWN, "test").points[3]


@pytest.mark.parametrize(
    ("point", "text", "outcome"),
    [
        (FIRST, EXPERT[0], "right"),
        (FIRST, "anything at all | or nothing | turn north", "right"),  # only the action counts
        (FIRST, " | | turn  north ", "right"),
        (FIRST, "nothing | 1 turn left north | turn south", "wrong"),
        (FIRST, "nothing | 1 turn left north | forward", "wrong"),
        (FIRST, "nothing | 1 turn left north | turn left", "not_allowed"),  # the other list's word
        (FIRST, "nothing | 1 turn left north | north", "not_allowed"),
        (FIRST, "nothing | 1 turn left north | turn north now", "not_allowed"),
        (FIRST, "nothing | 1 turn left north | ", "not_allowed"),
        (FIRST, "turn north", "syntax"),
        (FIRST, "", "syntax"),
        (FIRST, "a | b | c | turn north", "syntax"),
        (FIRST, "intersection | 1 turn left north | turn south", "wrong_place"),
        (TURN, "nothing | 3 | forward", "wrong_place"),
        (TURN, "intersection | 3 | forward", "wrong"),
        (TURN, "nothing | 3 | turn northeast", "right"),
        (TURN, "x " * 300 + "| | turn northeast", "syntax"),  # too long to be looked at
    ],
)
def test_outcomes_of_one_attempt(point, text, outcome):
    assert grade(text, point, "compass") == outcome


def test_a_right_walk_gets_the_whole_reward():
    task = Navigation()
    example = journey(WAY, TOWN, "test")
    assert task.reward(example, EXPERT) == task.reward(example, list(EXPERT))
    reward = task.reward(example, EXPERT)
    assert (reward.value, reward.reason, reward.correct) == (1.0, "arrived", True)
    assert Navigation(reward="shaped").reward(example, EXPERT).value == 6.0  # +1 a point


def test_what_the_task_says_along_a_walk_with_faults():
    """Two tries a point; a wrong action is not executed; the second failure ends it."""
    walk = Navigation(reward="shaped").episode(journey(WAY, TOWN, "test"))
    assert walk.answer("nothing | 1 turn left north | turn south") == "wrong : see nothing :"  # -1
    assert walk.answer(EXPERT[0]) == "see nothing :"  # +1
    assert walk.answer("nothing | 2 | turn left") == "not_allowed : see nothing :"  # -1
    assert walk.answer(EXPERT[1]) == "see nothing :"  # +1
    assert walk.answer(EXPERT[2]) == "see intersection bank left :"  # +1
    said = walk.answer("nothing | 2 | forward")  # -1.5: wrong, and blind to the intersection
    assert said == "wrong : see intersection bank left :"
    assert walk.answer("intersection | 3 | forward") is None  # -1, and -1 for the end
    assert (walk.reward.value, walk.reward.reason) == (
        -1 + 1 - 1 + 1 + 1 - 1.5 - 1 - 1,
        "lost_at_turn",
    )
    assert not walk.reward.correct
    with pytest.raises(ValueError, match="over"):
        walk.answer("forward")


def test_to_the_end_a_failed_point_is_passed_but_the_walk_has_failed():
    walk = Walk(journey(WAY, TOWN, "test"), 2, to_the_end=True)
    forward = "nothing | | forward"
    said = [walk.answer(forward) for _ in range(2)]
    assert said == ["wrong : see nothing :", "see nothing :"]
    while not walk.over:
        walk.answer(forward)
    assert (walk.reward.value, walk.reward.reason) == (0.0, "lost_at_turn")
    assert walk.first_tries() == (3, 6)  # always forward: right at the three points of streets
    assert walk.first_tries("turn") == (0, 2) and walk.first_tries("forward") == (3, 3)
    assert always_forward([walk.journey]) == 3 / 6


def test_readings_count_first_tries_only():
    task, example = Navigation(), journey(WAY, TOWN, "test")
    answers = ("nothing | | forward", *EXPERT)  # the first point at its second try
    assert task.reward(example, answers).correct
    assert task.readings["steps right"](example, answers) == (5, 6)
    assert task.readings["turns right"](example, answers) == (1, 2)


def test_a_walk_that_broke_off_has_not_arrived():
    task, example = Navigation(), journey(WAY, TOWN, "test")
    for answers in ((), EXPERT[:-1], ("",), ""):
        reward = task.reward(example, answers)
        assert (reward.value, reward.correct) == (0.0, False)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=40), st.sampled_from(EXPERT)), max_size=20))
def test_any_answers_are_graded_and_none_raises(answers):
    example = journey(WAY, TOWN, "test")
    for kind in ("binary", "shaped"):
        reward = Navigation(reward=kind).reward(example, tuple(answers))
        assert reward.correct == (reward.reason == "arrived")
        if kind == "binary":
            assert reward.value in (0.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_is_one_attempt(text):
    walk = Navigation().episode(journey(WAY, TOWN, "test"))
    reply = walk.answer(text)
    assert reply is None or reply.endswith(":")


# --- cities and splits ----------------------------------------------------------------------------


def test_cities_have_streets_that_lead_both_ways_and_never_cross():
    for seed in range(30):
        city = build_city(seed, HOME)
        assert city == build_city(seed, HOME)
        diagonals = set()
        for place, ways in city.streets.items():
            for way in ways:
                east = place[0] + (way in (1, 2, 3)) - (way in (5, 6, 7))
                north = place[1] + (way in (7, 0, 1)) - (way in (3, 4, 5))
                assert (way + 4) % 8 in city.streets[east, north]
                if way in (1, 7):  # north-east or north-west: each block has at most one diagonal
                    block = (min(place[0], east), place[1])
                    assert (block, 8 - way) not in diagonals
                    diagonals.add((block, way))


def test_routes_follow_streets_and_turn_at_every_crossing():
    rng = random.Random(0)
    city = build_city(3, HOME)
    found = [r for r in (draw_route(city, 3, rng) for _ in range(300)) if r]
    assert len(found) > 100
    for route in found:
        headings = [route.start_heading, *(leg.heading for leg in route.legs)]
        for a, b in itertools.pairwise(headings):
            assert abs(wrapped(b - a)) in (45, 90, 135)
        for a, leg in zip(route.crossings, route.legs, strict=False):
            assert leg.heading // 45 in city.streets[a] and 1 <= leg.points <= 5
        assert len(set(route.crossings)) == 4 and route.shown[-1]


def test_every_route_is_solved_by_its_expert_with_the_whole_reward():
    for name in ("navigation", "navigation_classic"):
        for kind in ("binary", "shaped"):
            task = load_task(name, reward=kind)
            for split in task.splits:
                for example in task.prompts(split):
                    reward = task.reward(example, expert(example).completion)
                    assert reward.correct
                    assert reward.value == (1.0 if kind == "binary" else len(example.points))


def test_no_route_and_no_city_is_in_two_splits(nav):
    routes = [e.group for split in nav.splits for e in nav.prompts(split)]
    assert len(routes) == len(set(routes)) == 1600 + 160 + 3 * 200
    cities = {split: {e.route.city for e in nav.prompts(split)} for split in nav.splits}
    for a in nav.splits:
        for b in nav.splits:
            assert a == b or not cities[a] & cities[b]
    assert all(city < 1000 for owned in cities.values() for city in owned)  # nor in pretraining


def test_landmarks_of_other_cities_are_never_met_in_training(nav):
    for split in nav.splits:
        words = {w for e in nav.prompts(split) for w in e.prompt.split()}
        allowed = AWAY if split == "ood_visual" else HOME
        assert words & set(HOME + AWAY) <= set(allowed) and len(words & set(allowed)) > 10


def test_the_task_has_a_word_for_everything_and_its_bounds_hold(nav):
    known = set(nav.vocabulary())
    assert len(known) == len(nav.vocabulary())
    longest = answer = 0
    for split in nav.splits:
        for example in nav.prompts(split):
            said = expert(example).spoken
            assert set(example.prompt.split()) | {w for t, _ in said for w in t.split()} <= known
            answer = max(answer, *(len(t.split()) + 1 for t, own in said if own))
            longest = max(longest, len(example.points))
    assert answer <= nav.max_new_tokens
    # two tries a point, and a reply of at most seven words to each
    assert longest * 2 * (nav.max_new_tokens + 7) <= nav.max_episode_tokens


def test_more_routes_than_there_are_is_one_sentence():
    with pytest.raises(ValueError, match=r"1 cities have only \d+ of 50 routes"):
        draw_journeys([TOWN], (1, 2), 50, "test", "compass", random.Random(0))


def test_always_forward_gets_two_thirds_of_the_steps(nav):
    assert 0.64 < always_forward(nav.prompts("test")) < 0.69


def test_the_protocol_and_seeds(nav):
    assert isinstance(nav, Task) and is_dialogue(nav)
    assert reported_splits(nav) == ("test", "ood_rule", "ood_visual")
    assert nav.prompts("train", 1700, 1) == nav.prompts("train", 1700, 1)
    assert nav.prompts("train", 30, 1) != nav.prompts("train", 30, 2)
    assert len({e.key for e in nav.prompts("train", 1600, 5)}) == 1600  # a whole pass
    a, b = (nav.demonstrations(10, seed) for seed in (0, 1))
    assert a == nav.demonstrations(10, 0) and a != b


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "hard"}, "lite or classic"), ({"reward": "none"}, "binary or shaped"),
        ({"tries": 0}, "at least 1"), ({"wrong_demonstrations": 0.5}, "no wrong experts"),
    ],
)  # fmt: skip
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Navigation(**options)


def test_splits_without_experts_or_name_are_refused(nav):
    with pytest.raises(ValueError, match="training rule only"):
        nav.demonstrations(1, split="ood_rule")
    with pytest.raises(ValueError, match="no split is called"):
        nav.prompts("moon")


# --- pretraining ----------------------------------------------------------------------------------


def test_the_base_reads_both_lists_all_landmarks_and_wrong_attempts(nav):
    stream = texts(nav, 0.0, 0.0, random.Random(0))
    rows = [next(stream) for _ in range(300)]
    relative = [prompt for prompt, _ in rows if prompt.split()[3] == "left"]
    assert 100 < len(relative) < 200
    words = {w for prompt, _ in rows for w in prompt.split()}
    assert set(HOME + AWAY) <= words
    learned = [text for _, said in rows for text, own in said if own]
    read = [text for _, said in rows for text, own in said if not own]
    wrong = [text for text in read if text.endswith("<eos>")]
    assert 0.07 < len(wrong) / len(learned) < 0.14
    assert not any("<eos>" in text for text in learned)
    assert {text.split()[0] for text in read} >= {"see", "wrong"}


def test_a_learned_answer_is_always_right_at_its_point(nav):
    rng = random.Random(1)
    cities = [build_city(1000, HOME + AWAY)]
    for example in draw_journeys(cities, (1, 2, 3), 50, "pretraining", "compass", rng):
        answers = [text for text, own in spoken(example, rng) if own]
        assert walked(example, answers).reward.correct
        everything = [t.removesuffix(" <eos>") for t, own in spoken(example, rng)
                      if own or t.endswith("<eos>")]  # fmt: skip
        assert walked(example, everything).reward.correct  # at the first or second try


def test_compass_words_lie_in_a_circle():
    for number, word in enumerate(COMPASS):
        opposite = COMPASS[(number + 4) % 8]
        flipped = word.replace("north", "N").replace("south", "north").replace("N", "south")
        flipped = flipped.replace("east", "E").replace("west", "east").replace("E", "west")
        assert flipped == opposite


def test_the_shipped_base_lies_in_its_bands_and_its_log_begins_as_the_recipe_does():
    folder = base_folder("navigation")
    facts = json.loads((folder / "recipe.json").read_text())
    config = recipe(task="navigation")
    assert facts["recipe"] == vars(config)
    assert (folder / "model.safetensors").stat().st_size <= 1.5e6
    for name, (low, high) in BANDS.items():
        assert low <= facts["bands"][name] <= high, name
    found = bands(*load_policy(folder), config, prompts=80)
    for name, share in found.items():  # 80 walks, about 160 turns
        assert share == pytest.approx(facts["bands"][name], abs=0.15), name
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 350 and lines[-1]["loss"] < 0.1
    log, note = timed_log()
    pretrain(config, stop_after=1, on_step=note)
    assert log[0]["loss"] == pytest.approx(lines[0]["loss"], abs=0.01)


def test_a_base_that_has_learned_nothing_is_outside(nav):
    tokenizer = word_tokenizer(nav)
    found = bands(tiny_llama(len(tokenizer)).eval(), tokenizer, recipe(task="navigation"), 8)
    assert found["forwards_right"] < 0.1 and found["turns_right"] < 0.1
