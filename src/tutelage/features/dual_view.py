"""Dual-view feature mimicking: match a teacher's map as it is, and match what is left of it without its mean.

Source: "ScaleKD: Strong Vision Transformers Could Be Excellent Teachers", arXiv 2411.06786 (section 2.3). Both losses
compare directions: at every position the channels are normalised first, as in the official code.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import check_floating, check_non_negative, check_option, check_same_shape
from tutelage.objectives.precision import at_least_float32

BatchReduction = Literal["batchmean", "sum", "none"]
"""How per-sample sums become a result: their mean over the batch, their sum, or as they are."""

_SHORTEST = 1e-12  # a shorter vector has no direction


def direct_feature_loss(
    projected: Float[Tensor, "batch channels height width"],
    teacher: Float[Tensor, "..."],
    *,
    weight: float = 1.0,
    reduction: BatchReduction = "batchmean",
) -> Float[Tensor, "..."]:
    """The squared distance of directions: weight · Σ ‖P / ‖P‖ − T / ‖T‖‖², norms over channels at each position.

    Per sample it is a sum over channels and positions: 2 · weight · Σ (1 − cos), at most 4 · weight · height · width.
    A position where a map is zero has no direction: there it counts as the zero vector, without a gradient.

    Args:
        projected: `[batch, channels, height, width]`, the student's map after its projector.
        teacher: The teacher's map, of the same shape; detached.
        weight: Multiplies the loss (α in the paper's code).
        reduction: `"batchmean"` over the batch, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        The loss in float32 or wider.

    Raises:
        ValueError: Shapes that differ, a negative weight or an unknown reduction.

    >>> student, teacher = torch.zeros(2, 1, 2, 2, 2)
    >>> student[:, 0], teacher[:, 1] = 3.0, 1.0  # orthogonal at each of four positions
    >>> direct_feature_loss(student, teacher)
    tensor(8.)
    """
    _check(projected, teacher, weight, reduction)
    difference = _directions(at_least_float32(projected)) - _directions(at_least_float32(teacher.detach()))
    per_sample = weight * difference.square().flatten(1).sum(dim=1)
    if reduction == "batchmean":
        return per_sample.mean()
    return per_sample.sum() if reduction == "sum" else per_sample


def alternative_feature_loss(
    projected: Float[Tensor, "batch channels height width"],
    teacher: Float[Tensor, "..."],
    *,
    weight: float = 1.0,
    reduction: BatchReduction = "batchmean",
) -> Float[Tensor, "..."]:
    """`direct_feature_loss` of maps without their direct component: what varies over the image counts, not its mean.

    Args:
        projected: `[batch, channels, height, width]`, the student's map after its projector.
        teacher: The teacher's map, of the same shape; detached.
        weight: Multiplies the loss (β in the paper's code).
        reduction: `"batchmean"` over the batch, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        The loss in float32 or wider.

    Raises:
        ValueError: Maps of one position, of which nothing would be left; or as `direct_feature_loss`.

    >>> teacher = torch.randn(2, 3, 4, 4)
    >>> shifted = teacher + torch.tensor([1.0, -2.0, 5.0]).view(3, 1, 1)
    >>> bool(alternative_feature_loss(shifted, teacher) < 1e-8), bool(direct_feature_loss(shifted, teacher) > 1)
    (True, True)
    """
    if projected.shape[2:].numel() == 1:
        raise ValueError(
            "Expected argument `projected` to have more than one position, since one is its own mean, "
            f"but got {tuple(projected.shape)}."
        )
    return direct_feature_loss(
        remove_direct_component(projected),
        remove_direct_component(teacher.detach()),
        weight=weight,
        reduction=reduction,
    )


def remove_direct_component(
    x: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """A map without its spatial mean, channel by channel, in float32 or wider.

    It equals the two-dimensional discrete cosine transform with its (0, 0) coefficient set to zero, and back.

    >>> remove_direct_component(torch.tensor([[[[1.0, 3.0]]]]))
    tensor([[[[-1.,  1.]]]])
    """
    x = at_least_float32(x)
    return x - x.mean(dim=(2, 3), keepdim=True)


class DualViewFeatureMimicking(nn.Module):
    """Both views of one pair of maps, each with its weight and, as in the paper, its own projected map.

    Args:
        alpha: Weight of the direct view.
        beta: Weight of the alternative view. The paper's α / (α + β) of 0.571 comes from 0.08 and 0.06.

    >>> views = DualViewFeatureMimicking()
    >>> teacher = torch.randn(2, 3, 4, 4)
    >>> direct, alternative = views(-teacher, 2 * teacher, teacher)  # opposite directions: 4 at each position
    >>> round(direct.item(), 4), round(alternative.item(), 4)
    (5.12, 0.0)
    """

    def __init__(self, alpha: float = 0.08, beta: float = 0.06) -> None:
        super().__init__()
        check_non_negative(alpha, "alpha")
        check_non_negative(beta, "beta")
        self.alpha, self.beta = alpha, beta

    def forward(self, direct: Tensor, alternative: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted losses of both views, means over the batch.

        Args:
            direct: `[batch, channels, height, width]`, from the direct view's projector.
            alternative: The same, from the alternative view's projector.
            teacher: The teacher's map, of the same shape; detached.
        """
        return (
            direct_feature_loss(direct, teacher, weight=self.alpha),
            alternative_feature_loss(alternative, teacher, weight=self.beta),
        )


def _directions(x: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    known = length > _SHORTEST
    return torch.where(known, x, 0) / torch.where(known, length, 1)


def _check(projected: Tensor, teacher: Tensor, weight: float, reduction: str) -> None:
    check_floating(projected, "projected")
    check_same_shape(projected, teacher, "projected", "teacher")
    check_non_negative(weight, "weight")
    check_option(reduction, "reduction", ("batchmean", "sum", "none"))
