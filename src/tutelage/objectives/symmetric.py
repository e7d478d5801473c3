"""Symmetric cross-entropy, in both senses: between student and teacher, and between a prediction and a noisy label."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import Reduction, check_in_range, check_non_negative, check_same_logits, reduce
from tutelage.objectives.comp_sum import comp_sum_from_cross_entropy
from tutelage.objectives.label_loss import _LabelLoss, label_cross_entropy
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import counted, mean_over_positions
from tutelage.objectives.precision import log_probabilities


def symmetric_cross_entropy(
    student_logits: Float[Tensor, "... classes"],
    teacher_logits: Float[Tensor, "..."],
    *,
    alpha: float = 0.5,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """(1 − α) · CE(p, q) + α · CE(q, p) with CE(p, q) = −Σ_k p_k log q_k, teacher p and student q.

    The first term learns most where student and teacher disagree, so unsure samples dominate; the second, whose
    gradient is −q_k (log p_k − Σ_j q_j log p_j), is damped by q. At q = p the value is the entropy and the second term
    sharpens the student. No gradient reaches the teacher.

    Args:
        student_logits: `[..., classes]`.
        teacher_logits: `[..., classes]`.
        alpha: α, the weight of the term whose target is the student, in [0, 1].
        reduction: `"mean"` over rows, `"sum"`, or `"none"` (one value for each row).

    Returns:
        Nats, in float32 or wider: a scalar, or `[...]`.

    Raises:
        ValueError: Shapes that differ, α outside [0, 1], or an unknown reduction.

    Source: Döbler et al., "Robust Mean Teacher for Continual and Gradual Test-Time Adaptation", CVPR 2023, arXiv
    2211.13081; the authors' code has α = ½.

    >>> teacher, student = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5]]).log()
    >>> symmetric_cross_entropy(student, teacher)
    tensor(0.8047)
    """
    check_in_range(alpha, "alpha", 0, 1)
    check_same_logits(student_logits, teacher_logits)
    student, teacher = log_probabilities(student_logits), log_probabilities(teacher_logits.detach())
    forward = torch.linalg.vecdot(teacher.exp(), student)
    reverse = torch.linalg.vecdot(student.exp(), teacher)
    return reduce(-(1 - alpha) * forward - alpha * reverse, reduction)


def symmetric_cross_entropy_loss(
    logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, "..."],
    *,
    balance: float = 0.5,
    scale: float = 4.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """SCE for noisy labels: (1 − b) · CE(label, prediction) + b · CE(prediction, label), where log 0 counts as −A.

    The second term is A · (1 − p), p the label's probability: symmetric, so robust to uniform noise.

    Args:
        logits: `[batch, classes]`.
        target: `[batch]` classes.
        balance: b, the weight of the reverse term, in [0, 1].
        scale: A, at least 0.
        reduction: `"mean"`, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider.

    Raises:
        ValueError: `balance` outside [0, 1], a negative `scale`, a target of another shape or outside the classes, or
            an unknown reduction.

    Source: Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019 (with two free
    weights); the form with one balance is that of the code of arXiv 2112.14869.

    >>> symmetric_cross_entropy_loss(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([0]))
    tensor(1.3466)
    """
    check_in_range(balance, "balance", 0, 1)
    check_non_negative(scale, "scale")
    forward = label_cross_entropy(logits, target)
    reverse = scale * comp_sum_from_cross_entropy(forward, tau=2.0)
    return reduce((1 - balance) * forward + balance * reverse, reduction)


class SymmetricCrossEntropy(Objective):
    """Mean `symmetric_cross_entropy` over a batch; the teacher gets no gradient.

    Logits are `[batch, classes]`, or `[batch, time, vocabulary]` with the mean over the positions whose label is not
    -100 (over all positions where the batch has no target).

    Args:
        alpha: The weight of the term whose target is the student, in [0, 1].

    >>> SymmetricCrossEntropy()(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.8, 0.2]]).log())
    tensor(0.8047)
    """

    reads = ("student.logits", "teacher.logits", "batch.target?")

    def __init__(self, *, alpha: float = 0.5) -> None:
        super().__init__()
        check_in_range(alpha, "alpha", 0, 1)
        self.alpha = alpha

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """The mean over samples or counted positions."""
        check_same_logits(student_logits, teacher_logits)
        student, teacher = counted(target, student_logits, teacher_logits)
        return mean_over_positions(symmetric_cross_entropy(student, teacher, alpha=self.alpha, reduction="none"))


class SymmetricCrossEntropyLoss(_LabelLoss):
    """Mean `symmetric_cross_entropy_loss` over the labelled positions of a batch.

    Args:
        balance: The weight of the reverse term, in [0, 1].
        scale: What log 0 counts as, without its sign.

    >>> SymmetricCrossEntropyLoss()(torch.zeros(2, 2), torch.tensor([0, -100]))
    tensor(1.3466)
    """

    function = staticmethod(symmetric_cross_entropy_loss)

    def __init__(self, *, balance: float = 0.5, scale: float = 4.0) -> None:
        super().__init__(balance=balance, scale=scale)
