from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tutelage.comparison import crossed_comparison


def test_by_hand() -> None:
    table = [[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]]
    found = crossed_comparison(table)
    # seeds: means 3/4 and 3/4, no variance; samples: means 1, ½, 1, ½ with variance 1/12, over 4: 1/48, freedom 3
    error = math.sqrt(1 / 48)
    assert found.difference == 0.75
    assert found.ci_high == pytest.approx(0.75 + stats.t.ppf(0.975, 3) * error)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.75 / error, 3))


def test_one_seed_is_a_test_over_samples() -> None:
    first, second = [1.0, 0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0, 1.0]
    found = crossed_comparison([first], [second])
    assert found.p_value == pytest.approx(stats.ttest_rel(first, second).pvalue)


def test_one_sample_is_a_test_over_seeds() -> None:
    first, second = [[0.3], [0.5], [0.9]], [[0.1], [0.4], [0.2]]
    found = crossed_comparison(first, second)
    expected = stats.ttest_rel([0.3, 0.5, 0.9], [0.1, 0.4, 0.2])
    assert found.p_value == pytest.approx(expected.pvalue)


def test_swapping_turns_the_difference_around() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.random((3, 20)), generator.random((3, 20))
    one, other = crossed_comparison(first, second), crossed_comparison(second, first)
    assert (one.difference, one.ci_low, one.ci_high) == pytest.approx(
        (-other.difference, -other.ci_high, -other.ci_low)
    )
    assert one.p_value == pytest.approx(other.p_value)


def test_intervals_hold_the_truth_where_those_over_seeds_do_not() -> None:
    """Seeds and samples both matter here: of 400 studies, 95 % of the intervals should hold the true mean, 0."""
    generator = np.random.default_rng(1)
    crossed = over_seeds = 0
    for _ in range(400):
        table = (
            0.2 * generator.standard_normal((6, 1))
            + generator.standard_normal((1, 40))
            + generator.standard_normal((6, 40))
        )
        found = crossed_comparison(table)
        crossed += found.ci_low <= 0 <= found.ci_high
        low, high = stats.t.interval(0.95, 5, table.mean(), stats.sem(table.mean(axis=1)))
        over_seeds += low <= 0 <= high
    assert crossed >= 0.93 * 400
    assert over_seeds < 0.9 * 400


def test_nothing_varies() -> None:
    assert crossed_comparison([[1.0, 1.0], [1.0, 1.0]]).p_value == 0
    assert crossed_comparison([[1.0, 0.0]], [[1.0, 0.0]]).p_value == 1
    unknown = crossed_comparison([[1.0]])
    assert (unknown.p_value, unknown.ci_low) == (1.0, -math.inf)


@pytest.mark.parametrize(
    ("a", "b", "level"),
    [([1.0], 0.0, 0.95), ([[1.0, 2.0]], [[1.0]], 0.95), ([[math.nan]], 0.0, 0.95), ([[1.0, 2.0]], 0.0, 1.0)],
)
def test_bad_input(a: object, b: object, level: float) -> None:
    with pytest.raises(ValueError):
        crossed_comparison(a, b, level=level)  # type: ignore[arg-type]
