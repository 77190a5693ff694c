"""Playing cards, drawn: large and handsome for people, 24 x 32 pixels for the tiny model.

One drawing code makes both. A card is first a list of shapes in units of its own width (`shapes`),
which is exact and the same everywhere; then they are painted with Pillow, several times too large,
and scaled down. The font is the one inside Pillow.

The original game shows classic card faces on plain felt (LeslieTrue/SFTvsRL, gym_cards); these are
our own. Black ink belongs to spades and clubs, red to hearts and diamonds, as there: training sees
black hands, and the split `ood_visual` red ones.

Left out: backs, jokers, and pictures of a whole table.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

RANKS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K")
SUITS = ("S", "C", "H", "D")
BLACK, RED = "#15171c", "#c4122f"
INKS = {"S": BLACK, "C": BLACK, "H": RED, "D": RED}
FELT = "#35654d"  #: the original's
PAPER, EDGE, PANEL, GOLD, SKIN = "#fdfdfb", "#9aa0a6", "#fbf3dc", "#e0a526", "#f2d3ad"
HAIR = "#7a4a1d"

#: Where pips lie in the style's area, 0..1 both ways; those of the lower half are turned.
_ROWS = {2: (0.0, 1.0), 3: (0.0, 0.5, 1.0), 4: (0.0, 1 / 3, 2 / 3, 1.0)}
PIPS: dict[str, tuple[tuple[float, float], ...]] = {
    "A": ((0.5, 0.5),),
    "2": tuple((0.5, y) for y in _ROWS[2]),
    "3": tuple((0.5, y) for y in _ROWS[3]),
    **{
        rank: tuple((x, y) for x in (0.0, 1.0) for y in _ROWS[rows])
        + tuple((0.5, y) for y in between)
        for rank, rows, between in (
            ("4", 2, ()), ("5", 2, (0.5,)), ("6", 3, ()), ("7", 3, (0.25,)),
            ("8", 3, (0.25, 0.75)), ("9", 4, (0.5,)), ("10", 4, (1 / 6, 5 / 6)),
        )
    },
}  # fmt: skip


class Card(NamedTuple):
    """One of the 52."""

    rank: str
    suit: str


DECK = tuple(Card(rank, suit) for suit in SUITS for rank in RANKS)


def any_suits(ranks: Sequence[str]) -> list[Card]:
    """Cards of these ranks, suits in turn: to draw a hand of the game in words, which has none."""
    return [Card(rank, "SHCD"[n % 4]) for n, rank in enumerate(ranks)]


@dataclass(frozen=True)
class Style:
    """How a card is drawn. Sizes but `width` and `height` (pixels) are shares of the width; areas
    are (left, top, right, bottom) in shares of the card's width and height."""

    width: int
    height: int
    oversample: int
    corner: float  #: radius of the card's corners
    index: float  #: height of the rank in the corner
    index_at: tuple[float, float]
    small_pip: float  #: under the rank (where there is no room, on face cards alone)
    pip: float
    pips: tuple[float, float, float, float]  #: where pips have their centres
    panel: tuple[float, float, float, float]  #: of a face card
    rim: float  #: of the panel
    lower_index: bool  #: room for the rank upside down, bottom right, and for small pips


LARGE = Style(
    240, 336, 3, 0.07, 0.17, (0.12, 0.125), 0.11, 0.18, (0.32, 0.18, 0.68, 0.82),
    (0.21, 0.09, 0.79, 0.91), 0.01, True,
)  # fmt: skip
#: Half of the upper edge is its rank: at 20 x 28 pixels nothing smaller can be read.
TINY = Style(
    20, 28, 6, 0.08, 0.56, (0.27, 0.29), 0.24, 0.2, (0.3, 0.55, 0.82, 0.9),
    (0.4, 0.46, 0.95, 0.96), 0.05, False,
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A polygon, or a text centred on its one point; coordinates in units of the card's width."""

    points: tuple[tuple[float, float], ...]
    colour: str
    text: str = ""
    size: float = 0.0


# --- geometry -------------------------------------------------------------------------------------


def _circle(x: float, y: float, radius: float, n: int = 28) -> list[tuple[float, float]]:
    turns = (2 * math.pi * k / n for k in range(n))
    return [(x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns]


def _heart(n: int = 40) -> list[tuple[float, float]]:
    points = []
    for k in range(n):
        t = 2 * math.pi * k / n
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3 / 33, -(y + 2.5) / 33))
    return points


