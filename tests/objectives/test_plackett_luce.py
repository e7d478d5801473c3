from __future__ import annotations

import itertools
import math
from inspect import unwrap

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

import tutelage.objectives.plackett_luce as module
from tutelage.objectives import (
    PlackettLuceDistillation,
    list_wise_retrieval_distillation,
    listmle,
    plackett_luce_distillation,
    plackett_luce_log_likelihood,
    teacher_optimal_permutation,
)

STUDENT = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)


def slow_reference(student: Tensor, teacher: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """The definition, one rank after the other."""
    losses = []
    for s, t, y in zip(student, teacher, target.tolist(), strict=True):
        others = sorted((c for c in range(len(t)) if c != y), key=lambda c, t=t: -float(t[c]))
        ranking = [y, *others]
        alpha = (t / temperature).softmax(0)
        losses.append(
            sum(alpha[c] * (s[ranking[rank:]].logsumexp(0) - s[c]) for rank, c in enumerate(ranking))  # type: ignore[misc]
        )
    return torch.stack(losses)


def random_case(batch: int, classes: int, scale: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = scale * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(classes, (batch,), generator=generator)


@pytest.mark.parametrize(
    ("target", "loss", "gradient"),
    [(0, 0.347820, [-0.2227, 0.0970, 0.1257]), (2, 0.425153, [-0.1190, 0.2009, -0.0819])],
)
def test_known_answers(target: int, loss: float, gradient: list[float]) -> None:
    student = STUDENT.clone().requires_grad_()
    value = plackett_luce_distillation(student, TEACHER, torch.tensor([target]))
    value.backward()
    assert value.item() == pytest.approx(loss, abs=1e-6)
    assert student.grad is not None
    torch.testing.assert_close(student.grad[0], torch.tensor(gradient).double(), atol=5e-5, rtol=0)


def test_the_order_has_the_label_first_then_the_teachers_order() -> None:
    teacher = torch.tensor([[3.0, 2.0, 1.0, 2.0], [-0.0, 0.0, -1.0, 5.0]])
    assert teacher_optimal_permutation(teacher, torch.tensor([2, 0])).tolist() == [[2, 0, 1, 3], [0, 3, 1, 2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_order_is_that_of_a_stable_sort(dtype: torch.dtype) -> None:
    teacher = torch.cat([torch.randn(40, 30) * 1e3, torch.randint(-2, 3, (40, 30)) * torch.ones(1)]).to(dtype)
    teacher[::7] *= -0.0  # zeros of both signs
    target = torch.randint(30, (80,))
    expected = torch.argsort(teacher.scatter(1, target[:, None], torch.inf), dim=1, descending=True, stable=True)
    assert torch.equal(teacher_optimal_permutation(teacher, target), expected)


def test_log_likelihoods_of_all_rankings_are_a_distribution() -> None:
    scores = torch.randn(1, 4, dtype=torch.float64)
    rankings = torch.tensor(list(itertools.permutations(range(4))))
    log_likelihood = plackett_luce_log_likelihood(scores.expand(len(rankings), -1), rankings)
    assert log_likelihood.exp().sum().item() == pytest.approx(1.0)
    per_rank = plackett_luce_log_likelihood(scores.expand(len(rankings), -1), rankings, per_rank=True)
    torch.testing.assert_close(per_rank.sum(dim=1), log_likelihood)
    assert not per_rank[:, -1].any()


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 5),
    classes=st.integers(2, 9),
    temperature=st.sampled_from([0.3, 1.0, 4.0]),
    scale=st.sampled_from([1.0, 30.0]),  # the wider one takes the log domain
    seed=st.integers(0, 1000),
)
def test_agrees_with_the_definition(batch: int, classes: int, temperature: float, scale: float, seed: int) -> None:
    student, teacher, target = random_case(batch, classes, scale, seed)
    student.requires_grad_()
    values = plackett_luce_distillation(student, teacher, target, temperature=temperature, reduction="none")
    expected = slow_reference(student, teacher, target, temperature)
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), student)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient.sum(dim=1), torch.zeros(batch).double(), rtol=0, atol=1e-10)
    assert (values >= -1e-12).all()


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    student, teacher, target = random_case(7, 5, scale)
    whole = plackett_luce_distillation(student, teacher, target, reduction="none")
    monkeypatch.setattr(module, "_BLOCK", 10)
    torch.testing.assert_close(plackett_luce_distillation(student, teacher, target, reduction="none"), whole)


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_gradients_of_both_orders_match_finite_differences(scale: float) -> None:
    student, teacher, target = random_case(3, 4, scale)
    student.requires_grad_()
    arguments = (lambda s: plackett_luce_distillation(s, teacher, target, reduction="none"), student)
    assert torch.autograd.gradcheck(*arguments)
    assert torch.autograd.gradgradcheck(*arguments)


