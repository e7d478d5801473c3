"""Which candidates no other beats in everything."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(gains: Sequence[float], *costs: Sequence[float]) -> list[int]:
    """Places of the candidates that no other one equals or beats in every respect and beats in one.

    Args:
        gains: What should be large (accuracy), one value a candidate.
        *costs: What should be small (size, latency), as many values each.

    Returns:
        Places in ascending order; candidates that are alike in everything are all kept.

    Raises:
        ValueError: Lists of different lengths.

    >>> pareto_front([0.9, 0.8, 0.7, 0.9], [5, 1, 2, 6])
    [0, 1]
    """
    if any(len(cost) != len(gains) for cost in costs):
        raise ValueError("Expected arguments `gains` and `costs` to have the same length, but they have not.")
    rows = [(-gain, *rest) for gain, *rest in zip(gains, *costs, strict=True)]

    def beaten(row: tuple[float, ...]) -> bool:
        return any(other != row and all(a <= b for a, b in zip(other, row, strict=True)) for other in rows)

    return [place for place, row in enumerate(rows) if not beaten(row)]
