from inspect import unwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn, idctn
from torch import Tensor

from tutelage.features import (
    DualViewFeatureMimicking,
    alternative_feature_loss,
    direct_feature_loss,
    remove_direct_component,
)

LOSSES = [direct_feature_loss, alternative_feature_loss]
shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(2, 4))
seeds = st.integers(0, 10_000)


def maps(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.randn(shape, generator=generator, dtype=torch.float64),
    )


def slow(projected: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for student_map, teacher_map in zip(projected.numpy(), teacher.numpy(), strict=True):
        for row in range(student_map.shape[1]):
            for column in range(student_map.shape[2]):
                p, t = student_map[:, row, column], teacher_map[:, row, column]
                total += float(((p / np.linalg.norm(p) - t / np.linalg.norm(t)) ** 2).sum())
    return total / len(projected)


def test_known_answer() -> None:
    student, teacher = torch.zeros(2, 1, 3, 2, 2)
    student[:, 0], teacher[:, 2] = 0.3, 7.0
    assert direct_feature_loss(student, teacher).item() == pytest.approx(8)
    assert direct_feature_loss(student, -student, weight=0.5).item() == pytest.approx(8)  # 4 a position at most


@settings(max_examples=20, deadline=None)
@given(shapes, seeds)
def test_agrees_with_loops_and_with_cosines(shape: tuple[int, ...], seed: int) -> None:
    student, teacher = maps(shape, seed)
    loss = direct_feature_loss(student, teacher, weight=0.3)
    assert loss.item() == pytest.approx(0.3 * slow(student, teacher), rel=1e-9)
    cosine = torch.cosine_similarity(student, teacher, dim=1)
    assert loss.item() == pytest.approx(2 * 0.3 * (1 - cosine).sum().item() / shape[0], rel=1e-9, abs=1e-12)
    assert loss.item() <= 4 * shape[2] * shape[3] * 0.3 + 1e-9
    alternative = alternative_feature_loss(student, teacher, weight=0.3)
    reference = slow(student - student.mean((2, 3), keepdim=True), teacher - teacher.mean((2, 3), keepdim=True))
    assert alternative.item() == pytest.approx(0.3 * reference, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(shapes, seeds)
def test_removing_the_direct_component_is_a_cosine_transform_without_its_first_coefficient(
    shape: tuple[int, ...], seed: int
) -> None:
    x, _ = maps(shape, seed)
    coefficients = dctn(x.numpy(), axes=(2, 3))
    coefficients[:, :, 0, 0] = 0
    expected = torch.from_numpy(idctn(coefficients, axes=(2, 3)))
    found = remove_direct_component(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(remove_direct_component(found), found, rtol=0, atol=1e-12)
    torch.testing.assert_close(remove_direct_component(x.float()).double(), expected, rtol=0, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(shapes, seeds)
def test_a_constant_a_channel_changes_nothing_of_the_alternative_view(shape: tuple[int, ...], seed: int) -> None:
    student, teacher = maps(shape, seed)
    shift, other = torch.randn(2, shape[0], shape[1], 1, 1, dtype=torch.float64)
    first, second = student.clone().requires_grad_(), (student + shift).requires_grad_()
    losses = alternative_feature_loss(first, teacher), alternative_feature_loss(second, teacher + other)
    gradients = [torch.autograd.grad(loss, x)[0] for loss, x in zip(losses, (first, second), strict=True)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_scaled_teachers_cost_nothing_and_weights_are_linear(loss) -> None:
    student, teacher = maps((2, 3, 2, 2), 0)
    assert loss(2.5 * teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    assert loss(student, teacher).item() > 0.1
    torch.testing.assert_close(loss(student, teacher, weight=3.0), 3 * loss(student, teacher))
    parts = loss(student, teacher, reduction="none")
    assert parts.shape == (2,)
    torch.testing.assert_close(parts.mean(), loss(student, teacher))
    torch.testing.assert_close(parts.sum(), loss(student, teacher, reduction="sum"))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_right_and_none_reaches_the_teacher(loss) -> None:
    student, teacher = maps((2, 3, 2, 2), 1)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student.requires_grad_())
    teacher.requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_single(loss) -> None:
    student, teacher = (x.to(torch.bfloat16) for x in maps((2, 8, 4, 4), 2))
    found = loss(student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(student.float(), teacher.float()))


@pytest.mark.parametrize("loss", LOSSES)
def test_positions_without_a_direction_have_no_gradient(loss) -> None:
    student, teacher = maps((2, 3, 2, 2), 3)
    student[0] = 0
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert torch.isfinite(value)
    assert not student.grad[0].any()
    assert student.grad[1].abs().max() < 1e3
    assert loss(student, teacher, reduction="none")[0].item() == pytest.approx(4)  # the zero vector to 4 unit vectors


def test_both_views() -> None:
    student, teacher = maps((2, 3, 2, 2), 4)
    other, _ = maps((2, 3, 2, 2), 5)
    direct, alternative = DualViewFeatureMimicking()(student, other, teacher)
    torch.testing.assert_close(direct, direct_feature_loss(student, teacher, weight=0.08))
    torch.testing.assert_close(alternative, alternative_feature_loss(other, teacher, weight=0.06))
    assert not list(DualViewFeatureMimicking().parameters())


def test_bad_input() -> None:
    student, teacher = maps((2, 3, 2, 2), 6)
    with pytest.raises(ValueError, match="`projected` and `teacher` to have the same shape"):
        direct_feature_loss(student, teacher[:, :2])
    with pytest.raises(ValueError, match="`weight` to be at least 0"):
        alternative_feature_loss(student, teacher, weight=-1.0)
    with pytest.raises(ValueError, match="`reduction` to be one of"):
        unwrap(direct_feature_loss)(student, teacher, reduction="mean")  # as outside tests: no checks of types
    with pytest.raises(ValueError, match="more than one position"):
        alternative_feature_loss(student[..., :1, :1], teacher[..., :1, :1])
    with pytest.raises(ValueError, match="`projected` to be a floating-point tensor"):
        unwrap(direct_feature_loss)(torch.ones(1, 1, 1, 1, dtype=torch.int64), torch.ones(1, 1, 1, 1))
    with pytest.raises(ValueError, match="`beta` to be at least 0"):
        DualViewFeatureMimicking(beta=-0.1)
