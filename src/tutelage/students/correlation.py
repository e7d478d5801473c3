"""How well a score ranks what it should predict, and how much of that another quantity explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tutelage._checks import check_option, check_same_length

Kind = Literal["kendall", "spearman", "pearson"]


def rank_correlation(a: Sequence[float], b: Sequence[float], *, kind: Kind = "kendall") -> float:
    """Correlation of two lists: Kendall's τ-b, Spearman's ρ (both by rank, ties shared), or Pearson's r.

    Args:
        a: One value an item.
        b: As many.
        kind: Which coefficient.

    Returns:
        In [-1, 1]; NaN when a list is constant.

    Raises:
        ValueError: Lengths that differ, fewer than two items, values that are not finite, or an unknown kind.

    >>> round(rank_correlation([1, 2, 3, 4], [10, 30, 20, 40]), 4)
    0.6667
    """
    check_option(kind, "kind", ("kendall", "spearman", "pearson"))
    from scipy import stats

    first, second = _values(a, "a"), _values(b, "b")
    check_same_length(first, second, "a", "b")
    if len(first) < 2:
        raise ValueError(f"Expected argument `a` to hold at least 2 values, but got {len(first)}.")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    measure = {"kendall": stats.kendalltau, "spearman": stats.spearmanr, "pearson": stats.pearsonr}[kind]
    return float(np.clip(measure(first, second)[0], -1, 1))


def partial_rank_correlation(score: Sequence[float], accuracy: Sequence[float], covariate: Sequence[float]) -> float:
    """Spearman's correlation of score and accuracy that is left when a covariate is held fixed.

    (r_sa − r_sc · r_ac) / √((1 − r_sc²)(1 − r_ac²)), with Spearman's ρ for r: what a score knows beyond, say, the
    number of parameters.

    Args:
        score: One value an item.
        accuracy: As many.
        covariate: As many.

    Returns:
        In [-1, 1]; NaN when the covariate ranks score or accuracy perfectly, so that nothing is left.

    Raises:
        ValueError: As `rank_correlation`.

    >>> round(partial_rank_correlation([1, 2, 3, 4], [1, 3, 2, 4], [1, 2, 4, 3]), 3)
    0.873
    """
    by_score = rank_correlation(score, accuracy, kind="spearman")
    score_by, accuracy_by = (rank_correlation(values, covariate, kind="spearman") for values in (score, accuracy))
    left = (1 - score_by**2) * (1 - accuracy_by**2)
    return float(np.clip((by_score - score_by * accuracy_by) / left**0.5, -1, 1)) if left > 1e-12 else float("nan")


def _values(values: Sequence[float], name: str) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise ValueError(f"Expected argument `{name}` to be a list of finite numbers.")
    return found
