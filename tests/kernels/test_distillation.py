from __future__ import annotations

import itertools
from inspect import unwrap
from typing import Any

import pytest
import torch
from torch import Tensor

from tutelage.kernels import LinearDistillationLoss, linear_distillation
from tutelage.objectives import forward_kl, jensen_shannon, predictive_entropy, reverse_kl

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)
every_backend = pytest.mark.parametrize("backend", ["torch", "dense"])


def problem(tokens: int = 7, vocabulary: int = 11, *, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Student's hidden states, weight and bias, and the teacher's, of another width; targets."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((tokens, 5), (vocabulary, 5), (vocabulary,), (tokens, 3), (vocabulary, 3), (vocabulary,))
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    for leaf in tensors[:3]:
        leaf.requires_grad_()
    return [*tensors, torch.randint(vocabulary, (tokens,), generator=generator)]


def from_probabilities(student: tuple[float, ...], teacher: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    one = torch.ones(1, 1, dtype=torch.float64)
    return one, *(torch.tensor(values, dtype=torch.float64).log()[:, None] for values in (student, teacher))


@every_backend
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"divergence": "forward_kl"}, 0.1837869),
        ({"divergence": "reverse_kl"}, 0.1920420),
        ({"divergence": "jsd"}, 0.0462008),
        ({"divergence": "jsd", "beta": 0.1}, 0.0165180),
        ({"divergence": "jsd", "beta": 0.0}, 0.1837869),
        ({"divergence": "jsd", "beta": 1.0}, 0.1920420),
    ],
)
def test_known_answers(backend: Any, settings: dict[str, Any], expected: float) -> None:
    one, student, teacher = from_probabilities((0.4, 0.4, 0.2), (0.7, 0.2, 0.1))
    found = linear_distillation(one, student, one, teacher, backend=backend, **settings)
    assert found.item() == pytest.approx(expected, abs=1e-7)


