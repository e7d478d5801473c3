from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from tutelage.batch import Batch
from tutelage.objectives import (
    SwingDistillation,
    knowledge_distillation,
    perturb_distribution,
    swing_distillation,
    swing_soft_targets,
    swing_temperature,
)
from tutelage.outputs import Outputs


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sequences(batch: int = 2, time: int = 3, vocabulary: int = 5, dtype: torch.dtype = torch.float64):
    student, teacher = 2 * torch.randn(2, batch, time, vocabulary, dtype=dtype)
    target = torch.randint(vocabulary, (batch, time))
    return student, teacher, target, torch.rand(batch, time, dtype=dtype)


def slow_swing(
    student: Tensor, teacher: Tensor, target: Tensor, sensitivity: Tensor, base: float, maximum: float, alpha: float
) -> list[float]:
    """One position after the other, as the formula is written."""
    losses = []
    for s, t, y, p in zip(
        student.flatten(0, 1), teacher.flatten(0, 1), target.flatten(), sensitivity.flatten(), strict=True
    ):
        tau = base + (maximum - base) * float(p)
        q, soft = (t / tau).softmax(0), (s / base).softmax(0)
        divergence = sum(float(a * (a.log() - b.log())) for a, b in zip(q, soft, strict=True))
        label = -float(s.softmax(0)[y].log())
        losses.append((1 - alpha) * (1 - float(p)) * label + alpha * base**2 * divergence)
    return losses


# ── Temperature ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("temperature", "top", "entropy"),
    [(1, 0.9996, 0.0020), (2, 0.9428, 0.1497), (4, 0.5751, 0.7015), (8, 0.2794, 0.9449), (16, 0.1719, 0.9895)],
)
def test_a_sure_teacher_gets_flatter_as_its_tokens_get_hotter(temperature, top, entropy):
    logits = torch.tensor([[10.0, *[0.0] * 9]])
    sensitivity = torch.tensor([(temperature - 1) / 15])
    probs = swing_soft_targets(logits, sensitivity, max_temperature=16.0)[0]
    assert probs[0].item() == pytest.approx(top, abs=5e-5)
    assert -(probs * probs.log()).sum().item() / math.log(10) == pytest.approx(entropy, abs=5e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0.5, 4), st.floats(1, 100), st.floats(0.2, 3))
def test_temperature_rises_with_sensitivity_within_its_bounds(scores, base, factor, exponent):
    sensitivity = torch.tensor(sorted(scores), dtype=torch.float64)
    temperature = swing_temperature(sensitivity, base=base, maximum=base * factor, exponent=exponent)
    assert (temperature.diff() >= -1e-12).all()
    assert (temperature >= base - 1e-12).all()
    assert (temperature <= base * factor + 1e-9).all()


def test_temperature_is_exact_at_both_ends():
    temperature = swing_temperature(torch.tensor([0.0, 1.0]), base=1.7, maximum=63.3, exponent=0.5)
    assert temperature.tolist() == torch.tensor([1.7, 63.3]).tolist()


def test_entropy_of_targets_never_falls_with_sensitivity():
    logits = 5 * torch.randn(1, 8, dtype=torch.float64).expand(50, 8)
    probs = swing_soft_targets(logits, torch.linspace(0, 1, 50, dtype=torch.float64))
    assert (torch.special.entr(probs).sum(dim=1).diff() >= -1e-12).all()


# ── Noise ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("law", ["laplace", "gaussian"])
def test_noise_has_the_law_and_scale_that_are_asked_for(law):
    """With a floor far below and one coordinate of 10⁵ values the sum is known, so raw noise can be read off."""
    count, scale = 100_000, 1e-7
    probs = torch.full((1, count), 1 / count, dtype=torch.float64)
    noisy = perturb_distribution(probs, scale=torch.tensor([scale]), law=law, generator=generator(), floor=1e-300)
    noise = (noisy - probs)[0] / scale
    assert abs(noise.mean().item()) < 0.02
    if law == "laplace":
        assert noise.abs().mean().item() == pytest.approx(1.0, abs=0.02)  # b
        assert (noise.abs() > math.log(20)).double().mean().item() == pytest.approx(0.05, abs=0.004)
    else:
        assert noise.std().item() == pytest.approx(1.0, abs=0.02)
        assert (noise.abs() > 1.959964).double().mean().item() == pytest.approx(0.05, abs=0.004)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.floats(0, 1e4), st.sampled_from(["laplace", "gaussian"]), st.integers(0, 99))
