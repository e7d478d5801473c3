"""Counting: how far predicted numbers of people, or other things, are from the true ones."""

from __future__ import annotations

from jaxtyping import Num
from torch import Tensor

from tutelage._checks import check_finite, check_same_length


def counting_errors(pred: Num[Tensor, "images *positions"], target: Num[Tensor, "others *rest"]) -> dict[str, float]:
    """Mean absolute and root mean squared error of counts; the root is what crowd-counting tables call "MSE".

    Args:
        pred: Density maps `[images, …]`, each of which sums to its count, or counts `[images]`.
        target: The same of the truth; maps of another size, or counts, are fine.

    Returns:
        `mae` and `rmse`, in things an image, from sums in float64; `rmse` ≥ `mae`.

    Raises:
        ValueError: Another number of images, or none; values that are not finite.

    >>> import torch
    >>> counting_errors(torch.tensor([3.0, 8.0]), torch.tensor([[1.0, 3.0], [4.0, 4.0]]))
    {'mae': 0.5, 'rmse': 0.7071067811865476}
    """
    check_same_length(pred, target, "pred", "target")
    check_finite(pred, "pred")
    check_finite(target, "target")
    difference = _counts(pred) - _counts(target)
    return {"mae": difference.abs().mean().item(), "rmse": difference.square().mean().sqrt().item()}


def _counts(values: Tensor) -> Tensor:
    return values.detach().double().reshape(len(values), -1).sum(dim=1)
