"""Spreads, ratios and slopes of known measurements."""

from __future__ import annotations

import math

import pytest

from benchmarks.harness import Timings, log_log_slope
from benchmarks.records import Spread


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 3.0])
def test_slope_of_a_power(exponent: float) -> None:
    sizes = [10, 20, 40, 80]
    slope = log_log_slope(sizes, [7 * size**exponent for size in sizes])
    assert slope.exponent == pytest.approx(exponent, abs=1e-6)
    assert slope.error == pytest.approx(0, abs=1e-6)


def test_slope_has_the_error_of_least_squares() -> None:
    from scipy.stats import linregress

    sizes, values = [1, 2, 4, 8, 16], [1.0, 2.2, 3.9, 8.5, 15.0]
    expected = linregress([0, 1, 2, 3, 4], [math.log2(value) for value in values])
    slope = log_log_slope(sizes, values)
    assert slope.exponent == pytest.approx(expected.slope, abs=1e-5)
    assert slope.error == pytest.approx(expected.stderr, abs=1e-5)


def test_ratios_are_taken_turn_by_turn() -> None:
    timings = Timings({"ours": [1.0, 10.0, 1.0], "peer": [2.0, 20.0, 4.0], "sort": [1.0, 0.0, 0.0]})
    assert timings.ratio("ours", "peer").median == 0.5
    assert timings.ratio("ours", {"peer": 2, "sort": 1}).record() == {"median": 0.2, "low": 0.1625, "high": 0.225}


def test_inverse_of_a_spread_keeps_its_order() -> None:
    assert Spread(2.0, 1.0, 4.0).inverse == Spread(0.5, 0.25, 1.0)