def test_perturbed_targets_are_distributions(vocabulary, scale, law, seed):
    probs = torch.randn(4, vocabulary).softmax(dim=1)
    noisy = perturb_distribution(probs, scale=torch.full((4,), scale), law=law, generator=generator(seed))
    assert (noisy > 0).all() or scale == 0
    assert torch.allclose(noisy.sum(dim=1), torch.ones(4))


def test_a_seed_gives_the_same_noise_and_another_seed_other_noise():
    probs, scale = torch.randn(3, 6).softmax(dim=1), torch.full((3,), 0.3)
    first, again, other = (perturb_distribution(probs, scale=scale, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_scale_zero_changes_nothing():
    probs = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    noisy = perturb_distribution(probs, scale=torch.tensor([0.0, 1.0]), generator=generator())
    assert torch.equal(noisy[0], probs[0])
    assert not torch.equal(noisy[1], probs[1])


def test_noise_on_all_is_the_noise_of_private_tokens():
    logits, sensitivity = torch.randn(2, 4, 6), torch.zeros(2, 4)
    base = {"base_temperature": 2.0, "max_temperature": 2.0, "epsilon": 1.0}
    on_all = swing_soft_targets(logits, sensitivity, noise_on="all", generator=generator(), **base)
    as_private = swing_soft_targets(logits, torch.ones(2, 4), generator=generator(), **base)
    assert torch.equal(on_all, as_private)
    assert torch.equal(swing_soft_targets(logits, sensitivity, **base), (logits / 2).softmax(dim=-1))


# ── Loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_agrees_with_a_slow_reference():
    student, teacher, target, sensitivity = sequences()
    values = swing_distillation(
        student,
        teacher,
        target,
        sensitivity,
        base_temperature=2.0,
        max_temperature=16.0,
        alpha=0.7,
        reduction="none",
    )
    expected = slow_swing(student, teacher, target, sensitivity, 2.0, 16.0, 0.7)
    assert values.flatten().tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("epsilon", [math.inf, 2.0])
def test_without_private_tokens_it_is_plain_distillation(epsilon):
    student, teacher, target, _ = sequences()
    target[0, 1] = -100
    public = torch.zeros(2, 3, dtype=torch.float64)
    loss = swing_distillation(student, teacher, target, public, base_temperature=3.0, epsilon=epsilon)
    torch.testing.assert_close(loss, knowledge_distillation(student, teacher, target, alpha=0.9, temperature=3.0))


def test_all_private_and_very_hot_is_a_uniform_target_without_a_label():
    student, teacher, target, _ = sequences()
    student.requires_grad_()
    private = torch.ones(2, 3, dtype=torch.float64)
    loss = swing_distillation(student, teacher, target, private, max_temperature=1e12, alpha=0.5)
    uniform = torch.full_like(student, 1 / 5)
    expected = 0.5 * F.kl_div(student.log_softmax(-1), uniform, reduction="none").sum(-1).mean()
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradient, 0.5 * (student.softmax(-1) - uniform).detach() / 6)


def test_released_targets_stand_for_the_teacher():
    student, teacher, target, sensitivity = sequences()
    released = swing_soft_targets(teacher, sensitivity, epsilon=2.0, generator=generator(5))
    drawn = swing_distillation(student, teacher, target, sensitivity, epsilon=2.0, generator=generator(5))
    given = swing_distillation(student, None, target, sensitivity, noisy_targets=released)
    torch.testing.assert_close(drawn, given)
    ignored = swing_distillation(student, 1e3 * teacher, target, sensitivity, noisy_targets=released, epsilon=1e-3)
    assert torch.equal(ignored, given)


@pytest.mark.parametrize("student_temperature", ["base", "same"])
def test_gradient_matches_finite_differences(student_temperature):
    student, teacher, target, sensitivity = sequences()
    target[1, 2] = -100
    torch.autograd.gradcheck(
        lambda logits: swing_distillation(
            logits,
            teacher,
            target,
            sensitivity,
            base_temperature=2.0,
            alpha=0.6,
            student_temperature=student_temperature,
            epsilon=3.0,
            generator=generator(),
        ),
        student.requires_grad_(),
    )


def test_skipped_positions_say_nothing():
    student, teacher, target, sensitivity = sequences()
    target[0, 1:] = -100
    student.requires_grad_()
    kept = target != -100

    def loss(student, teacher, sensitivity, **options):
        return swing_distillation(student, teacher, target, sensitivity, epsilon=2.0, generator=generator(), **options)

    whole = loss(student, teacher, sensitivity)
    (gradient,) = torch.autograd.grad(whole, student)
    assert not gradient[~kept].any()
    assert gradient[kept].any()
    other = [torch.where(kept.unsqueeze(-1), value, value + 7) for value in (student, teacher)]
    other[0][0, 2, 0] = math.nan  # what is skipped may be anything
    assert torch.equal(loss(*other, torch.where(kept, sensitivity, 0.5)), whole)
    rows = loss(student, teacher, sensitivity, reduction="none")
    assert rows.shape == target.shape
    assert not rows[~kept].any()
    torch.testing.assert_close(rows.sum(), loss(student, teacher, sensitivity, reduction="sum"))
    torch.testing.assert_close(rows.sum() / kept.sum(), whole)


def test_a_batch_of_padding_teaches_nothing():
    student, teacher, target, sensitivity = sequences()
    loss = swing_distillation(student.requires_grad_(), teacher, torch.full_like(target, -100), sensitivity)
    loss.backward()
    assert loss == 0
    assert not student.grad.any()


def test_no_gradient_reaches_teacher_or_released_targets():
    student, teacher, target, sensitivity = sequences()
    student.requires_grad_()
    teacher.requires_grad_()
    swing_distillation(student, teacher, target, sensitivity, epsilon=2.0, generator=generator()).backward()
    assert teacher.grad is None
    released = teacher.softmax(dim=-1)
    swing_distillation(student, None, target, sensitivity, noisy_targets=released).backward()
    assert teacher.grad is None


def test_half_precision_is_computed_in_float32():
    student, teacher, target, sensitivity = sequences(dtype=torch.bfloat16)
    loss = swing_distillation(student, teacher, target, sensitivity)
    exact = swing_distillation(student.double(), teacher.double(), target, sensitivity.double())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)


