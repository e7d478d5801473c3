import math

import pytest

from tutelage.assessment import ProxyGoldenCurve

ERRORS = [0.1] * 5


def curve(proxy, golden):
    return ProxyGoldenCurve([0, 10, 20, 40, 80], proxy, golden, ERRORS, ERRORS)


FALLING, U_SHAPE, RISING = [5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 3.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("proxy", "golden", "interval"),
    [
        (FALLING, U_SHAPE, (20, 80)),
        (FALLING, FALLING, None),
        (RISING, RISING, None),
        (U_SHAPE, U_SHAPE, None),
        (FALLING, [5.0, 3.0, 2.0, 2.1, 2.19], None),  # within two standard errors
        ([5.0, 4.0, 3.0, 3.0, 3.19], U_SHAPE, (20, 80)),  # proxy stalls
        ([5.0, 4.0, 3.0, 3.0, 3.21], U_SHAPE, None),
    ],
)
def test_hacking_interval(proxy, golden, interval):
    assert curve(proxy, golden).hacking_interval() == interval


def test_rises_and_index_by_hand():
    drawn = curve(FALLING, U_SHAPE)
    assert drawn.best == 2
    assert drawn.golden_rise == pytest.approx(1.0)
    assert drawn.proxy_rise == pytest.approx(1 / 3 - 1)
    assert drawn.hacking_index() == pytest.approx(1 + 2 / 3)
    assert curve(FALLING, FALLING).hacking_index() == 0
    assert curve(U_SHAPE, U_SHAPE).hacking_index() == 0


def test_a_wider_margin_finds_less():
    assert curve(FALLING, U_SHAPE).hacking_interval(z=30) is None
    with pytest.raises(ValueError, match="`z`"):
        curve(FALLING, U_SHAPE).hacking_interval(z=-1)


def test_plot_draws_both_and_marks_the_interval():
    axes = curve(FALLING, U_SHAPE).plot()
    assert "proxy" in axes.get_xlabel()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["teacher hacking"]
    assert curve(FALLING, FALLING).plot().get_legend() is None


@pytest.mark.parametrize(
    ("steps", "proxy", "message"),
    [([0, 1], [1.0], "one length"), ([1, 1], [1.0, 1.0], "to rise"), ([0, 1], [1.0, math.nan], "finite")],
)
def test_bad_input(steps, proxy, message):
    with pytest.raises(ValueError, match=message):
        ProxyGoldenCurve(steps, proxy, [1.0, 1.0], [0.1, 0.1], [0.1, 0.1])
    with pytest.raises(ValueError, match="at least 1"):
        ProxyGoldenCurve([], [], [], [], [])
