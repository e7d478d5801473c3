"""Divergences between what a teacher and a student predict, and how certain a prediction is.

"Forward" and "reverse" are seen from the student: forward KL(teacher ‖ student) makes it cover all that the teacher
holds possible, reverse KL(student ‖ teacher) makes it settle on a part. All are in nats and without the factor T².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage._checks import (
    Reduction,
    check_in_range,
    check_option,
    check_positive,
    check_same_logits,
    check_same_shape,
    reduce,
)
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import IGNORE_INDEX, counted, mean_over_positions
from tutelage.objectives.precision import log_probabilities

DivergenceKind = Literal["forward_kl", "reverse_kl", "jsd"]


def forward_kl(
    student_logits: Float[Tensor, "... classes"],
    teacher_logits: Float[Tensor, "..."],
    *,
    temperature: float = 1.0,
    reduction: Reduction = "none",
) -> Float[Tensor, "..."]:
    """Kullback–Leibler divergence KL(teacher ‖ student) of softened predictions (Hinton et al., 2015).

    KL = Σ_c p_T (log p_T − log p_S), p = softmax(logits / temperature). No factor T². The gradient reaches both
    arguments: detach the one that shall not learn. With respect to `student_logits` it is (p_S − p_T) / temperature.

    Args:
        student_logits: `[..., classes]`.
        teacher_logits: `[..., classes]`.
        temperature: Softens both predictions.
        reduction: `"none"` (one value for each row), `"mean"` or `"sum"`.

    Returns:
        Nats, in float32 or wider: `[...]`, or a scalar when reduced.

    Raises:
        ValueError: Shapes that differ, a temperature that is not positive, or an unknown reduction.

    >>> teacher, student = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.7, 0.2, 0.1]]).log()
    >>> forward_kl(student, teacher)
    tensor([0.0920])
    """
    student, teacher = _log_probability_pair(student_logits, teacher_logits, temperature)
    return reduce(_kl(teacher, student), reduction)


def reverse_kl(
    student_logits: Float[Tensor, "... classes"],
    teacher_logits: Float[Tensor, "..."],
    *,
    temperature: float = 1.0,
    reduction: Reduction = "none",
) -> Float[Tensor, "..."]:
    """Kullback–Leibler divergence KL(student ‖ teacher) of softened predictions: `forward_kl` with the roles exchanged.

    KL = Σ_c p_S (log p_S − log p_T). No factor T²; the gradient reaches both arguments. With respect to
    `student_logits` it is p_S (log p_S − log p_T − KL) / temperature. Arguments, result and errors are those of
    `forward_kl`.

    >>> teacher, student = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.7, 0.2, 0.1]]).log()
    >>> reverse_kl(student, teacher)
    tensor([0.0851])
    """
    student, teacher = _log_probability_pair(student_logits, teacher_logits, temperature)
    return reduce(_kl(student, teacher), reduction)


def jensen_shannon(
    student_logits: Float[Tensor, "... classes"],
    teacher_logits: Float[Tensor, "..."],
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    reduction: Reduction = "none",
) -> Float[Tensor, "..."]:
    """Generalised Jensen–Shannon divergence (Agarwal et al., "On-policy distillation", 2024, equation 2).

    JSD_β = β KL(p_T ‖ m) + (1−β) KL(p_S ‖ m) with m = β p_T + (1−β) p_S. It vanishes as β goes to 0 or 1, while JSD_β
    / β tends to the forward and JSD_β / (1−β) to the reverse KL; for β of exactly 0 and 1 these two are returned, as
    public implementations do. β = ½ gives at most ln 2. No factor T²; the gradient reaches both arguments.

    Args:
        student_logits: `[..., classes]`.
        teacher_logits: `[..., classes]`.
        beta: The teacher's share of the mixture, in [0, 1].
        temperature: Softens both predictions.
        reduction: `"none"` (one value for each row), `"mean"` or `"sum"`.

    Returns:
        Nats, in float32 or wider: `[...]`, or a scalar when reduced.

    Raises:
        ValueError: Shapes that differ, `beta` outside [0, 1], a temperature that is not positive, an unknown reduction.

    >>> teacher, student = torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.4, 0.4, 0.2]]).log()
    >>> jensen_shannon(student, teacher)
    tensor([0.0462])
    """
    check_in_range(beta, "beta", 0, 1)
    student, teacher = _log_probability_pair(student_logits, teacher_logits, temperature)
    if beta == 0:
        return reduce(_kl(teacher, student), reduction)
    if beta == 1:
        return reduce(_kl(student, teacher), reduction)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return reduce(beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture), reduction)


def total_variation(
    student_logits: Float[Tensor, "... classes"],
    teacher_logits: Float[Tensor, "..."],
    *,
    temperature: float = 1.0,
    reduction: Reduction = "none",
) -> Float[Tensor, "..."]:
    """Total variation distance ½ Σ_c |p_S − p_T|, in [0, 1].

    No factor T²; the gradient reaches both arguments. Arguments and errors are those of `forward_kl`.

    >>> teacher, student = torch.tensor([[0.7, 0.3]]).log(), torch.tensor([[0.9, 0.1]]).log()
    >>> total_variation(student, teacher)
    tensor([0.2000])
    """
    student, teacher = _log_probability_pair(student_logits, teacher_logits, temperature)
    return reduce((student.exp() - teacher.exp()).abs().sum(dim=-1) / 2, reduction)


def soft_cross_entropy(
    student_logits: Float[Tensor, "... classes"],
    teacher_logits: Float[Tensor, "..."],
    *,
    teacher_temperature: float = 1.0,
    student_temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy with the teacher's softened prediction as label: −Σ_c softmax(t / T_t)_c log softmax(s / T_s)_c.

    It is the forward KL plus the teacher's entropy, with a temperature for each side (a teacher sharper than the
    student: Caron et al., "DINO", 2021). No factor T²; the gradient reaches both arguments.

    Args:
        student_logits: `[..., classes]`.
        teacher_logits: `[..., classes]`.
        teacher_temperature: Softens the teacher's prediction.
        student_temperature: Softens the student's prediction.
        reduction: `"mean"` over rows, `"sum"`, or `"none"` (one value for each row).

    Returns:
        Nats, in float32 or wider: a scalar, or `[...]`.

    Raises:
        ValueError: Shapes that differ, a temperature that is not positive, or an unknown reduction.

    >>> soft_cross_entropy(torch.zeros(2, 4), torch.randn(2, 4))
    tensor(1.3863)
    """
    check_positive(teacher_temperature, "teacher_temperature")
    check_positive(student_temperature, "student_temperature")
    check_same_logits(student_logits, teacher_logits)
    probabilities = log_probabilities(teacher_logits, teacher_temperature).exp()
    return reduce(-(probabilities * log_probabilities(student_logits, student_temperature)).sum(dim=-1), reduction)


