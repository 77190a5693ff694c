"""Streets: which direction is seen where, what jitter may do, icons and inks that can be told."""

import dataclasses
import itertools

import numpy as np
import pytest

from amft_lite.tasks.city import SIDES
from amft_lite.tasks.navigation import HOME
from amft_lite.tasks.streets import (
    AWAY_LOOKS,
    HEIGHT,
    HOME_LOOKS,
    ICONS,
    LINE,
    WIDTH,
    Look,
    Scene,
    contact_sheet,
    draw_mosaic,
    look_at,
    mosaic,
)

LOOKS = HOME_LOOKS + AWAY_LOOKS
SOME = (HOME_LOOKS[0], AWAY_LOOKS[3])  #: where every direction is tried: flat roofs, and gables
#: Where each side is seen, by hand: (view, third of the view), views front, right, back, left.
SEEN = {
    "front": [("front", "middle")],
    "right_front": [("front", "right"), ("right", "left")],
    "right": [("right", "middle")],
    "right_behind": [("right", "right"), ("back", "left")],
    "behind": [("back", "middle")],
    "left_behind": [("back", "right"), ("left", "left")],
    "left": [("left", "middle")],
    "left_front": [("left", "right"), ("front", "left")],
}
CORNERS = {"front": (0, 0), "right": (0, 25), "back": (25, 0), "left": (25, 25)}
BLANK = Look("blank", "#808080", ("#808080",), *["#808080"] * 3, "#ffffff", "#000000",
             "plain", (1, 1), False)  # fmt: skip


def rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def views(picture):
    """The four views [24, 24, 3] of a mosaic."""
    return {name: picture[y : y + 24, x : x + 24] for name, (y, x) in CORNERS.items()}


def changed(scene, other, look):
    """view -> mask [24, 24] of the pixels that differ, where there are any."""
    a, b = (views(mosaic(each, look).astype(int)) for each in (scene, other))
    masks = {name: (a[name] != b[name]).any(-1) for name in a}
    return {name: mask for name, mask in masks.items() if mask.any()}


