"""Swing distillation: private tokens get hot and noisy soft targets and no label, all others are distilled as usual.

Source: "Swing Distillation: A Privacy-Preserving Knowledge Distillation Framework", arXiv 2212.08349. The paper fixes
the ideas; the temperature map, the law and scale of the noise and the defaults here are ours. No formal (ε, δ)
guarantee is claimed: ε sets the scale of the noise of one released vector, and composition over tokens is not
accounted.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tutelage._checks import (
    Reduction,
    check_finite,
    check_floating,
    check_in_range,
    check_option,
    check_positive,
    check_probabilities,
    check_same_logits,
    check_same_shape,
    check_target,
    check_unit_interval,
)
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import IGNORE_INDEX, mean_over_positions
from tutelage.objectives.precision import at_least_float32

NoiseLaw = Literal["laplace", "gaussian"]
NoiseOn = Literal["private", "all"]
StudentTemperature = Literal["base", "same"]


def swing_temperature(
    sensitivity: Float[Tensor, "..."], *, base: float = 1.0, maximum: float = 64.0, exponent: float = 1.0
) -> Float[Tensor, "..."]:
    """A temperature for every token: τ = base + (maximum − base) · p^exponent, p its sensitivity.

    Args:
        sensitivity: `[...]` in [0, 1]: how likely the token to be predicted is private.
        base: The temperature of a public token.
        maximum: The temperature of a token that is private for sure, at least `base`.
        exponent: Below 1 even doubtful tokens become hot, above 1 only sure ones.

    Returns:
        `[...]` in [base, maximum], non-decreasing in the sensitivity.

    Raises:
        ValueError: A sensitivity outside [0, 1], `base` or `exponent` not positive, or `maximum` below `base`.

    >>> swing_temperature(torch.tensor([0.0, 0.5, 1.0]), base=2.0, maximum=64.0)
    tensor([ 2., 33., 64.])
    """
    _check_temperatures(base, maximum, exponent, names=("base", "maximum"))
    check_floating(sensitivity, "sensitivity")
    check_unit_interval(sensitivity, "sensitivity", tolerance=0.0)
    return torch.lerp(
        torch.full_like(sensitivity, base), torch.full_like(sensitivity, maximum), sensitivity.pow(exponent)
    )


def perturb_distribution(
    probs: Float[Tensor, "... vocabulary"],
    *,
    scale: Float[Tensor, "..."],
    law: NoiseLaw = "laplace",
    generator: torch.Generator | None = None,
    floor: float = 1e-8,
) -> Float[Tensor, "... vocabulary"]:
    """Probabilities with independent noise on each of them: normalise(max(probs + noise, floor)).

    Laplace noise of scale 2/ε on a distribution, whose L1 distance to any other one is at most 2, is the Laplace
    mechanism for one release (Dwork and Roth 2014, section 3.3); clipping and normalising come after it and give
    nothing away. A distribution of scale 0 comes back as it was. The gradient stops here.

    Args:
        probs: `[..., vocabulary]`, each row a distribution.
        scale: `[...]`, one for each distribution: the b of Laplace (the mean of |noise|), or the standard deviation.
        law: `"laplace"` or `"gaussian"`.
        generator: Where the noise comes from; PyTorch's global generator by default. Its device is that of `probs`.
        floor: The least unnormalised probability, positive.

    Returns:
        `[..., vocabulary]`, each row a distribution.

    Raises:
        ValueError: Rows that are no distributions, a scale of another shape, negative or not finite, an unknown law, or
            a floor that is not positive.

    >>> noise = torch.Generator().manual_seed(0)
    >>> noisy = perturb_distribution(torch.tensor([[0.9, 0.1]]), scale=torch.tensor([0.1]), generator=noise)
    >>> bool((noisy > 0).all()), bool(noisy.sum().isclose(torch.tensor(1.0)))
    (True, True)
    """
    check_option(law, "law", ("laplace", "gaussian"))
    check_positive(floor, "floor")
    check_probabilities(probs, "probs")
    check_same_shape(probs[..., 0], scale, "probs[..., 0]", "scale")
    check_finite(scale, "scale")
    if (scale < 0).any():
        raise ValueError(f"Expected argument `scale` to hold no negative value, but got {float(scale.min())}.")
    probs = probs.detach()
    width = scale.detach().to(probs.dtype).unsqueeze(-1)
    noisy = (probs + width * _standard_noise(probs, law, generator)).clamp_min(floor)
    return torch.where(width > 0, noisy / noisy.sum(dim=-1, keepdim=True), probs)


def swing_soft_targets(
    teacher_logits: Float[Tensor, "... vocabulary"],
    sensitivity: Float[Tensor, "..."],
    *,
    base_temperature: float = 1.0,
    max_temperature: float = 64.0,
    exponent: float = 1.0,
    epsilon: float = math.inf,
    noise_on: NoiseOn = "private",
    generator: torch.Generator | None = None,
) -> Float[Tensor, "... vocabulary"]:
    """What a student may see of a teacher: softmax(logits / τ) of every token with Laplace noise of scale 2p/ε.

    `tutelage.teachers.release_soft_targets` draws it once and stores it; two draws of the same target halve the
    variance that protects it. No gradient reaches the teacher.

    Args:
        teacher_logits: `[..., vocabulary]`, finite.
        sensitivity: `[...]` in [0, 1], p.
        base_temperature: The temperature at p = 0.
        max_temperature: The temperature at p = 1.
        exponent: See `swing_temperature`.
        epsilon: ε, the privacy budget of one released target; infinity for no noise.
        noise_on: `"private"` scales the noise by p, `"all"` gives every token the noise of p = 1.
        generator: Where the noise comes from.

    Returns:
        `[..., vocabulary]` probabilities in float32 or wider.

    Raises:
        ValueError: As for `swing_temperature`; logits that are not finite, a sensitivity of another shape than the
            tokens, `epsilon` not positive, or an unknown `noise_on`.

    >>> teacher = torch.tensor([[0.0, 9.0], [0.0, 9.0]])  # sure of its token, public or private
    >>> swing_soft_targets(teacher, torch.tensor([0.0, 1.0]))
    tensor([[1.2339e-04, 9.9988e-01],
            [4.6490e-01, 5.3510e-01]])
    """
    _check_temperatures(base_temperature, max_temperature, exponent)
    _check_noise(epsilon, noise_on)
    check_finite(teacher_logits, "teacher_logits")
    check_same_shape(teacher_logits[..., 0], sensitivity, "teacher_logits[..., 0]", "sensitivity")
    logits = at_least_float32(teacher_logits.detach())
    sensitivity = sensitivity.to(logits.dtype)
    temperature = swing_temperature(sensitivity, base=base_temperature, maximum=max_temperature, exponent=exponent)
    probs = (logits / temperature.unsqueeze(-1)).softmax(dim=-1)
    if math.isinf(epsilon):
        return probs
    scale = 2 / epsilon * (sensitivity if noise_on == "private" else torch.ones_like(sensitivity))
    return perturb_distribution(probs, scale=scale, generator=generator)


def swing_distillation(
    student_logits: Float[Tensor, "batch time vocabulary"],
    teacher_logits: Float[Tensor, "..."] | None,
    target: Tensor,
    sensitivity: Float[Tensor, "..."],
    *,
    base_temperature: float = 1.0,
    max_temperature: float = 64.0,
    exponent: float = 1.0,
    epsilon: float = math.inf,
    alpha: float = 0.9,
    student_temperature: StudentTemperature = "base",
    noise_on: NoiseOn = "private",
    ignore_index: int = IGNORE_INDEX,
    noisy_targets: Float[Tensor, "..."] | None = None,
    generator: torch.Generator | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Distillation of a language model that passes on little of what is private (arXiv 2212.08349).

    At each position, with its sensitivity p and soft target q (`swing_soft_targets`):

    (1 − α)(1 − p) · CE(student, label) + α · base² · KL(q ‖ softmax(student / τ_S)).

    The label of a private token would leak it, so it counts by 1 − p. The factor is the square of the base temperature
    everywhere: τ² of a private token would undo what its temperature does. With p = 0 everywhere this is
    `knowledge_distillation` at the base temperature. No gradient reaches the teacher or `noisy_targets`.

    Noise must be drawn once for every target, or it averages out over the epochs. Release the targets
    (`tutelage.teachers.release_soft_targets`) and pass them as `noisy_targets`; noise that is drawn here, in the call,
    is right for a single pass over the data only.

    Args:
        student_logits: `[batch, time, vocabulary]`.
        teacher_logits: `[batch, time, vocabulary]`; not read, and may be None, when `noisy_targets` is given.
        target: `[batch, time]` tokens, or `ignore_index` at positions to skip.
        sensitivity: `[batch, time]` in [0, 1]: how likely the token in `target` is private.
        base_temperature: The temperature of public tokens.
        max_temperature: The temperature of private tokens.
        exponent: See `swing_temperature`.
        epsilon: The privacy budget of one soft target; infinity for no noise. Not read when `noisy_targets` is given.
        alpha: Weight of the teacher's term, in [0, 1].
        student_temperature: `"base"` softens the student by the base temperature everywhere; `"same"` by that of the
            token, so that without noise the student's optimum is the teacher itself.
        noise_on: `"private"` scales the noise by p, `"all"` gives every token the noise of p = 1.
        ignore_index: The label of positions to skip.
        noisy_targets: `[batch, time, vocabulary]` released probabilities that stand for q.
        generator: Where noise comes from.
        reduction: `"mean"` over the positions that count (0 when there are none), `"sum"`, or `"none"`:
            `[batch, time]`, 0 where skipped.

    Returns:
        Nats, in float32 or wider: a scalar, or `[batch, time]`.

    Raises:
        ValueError: Shapes that differ, sensitivities outside [0, 1], a target outside the vocabulary, logits that are
            not finite or `noisy_targets` that are no probabilities where they count, `max_temperature` below
            `base_temperature`, a setting outside its range, or neither teacher logits nor targets.

    >>> student, teacher = torch.zeros(1, 2, 3), torch.tensor([[[9.0, 0.0, 0.0], [9.0, 0.0, 0.0]]])
    >>> target, private = torch.tensor([[0, 0]]), torch.tensor([[0.0, 1.0]])
    >>> swing_distillation(student, teacher, target, private, reduction="none")  # the second one is hardly taught
    tensor([[1.0964, 0.0020]])
    """
    check_option(reduction, "reduction", ("mean", "sum", "none"))
    check_option(student_temperature, "student_temperature", ("base", "same"))
    check_in_range(alpha, "alpha", 0, 1)
    _check_temperatures(base_temperature, max_temperature, exponent)
    _check_noise(epsilon, noise_on)
    check_target(target, student_logits.shape[-1], shape=student_logits.shape[:-1], ignore_index=ignore_index)
    check_same_shape(target, sensitivity, "target", "sensitivity")
    if noisy_targets is not None:
        check_same_shape(student_logits, noisy_targets, "student_logits", "noisy_targets")
    elif teacher_logits is None:
        raise ValueError("Expected argument `teacher_logits` or `noisy_targets` to be given, but both are None.")
    else:
        check_same_logits(student_logits, teacher_logits)

    kept = target != ignore_index
    whole = bool(kept.all())

    def rows(value: Tensor) -> Tensor:
        return value.flatten(0, 1) if whole else value[kept]

    student = at_least_float32(rows(student_logits))
    check_finite(student.detach(), "student_logits")
    private = rows(sensitivity).to(student.dtype)
    temperature = swing_temperature(private, base=base_temperature, maximum=max_temperature, exponent=exponent)
    if noisy_targets is not None:
        soft_target = at_least_float32(rows(noisy_targets.detach()))
        check_probabilities(soft_target, "noisy_targets")
    else:
        assert teacher_logits is not None
        soft_target = swing_soft_targets(
            rows(teacher_logits),
            private,
            base_temperature=base_temperature,
            max_temperature=max_temperature,
            exponent=exponent,
            epsilon=epsilon,
            noise_on=noise_on,
            generator=generator,
        )
    softened = student / (base_temperature if student_temperature == "base" else temperature.unsqueeze(-1))
    soft = (torch.xlogy(soft_target, soft_target) - soft_target * softened.log_softmax(dim=-1)).sum(dim=-1)
    hard = F.cross_entropy(student, rows(target).long(), reduction="none")
    values = (1 - alpha) * (1 - private) * hard + alpha * base_temperature**2 * soft
    if reduction == "none":
        return torch.zeros(target.shape, dtype=values.dtype, device=values.device).masked_scatter(kept, values)
    return values.sum() if reduction == "sum" else mean_over_positions(values)


