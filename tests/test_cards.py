"""Cards: exact geometry, the same pictures everywhere within a hair, what jitter may do."""

import hashlib
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amft_lite.tasks.cards import (
    BLACK,
    DECK,
    FELT,
    HEIGHT,
    INKS,
    LARGE,
    PAPER,
    PIPS,
    RANKS,
    RED,
    SUITS,
    TINY,
    WIDTH,
    Card,
    contact_sheet,
    draw,
    draw_hand,
    look,
    shapes,
)

STYLES = {"large": LARGE, "tiny": TINY}


def rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def geometry():
    """Every shape of every card in both inks and styles, to a ten-thousandth of the width."""
    return [
        [name, *card, ink, [[[round(x, 4) + 0.0, round(y, 4) + 0.0] for x, y in shape.points]
                            + [shape.colour, shape.text, round(shape.size, 4)]
                            for shape in shapes(card, style, ink)]]
        for (name, style), ink, card in itertools.product(STYLES.items(), (BLACK, RED), DECK)
    ]  # fmt: skip


def test_geometry_is_the_same_on_every_machine():
    digest = hashlib.sha256(json.dumps(geometry()).encode()).hexdigest()
    assert digest[:16] == "271b8d1707bea6c3"


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("card", DECK, ids=lambda card: "".join(card))
def test_a_card_has_its_pips_its_rank_and_nothing_beside_it(card, style):
    found = shapes(card, style)
    height = style.height / style.width
    for shape in found:
        assert all(0 <= x <= 1 and 0 <= y <= height for x, y in shape.points)
    ranks = [s for s in found if s.text]
    assert [s.text for s in ranks] == [card.rank] * (2 if style.lower_index else 1)
    ink = BLACK if card.suit in "SC" else RED
    assert {s.colour for s in ranks} == {ink} == {INKS[card.suit]}
    pieces = {"S": 2, "C": 5, "H": 1, "D": 1}[card.suit]  # polygons of one pip
    small = 2 if style.lower_index else 0
    if card.rank in PIPS:
        number = 1 if card.rank == "A" else int(card.rank)
        assert len(found) == number * pieces + small * pieces + len(ranks)
        # middles of the pips: symmetric about the vertical line through their area
        left, _, right, _ = style.pips
        middles = [x for x, _ in PIPS[card.rank]]
        assert sorted(middles) == sorted(1 - x for x in middles) and left < right
    else:
        assert card.rank in ("J", "Q", "K") and len(found) > 17


def test_inks_belong_to_suits_and_can_be_replaced():
    assert {s: INKS[s] for s in "SCHD"} == {"S": BLACK, "C": BLACK, "H": RED, "D": RED}
    for rank in RANKS:
        own, other = shapes(Card(rank, "H")), shapes(Card(rank, "H"), ink=BLACK)
        assert [s.points for s in own] == [s.points for s in other]
        assert RED in {s.colour for s in own} and RED not in {s.colour for s in other}


@pytest.mark.parametrize("card", [("1", "S"), ("A", "X"), ("10S", "S"), ("", "")])
def test_a_card_that_does_not_exist_is_named(card):
    with pytest.raises(ValueError, match="no card is called"):
        shapes(Card(*card))


def test_pictures_are_those_of_the_stored_sheet():
    """Fonts and resampling differ a little between versions of Pillow."""
    stored = np.asarray(Image.open(Path(__file__).parent / "cards.png").convert("RGB"), float)
    fresh = np.asarray(contact_sheet(), float)
    assert fresh.shape == stored.shape
    assert np.abs(fresh - stored).mean() <= 2
    # card by card, so that one wrong card does not vanish in the mean of 104
    gap, width, height = 3, 60, 84
    for row, column in itertools.product(range(8), range(13)):
        y, x = gap + row * (height + gap), gap + column * (width + gap)
        part = np.s_[y : y + height, x : x + width]
        assert np.abs(fresh[part] - stored[part]).mean() <= 4, (row, column)


