from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tutelage.features import ChannelWiseDistillation, channel_wise_distillation


def by_definition(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Sample by sample, channel by channel, position by position."""
    total = 0.0
    for one, other in zip(student.flatten(2).tolist(), teacher.flatten(2).tolist(), strict=True):
        for mine, theirs in zip(one, other, strict=True):
            q = [math.exp(value / temperature) for value in mine]
            p = [math.exp(value / temperature) for value in theirs]
            q, p = [value / sum(q) for value in q], [value / sum(p) for value in p]
            divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            total += temperature**2 * divergence / len(one)
    return total / len(student)


def test_by_hand_and_by_definition() -> None:
    student, teacher = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[0.0, math.log(3)]]])
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert channel_wise_distillation(student, teacher, temperature=1.0).item() == pytest.approx(expected, abs=1e-6)
    maps = 3 * torch.randn(2, 3, 4, 2, 5, dtype=torch.float64)
    for temperature in (0.5, 1.0, 4.0):
        loss = channel_wise_distillation(maps[0], maps[1], temperature=temperature)
        assert loss.item() == pytest.approx(by_definition(maps[0], maps[1], temperature), rel=1e-9)


@given(shift=st.floats(-50, 50), temperature=st.floats(0.5, 8))
@settings(max_examples=20, deadline=None)
def test_a_constant_in_a_channel_changes_nothing_and_positions_may_be_in_any_order(
    shift: float, temperature: float
) -> None:
    student, teacher = torch.randn(2, 2, 3, 3, 3, dtype=torch.float64)
    expected = channel_wise_distillation(student, teacher, temperature=temperature)
    assert expected >= 0
    moved = student + shift * torch.randn(2, 3, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(channel_wise_distillation(moved, teacher, temperature=temperature), expected)
    order = torch.randperm(9)
    shuffled = [maps.flatten(2)[:, :, order] for maps in (student, teacher)]
    torch.testing.assert_close(channel_wise_distillation(*shuffled, temperature=temperature), expected)


def test_gradients_and_what_gets_none() -> None:
    student, teacher = torch.randn(2, 2, 3, 2, 2, dtype=torch.float64).requires_grad_().unbind()
    student.retain_grad()
    teacher.retain_grad()
    assert torch.autograd.gradcheck(
        lambda value: channel_wise_distillation(value, teacher), student.detach().requires_grad_()
    )
    channel_wise_distillation(student, teacher, temperature=2.0).backward()
    assert teacher.grad is None
    difference = (student / 2).flatten(2).softmax(2) - (teacher / 2).flatten(2).softmax(2)
    torch.testing.assert_close(student.grad, (2.0 * difference / 6).detach().view_as(student))
    same = student.detach().requires_grad_()
    loss = channel_wise_distillation(same, same.detach())
    loss.backward()
    assert loss.item() == 0
    torch.testing.assert_close(same.grad, torch.zeros_like(same))


def test_extreme_maps_stay_finite_and_half_precision_becomes_float32() -> None:
    student = torch.tensor([[[3e4, -3e4]]], dtype=torch.float16, requires_grad=True)
    loss = channel_wise_distillation(student, -student, temperature=1.0)
    assert loss.dtype == torch.float32
    assert loss.item() == 60000.0
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_reductions_and_errors() -> None:
    student, teacher = torch.randn(2, 4, 3, 2, 2)
    each = channel_wise_distillation(student, teacher, reduction="none")
    assert each.shape == (4,)
    torch.testing.assert_close(each.mean(), channel_wise_distillation(student, teacher))
    torch.testing.assert_close(each.sum(), channel_wise_distillation(student, teacher, reduction="sum"))
    with pytest.raises(ValueError, match="`temperature` to be positive, but got 0"):
        channel_wise_distillation(student, teacher, temperature=0.0)
    with pytest.raises(ValueError, match="the same shape"):
        channel_wise_distillation(student, teacher[:, :2])
    with pytest.raises(ValueError, match=r"\[batch, channels, height, width\], but got \(4, 3\)"):
        channel_wise_distillation(student[..., 0, 0], teacher[..., 0, 0])
    with pytest.raises(ValueError, match="`temperature`"):
        ChannelWiseDistillation("0", "0", temperature=-1.0)
    with pytest.raises(ValueError, match="same length"):
        ChannelWiseDistillation(["0", "1"], "0")


def test_the_module_projects_and_makes_maps_of_tokens() -> None:
    objective = ChannelWiseDistillation(["0", "1"], ["0", "1"], temperature=2.0)
    student = [torch.randn(2, 4, 3, 3), torch.randn(2, 10, 5)]
    teacher = [torch.randn(2, 6, 3, 3), torch.randn(2, 9, 5)]
    objective.make_modules(student, teacher)
    assert objective.projectors is not None
    first, second = objective.projectors
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Identity)
    maps = student[1][:, 1:].mT.reshape(2, 5, 3, 3), teacher[1].mT.reshape(2, 5, 3, 3)
    expected = channel_wise_distillation(first(student[0]), teacher[0], temperature=2.0)
    torch.testing.assert_close(
        objective(student, teacher), expected + channel_wise_distillation(*maps, temperature=2.0)
    )
