"""Maps and replays: places and headings worked out by hand, a frame for each attempt."""

import io
import json
import random

import numpy as np
import pytest
from matplotlib.image import imread

from amft_lite import figures
from amft_lite.figures_map import (
    beside,
    city_figure,
    in_words,
    name_corners,
    spots,
    verdicts,
    walk_figure,
)
from amft_lite.tasks.city import build_city, draw_route
from amft_lite.tasks.navigation import HOME, Walk, journey
from tests.town import TOWN, WAY

#: The first point at the second try, the third at once, the crossing never, the rest at once.
ANSWERS = (
    "nothing | 1 turn left north | turn <pad>",
    "nothing | 1 turn left north | turn north",
    "nothing | 2 go | forward",
    "nothing | 2 go | forward",
    "nothing | 3 | forward",
    "nothing",
    "nothing | 4 | forward",
    "pub right | 4 | stop",
)


def walk(answers=ANSWERS, to_the_end=True):
    going = Walk(journey(WAY, TOWN, "test"), 2, to_the_end)
    for text in answers:
        if going.over:
            break
        going.answer(text)
    return going


def trace(figure, name):
    [found] = [t for t in figure if t.name == name]
    return found


def test_points_lie_evenly_on_their_streets_and_one_faces_the_way_one_came():
    found = spots(WAY)
    assert [(round(e, 9), round(n, 9), h) for e, n, h in found] == [
        (0, 0, 90),  # at the start, before the first turn
        (0, round(1 / 3, 9), 0), (0, round(2 / 3, 9), 0),
        (0, 1, 0),  # at the crossing, still facing north
        (0.5, 1.5, 45),
        (1, 2, 45),
    ]  # fmt: skip
    assert len(found) == len(walk().journey.points)


@pytest.mark.parametrize("legs", [1, 2, 3, 4])
def test_every_route_has_a_place_for_each_of_its_points(legs):
    rng = random.Random(legs)
    for seed in range(5):
        city = build_city(seed, HOME)
        route = None
        while route is None:
            route = draw_route(city, legs, rng)
        points = journey(route, city, "test").points
        found = spots(route)
        assert len(found) == len(points)
        at_crossings = [(e, n) for (e, n, _), p in zip(found, points, strict=True)
                        if p.kind != "forward"]  # fmt: skip
        assert at_crossings == [tuple(map(float, c)) for c in route.crossings]


def test_landmarks_stand_where_they_lie():
    assert beside((2, 3), 0, 0.2) == (2, 3.2) and beside((2, 3), 270, 0.2) == (1.8, 3)
    east, north = beside((0, 0), 135, 2**0.5)
    assert (east, north) == (pytest.approx(1), pytest.approx(-1))
    marks = trace(city_figure(TOWN).data, "landmarks")
    assert list(marks.text) == ["gym", "bank", "pub"]
    assert (marks.x[0], marks.y[0]) == (0, -0.24) and (marks.x[1], marks.y[1]) == (-0.24, 1)
    assert marks.customdata[2] == "southeast of (1, 2)"


def test_names_make_room_for_each_other():
    assert name_corners(["gym"], [(0, 0)]) == ["top right"]
    assert name_corners(["pharmacy", "bank"], [(0, 0), (0.3, -0.02)]) == [
        "top right",
        "bottom right",
    ]
    for seed in (0, 200, 300):
        marks = trace(city_figure(build_city(seed, HOME)).data, "landmarks")
        assert len(marks.textposition) == 36


def test_streets_are_drawn_once_each():
    streets = trace(city_figure(TOWN).data, "streets")
    assert list(streets.x) == [0, 0, None, 0, 1, None]
    assert list(streets.y) == [0, 1, None, 1, 2, None]


