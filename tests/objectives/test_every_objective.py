"""What every objective on logits must do; a new one is tested by being registered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tutelage.batch import Batch
from tutelage.objectives import Objective, registered_objectives
from tutelage.outputs import Outputs

LOGIT_PATHS = {"student.logits", "teacher.logits", "batch.target", "batch.target?"}

# Exceptions, each with its reason.
SEES_THE_CONSTANT = {
    "logit_mse": "compares the logits themselves",
    "mean_squared_error": "compares real values",
    "label_distributionally_robust_loss": "takes scores of bounded size",
    "ldr": "takes scores of bounded size",
}
OTHER_VOCABULARY = {
    "token_divergence": "cuts to the smaller vocabulary",
    "universal_logit_distance": "is made for unlike vocabularies",
    "uld": "is made for unlike vocabularies",
}
ONE_ANSWER_A_SEQUENCE = {
    "direct_coverage_loss": "gives a whole sequence one probability",
}
GRADIENT_OF_ANOTHER_LOSS = {
    "weighted_soft_labels": "takes weights that depend on the student as constants",
    "wls": "takes weights that depend on the student as constants",
}
OTHER_INPUT = {
    "mean_squared_error": "takes real-valued targets",
    "token_divergence": "takes sequences only: tests/objectives/test_divergences.py",
}


def _constructed(name: str) -> Objective:
    kind = registered_objectives()[name]
    if name in OTHER_INPUT:
        pytest.skip(f"{name} {OTHER_INPUT[name]}")
    try:
        objective = kind()
    except TypeError:
        pytest.skip(f"{name} needs arguments")
    if not set(objective.reads) <= LOGIT_PATHS:
        pytest.skip(f"{name} reads {', '.join(sorted(set(objective.reads) - LOGIT_PATHS))}")
    if list(objective.parameters()):
        pytest.skip(f"{name} has parameters of its own")
    return objective


every_objective = pytest.mark.parametrize("name", sorted(registered_objectives()))


def _samples(batch: int = 6, classes: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = 2 * torch.randn(2, batch, classes, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype), torch.randint(classes, (batch,))


def _loss(objective: Objective, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    batch = Batch(torch.zeros(len(student), 1), target, torch.arange(len(student)))
    return objective(Outputs(logits=student), Outputs(logits=teacher), batch)


def _loss_and_gradient(objective: Objective, student: Tensor, teacher: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    loss = _loss(objective, student, teacher, target)
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


@every_objective
def test_the_loss_is_a_finite_scalar(name: str) -> None:
    loss = _loss(_constructed(name), *_samples())
    assert loss.shape == ()
    assert torch.isfinite(loss)


@every_objective
def test_the_gradient_matches_finite_differences(name: str) -> None:
    if name in GRADIENT_OF_ANOTHER_LOSS:
        pytest.skip(f"{name} {GRADIENT_OF_ANOTHER_LOSS[name]}")
    objective = _constructed(name)
    student, teacher, target = _samples(4, 4)
    torch.autograd.gradcheck(lambda logits: _loss(objective, logits, teacher, target), student.requires_grad_())


@every_objective
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    objective = _constructed(name)
    student, teacher, target = _samples()
    student.requires_grad_()
    teacher.requires_grad_()
    _loss(objective, student, teacher, target).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


@every_objective
def test_a_constant_added_to_a_row_of_logits_changes_nothing(name: str) -> None:
    if name in SEES_THE_CONSTANT:
        pytest.skip(f"{name} {SEES_THE_CONSTANT[name]}")
    objective = _constructed(name)
    student, teacher, target = _samples()
    shifts = torch.tensor([[3.0], [-7.0]], dtype=torch.float64).repeat(3, 1)
    expected = _loss(objective, student, teacher, target)
    torch.testing.assert_close(_loss(objective, student + shifts, teacher, target), expected)
    torch.testing.assert_close(_loss(objective, student, teacher - 2 * shifts, target), expected)


@every_objective
def test_huge_logits_stay_finite_in_float32(name: str) -> None:
    objective = _constructed(name)
    student, teacher, target = _samples(8, 5, torch.float32)
    for student_scale, teacher_scale in [(1e4, 1.0), (1.0, 1e4), (1e4, 1e4)]:
        huge_student = student.sign() * student_scale
        huge_teacher = teacher.sign() * teacher_scale
        loss, gradient = _loss_and_gradient(objective, huge_student, huge_teacher, target)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


@every_objective
def test_bfloat16_is_as_exact_as_its_inputs(name: str) -> None:
    objective = _constructed(name)
    student, teacher, target = _samples(32, 20, torch.bfloat16)
    loss, gradient = _loss_and_gradient(objective, student, teacher, target)
    exact_loss, exact_gradient = _loss_and_gradient(objective, student.double(), teacher.double(), target)
    assert loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-2, atol=1e-5)


@every_objective
def test_other_class_counts_are_refused_in_one_clear_line(name: str) -> None:
    if name in OTHER_VOCABULARY:
        pytest.skip(f"{name} {OTHER_VOCABULARY[name]}")
    objective = _constructed(name)
    if not objective.needs_teacher:
        pytest.skip(f"{name} reads no teacher")
    student, teacher, target = _samples()
    with pytest.raises(ValueError, match=r"^Expected argument.*5 and 4") as refusal:
        _loss(objective, student, teacher[:, :4], target.clamp(max=3))
    assert "\n" not in str(refusal.value)


@every_objective
def test_the_order_of_samples_does_not_matter(name: str) -> None:
    objective = _constructed(name)
    student, teacher, target = _samples()
    order = torch.randperm(len(student))
    loss, gradient = _loss_and_gradient(objective, student, teacher, target)
    other_loss, other_gradient = _loss_and_gradient(objective, student[order], teacher[order], target[order])
    torch.testing.assert_close(other_loss, loss)
    torch.testing.assert_close(other_gradient, gradient[order])


@every_objective
def test_the_names_of_classes_do_not_matter(name: str) -> None:
    objective = _constructed(name)
    student, teacher, target = _samples()
    order = torch.randperm(student.shape[1])
    renamed = order.argsort()[target]
    loss, gradient = _loss_and_gradient(objective, student, teacher, target)
    other_loss, other_gradient = _loss_and_gradient(objective, student[:, order], teacher[:, order], renamed)
    torch.testing.assert_close(other_loss, loss)
    torch.testing.assert_close(other_gradient, gradient[:, order])


@every_objective
def test_skipped_positions_of_sequences_say_nothing(name: str) -> None:
    if name in ONE_ANSWER_A_SEQUENCE:
        pytest.skip(f"{name} {ONE_ANSWER_A_SEQUENCE[name]}: tests/objectives/test_coverage.py")
    objective = _constructed(name)
    student, teacher, target = _samples(6, 5)
    student, teacher, target = student.reshape(2, 3, 5), teacher.reshape(2, 3, 5), target.reshape(2, 3).clone()
    target[0, 1:] = -100
    kept = target != -100
    try:
        loss, gradient = _loss_and_gradient(objective, student, teacher, target)
    except ValueError as refusal:
        pytest.skip(f"{name} takes no sequences: {refusal}")
    torch.testing.assert_close(loss, _loss(objective, student[kept], teacher[kept], target[kept]))
    assert not gradient[~kept].any()


@every_objective
def test_a_batch_of_padding_teaches_nothing(name: str) -> None:
    objective = _constructed(name)
    student, teacher, target = _samples(6, 5)
    skipped = torch.full_like(target.reshape(2, 3), -100)
    try:
        loss, gradient = _loss_and_gradient(objective, student.reshape(2, 3, 5), teacher.reshape(2, 3, 5), skipped)
    except ValueError as refusal:
        pytest.skip(f"{name} takes no such sequences: {refusal}")
    assert torch.isfinite(loss)
    assert not gradient.any()