_STEM = [(-0.05, 0.1), (0.05, 0.1), (0.17, 0.5), (-0.17, 0.5)]
#: Each suit as polygons in the square from -.5 to .5, y downwards.
_SUITS: dict[str, list[list[tuple[float, float]]]] = {
    "H": [_heart()],
    "D": [[(0.0, -0.5), (0.37, 0.0), (0.0, 0.5), (-0.37, 0.0)]],
    "S": [[(x, -y - 0.06) for x, y in _heart()], _STEM],
    "C": [
        _circle(0.0, -0.25, 0.23), _circle(-0.26, 0.09, 0.23), _circle(0.26, 0.09, 0.23),
        [(-0.1, -0.1), (0.1, -0.1), (0.1, 0.15), (-0.1, 0.15)], _STEM,
    ],
}  # fmt: skip


def _pip(suit: str, x: float, y: float, size: float, ink: str, turned: bool) -> Iterator[Shape]:
    sign = -size if turned else size
    for polygon in _SUITS[suit]:
        yield Shape(tuple((x + sign * a, y + sign * b) for a, b in polygon), ink)


def _turned(found: Sequence[Shape], x: float, y: float) -> Iterator[Shape]:
    """The same shapes upside down about the point x, y (a text by the sign of its size)."""
    for shape in found:
        points = tuple((2 * x - a, 2 * y - b) for a, b in shape.points)
        yield Shape(points, shape.colour, shape.text, -shape.size)


def _half_figure(rank: str, ink: str, left: float, top: float, width: float, depth: float):
    """A jack, queen or king from the waist up."""

    def at(*points: tuple[float, float]) -> tuple[tuple[float, float], ...]:
        """From 0..1 both ways to the card."""
        return tuple((left + width * x, top + depth * y) for x, y in points)

    yield Shape(at((0.0, 1), (0.12, 0.72), (0.88, 0.72), (1.0, 1)), ink)
    yield Shape(at((0.4, 1), (0.22, 0.72), (0.34, 0.72), (0.5, 0.95), (0.66, 0.72), (0.78, 0.72),
                   (0.6, 1)), GOLD)  # fmt: skip
    if rank == "Q":  # long hair
        yield Shape(at((0.24, 0.8), (0.26, 0.35), (0.74, 0.35), (0.76, 0.8)), HAIR)
    x, y = at((0.5, 0.48))[0]
    yield Shape(tuple(_circle(x, y, width * 0.2)), SKIN)
    if rank == "K":  # a beard
        yield Shape(at((0.31, 0.5), (0.69, 0.5), (0.62, 0.68), (0.5, 0.84), (0.38, 0.68)), HAIR)
    for side in (0.43, 0.57):
        x, y = at((side, 0.44))[0]
        yield Shape(tuple(_circle(x, y, width * 0.025, 10)), BLACK)
    if rank == "J":  # a cap with a feather
        yield Shape(at((0.26, 0.36), (0.74, 0.36), (0.66, 0.18), (0.34, 0.18)), ink)
        yield Shape(at((0.64, 0.34), (0.78, 0.12), (0.98, 0.02), (0.9, 0.2), (0.72, 0.36)), GOLD)
    else:
        side, middle = (0.1, 0.14) if rank == "Q" else (0.08, 0.0)
        yield Shape(at((0.28, 0.36), (0.22, side), (0.38, 0.24), (0.5, middle), (0.62, 0.24),
                       (0.78, side), (0.72, 0.36)), GOLD)  # fmt: skip


