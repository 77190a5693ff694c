"""Streets, drawn: what a walker sees of a city, large for people, 49 x 49 pixels for a tiny model.

A walker sees four views, each a quarter of the circle: in front, to the right, at the back, to the
left. A picture, the *mosaic*, has them in this order in two rows of two, with a dark line between.

Whatever there is lies in one of eight directions, counted clockwise from the walker's heading. A
view shows three of them, at its left, in its middle and at its right: view k shows 2k - 1, 2k and
2k + 1. So the odd directions are seen twice, at the right of one view and at the left of the next.
A direction has a street or a house, and in one of them a landmark's icon may stand on a sign.

One drawing code makes both sizes: first a list of exact shapes, in units of a pixel of a small
view, then Pillow paints them several times too large, and they are scaled down. All colours,
patterns and icons are our own. The nine looks of `AWAY_LOOKS` have the names of the cities of the
original's visual benchmark (VIRL-Platform/VIRL), which shows photographs; they imitate none of
them.

Left out: photographs, depth beyond one street, and landmarks without an icon.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from amft_lite.tasks.city import SIDES

if TYPE_CHECKING:
    from PIL import Image

Polygon = tuple[tuple[float, float], ...]

VIEWS = ("front", "right", "back", "left")
PIXELS = 24  #: of a small view, both ways; the unit of all coordinates but the icons'
HEIGHT = WIDTH = 2 * PIXELS + 1  #: of a mosaic
LINE = "#15171c"  #: between the views
PAINT = "#f4f4ee"  #: on the road
_MARGIN = 1  #: pixels painted around a view, so that it can be shifted
_HORIZON, _FOOT = 14.0, 17.0  #: where streets end, and where houses meet the ground
_THIRD = PIXELS / 3  #: the width of one direction in a view
_SIGN, _SIGN_TOP, _ICON = 12.0, 3.0, 9.6  #: size of the sign, its upper edge, size of its icon
_SIGN_LEFT = (1.0, 6.0, 11.0)  #: of the sign at the left, in the middle and at the right of a view
_ROOFS = (4.5, 6.5, 3.5, 5.5, 4.0, 6.0, 3.0, 5.0)  #: upper edges of the houses, by direction


@dataclass(frozen=True)
class Look:
    """How a city looks. Colours are #rrggbb; `sign` and `ink` are of landmarks; `pattern` is what
    the walls have: plain, bricks, stripes, panels or beams; `windows` (across, down) of a house."""

    name: str
    sky: str
    walls: tuple[str, ...]
    glass: str
    ground: str
    road: str
    sign: str
    ink: str
    pattern: str
    windows: tuple[int, int]
    gables: bool


#: Looks that bases are raised on and post-training knows, and looks that neither has met.
HOME_LOOKS = (
    Look("brick_town", "#a9cdea", ("#a5523c", "#b86a4b", "#8f4638"), "#e6e2cf", "#b9b3a6",
         "#55585d", "#f7f3e6", "#1b1d24", "bricks", (2, 3), False),
    Look("plaster_town", "#8fbde6", ("#d9c39a", "#c9a67c", "#d3b7a0"), "#4f6578", "#a79f90",
         "#4b4e54", "#fbf8ee", "#20222a", "plain", (2, 3), True),
    Look("slate_town", "#c3cbd3", ("#6f7a86", "#86919b", "#5f6a77"), "#cfd9df", "#8f948f",
         "#3f4247", "#f4f2ea", "#16181f", "panels", (2, 4), False),
)  # fmt: skip
AWAY_LOOKS = (
    Look("milan", "#cfe3f5", ("#e0a83e", "#d98a4a", "#f0dc96"), "#2b4636", "#c9bfae",
         "#6a6560", "#ede8c3", "#4a391c", "stripes", (3, 3), False),
    Look("new_delhi", "#ecd29a", ("#b5482f", "#f0d3a8", "#8c2f22"), "#3c1510", "#cda36a",
         "#86694c", "#f5e3be", "#462016", "panels", (1, 2), False),
    Look("buenos_aires", "#6fb7ee", ("#2a6fc0", "#f0c22d", "#d6362f"), "#f3efe2", "#a7a39b",
         "#5a5a60", "#c5e2f1", "#1e4a80", "stripes", (2, 2), False),
    Look("london", "#aab2b8", ("#6d2f2a", "#efe9dc", "#3b3532"), "#d7dfe4", "#75786f",
         "#33363b", "#eae8df", "#332b2e", "bricks", (3, 4), True),
    Look("hong_kong", "#1d2350", ("#3b2a63", "#22466b", "#5a2457"), "#b98f4a", "#3a3848",
         "#1d1c26", "#f4ecd4", "#2b1a50", "panels", (2, 4), False),
    Look("new_york", "#7fa8d9", ("#4a2c22", "#59636f", "#2f3945"), "#f2e3a1", "#9c9ea3",
         "#2f3035", "#e0e0e0", "#333944", "bricks", (3, 5), False),
    Look("melbourne", "#4f9fe0", ("#4d5f57", "#8fb39a", "#d7dcc8"), "#1e2d33", "#6f9a5a",
         "#777c80", "#d2e5c4", "#285437", "beams", (2, 2), False),
    Look("lagos", "#f3b56b", ("#f2d13a", "#2f9a66", "#e46f2c"), "#27413a", "#b5653a",
         "#7c5a45", "#f8e097", "#482f11", "plain", (2, 2), True),
    Look("san_francisco", "#dfe7ee", ("#f0a9bb", "#8fd0c6", "#b7a1dd"), "#5c3b73", "#c4c9c4",
         "#7d8087", "#fae5e9", "#492649", "beams", (2, 3), True),
)  # fmt: skip


# --- icons ----------------------------------------------------------------------------------------


def _box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def _oval(x: float, y: float, across: float, down: float, n: int = 32) -> Polygon:
    turns = (2 * math.pi * k / n for k in range(n))
    return tuple((x + across * math.cos(t), y + down * math.sin(t)) for t in turns)


def _arch(x: float, bottom: float, across: float, up: float) -> Polygon:
    """The upper half of an oval about (x, bottom)."""
    return tuple((a, b) for a, b in _oval(x, bottom, across, up) if b <= bottom + 1e-9)


def _mirrored(polygon: Polygon) -> Polygon:
    return tuple((1 - x, y) for x, y in polygon)


_PAGE = ((0.46, 0.3), (0.3, 0.17), (0.0, 0.12), (0.0, 0.78), (0.3, 0.83), (0.46, 0.96))
_JET = ((0.5, 0.3), (0.42, 0.08), (0.2, 0.0), (0.04, 0.2), (0.0, 0.55), (0.13, 0.55), (0.17, 0.27),
        (0.26, 0.15), (0.36, 0.2), (0.44, 0.5))  # fmt: skip
_LEAF = ((0.5, 1.0), (0.46, 0.72), (0.3, 0.58), (0.06, 0.52), (0.14, 0.8), (0.32, 0.96))

#: Each landmark's icon in the unit square, y downwards: polygons in the order of painting, with
#: True for one in ink and False for one in the colour of the sign.
ICONS: dict[str, tuple[tuple[bool, Polygon], ...]] = {
    "bank": (
        (True, ((0.0, 0.36), (0.5, 0.0), (1.0, 0.36))),
        *((True, _box(x, 0.44, x + 0.16, 0.8)) for x in (0.08, 0.42, 0.76)),
        (True, _box(0.0, 0.86, 1.0, 1.0)),
    ),
    "bridge": (
        (True, _box(0.0, 0.3, 1.0, 0.84)),
        (False, _arch(0.26, 0.84, 0.18, 0.36)),
        (False, _arch(0.74, 0.84, 0.18, 0.36)),
    ),
    "cafe": (
        (True, _oval(0.74, 0.42, 0.26, 0.24)),
        (False, _oval(0.74, 0.42, 0.13, 0.11)),
        (True, ((0.0, 0.12), (0.74, 0.12), (0.68, 0.6), (0.52, 0.76), (0.22, 0.76), (0.06, 0.6))),
        (True, _box(0.0, 0.86, 0.86, 0.98)),
    ),
    "chapel": (
        (True, _box(0.43, 0.0, 0.57, 0.5)),
        (True, _box(0.28, 0.12, 0.72, 0.25)),
        (True, ((0.5, 0.38), (0.94, 0.66), (0.94, 1.0), (0.06, 1.0), (0.06, 0.66))),
        (False, _box(0.4, 0.7, 0.6, 1.0)),
    ),
    "cinema": (
        (True, _box(0.0, 0.06, 1.0, 0.94)),
        (False, ((0.34, 0.24), (0.34, 0.76), (0.78, 0.5))),
    ),
    "florist": (
        (True, ((0.22, 0.0), (0.37, 0.16), (0.5, 0.0), (0.63, 0.16), (0.78, 0.0), (0.78, 0.3),
                (0.64, 0.46), (0.36, 0.46), (0.22, 0.3))),
        (True, _box(0.44, 0.4, 0.56, 1.0)),
        (True, _LEAF),
        (True, _mirrored(_LEAF)),
    ),
    "fountain": (
        (True, _JET),
        (True, _mirrored(_JET)),
        (True, _box(0.43, 0.2, 0.57, 0.8)),
        (True, ((0.04, 0.74), (0.96, 0.74), (0.8, 1.0), (0.2, 1.0))),
    ),
    "hotel": (
        (True, _box(0.0, 0.1, 0.13, 0.92)),
        (True, _box(0.0, 0.56, 1.0, 0.74)),
        (True, _box(0.87, 0.56, 1.0, 0.92)),
        (True, _oval(0.29, 0.4, 0.12, 0.12)),
        (True, ((0.46, 0.5), (0.46, 0.32), (0.8, 0.32), (1.0, 0.44), (1.0, 0.5))),
    ),
    "library": ((True, _PAGE), (True, _mirrored(_PAGE))),
    "park": ((True, _oval(0.5, 0.35, 0.41, 0.35)), (True, _box(0.41, 0.6, 0.59, 1.0))),
    "stadium": (
        (True, _oval(0.5, 0.5, 0.5, 0.36)),
        (False, _oval(0.5, 0.5, 0.36, 0.22)),
        (True, _box(0.46, 0.28, 0.54, 0.72)),
    ),
    "tower": (
        *((True, _box(x, 0.0, x + 0.16, 0.2)) for x in (0.2, 0.42, 0.64)),
        (True, _box(0.2, 0.14, 0.8, 0.32)),
        (True, _box(0.31, 0.3, 0.69, 1.0)),
        (False, _box(0.44, 0.45, 0.56, 0.65)),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What there is around a walker.

    streets   the directions in which streets lead away, 0 to 7 times 45 degrees clockwise
    landmark  what stands on the sign, a key of `ICONS`, or nothing
    side      the direction of the sign, an index of `city.SIDES`
    crossing  whether a zebra crossing is painted on every street

    Raises:
        ValueError: the landmark has no icon, or there is no such direction.
    """

    streets: tuple[int, ...]
    landmark: str = ""
    side: int = 0
    crossing: bool = False

    def __post_init__(self) -> None:
        if self.landmark and self.landmark not in ICONS:
            raise ValueError(f"no icon is called {self.landmark!r}; known: {', '.join(ICONS)}")
        wrong = [way for way in (*self.streets, self.side) if way not in range(len(SIDES))]
        if wrong:
            raise ValueError(f"directions are 0 to {len(SIDES) - 1}, not {wrong[0]}")


