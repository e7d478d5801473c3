"""BD-KD's loss: both Kullback–Leibler directions at once, sample by sample the one that the student needs more."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from tutelage._checks import Reduction, check_positive, check_same_logits, reduce
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import counted, mean_over_positions
from tutelage.objectives.precision import log_probabilities


def balanced_divergence(
    student_logits: Float[Tensor, "... classes"],
    teacher_logits: Float[Tensor, "..."],
    *,
    nu: float = 2.0,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """BD-KD's distillation term for the student (Amara et al., arXiv 2212.12965): T² · (w_F · F + w_R · R).

    F = KL(teacher ‖ student) and R = KL(student ‖ teacher) of softened predictions, with the weights that
    `divergence_weights` gives each sample. The factor T² is included; a weight λ and the cross-entropy are not. No
    gradient reaches the teacher or goes through the weights. With ν = 1 it is T² · (F + R), which is symmetric.

    The teacher's own term, when it learns too, is T² · `forward_kl` with the roles exchanged (`MutualDistillation`).

    Args:
        student_logits: `[..., classes]`.
        teacher_logits: `[..., classes]`.
        nu: The larger of the two weights, at least 1; the smaller one is 1.
        temperature: Softens both predictions, in the divergences and in the entropies that are compared.
        reduction: `"mean"` over rows, `"sum"`, or `"none"` (one value for each row).

    Returns:
        Nats, not negative, in float32 or wider: a scalar, or `[...]`.

    Raises:
        ValueError: Shapes that differ, ν below 1 or not finite, a temperature that is not positive, or an unknown
            reduction.

    >>> import torch
    >>> teacher, student = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.7, 0.2, 0.1]]).log()
    >>> balanced_divergence(student, teacher)  # 2 · 0.0920 + 0.0851: the student is the more confident one
    tensor(0.2692)
    """
    student, teacher = _log_probability_pair(student_logits, teacher_logits.detach(), nu, temperature)
    student_probability, teacher_probability = student.exp(), teacher.exp()
    difference = teacher - student
    forward = (teacher_probability * difference).sum(dim=-1)
    reverse = -(student_probability * difference).sum(dim=-1)
    forward_weight, reverse_weight = _weights(student, student_probability, teacher, teacher_probability, nu)
    return reduce(temperature**2 * (forward_weight * forward + reverse_weight * reverse), reduction)


def divergence_weights(
    student_logits: Float[Tensor, "... classes"],
    teacher_logits: Float[Tensor, "..."],
    *,
    nu: float = 2.0,
    temperature: float = 1.0,
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """The weights of forward and reverse KL that BD-KD gives each sample (Amara et al., arXiv 2212.12965).

    Where the student's prediction has less entropy than the teacher's, it is too sure of itself and (ν, 1) stresses the
    forward direction, which spreads it; elsewhere, and where the entropies are equal, (1, ν) stresses the reverse
    direction, which sharpens it. There is no public code: which direction gets ν, and that the other weight is 1, are
    our reading of the mechanism that the paper describes.

    Args:
        student_logits: `[..., classes]`.
        teacher_logits: `[..., classes]`.
        nu: The larger weight, at least 1.
        temperature: Softens both predictions before their entropies are compared.

    Returns:
        The weights of `forward_kl` and of `reverse_kl`, `[...]` each, in float32 or wider and without a gradient.

    Raises:
        ValueError: Shapes that differ, ν below 1 or not finite, or a temperature that is not positive.

    >>> import torch
    >>> sure, unsure = torch.tensor([[4.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    >>> divergence_weights(sure, unsure), divergence_weights(unsure, sure)
    ((tensor([2.]), tensor([1.])), (tensor([1.]), tensor([2.])))
    """
    student, teacher = _log_probability_pair(student_logits.detach(), teacher_logits.detach(), nu, temperature)
    return _weights(student, student.exp(), teacher, teacher.exp(), nu)


def _log_probability_pair(
    student_logits: Tensor, teacher_logits: Tensor, nu: float, temperature: float
) -> tuple[Tensor, Tensor]:
    _check_nu(nu)
    check_positive(temperature, "temperature")
    check_same_logits(student_logits, teacher_logits)
    return log_probabilities(student_logits, temperature), log_probabilities(teacher_logits, temperature)


def _weights(
    student: Tensor, student_probability: Tensor, teacher: Tensor, teacher_probability: Tensor, nu: float
) -> tuple[Tensor, Tensor]:
    """(ν, 1) where the student's entropy is below the teacher's, else (1, ν); from log-probabilities and their exp."""
    # H(teacher) − H(student) > 0, the negative entropies compared the other way round.
    sharper = (student_probability * student).detach().sum(dim=-1) > (teacher_probability * teacher).sum(dim=-1)
    ones = student.new_ones(sharper.shape)
    return ones.masked_fill(sharper, nu), ones.masked_fill(~sharper, nu)


def _check_nu(nu: float) -> None:
    if not (math.isfinite(nu) and nu >= 1):
        raise ValueError(f"Expected argument `nu` to be finite and at least 1, but got {nu}.")


class BalancedDivergence(Objective):
    """Mean `balanced_divergence` over a batch; weigh it against a `CrossEntropy`. The teacher gets no gradient.

    Logits are `[batch, classes]`, or `[batch, time, vocabulary]` with the mean over the positions whose label is not
    -100 (over all positions where the batch has no target).

    Args:
        nu: The larger of the two weights, at least 1.
        temperature: Softens both predictions.

    >>> import torch
    >>> BalancedDivergence()(torch.log(torch.tensor([[0.7, 0.2, 0.1]])), torch.log(torch.tensor([[0.5, 0.3, 0.2]])))
    tensor(0.2692)
    """

    reads = ("student.logits", "teacher.logits", "batch.target?")

    def __init__(self, *, nu: float = 2.0, temperature: float = 1.0) -> None:
        super().__init__()
        _check_nu(nu)
        check_positive(temperature, "temperature")
        self.nu = nu
        self.temperature = temperature

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """The mean over samples or counted positions."""
        student, teacher = counted(target, student_logits, teacher_logits)
        rows = balanced_divergence(student, teacher, nu=self.nu, temperature=self.temperature, reduction="none")
        return mean_over_positions(rows)
