import math

import pytest
import torch

from tutelage.batch import Batch
from tutelage.models import decode_centres
from tutelage.objectives import CentreDetection, centre_detection_loss
from tutelage.outputs import Outputs


def slow_loss(predictions, boxes, labels, stride=4.0, gamma=2.0, alpha=0.25):
    """Cell by cell."""
    classes = predictions.shape[-1] - 4
    focal = sides = torch.zeros((), dtype=predictions.dtype)
    positives = 0
    for sample, sample_boxes, sample_labels in zip(predictions, boxes, labels, strict=True):
        owners = {}
        for box, label in zip(sample_boxes, sample_labels.tolist(), strict=True):
            if label >= 0:
                x, y = float(box[0] + box[2]) / 2 / stride, float(box[1] + box[3]) / 2 / stride
                owners[int(y), int(x)] = (box / stride, label)
        positives += len(owners)
        for row in range(sample.shape[0]):
            for column in range(sample.shape[1]):
                box, own = owners.get((row, column), (None, -1))
                for label in range(classes):
                    p = sample[row, column, label].sigmoid()
                    if label == own:
                        focal = focal - alpha * (1 - p) ** gamma * p.log()
                    else:
                        focal = focal - (1 - alpha) * p**gamma * (1 - p).log()
                if box is not None:
                    x, y = column + 0.5, row + 0.5
                    wanted = torch.stack([x - box[0], y - box[1], box[2] - x, box[3] - y])
                    sides = sides + (torch.nn.functional.softplus(sample[row, column, classes:]) - wanted).abs().mean()
    return (focal + sides) / max(1, positives)


def scenes():
    boxes = torch.tensor(
        [
            [[0.0, 0.0, 8.0, 8.0], [9.0, 1.0, 15.0, 7.0], [0.0, 0.0, 0.0, 0.0]],
            [[4.0, 4.0, 12.0, 12.0], [3.0, 5.0, 13.0, 12.0], [1.0, 9.0, 6.0, 16.0]],  # the first two share a cell
        ],
        dtype=torch.float64,
    )
    return boxes, torch.tensor([[1, 0, -1], [0, 2, 1]])


def test_agrees_with_loops_over_cells():
    boxes, labels = scenes()
    predictions = torch.randn(2, 4, 4, 7, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(centre_detection_loss(predictions, boxes, labels), slow_loss(predictions, boxes, labels))
    torch.autograd.gradcheck(lambda given: centre_detection_loss(given, boxes, labels), predictions)


def test_right_predictions_cost_nothing_and_decode_to_the_boxes():
    boxes, labels = torch.tensor([[[0.0, 0.0, 8.0, 6.0]]]), torch.tensor([[1]])
    predictions = torch.full((1, 4, 4, 6), -30.0)
    cell = predictions[0, 0, 1]
    cell[1] = 30.0
    cell[2:] = torch.tensor([1.5, 0.5, 0.5, 1.0]).expm1().log()
    assert centre_detection_loss(predictions, boxes, labels).item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(decode_centres(predictions, most=1).boxes, boxes)


def test_without_objects_everything_is_background():
    boxes, labels = torch.zeros(1, 2, 4), torch.full((1, 2), -1)
    loss = centre_detection_loss(torch.zeros(1, 2, 2, 5), boxes, labels)
    assert loss.item() == pytest.approx(4 * 0.75 * 0.25 * math.log(2))


def test_the_twin_reads_a_batch_and_huge_scores_stay_finite():
    boxes, labels = scenes()
    extras = {"boxes": boxes.float(), "box_labels": labels}
    batch = Batch(torch.zeros(2, 1), None, torch.arange(2), extras)
    predictions = (1e4 * torch.randn(2, 4, 4, 7)).requires_grad_()
    loss = CentreDetection()(Outputs(logits=predictions), None, batch)
    loss.backward()
    assert loss.isfinite()
    assert predictions.grad.isfinite().all()
    half = centre_detection_loss(torch.randn(2, 4, 4, 7).bfloat16(), boxes.float(), labels)
    assert half.dtype == torch.float32


def test_bad_input_is_refused():
    boxes, labels = scenes()
    with pytest.raises(ValueError, match=r"`labels` to hold classes in \[-1, 2\), but got 2"):
        centre_detection_loss(torch.zeros(2, 4, 4, 6), boxes.float(), labels)
    with pytest.raises(ValueError, match="`stride` to be positive"):
        CentreDetection(stride=0.0)
