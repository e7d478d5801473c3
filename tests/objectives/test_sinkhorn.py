from __future__ import annotations

import math
from inspect import unwrap
from typing import Any

import hypothesis.strategies as st
import ot
import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import tutelage.objectives.sinkhorn_iteration as iteration
from tutelage.objectives import (
    SinkhornDistillation,
    sinkhorn_distance,
    sinkhorn_distillation,
    sinkhorn_plan,
    total_variation,
)

STUDENT = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64).log()
TEACHER = torch.tensor([[0.7, 0.3], [0.4, 0.6]], dtype=torch.float64).log()
# Products of numbers, or logarithms as for costs whose spread numbers can't hold.
BOTH_REPRESENTATIONS = pytest.mark.parametrize("widest_spread", [175.0, -1.0], ids=["numbers", "logarithms"])


def slow_plan(cost: Tensor, epsilon: float, n_iters: int, a: Tensor, b: Tensor) -> Tensor:
    """The definition: rows to their masses, columns to theirs, again and again; autograd unrolls it."""
    plan = (-cost / epsilon).exp()
    for _ in range(n_iters):
        plan = plan / plan.sum(dim=-1, keepdim=True) * a[..., None]
        plan = plan / plan.sum(dim=-2, keepdim=True) * b[..., None, :]
    return plan


def slow_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0, n_iters: int = 20) -> Tensor:
    x, y = (student / temperature).softmax(dim=1), (teacher / temperature).softmax(dim=1)
    cost = (x[:, None] - y).abs().sum(dim=-1)
    ones = torch.ones(len(x), dtype=x.dtype)
    return (slow_plan(cost, 0.1, n_iters, ones, ones) * cost).sum()


