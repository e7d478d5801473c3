from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tutelage.objectives import (
    SymmetricCrossEntropy,
    SymmetricCrossEntropyLoss,
    predictive_entropy,
    symmetric_cross_entropy,
    symmetric_cross_entropy_loss,
)

P, Q = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5]]).log()


def test_known_values():
    for alpha, value in [(0.0, 0.693147), (1.0, 0.916291), (0.5, 0.804719)]:
        assert symmetric_cross_entropy(Q, P, alpha=alpha).item() == pytest.approx(value, abs=1e-6)


def test_swapping_sides_and_weights_changes_nothing():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(
        symmetric_cross_entropy(student, teacher, alpha=0.3), symmetric_cross_entropy(teacher, student, alpha=0.7)
    )


def test_gradients_of_both_terms():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    student.requires_grad_()
    q, p = student.detach().softmax(1), teacher.softmax(1)
    (first,) = torch.autograd.grad(symmetric_cross_entropy(student, teacher, alpha=0.0, reduction="sum"), student)
    torch.testing.assert_close(first, q - p)
    (second,) = torch.autograd.grad(symmetric_cross_entropy(student, teacher, alpha=1.0, reduction="sum"), student)
    torch.testing.assert_close(second, -q * (p.log() - (q * p.log()).sum(1, keepdim=True)))


def test_agreement_costs_the_entropy_and_still_sharpens():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    loss = symmetric_cross_entropy(logits, logits, reduction="none")
    torch.testing.assert_close(loss, predictive_entropy(logits))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    q = logits.detach().softmax(1)
    torch.testing.assert_close(gradient, -q * (q.log() + predictive_entropy(logits.detach())[:, None]) / 2)


def test_the_label_form_is_cross_entropy_and_the_distance_to_the_label():
    logits, target = torch.randn(6, 5, dtype=torch.float64), torch.randint(5, (6,))
    probs = logits.softmax(1)
    reverse = -(probs * torch.where(F.one_hot(target, 5).bool(), 0.0, -4.0)).sum(1)
    expected = 0.7 * F.cross_entropy(logits, target, reduction="none") + 0.3 * reverse
    loss = symmetric_cross_entropy_loss(logits, target, balance=0.3, reduction="none")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(SymmetricCrossEntropyLoss(balance=0.3)(logits, target), expected.mean())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: symmetric_cross_entropy(P, Q[:, :1]), "same number of classes, but got 2 and 1"),
        (lambda: symmetric_cross_entropy(P, Q, alpha=1.5), r"`alpha` to be in \[0, 1\], but got 1.5"),
        (lambda: SymmetricCrossEntropy(alpha=-0.5), r"`alpha` to be in \[0, 1\], but got -0.5"),
        (lambda: SymmetricCrossEntropyLoss(balance=2.0), r"`balance` to be in \[0, 1\], but got 2.0"),
        (lambda: SymmetricCrossEntropyLoss(scale=-1.0), "`scale` to be at least 0, but got -1.0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