# --- shapes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A polygon of one colour; coordinates in pixels of a small view."""

    points: Polygon
    colour: str


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


def _shade(colour: str, by: float) -> str:
    return "#" + "".join(f"{round(by * part):02x}" for part in _rgb(colour))


def _pattern(look: Look, wall: str, left: float, top: float, right: float) -> Iterator[Shape]:
    """What the wall of a house has on it."""
    dark, width, depth = _shade(wall, 0.72), right - left, _FOOT - top
    if look.pattern in ("bricks", "panels"):
        step = 1.5 if look.pattern == "bricks" else 3.0
        for n in range(1, math.ceil(depth / step)):
            yield Shape(_box(left, top + n * step, right, top + n * step + 0.4), dark)
    if look.pattern in ("stripes", "panels"):
        for n in range(4):
            x = left + n * width / 4
            yield Shape(_box(x, top, x + width / (8 if look.pattern == "stripes" else 20), _FOOT),
                        dark)  # fmt: skip
    if look.pattern == "beams":
        middle = top + depth / 2
        for y in (top, middle, _FOOT - 0.8):
            yield Shape(_box(left, y, right, y + 0.8), dark)
        for a, b in ((left, right - 0.9), (right - 0.9, left)):
            yield Shape(((a, middle), (a + 0.9, middle), (b + 0.9, _FOOT), (b, _FOOT)), dark)


