from __future__ import annotations

import pytest
import torch

from tutelage.objectives import CrammerSingerLoss, WestonWatkinsLoss, crammer_singer_loss, weston_watkins_loss


def _terms(scores: torch.Tensor, label: int, margin: float) -> list[float]:
    return [max(0.0, margin + float(scores[k] - scores[label])) for k in range(len(scores)) if k != label]


@pytest.mark.parametrize("margin", [0.0, 0.1, 1.0])
def test_agree_with_a_loop_over_classes(margin):
    scores, target = torch.randn(10, 5, dtype=torch.float64), torch.randint(5, (10,))
    terms = [_terms(row, label, margin) for row, label in zip(scores, target.tolist(), strict=True)]
    strongest = torch.tensor([max(row) for row in terms], dtype=torch.float64)
    total = torch.tensor([sum(row) for row in terms], dtype=torch.float64)
    torch.testing.assert_close(crammer_singer_loss(scores, target, margin=margin, reduction="none"), strongest)
    mean = weston_watkins_loss(scores, target, margin=margin, reduction="none")
    torch.testing.assert_close(mean, total / 5)
    summed = weston_watkins_loss(scores, target, margin=margin, class_reduction="sum", reduction="none")
    torch.testing.assert_close(summed, total)


def test_a_margin_that_is_kept_costs_nothing():
    scores, target = torch.tensor([[3.0, 1.0, 0.0]], requires_grad=True), torch.tensor([0])
    for loss in (crammer_singer_loss, weston_watkins_loss):
        value = loss(scores, target)
        assert value == 0
        assert not torch.autograd.grad(value, scores)[0].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CrammerSingerLoss(margin=-1.0), r"`margin` to be at least 0, but got -1.0\."),
        (lambda: WestonWatkinsLoss(margin=-1.0), r"`margin` to be at least 0, but got -1.0\."),
        (lambda: crammer_singer_loss(torch.zeros(1, 2), torch.tensor([2])), r"classes in \[0, 2\), but got 2\."),
        (lambda: weston_watkins_loss(torch.zeros(1, 2), torch.tensor([2])), r"classes in \[0, 2\), but got 2\."),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
