from __future__ import annotations

import math
from collections.abc import Callable
from inspect import unwrap

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from tutelage.objectives import (
    ForwardKL,
    JensenShannon,
    SoftCrossEntropy,
    TokenDivergence,
    TotalVariation,
    forward_kl,
    jensen_shannon,
    predictive_confidence,
    predictive_entropy,
    reverse_kl,
    soft_cross_entropy,
    token_divergence,
    total_variation,
)

DIVERGENCES = [forward_kl, reverse_kl, jensen_shannon, total_variation]
Divergence = Callable[..., Tensor]
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def pair(batch: int = 4, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student, teacher


def test_known_answers() -> None:
    teacher, student = logits_of(0.7, 0.2, 0.1), logits_of(0.4, 0.4, 0.2)
    assert forward_kl(student, teacher).item() == pytest.approx(0.1837869, abs=1e-7)
    assert reverse_kl(student, teacher).item() == pytest.approx(0.1920420, abs=1e-7)
    assert jensen_shannon(student, teacher).item() == pytest.approx(0.0462008, abs=1e-7)
    assert jensen_shannon(student, teacher, beta=0.1).item() == pytest.approx(0.0165180, abs=1e-7)
    assert total_variation(student, teacher).item() == pytest.approx(0.3)
    assert soft_cross_entropy(student, teacher).item() == pytest.approx(0.1837869 + 0.8018185, abs=1e-6)
    assert predictive_entropy(teacher).item() == pytest.approx(0.8018185, abs=1e-6)
    assert predictive_entropy(logits_of(0.5, 0.3, 0.2)).item() == pytest.approx(1.0296530, abs=1e-6)
    assert predictive_confidence(teacher).item() == pytest.approx(0.7)


def test_temperature_divides_the_logits() -> None:
    student, teacher = pair()
    for divergence in DIVERGENCES:
        expected = divergence(student / 3, teacher / 3)
        torch.testing.assert_close(divergence(student, teacher, temperature=3.0), expected)
    torch.testing.assert_close(predictive_entropy(student, temperature=3.0), predictive_entropy(student / 3))
    torch.testing.assert_close(predictive_confidence(student, temperature=3.0), predictive_confidence(student / 3))
    torch.testing.assert_close(
        soft_cross_entropy(student, teacher, teacher_temperature=0.5, student_temperature=2.0),
        F.cross_entropy(student / 2, (teacher / 0.5).softmax(1)),
    )


def test_agrees_with_torch() -> None:
    student, teacher = pair()
    expected = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(forward_kl(student, teacher), expected)
    torch.testing.assert_close(forward_kl(student, teacher, reduction="mean"), expected.mean())
    torch.testing.assert_close(forward_kl(student, teacher, reduction="sum"), expected.sum())
    torch.testing.assert_close(predictive_entropy(student), torch.distributions.Categorical(logits=student).entropy())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 9), beta=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_invariants(seed: int, classes: int, beta: float) -> None:
    student, teacher = pair(3, classes, seed)
    for divergence in (*DIVERGENCES, lambda s, t: jensen_shannon(s, t, beta=beta)):
        assert (divergence(student, teacher) > 0).all()
        torch.testing.assert_close(divergence(student, student + 5), torch.zeros(3).double(), atol=1e-12, rtol=0)
        torch.testing.assert_close(divergence(student + 3, teacher - 2), divergence(student, teacher))
    torch.testing.assert_close(forward_kl(student, teacher), reverse_kl(teacher, student))
    torch.testing.assert_close(total_variation(student, teacher), total_variation(teacher, student))
    torch.testing.assert_close(
        jensen_shannon(student, teacher, beta=beta), jensen_shannon(teacher, student, beta=1 - beta)
    )
    assert (total_variation(student, teacher) <= 1).all()
    assert (jensen_shannon(student, teacher) <= math.log(2)).all()
    # Pinsker: TV² ≤ KL / 2.
    assert (total_variation(student, teacher).square() <= forward_kl(student, teacher) / 2 + 1e-12).all()
    assert (predictive_entropy(student) <= math.log(classes) + 1e-12).all()
    assert (predictive_confidence(student) >= 1 / classes - 1e-12).all()