class SwingDistillation(Objective):
    """Mean `swing_distillation` over the positions of a batch whose label is not to be skipped.

    A batch brings its sensitivities as `extras["sensitivity"]`, `[batch, time]`, aligned with the target. With
    `released=True` the teacher is a cache that `tutelage.teachers.release_soft_targets` wrote: its logits are the
    logarithms of the soft targets, hot and noisy as they are. That is the way to train for more than one epoch.

    Args:
        base_temperature: The temperature of public tokens.
        max_temperature: The temperature of private tokens.
        exponent: See `swing_temperature`.
        epsilon: The privacy budget of one soft target, drawn anew in every call; not read with `released`.
        alpha: Weight of the teacher's term, in [0, 1].
        student_temperature: `"base"` or `"same"`, see `swing_distillation`.
        noise_on: `"private"` or `"all"`; not read with `released`.
        released: Whether the teacher's logits are the logarithms of released targets.
        ignore_index: The label of positions to skip.

    >>> objective = SwingDistillation()
    >>> objective(torch.zeros(1, 1, 3), torch.tensor([[[9.0, 0.0, 0.0]]]), torch.tensor([[0]]), torch.tensor([[1.0]]))
    tensor(0.0020)
    """

    reads = ("student.logits", "teacher.logits", "batch.target", "batch.extras.sensitivity")

    def __init__(
        self,
        *,
        base_temperature: float = 1.0,
        max_temperature: float = 64.0,
        exponent: float = 1.0,
        epsilon: float = math.inf,
        alpha: float = 0.9,
        student_temperature: StudentTemperature = "base",
        noise_on: NoiseOn = "private",
        released: bool = False,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        _check_temperatures(base_temperature, max_temperature, exponent)
        _check_noise(epsilon, noise_on)
        check_in_range(alpha, "alpha", 0, 1)
        check_option(student_temperature, "student_temperature", ("base", "same"))
        self.base_temperature = base_temperature
        self.max_temperature = max_temperature
        self.exponent = exponent
        self.epsilon = epsilon
        self.alpha = alpha
        self.student_temperature = student_temperature
        self.noise_on = noise_on
        self.released = released
        self.ignore_index = ignore_index

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor, sensitivity: Tensor) -> Tensor:
        """The mean over the positions that count."""
        check_same_logits(student_logits, teacher_logits)
        return swing_distillation(
            student_logits,
            teacher_logits,
            target,
            sensitivity,
            base_temperature=self.base_temperature,
            max_temperature=self.max_temperature,
            exponent=self.exponent,
            epsilon=self.epsilon,
            alpha=self.alpha,
            student_temperature=self.student_temperature,
            noise_on=self.noise_on,
            ignore_index=self.ignore_index,
            noisy_targets=at_least_float32(teacher_logits).softmax(dim=-1) if self.released else None,
        )


def _standard_noise(like: Tensor, law: NoiseLaw, generator: torch.Generator | None) -> Tensor:
    """Noise of scale 1 in the shape of `like`."""
    empty = torch.empty(like.shape, dtype=torch.float64, device=like.device)
    if law == "gaussian":
        return empty.normal_(generator=generator).to(like.dtype)
    # The inverse of the distribution function; half a step from both ends, where it is infinite.
    uniform = 2 * empty.uniform_(generator=generator) - 1 + 2.0**-53
    return (-uniform.sign() * torch.log1p(-uniform.abs())).to(like.dtype)


def _check_temperatures(
    base: float, maximum: float, exponent: float, names: tuple[str, str] = ("base_temperature", "max_temperature")
) -> None:
    check_positive(base, names[0])
    check_positive(maximum, names[1])
    check_positive(exponent, "exponent")
    if maximum < base:
        raise ValueError(f"Expected argument `{names[1]}` to be at least `{names[0]}` ({base}), but got {maximum}.")


def _check_noise(epsilon: float, noise_on: str) -> None:
    if not epsilon > 0:
        raise ValueError(f"Expected argument `epsilon` to be positive, or infinite for no noise, but got {epsilon}.")
    check_option(noise_on, "noise_on", ("private", "all"))
