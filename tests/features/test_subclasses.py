"""The loss over subclasses, and what subclass logits say about the classes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tutelage.batch import Batch
from tutelage.features import SubclassDistillation, class_log_probabilities, subclass_distillation
from tutelage.outputs import Outputs


def cells(batch=4, classes=2, subclasses=3, dtype=torch.float64):
    return torch.randn(batch, classes * subclasses, dtype=dtype).softmax(dim=1).view(batch, classes, subclasses)


def test_hand_case():
    conditional = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]])
    targets = torch.tensor([[0.75, 0.25]])[:, :, None] * conditional
    torch.testing.assert_close(targets, torch.tensor([[[0.375, 0.375], [0.125, 0.125]]]))
    loss = subclass_distillation(torch.zeros(1, 4), targets)
    assert loss.item() == pytest.approx(1.3863, abs=5e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.floats(0.25, 5.0), st.booleans())
def test_agrees_with_a_loop_and_with_the_formula_of_its_gradient(classes, subclasses, temperature, scaled):
    targets = cells(5, classes, subclasses)
    logits = (3 * torch.randn(5, classes * subclasses, dtype=torch.float64)).requires_grad_()
    options = {"temperature": temperature, "scale_by_squared_temperature": scaled}
    loss = subclass_distillation(logits, targets, **options)
    factor = temperature**2 if scaled else 1.0
    expected = 0.0
    for row, target in zip(logits, targets, strict=True):
        total = sum((value / temperature).exp() for value in row)
        for label in range(classes):
            for subclass in range(subclasses):
                value = row[label * subclasses + subclass]
                expected = expected - factor * target[label, subclass] * ((value / temperature).exp() / total).log() / 5
    torch.testing.assert_close(loss, torch.as_tensor(expected, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss, logits)
    wanted = factor / temperature * ((logits / temperature).softmax(dim=1) - targets.flatten(1)) / 5
    torch.testing.assert_close(gradient, wanted)


def test_gradcheck_and_reductions():
    targets = cells()
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: subclass_distillation(z, targets, temperature=2.0), logits)
    each = subclass_distillation(logits, targets, reduction="none")
    assert each.shape == (4,)
    torch.testing.assert_close(subclass_distillation(logits, targets), each.mean())
    torch.testing.assert_close(subclass_distillation(logits, targets, reduction="sum"), each.sum())


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_minimum_is_at_the_targets_and_is_their_entropy(temperature):
    targets = cells()
    logits = (temperature * targets.flatten(1).log()).requires_grad_()
    loss = subclass_distillation(logits, targets, temperature=temperature)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
    entropy = -(targets * targets.log()).sum(dim=(1, 2)).mean()
    torch.testing.assert_close(loss.detach(), temperature**2 * entropy)


def test_one_subclass_is_classic_distillation():
    teacher, student = torch.randn(2, 6, 3, dtype=torch.float64)
    student.requires_grad_()
    targets = (teacher / 4).softmax(dim=1).unsqueeze(2)
    ours = subclass_distillation(student, targets, temperature=4.0)
    classic = 16 * F.cross_entropy(student / 4, (teacher / 4).softmax(dim=1))
    torch.testing.assert_close(ours, classic)
    for one, other in zip(torch.autograd.grad(ours, student), torch.autograd.grad(classic, student), strict=True):
        torch.testing.assert_close(one, other)


def test_no_gradient_reaches_the_targets_and_zeros_are_allowed():
    targets = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]], requires_grad=True)
    logits = torch.tensor([[1e4, -1e4, 0.0, 0.0]], requires_grad=True)
    loss = subclass_distillation(logits, targets)
    loss.backward()
    assert loss.item() == 0
    assert targets.grad is None
    assert torch.isfinite(logits.grad).all()


def test_half_precision_is_computed_in_float32():
    targets = cells(16, 2, 5, torch.float32)
    logits = torch.randn(16, 10, dtype=torch.bfloat16)
    loss = subclass_distillation(logits, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss.double(), subclass_distillation(logits.double(), targets.double()), atol=1e-6, rtol=0
    )


def test_class_log_probabilities():
    targets = cells(5, 3, 4)
    found = class_log_probabilities(targets.flatten(1).log() + torch.randn(5, 1, dtype=torch.float64), 3)
    torch.testing.assert_close(found, targets.sum(dim=2).log())
    huge = class_log_probabilities(torch.tensor([[1e4, -1e4, 1e4, 0.0]]), 2)
    torch.testing.assert_close(huge, torch.full((1, 2), 0.5).log())
    half = class_log_probabilities(torch.randn(3, 6).half(), 2)
    assert half.dtype == torch.float32
    logits = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: class_log_probabilities(z, 2), logits)


def test_the_objective_reads_targets_that_travel_with_the_samples():
    targets = cells(dtype=torch.float32)
    logits = torch.randn(4, 6)
    batch = Batch(torch.zeros(4, 1), None, torch.arange(4), {"subclass_targets": targets})
    loss = SubclassDistillation(temperature=2.0)(Outputs(features={"subclasses": logits}), None, batch)
    torch.testing.assert_close(loss, subclass_distillation(logits, targets, temperature=2.0))
    assert not SubclassDistillation().needs_teacher


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "`temperature` to be positive, but got 0.0"),
        (
            {"targets": torch.full((2, 2, 3), 0.2)},
            "probabilities that sum to 1, but got a sum of 1.2",
        ),
        ({"targets": torch.tensor([[[1.5, -0.5, 0.0], [0.0, 0.0, 0.0]]] * 2)}, "negative or non-finite"),
        ({"targets": torch.full((2, 2, 2), 0.25)}, "shapes .2, 6. and .2, 2, 2."),
    ],
)
def test_bad_input(change, message):
    given = {"student_logits": torch.zeros(2, 6), "targets": torch.full((2, 2, 3), 1 / 6), **change}
    with pytest.raises(ValueError, match=message):
        subclass_distillation(**given)


def test_bad_class_counts():
    with pytest.raises(ValueError, match="a multiple of 4 outputs, but got 6"):
        class_log_probabilities(torch.zeros(2, 6), 4)
    with pytest.raises(ValueError, match="`num_classes` to be at least 1, but got 0"):
        class_log_probabilities(torch.zeros(2, 6), 0)
