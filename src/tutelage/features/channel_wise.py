"""Channel-wise distillation: every channel of a map is a distribution over positions, and the student's follows.

Source: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, section 3.2,
arXiv 2011.13256.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import Reduction, check_floating, check_positive, check_same_shape, reduce
from tutelage.features.feature_objective import _TappedObjective
from tutelage.features.layouts import Resize
from tutelage.features.projectors import width_projector
from tutelage.objectives.precision import at_least_float32


def channel_wise_distillation(
    student_maps: Float[Tensor, "batch ..."],
    teacher_maps: Float[Tensor, "batch ..."],
    *,
    temperature: float = 4.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """T² / C · Σ_c KL(softmax_positions(teacher_c / T) ‖ softmax_positions(student_c / T)).

    Adding a constant to a channel changes nothing: what counts is where a channel is active, not how strongly. On
    logits of dense prediction it compares where each class is seen.

    Args:
        student_maps: `[batch, channels, height, width]` or `[batch, channels, …]`; brought to the teacher's number of
            channels before, if need be.
        teacher_maps: The same shape; detached.
        temperature: T, at which both are softened.
        reduction: `"mean"` over the batch, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        At least 0, in float32 or wider: a scalar, or `[batch]`.

    Raises:
        ValueError: Shapes that differ, no positions, a temperature that is not positive, or an unknown reduction.

    >>> student, teacher = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[0.0, 1.0986123]]])
    >>> channel_wise_distillation(student, teacher, temperature=1.0)  # KL((1/4, 3/4) ‖ (1/2, 1/2))
    tensor(0.1308)
    """
    check_floating(student_maps, "student_maps")
    check_same_shape(student_maps, teacher_maps, "student_maps", "teacher_maps")
    check_positive(temperature, "temperature")
    if student_maps.ndim < 3:
        raise ValueError(
            "Expected argument `student_maps` to be [batch, channels, height, width], "
            f"but got {tuple(student_maps.shape)}."
        )
    student = F.log_softmax(at_least_float32(student_maps).flatten(2) / temperature, dim=2)
    teacher = F.log_softmax(at_least_float32(teacher_maps.detach()).flatten(2) / temperature, dim=2)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=2)
    return reduce(temperature**2 * divergence.mean(dim=1), reduction)


class ChannelWiseDistillation(_TappedObjective, name="cwd"):
    """Mean `channel_wise_distillation` of a batch, summed over pairs of taps.

    Tokens become maps first. Where the numbers of channels differ, a 1×1 convolution that learns beside the student
    brings its maps to the teacher's.

    Args:
        student_taps: Places in the student: module paths, `PATH:input` or `stage:N`.
        teacher_taps: As many in the teacher.
        temperature: At which both are softened.
        resize: How a student's map gets the height and width of the teacher's; None forbids it.
        extra_tokens: Leading tokens that are no part of the image, see `as_map`.
        aspect_ratio: Height over width of the image, where tokens become a map.

    >>> objective = ChannelWiseDistillation("stage:-1", "stage:-1")
    >>> objective([torch.ones(2, 3, 4, 4)], [torch.zeros(2, 3, 4, 4)])
    tensor(0.)
    """

    def __init__(
        self,
        student_taps: str | Sequence[str] = "stage:-1",
        teacher_taps: str | Sequence[str] = "stage:-1",
        *,
        temperature: float = 4.0,
        resize: Resize | None = None,
        extra_tokens: int | None = None,
        aspect_ratio: float = 1.0,
    ) -> None:
        super().__init__(
            student_taps, teacher_taps, resize=resize, extra_tokens=extra_tokens, aspect_ratio=aspect_ratio
        )
        self.check_pairs()
        check_positive(temperature, "temperature")
        self.temperature = temperature
        self.projectors: nn.ModuleList | None = None

    def make_modules(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> None:
        """Make a projector for every pair with different numbers of channels."""
        pairs = self.aligned(student_features, teacher_features, maps=True)
        self.projectors = nn.ModuleList(width_projector(*pair) for pair in pairs)

    def loss(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
        """The sum over the pairs of the means over the batch."""
        pairs = self.aligned(student_features, teacher_features, maps=True)
        projectors = self.projectors or [nn.Identity()] * len(pairs)
        losses = [
            channel_wise_distillation(project(student), teacher, temperature=self.temperature)
            for project, (student, teacher) in zip(projectors, pairs, strict=True)
        ]
        return torch.stack(losses).sum()
