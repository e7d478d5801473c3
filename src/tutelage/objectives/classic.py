"""The classic logit losses that newer systems are measured against."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tutelage._checks import (
    Reduction,
    check_at_least,
    check_in_range,
    check_non_negative,
    check_positive,
    check_same_logits,
    check_same_shape,
    reduce,
)
from tutelage.objectives.divergences import forward_kl
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import IGNORE_INDEX, counted, mean_over_positions, reduce_over_labels
from tutelage.objectives.precision import at_least_float32, log_probabilities


def knowledge_distillation(
    student_logits: Float[Tensor, "... classes"],
    teacher_logits: Float[Tensor, "..."],
    target: Tensor,
    *,
    alpha: float = 0.9,
    temperature: float = 4.0,
    ignore_index: int = IGNORE_INDEX,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """The classic loss (Hinton et al., 2015): (1 − α) · CE(student, label) + α · T² · KL(teacher ‖ student at T).

    T² keeps the size of the second term's gradient as T grows. No gradient reaches the teacher. α is the weight of the
    teacher's term; some papers give that name to the weight of the cross-entropy. The defaults are the usual ones of
    CIFAR-100 comparisons (Tian et al., 2020).

    Args:
        student_logits: `[..., classes]`.
        teacher_logits: `[..., classes]`.
        target: `[...]` classes, or `ignore_index` at positions to skip (in both terms).
        alpha: Weight of the teacher's term, in [0, 1].
        temperature: Softens both predictions in the teacher's term.
        ignore_index: The label of positions to skip.
        reduction: `"mean"` over the labelled positions, `"sum"`, or `"none"` (the shape of `target`, 0 where skipped).

    Returns:
        In float32 or wider: a scalar, or `[...]`.

    Raises:
        ValueError: Logits of different shapes, a target outside the classes, `alpha` outside [0, 1], a temperature that
            is not positive, or an unknown reduction.

    >>> import torch
    >>> teacher, student = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.7, 0.2, 0.1]]).log()
    >>> knowledge_distillation(student, teacher, torch.tensor([0]), alpha=0.5, temperature=1.0)
    tensor(0.2244)
    """
    check_same_logits(student_logits, teacher_logits)
    check_in_range(alpha, "alpha", 0, 1)
    check_positive(temperature, "temperature")

    def loss(labels: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        student = at_least_float32(student)
        hard = F.cross_entropy(student, labels, reduction="none")
        soft = forward_kl(student, teacher.detach(), temperature=temperature)
        return (1 - alpha) * hard + alpha * temperature**2 * soft

    return reduce_over_labels(
        loss, target, student_logits, teacher_logits, ignore_index=ignore_index, reduction=reduction
    )


def decoupled_distillation(
    student_logits: Float[Tensor, "... classes"],
    teacher_logits: Float[Tensor, "..."],
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    ignore_index: int = IGNORE_INDEX,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """DKD (Zhao et al., CVPR 2022, equations 6 and 7): KL(teacher ‖ student) taken apart, with a weight for each part.

    T² · (α · KL of the two-way split {label, rest} + β · KL of the softmax over the classes other than the label). With
    β = 1 − (teacher's probability of the label) and α = 1 it is T² · `forward_kl`. It holds no cross-entropy: add one.
    No gradient reaches the teacher. The official code ramps the loss up over the first 20 epochs; a schedule does that.

    Args:
        student_logits: `[..., classes]`.
        teacher_logits: `[..., classes]`.
        target: `[...]` classes, or `ignore_index` at positions to skip.
        alpha: Weight of the part on the label.
        beta: Weight of the part on the other classes.
        temperature: Softens both predictions.
        ignore_index: The label of positions to skip.
        reduction: `"mean"` over the labelled positions, `"sum"`, or `"none"` (the shape of `target`, 0 where skipped).

    Returns:
        In float32 or wider: a scalar, or `[...]`.

    Raises:
        ValueError: Logits of different shapes, fewer than two classes, a target outside the classes, a negative weight,
            a temperature that is not positive, or an unknown reduction.

    >>> import torch
    >>> teacher, student = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.7, 0.2, 0.1]]).log()
    >>> decoupled_distillation(student, teacher, torch.tensor([0]), alpha=1.0, beta=0.5, temperature=1.0)
    tensor(0.0920)
    """
    check_same_logits(student_logits, teacher_logits)
    check_at_least(student_logits.shape[-1], "student_logits.shape[-1]", 2)
    check_non_negative(alpha, "alpha")
    check_non_negative(beta, "beta")
    check_positive(temperature, "temperature")

    def loss(labels: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        labels = labels[:, None]
        student_label, student_rest, student_others = _label_and_others(student, labels, temperature)
        teacher_label, teacher_rest, teacher_others = _label_and_others(teacher.detach(), labels, temperature)
        of_label = teacher_label.exp() * (teacher_label - student_label)
        of_label = of_label + teacher_rest.exp() * (teacher_rest - student_rest)
        difference = (teacher_others - student_others).scatter(1, labels, 0.0)  # the label's own place holds ∞ − ∞
        of_others = (teacher_others.exp() * difference).sum(dim=1)
        return temperature**2 * (alpha * of_label[:, 0] + beta * of_others)

    return reduce_over_labels(
        loss, target, student_logits, teacher_logits, ignore_index=ignore_index, reduction=reduction
    )


def _label_and_others(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of the label and of the rest, `[rows, 1]`; log softmax over the rest with −∞ at the label."""
    logits = at_least_float32(logits) / temperature
    others = logits.scatter(1, labels, -float("inf"))
    of_rest = others.logsumexp(dim=1, keepdim=True)
    of_label = logits.gather(1, labels)
    margin = of_label - of_rest
    return F.logsigmoid(margin), F.logsigmoid(-margin), others - of_rest


