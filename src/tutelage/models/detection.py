"""A small one-stage detector: at every cell of a coarse map, class scores and a box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage._checks import check_at_least
from tutelage.models.plain import check_sizes
from tutelage.models.segmentation import Segmenter
from tutelage.models.specification import described

STRIDE = 4
"""Pixels of a cell of the detector's map."""


class CentreDetector(Segmenter):
    """A pyramid as the `Segmenter`'s whose cells say which object has its centre there, and how far its sides are.

    A cell gives a score a class (its sigmoid is the probability of a centre) and four numbers whose softplus are the
    distances from the cell's centre to the left, top, right and bottom of the box, in cells. `fuse` gives the map that
    the head reads, the level that distillation taps.

    Args:
        in_channels: Channels of the pictures.
        num_classes: Classes of objects.
        widths: Channels of the stages, at least two.
        separable: Depthwise 3×3 and pointwise convolutions in the place of whole ones.
    """

    def __init__(self, in_channels: int, num_classes: int, widths: Sequence[int], *, separable: bool) -> None:
        super().__init__(in_channels, num_classes + 4, widths, separable=separable)
        assert self.score.bias is not None
        # Rare positives: start from a probability of 1 % (Lin et al., "Focal Loss for Dense Object Detection", 4.1).
        nn.init.constant_(self.score.bias[:num_classes], -4.6)

    def forward(self, pictures: Tensor) -> Tensor:
        """Predictions `[batch, rows, columns, classes + 4]` of pictures `[batch, channels, height, width]`."""
        scores: Tensor = self.score(self.pyramid(pictures))
        return scores.movedim(1, -1)


@described
def centre_detector(
    input_shape: Sequence[int], num_classes: int, *, widths: Sequence[int] = (16, 32, 64), separable: bool = False
) -> CentreDetector:
    """A small one-stage detector, see `CentreDetector`.

    Args:
        input_shape: `(channels, height, width)`; other heights and widths work too.
        num_classes: Classes of objects.
        widths: Channels of the stages, at least two; each stage halves height and width.
        separable: Depthwise 3×3 and pointwise convolutions in the place of whole ones.

    Returns:
        Maps `[batch, channels, height, width]` to `[batch, height / 4, width / 4, num_classes + 4]`.

    >>> centre_detector((1, 32, 32), 10)(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 8, 8, 14])
    """
    channels = check_sizes(input_shape, "input_shape")[0]
    check_at_least(num_classes, "num_classes", 1)
    check_at_least(len(check_sizes(widths, "widths")), "len(widths)", 2)
    return CentreDetector(channels, num_classes, widths, separable=separable)


class Detections(NamedTuple):
    """What a detector found, the surest first in every picture.

    Attributes:
        boxes: `[batch, found, 4]`: left, top, right, bottom in pixels.
        scores: `[batch, found]` in (0, 1).
        labels: `[batch, found]` classes.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def decode_centres(predictions: Tensor, *, most: int = 10, stride: int = STRIDE) -> Detections:
    """The surest boxes of every picture: cells that are no less sure of a class than the eight around them.

    Args:
        predictions: `[batch, rows, columns, classes + 4]` of a `CentreDetector`.
        most: Boxes a picture (fewer where there are fewer scores).
        stride: Pixels of a cell.

    >>> predictions = torch.full((1, 2, 2, 5), -9.0)
    >>> predictions[0, 1, 0] = torch.tensor([2.0, 0.5413, 0.5413, 0.5413, 0.5413])
    >>> found = decode_centres(predictions, most=1)
    >>> found.boxes.round().tolist(), found.labels.tolist()
    ([[[-2.0, 2.0, 6.0, 10.0]]], [[0]])
    """
    num_classes = predictions.shape[-1] - 4
    heat = predictions[..., :num_classes].movedim(-1, 1).sigmoid()
    heat = torch.where(heat == F.max_pool2d(heat, 3, stride=1, padding=1), heat, 0)
    columns = heat.shape[3]
    scores, place = heat.flatten(1).topk(min(most, heat[0].numel()), dim=1)
    cell = place % heat[0, 0].numel()
    distances = F.softplus(predictions[..., num_classes:]).flatten(1, 2)
    distances = distances.gather(1, cell.unsqueeze(2).expand(-1, -1, 4))
    centre = torch.stack([cell % columns, cell // columns], dim=2) + 0.5
    boxes = torch.cat([centre - distances[..., :2], centre + distances[..., 2:]], dim=2) * stride
    return Detections(boxes, scores, place // heat[0, 0].numel())
