"""City maps, and walks replayed on them step by step.

Plain plotly figures in the manner of `amft_lite.figures`. North is up, one street is one unit; a
landmark stands beside its crossing, on the side where it lies. A replay has one frame for each
attempt: who walks is an arrow that points where they face, beside the map stands what was said.

Left out: what is right (`amft_lite.tasks.navigation`).
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import plotly.graph_objects as go

from amft_lite.figures import COLOURS, PALETTE, describe, new_figure
from amft_lite.tasks.city import COMPASS, STEPS, City, Place, Route
from amft_lite.tasks.navigation import Journey, Walk, asked_again, told

WALL, INK = "#c8c8c8", "#444444"  # streets and crossings; names
RIGHT, LATE, WRONG = COLOURS["rl"], COLOURS["sft"], PALETTE[4]
BESIDE = 0.24  #: from a crossing to its landmark, in streets
MAP = 0.53  #: share of the figure's width that a replay gives to the map
#: Where a name may stand beside its landmark, the first that is free: (upright, side).
CORNERS = (
    ("top", "right"), ("bottom", "right"), ("top", "left"), ("bottom", "left"),
    ("top", "center"), ("bottom", "center"),
)  # fmt: skip
LETTER, LINE = 0.078, 0.17  #: size of a letter and of a line of names on the map, in streets
#: What became of a point: colour and symbol on the map, and a sign for text.
KINDS = (
    ("right at once", RIGHT, "circle", "\N{BLACK CIRCLE}"),
    ("right later", LATE, "diamond", "\N{BLACK DIAMOND}"),
    ("never right", WRONG, "x", "\N{MULTIPLICATION X}"),
)
#: What became of an attempt, in words: by outcome.
VERDICTS = {
    "right": "right",
    "wrong": "wrong",
    "wrong_place": "wrong, and mistaken about the crossing",
    "not_allowed": "no allowed action",
    "syntax": "no answer in three parts",
}


def spots(route: Route) -> list[tuple[float, float, int]]:
    """(east, north, heading) at every point of a route, in the order of a journey's points.

    At a crossing one still faces the way one came. The points of a street lie evenly between its
    two crossings.
    """
    found: list[tuple[float, float, int]] = []
    heading = route.start_heading
    for number, leg in enumerate(route.legs):
        (e0, n0), (e1, n1) = route.crossings[number : number + 2]
        found.append((float(e0), float(n0), heading))
        heading = leg.heading
        for k in range(1, leg.points + 1):
            share = k / (leg.points + 1)
            found.append((e0 + share * (e1 - e0), n0 + share * (n1 - n0), heading))
    return [*found, (*map(float, route.crossings[-1]), heading)]


def beside(place: Place, bearing: int, distance: float = BESIDE) -> tuple[float, float]:
    """What lies at a bearing from a crossing: (east, north)."""
    east, north = STEPS[bearing // 45]
    length = math.hypot(east, north)
    return place[0] + distance * east / length, place[1] + distance * north / length


def name_corners(names: Sequence[str], where: Sequence[tuple[float, float]]) -> list[str]:
    """For each name the corner of its landmark at which it meets the fewest names before it."""
    taken: list[tuple[float, float, float, float]] = []
    found = []
    for name, (east, north) in zip(names, where, strict=True):
        width = LETTER * len(name)
        boxes = {}
        for upright, side in CORNERS:
            left = east - {"left": width, "center": width / 2, "right": 0}[side]
            low = north if upright == "top" else north - LINE
            boxes[f"{upright} {side}"] = (left, low, left + width, low + LINE)
        meets = {
            corner: sum(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3]
                        for b in taken)
            for corner, box in boxes.items()
        }  # fmt: skip
        best = min(meets, key=meets.get)
        taken.append(boxes[best])
        found.append(best)
    return found


def city_figure(city: City, title: str = "", height: int = 660) -> go.Figure:
    """The map of a city: streets, crossings, and the landmarks' names where they lie."""
    figure = new_figure(
        title or f"City {city.seed}", "streets from the west end", "streets from the south end",
        height,
    )  # fmt: skip
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_xaxes(range=[-0.85, city.size - 0.15], dtick=1, showgrid=False, zeroline=False)
    figure.update_yaxes(range=[-0.6, city.size - 0.4], dtick=1, showgrid=False, zeroline=False)
    figure.update_xaxes(constrain="domain")
    figure.update_yaxes(scaleanchor="x", constrain="domain")
    streets_e: list[float | None] = []
    streets_n: list[float | None] = []
    for (east, north), ways in sorted(city.streets.items()):
        for way in ways:
            if way < 4:  # each street from one of its two ends
                streets_e += [east, east + STEPS[way][0], None]
                streets_n += [north, north + STEPS[way][1], None]
    figure.add_scatter(
        x=streets_e, y=streets_n, mode="lines", line={"color": WALL, "width": 5}, name="streets",
        hoverinfo="skip",
    )  # fmt: skip
    places = sorted(city.streets)
    figure.add_scatter(
        x=[p[0] for p in places], y=[p[1] for p in places], mode="markers", name="crossings",
        marker={"color": WALL, "size": 11},
        hovertemplate="crossing (%{x}, %{y})<extra></extra>",
    )  # fmt: skip
    marks = [(place, *city.landmarks[place]) for place in places if place in city.landmarks]
    where = [beside(place, bearing) for place, _, bearing in marks]
    figure.add_scatter(
        x=[e for e, _ in where], y=[n for _, n in where], mode="markers+text", name="landmarks",
        marker={"color": INK, "size": 5, "symbol": "square"},
        text=[name for _, name, _ in marks], textfont={"color": INK, "size": 11},
        textposition=name_corners([name for _, name, _ in marks], where), cliponaxis=False,
        customdata=[f"{COMPASS[bearing // 45]} of ({p[0]}, {p[1]})" for p, _, bearing in marks],
        hovertemplate="%{text}, %{customdata}<extra></extra>",
    )  # fmt: skip
    return describe(
        figure, f"Map of city {city.seed}: {len(places)} crossings, their streets, and a landmark "
                "beside each"
    )  # fmt: skip


