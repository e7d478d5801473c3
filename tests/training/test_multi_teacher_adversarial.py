from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.objectives import multi_teacher_adversarial_distillation, predictive_entropy
from tutelage.objectives.schedules import Progress
from tutelage.training import (
    AdversarialDistillation,
    EntropyBalance,
    MultiTeacherAdversarialDistillation,
    NormalizedLossBalance,
)

SOFT = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))


def slow_loss(
    student: list[Tensor], teachers: list[Tensor], weights: tuple[float, float], temperatures: tuple[float, float]
) -> float:
    total = 0.0
    for i in range(2):
        rows = zip(student[i], teachers[i], strict=True)
        for said, told in rows:
            target, found = (told / temperatures[i]).softmax(0).tolist(), said.softmax(0).tolist()
            divergence = sum(p * math.log(p / q) for p, q in zip(target, found, strict=True))
            total += weights[i] * divergence / len(student[i])
    return total


def test_agrees_with_the_definition_and_its_gradient() -> None:
    student = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    teachers = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weights, temperatures = (0.3, 0.7), (2.0, 1.5)
    loss = multi_teacher_adversarial_distillation(*student, *teachers, weights=weights, temperatures=temperatures)
    expected = slow_loss([s.detach() for s in student], [t.detach() for t in teachers], weights, temperatures)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    for i in range(2):
        target = (teachers[i].detach() / temperatures[i]).softmax(1)
        gradient = weights[i] * (student[i].detach().softmax(1) - target) / 4
        torch.testing.assert_close(student[i].grad, gradient)
        assert teachers[i].grad is None
    fixed = [t.detach() for t in teachers]
    assert torch.autograd.gradcheck(
        lambda a, b: multi_teacher_adversarial_distillation(a, b, *fixed, weights=weights, eps=1e-5), student
    )


def test_is_zero_with_zero_gradient_where_student_and_teachers_agree() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    loss = multi_teacher_adversarial_distillation(logits, logits, logits, logits, weights=(0.5, 0.5))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-7


def test_reductions() -> None:
    logits = torch.randn(4, 4, 3)
    whole, rows, elements = (
        multi_teacher_adversarial_distillation(*logits, weights=(0.4, 0.6), reduction=how)
        for how in ("mean", "none", "elementwise_mean")
    )
    assert rows.shape == (4,)
    torch.testing.assert_close(rows.mean(), whole)
    torch.testing.assert_close(elements * 3, whole)


def test_a_surer_teacher_is_softened_until_entropies_agree_and_then_cycles_within_one_step() -> None:
    balance = EntropyBalance(rate=0.1)
    clean, robust = 1.55 * SOFT, SOFT
    before = [1.0]
    for _ in range(5):
        temperatures = balance.update([clean, robust])
        assert temperatures == pytest.approx((before[-1] + 0.1, 1.0))
        before.append(temperatures[0])
    later = [balance.update([clean, robust]) for _ in range(12)]
    assert {round(robust_temperature, 6) for _, robust_temperature in later} <= {1.0, 1.1}
    assert max(t for t, _ in later) - min(t for t, _ in later) < 0.1001 + 1e-9 + 0.1
    entropies = [
        predictive_entropy(logits, temperature=temperature, reduction="mean").item()
        for logits, temperature in zip((clean, robust), later[-1], strict=True)
    ]
    assert entropies[0] == pytest.approx(entropies[1], rel=0.1)


def test_equal_teachers_do_not_move_and_bounds_hold() -> None:
    balance = EntropyBalance(rate=0.3)
    assert balance.update([SOFT, SOFT]) == (1.0, 1.0)
    for _ in range(50):
        balance.update([100 * SOFT, torch.zeros_like(SOFT)])
    assert balance.temperatures == (10.0, 1.0)
    assert all(math.isfinite(value) for value in balance.entropies)


def test_three_teachers_are_held_against_the_mean_of_the_others() -> None:
    balance = EntropyBalance(3, rate=0.1)
    assert balance.update([5 * SOFT, SOFT, SOFT]) == pytest.approx((1.1, 1.0, 1.0))


def test_weights_follow_relative_losses() -> None:
    balance = NormalizedLossBalance(rate=0.1)
    assert balance.update([2.0, 2.0]) == (0.5, 0.5)
    assert balance.update([1.0, 2.0]) == pytest.approx((0.5 + 0.1 * (1 / 3 - 0.5), 0.5 + 0.1 * (2 / 3 - 0.5)))
    scaled = NormalizedLossBalance(rate=0.1)
    scaled.update([200.0, 2.0])
    assert scaled.update([100.0, 2.0]) == pytest.approx(balance.weights)


