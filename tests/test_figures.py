"""Figures hold the data they are given, and their PNG twins show it."""

import io
import json

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest

from amft_lite import figures
from amft_lite.gate import BINS, QUARTERS

MEASURED = {"mu_signal": 0.2, "cos_utility_sft": 0.3, "cos_utility_rl": -0.1}
LINES = [
    {
        "step": t, "mu": 1 - t / 20, "target_entropy": 0.3, "entropy": 0.3 - t / 100,
        "reward": t / 20, "groups_with_variance": 0.5, "cos_sft_rl": 0.1,
        **(MEASURED if t % 5 == 0 else {}),
    }
    for t in range(20)
]  # fmt: skip
GATES = [
    {"step": t, **{f"mu_gate_{k}": (k + t / 20) / 5 for k in range(len(BINS))},
     **{f"mu_trust_{j}": 1 - (j + t / 20) / 4 for j in range(QUARTERS)}} if t % 5 == 0
    else {"step": t} for t in range(20)
]  # fmt: skip
CURVE = [
    {"step": t, "test": point, "ood_rule": point}
    for t in (0, 10, 20)
    for point in [{"mean": t / 40, "low": t / 50, "high": t / 30}]
]
DRAWN = {
    "success": lambda: figures.success_figure({"amft": CURVE}, 3),
    "mu": lambda: figures.mu_figure({"amft": LINES}, 3),
    "entropy": lambda: figures.entropy_figure({"amft": LINES}, 3),
    "reward": lambda: figures.reward_figure({"amft": LINES}, 3),
    "gradient": lambda: figures.gradient_figure(LINES, 3),
    "gate": lambda: figures.gate_figure(GATES, BINS, 3),
    "several": lambda: figures.success_figure({"amft": CURVE, "rl": CURVE}),
}


def pixels(png):
    from matplotlib.image import imread

    return (imread(io.BytesIO(png))[..., :3] * 255).round().astype(int)


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_says_what_it_shows_and_draws_everywhere(name):
    figure = DRAWN[name]()
    assert figure.layout.title.text and figure.layout.xaxis.title.text == "training step"
    assert figure.layout.yaxis.title.text
    image = pixels(figures.to_png(figure))
    colours = {tuple(c) for c in np.unique(image.reshape(-1, 3), axis=0)}
    for trace in figure.data:  # each line's colour is on the picture
        if trace.mode and "lines" in trace.mode and trace.line.color:
            wanted = tuple(int(trace.line.color[i : i + 2], 16) for i in (1, 3, 5))
            assert wanted in colours, trace.name


def test_png_is_the_same_each_time():
    figure = DRAWN["mu"]()
    assert figures.to_png(figure) == figures.to_png(figure)


def test_lines_hold_the_values():
    [line] = [t for t in DRAWN["mu"]().data if t.name == "mu (amft)"]
    assert list(line.y) == [x["mu"] for x in LINES]
    [test] = [t for t in DRAWN["success"]().data if t.name == "amft, same rule"]
    assert list(test.x) == [0, 10, 20] and list(test.y) == [0, 0.25, 0.5]


def test_weights_are_drawn_where_they_were_learned():
    figure = DRAWN["gate"]()
    assert [t.name for t in figure.data[:5]] == [f"tokens, {b}" for b in (
        "p < 0.03", "0.03 - 0.15", "0.15 - 0.5", "0.5 - 0.9", "p > 0.9")]  # fmt: skip
    assert len(figure.data) == 9 and list(figure.data[2].x) == [0, 5, 10, 15]
    assert list(figure.data[2].y) == [x["mu_gate_2"] for x in GATES if "mu_gate_2" in x]
    assert list(figure.data[8].y) == [x["mu_trust_3"] for x in GATES if "mu_trust_3" in x]


def test_missing_measurements_leave_gaps_not_zeros():
    steps, values = figures.column(LINES, "mu_signal")
    assert steps == [0, 5, 10, 15] and values == [0.2] * 4
    assert figures.smooth([1.0, 2.0, 3.0], 2) == [1.0, 1.5, 2.5]


def test_an_unknown_kind_of_trace_is_refused_not_left_out():
    with pytest.raises(ValueError, match="histogram"):
        figures.to_png(go.Figure(go.Histogram(x=[1])))


def test_notebooks_get_both_forms(monkeypatch):
    monkeypatch.delenv("PLOTLY_RENDERER", raising=False)
    monkeypatch.delenv("COLAB_NOTEBOOK_ID", raising=False)
    before = pio.renderers.default
    try:
        assert figures.use_plotly() == "plotly_mimetype+amft_png"
        bundle = pio.renderers._build_mime_bundle(json.loads(DRAWN["mu"]().to_json()))
        assert {"application/vnd.plotly.v1+json", "image/png"} <= set(bundle)
    finally:
        pio.renderers.default = before