def test_what_became_of_the_points_so_far():
    found = verdicts(walk().attempts, 2)
    assert list(found.values()) == [
        "right later", "right at once", "right at once", "never right", "right at once",
        "right at once",
    ]  # fmt: skip
    assert verdicts(walk().attempts[:1], 2) == {}  # asked again, so not decided
    assert verdicts(walk().attempts[:5], 2).keys() == {0, 1, 2}


def test_a_replay_has_one_frame_an_attempt_and_the_walker_stands_and_faces_as_by_hand():
    figure = walk_figure(TOWN, walk(), ANSWERS)
    assert len(figure.frames) == len(walk().attempts) == 8
    [slider] = figure.layout.sliders
    assert [s.args[0][0] for s in slider.steps] == [f.name for f in figure.frames]
    places = [0, 0, 1, 2, 3, 3, 4, 5]
    for frame, place in zip(figure.frames, places, strict=True):
        walker = trace(frame.data, "walker")
        assert (walker.x[0], walker.y[0], walker.marker.angle) == spots(WAY)[place]
        assert [figure.data[n].name for n in frame.traces] == [t.name for t in frame.data]
    first, last = (trace(figure.frames[n].data, "right later").x for n in (0, 7))
    assert first == () and last == (0,)
    assert trace(figure.frames[7].data, "never right").y == (1,)
    json.loads(figure.to_json())


def test_beside_the_map_stands_what_was_said():
    figure = walk_figure(TOWN, walk(), ANSWERS)
    said = [frame.layout.annotations[0].text for frame in figure.frames]
    assert "turn &lt;pad&gt;" in said[0] and "no allowed action" in said[0]
    assert "not_allowed : see nothing :" in said[1] and "try 2" in said[1]
    assert "right" in said[1] and "moves on" in said[1]
    assert "mistaken about the crossing" in said[4]
    assert "wrong : see intersection bank left :" in said[5]
    assert "no answer in three parts" in said[5] and "goes on all the same" in said[5]
    assert "the end" in said[7] and "arrived" not in said[7]  # one point was never right
    assert all("3 turn slightly_right northeast" in text for text in said)
    broken = walk(to_the_end=False)
    last = walk_figure(TOWN, broken, ANSWERS).frames[-1]
    assert "the walk is over" in last.layout.annotations[0].text


def test_a_replay_may_begin_elsewhere_and_needs_its_answers():
    figure = walk_figure(TOWN, walk(), ANSWERS, start=5)
    assert figure.layout.sliders[0].active == 5
    assert figure.layout.annotations[0].text == figure.frames[5].layout.annotations[0].text
    with pytest.raises(ValueError, match="8 attempts and 3 answers"):
        walk_figure(TOWN, walk(), ANSWERS[:3])
    with pytest.raises(ValueError, match="0 attempts"):
        walk_figure(TOWN, walk(()), ())


def test_who_does_not_see_it_is_told():
    figure = walk_figure(TOWN, walk(), ANSWERS)
    assert figure.layout.meta["alt"] == in_words(walk()) == (
        "Map of city 7 with a route of 2 streets and its 6 points, replayed in 8 attempts: "
        "4 right at once, 1 right later, 1 never right; lost at turn"
    )  # fmt: skip
    assert "3 crossings" in city_figure(TOWN).layout.meta["alt"]


def test_maps_and_replays_are_drawn_where_nothing_is_interactive():
    def colours(figure):
        image = (imread(io.BytesIO(figures.to_png(figure)))[..., :3] * 255).round().astype(int)
        return {tuple(c) for c in np.unique(image.reshape(-1, 3), axis=0).tolist()}

    plain = colours(city_figure(TOWN))
    assert (0xC8, 0xC8, 0xC8) in plain and (0, 0x72, 0xB2) not in plain
    end = colours(walk_figure(TOWN, walk(), ANSWERS, start=7))
    assert {(0, 0x72, 0xB2), (0, 0x9E, 0x73), (0xE6, 0x9F, 0), (0xD5, 0x5E, 0)} <= end
