"""Multi-class support vector machines: losses of score margins, Crammer–Singer and Weston–Watkins."""

from __future__ import annotations

import math
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import Reduction, check_non_negative, check_option, check_target, reduce
from tutelage.objectives.label_loss import _LabelLoss
from tutelage.objectives.precision import at_least_float32


def crammer_singer_loss(
    scores: Float[Tensor, "batch classes"],
    target: Int[Tensor, "..."],
    *,
    margin: float = 1.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """max(0, c + max_{k≠y} s_k − s_y): how far the strongest other class is from being beaten by the margin c.

    It is the limit of `label_distributionally_robust_loss` (without score transform) for a temperature of 0.

    Args:
        scores: `[batch, classes]`.
        target: `[batch]` classes.
        margin: c, at least 0.
        reduction: `"mean"`, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider.

    Raises:
        ValueError: A negative margin, a target of another shape or outside the classes, or an unknown reduction.

    Source: Crammer and Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines", JMLR
    2001.

    >>> import torch
    >>> crammer_singer_loss(torch.tensor([[1.0, 0.5, 2.0]]), torch.tensor([0]))
    tensor(2.)
    """
    check_non_negative(margin, "margin")
    check_target(target, scores.shape[1], shape=scores.shape[:1])
    scores, label = at_least_float32(scores), target.long()[:, None]
    strongest = scores.scatter(1, label, -math.inf).max(dim=1).values
    return reduce((strongest - scores.gather(1, label)[:, 0] + margin).clamp_min(0), reduction)


def weston_watkins_loss(
    scores: Float[Tensor, "batch classes"],
    target: Int[Tensor, "..."],
    *,
    margin: float = 1.0,
    class_reduction: Literal["mean", "sum"] = "mean",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Σ_{k≠y} max(0, c + s_k − s_y), or that divided by the number of all classes.

    Args:
        scores: `[batch, classes]`.
        target: `[batch]` classes.
        margin: c, at least 0.
        class_reduction: `"sum"` over k ≠ y (the original), or `"mean"`: divided by the number of classes, the label
            counted (public code, PyTorch too).
        reduction: `"mean"`, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider.

    Raises:
        ValueError: A negative margin, a target of another shape or outside the classes, or an unknown option.

    Source: Weston and Watkins, "Multi-class Support Vector Machines", 1998; `"mean"`: the code of arXiv 2112.14869.

    >>> import torch
    >>> scores, target = torch.tensor([[1.0, 0.5, 2.0]]), torch.tensor([0])
    >>> weston_watkins_loss(scores, target, class_reduction="sum"), weston_watkins_loss(scores, target)
    (tensor(2.5000), tensor(0.8333))
    """
    check_non_negative(margin, "margin")
    check_option(class_reduction, "class_reduction", ("mean", "sum"))
    check_target(target, scores.shape[1], shape=scores.shape[:1])
    scores = at_least_float32(scores)
    label = scores.gather(1, target.long()[:, None])
    shift = margin - label
    # The label's own term is taken off again, rounded as it was put in (`F.multi_margin_loss` takes thrice as long).
    total = (scores + shift).relu().sum(dim=1) - (label + shift).relu()[:, 0]
    return reduce(total if class_reduction == "sum" else total / scores.shape[1], reduction)


class CrammerSingerLoss(_LabelLoss):
    """Mean `crammer_singer_loss` over the labelled positions of a batch.

    Args:
        margin: c, at least 0.

    >>> import torch
    >>> CrammerSingerLoss()(torch.zeros(2, 3), torch.tensor([0, -100]))
    tensor(1.)
    """

    function = staticmethod(crammer_singer_loss)

    def __init__(self, *, margin: float = 1.0) -> None:
        super().__init__(margin=margin)


class WestonWatkinsLoss(_LabelLoss):
    """Mean `weston_watkins_loss` over the labelled positions of a batch.

    Args:
        margin: c, at least 0.
        class_reduction: `"mean"` over all classes, or `"sum"`.

    >>> import torch
    >>> WestonWatkinsLoss(class_reduction="sum")(torch.zeros(2, 3), torch.tensor([0, -100]))
    tensor(2.)
    """

    function = staticmethod(weston_watkins_loss)

    def __init__(self, *, margin: float = 1.0, class_reduction: Literal["mean", "sum"] = "mean") -> None:
        super().__init__(margin=margin, class_reduction=class_reduction)