@every_divergence
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("hard", [0.0, 0.5])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_agrees_with_dense_whatever_is_asked(
    divergence: Any, temperature: float, hard: float, softcap: float | None
) -> None:
    *models, target = problem()
    target[2] = -100
    for reduction, scale, block_size in itertools.product(("mean", "sum", "none"), (1.0, 0.5), (None, (3, 4))):
        results = []
        for backend in ("dense", "torch"):
            loss, entropy = linear_distillation(
                *[models[place] for place in (0, 1, 3, 4)],
                target,
                student_bias=models[2],
                teacher_bias=models[5],
                divergence=divergence,
                beta=0.3,
                temperature=temperature,
                hard_weight=hard,
                soft_weight=0.7,
                scale_by_temperature_squared=True,
                student_softcap=softcap,
                teacher_softcap=softcap,
                student_logit_scale=scale,
                reduction=reduction,
                return_entropy=True,
                block_size=block_size,
                backend=backend,
            )
            total = (loss * torch.linspace(1, 2, loss.numel()).double().view(loss.shape)).sum()
            results.append((loss, entropy, *torch.autograd.grad(total, models[:3])))
        for mine, theirs in zip(*results, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@every_divergence
@every_backend
def test_agrees_with_divergences_of_logits(divergence: str, backend: Any) -> None:
    hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias, target = problem()
    target[4] = -100
    student, teacher = hidden @ weight.t() + bias, teacher_hidden @ teacher_weight.t() + teacher_bias
    kept = target != -100
    divergences = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jsd": jensen_shannon}
    rows = divergences[divergence](student, teacher, temperature=2.0)
    hard = torch.nn.functional.cross_entropy(student, target, ignore_index=-100)
    expected = 0.5 * rows[kept].mean() + 0.25 * hard
    found, entropy = linear_distillation(
        hidden,
        weight,
        teacher_hidden,
        teacher_weight,
        target,
        student_bias=bias,
        teacher_bias=teacher_bias,
        divergence=divergence,
        temperature=2.0,
        soft_weight=0.5,
        hard_weight=0.25,
        return_entropy=True,
        backend=backend,
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(entropy[kept], predictive_entropy(student, temperature=2.0)[kept].detach())
    assert entropy[4] == 0
    assert not entropy.requires_grad
    leaves = (hidden, weight, bias)
    for mine, theirs in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(mine, theirs)


@every_divergence
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(divergence: Any, reduction: Any) -> None:
    *models, target = problem(3, 5)

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return linear_distillation(
            hidden,
            weight,
            models[3],
            models[4],
            target,
            student_bias=bias,
            divergence=divergence,
            temperature=1.5,
            hard_weight=0.3,
            student_softcap=4.0,
            reduction=reduction,
            block_size=(2, 2),
        )

    assert torch.autograd.gradcheck(loss, tuple(models[:3]))


@every_divergence
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(divergence: Any, dtype: torch.dtype) -> None:
    hidden, weight = (10 * value.detach().to(dtype) for value in problem()[:2])
    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    loss = linear_distillation(*leaves, hidden, weight, divergence=divergence, temperature=2.0)
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert all(value.abs().max() < 1e-7 for value in torch.autograd.grad(loss, leaves))


@every_divergence
def test_temperature_squared_scales_the_soft_term_alone(divergence: Any) -> None:
    *models, target = problem()
    arguments = [models[place] for place in (0, 1, 3, 4)]
    plain, scaled, both = (
        linear_distillation(
            *arguments,
            target,
            divergence=divergence,
            temperature=3.0,
            scale_by_temperature_squared=squared,
            hard_weight=hard,
        )
        for squared, hard in ((False, 0.0), (True, 0.0), (True, 1.0))
    )
    torch.testing.assert_close(scaled, 9 * plain)
    hard = torch.nn.functional.cross_entropy(arguments[0] @ arguments[1].t(), target)
    torch.testing.assert_close(both, scaled + hard)


def test_roles_swapped_make_forward_kl_of_reverse_kl() -> None:
    hidden, weight, _, teacher_hidden, teacher_weight, _, _ = problem()
    one = linear_distillation(hidden, weight, teacher_hidden, teacher_weight, divergence="forward_kl")
    other = linear_distillation(teacher_hidden, teacher_weight, hidden, weight, divergence="reverse_kl")
    torch.testing.assert_close(one, other)
    first = linear_distillation(hidden, weight, teacher_hidden, teacher_weight, divergence="jsd", beta=0.3)
    second = linear_distillation(teacher_hidden, teacher_weight, hidden, weight, divergence="jsd", beta=0.7)
    torch.testing.assert_close(first, second)


@every_divergence
def test_the_teacher_gets_no_gradient(divergence: Any) -> None:
    hidden, weight, _, teacher_hidden, teacher_weight, _, _ = problem()
    teacher_weight.requires_grad_()
    loss = linear_distillation(hidden.detach(), weight.detach(), teacher_hidden, teacher_weight, divergence=divergence)
    assert not loss.requires_grad


@every_divergence
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_positions_that_are_left_out(divergence: Any, reduction: Any) -> None:
    hidden, weight, _, teacher_hidden, teacher_weight, _, target = problem()
    target[3] = -100
    with torch.no_grad():
        hidden[3] = torch.nan
        teacher_hidden[3] = torch.inf
    loss = linear_distillation(
        hidden,
        weight,
        teacher_hidden,
        teacher_weight,
        target,
        divergence=divergence,
        reduction=reduction,
        hard_weight=1.0,
    )
    assert loss.isfinite().all()
    by_hidden, by_weight = torch.autograd.grad(loss.sum(), (hidden, weight))
    assert (by_hidden[3] == 0).all()
    assert by_weight.isfinite().all()
    nothing = linear_distillation(hidden, weight, teacher_hidden, teacher_weight, torch.full((7,), -100))
    assert nothing == 0
    assert all((value == 0).all() for value in torch.autograd.grad(nothing, (hidden, weight)))


@every_divergence
def test_predictions_without_overlap_stay_finite(divergence: Any) -> None:
    one = torch.ones(1, 1)
    student = torch.tensor([[1e4], [0.0], [-1e4]], requires_grad=True)
    loss = linear_distillation(one, student, one, -student.detach(), divergence=divergence)
    expected = {"forward_kl": 2e4, "reverse_kl": 2e4, "jsd": 0.6931472}[divergence]
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_larger_vocabulary_of_the_teacher() -> None:
    hidden, weight, _, teacher_hidden, teacher_weight, _, _ = problem()
    padded = torch.cat([teacher_weight, torch.zeros(2, 3).double()])
    with pytest.raises(ValueError, match="the same vocabulary, but got 11 and 13 rows"):
        linear_distillation(hidden, weight, teacher_hidden, padded)
    torch.testing.assert_close(
        linear_distillation(hidden, weight, teacher_hidden, padded, common_prefix=True),
        linear_distillation(hidden, weight, teacher_hidden, teacher_weight),
    )


def test_gradients_can_be_used_again_and_half_precision_keeps_its_dtype() -> None:
    hidden, weight, _, teacher_hidden, teacher_weight, _, _ = problem(dtype=torch.bfloat16)
    loss = linear_distillation(hidden, weight, teacher_hidden.float(), teacher_weight.float(), divergence="jsd")
    assert loss.dtype == torch.float32
    first = torch.autograd.grad(2 * loss, (hidden, weight), retain_graph=True)
    again = torch.autograd.grad(loss, (hidden, weight))
    for mine, theirs in zip(first, again, strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine, 2 * theirs)


def test_module_is_its_function() -> None:
    hidden, weight, bias, teacher_hidden, teacher_weight, _, target = problem()
    module = LinearDistillationLoss(divergence="jsd", beta=0.2, hard_weight=0.5)
    assert torch.equal(
        module(hidden, weight, teacher_hidden, teacher_weight, target, student_bias=bias),
        linear_distillation(
            hidden, weight, teacher_hidden, teacher_weight, target,
            student_bias=bias, divergence="jsd", beta=0.2, hard_weight=0.5,
        ),
    )  # fmt: skip
    assert "beta=0.2" in repr(module)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student_weight": torch.zeros(11, 4)}, "`student_hidden` and `student_weight`"),
        ({"teacher_weight": torch.zeros(11, 4)}, "`teacher_hidden` and `teacher_weight`"),
        ({"teacher_hidden": torch.zeros(6, 3)}, "the same positions"),
        ({"student_bias": torch.zeros(10)}, "`student_bias` to have shape"),
        ({"target": torch.zeros(6, dtype=torch.int64)}, "`target` to have shape"),
        ({"target": torch.full((7,), 11)}, "`target` to hold classes"),
        ({"hard_weight": 1.0}, "`target` to be given"),
        ({"hard_weight": -1.0}, "`hard_weight` to be at least 0"),
        ({"soft_weight": -1.0}, "`soft_weight` to be at least 0"),
        ({"beta": 1.5}, "`beta` to be in"),
        ({"temperature": 0.0}, "`temperature` to be positive"),
        ({"divergence": "kl"}, "`divergence` to be one of"),
        ({"reduction": "meen"}, "did you mean 'mean'"),
        ({"backend": "triton"}, "`backend` to be one of"),
        ({"teacher_softcap": -1.0}, "`teacher_softcap` to be positive"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "student_hidden": torch.zeros(7, 5),
        "student_weight": torch.zeros(11, 5),
        "teacher_hidden": torch.zeros(7, 3),
        "teacher_weight": torch.zeros(11, 3),
    }
    with pytest.raises(ValueError, match=message):
        unwrap(linear_distillation)(**{**arguments, **changes})