def shapes(card: Card, style: Style = LARGE, ink: str = "") -> list[Shape]:
    """What there is on a card, in the order of painting. `ink` replaces the suit's own colour.

    Raises:
        ValueError: no such rank or suit.
    """
    rank, suit = card
    if rank not in RANKS or suit not in SUITS:
        raise ValueError(f"no card is called {rank!r} {suit!r}; ranks A 2-10 J Q K, suits S C H D")
    ink = ink or INKS[suit]
    height = style.height / style.width
    found: list[Shape] = []
    if rank in PIPS:
        left, top, right, bottom = style.pips
        large = 2.3 if rank == "A" else 1.0
        for x, y in PIPS[rank]:
            place = left + (right - left) * x, (top + (bottom - top) * y) * height
            found += _pip(suit, *place, style.pip * large, ink, y > 0.5)
    else:
        left, top, right, bottom = style.panel
        top, bottom, rim = top * height, bottom * height, style.rim
        for inset, colour in ((0.0, ink), (rim, PANEL)):
            a, b, c, d = left + inset, top + inset, right - inset, bottom - inset
            found.append(Shape(((a, b), (c, b), (c, d), (a, d)), colour))
        x, y = (left + right) / 2, (top + bottom) / 2
        width = 0.76 * (right - left)
        half = list(_half_figure(rank, ink, x - width / 2, top + 4 * rim, width, y - top - 4 * rim))
        if style.lower_index:
            half += _pip(suit, left + 0.08, top + 0.09, style.small_pip, ink, False)
        found += [*half, *_turned(half, x, y)]
    corner = [Shape((style.index_at,), ink, rank, style.index)]
    if style.lower_index or rank not in PIPS:
        x, y = style.index_at
        corner += _pip(suit, x, y + style.index * 0.85, style.small_pip, ink, False)
    found += corner
    if style.lower_index:
        found += _turned(corner, 0.5, height / 2)
    return found


# --- painting -------------------------------------------------------------------------------------