def test_two_classes_are_a_weighted_cross_entropy() -> None:
    student, teacher, target = random_case(8, 2)
    weight = (teacher / 2).softmax(1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(
        plackett_luce_distillation(student, teacher, target, temperature=2.0, reduction="none"),
        weight * F.cross_entropy(student, target, reduction="none"),
    )


def test_a_cold_teacher_that_is_right_gives_cross_entropy() -> None:
    student, teacher, _ = random_case(6, 5)
    target = teacher.argmax(1)
    torch.testing.assert_close(
        plackett_luce_distillation(student, teacher, target, temperature=1e-3), F.cross_entropy(student, target)
    )


def test_a_cold_teacher_that_is_wrong_takes_the_labels_weight() -> None:
    student, teacher, _ = random_case(6, 5)
    target = teacher.argmin(1)
    first = teacher.argmax(1)
    without_label = student.scatter(1, target[:, None], -math.inf)
    torch.testing.assert_close(
        plackett_luce_distillation(student, teacher, target, temperature=1e-3), F.cross_entropy(without_label, first)
    )


def test_a_hot_teacher_gives_listmle_over_the_number_of_classes() -> None:
    student, teacher, target = random_case(6, 5)
    expected = listmle(student, teacher_optimal_permutation(teacher, target)) / 5
    torch.testing.assert_close(plackett_luce_distillation(student, teacher, target, temperature=1e8), expected)
    torch.testing.assert_close(plackett_luce_distillation(student, teacher, target, weights="uniform"), expected)
    expected = listmle(student, teacher_optimal_permutation(teacher, target), weights="position")
    torch.testing.assert_close(plackett_luce_distillation(student, teacher, target, weights="position"), expected)


def test_it_is_convex() -> None:
    first, teacher, target = random_case(50, 6)
    second, _, _ = random_case(50, 6, seed=1)

    def loss(student: Tensor) -> Tensor:
        return plackett_luce_distillation(student, teacher, target, reduction="none")

    assert (loss((first + second) / 2) <= (loss(first) + loss(second)) / 2 + 1e-12).all()


def test_following_the_order_with_growing_gaps_brings_it_to_zero() -> None:
    _, teacher, target = random_case(5, 6)
    ranks = teacher_optimal_permutation(teacher, target).argsort(1).double()
    losses = [plackett_luce_distillation(-gap * ranks, teacher, target).item() for gap in (0, 1, 5, 50)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-20


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_wide_scores_stay_exact_in_float32(scale: float) -> None:
    student, teacher, target = random_case(20, 50, scale)
    exact = plackett_luce_distillation(student, teacher, target, reduction="none")
    single = plackett_luce_distillation(student.float(), teacher.float(), target, reduction="none")
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-3)


def test_float32_is_exact_up_to_the_widest_spread_of_the_fast_path() -> None:
    student, teacher, target = random_case(20, 300, 1.0)
    student = student / (student.amax(1, keepdim=True) - student.amin(1, keepdim=True)) * 59
    results = []
    for dtype in (torch.float32, torch.float64):
        scores = student.to(dtype).requires_grad_()
        loss = plackett_luce_distillation(scores, teacher.to(dtype), target)
        results.append((loss.double(), torch.autograd.grad(loss, scores)[0].double()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)


def test_ignored_positions_of_sequences() -> None:
    student, teacher, target = random_case(6, 5)
    target[[1, 4]] = -100
    kept = target != -100
    shaped = (student.reshape(2, 3, 5), teacher.reshape(2, 3, 5), target.reshape(2, 3))
    expected = plackett_luce_distillation(student[kept], teacher[kept], target[kept], reduction="none")
    values = plackett_luce_distillation(*shaped, reduction="none")
    assert values.shape == (2, 3)
    torch.testing.assert_close(values.flatten()[kept], expected)
    assert not values.flatten()[~kept].any()
    torch.testing.assert_close(plackett_luce_distillation(*shaped), expected.mean())
    torch.testing.assert_close(plackett_luce_distillation(*shaped, reduction="sum"), expected.sum())


def test_lists_of_documents() -> None:
    student, teacher, _ = random_case(4, 6)
    zeros = torch.zeros(4, dtype=torch.int64)
    expected = plackett_luce_distillation(student, teacher, zeros)
    torch.testing.assert_close(list_wise_retrieval_distillation(student, teacher), expected)
    positives = torch.tensor([0, 1, 2, 3])
    torch.testing.assert_close(
        list_wise_retrieval_distillation(student, teacher, positives, temperature=2.0),
        plackett_luce_distillation(student, teacher, positives, temperature=2.0),
    )


def test_no_graph_is_kept_without_gradients() -> None:
    student, teacher, target = random_case(4, 6)
    assert not plackett_luce_distillation(student, teacher, target).requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_logits": TEACHER[:, :2]}, "same number of classes, but got 3 and 2"),
        ({"student_logits": STUDENT[:, :1], "teacher_logits": TEACHER[:, :1]}, "at least 2, but got 1"),
        ({"target": torch.tensor([3])}, r"classes in \[0, 3\) or be -100, but got 3"),
        ({"target": torch.tensor([-1])}, "but got -1"),
        ({"target": torch.tensor([0.0])}, "integer classes"),
        ({"target": torch.tensor([0, 1])}, r"shape \(1,\), but got \(2,\)"),
        ({"temperature": 0.0}, "`temperature` to be positive, but got 0.0"),
        ({"weights": "teecher"}, "did you mean 'teacher'"),
        ({"reduction": "avg"}, "`reduction` to be one of 'mean', 'sum', 'none'"),
        ({"teacher_logits": torch.tensor([[1.0, math.inf, 0.0]])}, "`teacher_logits` to be finite"),
        ({"teacher_logits": torch.tensor([[1.0, math.nan, 0.0]])}, "`teacher_logits` to be finite"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    arguments = {"student_logits": STUDENT, "teacher_logits": TEACHER, "target": torch.tensor([0]), **change}
    with pytest.raises(ValueError, match=message):
        unwrap(plackett_luce_distillation)(**arguments)  # as outside tests, where annotations are not checked


def test_the_module_has_the_functions_options() -> None:
    student, teacher, target = random_case(4, 6)
    target[0] = 5
    objective = PlackettLuceDistillation(temperature=3.0, weights="position", ignore_index=5)
    torch.testing.assert_close(
        objective(student, teacher, target),
        plackett_luce_distillation(student, teacher, target, temperature=3.0, weights="position", ignore_index=5),
    )
    with pytest.raises(ValueError, match="temperature"):
        PlackettLuceDistillation(temperature=-1.0)
