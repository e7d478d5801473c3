from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from tutelage.objectives import (
    InstanceRouter,
    load_balancing_loss,
    mutual_distillation_loss,
    routed_distillation_loss,
    top_k_routing,
)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def kd(prediction: Tensor, target: Tensor, temperature: float) -> Tensor:
    """The loss as the authors' code writes it."""
    log_prediction = F.log_softmax(prediction / temperature, dim=1)
    return F.kl_div(log_prediction, F.softmax(target / temperature, dim=1), reduction="batchmean") * temperature**2


# ---- Mutual distillation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detach", [False, True])
def test_mutual_loss_is_the_sum_over_networks_and_pairs(detach: bool) -> None:
    ours = [numbers(5, 4, seed=seed).requires_grad_() for seed in range(3)]
    theirs = [value.detach().clone().requires_grad_() for value in ours]
    target = torch.tensor([0, 1, 2, 3, 0])
    expected = torch.zeros((), dtype=torch.float64)
    for i, own in enumerate(theirs):
        expected = expected + F.cross_entropy(own, target)
        for j, other in enumerate(theirs):
            if i != j:
                expected = expected + kd(own, other.detach() if detach else other, 3.0)
    loss = mutual_distillation_loss(ours, target, temperature=3.0, detach_targets=detach)
    torch.testing.assert_close(loss, expected)
    for own, other in zip(torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(own, other)


def test_targets_learn_unless_they_are_detached() -> None:
    one, other = numbers(3, 4, seed=1).requires_grad_(), numbers(3, 4, seed=2).requires_grad_()
    target = torch.tensor([0, 1, 2])
    attached, detached = (
        torch.autograd.grad(mutual_distillation_loss([one, other], target, detach_targets=detach), one)[0]
        for detach in (False, True)
    )
    own = torch.autograd.grad(F.cross_entropy(one, target) + kd(one, other.detach(), 4.0), one)[0]
    torch.testing.assert_close(detached, own)
    assert (attached - own).abs().max() > 1e-3


def test_mutual_loss_of_equal_networks_is_the_cross_entropies() -> None:
    own, target = numbers(4, 3), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(mutual_distillation_loss([own, own, own], target), 3 * F.cross_entropy(own, target))


def test_mutual_loss_has_the_gradient_of_finite_differences() -> None:
    target = torch.tensor([0, 2])
    assert torch.autograd.gradcheck(
        lambda one, other: mutual_distillation_loss([one, other], target, temperature=2.0),
        (numbers(2, 3, seed=1).requires_grad_(), numbers(2, 3, seed=2).requires_grad_()),
    )


@pytest.mark.parametrize(
    ("logits", "options", "message"),
    [
        ([torch.zeros(2, 3)], {}, "to be at least 2, but got 1"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], {}, "same number of classes, but got 4 and 3"),
        ([torch.zeros(2, 3)] * 2, {"temperature": 0.0}, "`temperature` to be positive, but got 0.0"),
    ],
)
def test_mutual_loss_refuses(logits: list[Tensor], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mutual_distillation_loss(logits, torch.tensor([0, 1]), **options)


# ---- The router ------------------------------------------------------------------------------------------------------


def test_router_is_two_linear_layers_without_anything_between_them() -> None:
    router, logits = InstanceRouter(5, 3), torch.randn(7, 5)
    probabilities = router(logits)
    expected = F.softmax(router.choose(router.read(logits)), dim=1)
    torch.testing.assert_close(probabilities, expected)
    assert {name: tuple(value.shape) for name, value in router.named_parameters()} == {
        "read.weight": (10, 5), "read.bias": (10,), "choose.weight": (3, 10), "choose.bias": (3,),
    }  # fmt: skip
    halfway = (router(logits).log() + router(-logits).log()) / 2  # log-probabilities are affine up to a constant
    torch.testing.assert_close(F.softmax(halfway, dim=1), router(0 * logits))


def test_dense_router_reads_maps() -> None:
    router = InstanceRouter(4, 3, dense=True)
    probabilities = router(torch.randn(2, 4, 9, 5))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    assert [tuple(value.shape) for value in router.parameters()] == [
        (8, 4, 1, 1), (8,), (8, 1, 3, 3), (8,), (3, 8), (3,),
    ]  # fmt: skip


def test_most_probable_first() -> None:
    probabilities = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])
    assert top_k_routing(probabilities, 1).tolist() == [[1], [0]]
    assert top_k_routing(probabilities, 3).tolist() == [[1, 2, 0], [0, 2, 1]]


