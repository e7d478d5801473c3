"""Focal loss: cross-entropy that fades out what is already well classified (Lin et al., 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from tutelage._checks import Reduction, check_non_negative, check_same_shape, reduce
from tutelage.objectives.hard_examples import check_binary
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import IGNORE_INDEX, mean_over_positions, reduce_over_labels
from tutelage.objectives.precision import at_least_float32


def focal_loss(
    logits: Float[Tensor, "*batch classes"],
    target: Int[Tensor, "*batch"],
    *,
    gamma: float = 2.0,
    class_weight: Float[Tensor, "..."] | None = None,
    ignore_index: int = IGNORE_INDEX,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Focal loss −w_y (1 − p_y)^γ log p_y with p = softmax(logits). The gradient goes through the factor as well.

    Args:
        logits: `[..., classes]`.
        target: `[...]` classes, or `ignore_index` at positions to skip.
        gamma: γ; 0 is cross-entropy.
        class_weight: w; it multiplies each item's loss. The mean divides by the number of items, not by the weights.
        ignore_index: The label of positions to skip.
        reduction: `"mean"` over labelled positions (0 without any), `"sum"`, or `"none"` (the shape of `target`).

    Returns:
        Nats, in float32 or wider.

    Raises:
        ValueError: A target of another shape or outside the classes, γ below 0, weights of another length, or an
            unknown reduction.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equations 4 and 5, on a softmax.

    >>> focal_loss(torch.zeros(1, 2), torch.tensor([0]))
    tensor(0.1733)
    """
    check_non_negative(gamma, "gamma")
    _check_class_weight(class_weight, logits.shape[-1])

    def loss(labels: Tensor, rows: Tensor) -> Tensor:
        log_p = -F.cross_entropy(at_least_float32(rows), labels, reduction="none")
        # 1 − p by expm1, which is exact where p is near 1; the clamp keeps the slope of the power finite at p = 1.
        rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
        values = -log_p if gamma == 0 else -rest.pow(gamma) * log_p
        return values if class_weight is None else values * class_weight.to(values.dtype)[labels]

    return reduce_over_labels(loss, target, logits, ignore_index=ignore_index, reduction=reduction)


def binary_focal_loss(
    logits: Float[Tensor, "..."],
    target: Shaped[Tensor, "..."],
    *,
    gamma: float = 2.0,
    class_weight: Float[Tensor, "..."] | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Focal loss of a single logit: −w_y (1 − p_y)^γ log p_y with p_1 = sigmoid(logit).

    Args:
        logits: Any shape.
        target: Labels 0 and 1 of the same shape.
        gamma: γ; 0 is binary cross-entropy.
        class_weight: Weights of label 0 and of label 1 (1 − α and α in the paper).
        reduction: `"mean"` (over items, not over weights), `"sum"`, or `"none"`.

    Returns:
        Nats, in float32 or wider.

    Raises:
        ValueError: Shapes that differ, labels other than 0 and 1, γ below 0, other than two weights, or an unknown
            reduction.

    Source: Lin et al. 2017, equations 4 and 5.

    >>> binary_focal_loss(torch.zeros(1), torch.tensor([1]))
    tensor(0.1733)
    """
    check_non_negative(gamma, "gamma")
    check_same_shape(logits, target, "logits", "target")
    check_binary(target)
    _check_class_weight(class_weight, 2)
    value = at_least_float32(logits)
    towards_label = torch.where(target != 0, value, -value)
    loss = F.softplus(-towards_label)
    if gamma:
        loss = (gamma * F.logsigmoid(-towards_label)).exp() * loss
    if class_weight is not None:
        loss = loss * class_weight.to(loss.dtype)[target.long()]
    return reduce(loss, reduction)


class FocalLoss(Objective):
    """Mean `focal_loss` over the labelled positions of a batch; it takes the place of cross-entropy.

    Logits with one class only (`[batch, 1]`) are those of `binary_focal_loss`.

    Args:
        gamma: γ; 0 is cross-entropy.
        class_weight: One weight a class.
        ignore_index: The label of positions to skip.

    >>> FocalLoss()(torch.zeros(1, 2), torch.tensor([0]))
    tensor(0.1733)
    """

    reads = ("student.logits", "batch.target")
    class_weight: Tensor | None

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        class_weight: Tensor | list[float] | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        check_non_negative(gamma, "gamma")
        self.gamma = gamma
        self.ignore_index = ignore_index
        weight = None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.get_default_dtype())
        self.register_buffer("class_weight", weight, persistent=False)

    def loss(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over labelled positions."""
        if student_logits.shape[-1] == 1 and student_logits.shape[:-1] == target.shape:
            kept = target != self.ignore_index
            return mean_over_positions(
                binary_focal_loss(
                    student_logits[..., 0][kept],
                    target[kept],
                    gamma=self.gamma,
                    class_weight=self.class_weight,
                    reduction="none",
                )
            )
        return focal_loss(
            student_logits,
            target,
            gamma=self.gamma,
            class_weight=self.class_weight,
            ignore_index=self.ignore_index,
        )


def _check_class_weight(class_weight: Tensor | None, classes: int) -> None:
    if class_weight is not None and class_weight.shape != (classes,):
        raise ValueError(
            f"Expected argument `class_weight` to hold {classes} weights, but got shape {tuple(class_weight.shape)}."
        )