def _paint_text(image: Image.Image, shape: Shape, scale: float) -> None:
    """The text centred on its point by the ink it has, upside down where its size is below 0."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(abs(shape.size) * scale)
    left, top, right, bottom = font.getbbox(shape.text)
    squeeze = 0.78 if len(shape.text) > 1 else 1.0  # 10 is as narrow as its one-letter neighbours
    layer = Image.new("L", (math.ceil(right - left) + 2, math.ceil(bottom - top) + 2), 0)
    drawing = ImageDraw.Draw(layer)
    drawing.text((1 - left, 1 - top), shape.text, 255, font,
                 stroke_width=abs(shape.size) * scale * 0.02)  # fmt: skip
    layer = layer.resize((max(1, round(layer.width * squeeze)), layer.height))
    if shape.size < 0:
        layer = layer.rotate(180)
    x, y = shape.points[0]
    place = round(x * scale - layer.width / 2), round(y * scale - layer.height / 2)
    image.paste(shape.colour, (*place, place[0] + layer.width, place[1] + layer.height), layer)


def draw(card: Card, style: Style = LARGE, ink: str = "") -> Image.Image:
    """The card as an RGBA picture of style.width x style.height, clear beyond its corners."""
    from PIL import Image, ImageDraw

    scale = style.width * style.oversample
    size = scale, style.height * style.oversample
    face = Image.new("RGB", size, PAPER)
    drawing = ImageDraw.Draw(face)
    for shape in shapes(card, style, ink):
        if shape.text:
            _paint_text(face, shape, scale)
        else:
            drawing.polygon([(x * scale, y * scale) for x, y in shape.points], shape.colour)
    outline = ImageDraw.Draw(face)
    radius, box = style.corner * scale, (0, 0, size[0] - 1, size[1] - 1)
    outline.rounded_rectangle(box, radius, outline=EDGE, width=max(1, scale // 200))
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius, 255)
    face.putalpha(mask)
    return face.resize((style.width, style.height), Image.Resampling.LANCZOS)


@functools.lru_cache(maxsize=256)
def _large(card: Card, ink: str) -> Image.Image:
    return draw(card, LARGE, ink)


def draw_hand(
    cards: Sequence[Card], width: int = 720, square: bool = False, ink: str = "", seed: int = -1
) -> Image.Image:
    """Cards in a row on felt, for people and for real vision-language models.

    `square` gives the original's square table, with room for four. With `seed` >= 0 the cards lie
    as if dealt by hand, a little turned and shifted.
    """
    from PIL import Image, ImageFilter

    n, rng = len(cards), random.Random(seed)
    each = LARGE.width  # everything at the cards' own size, scaled once at the end
    full = round(each * (max(n, 4) if square else n) / 0.9)
    gap = (full - n * each) / (n + 1)
    height = full if square else round(each * 1.4 + 2 * gap)
    table = Image.new("RGB", (full, height), FELT)
    for place, card in enumerate(cards):
        dealt = seed >= 0
        angle, shift = (rng.uniform(-2.5, 2.5), rng.uniform(-5, 5)) if dealt else (0.0, 0.0)
        face = _large(card, ink).rotate(angle, Image.Resampling.BICUBIC, expand=True)
        x = gap + place * (each + gap) + (each - face.width) / 2
        corner = round(x), round((height - face.height) / 2 + shift)
        shadow = face.getchannel("A").filter(ImageFilter.GaussianBlur(5)).point(lambda a: a // 2)
        table.paste("#1b3629", (corner[0] + 4, corner[1] + 6), shadow)
        table.paste(face, corner, face)
    return table.resize((width, round(height * width / full)), Image.Resampling.LANCZOS)


def contact_sheet(width: int = 60, inks: Sequence[str] = (BLACK, RED)) -> Image.Image:
    """All 52 cards in each ink, a row a suit, each `width` pixels wide."""
    from PIL import Image

    gap, height = max(2, width // 20), round(width * 1.4)
    sheet = Image.new("RGB", (13 * (width + gap) + gap, 4 * len(inks) * (height + gap) + gap), FELT)
    for block, ink in enumerate(inks):
        for place, card in enumerate(DECK):
            face = _large(card, ink).resize((width, height), Image.Resampling.LANCZOS)
            row, column = divmod(place, 13)
            corner = gap + column * (width + gap), gap + (4 * block + row) * (height + gap)
            sheet.paste(face, corner, face)
    return sheet


# --- what the tiny model sees ---------------------------------------------------------------------

HEIGHT, WIDTH = 32, 24  #: of the picture of one card, felt around it included
_JITTER = 2


@functools.lru_cache(maxsize=4)
def _sheet(ink: str) -> dict[Card, np.ndarray]:
    """Every card of the deck once, [28, 20, 4] each."""
    return {card: np.asarray(draw(card, TINY, ink)) for card in DECK}


def look(cards: Sequence[Card], rng: np.random.Generator, ink: str = "") -> np.ndarray:
    """Pictures of single cards as uint8 [n, 32, 24, 3]: each up to 2 pixels off its place, in
    lighter or darker light, with a little noise."""
    felt = np.array([int(FELT[i : i + 2], 16) for i in (1, 3, 5)], float)
    seen = np.empty((len(cards), HEIGHT, WIDTH, 3))
    seen[:] = felt
    for picture, card in zip(seen, cards, strict=True):
        drawn = _sheet(ink)[card].astype(float)
        y, x = rng.integers(0, 2 * _JITTER + 1, 2)
        place = picture[y : y + TINY.height, x : x + TINY.width]
        opacity = drawn[..., 3:] / 255
        place[:] = opacity * drawn[..., :3] + (1 - opacity) * place
    seen *= rng.uniform(0.85, 1.05, (len(cards), 1, 1, 1))
    seen += rng.normal(0.0, 4.0, seen.shape)
    return seen.clip(0, 255).round().astype(np.uint8)
