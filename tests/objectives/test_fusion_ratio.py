from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.objectives import (
    FusedDistillationLoss,
    FusionRatioController,
    LinearRamp,
    Progress,
    WeightedSoftLabels,
    forward_kl,
    fused_distillation_loss,
    knowledge_distillation,
    weighted_soft_label_ratio,
)


def example(batch: int = 6, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    student = torch.randn(batch, classes, dtype=torch.float64)
    teacher = torch.randn(batch, classes, dtype=torch.float64)
    return student, teacher, torch.arange(batch) % classes


def parts(student: Tensor, teacher: Tensor, target: Tensor, temperature: float = 1.5) -> tuple[Tensor, Tensor]:
    soft = temperature**2 * forward_kl(student, teacher, temperature=temperature)
    return soft, F.cross_entropy(student, target, reduction="none")


def test_a_loss_computed_by_hand() -> None:
    student, teacher = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, math.log(3.0)]])
    kl = 0.25 * math.log(0.25 / 0.75) + 0.75 * math.log(0.75 / 0.25)
    expected = 0.4 * kl + 0.6 * -math.log(0.75)
    found = fused_distillation_loss(student, teacher, torch.tensor([0]), 0.4, temperature=1.0)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_ends_are_cross_entropy_and_distillation_exactly() -> None:
    student, teacher, target = example()
    soft, hard = parts(student, teacher, target)
    for zero, one in ((0.0, 1.0), (torch.zeros(6).double(), torch.ones(6).double())):
        assert torch.equal(fused_distillation_loss(student, teacher, target, zero, reduction="none"), hard)
        assert torch.equal(fused_distillation_loss(student, teacher, target, one, reduction="none"), soft)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_one_number_is_a_constant_vector_and_the_classic_loss(reduction: str) -> None:
    student, teacher, target = example()
    number = fused_distillation_loss(student, teacher, target, 0.3, reduction=reduction)  # type: ignore[arg-type]
    for same in (torch.tensor(0.3).double(), torch.full((6,), 0.3).double()):
        found = fused_distillation_loss(student, teacher, target, same, reduction=reduction)  # type: ignore[arg-type]
        torch.testing.assert_close(found, number, rtol=1e-6, atol=1e-6)
    classic = knowledge_distillation(student, teacher, target, alpha=0.3, temperature=1.5, reduction=reduction)  # type: ignore[arg-type]
    torch.testing.assert_close(number, classic)


def test_it_is_linear_in_the_ratio_with_the_stated_slope() -> None:
    student, teacher, target = example()
    ratio = torch.rand(6).double().requires_grad_()
    loss = fused_distillation_loss(student, teacher.requires_grad_(), target, ratio)
    slope, of_teacher = torch.autograd.grad(loss, (ratio, teacher), allow_unused=True)
    soft, hard = parts(student, teacher, target)
    torch.testing.assert_close(slope, (soft - hard) / 6)
    assert of_teacher is None
    first, second = torch.rand(2, 6).double()
    between = fused_distillation_loss(student, teacher, target, 0.25 * first + 0.75 * second)
    ends = [fused_distillation_loss(student, teacher, target, end) for end in (first, second)]
    torch.testing.assert_close(between, 0.25 * ends[0] + 0.75 * ends[1])


def test_gradients_match_finite_differences() -> None:
    student, teacher, target = example(3, 3)
    ratio = torch.tensor([0.2, 0.5, 0.9]).double()
    torch.autograd.gradcheck(
        lambda logits, weight: fused_distillation_loss(logits, teacher, target, weight),
        (student.requires_grad_(), ratio.requires_grad_()),
    )


def test_skipped_positions_of_sequences_keep_ratios_at_their_places() -> None:
    student, teacher, target = (value.unflatten(0, (2, 3)) for value in example())
    target = target.clone()
    target[0, 1] = -100
    ratio = torch.rand(2, 3).double()
    kept = target != -100
    rows = fused_distillation_loss(student, teacher, target, ratio, reduction="none")
    expected = fused_distillation_loss(student[kept], teacher[kept], target[kept], ratio[kept], reduction="none")
    torch.testing.assert_close(rows[kept], expected)
    assert rows[0, 1] == 0
    torch.testing.assert_close(fused_distillation_loss(student, teacher, target, ratio), expected.mean())


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher, target = example()
    half = fused_distillation_loss(student.half(), teacher.half(), target, torch.full((6,), 0.5).half())
    assert half.dtype == torch.float32
    exact = fused_distillation_loss(student.half().double(), teacher.half().double(), target, 0.5)
    torch.testing.assert_close(half.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan, torch.tensor([0.5, 1.01]), torch.tensor([torch.nan, 0.5])])