def test_huge_logits_stay_finite():
    student, teacher, target, sensitivity = sequences(dtype=torch.float32)
    student = (1e4 * student.sign()).requires_grad_()
    loss = swing_distillation(student, 1e4 * teacher.sign(), target, sensitivity, epsilon=2.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


# ── What the parts are for ───────────────────────────────────────────────────────────────────────────────────────────


def converged(teacher: Tensor, *, steps: int = 300, rate: float = 4.0, **options) -> Tensor:
    """Logits `[copies, vocabulary]` of a student that learned single private positions to the end."""
    student = torch.zeros_like(teacher).unsqueeze(1).requires_grad_()
    private = torch.ones(len(teacher), 1, dtype=teacher.dtype)
    target = torch.zeros(len(teacher), 1, dtype=torch.int64)
    optimizer = torch.optim.SGD([student], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        swing_distillation(student, teacher.unsqueeze(1), target, private, reduction="sum", **options).backward()
        optimizer.step()
    return student.detach()[:, 0]


def test_softening_the_student_alike_without_noise_recovers_the_teacher():
    teacher = torch.tensor([[3.0, 1.0, 0.0, -1.0, -3.0]], dtype=torch.float64)
    student = converged(teacher, max_temperature=4.0, student_temperature="same", rate=40.0)
    torch.testing.assert_close(student - student.mean(), teacher - teacher.mean(), atol=1e-4, rtol=1e-4)


def test_a_high_temperature_alone_shrinks_the_secret_but_keeps_its_rank():
    teacher = torch.tensor([[3.0, 1.0, 0.0, -1.0, -3.0]], dtype=torch.float64)
    student = converged(teacher, max_temperature=16.0)
    torch.testing.assert_close(student - student.mean(), (teacher - teacher.mean()) / 16, atol=1e-4, rtol=1e-4)
    assert torch.equal(student.argsort(), teacher.argsort())


def test_noise_above_the_margin_leaves_the_secret_at_chance():
    seeds, vocabulary = 400, 8
    teacher = F.one_hot(torch.zeros(seeds, dtype=torch.int64), vocabulary).double() * 8
    released = swing_soft_targets(teacher, torch.ones(seeds), epsilon=2.0, generator=generator())
    student = converged(teacher, noisy_targets=released.unsqueeze(1))
    share = (student.argmax(dim=1) == 0).double().mean().item()
    spread = math.sqrt((1 / vocabulary) * (1 - 1 / vocabulary) / seeds)
    assert share == pytest.approx(1 / vocabulary, abs=4 * spread)


def test_noise_drawn_anew_in_every_step_averages_out():
    """The pitfall that releasing targets once is there for."""
    teacher = F.one_hot(torch.zeros(1, dtype=torch.int64), 4).double() * 8
    options = {"max_temperature": 4.0, "epsilon": 4.0, "steps": 300, "rate": 0.2}
    renewed = [converged(teacher, generator=generator(seed), **options).argmax().item() for seed in range(2)]
    assert renewed == [0, 0]


# ── Module and bad input ─────────────────────────────────────────────────────────────────────────────────────────────


def test_module_reads_sensitivities_from_the_batch():
    student, teacher, target, sensitivity = sequences(dtype=torch.float32)
    batch = Batch(torch.zeros(2, 3), target, torch.arange(2), extras={"sensitivity": sensitivity})
    options = {"base_temperature": 2.0, "max_temperature": 9.0, "exponent": 2.0, "student_temperature": "same"}
    loss = SwingDistillation(**options)(Outputs(logits=student), Outputs(logits=teacher), batch)
    assert torch.equal(loss, swing_distillation(student, teacher, target, sensitivity, **options))


def test_module_takes_released_logarithms_as_they_are():
    student, teacher, target, sensitivity = sequences(dtype=torch.float32)
    released = swing_soft_targets(teacher, sensitivity, epsilon=2.0)
    loss = SwingDistillation(released=True)(student, released.log(), target, sensitivity)
    torch.testing.assert_close(loss, swing_distillation(student, None, target, sensitivity, noisy_targets=released))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_temperature": 0.0}, "`base_temperature` to be positive"),
        ({"base_temperature": 3.0, "max_temperature": 2.0}, "`max_temperature` to be at least `base_temperature`"),
        ({"exponent": -1.0}, "`exponent` to be positive"),
        ({"epsilon": 0.0}, "`epsilon` to be positive"),
        ({"epsilon": math.nan}, "`epsilon` to be positive"),
        ({"alpha": 1.1}, "`alpha`"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        swing_distillation(*sequences(), **options)
    with pytest.raises(ValueError, match=message):
        SwingDistillation(**options)


@pytest.mark.parametrize("option", ["noise_on", "student_temperature", "reduction"])
def test_unknown_options_are_refused(option):
    with pytest.raises((ValueError, TypeCheckError)):  # in tests the annotation speaks first
        swing_distillation(*sequences(), **{option: "hot"})


def test_wrong_tensors_are_refused():
    student, teacher, target, sensitivity = sequences()
    with pytest.raises(ValueError, match=r"`sensitivity` to hold values in \[0, 1\], but got 1.5"):
        swing_distillation(student, teacher, target, sensitivity.clone().fill_(1.5))
    with pytest.raises(ValueError, match="same shape"):
        swing_distillation(student, teacher, target, sensitivity[:, :2])
    with pytest.raises(ValueError, match="number of classes, but got 5 and 4"):
        swing_distillation(student, teacher[..., :4], target, sensitivity)
    with pytest.raises(ValueError, match="both are None"):
        swing_distillation(student, None, target, sensitivity)
    with pytest.raises(ValueError, match="`noisy_targets` to hold probabilities"):
        swing_distillation(student, None, target, sensitivity, noisy_targets=teacher)
    with pytest.raises(ValueError, match="`teacher_logits` to be finite"):
        swing_distillation(student, teacher / 0, target, sensitivity)
    with pytest.raises(ValueError, match="`student_logits` to be finite"):
        swing_distillation(student / 0, teacher, target, sensitivity)
    with pytest.raises(ValueError, match=r"classes in \[0, 5\)"):
        swing_distillation(student, teacher, target + 5, sensitivity)
    with pytest.raises(ValueError, match="`maximum` to be at least `base`"):
        swing_temperature(sensitivity, base=2.0, maximum=1.0)


def test_wrong_noise_is_refused():
    probs = torch.tensor([[0.5, 0.5]])
    with pytest.raises(ValueError, match="no negative value"):
        perturb_distribution(probs, scale=torch.tensor([-1.0]))
    with pytest.raises(ValueError, match="`scale` to be finite"):
        perturb_distribution(probs, scale=torch.tensor([math.inf]))
    with pytest.raises(ValueError, match="same shape"):
        perturb_distribution(probs, scale=torch.ones(2))
    with pytest.raises(ValueError, match="sum to 1"):
        perturb_distribution(2 * probs, scale=torch.ones(1))
    with pytest.raises((ValueError, TypeCheckError)):
        perturb_distribution(probs, scale=torch.ones(1), law="cauchy")
    with pytest.raises(ValueError, match="`floor`"):
        perturb_distribution(probs, scale=torch.ones(1), floor=0.0)