def random_problem(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cost = 2 * torch.rand(*shape, generator=generator, dtype=torch.float64)
    a = 0.1 + torch.rand(*shape[:-1], generator=generator, dtype=torch.float64)
    b = 0.1 + torch.rand(*shape[:-2], shape[-1], generator=generator, dtype=torch.float64)
    return cost, a, b * a.sum(dim=-1, keepdim=True) / b.sum(dim=-1, keepdim=True)


def random_logits(batch: int, classes: int, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = scale * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student, teacher


def test_known_answer_for_two_samples() -> None:
    plan = sinkhorn_plan(torch.tensor([[0.4, 1.0], [1.0, 0.4]], dtype=torch.float64))
    stays = 1 / (1 + math.exp(-6))
    torch.testing.assert_close(plan, torch.tensor([[stays, 1 - stays], [1 - stays, stays]], dtype=torch.float64))
    loss = sinkhorn_distillation(STUDENT, TEACHER, temperature=1.0)
    assert loss.item() == pytest.approx(0.8 + 1.2 / (1 + math.exp(6)), abs=1e-12)
    assert sinkhorn_distillation(STUDENT, TEACHER, temperature=1.0, reduction="mean").item() == pytest.approx(loss / 2)


@pytest.mark.parametrize("epsilon", [0.001, 0.1, 10.0])
@pytest.mark.parametrize("n_iters", [1, 20])
def test_one_sample_is_the_distance_of_its_predictions(epsilon: float, n_iters: int) -> None:
    student, teacher = STUDENT[:1].clone().requires_grad_(), TEACHER[:1]
    loss = sinkhorn_distillation(student, teacher, temperature=1.0, epsilon=epsilon, n_iters=n_iters)
    by_rows = 2 * total_variation(student, teacher).sum()
    assert loss.item() == pytest.approx(0.4)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(by_rows, student))


@BOTH_REPRESENTATIONS
@settings(max_examples=15, deadline=None)
@given(
    shape=st.sampled_from([(1, 1), (4, 4), (3, 5), (2, 4, 3), (2, 1, 3, 3)]),
    epsilon=st.sampled_from([0.05, 0.3]),
    n_iters=st.sampled_from([1, 2, 9]),
    seed=st.integers(0, 1000),
)
def test_plan_and_gradients_are_those_of_the_unrolled_definition(
    widest_spread: float, shape: tuple[int, ...], epsilon: float, n_iters: int, seed: int
) -> None:
    inputs = tuple(value.requires_grad_() for value in random_problem(*shape, seed=seed))
    cost, a, b = inputs
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(iteration._WIDEST_SPREAD, torch.float64, widest_spread)
        plan = sinkhorn_plan(cost, epsilon=epsilon, n_iters=n_iters, a=a, b=b)
        gradients = torch.autograd.grad(plan, inputs, weights)
    expected = slow_plan(cost, epsilon, n_iters, a, b)
    torch.testing.assert_close(plan, expected, rtol=1e-10, atol=1e-12)
    of_inputs = torch.autograd.grad(expected, inputs, weights)
    torch.testing.assert_close(gradients, of_inputs, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(plan.sum(dim=-2), b.detach(), rtol=1e-12, atol=1e-12)
    assert (plan >= 0).all()


@BOTH_REPRESENTATIONS
def test_gradients_match_finite_differences(monkeypatch: pytest.MonkeyPatch, widest_spread: float) -> None:
    monkeypatch.setitem(iteration._WIDEST_SPREAD, torch.float64, widest_spread)
    cost = random_problem(3, 4)[0].requires_grad_()
    masses = [value.requires_grad_() for value in random_problem(3, 4)[1:]]

    def plan(cost: Tensor, scale: Tensor) -> Tensor:
        return sinkhorn_plan(cost, epsilon=0.5, n_iters=4, a=masses[0] * scale, b=masses[1] * scale)

    inputs = (cost, torch.tensor(1.3, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(plan, inputs)
    assert torch.autograd.gradgradcheck(plan, inputs)


def test_rows_approach_their_masses() -> None:
    cost, a, b = random_problem(6, 4)
    errors = [
        (sinkhorn_plan(cost, n_iters=n_iters, a=a, b=b).sum(dim=1) - a).abs().sum() for n_iters in (1, 10, 100, 3000)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-9
    assert sinkhorn_plan(random_problem(5, 5)[0]).sum().item() == pytest.approx(5)


@pytest.mark.parametrize("epsilon", [0.1, 0.05])
def test_agrees_with_pot(epsilon: float) -> None:
    cost = random_problem(7, 7)[0]
    masses = torch.full((7,), 1 / 7, dtype=torch.float64)
    expected = ot.sinkhorn(masses, masses, cost, epsilon, method="sinkhorn_log", numItermax=20000, stopThr=1e-13)
    torch.testing.assert_close(sinkhorn_plan(cost, epsilon=epsilon, n_iters=5000) / 7, expected, rtol=1e-7, atol=1e-10)
    cost, a, b = random_problem(4, 6)
    expected = ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", numItermax=20000, stopThr=1e-13)
    plan = sinkhorn_plan(cost, epsilon=epsilon, n_iters=5000, a=a, b=b)
    torch.testing.assert_close(plan, expected, rtol=1e-7, atol=1e-10)


def test_gradient_through_the_plan_agrees_with_pot() -> None:
    cost, a, b = random_problem(4, 6)
    cost.requires_grad_()
    theirs = (ot.sinkhorn(a, b, cost, 0.1, numItermax=20, stopThr=0, warn=False) * cost).sum()
    ours = (sinkhorn_plan(cost, a=a, b=b) * cost).sum()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-2)  # theirs ends with the other marginal
    converged: dict[str, Any] = {"n_iters": 2000, "a": a, "b": b}
    theirs = (ot.sinkhorn(a, b, cost, 0.1, numItermax=2000, stopThr=0, warn=False) * cost).sum()
    ours = (sinkhorn_plan(cost, **converged) * cost).sum()
    torch.testing.assert_close(torch.autograd.grad(ours, cost), torch.autograd.grad(theirs, cost), rtol=1e-6, atol=1e-8)


def test_small_epsilon_gives_the_assignment_and_large_epsilon_the_mean() -> None:
    cost = random_problem(6, 6)[0]
    rows, columns = linear_sum_assignment(cost.numpy())
    plan = sinkhorn_plan(cost, epsilon=1e-3, n_iters=5000)
    assert (plan * cost).sum().item() == pytest.approx(float(cost[rows, columns].sum()), abs=1e-2)
    assert (sinkhorn_plan(cost, epsilon=1e6) * cost).sum().item() == pytest.approx(6 * cost.mean().item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_small_epsilon_stays_finite_and_exact_where_plain_scaling_does_not(dtype: torch.dtype) -> None:
    cost = random_problem(8, 8)[0].to(dtype)
    cost[0] = 0  # a row whose mass is contested
    cost.requires_grad_()
    for epsilon in (0.04, 0.001):  # float32 goes on in float64, then with logarithms
        plan = sinkhorn_plan(cost, epsilon=epsilon)
        (gradient,) = torch.autograd.grad((plan * cost).sum(), cost)
        wide = cost.detach().double()
        assert plan.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert gradient.dtype == dtype
        assert torch.isfinite(gradient).all()
        torch.testing.assert_close(plan.double(), sinkhorn_plan(wide, epsilon=epsilon), rtol=2e-3, atol=2e-6)
        torch.testing.assert_close(plan.sum(dim=0), torch.ones_like(plan[0]))
    plain = sinkhorn_plan(2 * torch.ones(2, 2) - torch.eye(2), epsilon=0.001, log_domain=False)
    assert torch.isfinite(plain).all()  # the shift of each row is free
    contested = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    assert not torch.isfinite(sinkhorn_plan(contested, epsilon=0.001, log_domain=False)).all()


def test_plain_and_log_domain_agree() -> None:
    cost, a, b = random_problem(6, 4)
    for n_iters in (1, 50):
        options: dict[str, Any] = {"n_iters": n_iters, "a": a, "b": b}
        plain = sinkhorn_plan(cost, log_domain=False, **options)
        torch.testing.assert_close(sinkhorn_plan(cost, **options), plain, rtol=0, atol=1e-12)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(iteration._WIDEST_SPREAD, torch.float64, -1.0)
            torch.testing.assert_close(sinkhorn_plan(cost, **options), plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("epsilon", [0.1, 0.001])
def test_rows_and_columns_without_mass_take_no_part(epsilon: float) -> None:
    small, a, b = random_problem(3, 4)
    large = torch.zeros(5, 6, dtype=torch.float64)  # what fills up is cheap, and must still get nothing
    large[:3, :4] = small
    batch = torch.stack([large, random_problem(5, 6, seed=1)[0]]).requires_grad_()
    masses = [
        torch.stack([torch.nn.functional.pad(value, (0, 2)), other])
        for value, other in zip((a, b), random_problem(5, 6, seed=1)[1:], strict=True)
    ]
    plan = sinkhorn_plan(batch, epsilon=epsilon, a=masses[0], b=masses[1])
    (gradient,) = torch.autograd.grad((plan * batch).sum(), batch)
    alone = small.clone().requires_grad_()
    alone_plan = sinkhorn_plan(alone, epsilon=epsilon, a=a, b=b)
    (alone_gradient,) = torch.autograd.grad((alone_plan * alone).sum(), alone)
    torch.testing.assert_close(plan[0, :3, :4], alone_plan, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(gradient[0, :3, :4], alone_gradient, rtol=1e-9, atol=1e-12)
    assert not plan[0, 3:].any()
    assert not plan[0, :, 4:].any()
    assert not gradient[0, 3:].any()
    assert not gradient[0, :, 4:].any()


@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 8), classes=st.integers(2, 6), seed=st.integers(0, 1000))
def test_loss_agrees_with_the_definition_and_sees_no_order(batch: int, classes: int, seed: int) -> None:
    student, teacher = random_logits(batch, classes, seed)
    student.requires_grad_()
    loss = sinkhorn_distillation(student, teacher)
    expected = slow_loss(student, teacher)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, student)[0], rtol=1e-8, atol=1e-10)
    assert 0 <= loss <= 2 * batch
    generator = torch.Generator().manual_seed(seed)
    of_student, of_teacher = (torch.randperm(batch, generator=generator) for _ in range(2))
    of_classes = torch.randperm(classes, generator=generator)
    shuffled = sinkhorn_distillation(student[of_student][:, of_classes], teacher[of_teacher][:, of_classes])
    torch.testing.assert_close(shuffled, loss)
    torch.testing.assert_close(sinkhorn_distillation(student + 5, teacher - 7), loss)


def test_permuted_teacher_rows_cost_almost_nothing() -> None:
    student, _ = random_logits(6, 4)
    losses = [
        sinkhorn_distillation(student, student.roll(1, 0), epsilon=epsilon, n_iters=500).item()
        for epsilon in (0.1, 0.01, 0.001)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 1e-3
    assert losses[-1] < 1e-6


def test_without_plan_gradient_it_is_that_of_the_entropic_optimum() -> None:
    epsilon = 0.3
    options: dict[str, Any] = {"epsilon": epsilon, "n_iters": 3000}
    student, teacher = random_logits(4, 3)
    x, y = student.softmax(dim=1).requires_grad_(), teacher.softmax(dim=1)
    (given,) = torch.autograd.grad(sinkhorn_distance(x, y, plan_gradient=False, **options), x)
    cost = (x[:, None] - y).abs().sum(dim=-1)
    plan = slow_plan(cost, epsilon, 3000, torch.ones(4).double(), torch.ones(4).double())
    (envelope,) = torch.autograd.grad((plan * cost + epsilon * plan * (plan.log() - 1)).sum(), x)
    torch.testing.assert_close(given, envelope, rtol=1e-6, atol=1e-8)
    (unrolled,) = torch.autograd.grad(sinkhorn_distance(x, y, **options), x)
    assert (unrolled - given).abs().max() > 1e-3
    values = [sinkhorn_distance(x, y, plan_gradient=choice, **options) for choice in (True, False)]
    torch.testing.assert_close(values[0], values[1])


@pytest.mark.parametrize("metric", ["l1", "l2", "sqeuclidean", "callable"])
def test_metrics_and_their_gradients(metric: str) -> None:
    x, y = torch.randn(3, 2).double() + 50, torch.randn(4, 2).double() + 50
    x.requires_grad_()
    y.requires_grad_()
    a, b = torch.full((3,), 4.0), torch.full((4,), 3.0)
    difference = x[:, None] - y
    costs = {
        "l1": difference.abs().sum(dim=-1),
        "l2": difference.square().sum(dim=-1).sqrt(),
        "sqeuclidean": difference.square().sum(dim=-1),
        "callable": difference.prod(dim=-1).cos(),
    }
    given: Any = (lambda x, y: (x[:, None] - y).prod(dim=-1).cos()) if metric == "callable" else metric
    value = sinkhorn_distance(x, y, metric=given, epsilon=1.0, a=a, b=b)
    plan = slow_plan(costs[metric], 1.0, 20, a.double(), b.double())
    expected = (plan * costs[metric]).sum()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, (x, y)), torch.autograd.grad(expected, (x, y)))


def test_masked_sequences_are_their_kept_rows() -> None:
    student, teacher = random_logits(6, 4)
    mask = torch.tensor([[True, True, False], [False, True, True]])
    kept = mask.flatten()
    rows = sinkhorn_distillation(student[kept], teacher[kept])
    sequences = [value.reshape(2, 3, 4) for value in (student, teacher)]
    torch.testing.assert_close(sinkhorn_distillation(*sequences, mask=mask), rows)
    torch.testing.assert_close(sinkhorn_distillation(*sequences, mask=mask.long()), rows)
    torch.testing.assert_close(sinkhorn_distillation(student, teacher, mask=kept), rows)
    target = torch.where(mask, 1, -100)
    torch.testing.assert_close(SinkhornDistillation()(*sequences, target), rows)


def test_module_draws_at_most_max_rows() -> None:
    student, teacher = random_logits(40, 4)
    loss = SinkhornDistillation(max_rows=1, reduction="sum")(student, teacher)
    by_rows = 2 * total_variation(student, teacher, temperature=2.0)
    assert (by_rows - loss).abs().min() < 1e-12
    torch.testing.assert_close(
        SinkhornDistillation(max_rows=40)(student, teacher), sinkhorn_distillation(student, teacher)
    )
    drawn = {SinkhornDistillation(max_rows=3)(student, teacher).item() for _ in range(5)}
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 4)), {}, "same number of classes, but got 3 and 4"),
        ((torch.zeros(2, 3), torch.zeros(3, 3)), {}, "same shape"),
        ((torch.zeros(2, 2, 3), torch.zeros(2, 2, 3)), {}, r"shape \[batch, classes\].*\(2, 2, 3\)"),
        ((torch.zeros(0, 3), torch.zeros(0, 3)), {}, "at least 1, but got 0"),
        ((STUDENT, TEACHER), {"mask": torch.zeros(2, dtype=torch.bool)}, "at least 1, but got 0"),
        ((STUDENT, TEACHER), {"mask": torch.ones(3, dtype=torch.bool)}, "same shape"),
        ((STUDENT, TEACHER), {"temperature": 0.0}, "`temperature` to be positive, but got 0.0"),
        ((STUDENT, TEACHER), {"epsilon": -1.0}, "`epsilon` to be positive, but got -1.0"),
        ((STUDENT, TEACHER), {"n_iters": 0}, "`n_iters` to be at least 1, but got 0"),
        ((STUDENT, TEACHER), {"reduction": "none"}, "`reduction` to be one of 'sum', 'mean'"),
    ],
)
def test_bad_input_of_the_loss(arguments: tuple[Tensor, Tensor], options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        unwrap(sinkhorn_distillation)(*arguments, **options)


@pytest.mark.parametrize(
    ("cost", "options", "match"),
    [
        (torch.zeros(2, 3), {}, "`a` and `b` to be given for a cost of 2 × 3"),
        (torch.zeros(2, 3), {"a": torch.ones(2)}, "`a` and `b` to be given"),
        (torch.zeros(2, 3), {"a": torch.ones(3), "b": torch.ones(3)}, r"`a` to have shape \(2,\), but got \(3,\)"),
        (torch.zeros(2, 2), {"a": torch.ones(2), "b": 2 * torch.ones(2)}, "same sum, but got 2 and 4"),
        (torch.zeros(2, 2), {"a": torch.tensor([2.0, 0.0]), "b": torch.tensor([3.0, -1.0])}, "`b` to hold masses"),
        (torch.zeros(2, 2), {"a": torch.zeros(2), "b": torch.zeros(2)}, "`a` to hold masses"),
        (torch.zeros(2, 2), {"a": torch.tensor([float("nan"), 1.0])}, "`a` to hold masses"),
        (torch.zeros(0, 0), {}, "at least 1, but got 0"),
    ],
)
def test_bad_input_of_the_plan(cost: Tensor, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sinkhorn_plan(cost, **options)


def test_bad_input_of_the_distance() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"did you mean 'l1'|one of 'l1', 'l2', 'sqeuclidean'"):
        unwrap(sinkhorn_distance)(x, x, metric="l3")
    with pytest.raises(ValueError, match="as many columns, but got 3 and 4"):
        unwrap(sinkhorn_distance)(x, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"cost of shape \(2, 2\), but got \(2, 3\)"):
        sinkhorn_distance(x, x, metric=lambda x, y: x)


def test_numbers_stay_exact_up_to_the_widest_spread() -> None:
    """Two rows that want one column, and one that nobody wants: the scalings are as extreme as the spread allows."""
    spread = iteration._WIDEST_SPREAD[torch.float32]
    cost = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 0.5], [0.0, 1.0, 1.0]])
    for n_iters in (1, 50):
        found = []
        for dtype in (torch.float32, torch.float64):
            leaf = cost.to(dtype).requires_grad_()
            plan = sinkhorn_plan(leaf, epsilon=1 / spread, n_iters=n_iters)
            found.append((plan.double(), torch.autograd.grad((plan * leaf).sum(), leaf)[0].double()))
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
