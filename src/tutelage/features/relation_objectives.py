"""DisWOT's distances as lessons: relations between samples, and between channels, at places inside both networks.

Source: Dong et al., "DisWOT: Student Architecture Search for Distillation WithOut Training", CVPR 2023, arXiv
2303.15678, section 3.3. Neither needs a projector: what is compared are products, whose sizes do not depend on a map's
height, width or, between samples, on its channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.features.feature_objective import _TappedObjective
from tutelage.features.layouts import as_map
from tutelage.features.relations import channel_relation_distance, sample_relation_distance


class SampleRelationDistance(_TappedObjective):
    """`sample_relation_distance` of a batch, summed over pairs of taps: the similarity-preserving loss.

    It is a mean over all pairs of samples, as published, and so small: factors in the thousands are usual.

    Args:
        student_taps: Places in the student: module paths, `PATH:input` or `stage:N`.
        teacher_taps: As many in the teacher; layouts, sizes and widths may differ.

    >>> objective = SampleRelationDistance("stage:-1", "head:input")
    >>> objective([torch.tensor([[1.0, 0.0], [1.0, 0.0]])], [torch.eye(2)])
    tensor(0.2929)
    """

    def __init__(
        self, student_taps: str | Sequence[str] = "stage:-1", teacher_taps: str | Sequence[str] = "stage:-1"
    ) -> None:
        super().__init__(student_taps, teacher_taps)
        self.check_pairs()

    def loss(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
        """The sum over the pairs."""
        pairs = zip(student_features, teacher_features, strict=True)
        return torch.stack([sample_relation_distance(student, teacher) for student, teacher in pairs]).sum()


class ChannelRelationDistance(_TappedObjective):
    """`channel_relation_distance` of a batch, summed over pairs of taps: DisWOT's semantic metric as a distiller.

    Tokens become maps first. Numbers of channels must agree; heights and widths need not.

    Args:
        student_taps: Places in the student: module paths, `PATH:input` or `stage:N`.
        teacher_taps: As many in the teacher.
        extra_tokens: Leading tokens that are no part of the image, see `as_map`.
        aspect_ratio: Height over width of the image, where tokens become a map.

    >>> objective = ChannelRelationDistance("stage:-1", "stage:-1")
    >>> objective([torch.ones(2, 3, 4, 4)], [torch.ones(2, 3, 2, 2)])
    tensor(0.)
    """

    def __init__(
        self,
        student_taps: str | Sequence[str] = "stage:-1",
        teacher_taps: str | Sequence[str] = "stage:-1",
        *,
        extra_tokens: int | None = None,
        aspect_ratio: float = 1.0,
    ) -> None:
        super().__init__(student_taps, teacher_taps, extra_tokens=extra_tokens, aspect_ratio=aspect_ratio)
        self.check_pairs()

    def loss(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
        """The sum over the pairs of the means over the batch."""
        losses = []
        for place, student, teacher in zip(self.student_taps, student_features, teacher_features, strict=True):
            maps = [
                as_map(features, extra_tokens=self.extra_tokens, aspect_ratio=self.aspect_ratio)
                for features in (student, teacher)
            ]
            if maps[0].shape[1] != maps[1].shape[1]:
                raise ValueError(
                    f"Expected {place!r} of the student to have as many channels as the teacher, "
                    f"but got {maps[0].shape[1]} and {maps[1].shape[1]}."
                )
            losses.append(channel_relation_distance(*maps))
        return torch.stack(losses).sum()