def third(mask):
    """The third of a view in which the middle of the marked columns lies."""
    columns = np.flatnonzero(mask.any(0))
    return ("left", "middle", "right")[int((columns[0] + columns[-1] + 1) / 2 // 8)]


@pytest.mark.parametrize("look", SOME, ids=lambda look: look.name)
@pytest.mark.parametrize("side", SIDES)
def test_a_landmark_stands_where_its_side_is_seen_and_wholly_in_the_view(side, look):
    with_it = Scene((0, 3, 6), "park", SIDES.index(side), True)
    found = changed(with_it, dataclasses.replace(with_it, landmark=""), look)
    assert sorted((name, third(mask)) for name, mask in found.items()) == sorted(SEEN[side])
    left = {"left": 1, "middle": 6, "right": 11}  # a sign of 12 x 12, rows 3 to 14, post to row 18
    for name, mask in found.items():
        start = left[dict(SEEN[side])[name]]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert start <= columns[0] and columns[-1] < start + 12 and columns[-1] - columns[0] >= 10
        assert rows[0] >= 3 and 15 <= rows[-1] <= 18


@pytest.mark.parametrize("look", SOME, ids=lambda look: look.name)
@pytest.mark.parametrize("side", SIDES)
def test_a_street_and_its_crossing_lead_where_their_direction_is_seen(side, look):
    way = SIDES.index(side)
    for a, b in (((), ()), ((0, 1, 2, 3, 4, 5, 6, 7),) * 2):
        less, more = tuple(w for w in a if w != way), (*b, way)
        found = changed(Scene(more), Scene(less), look)
        assert sorted((name, third(mask)) for name, mask in found.items()) == sorted(SEEN[side])
    plain, zebra = Scene((way,)), Scene((way,), crossing=True)
    found = changed(plain, zebra, look)
    assert sorted((name, third(mask)) for name, mask in found.items()) == sorted(SEEN[side])
    # the road is there, from the horizon to the lower edge, in the middle of its third
    picture = views(mosaic(plain, look).astype(int))
    for name, where in SEEN[side]:
        column = {"left": 2, "middle": 10, "right": 18}[where]
        assert np.abs(picture[name][23, column] - rgb(look.road)).max() <= 2
    assert not changed(Scene(()), Scene((), crossing=True), look)


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.name)
def test_a_mosaic_is_exact_with_a_dark_line_between_its_views(look):
    picture = mosaic(Scene((0, 2), "bank", 5), look)
    assert picture.shape == (HEIGHT, WIDTH, 3) == (49, 49, 3) and picture.dtype == np.uint8
    assert (picture[24] == rgb(LINE)).all() and (picture[:, 24] == rgb(LINE)).all()
    assert picture.tobytes() == mosaic(Scene((0, 2), "bank", 5), look).tobytes()
    assert np.abs(picture[0, 0].astype(int) - rgb(look.sky)).max() == 0
    assert not any((v == rgb(LINE)).all(-1).all(0).any() for v in views(picture).values())


def test_what_is_looked_at_is_seeded_and_jitters_by_one_pixel_each_view_by_itself():
    scene = Scene((0, 1, 4), "cinema", 1, True)
    look = HOME_LOOKS[0]
    a, b, c = (look_at([scene] * 5, look, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert a.shape == (5, 49, 49, 3) and a.dtype == np.uint8
    assert (a == b).all() and (a != c).any() and (a[0] != a[1]).any()
    # the shift at which a view is most like the exact one, looked for up to 2 pixels off
    around = list(itertools.product(range(-2, 3), repeat=2))
    exact = views(mosaic(scene, look).astype(float))
    pictures = look_at([scene] * 60, look, np.random.default_rng(0))
    found = {name: [] for name in exact}
    for picture in pictures:
        for name, seen in views(picture).items():
            off = []
            for y, x in around:
                part = exact[name][4 - y : 20 - y, 4 - x : 20 - x]
                inner = seen[4:20, 4:20]
                off.append(np.abs(inner / inner.mean() - part / part.mean()).mean())
            assert min(off) < 0.05
            found[name].append(around[int(np.argmin(off))])
    near = set(itertools.product((-1, 0, 1), repeat=2))
    assert all(set(shifts) == near for shifts in found.values())
    assert len(set(zip(found["front"], found["back"], strict=True))) > 30  # not moved together


def test_light_and_noise_have_the_strength_they_are_said_to_have():
    pictures = look_at([Scene((), "", 0)] * 300, BLANK, np.random.default_rng(0)).astype(float)
    sky = pictures[:, :3, :20].reshape(300, -1)
    light = sky.mean(1) / 128
    assert 0.84 < light.min() < 0.87 and 1.03 < light.max() < 1.06
    assert 3.8 < sky.std(1).mean() < 4.2


def test_icons_are_words_of_the_game_inside_their_square_and_unlike_each_other():
    expected = "bank bridge cafe chapel cinema florist fountain hotel library park stadium tower"
    assert list(ICONS) == expected.split() and set(ICONS) <= set(HOME)
    for polygons in ICONS.values():
        assert polygons[0][0] and len(polygons) >= 2
        for _, polygon in polygons:
            assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in polygon)
    # ink in the sign's 12 x 12 pixels, 1 where there is ink alone
    ink = {
        name: 1 - mosaic(Scene((), name, 0), BLANK)[3:15, 6:18, 0] / 255 for name in ICONS
    }  # fmt: skip
    for name, other in itertools.combinations(ICONS, 2):
        apart = np.abs(ink[name] - ink[other]).sum()
        assert apart > 14, (name, other)


def luminance(colour):
    parts = [part / 255 for part in rgb(colour)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.name)
def test_ink_is_dark_on_a_light_sign(look):
    contrast = (luminance(look.sign) + 0.05) / (luminance(look.ink) + 0.05)
    assert contrast >= 4.5  # of WCAG 2.1, for text
    sign = mosaic(Scene((), "cinema", 0), look)[3:15, 6:18].astype(int)
    assert np.abs(sign[5, 2] - rgb(look.ink)).max() <= 1  # the icon's left part
    light = luminance(look.sign) * 0.6
    assert max(luminance("#" + bytes(sign[6, x].tolist()).hex()) for x in range(4, 9)) > light


def test_home_and_away_share_no_look():
    assert 3 <= len(HOME_LOOKS) <= 4
    assert [look.name for look in AWAY_LOOKS] == [
        "milan", "new_delhi", "buenos_aires", "london", "hong_kong", "new_york", "melbourne",
        "lagos", "san_francisco",
    ]  # fmt: skip
    assert len({look.name for look in LOOKS}) == len(LOOKS)
    for part in ("sky", "walls", "ground", "road", "sign"):
        home, away = ({getattr(each, part) for each in looks} for looks in (HOME_LOOKS, AWAY_LOOKS))
        assert not home & away, part


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (((0,), "museum"), r"^no icon is called 'museum'; known: bank, .*, tower$"),
        (((8,),), r"^directions are 0 to 7, not 8$"),
        (((0,), "bank", -1), r"^directions are 0 to 7, not -1$"),
    ],
)
def test_what_cannot_be_drawn_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        Scene(*arguments)


def test_the_large_picture_shows_the_same_as_the_small_one():
    from PIL import Image

    scene, look = Scene((0, 3, 5), "stadium", 2, True), HOME_LOOKS[1]
    large = draw_mosaic(scene, look, 490)
    assert large.size == (490, 490) and large.mode == "RGB"
    assert draw_mosaic(scene, look, 333).size == (333, 333)
    assert draw_mosaic(scene, look, 49).size == (49, 49)
    with pytest.raises(ValueError, match="side must be at least 49 pixels, not 48"):
        draw_mosaic(scene, look, 48)
    again = np.asarray(large.resize((49, 49), Image.Resampling.BOX), float)
    apart = np.abs(again - mosaic(scene, look)).max(-1)
    assert apart[3:24].mean() < 6 and apart[28:].mean() < 6  # labels are above
    assert apart[:3].mean() > 10


def test_the_contact_sheet_has_twelve_signs():
    look = HOME_LOOKS[0]
    sheet = np.asarray(contact_sheet(look, 48))
    rim = [(12 + 72 * row + 24, 12 + 60 * column) for row in range(3) for column in range(4)]
    assert sheet.shape == (3 * 72 + 12, 4 * 60 + 12, 3)
    for y, x in rim:
        assert np.abs(sheet[y, x].astype(int) - rgb(look.ink)).max() <= 2
        assert np.abs(sheet[y, x - 2].astype(int) - rgb(look.ground)).max() <= 2
