"""ACAM-KD: what to imitate, and where, is decided at every step by masks that teacher and student make together.

Source: Lan and Tian, "ACAM-KD: Adaptive and Cooperative Attention Masking for Knowledge Distillation", ICCV 2025,
arXiv 2503.06307. There is no official code; the pieces are in `cross_attention_fusion` and `adaptive_masks`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_non_negative, check_option, check_same_length, check_same_shape
from tutelage.features.adaptive_masks import (
    AdaptiveMasks,
    Dice,
    MaskNormalization,
    channel_masked_mse,
    mask_diversity_loss,
    spatial_masked_mse,
)
from tutelage.features.cross_attention_fusion import MAX_TOKENS, Side, StudentTeacherCrossAttention
from tutelage.features.feature_objective import _TappedObjective
from tutelage.features.layouts import RESIZES, Resize, resize_map
from tutelage.objectives.precision import at_least_float32

Features = Tensor | Sequence[Tensor]
"""The map of one tap, or a list of maps."""


class ACAMDistillation(nn.Module):
    """The terms of ACAM-KD for one pair of maps or several; learns with the student, and is dropped afterwards.

    At every tap the student's map is brought to the teacher's width by a 1×1 convolution (only where they differ), both
    are fused by cross-attention, the fused map gives M masks over channels and M over positions, and the total is

        α (L_c + L_s) + λ (diversity of the channel masks + diversity of the spatial masks),

    each a mean over the batch, summed over taps. The teacher's maps are detached. The student gets gradients through
    the errors and through the fused maps; masks, projections and units get them from all terms.

    Args:
        student_channels: Width of the student's map, or a list of widths, one a tap.
        teacher_channels: The same for the teacher.
        num_masks: M: 6 for detection, the number of classes for segmentation. With one mask there is no diversity.
        alpha: α. It is not divided by the number of taps.
        diversity_weight: λ.
        use_channel: Whether there are masks over channels; without, both of their terms are 0.
        use_spatial: Whether there are masks over positions.
        detach_masks: Take the masks as constants in L_c and L_s: then only the diversity teaches them.
        mask_normalization: `"sum"` (the paper) or `"sum_of_squares"` (ours), see `channel_masked_mse`.
        dice: `"global"` (the paper's reading here) or `"pairwise_mean"`, see `mask_diversity_loss`.
        query_from: Whose positions ask in the cross-attention.
        query_channels: Their width in the attention; by default half of the teacher's, rounded down.
        mask_source: `"both"`, or `"teacher"`: the masks are made from the teacher's map alone (an ablation).
        learn_masks: Whether projections and units learn; if not, they stay as they were drawn (an ablation).
        resize: How a student's map gets the teacher's height and width (`"bilinear"` …); None forbids it.
        max_tokens: The most positions a map may have.

    Raises:
        ValueError: A setting out of range, different numbers of widths, or no masks at all.

    >>> acam = ACAMDistillation(student_channels=3, teacher_channels=4, num_masks=2)
    >>> terms = acam(torch.randn(2, 3, 5, 5), torch.randn(2, 4, 5, 5))
    >>> sorted(terms)
    ['channel', 'channel_masks', 'diversity', 'spatial', 'spatial_masks', 'total']
    >>> terms["channel_masks"].shape, terms["spatial_masks"].shape, terms["total"].requires_grad
    (torch.Size([2, 2, 4]), torch.Size([2, 2, 25]), True)
    """

    def __init__(
        self,
        student_channels: int | Sequence[int],
        teacher_channels: int | Sequence[int],
        num_masks: int,
        *,
        alpha: float = 1.0,
        diversity_weight: float = 1.0,
        use_channel: bool = True,
        use_spatial: bool = True,
        detach_masks: bool = False,
        mask_normalization: MaskNormalization = "sum",
        dice: Dice = "global",
        query_from: Side = "teacher",
        query_channels: int | None = None,
        mask_source: Literal["both", "teacher"] = "both",
        learn_masks: bool = True,
        resize: Resize | None = None,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        super().__init__()
        students, teachers = _widths(student_channels), _widths(teacher_channels)
        check_same_length(students, teachers, "student_channels", "teacher_channels")
        check_at_least(num_masks, "num_masks", 1)
        check_non_negative(alpha, "alpha")
        check_non_negative(diversity_weight, "diversity_weight")
        check_option(mask_normalization, "mask_normalization", ("sum", "sum_of_squares"))
        check_option(dice, "dice", ("global", "pairwise_mean"))
        check_option(mask_source, "mask_source", ("both", "teacher"))
        check_option(resize, "resize", (None, *RESIZES))
        if not (use_channel or use_spatial):
            raise ValueError("Expected at least one of `use_channel` and `use_spatial`, but both are False.")
        if num_masks == 1 and diversity_weight > 0:
            warnings.warn("The diversity of one mask alone is 0: `diversity_weight` has no effect.", stacklevel=2)
        self.num_masks = num_masks
        self.alpha = alpha
        self.diversity_weight = diversity_weight
        self.use_channel = use_channel
        self.use_spatial = use_spatial
        self.detach_masks = detach_masks
        self.mask_normalization: MaskNormalization = mask_normalization
        self.dice: Dice = dice
        self.mask_source = mask_source
        self.resize: Resize | None = resize
        self.align = nn.ModuleList(
            nn.Identity() if student == teacher else nn.Conv2d(student, teacher, kernel_size=1)
            for student, teacher in zip(students, teachers, strict=True)
        )
        self.fusion = nn.ModuleList(
            StudentTeacherCrossAttention(
                width,
                max(1, width // 2) if query_channels is None else query_channels,
                query_from=query_from,
                max_tokens=max_tokens,
            )
            for width in teachers
        )
        self.masks = nn.ModuleList(AdaptiveMasks(width, num_masks) for width in teachers)
        self.fusion.requires_grad_(learn_masks)
        for masks in cast(list[AdaptiveMasks], self.masks):
            masks.channel_units.requires_grad_(learn_masks and use_channel)
            masks.spatial_units.requires_grad_(learn_masks and use_spatial)

    def forward(self, student_features: Features, teacher_features: Features) -> dict[str, Any]:
        """All terms of a batch.

        Args:
            student_features: `[batch, student's width, H, W]`, or a list of such maps, one a tap.
            teacher_features: `[batch, teacher's width, H, W]`, or as many of them.

        Returns:
            `channel`, `spatial` and `diversity` (scalars without their weights, summed over taps), `total`, and
            `channel_masks` `[batch, M, C]` and `spatial_masks` `[batch, M, H·W]`: tensors, or lists where lists of maps
            came in.

        Raises:
            ValueError: Maps that are not as many as the widths, or whose height or width differs without `resize`.
        """
        single = isinstance(teacher_features, Tensor)
        students, teachers = _maps(student_features), _maps(teacher_features)
        for features, name in ((students, "student_features"), (teachers, "teacher_features")):
            if len(features) != len(self.align):
                raise ValueError(
                    f"Expected argument `{name}` to hold a map for each of {len(self.align)} taps, "
                    f"but got {len(features)}."
                )
        parts = [self._tap(*pair) for pair in zip(range(len(self.align)), students, teachers, strict=True)]
        terms: dict[str, Any] = {
            name: torch.stack([part[name] for part in parts]).sum() for name in ("channel", "spatial", "diversity")
        }
        terms["total"] = self.alpha * (terms["channel"] + terms["spatial"]) + self.diversity_weight * terms["diversity"]
        for name in ("channel_masks", "spatial_masks"):
            terms[name] = parts[0][name] if single else [part[name] for part in parts]
        return terms

    def make_masks(self, tap: int, aligned: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The masks over channels and over positions of one tap, from maps of the same shape."""
        other = teacher if self.mask_source == "teacher" else aligned
        masks: tuple[Tensor, Tensor] = self.masks[tap](self.fusion[tap](teacher, other))
        return masks

    def _tap(self, tap: int, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        teacher = teacher.detach()
        if student.shape[2:] != teacher.shape[2:]:
            if self.resize is None:
                raise ValueError(
                    "Expected maps of student and teacher to have the same height and width, but got "
                    f'{tuple(student.shape[2:])} and {tuple(teacher.shape[2:])}; `resize="bilinear"` would resize '
                    "the student's."
                )
            student = resize_map(student, (teacher.shape[2], teacher.shape[3]), self.resize)
        aligned = self.align[tap](at_least_float32(student))
        check_same_shape(aligned, teacher, "student_features", "teacher_features")
        channel_masks, spatial_masks = self.make_masks(tap, aligned, teacher)
        used = [
            (self.use_channel, channel_masks, channel_masked_mse),
            (self.use_spatial, spatial_masks, spatial_masked_mse),
        ]
        zero = channel_masks.new_zeros(())
        errors, diversity = [], zero
        for use, masks, masked_error in used:
            if not use:
                errors.append(zero)
                continue
            weights = masks.detach() if self.detach_masks else masks
            errors.append(masked_error(teacher, aligned, weights, normalization=self.mask_normalization))
            if self.num_masks > 1:
                diversity = diversity + mask_diversity_loss(masks, dice=self.dice)
        return {
            "channel": errors[0],
            "spatial": errors[1],
            "diversity": diversity,
            "channel_masks": channel_masks,
            "spatial_masks": spatial_masks,
        }


class AdaptiveMaskDistillation(_TappedObjective, name="acam_kd"):
    """`ACAMDistillation` on tapped maps: its total, a mean over the batch, summed over pairs of taps.

    The module is made from the first batch, for the widths that are there. A run logs its three terms and the means of
    its masks (`channel_mask` and `spatial_mask`): with the paper's normalisation a mean that falls towards 0 is a loss
    that shrinks without teaching anything.

    Args:
        student_taps: Places in the student: module paths, `PATH:input` or `stage:N`. Segmentation taps the map of class
            scores, detection every level of the feature pyramid.
        teacher_taps: As many in the teacher.
        num_masks: M: 6 for detection, the number of classes for segmentation.
        resize: How a student's map gets the height and width of the teacher's; None forbids it.
        extra_tokens: Leading tokens that are no part of the image, where tokens become a map.
        aspect_ratio: Height over width of the image, where tokens become a map.
        **options: Further arguments of `ACAMDistillation` (`alpha`, `diversity_weight`, `mask_normalization` …).

    >>> objective = AdaptiveMaskDistillation("stage:-1", "stage:-1", num_masks=2)
    >>> student, teacher = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    >>> objective.make_modules([student], [teacher])
    >>> objective([student], [teacher]).shape, sorted(objective.figures())
    (torch.Size([]), ['channel', 'channel_mask', 'diversity', 'spatial', 'spatial_mask'])
    """

    def __init__(
        self,
        student_taps: str | Sequence[str] = "stage:-1",
        teacher_taps: str | Sequence[str] = "stage:-1",
        *,
        num_masks: int = 6,
        resize: Resize | None = None,
        extra_tokens: int | None = None,
        aspect_ratio: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(
            student_taps, teacher_taps, resize=resize, extra_tokens=extra_tokens, aspect_ratio=aspect_ratio
        )
        self.check_pairs()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one mask is warned of when the module itself is made
            ACAMDistillation(2, 2, num_masks, **options)  # a wrong setting is told before a run begins
        self._settings = {"num_masks": num_masks, **options}
        self.acam: ACAMDistillation | None = None
        self._last: dict[str, Tensor] = {}

    def make_modules(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> None:
        """Make the fusion and the masks of every pair."""
        students, teachers = zip(*self.aligned(student_features, teacher_features, maps=True), strict=True)
        widths = [[features.shape[1] for features in side] for side in (students, teachers)]
        self.acam = ACAMDistillation(widths[0], widths[1], **self._settings).to(teachers[0].device)

    def loss(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
        """The total."""
        if self.acam is None:
            raise ValueError("Expected `make_modules` to be called with the features of a first batch before the loss.")
        students, teachers = zip(*self.aligned(student_features, teacher_features, maps=True), strict=True)
        terms = self.acam(students, teachers)
        self._last = {name: terms[name].detach() for name in ("channel", "spatial", "diversity")}
        for name, used in (("channel_mask", self.acam.use_channel), ("spatial_mask", self.acam.use_spatial)):
            if used:
                self._last[name] = torch.stack([masks.detach().mean() for masks in terms[f"{name}s"]]).mean()
        total: Tensor = terms["total"]
        return total

    def figures(self) -> dict[str, float]:
        """The terms of the last batch and the means of its masks, for the log."""
        return {name: value.item() for name, value in self._last.items()}


def _widths(channels: int | Sequence[int]) -> list[int]:
    return [channels] if isinstance(channels, int) else list(channels)


def _maps(features: Features) -> list[Tensor]:
    return [features] if isinstance(features, Tensor) else list(features)
