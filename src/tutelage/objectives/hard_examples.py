"""Which negatives to learn from when there are many more of them than positives."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tutelage._checks import check_non_negative, check_same_shape


def online_hard_example_mask(
    scores: Float[Tensor, "items *classes"], target: Shaped[Tensor, "..."], *, ratio: float
) -> Bool[Tensor, "items *classes"]:
    """Which items to learn from: all positives, and the ⌊ratio · positives⌋ negatives with the highest scores.

    Args:
        scores: `[items]`, or `[items, classes]`, mined by class. No gradient goes through them.
        target: Labels 0 and 1 of the same shape.
        ratio: Negatives kept for each positive, at least 0.

    Returns:
        True where kept: exactly min(⌊ratio · positives⌋, negatives) negatives, the first ones among equal scores.

    Raises:
        ValueError: Shapes that differ, labels other than 0 and 1, or a ratio below 0.

    >>> online_hard_example_mask(torch.tensor([0.1, 0.8, 0.3, 0.6]), torch.tensor([1, 0, 0, 1]), ratio=0.5).tolist()
    [True, True, False, True]
    """
    check_non_negative(ratio, "ratio")
    check_same_shape(scores, target, "scores", "target")
    check_binary(target)
    positive = target != 0
    wanted = torch.floor(ratio * positive.sum(dim=0).double() + 1e-9)  # 0.29 · 100 is 28.999…
    order = scores.detach().masked_fill(positive, -math.inf).sort(dim=0, descending=True, stable=True).indices
    rank = torch.arange(len(scores), device=scores.device).view(-1, *[1] * (scores.ndim - 1))
    return positive | torch.zeros_like(positive).scatter_(0, order, rank < wanted)


def check_binary(target: Tensor) -> None:
    """Raise `ValueError` unless all labels are 0 or 1."""
    other = (target != 0) & (target != 1)
    if other.any():
        raise ValueError(f"Expected argument `target` to hold labels 0 and 1, but got {target[other][0].item()}.")
