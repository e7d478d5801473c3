from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tutelage.assessment import (
    benjamini_hochberg,
    best_of_budget,
    bootstrap_interval,
    clustered_comparison,
    holm_correction,
    paired_t_test,
    selection_adjusted,
    sign_flip_test,
    wilcoxon_test,
)

SIDES = ("two-sided", "greater", "less")
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("alternative", SIDES)
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_t_test_agrees_with_scipy(alternative, level):
    a, b = RANDOM.normal(size=9), RANDOM.normal(0.4, size=9)
    result = paired_t_test(a, b, alternative=alternative, level=level)
    expected = stats.ttest_rel(a, b, alternative=alternative)
    interval = stats.ttest_rel(a, b).confidence_interval(level)
    assert result.difference == pytest.approx(np.mean(a - b))
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (result.ci_low, result.ci_high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert (result.n, result.level, result.alternative) == (9, level, alternative)


def test_a_number_is_compared_with_all_values():
    a = RANDOM.normal(0.5, size=6)
    assert paired_t_test(a, 0.2).p_value == pytest.approx(stats.ttest_1samp(a, 0.2).pvalue)


def test_one_pair_says_nothing():
    for test in (paired_t_test, sign_flip_test, wilcoxon_test):
        result = test([0.9], [0.5])
        assert (result.difference, result.p_value, result.n) == (pytest.approx(0.4), 1.0, 1)
        assert (result.ci_low, result.ci_high) == (-math.inf, math.inf)


def test_equal_differences_are_found_in_spite_of_rounding():
    a, b = [0.93, 0.94, 0.2], [0.90, 0.91, 0.17]
    assert len({x - y for x, y in zip(a, b, strict=True)}) > 1  # the last bits do differ
    up = paired_t_test(a, b, alternative="greater")
    assert (up.p_value, up.ci_low, up.ci_high) == (0.0, up.difference, up.difference)
    assert paired_t_test(a, b, alternative="less").p_value == 1.0
    assert paired_t_test(a, b).p_value == 0.0
    none = paired_t_test(a, a)
    assert (none.difference, none.p_value) == (0.0, 1.0)
    assert sign_flip_test(a, b, alternative="greater").p_value == 1 / 8
    assert sign_flip_test(a, a).p_value == wilcoxon_test(a, a).p_value == 1.0


@pytest.mark.parametrize("alternative", SIDES)
def test_sign_flips_are_enumerated(alternative):
    difference = RANDOM.normal(0.5, size=7)
    observed = difference.mean()
    values = [np.mean(np.array(signs) * difference) for signs in itertools.product((1, -1), repeat=7)]
    hit = {
        "two-sided": lambda v: abs(v) >= abs(observed) - 1e-12,
        "greater": lambda v: v >= observed - 1e-12,
        "less": lambda v: v <= observed + 1e-12,
    }[alternative]
    assert sign_flip_test(difference, alternative=alternative).p_value == sum(map(hit, values)) / 128


def test_drawn_sign_flips_are_near_scipys():
    difference = RANDOM.normal(0.35, size=30)
    result = sign_flip_test(difference, alternative="greater", seed=3)
    expected = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", alternative="greater", n_resamples=9999, rng=1
    )
    assert result.p_value == pytest.approx(expected.pvalue, abs=0.01)
    assert result == sign_flip_test(difference, alternative="greater", seed=3)
    assert sign_flip_test(np.ones(30), num_permutations=99).p_value >= 0.01


@pytest.mark.parametrize("alternative", SIDES)
def test_wilcoxon_agrees_with_scipy(alternative):
    a, b = RANDOM.normal(size=12), RANDOM.normal(0.4, size=12)
    expected = stats.wilcoxon(a, b, alternative=alternative).pvalue
    assert wilcoxon_test(a, b, alternative=alternative).p_value == pytest.approx(expected)


def test_clusters_of_one_are_the_t_test():
    a, b = RANDOM.normal(size=8), RANDOM.normal(size=8)
    clustered = clustered_comparison(a, b, [f"seed {i}" for i in range(8)], alternative="greater", level=0.9)
    plain = paired_t_test(a, b, alternative="greater", level=0.9)
    assert clustered.p_value == pytest.approx(plain.p_value)
    assert (clustered.ci_low, clustered.ci_high) == (pytest.approx(plain.ci_low), pytest.approx(plain.ci_high))


def test_equal_clusters_are_the_t_test_of_their_means():
    means = RANDOM.normal(size=6)
    values = (means[:, None] + RANDOM.normal(size=(6, 5))).ravel()
    clusters = np.repeat(np.arange(6), 5)
    clustered = clustered_comparison(values, 0.0, clusters)
    plain = paired_t_test(values.reshape(6, 5).mean(axis=1))
    assert (clustered.n, clustered.p_value) == (6, pytest.approx(plain.p_value))
    # twice the same rows are no new evidence
    double = clustered_comparison(np.tile(values, 2), 0.0, np.tile(clusters, 2))
    assert double.p_value == pytest.approx(clustered.p_value)