def _house(look: Look, way: int, left: float, right: float) -> Iterator[Shape]:
    """The house in direction `way`, between two x: roof, wall, pattern, windows."""
    wall, top, width = look.walls[way % len(look.walls)], _ROOFS[way], right - left
    if look.gables:
        ridge = ((left, top), ((left + right) / 2, top - 3), (right, top))
        yield Shape(ridge, _shade(wall, 0.6))
    yield Shape(_box(left, top, right, _FOOT), wall)
    yield from _pattern(look, wall, left, top, right)
    across, down = look.windows
    room, storey = width / across, (_FOOT - 1 - top) / down
    for column in range(across):
        for row in range(down):
            x, y = left + (column + 0.25) * room, top + (row + 0.3) * storey
            yield Shape(_box(x, y, x + 0.5 * room, y + 0.5 * storey), look.glass)
    yield Shape(_box(left, top, left + 0.3, _FOOT), _shade(wall, 0.6))


def _half_road(y: float) -> float:
    """Half the width of a road at that height of the picture."""
    return 0.8 + 0.42 * (y - _HORIZON)


def _across(x: float, top: float, bottom: float, left: float, right: float) -> Polygon:
    """A part of the road about x; left and right from -1 to 1 of its half width."""
    a, b = _half_road(top), _half_road(bottom)
    return ((x + left * a, top), (x + right * a, top), (x + right * b, bottom),
            (x + left * b, bottom))  # fmt: skip


