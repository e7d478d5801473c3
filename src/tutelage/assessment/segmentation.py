"""How well classes of pixels are told: the confusion matrix, and intersection over union."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from tutelage._checks import check_at_least, check_same_shape, check_target


def confusion_matrix(
    pred: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255
) -> Int64[Tensor, "classes classes"]:
    """How often each class (row) was taken for each class (column). Matrices of parts add up to that of the whole.

    Args:
        pred: Predicted classes, integers of any shape.
        target: True classes of the same shape, or `ignore_index` where nothing is counted.
        num_classes: Classes.
        ignore_index: The label of positions to skip, whatever is predicted there.

    Raises:
        ValueError: Shapes that differ, or a class outside [0, num_classes).

    >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), 2).tolist()
    [[1, 1], [0, 0]]
    """
    check_at_least(num_classes, "num_classes", 1)
    check_same_shape(pred, target, "pred", "target")
    check_target(target, num_classes, shape=target.shape, ignore_index=ignore_index)
    counted = target != ignore_index
    pred, target = pred[counted].long(), target[counted].long()
    if pred.numel() and not 0 <= int(pred.min()) <= int(pred.max()) < num_classes:
        wrong = pred[(pred < 0) | (pred >= num_classes)]
        raise ValueError(f"Expected argument `pred` to hold classes in [0, {num_classes}), but got {int(wrong[0])}.")
    return torch.bincount(target * num_classes + pred, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou_from_confusion(confusion: Tensor) -> Tensor:
    """Intersection over union of each class, `[classes]`, in float64; NaN for a class that is neither there nor said.

    >>> iou_from_confusion(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).tolist()
    [0.75, 0.8, nan]
    """
    counts = confusion.double()
    both = counts.diagonal()
    return both / (counts.sum(dim=0) + counts.sum(dim=1) - both)


def mean_iou(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> float:
    """Mean over classes of intersection / union, counted over all positions together.

    Classes that are in neither `pred` nor `target` are left out; it is NaN where nothing is counted.

    Args:
        pred: Predicted classes, integers of any shape.
        target: True classes of the same shape, or `ignore_index` where nothing is counted.
        num_classes: Classes.
        ignore_index: The label of positions to skip.

    Raises:
        ValueError: As `confusion_matrix`.

    >>> mean_iou(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 255]), 3)
    0.5
    """
    return float(iou_from_confusion(confusion_matrix(pred, target, num_classes, ignore_index)).nanmean())