def test_jensen_shannon_tends_to_the_two_kl_divergences() -> None:
    student, teacher = pair()
    torch.testing.assert_close(
        jensen_shannon(student, teacher, beta=1e-6) / 1e-6, forward_kl(student, teacher), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(
        jensen_shannon(student, teacher, beta=1 - 1e-6) / 1e-6, reverse_kl(student, teacher), rtol=1e-3, atol=0
    )
    assert torch.equal(jensen_shannon(student, teacher, beta=0.0), forward_kl(student, teacher))
    assert torch.equal(jensen_shannon(student, teacher, beta=1.0), reverse_kl(student, teacher))


def test_jensen_shannon_saturates_where_kl_grows() -> None:
    apart = [(torch.tensor([[d, -d]], dtype=torch.float64), torch.tensor([[-d, d]]).double()) for d in (10.0, 100.0)]
    near, far = (jensen_shannon(*logits).item() for logits in apart)
    assert near == pytest.approx(math.log(2), abs=1e-6)
    assert far == pytest.approx(math.log(2), abs=1e-12)
    assert forward_kl(*apart[1]).item() == pytest.approx(10 * forward_kl(*apart[0]).item(), rel=1e-6)


def test_gradients_have_their_closed_form() -> None:
    student, teacher = pair()
    student.requires_grad_()
    temperature = 2.0
    p_student, p_teacher = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    (gradient,) = torch.autograd.grad(forward_kl(student, teacher, temperature=temperature).sum(), student)
    torch.testing.assert_close(gradient, (p_student - p_teacher) / temperature)
    values = reverse_kl(student, teacher, temperature=temperature)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    expected = p_student * (p_student.log() - p_teacher.log() - values[:, None]) / temperature
    torch.testing.assert_close(gradient, expected)


@every_divergence
def test_the_gradient_reaches_both_arguments(divergence: Divergence) -> None:
    student, teacher = pair(2, 3)
    assert torch.autograd.gradcheck(divergence, (student.requires_grad_(), teacher.requires_grad_()))


@pytest.mark.parametrize("function", [*DIVERGENCES, soft_cross_entropy])
def test_half_precision_is_computed_in_float32(function: Divergence) -> None:
    student, teacher = (logits.half() for logits in pair(8, 100))
    value = function(student, teacher, reduction="mean")
    assert value.dtype == torch.float32
    torch.testing.assert_close(
        value.double(), function(student.double(), teacher.double(), reduction="mean"), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("function", [*DIVERGENCES, soft_cross_entropy])
@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 4), {}, "same number of classes, but got 3 and 4"),
        ((3, 3), {}, r"same shape, but got \(2, 3\) and \(3, 3\)"),
        ((2, 3), {"reduction": "average"}, "`reduction` to be one of 'mean', 'sum', 'none'"),
    ],
)
def test_bad_input_is_named(
    function: Divergence, shape: tuple[int, ...], options: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        unwrap(function)(torch.zeros(2, 3), torch.zeros(shape), **options)


def test_bad_numbers_are_named() -> None:
    logits = torch.zeros(2, 3)
    for divergence in DIVERGENCES:
        with pytest.raises(ValueError, match="`temperature` to be positive, but got 0"):
            divergence(logits, logits, temperature=0.0)
    with pytest.raises(ValueError, match="`teacher_temperature` to be positive"):
        soft_cross_entropy(logits, logits, teacher_temperature=-1.0)
    with pytest.raises(ValueError, match="`student_temperature` to be positive"):
        SoftCrossEntropy(student_temperature=math.nan)
    with pytest.raises(ValueError, match=r"`beta` to be in \[0, 1\], but got 1.5"):
        jensen_shannon(logits, logits, beta=1.5)
    with pytest.raises(ValueError, match="`beta`"):
        JensenShannon(beta=-0.1)
    with pytest.raises(ValueError, match="`temperature` to be positive"):
        TotalVariation(temperature=0.0)
    with pytest.raises(ValueError, match="`temperature` to be positive"):
        predictive_entropy(logits, temperature=0.0)


# Sequences


def sequences() -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = pair(8, 5)
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    return student.reshape(2, 4, 5), teacher.reshape(2, 4, 5), mask


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_token_divergence_is_the_divergence_of_unmasked_tokens(kind: str) -> None:
    student, teacher, mask = sequences()
    functions = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jsd": lambda *a: jensen_shannon(*a, beta=0.3)}
    rows = functions[kind](student, teacher)
    options = {"kind": kind, "beta": 0.3}
    by_sequence = torch.stack([rows[0, :3].mean(), rows[1, 0]])

    def measured(**more: object) -> Tensor:
        return token_divergence(student, teacher, mask, **options, **more)  # type: ignore[arg-type]

    torch.testing.assert_close(measured(), rows[mask].mean())
    torch.testing.assert_close(measured(reduction="sum"), rows[mask].sum())
    torch.testing.assert_close(measured(reduction="none"), rows * mask)
    torch.testing.assert_close(measured(token_average="sequence"), by_sequence.mean())
    torch.testing.assert_close(measured(token_average="sequence", reduction="sum"), by_sequence.sum())
    torch.testing.assert_close(measured(token_average="sequence", reduction="none"), by_sequence)


def test_token_divergence_temperature() -> None:
    student, teacher, mask = sequences()
    plain = token_divergence(student, teacher, mask, temperature=3.0)
    scaled = token_divergence(student, teacher, mask, temperature=3.0, scale_by_temperature_squared=True)
    torch.testing.assert_close(scaled, 9 * plain)
    torch.testing.assert_close(plain, token_divergence(student / 3, teacher / 3, mask))


def test_with_temperature_squared_the_gradient_has_a_limit() -> None:
    student, teacher, mask = sequences()
    gradients = []
    for temperature in (1e2, 1e3):
        logits = student.clone().requires_grad_()
        loss = token_divergence(logits, teacher, mask, temperature=temperature, scale_by_temperature_squared=True)
        gradients.append(torch.autograd.grad(loss, logits)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.1, atol=1e-3)


def test_larger_vocabularies_are_cut_to_the_common_prefix() -> None:
    student, teacher, mask = sequences()
    expected = token_divergence(student[..., :3], teacher[..., :3], mask)
    torch.testing.assert_close(token_divergence(student[..., :3], teacher, mask), expected)
    torch.testing.assert_close(token_divergence(student, teacher[..., :3], mask), expected)


def test_token_divergence_gives_the_teacher_and_masked_tokens_no_gradient() -> None:
    student, teacher, mask = sequences()
    teacher[~mask] = torch.nan  # what stands at masked tokens is never looked at
    student.requires_grad_()
    teacher.requires_grad_()
    token_divergence(student, teacher, mask, kind="jsd", token_average="sequence").backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert not student.grad[~mask].any()


def test_token_divergence_bad_input() -> None:
    student, teacher, mask = sequences()
    nothing = torch.zeros_like(mask)
    with pytest.raises(ValueError, match="at least one token"):
        token_divergence(student, teacher, nothing)
    nothing[0] = True
    token_divergence(student, teacher, nothing)
    with pytest.raises(ValueError, match="at least one token"):
        token_divergence(student, teacher, nothing, token_average="sequence")
    with pytest.raises(ValueError, match="`mask` to have the same shape"):
        token_divergence(student, teacher, mask[:, :2])
    with pytest.raises(ValueError, match="same shape"):
        token_divergence(student, teacher[:, :2], mask)
    with pytest.raises(ValueError, match="did you mean 'jsd'"):
        unwrap(token_divergence)(student, teacher, mask, kind="js")
    with pytest.raises(ValueError, match="`token_average`"):
        unwrap(token_divergence)(student, teacher, mask, token_average="tokens")


def test_the_sequence_objective_reads_labels_as_its_mask() -> None:
    student, teacher, mask = sequences()
    target = torch.where(mask, 0, -100)
    objective = TokenDivergence(kind="reverse_kl", token_average="sequence", temperature=2.0)
    expected = token_divergence(student, teacher, mask, kind="reverse_kl", token_average="sequence", temperature=2.0)
    torch.testing.assert_close(objective(student, teacher, target), expected)


def test_samples_without_a_label_are_taught_about() -> None:
    student, teacher = pair()
    unlabelled = torch.full((4,), -100)
    torch.testing.assert_close(ForwardKL()(student, teacher, unlabelled), forward_kl(student, teacher).mean())


def test_objectives_of_sequences_without_labels_use_all_positions() -> None:
    student, teacher, _ = sequences()
    objective = ForwardKL(temperature=2.0, scale_by_temperature_squared=True)
    expected = 4 * forward_kl(student, teacher, temperature=2.0).mean()
    torch.testing.assert_close(objective(student, teacher), expected)
    torch.testing.assert_close(
        JensenShannon(beta=0.2)(student, teacher), jensen_shannon(student, teacher, beta=0.2).mean()
    )