def _street(look: Look, way: int, middle: float, crossing: bool) -> Iterator[Shape]:
    """The street in direction `way`: walls of the houses beside it, road, and what is painted."""
    for sign in (-1, 1):
        beside = (way + sign) % len(SIDES)
        wall = _shade(look.walls[beside % len(look.walls)], 0.6)
        near, far = middle + sign * _THIRD / 2, middle + sign * 1.3
        yield Shape(((near, _ROOFS[beside]), (near, _FOOT), (far, _HORIZON + 0.3), (far, 11.0)),
                    wall)  # fmt: skip
    bottom = PIXELS + _MARGIN
    yield Shape(_across(middle, _HORIZON, bottom, -1, 1), look.road)
    if crossing:
        for n in range(4):
            left = -0.9 + 0.5 * n
            yield Shape(_across(middle, 18.5, 22.0, left, left + 0.3), PAINT)
    else:
        for top, end in ((15.5, 16.6), (18.2, 20.0), (22.4, bottom)):
            yield Shape(_across(middle, top, end, -0.07, 0.07), PAINT)


def view_shapes(look: Look, view: int, is_open: Sequence[bool], crossing: bool) -> Iterator[Shape]:
    """View 0 to 3 without a sign. `is_open` [3] says which of its directions have a street."""
    end = PIXELS + _MARGIN
    yield Shape(_box(-_MARGIN, -_MARGIN, end, _HORIZON), look.sky)
    yield Shape(_box(-_MARGIN, _HORIZON, end, end), look.ground)
    for place, street in enumerate(is_open):
        way = (2 * view + place - 1) % len(SIDES)
        left, right = place * _THIRD, (place + 1) * _THIRD
        if street:
            yield from _street(look, way, (left + right) / 2, crossing)
        else:
            outer = _MARGIN if place != 1 else 0  # a view that is shifted shows no bare edge
            yield from _house(look, way, left - outer * (place == 0), right + outer * (place == 2))


