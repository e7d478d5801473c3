import math

import pytest
import torch

from tutelage.assessment import box_iou, detection_average_precision

BOX = torch.tensor([0.0, 0.0, 4.0, 4.0])
FAR = BOX + 10


def found(*entries):
    """One picture from (box, score, label)."""
    boxes, scores, labels = zip(*entries, strict=True)
    return torch.stack(boxes)[None], torch.tensor([scores]), torch.tensor([labels])


def test_overlaps_by_hand():
    others = torch.stack([BOX, BOX + 2, FAR, torch.zeros(4)])[None]
    torch.testing.assert_close(box_iou(BOX[None, None], others), torch.tensor([[[1.0, 4 / 28, 0.0, 0.0]]]))
    assert box_iou(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4)).item() == 0


@pytest.mark.parametrize(
    ("detections", "expected"),
    [
        ([(BOX, 0.9, 0), (FAR, 0.8, 0)], 1.0),
        ([(BOX, 0.9, 0)], 0.5),  # one of two found
        ([(BOX, 0.9, 0), (BOX, 0.8, 0), (FAR, 0.7, 0)], 0.5 + 0.5 * 2 / 3),  # a second one of the same is wrong
        ([(BOX + 20, 0.95, 0), (BOX, 0.9, 0), (FAR, 0.8, 0)], 2 / 3),  # precisions 0, 1/2, 2/3, made falling
        ([(BOX, 0.9, 1), (FAR, 0.8, 1)], 0.0),  # of a class that is not there
        ([(BOX, 0.9, 0), (FAR, 0.8, -1)], 0.5),  # an empty place
        ([(BOX + torch.tensor([0.0, 0.0, 4.0, 0.0]), 0.9, 0), (FAR, 0.8, 0)], 1.0),  # overlap of exactly one half
        ([(BOX + torch.tensor([0.0, 0.0, 5.0, 0.0]), 0.9, 0), (FAR, 0.8, 0)], 0.5 * 0.5),
    ],
)
def test_average_precision_by_hand(detections, expected):
    truth = torch.stack([BOX, FAR, torch.zeros(4)])[None], torch.tensor([[0, 0, -1]])
    assert detection_average_precision(*found(*detections), *truth, 2) == pytest.approx(expected)


def test_classes_count_alike_and_pictures_are_pooled():
    boxes = torch.stack([torch.stack([BOX, FAR]), torch.stack([BOX, FAR])])
    true_labels = torch.tensor([[0, 1], [0, 0]])
    scores = torch.tensor([[0.9, 0.8], [0.7, 0.6]])
    assert detection_average_precision(boxes, scores, true_labels, boxes, true_labels, 3) == 1
    labels = torch.tensor([[0, 2], [0, 0]])
    assert detection_average_precision(boxes, scores, labels, boxes, true_labels, 3) == pytest.approx(0.5)
    order = torch.tensor([1, 0])
    swapped = boxes[:, order], scores[:, order], labels[:, order]
    assert detection_average_precision(*swapped, boxes, true_labels, 3) == pytest.approx(0.5)


def test_nothing_to_find_is_not_a_number():
    nothing = torch.zeros(1, 1, 4), torch.full((1, 1), -1)
    assert math.isnan(detection_average_precision(*found((BOX, 0.9, 0)), *nothing, 2))
    with pytest.raises(ValueError, match=r"`iou` to be in \[0, 1\]"):
        detection_average_precision(*found((BOX, 0.9, 0)), *nothing, 2, iou=50)
