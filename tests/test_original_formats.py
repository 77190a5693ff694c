"""Files of the original environments: routes and hands worked out by hand, and bad files."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amft_lite.tasks.navigation import expert
from amft_lite.tasks.original_formats import (
    NavigationOnFile,
    one_word,
    read_points,
    read_routes,
)
from amft_lite.tasks.points_grader import verify


def block(landmarks, heading):
    lines = [
        '"intersection_idx": "1",', f'"landmarks": "{landmarks}",', '"distance": "111 meters",',
        '"human_heading": "0",', f'"to_next_intersection_heading": "{heading}",',
    ]  # fmt: skip
    return "\n{\n" + "\n".join(lines) + "\n}\n"


#: One degree is 111 km: a leg of 111 m to the north, one of 11 m to the east.
ROUTE = {
    "start_place": {"name": "A", "relocated_geocode": [0.0, 0.0]},
    "dest_place": {"name": "City Hall", "relocated_geocode": [0.001, 0.0001]},
    "route_results": {"geocode_list": [[0.001, 0.0], [0.001, 0.0001]]},
    "init_heading": 350,
    "milestone_info": block("Joe's Blue Door is on your right front", "2 (north)")
    + block("The destination City Hall is on your left", "91 (east)"),
}
ANSWER = {"cards": ["J", "A", "4", "Q"], "number": [10, 1, 4, 10], "formula": "10+10+4*1=24"}


def written(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def changed(content, *keys, value=None):
    """A copy with `value` in that place; without the field, where there is no value."""
    content = copy.deepcopy(content)
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return content


def test_a_route_in_our_words(tmp_path):
    [journey] = read_routes(written(tmp_path, [[ROUTE], 1]))
    # from 350 to 2 degrees is 12 to the right, which the original, unwrapped, calls left
    assert journey.prompt == (
        "forward stop turn north northeast east southeast south southwest west northwest : "
        "1 turn slightly_right north 2 go intersection Joe_s_Blue_Door right_front "
        "3 turn right east 4 reach City_Hall left : see nothing :"
    )
    said = [point.answer for point in journey.points]
    middle = said.index("intersection Joe_s_Blue_Door right_front | 3 turn right east | turn east")
    assert said[0] == "nothing | 1 turn slightly_right north | turn north"
    assert 1 <= middle - 1 <= 4  # of four points at most, each there or not
    go = "2 go intersection Joe_s_Blue_Door right_front"
    assert said[1:middle] == [f"nothing | {go} | forward"] * (middle - 1)
    # on 11 m no point is 8 m from both ends: the one that is always there
    assert said[middle + 1 :] == [
        "nothing | 4 reach City_Hall left | forward",
        "City_Hall left | 4 reach City_Hall left | stop",
    ]
    assert journey.group == "virl:0.000000,0.000000-0.001000,0.000000-0.001000,0.000100"


def test_a_route_alone_and_the_other_list(tmp_path):
    path = written(tmp_path, ROUTE)
    [compass], [other] = read_routes(path), read_routes(path, "ood_rule", "relative")
    assert [p.action for p in other.points if p.kind == "turn"] == [
        "turn slightly_right",
        "turn right",
    ]
    assert len(compass.points) == len(other.points) and other.split == "ood_rule"
    assert other.prompt.startswith("forward stop turn left right slightly_left slightly_right :")


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [(350, "10 (north)", "slightly_right"), (10, "350 (north)", "slightly_left"),
     (45, "90 (east)", "slightly_right"), (45, "91 (east)", "right"), (1, "181 (south)", "right"),
     (200, "19 (north)", "right"), (90, "90 (east)", "slightly_left"),
     (350, "80 (east)", "right"), (20, "270 (west)", "left")],
)  # fmt: skip
def test_turns_are_wrapped(tmp_path, before, after, word):
    route = changed(ROUTE, "init_heading", value=before)
    route["route_results"]["geocode_list"] = [[0.001, 0.0]]
    route["milestone_info"] = block("The destination X is on your front", after)
    [journey] = read_routes(written(tmp_path, [route]))
    assert journey.points[0].direction.split()[2] == word


@pytest.mark.parametrize("heading", [0, None])
def test_a_start_heading_that_is_not_told_is_drawn_once(tmp_path, heading):
    route = changed(ROUTE, "init_heading", value=heading)
    if heading == 0:
        route["init_heading"] = 0
    path = written(tmp_path, [route])
    assert read_routes(path) == read_routes(path)


def test_a_crossing_without_a_landmark(tmp_path):
    info = block("No landmark nearby", "2 (north)") + block(
        "The destination X is on your behind", "91 (east)"
    )
    [journey] = read_routes(written(tmp_path, [changed(ROUTE, "milestone_info", value=info)]))
    assert "2 go intersection 3 turn" in journey.prompt
    assert journey.prompt.endswith("reach X behind : see nothing :")


@pytest.mark.parametrize(
    ("name", "word"),
    [("MoMA Design Store", "MoMA_Design_Store"), ("north", "north_"), ("7", "7_"),
     ("a|b : c", "a_b_c"), ("Café 大阪", "Café_大阪"), ("!!", ""), ("  x  ", "x")],
)  # fmt: skip
def test_a_name_is_one_word(name, word):
    assert one_word(name) == word


BAD_ROUTES = [
    (changed(ROUTE, "start_place"), "entry 0: the field start_place is missing"),
    (changed(ROUTE, "start_place", value=[1]), "the field start_place.relocated_geocode is m"),
    (changed(ROUTE, "start_place", "relocated_geocode", value=[0.0]), "must be .latitude"),
    (changed(ROUTE, "start_place", "relocated_geocode", value=["0", 0]), "must be .latitude"),
    (changed(ROUTE, "start_place", "relocated_geocode", value=[1e308, 0]), "in degrees"),
    (changed(ROUTE, "route_results"), "the field route_results is missing"),
    (changed(ROUTE, "route_results", "geocode_list", value=[]), "a list of 1 to 50 places"),
    (changed(ROUTE, "route_results", "geocode_list", value=[[0, 0]]), "has 2 legs, .* 1"),
    (changed(ROUTE, "route_results", "geocode_list", value=[[0, 0], [0, True]]), "list.1. must be"),
    (changed(ROUTE, "init_heading", value="north"), "init_heading must be a whole number from 0"),
    (changed(ROUTE, "init_heading", value=360), "init_heading must be"),
    (changed(ROUTE, "init_heading", value=1.5), "init_heading must be"),
    (changed(ROUTE, "milestone_info"), "the field milestone_info is missing"),
    (changed(ROUTE, "milestone_info", value=["x"]), "milestone_info must be text"),
    (changed(ROUTE, "milestone_info", value="x"), "milestone_info has 0 legs"),
    (changed(ROUTE, "milestone_info", value="{\n{\n"), "leg 1: the field landmarks is missing"),
    (changed(ROUTE, "milestone_info", value=2 * block("X is on your front", "5 (east)")),
     "leg 1: '5 .east.' is no heading"),
    (changed(ROUTE, "milestone_info", value=2 * block("X is on your front", "400 (north)")),
     "is no heading"),
    (changed(ROUTE, "milestone_info", value=2 * block("X is above you", "5 (north)")),
     "leg 1: 'X is above you' does not say on which side"),
    (changed(ROUTE, "milestone_info", value=2 * block("!! is on your left", "5 (north)")),
     "does not say on which side which landmark"),
    (changed(ROUTE, "milestone_info", value=2 * block("No landmark nearby", "5 (north)")),
     "the last landmarks must name the destination"),
    ("text", "entry 0: the field start_place is missing"),
    (None, "entry 0: the field start_place is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "words"), BAD_ROUTES)
def test_a_bad_route_is_one_sentence(tmp_path, entry, words):
    path = written(tmp_path, [entry])
    with pytest.raises(ValueError, match=words) as caught:
        read_routes(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps([[ROUTE], 1])[:-30], "is not valid JSON .line 1."),
        ("", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('[{"a": NaN}]', "it holds NaN, which is no number"),
        ('[{"a": -Infinity}]', "it holds -Infinity"),
        ("[" + "9" * 5000 + "]", "is not valid JSON"),
        ("[]", "holds no route|must hold a list"),
    ],
)
@pytest.mark.parametrize("read", [read_routes, read_points])
def test_a_bad_file_is_one_sentence(tmp_path, text, words, read):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "none.json")
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not valid JSON"):
        read(path)


def numbered(n):
    """Routes at other places."""
    return [
        changed(ROUTE, "start_place", "relocated_geocode", value=[0.0, i / 100]) for i in range(n)
    ]


def test_the_task_on_a_file(tmp_path):
    path = written(tmp_path, [[*numbered(20), ROUTE], 21])  # the last is the first once more
    task = NavigationOnFile(path, reward="shaped")
    assert [len(task.prompts(split)) for split in task.splits] == [12, 2, 3, 3]
    groups = [e.group for split in task.splits for e in task.prompts(split)]
    assert len(set(groups)) == 20
    assert task.new_words == ("City_Hall", "Joe_s_Blue_Door")
    for split in task.splits:
        for example in task.prompts(split):
            assert example.split == split
            assert ("north" in example.prompt.split(" : ")[0]) == (split != "ood_rule")
            assert {*example.prompt.split()} <= {*task.vocabulary()}
            done = expert(example)
            reward = task.reward(example, done.completion)
            assert reward.correct and reward.value == len(example.points)
            walk = task.episode(example)
            for answer, reply in zip(done.completion, (*done.replies, None), strict=True):
                assert walk.answer(answer) == reply
    with pytest.raises(ValueError, match="no route of the file is in 'ood_visual'"):
        task.prompts("ood_visual")
    assert len(NavigationOnFile(path, shares=(0, 0, 1)).prompts("test")) == 20
    with pytest.raises(ValueError, match=r"no route of the file is in 'train'; .* in test"):
        NavigationOnFile(path, shares=(0, 0, 1)).prompts("train", 3)
    with pytest.raises(ValueError, match="shares"):
        NavigationOnFile(path, shares=(1, 1, 1))


def said(answer):
    return {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": answer}]}


def test_demonstrations_of_the_original(tmp_path):
    single = (
        "{'cards': ['J', 'A', '4', 'Q'], 'number': [10, 1, 4, 10],\n'formula': '10+10+4*1=24',\n}"
    )
    faces = {"cards": ["K", "J", 2, "2"], "number": [13, 11, 2, 2], "formula": "(13-11)/2*24"}
    faces["formula"] = "13+11+2-2=24"
    entries = [said(json.dumps(ANSWER)), [said(single), ANSWER], faces]
    found, left_out = read_points(written(tmp_path, entries))
    assert left_out == 0 and len(found) == 4
    assert found[0] == found[1] == found[2]
    hand = found[0].example
    assert hand.prompt == "10 10 10 ; 24 : J A 4 Q |"
    assert (hand.values, hand.group, hand.split) == ((10, 1, 4, 10), "1-4-10-10", "train")
    assert found[0].completion == "10 1 4 10 10 + 10 = 20 4 * 1 = 4 20 + 4 = 24"
    assert found[3].example.rule == (11, 12, 13) and found[3].example.split == "ood_rule"
    assert found[3].example.cards == ("K", "J", "2", "2")
    assert all(verify(d.completion, d.example).correct for d in found)


def test_a_formula_that_our_steps_cannot_say_is_counted(tmp_path):
    fraction = {"cards": list("3388"), "number": [3, 3, 8, 8], "formula": "8/(3-8/3)=24"}
    found, left_out = read_points(written(tmp_path, [ANSWER, fraction]))
    assert (len(found), left_out) == (1, 1)


BAD_ANSWERS = [
    (changed(ANSWER, "cards"), "the field cards is missing"),
    (changed(ANSWER, "number"), "the field number is missing"),
    (changed(ANSWER, "formula"), "the field formula is missing"),
    (changed(ANSWER, "cards", value="JA4Q"), "cards must be a list of 2 to 6"),
    (changed(ANSWER, "cards", value=["J", "A", "4", "1"]), "'1' is none of"),
    (changed(ANSWER, "cards", value=["J", "A", "4", [1]]), "is none of"),
    (changed(ANSWER, "number", value=[11, 1, 4, 10]), "number must be what the cards count"),
    (changed(ANSWER, "number", value=[10.0, 1, 4, 10]), "number must be what the cards count"),
    (changed(ANSWER, "number", value=[10, True, 4, 10]), "number must be what the cards count"),
    (changed(ANSWER, "number", value=7), "number must be what the cards count"),
    (changed(ANSWER, "formula", value=24), "formula must be text"),
    (changed(ANSWER, "formula", value="10+10+4+1=24"), "does not make 24 .wrong_value."),
    (changed(ANSWER, "formula", value="10+10+4=24"), "does not make 24 .unused_number."),
    (changed(ANSWER, "formula", value="((" * 300), "does not make 24 .too_long."),
    (said("no answer"), "the answer is no JSON"),
    (said(7), "one turn from gpt"),
    ({"conversations": []}, "one turn from gpt"),
    ({"conversations": 3}, "one turn from gpt"),
    (said("{" * 1500), "the answer is no JSON"),
    (said('{"cards": NaN}'), "the field number is missing"),
    (5, "it must be an object"),
]


@pytest.mark.parametrize(("entry", "words"), BAD_ANSWERS)
def test_a_bad_answer_is_one_sentence(tmp_path, entry, words):
    path = written(tmp_path, [ANSWER, entry])
    with pytest.raises(ValueError, match=words) as caught:
        read_points(path)
    assert f"{path}, entry 1: " in str(caught.value) and "\n" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*ROUTE, *ANSWER, "conversations"]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(VALUES, st.sampled_from([*ROUTE, *ANSWER]))
def test_any_content_is_read_or_refused_in_a_sentence(tmp_path_factory, value, key):
    folder = tmp_path_factory.mktemp("fuzz")
    for read, whole in ((read_routes, ROUTE), (read_points, ANSWER)):
        for content in (value, [value], [{**whole, key: value}]):
            try:
                read(written(folder, content))
            except ValueError as error:
                assert str(folder) in str(error)
