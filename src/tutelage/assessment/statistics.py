"""Whether a difference is more than chance: paired and clustered tests, intervals, corrections for many looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tutelage._checks import check_at_least, check_option, check_same_length

Alternative = Literal["two-sided", "greater", "less"]
"""What is tested against "no difference": that a and b differ, that a is greater, or that a is less."""

EXACT_LIMIT = 16  # up to 2¹⁶ sign patterns are enumerated; beyond, they are drawn


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """How much greater one thing is than another, over pairs.

    Attributes:
        difference: Mean of a − b over all pairs.
        ci_low: Lower end of the two-sided Student interval of the mean difference, whatever the test and its side.
        ci_high: Upper end. A 90 % interval that leaves out 0 is a one-sided test at 5 %.
        p_value: Of the test that was asked for.
        n: Independent units: pairs, or clusters of pairs.
        level: The interval's level.
        alternative: What the p-value is for.
    """

    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int
    level: float = 0.95
    alternative: Alternative = "two-sided"


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def paired_t_test(
    a: ArrayLike, b: ArrayLike = 0.0, *, alternative: Alternative = "two-sided", level: float = 0.95
) -> PairedComparison:
    """Student's t-test on the differences a − b.

    Args:
        a: One value a pair (say, an accuracy a seed).
        b: The other value of each pair, in the same order; or a number that all of `a` is compared with.
        alternative: `"two-sided"`, `"greater"` (a > b) or `"less"` (a < b).
        level: The level of the two-sided interval, in (0, 1).

    Returns:
        The mean difference with interval and p-value. Where t is not defined: with one pair nothing is known of the
        spread, so the interval is (−inf, inf) and p is 1; when all differences are equal (up to rounding), the interval
        is that point and p is the limit of vanishing spread: 0 if the difference is of the tested side, else 1 (a
        difference of 0 gives 1).

    Raises:
        ValueError: Lengths differ, there are no pairs, a value is not finite, or a setting is out of range.

    >>> result = paired_t_test([0.91, 0.93, 0.92], [0.90, 0.90, 0.90], alternative="greater", level=0.9)
    >>> round(result.difference, 4), round(result.p_value, 4), result.n
    (0.02, 0.0371, 3)
    """
    difference = _differences(a, b, alternative, level)
    return _student(difference, _standard_error(difference), len(difference), alternative, level)


def sign_flip_test(
    a: ArrayLike,
    b: ArrayLike = 0.0,
    *,
    alternative: Alternative = "two-sided",
    level: float = 0.95,
    num_permutations: int = 10_000,
    seed: int = 0,
) -> PairedComparison:
    """Permutation test of the mean difference: under no effect each difference could as well have the other sign.

    All 2ⁿ sign patterns are enumerated for n ≤ 16; beyond, `num_permutations` are drawn and p = (1 + hits)/(1 + draws).
    The smallest possible p is 2⁻ⁿ one-sided and 2¹⁻ⁿ two-sided (5 pairs: 0.031 and 0.063).

    Args:
        a: One value a pair.
        b: The other value of each pair, or a number.
        alternative: What is tested.
        level: The level of the (Student) interval.
        num_permutations: Draws where there are too many patterns.
        seed: Of the draws.

    Raises:
        ValueError: As `paired_t_test`, or `num_permutations` is below 1.

    Source: R. A. Fisher, The Design of Experiments (1935), section 21; Phipson and Smyth (2010) for the drawn p-value.

    >>> sign_flip_test([1.0, 2.0, 3.0, 4.0], alternative="greater").p_value
    0.0625
    """
    check_at_least(num_permutations, "num_permutations", 1)
    difference = _differences(a, b, alternative, level)
    n = len(difference)
    exact = n <= EXACT_LIMIT
    if exact:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        sums = signs @ difference
    else:
        generator = np.random.default_rng(seed)
        block = max(1, 2**20 // n)
        sizes = [min(block, num_permutations - start) for start in range(0, num_permutations, block)]
        sums = np.concatenate([(1 - 2 * generator.integers(0, 2, (size, n))) @ difference for size in sizes])
    observed = difference.sum()
    slack = 1e-12 * np.abs(difference).sum()  # equal sums, up to the order of additions, are ties
    if alternative == "two-sided":
        hits = np.abs(sums) >= abs(observed) - slack
    elif alternative == "greater":
        hits = sums >= observed - slack
    else:
        hits = sums <= observed + slack
    p_value = float(hits.mean()) if exact else float((1 + hits.sum()) / (1 + len(hits)))
    return replace(_student(difference, _standard_error(difference), n, alternative, level), p_value=p_value)


def wilcoxon_test(
    a: ArrayLike, b: ArrayLike = 0.0, *, alternative: Alternative = "two-sided", level: float = 0.95
) -> PairedComparison:
    """Wilcoxon's signed-rank test: robust to outliers, and on ranks of |a − b| where the t-test is on sizes.

    Pairs without a difference are left out (Wilcoxon's rule); without any other p is 1. The p-value is SciPy's: exact
    for up to 50 pairs without ties among the sizes, else a permutation (up to 13 pairs) or normal approximation.

    Args:
        a: One value a pair.
        b: The other value of each pair, or a number.
        alternative: What is tested.
        level: The level of the (Student) interval of the mean difference.

    Raises:
        ValueError: As `paired_t_test`.

    Source: F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1 (1945).

    >>> wilcoxon_test([1.0, 2.0, 3.0, 4.0], alternative="greater").p_value
    0.0625
    """
    from scipy.stats import wilcoxon

    difference = _differences(a, b, alternative, level)
    some = difference[difference != 0]
    p_value = float(wilcoxon(some, alternative=alternative).pvalue) if len(some) else 1.0
    plain = _student(difference, _standard_error(difference), len(difference), alternative, level)
    return replace(plain, p_value=p_value)


def clustered_comparison(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable] | np.ndarray,
    *,
    alternative: Alternative = "two-sided",
    level: float = 0.95,
) -> PairedComparison:
    """Paired comparison whose pairs come in clusters (items of one seed, rows of one student) and are not independent.

    The mean is over all pairs; its squared standard error is G/(G − 1)·Σ_g (Σ_{i in g} (dᵢ − d̄))² / n² for G clusters
    (the CR1 sandwich), with Student's t on G − 1 degrees of freedom. With one pair a cluster it is `paired_t_test`. Few
    clusters (below about 10) make it optimistic: prefer `sign_flip_test` on the cluster means then.

    Args:
        a: One value a pair.
        b: The other value of each pair, or a number.
        clusters: The cluster of each pair.
        alternative: What is tested.
        level: The level of the interval.

    Returns:
        The comparison; `n` counts clusters. Degenerate cases as in `paired_t_test`, with clusters in the place of
        pairs.

    Raises:
        ValueError: As `paired_t_test`, or `clusters` has another length.

    Source: Liang and Zeger, Biometrika 73 (1986); Cameron and Miller, Journal of Human Resources 50 (2015).

    >>> clustered_comparison([1.0, 1.2, 2.0, 2.2], 0.0, ["x", "x", "y", "y"]).n
    2
    """
    difference = _differences(a, b, alternative, level)
    check_same_length(difference, clusters, "a", "clusters")
    _, group = np.unique(_codes(clusters), return_inverse=True)
    totals = np.bincount(group, weights=difference - difference.mean())
    count = len(totals)
    if count == 1:
        error = math.nan
    elif np.abs(totals).max() <= 1e-12 * np.abs(difference).sum():
        error = 0.0
    else:
        error = math.sqrt(count / (count - 1) * float(np.square(totals).sum())) / len(difference)
    return _student(difference, error, count, alternative, level)


def bootstrap_interval(
    *arrays: ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of any statistic, over samples or whole clusters of them.

    Args:
        *arrays: One or more arrays with the same first dimension; resampled together.
        statistic: From the resampled arrays to a number; the mean by default. Resamples in which it is NaN (a
            correlation of constants) are left out.
        clusters: The cluster of each sample; then clusters are drawn, each with all its samples.
        level: The level of the interval, in (0, 1).
        num_resamples: How many resamples.
        seed: Of the resamples.

    Returns:
        `Interval(low, high)`; both NaN if the statistic is defined in no resample. One sample gives its own value
        twice.

    Raises:
        ValueError: There are no samples, lengths differ, or a setting is out of range.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0], seed=0)
    >>> 1 <= low < 2.5 < high <= 4
    True
    """
    _check_level(level)
    check_at_least(num_resamples, "num_resamples", 1)
    check_at_least(len(arrays), "arrays", 1)
    columns = [np.asarray(array) for array in arrays]
    for column in columns:
        check_same_length(columns[0], column, "arrays[0]", "arrays")
    generator = np.random.default_rng(seed)
    if clusters is None:
        members = None
        count = len(columns[0])
    else:
        check_same_length(columns[0], clusters, "arrays", "clusters")
        _, group = np.unique(_codes(clusters), return_inverse=True)
        count = int(group.max()) + 1
        members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    values = np.empty(num_resamples)
    for resample in range(num_resamples):
        drawn = generator.integers(0, count, count)
        rows = drawn if members is None else np.concatenate([members[cluster] for cluster in drawn])
        values[resample] = statistic(*(column[rows] for column in columns))
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(math.nan, math.nan)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down p-values: rejecting those ≤ α keeps the chance of any false rejection ≤ α.

    Args:
        p_values: One a hypothesis, in [0, 1].

    Returns:
        Adjusted p-values in the same order; an empty list for none.

    Raises:
        ValueError: A value is outside [0, 1].

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979).

    >>> holm_correction([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = _p_values(p_values)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return [float(value) for value in np.minimum(adjusted, 1.0)]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini–Hochberg p-values: rejecting those ≤ q keeps the expected share of false ones ≤ q.

    Args:
        p_values: One a hypothesis, in [0, 1].

    Returns:
        Adjusted p-values in the same order; an empty list for none.

    Raises:
        ValueError: A value is outside [0, 1].

    Source: Benjamini and Hochberg, Journal of the Royal Statistical Society B 57 (1995).

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    [0.03, 0.04, 0.04]
    """
    values = _p_values(p_values)
    order = np.argsort(values, kind="stable")[::-1]
    scaled = values[order] * (len(values) / np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum.accumulate(scaled)
    return [float(value) for value in np.minimum(adjusted, 1.0)]


def best_of_budget(validation: ArrayLike, test: ArrayLike, budget: int) -> float:
    """The test score to expect from trying `budget` of the settings and keeping the one best on validation.

    The exact mean over all subsets of that size: the setting of rank r (1 is best) among m wins in C(m − r, budget − 1)
    of C(m, budget) subsets. Among equal validation scores the earlier setting wins.

    Args:
        validation: One validation score a setting; higher is better.
        test: The test score of each setting.
        budget: How many settings may be tried, from 1 to all of them.

    Raises:
        ValueError: Lengths differ, a score is not finite, or `budget` is out of range.

    Source: Dodge et al., "Show Your Work: Improved Reporting of Experimental Results", EMNLP 2019, section 3.

    >>> best_of_budget([0.8, 0.9, 0.7], [0.81, 0.88, 0.72], budget=3)
    0.88
    """
    chosen, scores = _finite(validation, "validation"), _finite(test, "test")
    check_same_length(chosen, scores, "validation", "test")
    settings = len(chosen)
    if not 1 <= budget <= settings:
        raise ValueError(f"Expected argument `budget` to be in [1, {settings}], but got {budget}.")
    ranked = scores[np.argsort(-chosen, kind="stable")]
    wins = [math.comb(settings - rank, budget - 1) for rank in range(1, settings + 1)]
    return float(np.dot(ranked, np.array(wins) / math.comb(settings, budget)))


def selection_adjusted(
    validation: Mapping[str, ArrayLike], test: Mapping[str, ArrayLike], *, budget: int | None = None
) -> dict[str, list[float]]:
    """Test scores of several arms when each may try equally many settings, chosen on validation.

    Comparing the best of many settings of one arm with the only one of another rewards the search; here an arm with
    more settings is scored by the mean over its subsets of the common size (`best_of_budget`).

    Args:
        validation: For each arm, scores `[seeds, settings]` on validation; higher is better.
        test: For each arm, scores of the same shape on the test set.
        budget: Settings that every arm may try; by default as many as the arm with the fewest has.

    Returns:
        For each arm one score a seed, ready for `paired_t_test`.

    Raises:
        ValueError: Arms or shapes differ between the two, or the budget is out of range for an arm.

    >>> selection_adjusted({"sft": [[0.5]], "kd": [[0.4, 0.6]]}, {"sft": [[0.5]], "kd": [[0.4, 0.6]]})
    {'sft': [0.5], 'kd': [0.5]}
    """
    if set(validation) != set(test) or not validation:
        raise ValueError(
            f"Expected the same arms in `validation` and `test`, but got {list(validation)} and {list(test)}."
        )
    tables = {arm: (np.atleast_2d(validation[arm]), np.atleast_2d(test[arm])) for arm in validation}
    for arm, (chosen, scores) in tables.items():
        if chosen.shape != scores.shape or chosen.ndim != 2:
            raise ValueError(
                f"Expected scores [seeds, settings] of arm {arm!r}, but got {chosen.shape} and {scores.shape}."
            )
    common = min(chosen.shape[1] for chosen, _ in tables.values()) if budget is None else budget
    return {
        arm: [best_of_budget(row, scored, common) for row, scored in zip(chosen, scores, strict=True)]
        for arm, (chosen, scores) in tables.items()
    }


def _student(difference: np.ndarray, error: float, n: int, alternative: Alternative, level: float) -> PairedComparison:
    """Student's t on n − 1 degrees of freedom from the standard error of the mean difference (NaN: unknown)."""
    from scipy.special import stdtr, stdtrit

    mean = float(difference.mean())
    if n == 1:
        return PairedComparison(mean, -math.inf, math.inf, 1.0, n, level, alternative)
    if error == 0:
        lies_there = {"two-sided": mean != 0, "greater": mean > 0, "less": mean < 0}[alternative]
        return PairedComparison(mean, mean, mean, 0.0 if lies_there else 1.0, n, level, alternative)
    t = mean / error
    tail = {"two-sided": -abs(t), "greater": -t, "less": t}[alternative]
    p_value = float(stdtr(n - 1, tail)) * (2 if alternative == "two-sided" else 1)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * error
    return PairedComparison(mean, mean - half, mean + half, p_value, n, level, alternative)


def _standard_error(difference: np.ndarray) -> float:
    """Of the mean; 0 where the differences are equal up to rounding, NaN for a single one."""
    if len(difference) == 1:
        return math.nan
    if np.ptp(difference) == 0:
        return 0.0
    return float(difference.std(ddof=1)) / math.sqrt(len(difference))


def _differences(a: ArrayLike, b: ArrayLike, alternative: str, level: float) -> np.ndarray:
    check_option(alternative, "alternative", ("two-sided", "greater", "less"))
    _check_level(level)
    first, second = _finite(a, "a"), np.asarray(b, dtype=float)
    if second.ndim:
        check_same_length(first, second, "a", "b")
    difference: np.ndarray = first - _finite(np.atleast_1d(second), "b")
    scale = max(float(np.abs(first).max()), float(np.abs(second).max()))
    # 0.93 − 0.90 and 0.94 − 0.91 part in their last bits: differences are only known to the rounding of what made them.
    return np.round(difference / scale, 14) * scale if scale else difference


def _finite(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"Expected argument `{name}` to be a sequence of numbers, but got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"Expected argument `{name}` to hold finite numbers, but it holds NaN or infinity.")
    return array


def _codes(clusters: Sequence[Hashable] | np.ndarray) -> list[int]:
    """Clusters of any kind by number, in order of appearance."""
    seen: dict[Hashable, int] = {}
    return [seen.setdefault(cluster, len(seen)) for cluster in clusters]


def _p_values(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if not ((array >= 0) & (array <= 1)).all():  # false for NaN
        raise ValueError(f"Expected argument `p_values` to hold values in [0, 1], but got {list(values)}.")
    return array


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"Expected argument `level` to be in (0, 1), but got {level}.")