def dist_distillation(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "..."],
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """DIST (Huang et al., NeurIPS 2022, equations 9 to 11): correlate predictions instead of matching them.

    T² · (β · inter + γ · intra): inter is the mean over samples of 1 − Pearson correlation of the two predictions, and
    intra the mean over classes of 1 − Pearson correlation of what the batch gives to the class. Where one of the two
    does not vary (a batch of one), the correlation counts as 0. The T² is that of the official code. It holds no
    cross-entropy: add one. No gradient reaches the teacher. The value depends on which samples share a batch.

    Args:
        student_logits: `[batch, classes]`.
        teacher_logits: `[batch, classes]`.
        beta: Weight of the correlations across classes.
        gamma: Weight of the correlations across samples.
        temperature: Softens both predictions.

    Returns:
        A scalar in [0, 2 T² (β + γ)], in float32 or wider.

    Raises:
        ValueError: Logits of different shapes, a negative weight, or a temperature that is not positive.

    >>> import torch
    >>> logits = torch.randn(8, 5)
    >>> bool(dist_distillation(logits, logits).abs() < 1e-6)
    True
    """
    check_same_logits(student_logits, teacher_logits)
    check_non_negative(beta, "beta")
    check_non_negative(gamma, "gamma")
    check_positive(temperature, "temperature")
    student = log_probabilities(student_logits, temperature).exp()
    teacher = log_probabilities(teacher_logits.detach(), temperature).exp()
    inter = 1 - mean_over_positions(_pearson_correlation(student, teacher, dim=1))
    intra = 1 - mean_over_positions(_pearson_correlation(student, teacher, dim=0))
    return temperature**2 * (beta * inter + gamma * intra)


def _pearson_correlation(first: Tensor, second: Tensor, dim: int) -> Tensor:
    first = first - first.mean(dim=dim, keepdim=True)
    second = second - second.mean(dim=dim, keepdim=True)
    scale = first.square().sum(dim=dim) * second.square().sum(dim=dim)
    return (first * second).sum(dim=dim) * scale.clamp_min(1e-16).rsqrt()  # lengths 1e-8, as in the official code


def logit_mse(
    student_logits: Float[Tensor, "... classes"], teacher_logits: Float[Tensor, "..."], *, reduction: Reduction = "mean"
) -> Float[Tensor, "..."]:
    """Squared distance of logits, as a mean over classes (Ba and Caruana, 2014).

    The limit of `T² · forward_kl` for a large T, up to a factor and for logits of equal means. It holds no
    cross-entropy. No gradient reaches the teacher.

    Args:
        student_logits: `[..., classes]`.
        teacher_logits: `[..., classes]`.
        reduction: `"mean"` over rows, `"sum"`, or `"none"` (`[...]`).

    Returns:
        In float32 or wider: a scalar, or `[...]`.

    Raises:
        ValueError: Logits of different shapes, or an unknown reduction.

    >>> import torch
    >>> logit_mse(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(5.)
    """
    check_same_logits(student_logits, teacher_logits)
    difference = at_least_float32(student_logits) - at_least_float32(teacher_logits.detach())
    return reduce(difference.square().mean(dim=-1), reduction)


