"""MCMI: make a better teacher by keeping it likely and raising what its predictions tell about each single input.

Source: "Bayes Conditional Distribution Estimation for Knowledge Distillation Based on Conditional Mutual Information",
ICLR 2024, arXiv 2401.08732.

P is the model's prediction for an input, Q_y the mean prediction of the input's class (the class centroid). The mean of
KL(P ‖ Q_y) is the mutual information of input and predicted label given the class (CMI): 0 when a model says the same
about every input of a class, as one that is trained to the end nearly does. `tutelage.training.fine_tune_teacher`
minimises cross-entropy − λ · CMI; `tutelage.assessment.conditional_mutual_information` measures CMI.

All of it is computed from log-probabilities, the centroids too: a confident model's predictions underflow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage._checks import (
    Reduction,
    check_non_negative,
    check_option,
    check_probabilities,
    check_target,
    reduce,
)
from tutelage.objectives.objective import Objective
from tutelage.objectives.precision import log_probabilities
from tutelage.objectives.schedules import Progress

CentroidUpdate = Literal["epoch", "fixed", "ema"]
"""When class centroids are taken anew: before every epoch, once, or a little after every step."""


class MCMIParts(NamedTuple):
    """The MCMI loss and what it is made of: loss = cross_entropy − cmi_weight · cmi.

    Attributes:
        loss: What is minimised.
        cross_entropy: −log P(y), in nats.
        cmi: KL(P ‖ Q_y), in nats; its mean over all samples, with fresh centroids, is the CMI.
    """

    loss: Tensor
    cross_entropy: Tensor
    cmi: Tensor


@overload
def mcmi_loss(
    logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, "batch"],
    centroids: Float[Tensor, "classes classes"],
    *,
    cmi_weight: float = ...,
    reduction: Reduction = ...,
    return_parts: Literal[False] = ...,
) -> Float[Tensor, "..."]: ...
@overload
def mcmi_loss(
    logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, "batch"],
    centroids: Float[Tensor, "classes classes"],
    *,
    cmi_weight: float = ...,
    reduction: Reduction = ...,
    return_parts: Literal[True],
) -> MCMIParts: ...
def mcmi_loss(
    logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, "batch"],
    centroids: Float[Tensor, "..."],
    *,
    cmi_weight: float = 0.25,
    reduction: Reduction = "mean",
    return_parts: bool = False,
) -> Float[Tensor, "..."] | MCMIParts:
    """What an MCMI teacher minimises: ℓ = −log P(y) − λ · KL(P ‖ Q_y), with P = softmax(logits).

    The sign is meant: the divergence is to grow. It has no lower bound worth the name, so a large λ ruins the teacher;
    watch both parts. No gradient reaches the centroids. The gradient is (P − onehot(y)) − λ · P ⊙ (log P − log Q_y −
    KL(P ‖ Q_y)) a sample, divided by the batch size for `"mean"`.

    Args:
        logits: `[batch, classes]`.
        target: `[batch]` classes.
        centroids: `[classes, classes]`, row y is Q_y, the mean prediction of class y (`class_conditional_mean` of
            probabilities). An entry of 0 counts as the smallest normal number of its type.
        cmi_weight: λ. The paper's scripts use 0.25, and 0.15 before few-shot distillation.
        reduction: `"mean"` over the batch, `"sum"`, or `"none"` (`[batch]`).
        return_parts: Also give both parts, reduced alike.

    Returns:
        In float32 or wider: a scalar, or `[batch]`; with `return_parts` an `MCMIParts` of such.

    Raises:
        ValueError: Centroids of another shape or whose rows are no probabilities (sums within 1e-4 of 1), a target
            outside the classes, a negative or infinite λ, or an unknown reduction.

    >>> probs, centroids = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.7, 0.3], [0.5, 0.5]])
    >>> mcmi_loss(probs.log(), torch.tensor([0]), centroids, cmi_weight=0.5, return_parts=True)
    MCMIParts(loss=tensor(0.0472), cross_entropy=tensor(0.1054), cmi=tensor(0.1163))
    """
    check_non_negative(cmi_weight, "cmi_weight")
    _check_centroids(centroids, logits.shape[1])
    parts = _parts(logits, target, _log_of_centroids(centroids), cmi_weight, reduction)
    return parts if return_parts else parts.loss


def centroid_divergence(
    log_probs: Float[Tensor, "batch classes"],
    target: Int[Tensor, "batch"],
    log_centroids: Float[Tensor, "centroids classes"],
) -> Float[Tensor, "batch"]:
    """KL(P ‖ Q_y) of each sample in nats, `[batch]`, from logarithms; what P holds impossible contributes nothing."""
    probs = log_probs.exp()
    difference = log_probs - log_centroids[target.long()]
    return (probs * difference.masked_fill(probs == 0, 0)).sum(dim=1)


def class_log_means(
    log_probs: Float[Tensor, "samples classes"], target: Int[Tensor, "samples"], *, num_classes: int
) -> Float[Tensor, "num_classes classes"]:
    """Logarithm of each class's mean prediction, by logsumexp; NaN for a class without samples. No gradient passes.

    The logarithm of `class_conditional_mean(log_probs.exp(), …)`, without its underflow; sums are in float64.

    >>> class_log_means(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log(), torch.tensor([0, 0]), num_classes=1).exp()
    tensor([[0.7000, 0.3000]])
    """
    return _log_means(((log_probs, target),), num_classes)


class ClassCentroids(nn.Module):
    """The mean prediction of each class, Q, kept up to date while a model is fine-tuned.

    With Q fixed the model is improved, and with the model fixed the class means are the Q that makes the mean
    divergence smallest; the two alternate. Q is a buffer (its logarithm is), so checkpoints hold it.

    Args:
        update: `"epoch"`: taken anew from all samples before every epoch (the paper's alternation). `"fixed"`: once,
            from the model as it came (the released code). `"ema"`: once, then after every step
            Q_y ← decay · Q_y + (1 − decay) · mean P of the batch's samples of class y, for the classes in the batch
            (in the released code, but switched off and with samples of its own).
        decay: Of `"ema"`, in (0, 1).

    Raises:
        ValueError: An unknown `update`, or a decay outside (0, 1).

    >>> centroids = ClassCentroids().estimate([(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log(), torch.tensor([0, 1]))])
    >>> centroids.probabilities
    tensor([[0.9000, 0.1000],
            [0.5000, 0.5000]])
    """

    log_centroids: Tensor | None

    def __init__(self, update: CentroidUpdate = "epoch", *, decay: float = 0.9999) -> None:
        super().__init__()
        check_option(update, "update", ("epoch", "fixed", "ema"))
        if not 0 < decay < 1:
            raise ValueError(f"Expected argument `decay` to be in (0, 1), but got {decay}.")
        self.update = update
        self.decay = decay
        self.register_buffer("log_centroids", None)

    @property
    def probabilities(self) -> Float[Tensor, "classes classes"]:
        """Q, `[classes, classes]`, a row a class."""
        return self.known().exp()

    def known(self) -> Float[Tensor, "classes classes"]:
        """Log Q, a row a class.

        Raises:
            ValueError: There is none yet.
        """
        if self.log_centroids is None or self.log_centroids[0, 0].isnan():
            raise ValueError("Expected the class centroids to be estimated before they are used, but they are not.")
        return self.log_centroids

    def build(self, logits: Float[Tensor, "batch classes"]) -> None:
        """Make room for as many classes as there are logits, so that a checkpoint can be read."""
        if self.log_centroids is None:
            log_probs = log_probabilities(logits.detach()[:1])
            self.log_centroids = log_probs.new_full((logits.shape[1], logits.shape[1]), math.nan)

    def due(self, progress: Progress) -> bool:
        """Whether they are to be estimated before this step."""
        return progress.step == 0 or (self.update == "epoch" and progress.step % progress.steps_per_epoch == 0)

    def estimate(self, predictions: Iterable[tuple[Tensor, Tensor]]) -> ClassCentroids:
        """Take Q from what the model says about samples that may come in any batches; gives itself.

        Args:
            predictions: Logits `[batch, classes]` and classes `[batch]` of every batch.

        Raises:
            ValueError: A class without samples, or no samples.
        """
        means = _log_means(((log_probabilities(logits.detach()), target) for logits, target in predictions), None)
        absent = means[:, 0].isnan().nonzero().flatten().tolist()
        if absent:
            raise ValueError(f"Expected every class to have samples, but there are none of {absent[0]}.")
        if self.log_centroids is None:
            self.log_centroids = means
        else:
            self.log_centroids.copy_(means)
        return self

    def follow(self, logits: Float[Tensor, "batch classes"], target: Int[Tensor, "batch"]) -> None:
        """Move towards what the model says about a batch, with `update="ema"`; else do nothing."""
        if self.update != "ema":
            return
        known = self.known()
        means = class_log_means(log_probabilities(logits.detach()), target, num_classes=len(known))
        moved = torch.logaddexp(known + math.log(self.decay), means + math.log1p(-self.decay))
        known.copy_(torch.where(means.isnan(), known, moved))


class MCMILoss(Objective):
    """Mean `mcmi_loss` over a batch, with the centroids as they are. The model that learns is the teacher to be.

    It keeps no centroids up to date by itself: `tutelage.training.fine_tune_teacher` does that.

    Args:
        centroids: The class centroids, estimated before the first call.
        cmi_weight: λ.

    Raises:
        ValueError: A negative or infinite λ.

    >>> said, target = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log(), torch.tensor([0, 1])
    >>> MCMILoss(ClassCentroids().estimate([(said, target)]))(said, target)
    tensor(0.1643)
    """

    reads = ("student.logits", "batch.target")

    def __init__(self, centroids: ClassCentroids, *, cmi_weight: float = 0.25) -> None:
        super().__init__()
        check_non_negative(cmi_weight, "cmi_weight")
        self.centroids = centroids
        self.cmi_weight = cmi_weight

    def parts(self, logits: Tensor, target: Tensor) -> MCMIParts:
        """The mean loss with its two parts."""
        return _parts(logits, target, self.centroids.known(), self.cmi_weight, "mean")

    def loss(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch."""
        return self.parts(student_logits, target).loss


def _log_of_centroids(centroids: Tensor) -> Tensor:
    """Logarithms of probabilities, where 0 counts as the smallest normal number, in float32 or wider; detached."""
    centroids = centroids.detach().to(torch.promote_types(centroids.dtype, torch.float32))
    return centroids.clamp_min(torch.finfo(centroids.dtype).tiny).log()


def _parts(logits: Tensor, target: Tensor, log_centroids: Tensor, cmi_weight: float, reduction: Reduction) -> MCMIParts:
    check_option(reduction, "reduction", ("mean", "sum", "none"))
    check_target(target, logits.shape[1], shape=logits.shape[:1])
    log_probs = log_probabilities(logits)
    cross_entropy = reduce(F.nll_loss(log_probs, target.long(), reduction="none"), reduction)
    cmi = reduce(centroid_divergence(log_probs, target, log_centroids.to(log_probs.dtype)), reduction)
    return MCMIParts(cross_entropy - cmi_weight * cmi, cross_entropy, cmi)


def _check_centroids(centroids: Tensor, num_classes: int) -> None:
    if tuple(centroids.shape) != (num_classes, num_classes):
        raise ValueError(
            f"Expected argument `centroids` to have shape {(num_classes, num_classes)}, "
            f"but got {tuple(centroids.shape)}."
        )
    check_probabilities(centroids, "centroids")


def _log_means(predictions: Iterable[tuple[Tensor, Tensor]], num_classes: int | None) -> Tensor:
    """`class_log_means` of log-probabilities that come in batches; None: as many classes as columns."""
    log_sums: Tensor | None = None
    for log_probs, target in predictions:
        rows, dtype = log_probs.detach().double(), log_probs.dtype
        count = rows.shape[1] if num_classes is None else num_classes
        check_target(target, count, shape=rows.shape[:1])
        if log_sums is None:
            log_sums = rows.new_full((count, rows.shape[1]), -math.inf)
            counts = torch.zeros(count, dtype=torch.int64, device=rows.device)
        place = target.long()
        # logsumexp by class: around each class's largest entry, or around a finite number where all are −∞.
        peak = torch.full_like(log_sums, -math.inf).scatter_reduce(0, place[:, None].expand_as(rows), rows, "amax")
        peak = peak.clamp_min(torch.finfo(peak.dtype).min)
        sums = torch.zeros_like(peak).index_add_(0, place, (rows - peak[place]).exp())
        log_sums = torch.logaddexp(log_sums, sums.log() + peak)
        counts += torch.bincount(place, minlength=count)
    if log_sums is None:
        raise ValueError("Expected at least one batch of samples, but there was none.")
    means = log_sums - counts.double().log()[:, None]
    return means.masked_fill(counts[:, None] == 0, math.nan).to(dtype)
