from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.features import (
    DirectionLoss,
    FeatureNormLoss,
    NormDirectionLoss,
    direction_loss,
    feature_norm_loss,
    norm_direction_loss,
)
from tutelage.features.norm_direction import _FEW_SAMPLES
from tutelage.outputs import Outputs

STUDENT, CLASS_MEANS, TARGET = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([0])
seeds = given(st.integers(0, 10_000))
few = settings(max_examples=25, deadline=None)


def samples(seed: int = 0, batch: int = 6, width: int = 4, classes: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(rows: int) -> Tensor:
        return torch.randn(rows, width, generator=generator, dtype=torch.float64)

    return draw(batch), draw(batch), draw(classes), torch.randint(classes, (batch,), generator=generator)


def gradient(student: Tensor, *arguments: object) -> Tensor:
    student = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(norm_direction_loss(student, *arguments, reduction="sum"), student)  # type: ignore[arg-type]
    return found


def slow_loss(student: Tensor, teacher: Tensor, class_means: Tensor, target: Tensor) -> float:
    """A loop over samples, with Python's `max`."""
    total = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        c = class_means[y].tolist()
        e = [value / math.hypot(*c) for value in c]
        total += 1 - sum(a * b for a, b in zip(s, e, strict=True)) / max(math.hypot(*s), math.hypot(*t))
    return total / len(student)


# ---- norm_direction_loss ---------------------------------------------------------------------------------------------


def test_known_answer_of_a_short_feature_pulls_straight_along_the_class() -> None:
    longer = torch.tensor([[6.0, 8.0]])
    assert norm_direction_loss(STUDENT, longer, CLASS_MEANS, TARGET).item() == pytest.approx(0.7)
    torch.testing.assert_close(gradient(STUDENT, longer, CLASS_MEANS, TARGET), torch.tensor([[-0.1, 0.0]]))


def test_known_answer_of_a_long_feature_only_turns() -> None:
    shorter = torch.tensor([2.0])
    assert norm_direction_loss(STUDENT, shorter, CLASS_MEANS, TARGET).item() == pytest.approx(0.4)
    found = gradient(STUDENT, shorter, CLASS_MEANS, TARGET)
    torch.testing.assert_close(found, torch.tensor([[-0.128, 0.096]]))
    assert (found * STUDENT).sum().item() == pytest.approx(0, abs=1e-7)


def test_at_equal_norms_the_students_branch_counts() -> None:
    torch.testing.assert_close(
        gradient(STUDENT, torch.tensor([5.0]), CLASS_MEANS, TARGET), torch.tensor([[-0.128, 0.096]])
    )


def test_agrees_with_a_loop_over_samples() -> None:
    arguments = samples(batch=20)
    assert norm_direction_loss(*arguments).item() == pytest.approx(slow_loss(*arguments))
    assert norm_direction_loss(
        *(value.float() if value.is_floating_point() else value for value in arguments)
    ).item() == (pytest.approx(slow_loss(*arguments), rel=1e-5))


def test_gradient_matches_finite_differences_on_both_branches() -> None:
    student, teacher, class_means, target = samples()
    longer = student.norm(dim=1) >= teacher.norm(dim=1)
    assert longer.any()
    assert not longer.all()
    assert torch.autograd.gradcheck(
        lambda features: norm_direction_loss(features, teacher, class_means, target, reduction="none"),
        student.requires_grad_(),
    )


@few
@seeds
def test_values_lie_between_0_and_2(seed: int) -> None:
    losses = norm_direction_loss(*samples(seed), reduction="none")
    assert ((losses >= 0) & (losses <= 2)).all()
    _, teacher, class_means, target = samples(seed)
    opposite = -class_means[target] * 100
    torch.testing.assert_close(
        norm_direction_loss(opposite, teacher, class_means, target, reduction="none"), torch.full((6,), 2.0).double()
    )


@few
@seeds
def test_zero_exactly_along_the_class_mean_at_the_teachers_norm_or_more(seed: int) -> None:
    _, teacher, class_means, target = samples(seed)
    direction = torch.nn.functional.normalize(class_means[target], dim=1)
    for factor, zero in [(1.0, True), (3.0, True), (0.9, False)]:
        student = direction * teacher.norm(dim=1, keepdim=True) * factor
        losses = norm_direction_loss(student, teacher, class_means, target, reduction="none")
        torch.testing.assert_close(losses, torch.full_like(losses, 0.0 if zero else 0.1))


@few
@seeds
def test_scales_that_do_not_matter(seed: int) -> None:
    student, teacher, class_means, target = samples(seed)
    loss = norm_direction_loss(student, teacher, class_means, target, reduction="none")
    factors = torch.tensor([[0.01], [1.0], [700.0]], dtype=torch.float64)
    scaled = norm_direction_loss(student, teacher, class_means * factors, target, reduction="none")
    torch.testing.assert_close(scaled, loss)
    both = norm_direction_loss(5 * student, 5 * teacher, class_means, target, reduction="none")
    torch.testing.assert_close(both, loss)
    long_enough = student * (teacher.norm(dim=1) / student.norm(dim=1)).clamp_min(1)[:, None]
    losses = [
        norm_direction_loss(factor * long_enough, teacher, class_means, target, reduction="none")
        for factor in (1.0, 2.0, 50.0)
    ]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


@few
@seeds
def test_a_rotation_of_feature_space_changes_nothing(seed: int) -> None:
    student, teacher, class_means, target = samples(seed)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    torch.testing.assert_close(
        norm_direction_loss(student @ rotation, teacher @ rotation, class_means @ rotation, target),
        norm_direction_loss(student, teacher, class_means, target),
    )


def test_continuous_where_the_norms_meet() -> None:
    losses = [
        norm_direction_loss(STUDENT.double(), torch.tensor([5.0 + gap]).double(), CLASS_MEANS.double(), TARGET).item()
        for gap in (-1e-9, 0.0, 1e-9)
    ]
    assert losses == pytest.approx([0.4] * 3, abs=1e-8)


def test_a_zero_feature_is_pulled_to_the_class() -> None:
    nothing = torch.zeros(1, 2)
    assert norm_direction_loss(nothing, torch.tensor([10.0]), CLASS_MEANS, TARGET).item() == 1
    torch.testing.assert_close(
        gradient(nothing, torch.tensor([10.0]), CLASS_MEANS, TARGET), torch.tensor([[-0.1, 0.0]])
    )


def test_two_zero_norms_give_one_without_a_gradient() -> None:
    nothing = torch.zeros(1, 2)
    assert norm_direction_loss(nothing, torch.zeros(1, 2), CLASS_MEANS, TARGET).item() == 1
    assert gradient(nothing, torch.zeros(1, 2), CLASS_MEANS, TARGET).tolist() == [[0.0, 0.0]]


def test_only_the_student_gets_a_gradient() -> None:
    student, teacher, class_means, target = samples()
    tensors = [student.requires_grad_(), teacher.requires_grad_(), class_means.requires_grad_()]
    norm_direction_loss(*tensors, target).backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert class_means.grad is None


def test_reductions_and_norms_in_place_of_features() -> None:
    student, teacher, class_means, target = samples()
    each = norm_direction_loss(student, teacher, class_means, target, reduction="none")
    assert each.shape == (6,)
    torch.testing.assert_close(norm_direction_loss(student, teacher, class_means, target), each.sum() / 6)
    torch.testing.assert_close(norm_direction_loss(student, teacher, class_means, target, reduction="sum"), each.sum())
    by_norm = norm_direction_loss(student, teacher.norm(dim=1), class_means, target, reduction="none")
    torch.testing.assert_close(by_norm, each)


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher, class_means, target = samples()
    low = [value.bfloat16() for value in (student, teacher, class_means)]
    loss = norm_direction_loss(*low, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        norm_direction_loss(*(value.double() for value in low), target).item(), rel=1e-5
    )


NAN = torch.full((1, 2), torch.nan)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((STUDENT, STUDENT, torch.ones(1, 3), TARGET), r"`student_features` and `class_means`.*2 and 3.*FeatureProj"),
        ((STUDENT, torch.ones(1, 3), CLASS_MEANS, TARGET), r"`teacher_features` to have shape \(1, 2\).*\(1, 3\)"),
        ((STUDENT, torch.ones(2), CLASS_MEANS, TARGET), r"`teacher_features` to have shape \(1,\), but got \(2,\)"),
        ((STUDENT, torch.tensor([-1.0]), CLASS_MEANS, TARGET), "norms of at least 0, but got -1"),
        ((STUDENT, STUDENT, CLASS_MEANS, torch.tensor([1])), r"classes in \[0, 1\), but got 1"),
        ((STUDENT, STUDENT, torch.zeros(1, 2), TARGET), "class 0, but its length is 0.0"),
        ((STUDENT, STUDENT, NAN, TARGET), "class 0, but its length is nan"),
        ((NAN, STUDENT, CLASS_MEANS, TARGET), "`student_features` to be finite"),
        ((STUDENT, NAN, CLASS_MEANS, TARGET), "`teacher_features` to be finite"),
    ],
)
def test_bad_input_is_named(arguments: tuple[Tensor, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refusal:
        norm_direction_loss(*arguments)
    assert "\n" not in str(refusal.value)


def test_a_missing_class_mean_that_nobody_asks_for_does_no_harm() -> None:
    class_means = torch.cat([CLASS_MEANS, NAN])
    assert norm_direction_loss(STUDENT, torch.tensor([10.0]), class_means, TARGET).item() == pytest.approx(0.7)


# ---- The two parts alone ---------------------------------------------------------------------------------------------


@few
@seeds
def test_direction_is_one_minus_the_cosine_and_blind_to_norms(seed: int) -> None:
    student, _, class_means, target = samples(seed)
    losses = direction_loss(student, class_means, target, reduction="none")
    torch.testing.assert_close(losses, 1 - torch.cosine_similarity(student, class_means[target]))
    torch.testing.assert_close(direction_loss(9 * student, class_means, target, reduction="none"), losses)
    long = norm_direction_loss(student, torch.zeros(6).double(), class_means, target, reduction="none")
    torch.testing.assert_close(long, losses)


def test_direction_of_nothing_is_one_without_a_gradient() -> None:
    nothing = torch.zeros(1, 2, requires_grad=True)
    loss = direction_loss(nothing, CLASS_MEANS, TARGET)
    loss.backward()
    assert loss.item() == 1
    assert nothing.grad is not None
    assert nothing.grad.tolist() == [[0.0, 0.0]]


def test_norm_known_answers() -> None:
    assert feature_norm_loss(STUDENT, 10.0).item() == pytest.approx(0.5)
    assert feature_norm_loss(STUDENT, torch.tensor([4.0])).item() == 0
    assert feature_norm_loss(STUDENT, torch.tensor([0.0])).item() == 0
    student = STUDENT.clone().requires_grad_()
    (found,) = torch.autograd.grad(feature_norm_loss(student, 10.0), student)
    torch.testing.assert_close(found, -STUDENT / 50)  # along the feature, whatever its class
    nothing = torch.zeros(1, 2, requires_grad=True)
    feature_norm_loss(nothing, torch.tensor([0.0])).backward()
    assert nothing.grad is not None
    assert nothing.grad.tolist() == [[0.0, 0.0]]


@few
@seeds
def test_norm_falls_to_zero_and_stays_there(seed: int) -> None:
    student, teacher, _, _ = samples(seed)
    goal = teacher.norm(dim=1)
    losses = torch.stack([feature_norm_loss(k * student, goal, reduction="none") for k in (0.0, 0.5, 1.0, 2.0, 1e4)])
    assert (losses.diff(dim=0) <= 0).all()
    assert (losses[0] == 1).all()
    assert (losses[-1] == 0).all()


def test_parts_match_finite_differences() -> None:
    student, teacher, class_means, target = samples()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda features: direction_loss(features, class_means, target), student)
    assert torch.autograd.gradcheck(lambda features: feature_norm_loss(features, teacher.norm(dim=1)), student)


@pytest.mark.parametrize("goal", [0.0, -1.0, math.nan])
def test_norm_needs_a_positive_goal(goal: float) -> None:
    with pytest.raises(ValueError, match="`target_norm` to be positive"):
        feature_norm_loss(STUDENT, goal)


# ---- The objectives --------------------------------------------------------------------------------------------------


def outputs(width: int, rows: int = 12, classes: int = 3) -> Outputs:
    return Outputs(logits=torch.randn(rows, classes), embedding=torch.randn(rows, width))


def lesson(width: int, count: int = 30) -> tuple[list[tuple[Outputs, Batch]], Tensor, Tensor]:
    embedding, target = torch.randn(count, width), torch.arange(count) % 3
    parts = torch.split(torch.arange(count), 7)
    return (
        [(Outputs(embedding=embedding[rows]), Batch(torch.zeros(len(rows), 1), target[rows], rows)) for rows in parts],
        embedding,
        target,
    )


def batch(rows: int = 12) -> Batch:
    return Batch(torch.zeros(rows, 1), torch.arange(rows) % 3, torch.arange(rows))


def test_class_means_are_taken_from_the_training_data_into_a_buffer() -> None:
    objective = NormDirectionLoss()
    student, teacher = outputs(4), outputs(4)
    objective.build(student, teacher, batch())
    assert objective.projector is None
    assert objective.state_dict()["class_means"].shape == (3, 4)
    lessons, embedding, target = lesson(4)
    objective.prepare(iter(lessons))
    expected = torch.stack([embedding[target == label].mean(dim=0) for label in range(3)])
    torch.testing.assert_close(objective.state_dict()["class_means"], expected)
    assert not list(objective.parameters())
    assert student.embedding is not None
    assert teacher.embedding is not None
    assert batch().target is not None
    torch.testing.assert_close(
        objective(student, teacher, batch()),
        norm_direction_loss(student.embedding, teacher.embedding, expected, batch().target),
    )


def test_given_class_means_stay() -> None:
    given_means = torch.randn(3, 4)
    objective = NormDirectionLoss(given_means)
    objective.build(outputs(4), outputs(4), batch())
    objective.prepare(iter(lesson(4)[0]))
    assert torch.equal(objective.state_dict()["class_means"], given_means)


@pytest.mark.parametrize("kind", [NormDirectionLoss, DirectionLoss, FeatureNormLoss])
def test_another_width_brings_a_projector_that_learns(kind: type) -> None:
    objective = kind(dropout=0.0)
    student, teacher = outputs(5), outputs(4)
    objective.build(student, teacher, batch())
    objective.prepare(iter(lesson(4)[0]))
    assert isinstance(objective.projector, nn.Module)
    objective(student, teacher, batch()).backward()
    assert objective.projector.linear.weight.grad is not None
    assert objective.projector.linear.weight.grad.abs().sum() > 0


def test_the_parts_add_nothing_of_the_other() -> None:
    student, teacher = outputs(4), outputs(4)
    assert student.embedding is not None
    assert teacher.embedding is not None
    class_means = torch.randn(3, 4)
    longer = Outputs(student.logits, 7 * student.embedding)
    direction = DirectionLoss(class_means)
    torch.testing.assert_close(direction(student, teacher, batch()), direction(longer, teacher, batch()))
    turned = Outputs(student.logits, student.embedding.flip(1))
    norm = FeatureNormLoss()
    torch.testing.assert_close(norm(student, teacher, batch()), norm(turned, teacher, batch()))
    assert norm(student, teacher, batch()) > norm(longer, teacher, batch())


def test_few_samples_of_a_class_are_told() -> None:
    objective = NormDirectionLoss()
    objective.build(outputs(4), outputs(4), batch())
    with pytest.warns(UserWarning, match=rf"class means of 3 classes \(0, 1, 2\) come from fewer than {_FEW_SAMPLES}"):
        objective.prepare(iter(lesson(4, count=9)[0]))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="needs class means"):
        NormDirectionLoss()(STUDENT, STUDENT, TARGET)
    with pytest.raises(ValueError, match=r"NormDirectionLoss reads `teacher.embedding`, but the teacher gives none"):
        NormDirectionLoss().build(outputs(4), Outputs(logits=torch.zeros(2, 3)), batch())
    with pytest.raises(ValueError, match=r"shape \[batch, width\], but got \(2, 5, 4\)"):
        NormDirectionLoss().build(Outputs(embedding=torch.zeros(2, 5, 4)), outputs(4), batch())
    with pytest.raises(ValueError, match="same width, but got 4 and 2"):
        NormDirectionLoss(CLASS_MEANS).build(outputs(4), outputs(4), batch())
    with pytest.raises(ValueError, match="`dropout` to be in"):
        NormDirectionLoss(dropout=2.0)
