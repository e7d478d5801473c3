import math

import pytest
import torch
from sklearn.metrics import jaccard_score

from tutelage.assessment import assess, confusion_matrix, iou_from_confusion, mean_iou
from tutelage.data import ArraySamples


def test_hand_computed() -> None:
    target = torch.tensor([[0, 0, 1], [1, 2, 255]])
    pred = torch.tensor([[0, 1, 1], [1, 0, 2]])
    assert confusion_matrix(pred, target, 4).tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    # Class 0: 1 of 3, class 1: 2 of 3, class 2: 0 of 1; class 3 is nowhere.
    assert mean_iou(pred, target, 4) == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)


def test_agrees_with_scikit_learn() -> None:
    target, pred = torch.randint(6, (2, 4, 9, 9))
    expected = jaccard_score(target.flatten(), pred.flatten(), average="macro")
    assert mean_iou(pred, target, 6) == pytest.approx(expected)


def test_parts_add_up_and_perfect_is_one() -> None:
    target, pred = torch.randint(3, (2, 4, 5, 5))
    whole = confusion_matrix(pred, target, 3)
    assert torch.equal(whole, confusion_matrix(pred[:1], target[:1], 3) + confusion_matrix(pred[1:], target[1:], 3))
    assert mean_iou(target, target, 3) == 1
    assert float(iou_from_confusion(whole).mean()) == pytest.approx(mean_iou(pred, target, 3))


def test_skipped_positions_do_not_count_whatever_is_said_there() -> None:
    target, pred = torch.randint(3, (2, 5, 5))
    target[0] = -100
    pred[0] = 77
    assert mean_iou(pred, target, 3, ignore_index=-100) == mean_iou(pred[1:], target[1:], 3)
    assert math.isnan(mean_iou(pred[:1], target[:1], 3, ignore_index=-100))


def test_bad_input_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="`pred` and `target` to have the same shape"):
        mean_iou(torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match=r"`pred` to hold classes in \[0, 2\), but got 2"):
        mean_iou(torch.tensor([2, 0]), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match=r"`target` to hold classes in \[0, 2\) or be 255, but got 3"):
        mean_iou(torch.tensor([1, 0]), torch.tensor([3, 1]), 2)


def test_a_report_card_of_dense_prediction() -> None:
    target = torch.randint(3, (6, 4, 4))
    target[0, 0, 0] = -100
    pictures = torch.nn.functional.one_hot(target.clamp_min(0), 3).movedim(-1, 1).float()
    pictures[:, :, 0] = torch.randn(6, 3, 4)

    class Says(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs.movedim(1, -1) * 5

    card = assess(Says(), ArraySamples(pictures, target), teacher=Says(), latency=False)
    assert card.task == "segmentation"
    said = pictures.argmax(dim=1)
    assert card.metrics["mean_iou"] == pytest.approx(mean_iou(said, target, 3, ignore_index=-100))
    kept = target != -100
    assert card.metrics["pixel_accuracy"] == pytest.approx((said == target)[kept].double().mean().item())
    assert card.metrics["teacher_agreement"] == 1
    assert "perplexity" not in card.metrics
