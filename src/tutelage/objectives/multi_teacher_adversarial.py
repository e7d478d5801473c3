"""MTARD's loss: clean inputs learn from a clean teacher, attacked inputs from a robust one.

Source: Zhao et al., "Mitigating the Accuracy-Robustness Trade-off via Multi-Teacher Adversarial Distillation", TPAMI
2024, arXiv 2306.16170, equations 3 to 5; the balances are in `tutelage.training.balances`.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from tutelage._checks import (
    check_non_negative,
    check_option,
    check_positive,
    check_same_logits,
    check_same_shape,
    reduce,
)
from tutelage.objectives.precision import at_least_float32, log_probabilities

AdversarialReduction = Literal["mean", "elementwise_mean", "none"]
"""`"mean"` over samples of the sum over classes; `"elementwise_mean"` over both; `"none"`: a value a sample."""


def multi_teacher_adversarial_distillation(
    student_clean: Float[Tensor, "batch classes"],
    student_adversarial: Float[Tensor, "batch classes"],
    clean_teacher: Float[Tensor, "batch classes"],
    robust_teacher: Float[Tensor, "batch classes"],
    *,
    weights: tuple[float, float],
    temperatures: tuple[float, float] = (1.0, 1.0),
    reduction: AdversarialReduction = "mean",
    eps: float = 0.0,
) -> Float[Tensor, "..."]:
    """Σ_i w_i · KL(softmax(t_i / τ_i) ‖ softmax(s_i)) over the pair (clean, robust).

    Temperatures soften the teachers alone: the student has temperature 1, and there is no factor τ². Only the student's
    logits get a gradient.

    Args:
        student_clean: What the student says about clean inputs.
        student_adversarial: What it says about attacked inputs.
        clean_teacher: What the clean teacher says about clean inputs.
        robust_teacher: What the robust teacher says about attacked inputs.
        weights: Of the clean and of the robust term.
        temperatures: Of the clean and of the robust teacher.
        reduction: `"mean"`, `"elementwise_mean"` (the public code's, smaller by the number of classes) or `"none"`.
        eps: Added to the teacher's probability inside its logarithm; the public code has 1e-5.

    Returns:
        In float32 or wider: a scalar, or `[batch]`. With `eps` 0 it is 0 where the student says what the teachers say.

    Raises:
        ValueError: Shapes that differ, a negative weight or `eps`, a temperature that is not positive, or an unknown
            reduction.

    >>> import torch
    >>> student = torch.tensor([[0.5, 0.5]]).log()
    >>> teacher = torch.tensor([[0.8, 0.2]]).log()
    >>> multi_teacher_adversarial_distillation(student, student, teacher, student, weights=(1.0, 1.0))
    tensor(0.1927)
    """
    for value in weights:
        check_non_negative(value, "weights")
    clean, robust = adversarial_terms(
        student_clean,
        student_adversarial,
        clean_teacher,
        robust_teacher,
        temperatures=temperatures,
        reduction=reduction,
        eps=eps,
    )
    return weights[0] * clean + weights[1] * robust


def adversarial_terms(
    student_clean: Float[Tensor, "batch classes"],
    student_adversarial: Float[Tensor, "batch classes"],
    clean_teacher: Float[Tensor, "batch classes"],
    robust_teacher: Float[Tensor, "batch classes"],
    *,
    temperatures: tuple[float, float] = (1.0, 1.0),
    reduction: AdversarialReduction = "mean",
    eps: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The two terms without their weights; arguments and errors are those of the loss.

    >>> import torch
    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[0.8, 0.2]]).log()
    >>> adversarial_terms(student, student, teacher, student)
    (tensor(0.1927), tensor(0.))
    """
    check_option(reduction, "reduction", ("mean", "elementwise_mean", "none"))
    check_non_negative(eps, "eps")
    check_same_shape(student_clean, student_adversarial, "student_clean", "student_adversarial")
    clean = _term(student_clean, clean_teacher, temperatures[0], reduction, eps)
    return clean, _term(student_adversarial, robust_teacher, temperatures[1], reduction, eps)


def _term(student: Tensor, teacher: Tensor, temperature: float, reduction: str, eps: float) -> Tensor:
    check_positive(temperature, "temperatures")
    check_same_logits(student, teacher)
    log_target = log_probabilities(at_least_float32(teacher.detach()), temperature)
    target = log_target.exp()
    log_guarded = (target + eps).log() if eps else log_target
    values = target * (log_guarded - log_probabilities(student, 1.0))
    if reduction == "elementwise_mean":
        return values.mean()
    return reduce(values.sum(dim=1), reduction)