def walk_figure(
    city: City, walk: Walk, answers: Sequence[str], title: str = "", start: int = 0
) -> go.Figure:
    """A walk replayed: one frame an attempt, with a slider and a play button.

    `answers` are those that the walk was given, in turn; `start` is the attempt that is shown
    first, and on the PNG.

    Raises:
        ValueError: there are not as many answers as attempts, or no attempt.
    """
    if not walk.attempts or len(answers) < len(walk.attempts):
        raise ValueError(f"{len(walk.attempts)} attempts and {len(answers)} answers")
    route, height = walk.journey.route, 560
    figure = city_figure(city, title or f"A walk through city {city.seed}", height)
    frame_map(figure, route)
    way = list(zip(*route.crossings, strict=True))
    figure.add_scatter(
        x=way[0], y=way[1], mode="lines", line={"color": COLOURS["amft"], "width": 5},
        name="route", hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(
        x=[way[0][-1]], y=[way[1][-1]], mode="markers", name="destination",
        marker={"color": COLOURS["amft"], "size": 17, "symbol": "square"},
        hovertemplate="destination<extra></extra>",
    )  # fmt: skip
    first = len(figure.data)
    frames = [moment(walk, answers, number) for number in range(len(walk.attempts))]
    for trace in frames[start][0]:
        figure.add_trace(trace)
    moving = list(range(first, len(figure.data)))
    names = [str(number + 1) for number in range(len(frames))]
    figure.frames = [
        go.Frame(
            data=traces, traces=moving, name=name, layout={"annotations": [panel(*words)]}
        )
        for name, (traces, words) in zip(names, frames, strict=True)
    ]  # fmt: skip
    figure.update_layout(annotations=[panel(*frames[start][1])])
    add_controls(figure, names, start)
    return describe(figure, in_words(walk))


def frame_map(figure: go.Figure, route: Route, least: float = 2.7) -> None:
    """Make room beside the map, and show the part of the city around a route, square."""
    across = [p[0] for p in route.crossings], [p[1] for p in route.crossings]
    side = max(least, *(max(a) - min(a) + 1.7 for a in across))
    low, high = zip(*(((max(a) + min(a) - side) / 2, (max(a) + min(a) + side) / 2)
                      for a in across), strict=True)  # fmt: skip
    figure.update_xaxes(range=[low[0], high[0]], domain=[0, MAP])
    figure.update_yaxes(range=[low[1], high[1]])


def moment(
    walk: Walk, answers: Sequence[str], number: int
) -> tuple[list[go.Scatter], tuple[list[str], str]]:
    """What changes from attempt to attempt: the traces, and the words beside the map."""
    where = spots(walk.journey.route)
    place = walk.attempts[number][0]
    traces = []
    done = verdicts(walk.attempts[: number + 1], walk.tries)
    for kind, shade, symbol, _ in KINDS:
        those = [where[p] for p, found in done.items() if found == kind]
        traces.append(go.Scatter(
            x=[e for e, _, _ in those], y=[n for _, n, _ in those], mode="markers", name=kind,
            marker={"color": shade, "size": 11, "symbol": symbol,
                    "line": {"color": "white", "width": 1}},
            hovertemplate=f"{kind}<extra></extra>",
        ))  # fmt: skip
    east, north, heading = where[place]
    traces.append(go.Scatter(
        x=[east], y=[north], mode="markers", name="walker",
        marker={"color": "black", "size": 22, "symbol": "arrow", "angle": heading,
                "line": {"color": "white", "width": 1.5}},
        hovertemplate=f"facing {COMPASS[heading // 45]}<extra></extra>",
    ))  # fmt: skip
    return traces, words(walk, answers, number)


def verdicts(attempts: Sequence[tuple[int, str]], tries: int) -> dict[int, str]:
    """Of each point met: right at once, right later, or never right; left out while it is asked."""
    found: dict[int, str] = {}
    asked: dict[int, int] = {}
    for place, outcome in attempts:
        asked[place] = asked.get(place, 0) + 1
        if outcome == "right":
            found[place] = "right at once" if asked[place] == 1 else "right later"
        elif asked[place] == tries:
            found[place] = "never right"
    return found


def words(walk: Walk, answers: Sequence[str], number: int) -> tuple[list[str], str]:
    """The lines beside the map for one attempt, and the colour of the last."""
    journey, (place, outcome) = walk.journey, walk.attempts[number]
    points = journey.points
    before = walk.attempts[number - 1] if number else (-1, "right")
    again = before[0] == place
    heard = asked_again(before[1], points[place]) if again else told(points[place])
    tried = sum(p == place for p, _ in walk.attempts[: number + 1])
    lines = ["<b>directions</b>  (turns: " + turns_of(journey) + ")"]
    for direction in dict.fromkeys(point.direction for point in points):
        now = direction == points[place].direction
        lines.append(f"<b>\N{BLACK RIGHT-POINTING SMALL TRIANGLE} {direction}</b>" if now
                     else f"\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}{direction}")  # fmt: skip
    facing = COMPASS[spots(journey.route)[place][2] // 45]
    lines += [
        "",
        f"<b>point {place + 1} of {len(points)}, try {tried}</b>  facing {facing}",
        f"task:   {html.escape(heard)}",
        *spoken(answers[number]),
    ]
    last = place + 1 == len(points)
    if outcome == "right":
        after = "moves on" if not last else "arrived" if walk.failed is None else "the end"
    elif tried < walk.tries:
        after = "is asked again"
    else:
        after = "goes on all the same" if walk.to_the_end else "the walk is over"
    sign = "\N{CHECK MARK}" if outcome == "right" else "\N{BALLOT X}"
    lines += [f"<b>{sign} {VERDICTS[outcome]}</b>", f"\N{RIGHTWARDS ARROW} {after}"]
    return lines, RIGHT if outcome == "right" else WRONG


def turns_of(journey: Journey) -> str:
    return "compass words" if journey.turns == "compass" else "left and right"


def spoken(answer: str, width: int = 40) -> list[str]:
    """An answer as lines: one for each of its parts."""
    parts = [part.strip() for part in answer.split("|")]
    lines, pad = [], "walker: "
    for number, part in enumerate(parts):
        bar = " |" if number + 1 < len(parts) else ""
        short = part if len(part) <= width else part[: width - 1] + "\N{HORIZONTAL ELLIPSIS}"
        lines.append(pad + html.escape(short) + bar)
        pad = "\N{NO-BREAK SPACE}" * len(pad)
    return lines


def panel(lines: Sequence[str], shade: str) -> dict:
    """The words beside the map, as an annotation: the last two lines in colour, then a key."""
    key = [f'<span style="color:{shade}">{sign}</span> {kind}' for kind, shade, _, sign in KINDS]
    text = "<br>".join([
        *lines[:-2], *(f'<span style="color:{shade}">{line}</span>' for line in lines[-2:]),
        "", "points so far", *key,
    ])  # fmt: skip
    return {
        "text": text.replace("  ", "\N{NO-BREAK SPACE}" * 2), "x": MAP + 0.04, "y": 1.0,
        "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "top", "align": "left",
        "showarrow": False, "font": {"size": 12, "color": INK, "family": "monospace"},
    }  # fmt: skip


def add_controls(figure: go.Figure, names: Sequence[str], start: int) -> None:
    """A slider over the frames, a button that plays them, and one that stops."""
    still = {"mode": "immediate", "frame": {"duration": 0, "redraw": True},
             "transition": {"duration": 0}}  # fmt: skip
    moving = {**still, "fromcurrent": True, "frame": {"duration": 1200, "redraw": True}}
    figure.update_layout(
        sliders=[{
            "active": start, "len": 0.82, "x": 0.18, "pad": {"t": 55},
            "currentvalue": {"prefix": "attempt: "},
            "steps": [{"method": "animate", "label": name, "args": [[name], still]}
                      for name in names],
        }],
        updatemenus=[{
            "type": "buttons", "direction": "left", "showactive": False,
            "x": 0, "xanchor": "left", "y": 0, "yanchor": "top", "pad": {"t": 72},
            "buttons": [
                {"label": "Play", "method": "animate",
                 "args": [None, moving]},
                {"label": "Stop", "method": "animate",
                 "args": [[None], still]},
            ],
        }],
        margin={"b": 130}, height=figure.layout.height + 90,
    )  # fmt: skip


def in_words(walk: Walk) -> str:
    """A walk for who does not see it."""
    route, found = walk.journey.route, verdicts(walk.attempts, walk.tries)
    counts = {kind: list(found.values()).count(kind)
              for kind, *_ in KINDS}  # fmt: skip
    said = ", ".join(f"{n} {kind}" for kind, n in counts.items() if n)
    legs = f"{len(route.legs)} street{'s' * (len(route.legs) > 1)}"
    end = walk.reward.reason.replace("_", " ")
    return (
        f"Map of city {route.city} with a route of {legs} and its {len(walk.journey.points)} "
        f"points, replayed in {len(walk.attempts)} attempts: {said or 'none is decided'}; {end}"
    )
