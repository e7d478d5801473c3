"""How much to listen to the teacher and how much to the label, sample by sample: the loss, and where ratios come from.

Sources: "Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation" (TGeo-KD), ICLR 2024,
arXiv 2312.15112; "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective" (weighted
soft labels), Zhou et al., ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import (
    Reduction,
    check_at_least,
    check_in_range,
    check_non_negative,
    check_positive,
    check_same_logits,
    check_same_shape,
    check_target,
    check_unit_interval,
)
from tutelage.objectives.divergences import forward_kl
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import IGNORE_INDEX, reduce_over_labels
from tutelage.objectives.precision import at_least_float32
from tutelage.objectives.schedules import Progress, Schedule


class FusionRatioController(nn.Module):
    """Reads a fusion ratio in (0, 1) from the features of a sample: a perceptron with one sigmoid output.

    Linear layers with LeakyReLU between them and PyTorch's default initialisation, as in the authors' code. The
    features carry no gradient of their own (`trilateral_features`), so only the controller's weights learn from it.

    Args:
        in_features: F, the width of the features.
        hidden: Widths of the hidden layers.
        negative_slope: Of LeakyReLU.

    Raises:
        ValueError: A width below 1, or a negative slope.

    Source: TGeo-KD, section 3; `src/network.py` of the authors' code.

    >>> FusionRatioController(27)(torch.zeros(4, 27)).shape
    torch.Size([4])
    """

    def __init__(self, in_features: int, hidden: Sequence[int] = (32, 16), negative_slope: float = 0.01) -> None:
        super().__init__()
        check_at_least(in_features, "in_features", 1)
        check_non_negative(negative_slope, "negative_slope")
        layers: list[nn.Module] = []
        width = in_features
        for next_width in hidden:
            check_at_least(next_width, "hidden", 1)
            layers += [nn.Linear(width, next_width), nn.LeakyReLU(negative_slope)]
            width = next_width
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, features: Float[Tensor, "batch width"]) -> Float[Tensor, "batch"]:
        """The ratio of each sample: `[batch, in_features]` to `[batch]`."""
        ratio: Tensor = self.layers(features).squeeze(1).sigmoid()
        return ratio


def fused_distillation_loss(
    student_logits: Float[Tensor, "... classes"],
    teacher_logits: Float[Tensor, "..."],
    target: Tensor,
    ratio: float | Tensor,
    *,
    temperature: float = 1.5,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Distillation and cross-entropy, each sample with a ratio of its own: α τ² KL(teacher ‖ student) + (1 − α) CE.

    Both predictions are softened by τ in the first term only. With one number as the ratio it is
    `knowledge_distillation`. The gradient reaches the student and the ratio, ∂/∂α = τ² KL − CE for each sample; none
    reaches the teacher.

    Args:
        student_logits: `[..., classes]`.
        teacher_logits: `[..., classes]`.
        target: `[...]` classes, or -100 at positions to skip (in both terms).
        ratio: α, the weight of the teacher's term, in [0, 1]: one number, or one for each position (`[...]`).
        temperature: τ.
        reduction: `"mean"` over the labelled positions, `"sum"`, or `"none"` (the shape of `target`, 0 where skipped).

    Returns:
        In float32 or wider: a scalar, or `[...]`.

    Raises:
        ValueError: A ratio outside [0, 1] or of another shape than `target`, logits of different shapes, a target
            outside the classes, a temperature that is not positive, or an unknown reduction.

    Source: TGeo-KD, equation of the inner objective; the authors' code uses τ = 1.5.

    >>> student, teacher = torch.zeros(2, 2), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> fused_distillation_loss(
    ...     student, teacher, torch.tensor([0, 0]), torch.tensor([0.0, 1.0]), temperature=1.0, reduction="none"
    ... )
    tensor([0.6931, 0.3278])
    """
    check_same_logits(student_logits, teacher_logits)
    check_positive(temperature, "temperature")
    if isinstance(ratio, Tensor) and ratio.ndim:
        check_same_shape(ratio, target, "ratio", "target")
        check_unit_interval(ratio, "ratio", tolerance=0.0)
    else:
        check_in_range(float(ratio), "ratio", 0, 1)

    def loss(labels: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        weight = ratio[target != IGNORE_INDEX] if isinstance(ratio, Tensor) and ratio.ndim else ratio
        hard = F.cross_entropy(at_least_float32(student), labels, reduction="none")
        soft = forward_kl(student, teacher.detach(), temperature=temperature)
        return weight * temperature**2 * soft + (1 - weight) * hard

    return reduce_over_labels(loss, target, student_logits, teacher_logits, reduction=reduction)


def weighted_soft_label_ratio(
    student_ce: Float[Tensor, "..."], teacher_ce: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """Weighted soft labels: 1 − exp(−CE of the student / CE of the teacher), more of the teacher where it is the surer.

    Where both are 0 the ratio is 0: the label is learned and the teacher has nothing to add. The gradient reaches both
    arguments; Zhou et al. take the ratio as a constant, so detach it (`WeightedSoftLabels` does).

    Args:
        student_ce: `[...]` cross-entropy of the student with the label, in nats.
        teacher_ce: `[...]` the same of the teacher.

    Returns:
        `[...]`, in [0, 1].

    Raises:
        ValueError: Shapes that differ, or a negative or undefined cross-entropy.

    Source: Zhou et al. 2021, equation of the weights; the form without a floor is that of TGeo-KD's baseline code.

    >>> weighted_soft_label_ratio(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 0.0]))
    tensor([0.0000, 0.6321, 1.0000])
    """
    check_same_shape(student_ce, teacher_ce, "student_ce", "teacher_ce")
    for value, name in ((student_ce, "student_ce"), (teacher_ce, "teacher_ce")):
        if not (value >= 0).all():
            raise ValueError(f"Expected argument `{name}` to hold values of at least 0, but got {float(value.min())}.")
    student_ce, teacher_ce = at_least_float32(student_ce), at_least_float32(teacher_ce)
    nothing = (student_ce == 0) & (teacher_ce == 0)
    return -torch.expm1(-student_ce / torch.where(nothing, 1.0, teacher_ce))


class FusedDistillationLoss(Objective):
    """Mean `fused_distillation_loss` of a batch with one ratio for all samples, which a schedule may move.

    A ratio of each sample's own is learned by `tutelage.training.BilevelDistiller`.

    Args:
        ratio: α in [0, 1], or a schedule.
        temperature: τ.

    >>> FusedDistillationLoss(ratio=0.0)(torch.zeros(2, 2), torch.eye(2), torch.tensor([0, 1]))
    tensor(0.6931)
    """

    def __init__(self, *, ratio: float | Schedule = 0.5, temperature: float = 1.5) -> None:
        super().__init__()
        if not callable(ratio):
            check_in_range(ratio, "ratio", 0, 1)
        check_positive(temperature, "temperature")
        self.ratio = ratio
        self.temperature = temperature
        self.advance(Progress(step=0, total_steps=1, steps_per_epoch=1))

    def advance(self, progress: Progress) -> None:
        """Bring the ratio to its value at this place in the run."""
        self._ratio = float(self.ratio(progress)) if callable(self.ratio) else self.ratio

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over labelled positions."""
        return fused_distillation_loss(
            student_logits, teacher_logits, target, self._ratio, temperature=self.temperature
        )


class WeightedSoftLabels(Objective, name="wls"):
    """Mean `fused_distillation_loss` whose ratio is `weighted_soft_label_ratio`, taken as a constant.

    Args:
        temperature: τ.

    >>> WeightedSoftLabels()(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0, 1]))
    tensor(0.2550)
    """

    def __init__(self, *, temperature: float = 1.5) -> None:
        super().__init__()
        check_positive(temperature, "temperature")
        self.temperature = temperature

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over labelled positions."""
        check_same_logits(student_logits, teacher_logits)
        check_target(target, student_logits.shape[-1], shape=student_logits.shape[:-1], ignore_index=IGNORE_INDEX)

        def cross_entropy(logits: Tensor) -> Tensor:
            rows = at_least_float32(logits.detach()).flatten(0, -2)
            return F.cross_entropy(rows, target.flatten().long(), reduction="none").view(target.shape)

        ratio = weighted_soft_label_ratio(cross_entropy(student_logits), cross_entropy(teacher_logits))
        return fused_distillation_loss(student_logits, teacher_logits, target, ratio, temperature=self.temperature)