def test_colab_keeps_its_own_renderer(monkeypatch):
    monkeypatch.setenv("COLAB_NOTEBOOK_ID", "x")
    before = pio.renderers.default
    assert figures.use_plotly() == before == pio.renderers.default


def small(**options):
    lines = {"a": ([1, 2, 3], [1.0, 4.0, 2.0]), "b": ([1, 2, 3], [3.0, 0.5, 1.0])}
    return figures.line_figure("Two lines", "x", "y", lines, "two lines that cross", **options)


def test_a_slider_shows_one_group_at_a_time_and_the_picture_shows_the_first():
    figure = figures.add_slider(small(), "which", {"first": [0], "second": [1]})
    assert [trace.visible for trace in figure.data] == [True, False]
    [slider] = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["first", "second"]
    assert [list(step.args[0]["visible"]) for step in slider.steps] == [
        [True, False],
        [False, True],
    ]
    one = figures.line_figure("Two lines", "x", "y", {"a": ([1, 2, 3], [1.0, 4.0, 2.0])})
    drawn, alone = pixels(figures.to_png(figure)), pixels(figures.to_png(one))
    assert drawn.shape == alone.shape and (drawn == alone).all()
    json.loads(figure.to_json())


def test_what_no_position_of_a_slider_lists_is_always_shown():
    figure = small()
    figure.add_scatter(x=[1, 3], y=[2, 2], name="always")
    figures.add_slider(figure, "which", {"first": [0], "second": [1]})
    assert [trace.visible for trace in figure.data] == [True, False, True]
    assert all(step.args[0]["visible"][2] for step in figure.layout.sliders[0].steps)


def test_the_alt_text_travels_with_the_figure():
    assert small().layout.meta["alt"] == "two lines that cross"
    assert small(markers=True).data[0].mode == "lines+markers"


def test_signals_have_their_own_axis_around_0_in_both_forms():
    figure = figures.mu_figure({"amft": LINES}, 3)
    [signal] = [trace for trace in figure.data if trace.yaxis == "y2"]
    low, high = figure.layout.yaxis2.range
    assert low == -high and high > max(map(abs, signal.y))
    assert (pixels(figures.to_png(figure)) == np.array([213, 94, 0])).all(-1).any()  # its dots


def test_error_bars_and_log_axes_are_drawn():
    figure = small()
    plain = pixels(figures.to_png(figure))
    figure.data[0].error_y = {"type": "data", "array": [0.5, 0.5, 0.5]}
    assert (pixels(figures.to_png(figure)) != plain).any()
    figure = small().update_yaxes(type="log")
    assert (pixels(figures.to_png(figure)) != plain).any()


def test_a_heat_map_has_row_0_above_and_its_colours():
    shares = [[1.0, 0.0], [0.5, 0.5]]
    figure = figures.heat_figure("read", "read as", "shown", ["A", "K"], shares)
    image = pixels(figures.to_png(figure)).astype(int)
    full = (abs(image - np.array([0x00, 0x72, 0xB2])) < 3).all(-1)
    half = (abs(image - np.array([0x80, 0xB9, 0xD9])) < 4).all(-1)
    full, half = (np.argwhere(found[:, :700]) for found in (full, half))  # without the colour bar
    assert len(full) > 5000 and len(half) > 10_000
    assert full[:, 0].max() <= half[:, 0].min() + 2  # (A, A) lies above the row of K
    assert abs(full[:, 1].min() - half[:, 1].min()) < 3 and half[:, 1].max() > full[:, 1].max() + 50


def test_a_task_names_its_splits_in_the_figure_of_success():
    point = {"step": 0, **{s: {"mean": 0.1, "low": 0.0, "high": 0.2} for s in ("test", "ood_rule")}}
    words = {t.name for t in figures.success_figure({"a": [point]}, 0).data}
    told = {t.name for t in figures.success_figure({"a": [point]}, 0, {"ood_rule": "left"}).data}
    assert "a, new rule" in words and "a, left" in told and "a, new rule" not in told


def test_no_two_methods_of_a_figure_share_a_colour_and_known_ones_keep_theirs():
    names = ["cut_low", "amft_full-equal", "amft", "fixed-.5", "sft_then_rl", "fixed-.05"]
    shades = figures.colours(names)
    assert list(shades) == names and len(set(shades.values())) == len(names)
    assert shades["amft"] == figures.colour("amft", 3) == figures.colours(["amft"])["amft"]
    assert len(figures.colours([str(n) for n in range(20)])) == 20
