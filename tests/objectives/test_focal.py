from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tutelage.objectives import FocalLoss, binary_focal_loss, focal_loss


def test_by_hand() -> None:
    assert focal_loss(torch.zeros(1, 4), torch.tensor([0])).item() == pytest.approx(0.75**2 * 1.386294, abs=1e-6)
    one = binary_focal_loss(torch.zeros(1), torch.tensor([0]), class_weight=torch.tensor([0.75, 0.25]))
    assert one.item() == pytest.approx(0.75 * 0.25 * 0.693147, abs=1e-6)


def test_gamma_zero_is_cross_entropy() -> None:
    logits, target = torch.randn(8, 5, dtype=torch.float64, requires_grad=True), torch.randint(5, (8,))
    ours, theirs = focal_loss(logits, target, gamma=0.0), F.cross_entropy(logits, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*[torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)])
    labels = (target > 2).double()
    torch.testing.assert_close(
        binary_focal_loss(logits[:, 0], labels, gamma=0.0), F.binary_cross_entropy_with_logits(logits[:, 0], labels)
    )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 3.5])
def test_the_formula_and_its_gradient(gamma: float) -> None:
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    target, weight = torch.randint(3, (6,)), torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    p = logits.softmax(-1)[torch.arange(6), target]
    expected = -(weight[target] * (1 - p) ** gamma * p.log()).mean()  # the mean is over items, not over weights
    ours = focal_loss(logits, target, gamma=gamma, class_weight=weight)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(*[torch.autograd.grad(loss, logits)[0] for loss in (ours, expected)])


def test_two_classes_are_one_logit() -> None:
    logits, target = torch.randn(7), torch.randint(2, (7,))
    two = torch.stack([torch.zeros(7), logits], dim=1)
    torch.testing.assert_close(binary_focal_loss(logits, target), focal_loss(two, target))
    torch.testing.assert_close(FocalLoss()(logits[:, None], target), FocalLoss()(two, target))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_certain_predictions_have_finite_gradients(gamma: float) -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [20.0, 0.0], [1.0, 1.0]], requires_grad=True)
    target = torch.tensor([0, 0, 0, 1])
    for loss in (
        focal_loss(logits, target, gamma=gamma),
        binary_focal_loss(logits[:, 0], target, gamma=gamma),
    ):
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


def test_skipped_positions() -> None:
    logits, target = torch.randn(2, 3, 4), torch.randint(4, (2, 3))
    target[0] = -100
    torch.testing.assert_close(FocalLoss()(logits, target), focal_loss(logits[1], target[1]))
    binary = FocalLoss()(logits[..., :1], target.clamp(max=1))
    torch.testing.assert_close(binary, binary_focal_loss(logits[1, :, 0], target[1].clamp(max=1)))


def test_weights_travel_with_the_module() -> None:
    loss = FocalLoss(class_weight=[1.0, 2.0]).double()
    assert loss.class_weight is not None
    assert loss.class_weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: focal_loss(torch.zeros(1, 2), torch.tensor([0]), gamma=-1.0), "`gamma`"),
        (lambda: focal_loss(torch.zeros(1, 2), torch.tensor([2])), "`target`"),
        (lambda: focal_loss(torch.zeros(1, 2), torch.tensor([0]), class_weight=torch.ones(3)), "2 weights"),
        (lambda: binary_focal_loss(torch.zeros(2), torch.tensor([0, 2])), "labels 0 and 1"),
        (lambda: binary_focal_loss(torch.zeros(2), torch.tensor([0])), "same shape"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
