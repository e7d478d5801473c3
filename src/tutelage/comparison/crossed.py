"""Differences over seeds and over samples at once: what another seed, and other test samples, may change."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from tutelage.assessment.statistics import PairedComparison


def crossed_comparison(a: ArrayLike, b: ArrayLike = 0.0, *, level: float = 0.95) -> PairedComparison:
    """How much greater a is than b, where every seed's model answers every sample: both are a draw of many.

    A test over seeds takes the samples as given, and a test over samples the models; with one small test part the first
    finds differences that other samples would not show. Here the squared standard error of the mean difference is
    v_seeds / S + v_samples / n, the variances of the S means of seeds and of the n means of samples, with Student's t
    on the degrees of freedom of Welch and Satterthwaite. It is two-way clustering without the term that is subtracted
    there: what belongs to single cells counts twice, so that the error is too large, at most by a factor of √2.

    Args:
        a: `[seeds, samples]`, one value of each model on each sample (1 for right and 0 for wrong, or an error).
        b: Another such table whose rows are of the same seeds, or a number.
        level: The level of the interval.

    Returns:
        The comparison; `n` is the number of seeds. With one seed its variance is not known, and the interval is over
        samples alone; the same holds the other way round. Where nothing varies, the interval is a point, and p is 0 or,
        for a difference of 0, 1.

    Raises:
        ValueError: A shape does not fit, a table is empty, or a value is not finite.

    Source: Cameron, Gelbach and Miller, "Robust inference with multiway clustering", Journal of Business & Economic
    Statistics 29 (2011).

    >>> result = crossed_comparison([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]], 0.5)
    >>> result.difference, round(result.ci_low, 2), round(result.ci_high, 2)
    (0.25, -0.21, 0.71)
    """
    from scipy.special import stdtr, stdtrit

    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.ndim != 2 or not first.size or (second.ndim and second.shape != first.shape):
        raise ValueError(
            f"Expected tables [seeds, samples] of one shape, but got shapes {first.shape} and {second.shape}."
        )
    difference = first - second
    if not np.isfinite(difference).all():
        raise ValueError("Expected tables of finite numbers, but they hold NaN or infinity.")
    if not 0 < level < 1:
        raise ValueError(f"Expected argument `level` to be in (0, 1), but got {level}.")
    seeds = len(difference)
    mean = float(difference.mean())
    parts = [
        (float(values.var(ddof=1)) / len(values), len(values) - 1)
        for values in (difference.mean(axis=1), difference.mean(axis=0))
        if len(values) > 1
    ]
    squared = sum(part for part, _ in parts)
    if not parts:
        return PairedComparison(mean, -math.inf, math.inf, 1.0, seeds, level)
    if squared <= 1e-30 * max(1.0, mean * mean):
        return PairedComparison(mean, mean, mean, 0.0 if mean else 1.0, seeds, level)
    freedom = squared**2 / sum(part**2 / count for part, count in parts)
    error = math.sqrt(squared)
    half = float(stdtrit(freedom, (1 + level) / 2)) * error
    p_value = 2 * float(stdtr(freedom, -abs(mean) / error))
    return PairedComparison(mean, mean - half, mean + half, p_value, seeds, level)
