from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.objectives import CorrectnessAwareLoss, correctness_aware_loss

SURE = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log()
LESS_SURE = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log()


def test_one_sample_by_hand() -> None:
    for target, expected in ((0, 0.09), (1, 0.49), (2, 0.49)):
        assert correctness_aware_loss(SURE[None], torch.tensor([target])).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("right", "unweighted", "balanced"),
    [(1, (0.09 + 0.36) / 2, 0.225), (3, 0.1575, 0.225), (9, (9 * 0.09 + 0.36) / 10, 0.225)],
)
def test_right_at_seven_tenths_and_one_wrong_at_six_by_hand(right: int, unweighted: float, balanced: float) -> None:
    logits = torch.cat([SURE.expand(right, 3), LESS_SURE[None]])
    target = torch.tensor([0] * right + [1])
    assert correctness_aware_loss(logits, target).item() == pytest.approx(unweighted, abs=1e-12)
    assert correctness_aware_loss(logits, target, class_balance=True).item() == pytest.approx(balanced, abs=1e-12)


@given(seed=st.integers(0, 10**6), balance=st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_formula_of_the_released_code(seed: int, balance: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(9, 4, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (9,), generator=generator)
    numerator, denominator, right = 0.0, 0.0, (logits.argmax(1) == target).sum().item() / 9
    for row, label in zip(logits, target, strict=True):
        probs = (row.exp() / row.exp().sum()).tolist()
        correct = float(max(range(4), key=probs.__getitem__) == label)
        weight = 1.0 if not balance or right in (0, 1) else (1 - right if correct else right)
        numerator += weight * (max(probs) - correct) ** 2
        denominator += weight
    expected = numerator / denominator
    assert correctness_aware_loss(logits, target, class_balance=balance).item() == pytest.approx(expected, abs=1e-12)
    parts = correctness_aware_loss(logits, target, class_balance=balance, reduction="none")
    assert parts.shape == (9,)
    assert parts.mean().item() == pytest.approx(expected, abs=1e-12)
    total = correctness_aware_loss(logits, target, class_balance=balance, reduction="sum")
    assert total.item() == pytest.approx(9 * expected, abs=1e-12)


def test_the_best_constant_confidence_is_the_accuracy_or_one_half() -> None:
    target = torch.tensor([0] * 7 + [1] * 3)  # class 0 is predicted: an accuracy of 0.7
    confidence = torch.linspace(0.501, 0.999, 499, dtype=torch.float64)
    best = {}
    for balance in (False, True):
        losses = [
            correctness_aware_loss(torch.tensor([[c, 1 - c]]).log().expand(10, 2), target, class_balance=balance)
            for c in confidence
        ]
        best[balance] = confidence[torch.stack(losses).argmin()].item()
    assert best[False] == pytest.approx(0.7, abs=2e-3)
    assert best[True] == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_step_lowers_the_temperature_of_right_samples_and_raises_that_of_wrong_ones(classes: int) -> None:
    logits = torch.randn(64, classes, dtype=torch.float64)
    target = torch.randint(classes, (64,))
    temperature = torch.ones(64, 1, dtype=torch.float64, requires_grad=True)
    correctness_aware_loss(logits / temperature, target).backward()
    assert temperature.grad is not None
    slope = temperature.grad.squeeze(1)
    correct = logits.argmax(dim=1) == target
    assert 0 < correct.sum() < 64
    assert (slope[correct] > 0).all()
    assert (slope[~correct] < 0).all()


def test_two_classes_are_symmetric() -> None:
    logits = torch.tensor([[1.5, 0.0]], dtype=torch.float64)
    for target in (0, 1):
        ours = correctness_aware_loss(logits, torch.tensor([target]))
        torch.testing.assert_close(ours, correctness_aware_loss(logits.flip(1), torch.tensor([1 - target])))


@pytest.mark.parametrize("balance", [False, True])
def test_gradcheck(balance: bool) -> None:
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randint(4, (6,))
    assert torch.autograd.gradcheck(lambda z: correctness_aware_loss(z, target, class_balance=balance), logits)


@pytest.mark.parametrize("label", [0, 1])
def test_all_right_or_all_wrong_is_not_weighted(label: int) -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0]]).expand(5, 3)
    target = torch.full((5,), label)
    balanced = correctness_aware_loss(logits, target, class_balance=True)
    assert torch.isfinite(balanced)
    torch.testing.assert_close(balanced, correctness_aware_loss(logits, target))


def test_certainty_is_exact_and_has_a_finite_gradient() -> None:
    logits = torch.tensor([[100.0, -100.0, 0.0]], requires_grad=True)
    for target, expected in ((0, 0.0), (1, 1.0)):
        loss = correctness_aware_loss(logits / 0.1, torch.tensor([target]))
        assert loss.item() == expected
        (gradient,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(gradient).all()


def test_correctness_is_that_of_the_given_prediction() -> None:
    logits, target = SURE[None], torch.tensor([1])
    assert correctness_aware_loss(logits, target).item() == pytest.approx(0.49)
    ours = correctness_aware_loss(logits, target, prediction=torch.tensor([1]))
    assert ours.item() == pytest.approx(0.09)


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(4, 3).bfloat16()
    target = torch.randint(3, (4,))
    loss = correctness_aware_loss(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, correctness_aware_loss(logits.float(), target))


def test_the_module_is_the_function() -> None:
    logits, target = torch.randn(8, 3), torch.randint(3, (8,))
    for balance in (False, True):
        expected = correctness_aware_loss(logits, target, class_balance=balance)
        torch.testing.assert_close(CorrectnessAwareLoss(class_balance=balance)(logits, target), expected)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)), {}, "at least one sample"),
        ((torch.zeros(2, 3), torch.tensor([0, 3])), {}, r"classes in \[0, 3\), but got 3"),
    ],
)
def test_bad_input(arguments, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        correctness_aware_loss(*arguments, **options)


def test_the_module_refuses_sequences_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"Expected argument `target` to have shape \(2,\), but got \(2, 3\)"):
        CorrectnessAwareLoss()(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64))
