from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tutelage.objectives import BalancedDivergence, balanced_divergence, divergence_weights, forward_kl, reverse_kl

STUDENT = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log()
TEACHER = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()


def reference(student: Tensor, teacher: Tensor, nu: float, temperature: float) -> Tensor:
    """The same, sample by sample in plain Python."""
    values = []
    for own, other in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(own, temperature), softmax(other, temperature)
        forward = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        reverse = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        gap = -sum(b * math.log(b) for b in q) + sum(a * math.log(a) for a in p)
        weights = (nu, 1.0) if gap > 0 else (1.0, nu)
        values.append(temperature**2 * (weights[0] * forward + weights[1] * reverse))
    return torch.tensor(values, dtype=torch.float64)


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


def test_known_answer_for_a_student_that_is_too_sure() -> None:
    assert balanced_divergence(STUDENT, TEACHER).item() == pytest.approx(0.2692, abs=5e-5)
    forward, reverse = divergence_weights(STUDENT, TEACHER)
    assert (forward.item(), reverse.item()) == (2.0, 1.0)


def test_known_answer_for_a_student_that_is_not_sure_enough() -> None:
    # The roles exchanged: F and R change places, and so do the weights.
    assert balanced_divergence(TEACHER, STUDENT).item() == pytest.approx(0.0851 + 2 * 0.0920, abs=1e-4)
    forward, reverse = divergence_weights(TEACHER, STUDENT)
    assert (forward.item(), reverse.item()) == (1.0, 2.0)


def test_equal_entropies_count_as_not_too_sure() -> None:
    logits = torch.tensor([[1.0, -1.0]])
    for other in (logits, logits.flip(-1)):
        forward, reverse = divergence_weights(logits, other)
        assert (forward.item(), reverse.item()) == (1.0, 2.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(1.0, 5.0), st.floats(0.5, 4.0))
def test_agrees_with_a_slow_reference(seed: int, nu: float, temperature: float) -> None:
    student, teacher = 2 * torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    value = balanced_divergence(student, teacher, nu=nu, temperature=temperature, reduction="none")
    torch.testing.assert_close(value, reference(student, teacher, nu, temperature))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(1.0, 5.0))
def test_is_never_negative_and_zero_only_for_equal_predictions(seed: int, nu: float) -> None:
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert (balanced_divergence(student, teacher, nu=nu, reduction="none") > 0).all()
    same = balanced_divergence(student, student + torch.arange(6.0)[:, None], nu=nu, reduction="none")
    torch.testing.assert_close(same, torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12)


def test_without_adaptation_it_is_the_symmetric_sum() -> None:
    student, teacher = torch.randn(2, 7, 4, dtype=torch.float64)
    plain = 9 * (forward_kl(student, teacher, temperature=3.0) + reverse_kl(student, teacher, temperature=3.0))
    ours = balanced_divergence(student, teacher, nu=1.0, temperature=3.0, reduction="none")
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(ours, balanced_divergence(teacher, student, nu=1.0, temperature=3.0, reduction="none"))
    assert all((weight == 1).all() for weight in divergence_weights(student, teacher, nu=1.0))


def test_entropies_are_compared_at_the_temperature() -> None:
    student = torch.tensor([[9.0, 9.0, 0.0, 0.0, 0.0]])
    teacher = torch.tensor([[4.0, 0.0, 0.0, 0.0, 0.0]])
    at_one, at_eight = (divergence_weights(student, teacher, temperature=value)[0].item() for value in (1.0, 8.0))
    # Entropies of student and teacher, at 1: 0.70 and 0.34 nats; at 8: 1.46 and 1.59 nats.
    assert (at_one, at_eight) == (1.0, 2.0)


def test_gradient_is_the_weighted_sum_of_both_directions() -> None:
    student, teacher = torch.randn(2, 5, 4, dtype=torch.float64)
    student.requires_grad_()
    teacher.requires_grad_()
    temperature, nu = 2.0, 3.0
    balanced_divergence(student, teacher, nu=nu, temperature=temperature).backward()
    p, q = (student / temperature).softmax(-1).detach(), (teacher / temperature).softmax(-1).detach()
    forward_weight, reverse_weight = divergence_weights(student, teacher, nu=nu, temperature=temperature)
    assert not forward_weight.requires_grad
    assert not reverse_weight.requires_grad
    reverse = (p * (p / q).log()).sum(-1, keepdim=True)
    of_forward = (p - q) / (temperature * 5)
    of_reverse = p * ((p / q).log() - reverse) / (temperature * 5)
    expected = temperature**2 * (forward_weight[:, None] * of_forward + reverse_weight[:, None] * of_reverse)
    torch.testing.assert_close(student.grad, expected)
    assert teacher.grad is None


def test_gradient_matches_finite_differences() -> None:
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64)
    for nu in (1.0, 2.5):
        torch.autograd.gradcheck(
            lambda logits, nu=nu: balanced_divergence(logits, teacher, nu=nu, temperature=1.5, reduction="none"),
            student.requires_grad_(),
        )


def test_does_not_see_constants_or_the_names_of_classes() -> None:
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    value = balanced_divergence(student, teacher, reduction="none")
    shift, order = torch.randn(6, 1, dtype=torch.float64), torch.randperm(5)
    torch.testing.assert_close(balanced_divergence(student + shift, teacher - shift, reduction="none"), value)
    torch.testing.assert_close(balanced_divergence(student[:, order], teacher[:, order], reduction="none"), value)


def test_huge_logits_stay_finite() -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    loss = balanced_divergence(student, -student.detach())
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_reductions_sequences_and_the_module_agree() -> None:
    student, teacher = torch.randn(2, 2, 3, 5)
    target = torch.tensor([[1, -100, 2], [0, -100, -100]])
    rows = balanced_divergence(student, teacher, nu=3.0, temperature=2.0, reduction="none")
    assert rows.shape == (2, 3)
    for reduction in ("mean", "sum"):
        torch.testing.assert_close(
            balanced_divergence(student, teacher, nu=3.0, temperature=2.0, reduction=reduction),
            getattr(rows, reduction)(),
        )
    module = BalancedDivergence(nu=3.0, temperature=2.0)
    torch.testing.assert_close(module(student, teacher, target), rows[target != -100].mean())
    torch.testing.assert_close(module(student, teacher), rows.mean())


@pytest.mark.parametrize("nu", [0.5, math.nan, math.inf, -2.0])
def test_refuses_other_weights(nu: float) -> None:
    message = r"Expected argument `nu` to be finite and at least 1, but got"
    with pytest.raises(ValueError, match=message):
        balanced_divergence(STUDENT, TEACHER, nu=nu)
    with pytest.raises(ValueError, match=message):
        divergence_weights(STUDENT, TEACHER, nu=nu)
    with pytest.raises(ValueError, match=message):
        BalancedDivergence(nu=nu)


def test_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match=r"`temperature` to be positive, but got 0\.0"):
        balanced_divergence(STUDENT, TEACHER, temperature=0.0)
    with pytest.raises(ValueError, match="same number of classes"):
        divergence_weights(STUDENT, TEACHER[:, :2])
    with pytest.raises(ValueError, match="same shape"):
        balanced_divergence(STUDENT, TEACHER.repeat(2, 1))
