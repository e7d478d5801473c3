"""The loss of a detector that marks centres: which cell holds an object's centre, and where its sides are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_non_negative, check_positive
from tutelage.objectives.objective import Objective
from tutelage.objectives.precision import at_least_float32


def centre_detection_loss(
    predictions: Float[Tensor, "batch rows columns entries"],
    boxes: Float[Tensor, "batch most 4"],
    labels: Int[Tensor, "batch most"],
    *,
    stride: float = 4.0,
    box_weight: float = 1.0,
    gamma: float = 2.0,
    alpha: float = 0.25,
) -> Float[Tensor, ""]:
    """Sigmoid focal loss of class scores, and mean absolute error of the four distances at cells with a centre.

    The cell that holds the centre of a box is positive for the box's class, all others are negative; of two centres in
    one cell the later box counts. Both parts are divided by the number of positive cells of the batch (at least 1).

    Args:
        predictions: `[batch, rows, columns, classes + 4]`: scores before the sigmoid, distances before the softplus.
        boxes: `[batch, most, 4]`: left, top, right, bottom in pixels.
        labels: `[batch, most]` classes, or -1 where there is no box.
        stride: Pixels of a cell.
        box_weight: Weight of the distances, counted in cells.
        gamma: γ of the focal loss.
        alpha: Weight of positives, 1 − alpha that of negatives.

    Returns:
        A scalar, in float32 or wider.

    Raises:
        ValueError: A class outside the predictions', or a setting out of range.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5; centres as in Zhou et al.,
    "Objects as Points", 2019, without their Gaussian around a centre; distances as in Tian et al., "FCOS", ICCV 2019.

    >>> predictions = torch.full((1, 2, 2, 5), 0.0)
    >>> box, label = torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]), torch.tensor([[0]])
    >>> centre_detection_loss(predictions, box, label, box_weight=0.0)  # ¼ · (0.25 + 3 · 0.75) · log 2
    tensor(0.4332)
    """
    check_positive(stride, "stride")
    check_non_negative(box_weight, "box_weight")
    check_non_negative(gamma, "gamma")
    predictions = at_least_float32(predictions)
    batch, rows, columns, entries = predictions.shape
    num_classes = entries - 4
    if int(labels.max()) >= num_classes:
        raise ValueError(f"Expected argument `labels` to hold classes in [-1, {num_classes}), but got {labels.max()}.")
    centre = (boxes[..., :2] + boxes[..., 2:]) / (2 * stride)
    row = centre[..., 1].long().clamp(0, rows - 1)
    column = centre[..., 0].long().clamp(0, columns - 1)
    there = labels >= 0
    picture = torch.arange(batch, device=labels.device)[:, None].expand_as(labels)
    place = (picture[there], row[there], column[there])
    owner = labels.new_full((batch, rows, columns), -1)
    order = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    owner.index_put_(place, order[there])
    winner = owner[place] == order[there]
    place = (place[0][winner], place[1][winner], place[2][winner])
    own_boxes, own_labels = boxes[there][winner] / stride, labels[there][winner]

    heat = torch.zeros_like(predictions[..., :num_classes])
    heat[(*place, own_labels)] = 1
    scores = predictions[..., :num_classes]
    wrong = torch.where(heat > 0, -scores, scores)  # the score of the wrong answer: σ of it is 1 − p_t
    weights = torch.where(heat > 0, alpha, 1 - alpha)
    focal = (weights * wrong.sigmoid().pow(gamma) * F.softplus(wrong)).sum()
    cell = torch.stack([place[2], place[1]], dim=1) + 0.5
    distances = torch.cat([cell - own_boxes[:, :2], own_boxes[:, 2:] - cell], dim=1)
    sides = (F.softplus(predictions[place][:, num_classes:]) - distances).abs().sum() / 4
    return (focal + box_weight * sides) / max(1, len(own_labels))


class CentreDetection(Objective):
    """`centre_detection_loss` of a batch that carries `extras["boxes"]` and `extras["box_labels"]`.

    Args:
        stride: Pixels of a cell.
        box_weight: Weight of the distances.

    >>> box, label = torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]), torch.tensor([[0]])
    >>> CentreDetection(box_weight=0.0)(torch.zeros(1, 2, 2, 5), box, label)
    tensor(0.4332)
    """

    reads = ("student.logits", "batch.extras.boxes", "batch.extras.box_labels")

    def __init__(self, *, stride: float = 4.0, box_weight: float = 1.0) -> None:
        super().__init__()
        check_positive(stride, "stride")
        check_non_negative(box_weight, "box_weight")
        self.stride, self.box_weight = stride, box_weight

    def loss(self, predictions: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """The loss of the batch."""
        return centre_detection_loss(predictions, boxes, labels, stride=self.stride, box_weight=self.box_weight)
