"""Feature matching: bring a student's features to the teacher's width, and make them the same (FitNet's hints).

Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, equation (3), arXiv 1412.6550.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import Reduction, check_floating, check_same_shape, reduce
from tutelage.features.feature_objective import _TappedObjective
from tutelage.features.layouts import Resize
from tutelage.features.projectors import width_projector
from tutelage.objectives.precision import at_least_float32


def feature_matching(
    student_features: Float[Tensor, "batch ..."],
    teacher_features: Float[Tensor, "batch ..."],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """The mean squared difference of features: FitNet's hint loss, without its factor ½ and as a mean, not a sum.

    Args:
        student_features: Of any shape; brought to the teacher's width before, if need be.
        teacher_features: Of the same shape; detached.
        reduction: `"mean"` over the batch, `"sum"`, or `"none"` (`[batch]`). A sample counts the mean of its values.

    Returns:
        At least 0, in float32 or wider: a scalar, or `[batch]`.

    Raises:
        ValueError: Shapes that differ, or an unknown reduction.

    >>> import torch
    >>> feature_matching(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]))
    tensor(2.)
    """
    check_floating(student_features, "student_features")
    check_same_shape(student_features, teacher_features, "student_features", "teacher_features")
    student, teacher = at_least_float32(student_features), at_least_float32(teacher_features.detach())
    return reduce((student - teacher).square().flatten(1).mean(dim=1), reduction)


class FeatureMatching(_TappedObjective, name="fitnet"):
    """Mean `feature_matching` of a batch, summed over pairs of taps; FitNet's hints.

    Where the widths of a pair differ, the student's features go through a projector that learns beside it: a linear
    layer, on maps a 1×1 convolution (the paper's regressor has larger kernels where sizes differ; here `resize`).

    Args:
        student_taps: Places in the student: module paths, `PATH:input` or `stage:N`.
        teacher_taps: As many in the teacher.
        resize: How a student's map gets the height and width of the teacher's; None forbids it.
        extra_tokens: Leading tokens that are no part of the image, see `as_map`.
        aspect_ratio: Height over width of the image, where tokens become a map.

    >>> import torch
    >>> objective = FeatureMatching("stage:-1", "stage:-1")
    >>> objective([torch.ones(2, 3, 4, 4)], [torch.zeros(2, 3, 4, 4)])
    tensor(1.)
    """

    def __init__(
        self,
        student_taps: str | Sequence[str] = "stage:-1",
        teacher_taps: str | Sequence[str] = "stage:-1",
        *,
        resize: Resize | None = None,
        extra_tokens: int | None = None,
        aspect_ratio: float = 1.0,
    ) -> None:
        super().__init__(
            student_taps, teacher_taps, resize=resize, extra_tokens=extra_tokens, aspect_ratio=aspect_ratio
        )
        self.check_pairs()
        self.projectors: nn.ModuleList | None = None

    def make_modules(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> None:
        """Make a projector for every pair of different widths."""
        self.projectors = nn.ModuleList(
            width_projector(*pair) for pair in self.aligned(student_features, teacher_features)
        )

    def loss(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
        """The sum over the pairs of the means over the batch."""
        pairs = self.aligned(student_features, teacher_features)
        projectors = self.projectors or [nn.Identity()] * len(pairs)
        losses = [
            feature_matching(project(student), teacher)
            for project, (student, teacher) in zip(projectors, pairs, strict=True)
        ]
        return torch.stack(losses).sum()
