"""Distillation from the likeliest classes: against the dense divergence, and against a slow reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tutelage.batch import Batch
from tutelage.objectives import TopKForwardKL, forward_kl, top_k_forward_kl
from tutelage.outputs import Outputs, TopClasses


def _top(logits: Tensor, k: int) -> TopClasses:
    log_probs = logits.log_softmax(dim=-1)
    values, classes = log_probs.topk(k, dim=-1)
    return TopClasses(values, classes, log_probs.scatter(-1, classes, -torch.inf).logsumexp(dim=-1))


def _slow(student: Tensor, top: TopClasses) -> Tensor:
    """Sums over the k + 1 outcomes one by one."""
    q = student.softmax(dim=-1)
    rows = []
    for row in range(len(student)):
        value, left = 0.0, 1.0
        for log_p, place in zip(top.log_probs[row].tolist(), top.classes[row].tolist(), strict=True):
            value += math.exp(log_p) * (log_p - math.log(q[row, place]))
            left -= float(q[row, place])
        log_rest = float(top.log_rest[row])
        rows.append(value + math.exp(log_rest) * (log_rest - math.log(left)))
    return torch.tensor(rows, dtype=student.dtype)


def test_it_is_the_sum_over_k_and_one_outcomes() -> None:
    student, teacher = 2 * torch.randn(2, 5, 9, dtype=torch.float64)
    top = _top(teacher, 3)
    torch.testing.assert_close(top_k_forward_kl(student, *top, reduction="none"), _slow(student, top))


@pytest.mark.parametrize("k", [1, 3, 7])
def test_it_never_exceeds_the_whole_divergence_and_grows_with_k(k: int) -> None:
    student, teacher = 2 * torch.randn(2, 20, 9, dtype=torch.float64)
    whole = forward_kl(student, teacher, reduction="none")
    fewer, more = (top_k_forward_kl(student, *_top(teacher, size), reduction="none") for size in (k, k + 1))
    assert bool((fewer >= -1e-12).all())
    assert bool((fewer <= more + 1e-12).all())
    assert bool((more <= whole + 1e-12).all())


def test_all_classes_but_one_give_the_whole_divergence() -> None:
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(
        top_k_forward_kl(student, *_top(teacher, 4), reduction="none"), forward_kl(student, teacher)
    )


def test_the_rest_is_computed_when_it_is_not_given() -> None:
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    top = _top(teacher, 2)
    torch.testing.assert_close(
        top_k_forward_kl(student, top.log_probs, top.classes), top_k_forward_kl(student, *top), atol=1e-12, rtol=1e-9
    )


def test_equal_models_are_at_the_minimum() -> None:
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    loss = top_k_forward_kl(logits, *_top(logits.detach(), 2))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max().item() < 1e-12


@pytest.mark.parametrize("rest", ["bucket", "ignore"])
def test_gradients(rest: str) -> None:
    student = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    top = _top(torch.randn(3, 6, dtype=torch.float64), 2)
    assert torch.autograd.gradcheck(lambda logits: top_k_forward_kl(logits, *top, rest=rest), (student,))


def test_a_certain_teacher_and_large_logits_stay_finite() -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    top = TopClasses(torch.zeros(1, 1), torch.tensor([[1]]), torch.tensor([-torch.inf]))
    loss = top_k_forward_kl(student, *top)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert bool(torch.isfinite(student.grad).all())


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher = torch.randn(2, 5, 9)
    top = _top(teacher, 3)
    half = top_k_forward_kl(student.bfloat16(), *top)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, top_k_forward_kl(student.bfloat16().float(), *top))


def test_skipped_positions_do_not_count() -> None:
    student, teacher = torch.randn(2, 2, 3, 7)
    target = torch.tensor([[1, 2, -100], [-100, -100, 4]])
    objective = TopKForwardKL()
    top = _top(teacher, 2)
    batch = Batch(torch.zeros(2, 3), target, torch.arange(2))
    kept = target != -100
    expected = top_k_forward_kl(student[kept], *(part[kept] for part in top))
    torch.testing.assert_close(objective(Outputs(logits=student), Outputs(top=top), batch), expected)


def test_bad_input_is_named() -> None:
    batch = Batch(torch.zeros(2, 3), None, torch.arange(2))
    with pytest.raises(ValueError, match=r"teacher\.top"):
        TopKForwardKL()(Outputs(logits=torch.zeros(2, 4)), Outputs(logits=torch.zeros(2, 4)), batch)
