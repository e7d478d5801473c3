import math
import statistics

import pytest

from tutelage.reporting.metrics import Spread, metric


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 1.0, "100.00"),
        ("accuracy", math.nan, "not a number"),
        ("perplexity", math.inf, "infinite"),
        ("parameters", 999, "999"),
        ("parameters", 12_345, "12.3 k"),
        ("multiply_adds", 4.2e9, "4.20 G"),
        ("latency_ms", 0.01234, "0.0123"),
        ("latency_ms", 123.4, "123"),
        ("latency_ms", 0.0, "0"),
        ("negative_log_likelihood", 0.1234, "0.123"),
        ("negative_log_likelihood", 0.000012, "1.20e−05"),
        ("mean_squared_error", 2_912.4, "2,912"),
        ("r2", -0.5, "−0.500"),
    ],
)
def test_format(name, value, text):
    assert metric(name).format(value) == text


def test_differences_carry_a_sign():
    assert metric("accuracy").format_difference(0.012) == "+1.20 points"
    assert metric("latency_ms").format_difference(-0.5) == "−0.500 ms"
    assert metric("accuracy").format_difference(0.0) == "0.00 points"


def test_labels_inside_sentences():
    names = ("accuracy", "r2", "teacher_kl", "negative_log_likelihood")
    assert [metric(name).sentence_label for name in names] == ["accuracy", "R²", "KL from teacher", "log loss (NLL)"]


def test_spread_is_of_the_sample():
    values = [0.1, 0.4, 0.7]
    spread = Spread.of(values)
    assert spread.mean == pytest.approx(0.4)
    assert spread.deviation == pytest.approx(statistics.stdev(values))
    assert (spread.count, spread.lost) == (3, 0)


def test_spread_of_nothing_finite():
    spread = Spread.of([math.nan, math.inf])
    assert math.isnan(spread.mean)
    assert (spread.deviation, spread.count, spread.lost) == (None, 0, 2)
    assert spread.format(metric("accuracy")) == "not a number"


def test_one_seed_has_no_deviation():
    assert Spread.of([0.5]).format(metric("accuracy")) == "50.00"
    assert Spread.of([0.5, 0.7]).format(metric("accuracy")) == "60.00 ± 14.14"


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("negative_log_likelihood", [0.216, 0.218], "0.217 ± 0.001"),
        ("latency_ms", [2.5, 2.52], "2.51 ± 0.01"),
        ("parameters", [1_000_000, 1_020_000], "1.01 M ± 0.01 M"),
        ("parameters", [5, 5], "5"),
        ("latency_ms", [0.0, 0.0], "0"),
    ],
)
def test_a_deviation_is_rounded_like_its_mean(name, values, text):
    assert Spread.of(values).format(metric(name)) == text
