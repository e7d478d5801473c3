"""How well objects are found: intersection over union of boxes, and average precision."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_at_least, check_in_range


def box_iou(
    boxes: Float[Tensor, "batch found 4"], others: Float[Tensor, "batch most 4"]
) -> Float[Tensor, "batch found most"]:
    """Intersection over union of every box with every other one of its picture; 0 for boxes without area.

    Args:
        boxes: `[batch, found, 4]`: left, top, right, bottom.
        others: `[batch, most, 4]`.

    >>> box_iou(torch.tensor([[[0.0, 0.0, 2.0, 2.0]]]), torch.tensor([[[1.0, 0.0, 3.0, 2.0]]]))
    tensor([[[0.3333]]])
    """
    low = torch.maximum(boxes[:, :, None, :2], others[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], others[:, None, :, 2:])
    shared = (high - low).clamp_min(0).prod(dim=3)
    areas = [(given[..., 2:] - given[..., :2]).clamp_min(0).prod(dim=2) for given in (boxes, others)]
    union = areas[0][:, :, None] + areas[1][:, None, :] - shared
    return torch.where(union > 0, shared / union.clamp_min(torch.finfo(union.dtype).tiny), 0)


def detection_average_precision(
    boxes: Float[Tensor, "batch found 4"],
    scores: Float[Tensor, "batch found"],
    labels: Int[Tensor, "batch found"],
    true_boxes: Float[Tensor, "batch most 4"],
    true_labels: Int[Tensor, "batch most"],
    num_classes: int,
    *,
    iou: float = 0.5,
) -> float:
    """Mean over classes of the area under precision against recall (mAP at one overlap, over all points).

    In every picture, the surest detection of a class first, each takes the object of its class that it overlaps most
    among those that are still free; it is right where that overlap is at least `iou`. Precision is made falling
    (the best at any larger recall) before the area is taken. Classes without an object are left out; NaN without any.

    Args:
        boxes: `[batch, found, 4]`: left, top, right, bottom.
        scores: `[batch, found]`, of any scale.
        labels: `[batch, found]` classes, or -1 for a place that holds no detection.
        true_boxes: `[batch, most, 4]`.
        true_labels: `[batch, most]` classes, or -1 where there is no object.
        num_classes: Classes.
        iou: The overlap from which on a detection is right.

    Raises:
        ValueError: No classes, or an overlap outside [0, 1].

    >>> box = torch.tensor([[[0.0, 0.0, 2.0, 2.0]]])
    >>> detection_average_precision(box, torch.ones(1, 1), torch.tensor([[0]]), box, torch.tensor([[0]]), 1)
    1.0
    """
    check_at_least(num_classes, "num_classes", 1)
    check_in_range(iou, "iou", 0, 1)
    order = scores.argsort(dim=1, descending=True, stable=True)
    boxes = boxes.gather(1, order.unsqueeze(2).expand(-1, -1, 4))
    scores, labels = scores.gather(1, order), labels.gather(1, order)
    overlap = box_iou(boxes, true_boxes)
    overlap = torch.where(labels[:, :, None] == true_labels[:, None, :], overlap, -1)
    free = true_labels >= 0
    right = torch.zeros_like(labels, dtype=torch.bool)
    pictures = torch.arange(len(boxes), device=boxes.device)
    for rank in range(boxes.shape[1]):  # all pictures at once
        best, place = torch.where(free, overlap[:, rank], -1).max(dim=1)
        right[:, rank] = best >= iou
        free[pictures, place] &= ~right[:, rank]
    precisions = [
        _area(scores[labels == label], right[labels == label], int((true_labels == label).sum()))
        for label in range(num_classes)
        if (true_labels == label).any()
    ]
    return sum(precisions) / len(precisions) if precisions else float("nan")


def _area(scores: Tensor, right: Tensor, objects: int) -> float:
    found = right[scores.argsort(descending=True, stable=True)].double().cumsum(dim=0)
    if not len(found):
        return 0.0
    precision = found / torch.arange(1, len(found) + 1, device=found.device)
    falling = precision.flip(0).cummax(dim=0).values.flip(0)
    recall = torch.cat([found.new_zeros(1), found]) / objects
    return float((falling * recall.diff()).sum())