@pytest.mark.parametrize("k", [0, 4])
def test_more_teachers_than_there_are_or_none(k: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and the number of teachers, 3, but got {k}"):
        top_k_routing(torch.full((2, 3), 1 / 3), k)


# ---- Balance ---------------------------------------------------------------------------------------------------------


def test_balance_by_hand() -> None:
    probabilities = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)  # mean (0.75, 0.25)
    by_hand = (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2
    assert by_hand == pytest.approx(0.071921, abs=1e-6)
    assert load_balancing_loss(probabilities).item() == pytest.approx(by_hand)
    # sums 1.5 and 0.5: standard deviation sqrt(2) / 2, mean 1
    assert load_balancing_loss(probabilities, mode="cv").item() == pytest.approx(math.sqrt(0.5))


@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_balance_is_the_authors_and_zero_only_when_uniform(batch: int, teachers: int, seed: int) -> None:
    probabilities = numbers(batch, teachers, seed=seed).softmax(dim=1)
    mean = probabilities.mean(dim=0)
    uniform = torch.full_like(mean, 1 / teachers)
    kl = F.kl_div(mean.log(), uniform, reduction="batchmean")
    torch.testing.assert_close(load_balancing_loss(probabilities), kl)
    total = probabilities.sum(dim=0)
    torch.testing.assert_close(load_balancing_loss(probabilities, mode="cv"), total.std() / total.mean())
    for mode in ("kl", "cv"):
        spread = torch.stack([row.roll(shift) for row in probabilities for shift in range(teachers)])
        assert load_balancing_loss(spread, mode=mode).item() == pytest.approx(0, abs=1e-12)
        assert (load_balancing_loss(probabilities, mode=mode) > 1e-9) == ((mean - uniform).abs().max() > 1e-4)


def test_balance_grows_as_a_teacher_is_left_out_and_stays_finite() -> None:
    values = [load_balancing_loss(torch.tensor([[1 - rest, rest]])).item() for rest in (0.1, 1e-3, 1e-9, 0.0)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(-(math.log(torch.finfo(torch.float32).tiny) / 2 + math.log(2)) / 2)


def test_balance_of_a_single_teacher_and_of_half_precision() -> None:
    assert load_balancing_loss(torch.ones(3, 1)).item() == 0
    half = torch.tensor([[0.75, 0.25]], dtype=torch.bfloat16)
    assert load_balancing_loss(half).dtype == torch.float32
    with pytest.raises((ValueError, TypeCheckError)):  # in tests the annotation speaks first
        load_balancing_loss(half, mode="k")  # type: ignore[arg-type]


# ---- Routed distillation ---------------------------------------------------------------------------------------------


def test_routed_loss_is_the_sum_over_samples_and_their_teachers() -> None:
    student, teachers = numbers(6, 4, seed=1), numbers(6, 3, 4, seed=2)
    routing = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2], [1, 0], [2, 1]])
    weights = numbers(6, 2, seed=3).softmax(dim=1)
    slow, weighted = 0.0, 0.0
    for row in range(6):
        for place in range(2):
            value = kd(student[row : row + 1], teachers[row : row + 1, routing[row, place]], 4.0).item()
            slow += value / 2 / 6
            weighted += weights[row, place].item() * value / 6
    assert routed_distillation_loss(student, teachers, routing).item() == pytest.approx(slow)
    assert routed_distillation_loss(student, teachers, routing, weights=weights).item() == pytest.approx(weighted)


def test_dense_routed_loss_is_the_mean_over_positions() -> None:
    student, teachers = numbers(2, 3, 4, 5, seed=1), numbers(2, 2, 3, 4, 5, seed=2)
    routing = torch.tensor([[1], [0]])
    chosen = torch.stack([teachers[0, 1], teachers[1, 0]])
    torch.testing.assert_close(routed_distillation_loss(student, teachers, routing), kd(student, chosen, 4.0) / 20)