def test_weights_come_back_to_equal_geometrically() -> None:
    balance = NormalizedLossBalance(rate=0.25)
    balance.update([1.0, 1.0])
    balance.update([0.2, 1.0])
    gap = balance.weights[1] - 0.5
    for step in range(1, 6):
        balance.update([0.7, 0.7])
        assert balance.weights[1] - 0.5 == pytest.approx(gap * 0.75**step)


def test_balances_go_through_a_state_dict() -> None:
    lesson = MultiTeacherAdversarialDistillation(temperature_rate=0.1, weight_rate=0.2)
    for _ in range(3):
        lesson(torch.randn(8, 5), torch.randn(8, 5), 3 * SOFT[:8], SOFT[:8])
    other = MultiTeacherAdversarialDistillation(temperature_rate=0.1, weight_rate=0.2)
    other.load_state_dict(lesson.state_dict())
    assert other.entropy_balance.temperatures == lesson.entropy_balance.temperatures != (1.0, 1.0)
    inputs = torch.randn(8, 5), torch.randn(8, 5), 3 * SOFT[:8], SOFT[:8]
    assert torch.equal(other(*inputs), lesson(*inputs))
    assert other.loss_balance.weights == lesson.loss_balance.weights


def test_a_step_uses_old_temperatures_and_new_weights_and_evaluation_moves_nothing() -> None:
    lesson = MultiTeacherAdversarialDistillation(temperature_rate=0.5, weight_rate=0.5)
    student, teachers = torch.randn(2, 8, 5), (3 * SOFT[:8], SOFT[:8])
    lesson(*student, *teachers)
    temperatures = lesson.entropy_balance.temperatures
    assert temperatures == (1.5, 1.0)
    found = lesson(*(2 * student), *teachers)
    expected = multi_teacher_adversarial_distillation(
        *(2 * student),
        *teachers,
        weights=lesson.loss_balance.weights,
        temperatures=temperatures,  # type: ignore[arg-type]
    )
    torch.testing.assert_close(found, expected)
    lesson.eval()
    state = lesson.state()
    lesson(*student, *teachers)
    assert lesson.state() == state
    assert state["temperature/clean"] == 2.0


def test_milestones_lower_both_rates() -> None:
    lesson = MultiTeacherAdversarialDistillation(temperature_rate=0.1, weight_rate=0.2, milestones=(2, 4))
    for epoch, factor in ((0, 1), (2, 0.1), (5, 0.01)):
        lesson.advance(Progress(step=epoch * 10, total_steps=60, steps_per_epoch=10))
        assert lesson.entropy_balance.rate == pytest.approx(0.1 * factor)
        assert lesson.loss_balance.rate == pytest.approx(0.2 * factor)


def test_ablations_leave_temperatures_or_weights_alone() -> None:
    lesson = MultiTeacherAdversarialDistillation(balance_entropy=False, balance_losses=False, temperature_rate=1.0)
    for scale in (1.0, 2.0):
        lesson(scale * torch.randn(8, 5), torch.randn(8, 5), 3 * SOFT[:8], SOFT[:8])
    assert lesson.entropy_balance.temperatures == (1.0, 1.0)
    assert lesson.loss_balance.weights == (0.5, 0.5)


def test_teaches_through_adversarial_distillation() -> None:
    torch.manual_seed(0)
    clean, robust, student = (nn.Linear(4, 3) for _ in range(3))
    lesson = MultiTeacherAdversarialDistillation(temperature_rate=0.1)
    method = AdversarialDistillation(clean, student, lesson, radius=0.1, steps=2, robust_teacher=robust)
    batch = Batch(torch.rand(6, 4), torch.tensor([0, 1, 2] * 2), torch.arange(6))
    method.setup(batch)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    losses = []
    for _ in range(60):
        loss = sum(method.step(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert "multi_teacher_adversarial_distillation/weight/clean" in method.figures()
    assert all(parameter.grad is None for net in (clean, robust) for parameter in net.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EntropyBalance(1), "num_teachers"),
        (lambda: EntropyBalance(initial=0.5), "initial"),
        (lambda: EntropyBalance().update([SOFT]), "same length"),
        (lambda: EntropyBalance().update([SOFT[:, :1], SOFT[:, :1]]), "classes"),
        (lambda: NormalizedLossBalance().update([0.0, 1.0]), "first losses"),
        (lambda: NormalizedLossBalance().update([1.0, -1.0]), "losses"),
        (lambda: NormalizedLossBalance().update([1.0, float("nan")]), "losses"),
        (lambda: NormalizedLossBalance(rate=2.0), "rate"),
        (lambda: multi_teacher_adversarial_distillation(SOFT, SOFT, SOFT, SOFT, weights=(-1.0, 1.0)), "weights"),
        (
            lambda: multi_teacher_adversarial_distillation(
                SOFT, SOFT, SOFT, SOFT, weights=(1.0, 1.0), temperatures=(0.0, 1.0)
            ),
            "temperatures",
        ),
    ],
)
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