def token_divergence(
    student_logits: Float[Tensor, "batch time vocabulary"],
    teacher_logits: Float[Tensor, "..."],
    mask: Tensor,
    *,
    kind: DivergenceKind = "forward_kl",
    beta: float = 0.5,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = False,
    token_average: Literal["token", "sequence"] = "token",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """A divergence between next-token predictions, averaged over the unmasked tokens of a batch of sequences.

    Only unmasked positions are computed. No gradient reaches the teacher. Where one vocabulary is larger (rows added
    for padding), both logits are cut to the smaller one before the softmax.

    Args:
        student_logits: `[batch, time, vocabulary]`.
        teacher_logits: `[batch, time, vocabulary]`; the vocabulary may have another size.
        mask: `[batch, time]`, true (or non-zero) for tokens that count.
        kind: `"forward_kl"`, `"reverse_kl"`, or `"jsd"` (`jensen_shannon` with `beta`).
        beta: The teacher's share of the mixture of `"jsd"`.
        temperature: Softens both predictions.
        scale_by_temperature_squared: Multiply by temperature², which keeps the size of the gradient.
        token_average: `"token"`: all tokens of the batch weigh the same. `"sequence"`: first the mean over the tokens
            of each sequence, so that all sequences weigh the same.
        reduction: `"mean"`; `"sum"` over tokens or over the means of sequences; `"none"`: `[batch, time]` with 0 at
            masked tokens, or `[batch]` for `token_average="sequence"`.

    Returns:
        Nats for each token, in float32 or wider.

    Raises:
        ValueError: Shapes that do not fit; an unknown option; no unmasked token in the batch, or, for
            `token_average="sequence"`, in one of the sequences.

    >>> teacher, student = torch.tensor([[[0.7, 0.2, 0.1]]]).log(), torch.tensor([[[0.4, 0.4, 0.2]]]).log()
    >>> token_divergence(student, teacher, torch.ones(1, 1, dtype=torch.bool), kind="reverse_kl")
    tensor(0.1920)
    """
    check_option(kind, "kind", ("forward_kl", "reverse_kl", "jsd"))
    check_option(token_average, "token_average", ("token", "sequence"))
    check_option(reduction, "reduction", ("mean", "sum", "none"))
    check_same_shape(student_logits[..., 0], teacher_logits[..., 0], "student_logits[..., 0]", "teacher_logits[..., 0]")
    check_same_shape(student_logits[..., 0], mask, "student_logits[..., 0]", "mask")
    kept = mask.bool()
    tokens = kept.sum(dim=1)
    if (tokens.min() if token_average == "sequence" else tokens.sum()) == 0:
        raise ValueError("Expected argument `mask` to keep at least one token of every sequence, but it keeps none.")
    vocabulary = min(student_logits.shape[-1], teacher_logits.shape[-1])
    student, teacher = student_logits[..., :vocabulary][kept], teacher_logits.detach()[..., :vocabulary][kept]
    if kind == "jsd":
        rows = jensen_shannon(student, teacher, beta=beta, temperature=temperature)
    else:
        rows = (forward_kl if kind == "forward_kl" else reverse_kl)(student, teacher, temperature=temperature)
    if scale_by_temperature_squared:
        rows = rows * temperature**2
    if token_average == "token" and reduction != "none":
        return reduce(rows, reduction)
    values = torch.zeros(mask.shape, dtype=rows.dtype, device=rows.device).masked_scatter(kept, rows)
    return values if token_average == "token" else reduce(values.sum(dim=1) / tokens, reduction)


def predictive_entropy(
    logits: Float[Tensor, "... classes"], *, temperature: float = 1.0, reduction: Reduction = "none"
) -> Float[Tensor, "..."]:
    """Entropy −Σ_c p log p of softmax(logits / temperature): how uncertain a prediction is, from 0 to ln classes.

    Args:
        logits: `[..., classes]`.
        temperature: Softens the prediction.
        reduction: `"none"` (one value for each row), `"mean"` or `"sum"`.

    Returns:
        Nats, positive, in float32 or wider: `[...]`, or a scalar when reduced. The gradient reaches `logits`.

    Raises:
        ValueError: A temperature that is not positive, or an unknown reduction.

    >>> predictive_entropy(torch.tensor([[0.7, 0.2, 0.1]]).log())
    tensor([0.8018])
    """
    check_positive(temperature, "temperature")
    log_probability = log_probabilities(logits, temperature)
    return reduce(-(log_probability.exp() * log_probability).sum(dim=-1), reduction)


def predictive_confidence(
    logits: Float[Tensor, "... classes"], *, temperature: float = 1.0, reduction: Reduction = "none"
) -> Float[Tensor, "..."]:
    """The largest probability of softmax(logits / temperature): how sure a prediction is, from 1 / classes to 1.

    Arguments and errors are those of `predictive_entropy`.

    >>> predictive_confidence(torch.tensor([[0.7, 0.2, 0.1]]).log())
    tensor([0.7000])
    """
    check_positive(temperature, "temperature")
    return reduce(log_probabilities(logits, temperature).amax(dim=-1).exp(), reduction)


def _log_probability_pair(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    check_positive(temperature, "temperature")
    check_same_logits(student_logits, teacher_logits)
    return log_probabilities(student_logits, temperature), log_probabilities(teacher_logits, temperature)


def _kl(first: Tensor, second: Tensor) -> Tensor:
    return (first.exp() * (first - second)).sum(dim=-1)


class _Divergence(Objective):
    """The mean of a divergence over samples, or over the positions of sequences whose label is not -100."""

    reads = ("student.logits", "teacher.logits", "batch.target?")
    divergence: Callable[..., Tensor]

    def __init__(self, *, temperature: float = 1.0, scale_by_temperature_squared: bool = False) -> None:
        super().__init__()
        check_positive(temperature, "temperature")
        self.temperature = temperature
        self.scale_by_temperature_squared = scale_by_temperature_squared
        self.options: dict[str, float] = {}

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """The mean over samples or counted positions."""
        rows = self.divergence(
            *counted(target, student_logits, teacher_logits.detach()), temperature=self.temperature, **self.options
        )
        return mean_over_positions(rows) * (self.temperature**2 if self.scale_by_temperature_squared else 1)


class ForwardKL(_Divergence):
    """Mean `forward_kl` over a batch; the teacher gets no gradient.

    Logits are `[batch, classes]`, or `[batch, time, vocabulary]` with the mean over the positions whose label is not
    -100 (over all positions where the batch has no target).

    Args:
        temperature: Softens both predictions.
        scale_by_temperature_squared: Multiply by temperature², which keeps the size of the gradient.

    >>> ForwardKL(temperature=2.0)(torch.ones(2, 3), torch.zeros(2, 3))
    tensor(0.)
    """

    divergence = staticmethod(forward_kl)


class ReverseKL(_Divergence):
    """Mean `reverse_kl` over a batch; arguments, positions and the detached teacher are those of `ForwardKL`.

    >>> ReverseKL()(torch.ones(2, 3), torch.zeros(2, 3))
    tensor(0.)
    """

    divergence = staticmethod(reverse_kl)


class JensenShannon(_Divergence):
    """Mean `jensen_shannon` over a batch; positions and the detached teacher are those of `ForwardKL`.

    Args:
        beta: The teacher's share of the mixture, in [0, 1].
        temperature: Softens both predictions.
        scale_by_temperature_squared: Multiply by temperature², which keeps the size of the gradient.

    >>> JensenShannon()(torch.log(torch.tensor([[0.4, 0.4, 0.2]])), torch.log(torch.tensor([[0.7, 0.2, 0.1]])))
    tensor(0.0462)
    """

    divergence = staticmethod(jensen_shannon)

    def __init__(
        self, *, beta: float = 0.5, temperature: float = 1.0, scale_by_temperature_squared: bool = False
    ) -> None:
        super().__init__(temperature=temperature, scale_by_temperature_squared=scale_by_temperature_squared)
        check_in_range(beta, "beta", 0, 1)
        self.options["beta"] = beta


class TotalVariation(_Divergence):
    """Mean `total_variation` over a batch; arguments, positions and the detached teacher are those of `ForwardKL`.

    >>> TotalVariation()(torch.log(torch.tensor([[0.9, 0.1]])), torch.log(torch.tensor([[0.7, 0.3]])))
    tensor(0.2000)
    """

    divergence = staticmethod(total_variation)


class SoftCrossEntropy(Objective):
    """Mean `soft_cross_entropy` over a batch; positions and the detached teacher are those of `ForwardKL`.

    Args:
        teacher_temperature: Softens the teacher's prediction.
        student_temperature: Softens the student's prediction.

    >>> SoftCrossEntropy()(torch.zeros(2, 4), torch.randn(2, 4))
    tensor(1.3863)
    """

    reads = ("student.logits", "teacher.logits", "batch.target?")

    def __init__(self, *, teacher_temperature: float = 1.0, student_temperature: float = 1.0) -> None:
        super().__init__()
        check_positive(teacher_temperature, "teacher_temperature")
        check_positive(student_temperature, "student_temperature")
        self.teacher_temperature = teacher_temperature
        self.student_temperature = student_temperature

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """The mean over samples or counted positions."""
        rows = soft_cross_entropy(
            *counted(target, student_logits, teacher_logits.detach()),
            teacher_temperature=self.teacher_temperature,
            student_temperature=self.student_temperature,
            reduction="none",
        )
        return mean_over_positions(rows)


class TokenDivergence(Objective):
    """`token_divergence` over the tokens whose label is not -100; the teacher gets no gradient.

    Args:
        kind: `"forward_kl"`, `"reverse_kl"` or `"jsd"`.
        beta: The teacher's share of the mixture of `"jsd"`.
        temperature: Softens both predictions.
        scale_by_temperature_squared: Multiply by temperature², which keeps the size of the gradient.
        token_average: `"token"` (all tokens of the batch weigh the same) or `"sequence"` (all sequences do).

    >>> logits = torch.zeros(1, 2, 3)
    >>> TokenDivergence(kind="jsd")(logits, logits, torch.tensor([[0, -100]]))
    tensor(0.)
    """

    def __init__(
        self,
        *,
        kind: DivergenceKind = "forward_kl",
        beta: float = 0.5,
        temperature: float = 1.0,
        scale_by_temperature_squared: bool = False,
        token_average: Literal["token", "sequence"] = "token",
    ) -> None:
        super().__init__()
        check_option(kind, "kind", ("forward_kl", "reverse_kl", "jsd"))
        check_in_range(beta, "beta", 0, 1)
        check_positive(temperature, "temperature")
        check_option(token_average, "token_average", ("token", "sequence"))
        self.kind, self.beta, self.temperature = kind, beta, temperature
        self.scale_by_temperature_squared = scale_by_temperature_squared
        self.token_average = token_average

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over labelled tokens."""
        return token_divergence(
            student_logits,
            teacher_logits,
            target != IGNORE_INDEX,
            kind=self.kind,
            beta=self.beta,
            temperature=self.temperature,
            scale_by_temperature_squared=self.scale_by_temperature_squared,
            token_average=self.token_average,
        )