def test_all_104_pictures_differ_at_both_sizes():
    for style in STYLES.values():
        pictures = {draw(c, style, ink).tobytes() for c in DECK for ink in (BLACK, RED)}
        assert len(pictures) == 104


def test_a_drawn_card_has_paper_ink_and_clear_corners():
    face = np.asarray(draw(Card("10", "H")))
    assert face.shape == (336, 240, 4)
    assert face[0, 0, 3] == 0 and face[168, 120, 3] == 255
    colours = {tuple(c) for c in face[..., :3].reshape(-1, 3)}
    assert tuple(rgb(PAPER)) in colours and tuple(rgb(RED)) in colours


def test_a_hand_lies_on_felt_and_is_dealt_by_its_seed():
    cards = [Card("J", "S"), Card("3", "C"), Card("8", "S")]
    plain, dealt = draw_hand(cards, 360), draw_hand(cards, 360, seed=1)
    assert plain.tobytes() == draw_hand(cards, 360).tobytes()
    assert dealt.tobytes() == draw_hand(cards, 360, seed=1).tobytes()
    assert len({x.tobytes() for x in (plain, dealt, draw_hand(cards, 360, seed=2))}) == 3
    assert plain.size[0] == 360 and plain.size[1] < 360
    assert draw_hand(cards, 300, square=True).size == (300, 300)
    for corner in ((0, 0), (359, 0)):
        assert np.abs(np.array(plain.getpixel(corner)) - rgb(FELT)).max() <= 2
    # the first card's middle is on its left third, and its face is not felt
    third = np.asarray(plain, int)[:, :120]
    assert (np.abs(third - rgb(PAPER)).max(-1) <= 4).mean() > 0.2


def test_what_the_tiny_model_sees_is_seeded_and_jitters_a_little():
    a, b, c = (look(DECK, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert a.shape == (52, HEIGHT, WIDTH, 3) == (52, 32, 24, 3) and a.dtype == np.uint8
    assert (a == b).all() and (a != c).any()
    # a card's bright pixels lie within its 20 x 28, up to 2 pixels from the middle either way
    places = set()
    for seed in range(200):
        [seen] = look([Card("2", "S")], np.random.default_rng(seed)).astype(int)
        bright = seen.min(-1) > 150
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        assert rows[-1] - rows[0] <= 27 and columns[-1] - columns[0] <= 19
        places.add((rows[0], columns[0]))
    assert {y for y, _ in places} == {x for _, x in places} == set(range(5))
    red = look([Card("2", "H")] * 50, np.random.default_rng(0)).astype(int)
    black = look([Card("2", "H")] * 50, np.random.default_rng(0), BLACK).astype(int)
    assert (red[..., 0] - red[..., 2]).max() > 100 > (black[..., 0] - black[..., 2]).max()


def test_suits_and_ranks_are_those_of_a_deck():
    assert len(DECK) == len(set(DECK)) == 52
    assert {c.suit for c in DECK} == set(SUITS) and {c.rank for c in DECK} == set(RANKS)


def test_a_hand_in_words_gets_suits_in_turn_and_a_notebook_gets_it_with_its_alt_text():
    from amft_lite.figures import picture
    from amft_lite.tasks.cards import any_suits

    deck = any_suits(["J", "3", "8", "8", "A"])
    assert deck == [("J", "S"), ("3", "H"), ("8", "C"), ("8", "D"), ("A", "S")]
    drawn = draw_hand(deck, width=100)
    shown = picture(drawn, "Jack, three, eight, eight, ace")
    assert shown.alt == "Jack, three, eight, eight, ace"
    again = Image.open(io.BytesIO(shown.data))
    assert again.format == "PNG"
    assert np.array_equal(np.asarray(again.convert("RGB")), np.asarray(drawn.convert("RGB")))