def test_student_gradient_has_its_closed_form_and_teachers_get_none() -> None:
    student, teachers = numbers(5, 4, seed=1).requires_grad_(), numbers(5, 2, 4, seed=2).requires_grad_()
    routing = torch.tensor([[0], [1], [1], [0], [1]])
    loss = routed_distillation_loss(student, teachers, routing, temperature=3.0)
    gradient, none = torch.autograd.grad(loss, [student, teachers], allow_unused=True)
    chosen = teachers.detach()[torch.arange(5), routing[:, 0]]
    expected = 3 * ((student / 3).softmax(dim=1) - (chosen / 3).softmax(dim=1)) / 5
    torch.testing.assert_close(gradient, expected.detach())
    assert none is None


def test_a_teacher_equal_to_the_student_contributes_nothing() -> None:
    student = numbers(3, 4).requires_grad_()
    teachers = torch.stack([student.detach(), numbers(3, 4, seed=2)], dim=1)
    loss = routed_distillation_loss(student, teachers, torch.zeros(3, 1, dtype=torch.int64))
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-15


def test_all_teachers_chosen_is_their_mean_whatever_the_router_says() -> None:
    student, teachers = numbers(4, 3, seed=1), numbers(4, 3, 3, seed=2)
    losses = [
        routed_distillation_loss(student, teachers, top_k_routing(numbers(4, 3, seed=seed).softmax(dim=1), 3))
        for seed in (3, 4)
    ]
    mean = torch.stack([kd(student, teachers[:, j], 4.0) for j in range(3)]).mean()
    torch.testing.assert_close(losses[0], mean)
    torch.testing.assert_close(losses[1], mean)


def test_only_weights_lead_to_the_router() -> None:
    router, student, teachers = InstanceRouter(4, 3).double(), numbers(5, 4, seed=1), numbers(5, 3, 4, seed=2)
    probabilities = router(student)
    routing = top_k_routing(probabilities, 2)
    assert not routed_distillation_loss(student, teachers, routing).requires_grad
    chosen = probabilities.gather(1, routing)
    loss = routed_distillation_loss(student, teachers, routing, weights=chosen / chosen.sum(dim=1, keepdim=True))
    assert max(value.abs().max() for value in torch.autograd.grad(loss, list(router.parameters()))) > 1e-4


def test_routed_loss_has_the_gradient_of_finite_differences() -> None:
    teachers, routing = numbers(2, 2, 3, seed=2), torch.tensor([[0, 1], [1, 0]])
    assert torch.autograd.gradcheck(
        lambda student, weights: routed_distillation_loss(student, teachers, routing, weights=weights),
        (numbers(2, 3, seed=1).requires_grad_(), numbers(2, 2, seed=3).softmax(dim=1).requires_grad_()),
    )


def test_large_logits_and_half_precision_stay_finite() -> None:
    student, teachers = torch.tensor([[1e4, -1e4]]), torch.tensor([[[-1e4, 1e4]]])
    loss = routed_distillation_loss(student.half(), teachers.half(), torch.tensor([[0]]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(16 * 2e4 / 4)


@pytest.mark.parametrize(
    ("teachers", "routing", "options", "message"),
    [
        (torch.zeros(2, 3, 5), torch.zeros(2, 1, dtype=torch.int64), {}, "same number of classes, but got 4 and 5"),
        (torch.zeros(2, 3, 4, 1), torch.zeros(2, 1, dtype=torch.int64), {}, r"to have shape \(2, 3, 4\), but got"),
        (torch.zeros(2, 3, 4), torch.full((2, 1), 3), {}, r"numbers in \[0, 3\), but got 3"),
        (torch.zeros(2, 3, 4), torch.full((2, 1), -1), {}, r"numbers in \[0, 3\), but got -1"),
        (torch.zeros(2, 3, 4), torch.zeros(2, 0, dtype=torch.int64), {}, "to be at least 1, but got 0"),
        (torch.zeros(2, 3, 4), torch.zeros(2, 1, dtype=torch.int64), {"temperature": -1.0}, "positive, but got -1.0"),
    ],
)
def test_routed_loss_refuses(teachers: Tensor, routing: Tensor, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        routed_distillation_loss(torch.zeros(2, 4), teachers, routing, **options)