def sign_shapes(
    look: Look, landmark: str, left: float, top: float, size: float = _SIGN
) -> list[Shape]:
    """A sign with its icon, its upper left corner at (left, top)."""
    rim, icon = size / 24, size * _ICON / _SIGN
    found = [
        Shape(_box(left, top, left + size, top + size), look.ink),
        Shape(_box(left + rim, top + rim, left + size - rim, top + size - rim), look.sign),
    ]
    inset = (size - icon) / 2
    for inked, polygon in ICONS[landmark]:
        points = tuple((left + inset + icon * x, top + inset + icon * y) for x, y in polygon)
        found.append(Shape(points, look.ink if inked else look.sign))
    return found


def _post(look: Look, left: float) -> Shape:
    x = left + _SIGN / 2
    return Shape(_box(x - 0.5, _SIGN_TOP + _SIGN, x + 0.5, 19.0), look.ink)


# --- painting -------------------------------------------------------------------------------------


def _paint(shapes: Sequence[Shape], pixels: int, margin: int, oversample: int) -> Image.Image:
    """Shapes on nothing, RGBA, a view being `pixels` wide; with `margin` more pixels around."""
    from PIL import Image, ImageDraw

    scale, size = oversample * pixels / PIXELS, oversample * (pixels + 2 * margin)
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    drawing = ImageDraw.Draw(image)
    for shape in shapes:
        # Pillow paints the pixels on the edge of a polygon too: half a pixel less to either side
        points = np.array(shape.points) * scale + oversample * margin
        middle = (points.min(0) + points.max(0)) / 2
        points = points - 0.5 - 0.5 * np.sign(points - middle)
        drawing.polygon([(x, y) for x, y in points.tolist()], shape.colour)
    return image.reduce(oversample)


@functools.lru_cache(maxsize=2048)
def _bare(look: Look, view: int, is_open: tuple[bool, ...], crossing: bool) -> np.ndarray:
    """A small view without its sign, float [26, 26, 3]: one pixel more on each side."""
    found = list(view_shapes(look, view, is_open, crossing))
    return np.asarray(_paint(found, PIXELS, _MARGIN, 8))[..., :3].astype(float)


@functools.lru_cache(maxsize=1024)
def _sign(look: Look, landmark: str, place: int) -> np.ndarray:
    """A sign on its post alone, float [26, 26, 4], in place 0 to 2 of a view."""
    left = _SIGN_LEFT[place]
    found = [_post(look, left), *sign_shapes(look, landmark, left, _SIGN_TOP)]
    return np.asarray(_paint(found, PIXELS, _MARGIN, 8)).astype(float)


def _directions(view: int) -> tuple[int, ...]:
    """What a view shows, from left to right."""
    return tuple((2 * view + place - 1) % len(SIDES) for place in range(3))


@functools.lru_cache(maxsize=8192)
def _views(scene: Scene, look: Look) -> np.ndarray:
    """The four views of a scene with their margins, uint8 [4, 26, 26, 3]."""
    size = PIXELS + 2 * _MARGIN
    seen = np.empty((len(VIEWS), size, size, 3))
    for view, picture in enumerate(seen):
        ways = _directions(view)
        picture[:] = _bare(look, view, tuple(way in scene.streets for way in ways), scene.crossing)
        if scene.landmark and scene.side in ways:
            sign = _sign(look, scene.landmark, ways.index(scene.side))
            opacity = sign[..., 3:] / 255
            picture[:] = opacity * sign[..., :3] + (1 - opacity) * picture
    seen = seen.round().astype(np.uint8)  # thousands are kept: 8 KB each, not 65
    seen.flags.writeable = False
    return seen


def _corner(view: int, pixels: int, gap: int) -> tuple[int, int]:
    """Row and column of a view's upper left corner in a mosaic."""
    row, column = divmod(view, 2)
    return row * (pixels + gap), column * (pixels + gap)


