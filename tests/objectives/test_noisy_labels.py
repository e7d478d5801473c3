from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tutelage.objectives import (
    ActivePassiveLoss,
    JensenShannonLabelLoss,
    RobustLogLoss,
    active_passive_loss,
    jensen_shannon_label_loss,
    mean_absolute_error_loss,
    robust_log_loss,
    squared_error_loss,
)

CLASSES = 5


@pytest.fixture
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    return 2 * torch.randn(8, CLASSES, dtype=torch.float64), torch.randint(CLASSES, (8,))


def _kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.where(first > 0, first * (first / second).log(), 0).sum(dim=1)


def test_squared_error_is_the_distance_to_the_one_hot_label(samples):
    logits, target = samples
    distance = (F.one_hot(target, CLASSES) - logits.softmax(1)).square().sum(1)
    torch.testing.assert_close(squared_error_loss(logits, target, reduction="none"), distance)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_jensen_shannon_is_two_divergences_from_the_mixture(samples, weight):
    logits, target = samples
    label, probs = F.one_hot(target, CLASSES).double(), logits.softmax(1)
    mixture = weight * label + (1 - weight) * probs
    total = weight * _kl(label, mixture) + (1 - weight) * _kl(probs, mixture)
    expected = total / (-(1 - weight) * math.log(1 - weight))
    loss = jensen_shannon_label_loss(logits, target, label_weight=weight, reduction="none")
    torch.testing.assert_close(loss, expected)


def test_jensen_shannon_goes_from_cross_entropy_to_mean_absolute_error(samples):
    logits, target = samples
    near_zero = jensen_shannon_label_loss(logits, target, label_weight=1e-6)
    torch.testing.assert_close(near_zero, F.cross_entropy(logits, target), rtol=1e-3, atol=1e-3)
    near_one = jensen_shannon_label_loss(logits, target, label_weight=1 - 1e-12)
    torch.testing.assert_close(near_one, mean_absolute_error_loss(logits, target), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_robust_log_loss_is_its_formula_and_symmetric(samples, alpha):
    logits, target = samples
    logs = (alpha + logits.softmax(1)).log()
    own = logs.gather(1, target[:, None])[:, 0]
    expected = math.log((alpha + 1) / alpha) - own + (logs.sum(1) - own) / (CLASSES - 1)
    torch.testing.assert_close(robust_log_loss(logits, target, alpha=alpha, reduction="none"), expected)
    total = sum(
        robust_log_loss(logits, torch.full_like(target, label), alpha=alpha, reduction="none")
        for label in range(CLASSES)
    )
    torch.testing.assert_close(total, torch.full_like(total, CLASSES * math.log1p(1 / alpha)))
    certain = torch.tensor([[800.0, 0.0, 0.0]], dtype=torch.float64)
    least, most = (robust_log_loss(certain, torch.tensor([label]), alpha=alpha).item() for label in (0, 1))
    assert least == pytest.approx(0, abs=1e-12)
    assert most == pytest.approx((1 + 1 / 2) * math.log1p(1 / alpha))


def _passive(name: str, p: torch.Tensor) -> torch.Tensor:
    if name == "rce":
        return -math.log(1e-4) * (1 - p)
    if name == "agce":
        return ((3 + 1) ** 1.5 - (3 + p) ** 1.5) / 1.5
    return ((6 - p) ** 1.5 - (6 - 1) ** 1.5) / 1.5


@pytest.mark.parametrize("passive", ["rce", "agce", "aul"])
def test_active_and_passive_parts_are_their_formulas(samples, passive):
    logits, target = samples
    log_probs = logits.log_softmax(1)
    own = log_probs.gather(1, target[:, None])[:, 0]
    expected = 2 * own / log_probs.sum(1) + 3 * _passive(passive, own.exp())
    loss = active_passive_loss(logits, target, passive=passive, active_weight=2.0, passive_weight=3.0, reduction="none")
    torch.testing.assert_close(loss, expected)


def test_normalised_cross_entropy_with_reverse_cross_entropy_is_symmetric(samples):
    logits, target = samples
    total = sum(
        active_passive_loss(logits, torch.full_like(target, label), reduction="none") for label in range(CLASSES)
    )
    torch.testing.assert_close(total, torch.full_like(total, 1 - math.log(1e-4) * (CLASSES - 1)))


def test_a_right_and_certain_label_costs_nothing_in_float32():
    logits, target = torch.tensor([[30.0, 0.0, 0.0]]), torch.tensor([0])
    losses = [active_passive_loss(logits, target, passive=name, active_weight=0.0) for name in ("rce", "agce", "aul")]
    losses += [squared_error_loss(logits, target), jensen_shannon_label_loss(logits, target)]
    assert all(0 <= loss < 1e-12 for loss in losses)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: JensenShannonLabelLoss(label_weight=1.0), r"`label_weight` to be in \(0, 1\), but got 1.0\."),
        (lambda: RobustLogLoss(alpha=0.0), r"`alpha` to be positive, but got 0.0\."),
        (lambda: robust_log_loss(torch.zeros(1, 1), torch.tensor([0])), "to be at least 2, but got 1"),
        (lambda: ActivePassiveLoss(active_weight=-1.0), "`active_weight` to be at least 0, but got -1.0"),
        (lambda: ActivePassiveLoss(passive_options={"a": 1.0}), "`passive_options` to be one of 'zero', but got 'a'"),
        (lambda: ActivePassiveLoss(passive_options={"zero": 1.0}), r"to be in \(0, 1\), but got 1.0"),
        (lambda: ActivePassiveLoss(passive="aul", passive_options={"a": 1.0}), "to be above 1, but got 1.0"),
        (lambda: ActivePassiveLoss(passive="agce", passive_options={"q": 0.0}), "to be positive, but got 0.0"),
        (lambda: squared_error_loss(torch.zeros(1, 2), torch.tensor([2])), r"classes in \[0, 2\), but got 2\."),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