def test_degenerate_clusters():
    one = clustered_comparison([0.1, 0.2], 0.0, ["a", "a"])
    assert (one.p_value, one.n) == (1.0, 1)
    same = clustered_comparison([0.1, 0.3, 0.3, 0.1], 0.0, ["a", "a", "b", "b"])
    assert (same.p_value, same.ci_low) == (0.0, same.difference)


def test_bootstrap_interval_of_the_mean_is_near_students():
    values = RANDOM.normal(1.0, size=80)
    low, high = bootstrap_interval(values, level=0.9)
    expected = paired_t_test(values, level=0.9)
    assert (low, high) == (pytest.approx(expected.ci_low, abs=0.06), pytest.approx(expected.ci_high, abs=0.06))
    assert bootstrap_interval(values, level=0.9) == (low, high)  # the seed is fixed
    assert bootstrap_interval([0.4]) == (0.4, 0.4)


def test_bootstrap_draws_whole_clusters():
    values = np.repeat(RANDOM.normal(size=10), 20)
    clusters = np.repeat(np.arange(10), 20)
    plain, clustered = bootstrap_interval(values), bootstrap_interval(values, clusters=clusters)
    assert clustered.high - clustered.low > 3 * (plain.high - plain.low)


def test_bootstrap_of_a_correlation_resamples_pairs():
    x = RANDOM.normal(size=60)
    y = x + 0.1 * RANDOM.normal(size=60)
    low, high = bootstrap_interval(x, y, statistic=lambda a, b: np.corrcoef(a, b)[0, 1], num_resamples=300)
    assert 0.95 < low < high < 1
    undefined = bootstrap_interval(x, statistic=lambda a: math.nan, num_resamples=5)
    assert all(map(math.isnan, undefined))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_corrections(p_values):
    holm, hochberg = holm_correction(p_values), benjamini_hochberg(p_values)
    if p_values:
        assert hochberg == pytest.approx(stats.false_discovery_control(p_values).tolist())
    order = sorted(range(len(p_values)), key=lambda i: (p_values[i], i))
    running = 0.0
    for rank, i in enumerate(order):  # Holm as defined
        running = max(running, min(1.0, p_values[i] * (len(p_values) - rank)))
        assert holm[i] == pytest.approx(running)
        assert p_values[i] <= hochberg[i] <= holm[i] + 1e-12


def test_best_of_budget_is_the_mean_over_subsets():
    validation, test = RANDOM.normal(size=6), RANDOM.normal(size=6)
    for budget in range(1, 7):
        picks = [max(subset, key=lambda i: validation[i]) for subset in itertools.combinations(range(6), budget)]
        assert best_of_budget(validation, test, budget) == pytest.approx(np.mean(test[picks]))
    assert best_of_budget(validation, test, 1) == pytest.approx(test.mean())


def test_selection_is_adjusted_to_the_smallest_budget():
    noise = RANDOM.normal(size=(400, 8))
    adjusted = selection_adjusted({"one": noise[:, :1], "many": noise}, {"one": noise[:, :1], "many": noise})
    assert abs(np.mean(adjusted["many"]) - np.mean(adjusted["one"])) < 0.15  # choosing on test would give about 1.4
    free = selection_adjusted({"many": noise}, {"many": noise})
    assert np.mean(free["many"]) > 1.2
    assert len(adjusted["one"]) == 400


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_t_test([1.0, 2.0], [1.0]), "same length"),
        (lambda: paired_t_test([], []), "sequence of numbers"),
        (lambda: paired_t_test([1.0, math.nan], [1.0, 2.0]), "finite"),
        (lambda: paired_t_test([1.0, 2.0], alternative="bigger"), "one of 'two-sided'"),
        (lambda: paired_t_test([1.0, 2.0], level=1.0), r"`level` to be in \(0, 1\)"),
        (lambda: clustered_comparison([1.0, 2.0], 0.0, ["a"]), "same length"),
        (lambda: bootstrap_interval([]), "empty"),
        (lambda: bootstrap_interval([1.0], [1.0, 2.0]), "same length"),
        (lambda: holm_correction([0.5, 1.5]), r"in \[0, 1\]"),
        (lambda: benjamini_hochberg([math.nan]), r"in \[0, 1\]"),
        (lambda: best_of_budget([1.0], [1.0], 2), r"`budget` to be in \[1, 1\]"),
        (lambda: selection_adjusted({"a": [[1.0]]}, {"b": [[1.0]]}), "same arms"),
        (lambda: selection_adjusted({"a": [[1.0, 2.0]]}, {"a": [[1.0]]}), "arm 'a'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
