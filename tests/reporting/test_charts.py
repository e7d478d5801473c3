import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.reporting import charts

BAD = "<script>alert(1)</script>\"'&"
SERIES = charts.Series("kd", "s0", [1, 2, 3], [0.1, 0.5, 0.4], [0.0, 0.4, 0.4], [0.2, 0.6, 0.4])


def parsed(chart):
    return ElementTree.fromstring(str(chart))


def marks(chart, kind):
    return [node for node in parsed(chart).iter() if kind in node.get("class", "").split()]


def test_line_chart_draws_line_band_dots_and_name():
    chart = charts.line_chart([SERIES], description="d", x_label="epoch")
    assert [len(marks(chart, kind)) for kind in ("line", "band", "dot", "name")] == [1, 1, 3, 1]
    assert parsed(chart).get("role") == "img"
    assert parsed(chart).get("aria-label") == "d"


def test_higher_values_are_drawn_higher():
    chart = charts.line_chart([SERIES], description="d", x_label="epoch")
    first, second, _ = (float(dot.get("cy")) for dot in marks(chart, "dot"))
    assert second < first


def test_points_that_are_not_finite_are_left_out():
    series = charts.Series("kd", "s0", [1, 2, 3], [0.1, math.nan, math.inf])
    assert len(marks(charts.line_chart([series], description="d", x_label="x"), "dot")) == 1
    with pytest.raises(ValueError, match="to hold a finite point"):
        charts.line_chart([charts.Series("kd", "s0", [1], [math.nan])], description="d", x_label="x")


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[1.0, 1.0], [1e-6, 1e6], [5.0], [1e-300, 2e-300]])
def test_odd_ranges_give_finite_places(values, log):
    series = charts.Series("kd", "s0", range(len(values)), values)
    chart = str(charts.line_chart([series], description="d", x_label="x", log_y=log))
    assert "nan" not in chart
    assert "inf" not in chart
    assert marks(chart, "dot")


def test_reliability_leaves_out_empty_bins():
    chart = charts.reliability_chart([0.1, math.nan, 0.9], [0.2, math.nan, 0.8], [3, 0, 5], tone="s1", description="d")
    assert len(marks(chart, "dot")) == len(marks(chart, "bar")) == 2
    assert not marks(charts.reliability_chart([], [], [], tone="s1", description="d"), "dot")


def test_reliability_dots_lie_on_the_diagonal_when_calibrated():
    chart = charts.reliability_chart([0.25, 0.75], [0.25, 0.75], [1, 1], tone="s1", description="d")
    ideal = marks(chart, "ideal")[0]
    x1, y1, x2, y2 = (float(ideal.get(key)) for key in ("x1", "y1", "x2", "y2"))
    for dot in marks(chart, "dot"):
        share = (float(dot.get("cx")) - x1) / (x2 - x1)
        assert float(dot.get("cy")) == pytest.approx(y1 + share * (y2 - y1), abs=0.02)


def test_strips_and_intervals_draw_every_row():
    strips = [charts.Strip(name, "s0", [1.0, 2.0], 1.5, "1.5") for name in "abc"]
    assert len(marks(charts.strip_chart(strips, description="d"), "centre")) == 3
    rows = [
        charts.Interval("a − b", 0.1, 0.05, 0.15, "+10", True),
        charts.Interval("a − c", 0.1, None, None, "+10", None),
    ]
    chart = charts.interval_chart(rows, description="d")
    assert len(marks(chart, "estimate")) == 2
    assert len(marks(chart, "unsure")) == 1
    assert len(marks(chart, "interval")) == 3
    for draw, word in ((charts.strip_chart, "finite value"), (charts.interval_chart, "finite difference")):
        with pytest.raises(ValueError, match=word):
            draw([], description="d")


def test_names_stay_text():
    drawn = [
        charts.line_chart([charts.Series(BAD, "s0", [1], [1.0])], description=BAD, x_label=BAD),
        charts.strip_chart([charts.Strip(BAD, "s0", [1.0], 1.0, BAD)], description=BAD),
        charts.interval_chart([charts.Interval(BAD, 1.0, 0.0, 2.0, BAD, True)], description=BAD),
        charts.reliability_chart([0.5], [0.5], [1], tone="s0", description=BAD),
        charts.swatch("s0", BAD),
    ]
    for chart in drawn:
        assert "<script" not in chart
    for chart in drawn[:-1]:
        assert parsed(chart).get("aria-label") == BAD


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=7),
)
@settings(max_examples=25, deadline=None)
def test_labels_keep_their_order_and_distance(wanted):
    placed = charts.spread_labels(wanted, 0.0, 100.0, gap=14.0)
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gaps = [placed[after] - placed[before] for before, after in pairwise(order)]
    assert all(gap >= 14.0 - 0.02 for gap in gaps)
    assert all(-0.01 <= place <= 100.01 for place in placed)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
@settings(max_examples=25, deadline=None)
def test_ticks_are_few_round_and_inside(low, span):
    axis = charts.Axis(low, low + span, 0, 100)
    ticks = axis.ticks(4)
    assert len(ticks) <= 7
    assert all(low - 1e-5 * span <= tick <= low + span * (1 + 1e-5) for tick in ticks)


def test_clip_ends_with_an_ellipsis():
    assert charts.clip("short", 100) == "short"
    assert re.fullmatch(r"a+…", charts.clip("a" * 99, 100))
