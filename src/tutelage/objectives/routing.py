"""Several teachers at once: networks that all teach each other, and a router that picks teachers for every sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_option, check_positive, check_target
from tutelage.objectives.precision import at_least_float32, log_probabilities

BalanceMode = Literal["kl", "cv"]


def mutual_distillation_loss(
    logits: Sequence[Float[Tensor, "batch ..."]],
    target: Int[Tensor, "batch"],
    *,
    temperature: float = 4.0,
    detach_targets: bool = False,
) -> Float[Tensor, ""]:
    """All networks learn from the labels and from each other: Σ_i [ CE_i + Σ_{j≠i} T² · KL(p_j ‖ p_i) ].

    Args:
        logits: `[batch, classes]` of every network.
        target: `[batch]` classes.
        temperature: T, softens the predictions in the divergences.
        detach_targets: Cut p_j off its graph, so that nobody learns through the loss of another one. By default, as
            the authors' code has it, targets learn too: every pair is drawn together from both sides.

    Returns:
        Nats, a scalar in float32 or wider: the sum over networks and pairs of means over the batch.

    Raises:
        ValueError: Fewer than two networks, class counts that differ, or a temperature that is not positive.

    Source: Li et al., "MST-Distill", arXiv 2507.07015, collaborative initialisation, and the authors' code.

    >>> one, other = torch.zeros(1, 2), torch.tensor([[0.8, 0.2]]).log()
    >>> mutual_distillation_loss([one, other], torch.tensor([0]), temperature=1.0)  # ln 2 - ln 0.8 + 0.1927 + 0.2231
    tensor(1.3322)
    """
    check_positive(temperature, "temperature")
    check_at_least(len(logits), "len(logits)", 2)
    for own in logits:
        _check_same_classes(own.shape[1], logits[0].shape[1], "logits", "logits[0]")
    check_target(target, logits[0].shape[1], shape=logits[0].shape[:1])
    loss = torch.stack([F.cross_entropy(at_least_float32(own), target.long()) for own in logits]).sum()
    softened = [log_probabilities(own, temperature) for own in logits]
    for first, own in enumerate(softened):
        for second, other in enumerate(softened):
            if first != second:
                heard = other.detach() if detach_targets else other
                loss = loss + temperature**2 * (heard.exp() * (heard - own)).sum(dim=1).mean()
    return loss


class InstanceRouter(nn.Module):
    """Reads a student's logits and gives, for every sample, a probability to each teacher.

    Two linear layers without anything between them (classes → 2 · classes → teachers), then a softmax. For dense
    prediction: 1 × 1 convolution → ReLU → depth-wise 3 × 3 convolution with stride 2 → ReLU → mean over positions →
    linear.

    Args:
        num_classes: Classes of the student.
        num_teachers: Teachers to choose from.
        dense: The student's logits are maps `[batch, classes, height, width]`.

    Source: Li et al., "MST-Distill", arXiv 2507.07015, dynamic distillation, and the authors' code.

    >>> InstanceRouter(10, 4)(torch.zeros(2, 10)).sum(dim=1)
    tensor([1.0000, 1.0000], grad_fn=<SumBackward1>)
    """

    def __init__(self, num_classes: int, num_teachers: int, dense: bool = False) -> None:
        super().__init__()
        check_at_least(num_classes, "num_classes", 1)
        check_at_least(num_teachers, "num_teachers", 1)
        hidden = 2 * num_classes
        self.read: nn.Module = nn.Linear(num_classes, hidden)
        if dense:
            self.read = nn.Sequential(
                nn.Conv2d(num_classes, hidden, 1),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, 3, stride=2, padding=1, groups=hidden),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
            )
        self.choose = nn.Linear(hidden, num_teachers)

    def forward(self, student_logits: Float[Tensor, "batch classes *positions"]) -> Float[Tensor, "batch teachers"]:
        """Probabilities `[batch, teachers]`, in float32 or wider."""
        return at_least_float32(self.choose(self.read(student_logits))).softmax(dim=1)


def top_k_routing(probabilities: Float[Tensor, "batch teachers"], k: int) -> Int[Tensor, "batch k"]:
    """The `k` most probable teachers of every sample, most probable first; equals in the order of `torch.topk`.

    Args:
        probabilities: `[batch, teachers]`.
        k: Teachers a sample.

    Returns:
        `[batch, k]` int64.

    Raises:
        ValueError: `k` below 1 or above the number of teachers.

    >>> top_k_routing(torch.tensor([[0.2, 0.5, 0.3]]), 2)
    tensor([[1, 2]])
    """
    if not 1 <= k <= probabilities.shape[1]:
        raise ValueError(
            f"Expected argument `k` to be between 1 and the number of teachers, {probabilities.shape[1]}, but got {k}."
        )
    return probabilities.topk(k, dim=1).indices


def load_balancing_loss(
    probabilities: Float[Tensor, "batch teachers"], *, mode: BalanceMode = "kl"
) -> Float[Tensor, ""]:
    """How unevenly a router spreads a batch over its teachers; 0 if and only if the mean probabilities are uniform.

    `"kl"`: (1/N) · KL(uniform ‖ π̄) with π̄ the batch mean. (The factor 1/N comes from the authors' reduction and is
    kept.) It grows without bound as a teacher is left out; log π̄ stops, and with it the gradient, at the smallest
    normal number of the type. `"cv"`: the unbiased standard deviation of Σ_batch π over its mean.

    Args:
        probabilities: `[batch, teachers]`; the gradient reaches them.
        mode: `"kl"` or `"cv"`.

    Returns:
        A scalar in float32 or wider; 0 for a single teacher.

    Source: Li et al., "MST-Distill", arXiv 2507.07015, dynamic distillation, and the authors' code.

    >>> load_balancing_loss(torch.tensor([[0.75, 0.25]]))  # (0.5 ln(0.5 / 0.75) + 0.5 ln(0.5 / 0.25)) / 2
    tensor(0.0719)
    """
    check_option(mode, "mode", ("kl", "cv"))
    probabilities = at_least_float32(probabilities)
    teachers = probabilities.shape[1]
    mean = probabilities.mean(dim=0)
    if teachers == 1:
        return (mean - mean).sum()
    if mode == "cv":
        return mean.std() / mean.mean()
    log_mean = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
    return -(log_mean.mean() + math.log(teachers)) / teachers


def routed_distillation_loss(
    student_logits: Float[Tensor, "batch classes *positions"],
    teacher_logits: Float[Tensor, "batch teachers ..."],
    routing: Int[Tensor, "batch k"],
    *,
    temperature: float = 4.0,
    weights: Float[Tensor, "batch k"] | None = None,
) -> Float[Tensor, ""]:
    """Every sample learns from the teachers chosen for it: batch mean of Σ_j weight_j · T² · KL(teacher_j ‖ student).

    Args:
        student_logits: `[batch, classes]`, or maps `[batch, classes, height, width]`: softmax over classes, mean over
            positions.
        teacher_logits: `[batch, teachers, classes]` or `[batch, teachers, classes, height, width]`. Detached.
        routing: `[batch, k]` numbers of teachers, as from `top_k_routing`. No gradient can go through a choice: without
            `weights` a router learns nothing here.
        temperature: T, softens both predictions.
        weights: `[batch, k]`, such as a router's probabilities of the chosen teachers, which the gradient reaches; 1/k
            each when not given.

    Returns:
        Nats, a scalar in float32 or wider. Its gradient with respect to the student's logits is, without weights,
        T · (softmax(student / T) − mean_j softmax(teacher_j / T)) / batch.

    Raises:
        ValueError: Shapes or class counts that do not fit, a teacher that does not exist, or a temperature that is not
            positive.

    Source: Li et al., "MST-Distill", arXiv 2507.07015, dynamic distillation, and the authors' code.

    >>> student, teachers = torch.zeros(1, 2), torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    >>> routed_distillation_loss(student, teachers, torch.tensor([[0]]))
    tensor(0.)
    >>> routed_distillation_loss(student, teachers, torch.tensor([[1]]), temperature=1.0)
    tensor(0.3278)
    """
    check_positive(temperature, "temperature")
    _check_same_classes(student_logits.shape[1], teacher_logits.shape[2], "student_logits", "teacher_logits")
    teachers = teacher_logits.shape[1]
    expected = (student_logits.shape[0], teachers, *student_logits.shape[1:])
    if teacher_logits.shape != expected:
        raise ValueError(
            f"Expected argument `teacher_logits` to have shape {expected}, but got {tuple(teacher_logits.shape)}."
        )
    check_at_least(routing.shape[1], "routing.shape[1]", 1)
    low, high = (int(value) for value in routing.aminmax())
    if low < 0 or high >= teachers:
        raise ValueError(
            f"Expected argument `routing` to hold numbers in [0, {teachers}), but got {low if low < 0 else high}."
        )
    student = log_probabilities(student_logits.movedim(1, -1), temperature).unsqueeze(1)
    rows = routing.long().reshape(*routing.shape, *(1,) * (teacher_logits.ndim - 2))
    chosen = teacher_logits.detach().gather(1, rows.expand(-1, -1, *teacher_logits.shape[2:]))
    heard = log_probabilities(chosen.movedim(2, -1), temperature)
    divergence = (heard.exp() * (heard - student)).sum(dim=-1)
    if divergence.ndim > 2:
        divergence = divergence.flatten(2).mean(dim=2)
    of_samples = divergence.mean(dim=1) if weights is None else (weights * divergence).sum(dim=1)
    return temperature**2 * of_samples.mean()


def _check_same_classes(first: int, second: int, first_name: str, second_name: str) -> None:
    if first != second:
        raise ValueError(
            f"Expected arguments `{first_name}` and `{second_name}` to have the same number of classes, "
            f"but got {first} and {second}."
        )