def test_ratios_outside_the_unit_interval_are_refused(ratio: float | Tensor) -> None:
    student, teacher, target = example(2, 3)
    with pytest.raises(ValueError, match=r"`ratio`.* in \[0(\.0)?, 1(\.0)?\]"):
        fused_distillation_loss(student, teacher, target, ratio)


def test_other_bad_input_is_refused() -> None:
    student, teacher, target = example(2, 3)
    with pytest.raises(ValueError, match="`ratio` and `target` to have the same shape"):
        fused_distillation_loss(student, teacher, target, torch.full((3,), 0.5))
    with pytest.raises(ValueError, match="same number of classes, but got 3 and 2"):
        fused_distillation_loss(student, teacher[:, :2], target, 0.5)
    with pytest.raises(ValueError, match="`temperature` to be positive"):
        fused_distillation_loss(student, teacher, target, 0.5, temperature=0.0)


def test_controller_is_the_perceptron_of_the_code() -> None:
    controller = FusionRatioController(27)
    assert sum(value.numel() for value in controller.parameters()) == 27 * 32 + 32 + 32 * 16 + 16 + 16 + 1
    features = torch.randn(50, 27) * 10
    ratio = controller(features)
    assert ratio.shape == (50,)
    assert ((ratio > 0) & (ratio < 1)).all()
    first, second, last = (layer for layer in controller.modules() if isinstance(layer, nn.Linear))
    hidden = F.leaky_relu(second(F.leaky_relu(first(features), 0.01)), 0.01)
    torch.testing.assert_close(ratio, last(hidden).sigmoid()[:, 0])
    assert FusionRatioController(3, hidden=())(torch.zeros(2, 3)).shape == (2,)
    with pytest.raises(ValueError, match="`in_features` to be at least 1"):
        FusionRatioController(0)
    with pytest.raises(ValueError, match="`hidden` to be at least 1"):
        FusionRatioController(3, hidden=(4, 0))


def test_weighted_soft_labels_known_ratios() -> None:
    student, teacher = torch.tensor([0.0, 2.0, 1.0, 3.0, 0.0]), torch.tensor([1.0, 1.0, 2.0, 0.0, 0.0])
    expected = torch.tensor([0.0, 1 - math.exp(-2), 1 - math.exp(-0.5), 1.0, 0.0])
    torch.testing.assert_close(weighted_soft_label_ratio(student, teacher), expected)
    with pytest.raises(ValueError, match="`teacher_ce` to hold values of at least 0, but got -1"):
        weighted_soft_label_ratio(student, teacher - 1)
    with pytest.raises(ValueError, match="`student_ce`"):
        weighted_soft_label_ratio(student.log(), teacher)


def test_weighted_soft_labels_objective_takes_its_ratio_as_a_constant() -> None:
    student, teacher, target = example()
    student.requires_grad_()
    (found,) = torch.autograd.grad(WeightedSoftLabels(temperature=2.0)(student, teacher, target), student)
    ratio = weighted_soft_label_ratio(
        F.cross_entropy(student, target, reduction="none"), F.cross_entropy(teacher, target, reduction="none")
    ).detach()
    soft, hard = parts(student, teacher, target, temperature=2.0)
    (expected,) = torch.autograd.grad((ratio * soft + (1 - ratio) * hard).mean(), student)
    torch.testing.assert_close(found, expected)


def test_fused_objective_follows_its_schedule() -> None:
    student, teacher, target = example()
    objective = FusedDistillationLoss(ratio=LinearRamp(epochs=None, start=1.0, end=0.0))
    for step, ratio in ((0, 1.0), (25, 0.75), (100, 0.0)):
        objective.advance(Progress(step, 100, 10))
        expected = fused_distillation_loss(student, teacher, target, ratio)
        torch.testing.assert_close(objective(student, teacher, target), expected)
    with pytest.raises(ValueError, match="`ratio`"):
        FusedDistillationLoss(ratio=1.5)