def _tiled(scene: Scene, look: Look, shifts: np.ndarray) -> np.ndarray:
    """The mosaic [49, 49, 3] with view k's content moved by shifts[k], (down, right) pixels."""
    picture = np.empty((HEIGHT, WIDTH, 3))
    picture[:] = _rgb(LINE)
    for view, content in enumerate(_views(scene, look)):
        row, column = _corner(view, PIXELS, 1)
        down, right = _MARGIN - shifts[view]
        part = content[down : down + PIXELS, right : right + PIXELS]
        picture[row : row + PIXELS, column : column + PIXELS] = part
    return picture


def mosaic(scene: Scene, look: Look) -> np.ndarray:
    """The picture of a scene, uint8 [49, 49, 3], without noise."""
    still = np.zeros((len(VIEWS), 2), int)
    return _tiled(scene, look, still).astype(np.uint8)


def look_at(scenes: Sequence[Scene], look: Look, rng: np.random.Generator) -> np.ndarray:
    """Pictures of scenes as a walker sees them, uint8 [n, 49, 49, 3]: what each view shows is up to
    1 pixel off its place, the light is weaker or stronger, and there is a little noise."""
    seen = np.empty((len(scenes), HEIGHT, WIDTH, 3))
    shifts = rng.integers(-_MARGIN, _MARGIN + 1, (len(scenes), len(VIEWS), 2))
    for picture, scene, shift in zip(seen, scenes, shifts, strict=True):
        picture[:] = _tiled(scene, look, shift)
    seen *= rng.uniform(0.85, 1.05, (len(scenes), 1, 1, 1))
    seen += rng.normal(0.0, 4.0, seen.shape)
    return seen.clip(0, 255).round().astype(np.uint8)


# --- for people -----------------------------------------------------------------------------------


def _label(image: Image.Image, at: tuple[float, float], text: str, size: float) -> None:
    """A word in a dark box, its upper left corner at `at`."""
    from PIL import ImageDraw, ImageFont

    font, drawing = ImageFont.load_default(size), ImageDraw.Draw(image)
    left, top, right, bottom = drawing.textbbox(at, text, font)
    pad = size * 0.3
    drawing.rectangle((at[0], at[1], right - left + at[0] + 2 * pad,
                       bottom - top + at[1] + 2 * pad), LINE)  # fmt: skip
    drawing.text((2 * at[0] - left + pad, 2 * at[1] - top + pad), text, PAINT, font)


def draw_mosaic(scene: Scene, look: Look, side: int = 480) -> Image.Image:
    """The picture of a scene, `side` pixels wide and high, each view named.

    Raises:
        ValueError: `side` is below that of the small picture.
    """
    from PIL import Image

    if side < HEIGHT:
        raise ValueError(f"side must be at least {HEIGHT} pixels, not {side}")
    pixels = (side - max(1, side // HEIGHT)) // 2
    gap = side - 2 * pixels
    picture = Image.new("RGB", (side, side), LINE)
    for view, name in enumerate(VIEWS):
        ways = _directions(view)
        is_open = [way in scene.streets for way in ways]
        found = list(view_shapes(look, view, is_open, scene.crossing))
        if scene.landmark and scene.side in ways:
            left = _SIGN_LEFT[ways.index(scene.side)]
            found += [_post(look, left), *sign_shapes(look, scene.landmark, left, _SIGN_TOP)]
        row, column = _corner(view, pixels, gap)
        picture.paste(_paint(found, pixels, 0, 3), (column, row))
        _label(picture, (column + side / 96, row + side / 96), name, side / 36)
    return picture


def contact_sheet(look: Look, width: int = 96) -> Image.Image:
    """The twelve icons on their signs, each `width` pixels wide, with their names."""
    from PIL import Image

    gap = width // 4
    columns, rows = 4, len(ICONS) // 4
    size = columns * (width + gap) + gap, rows * (width + 2 * gap) + gap
    sheet = Image.new("RGB", size, look.ground)
    for number, name in enumerate(ICONS):
        row, column = divmod(number, columns)
        corner = gap + column * (width + gap), gap + row * (width + 2 * gap)
        sheet.paste(_paint(sign_shapes(look, name, 0, 0, PIXELS), width, 0, 3), corner)
        _label(sheet, (corner[0], corner[1] + width + gap / 6), name, width / 7)
    return sheet