def universal_logit_distance(
    student_logits: Float[Tensor, "... student_vocabulary"],
    teacher_logits: Float[Tensor, "... teacher_vocabulary"],
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """ULD (Boizard et al., TMLR 2025, section 3): L1 distance of probabilities sorted in descending order.

    It compares predictions over two unlike vocabularies by their shape alone; the shorter list is padded with zeros. It
    holds no cross-entropy: add one. No gradient reaches the teacher.

    Args:
        student_logits: `[..., student_vocabulary]`.
        teacher_logits: `[..., teacher_vocabulary]`, with the same leading sizes.
        temperature: Softens both predictions.
        reduction: `"mean"` over rows, `"sum"`, or `"none"` (`[...]`).

    Returns:
        Values in [0, 2], in float32 or wider: a scalar, or `[...]`.

    Raises:
        ValueError: Leading sizes that differ, a temperature that is not positive, or an unknown reduction.

    >>> import torch
    >>> student, teacher = torch.tensor([[0.2, 0.8]]).log(), torch.tensor([[0.1, 0.6, 0.3]]).log()
    >>> universal_logit_distance(student, teacher)
    tensor(0.4000)
    """
    check_same_shape(student_logits[..., 0], teacher_logits[..., 0], "student_logits[..., 0]", "teacher_logits[..., 0]")
    check_positive(temperature, "temperature")
    student = log_probabilities(student_logits, temperature).exp().sort(dim=-1, descending=True).values
    teacher = log_probabilities(teacher_logits.detach(), temperature).exp().sort(dim=-1, descending=True).values
    shared = min(student.shape[-1], teacher.shape[-1])
    distance = (student[..., :shared] - teacher[..., :shared]).abs().sum(dim=-1)
    return reduce(distance + student[..., shared:].sum(dim=-1) + teacher[..., shared:].sum(dim=-1), reduction)


class KnowledgeDistillation(Objective, name="kd"):
    """Mean `knowledge_distillation` over the labelled positions of a batch; it contains the cross-entropy.

    Args:
        alpha: Weight of the teacher's term, in [0, 1].
        temperature: Softens both predictions in the teacher's term.
        ignore_index: The label of positions to skip.

    >>> import torch
    >>> KnowledgeDistillation()(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0, 1]))
    tensor(0.0693)
    """

    def __init__(self, *, alpha: float = 0.9, temperature: float = 4.0, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        check_in_range(alpha, "alpha", 0, 1)
        check_positive(temperature, "temperature")
        self.alpha = alpha
        self.temperature = temperature
        self.ignore_index = ignore_index

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over labelled positions."""
        return knowledge_distillation(
            student_logits,
            teacher_logits,
            target,
            alpha=self.alpha,
            temperature=self.temperature,
            ignore_index=self.ignore_index,
        )


class DecoupledDistillation(Objective, name="dkd"):
    """Mean `decoupled_distillation` over the labelled positions of a batch; weigh it against a `CrossEntropy`.

    Args:
        alpha: Weight of the part on the label.
        beta: Weight of the part on the other classes.
        temperature: Softens both predictions.
        ignore_index: The label of positions to skip.

    >>> import torch
    >>> DecoupledDistillation()(torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([0, 1]))
    tensor(0.)
    """

    def __init__(
        self, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, ignore_index: int = IGNORE_INDEX
    ) -> None:
        super().__init__()
        check_non_negative(alpha, "alpha")
        check_non_negative(beta, "beta")
        check_positive(temperature, "temperature")
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.ignore_index = ignore_index

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over labelled positions."""
        return decoupled_distillation(
            student_logits,
            teacher_logits,
            target,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            ignore_index=self.ignore_index,
        )


class DistDistillation(Objective, name="dist"):
    """`dist_distillation` of a batch; weigh it against a `CrossEntropy`.

    Sequences are taken as rows of positions; those with the label -100 are left out where the batch has a target.

    Args:
        beta: Weight of the correlations across classes.
        gamma: Weight of the correlations across samples.
        temperature: Softens both predictions.

    >>> import torch
    >>> bool(DistDistillation()(torch.eye(3), 2 * torch.eye(3)) < 1e-6)
    True
    """

    reads = ("student.logits", "teacher.logits", "batch.target?")

    def __init__(self, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        check_non_negative(beta, "beta")
        check_non_negative(gamma, "gamma")
        check_positive(temperature, "temperature")
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """The loss of the batch."""
        return dist_distillation(
            *counted(target, student_logits, teacher_logits),
            beta=self.beta,
            gamma=self.gamma,
            temperature=self.temperature,
        )


class LogitMSE(Objective):
    """Mean `logit_mse` over a batch, or over the positions of sequences whose label is not -100.

    >>> import torch
    >>> LogitMSE()(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(5.)
    """

    reads = ("student.logits", "teacher.logits", "batch.target?")

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """The mean over samples or counted positions."""
        return mean_over_positions(logit_mse(*counted(target, student_logits, teacher_logits), reduction="none"))


class UniversalLogitDistance(Objective, name="uld"):
    """Mean `universal_logit_distance` over a batch, or over the positions of sequences whose label is not -100.

    Args:
        temperature: Softens both predictions.

    >>> import torch
    >>> UniversalLogitDistance()(torch.log(torch.tensor([[0.2, 0.8]])), torch.log(torch.tensor([[0.1, 0.6, 0.3]])))
    tensor(0.4000)
    """

    reads = ("student.logits", "teacher.logits", "batch.target?")

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__()
        check_positive(temperature, "temperature")
        self.temperature = temperature

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """The mean over samples or counted positions."""
        student, teacher = counted(target, student_logits, teacher_logits)
        rows = universal_logit_distance(student, teacher, temperature=self.temperature, reduction="none")
        return mean_over_positions(rows)
