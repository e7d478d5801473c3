"""Learned masks over channels and positions, the masked errors, and how alike masks are (ACAM-KD, steps 2 to 4).

Source: Lan and Tian, "ACAM-KD: Adaptive and Cooperative Attention Masking for Knowledge Distillation", ICCV 2025,
arXiv 2503.06307, the section on adaptive spatial-channel masking; the normalisation by the mask is MasKD's (Huang et
al., ICLR 2023).

Whoever trains with these losses should watch the mean mask value. With the paper's normalisation the masked errors
grow with the square of a mask and are divided by its sum, and the diversity does not see a mask's scale: shrinking
every mask lowers the loss without teaching anything. `normalization="sum_of_squares"` is free of that; it is ours.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import Reduction, check_at_least, check_option, check_same_shape, reduce
from tutelage.objectives.precision import at_least_float32

MaskNormalization = Literal["sum", "sum_of_squares"]
"""What a masked error is divided by: the mask's sum (the paper), or the sum of its squares (ours: scale-invariant)."""

Dice = Literal["global", "pairwise_mean"]
"""The overlap of all pairs together over all masks' squares, or the mean of every pair's own Dice coefficient."""


class AdaptiveMasks(nn.Module):
    """M masks over channels and M over positions, read off a fused feature map by learned units.

    With v the fused map's mean over positions `[C]` and z the map itself `[C, P]`, the channel masks are σ(m^c vᵀ) and
    the spatial masks σ(m^s z). Units start as N(0, 1) (not known of the paper). The trainer lets them learn without
    weight decay (`no_weight_decay`), since units that shrink to 0 make every mask 1/2.

    Args:
        channels: C of the fused map.
        num_masks: M; the paper takes 6 for detection and the number of classes for segmentation.

    Attributes:
        channel_units: m^c, `[M]`.
        spatial_units: m^s, `[M, C]`.

    Raises:
        ValueError: A number below 1.

    >>> masks = AdaptiveMasks(channels=4, num_masks=3)
    >>> channel_masks, spatial_masks = masks(torch.randn(2, 4, 5, 6))
    >>> tuple(channel_masks.shape), tuple(spatial_masks.shape)
    ((2, 3, 4), (2, 3, 30))
    """

    def __init__(self, channels: int, num_masks: int) -> None:
        super().__init__()
        check_at_least(channels, "channels", 1)
        check_at_least(num_masks, "num_masks", 1)
        self.channel_units = nn.Parameter(torch.randn(num_masks))
        self.spatial_units = nn.Parameter(torch.randn(num_masks, channels))
        for units in self.parameters():
            units.no_weight_decay = True  # type: ignore[attr-defined]

    def forward(
        self, fused: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch masks channels"], Float[Tensor, "batch masks positions"]]:
        """The masks of every sample, in (0, 1), float32 or wider.

        Args:
            fused: `[batch, C, H, W]`.

        Returns:
            Channel masks `[batch, M, C]` and spatial masks `[batch, M, H·W]`.
        """
        if fused.shape[1] != self.spatial_units.shape[1]:
            raise ValueError(
                f"Expected argument `fused` to have {self.spatial_units.shape[1]} channels, but got {fused.shape[1]}."
            )
        with torch.autocast(fused.device.type, enabled=False):
            tokens = at_least_float32(fused).flatten(2)
            channel = at_least_float32(self.channel_units)[:, None] * tokens.mean(dim=2).unsqueeze(1)
            spatial = at_least_float32(self.spatial_units) @ tokens
        return channel.sigmoid(), spatial.sigmoid()


def channel_masked_mse(
    teacher: Float[Tensor, "batch channels height width"],
    student: Float[Tensor, "..."],
    masks: Float[Tensor, "..."],
    *,
    normalization: MaskNormalization = "sum",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """The masked error over channels: ℓ = (1/M) Σ_m Σ_{k,p} (M_{m,k} e_{k,p})² / (H·W · Σ_k M_{m,k}), e = F_T − F_S.

    A mask multiplies the error before it is squared. With all entries equal to κ, ℓ is κ times the mean squared error;
    with `normalization="sum_of_squares"` (Σ_k M² in the place of Σ_k M) it is the mean squared error for every κ. A
    mask of zeros adds 0. Gradients reach the student and the masks, never the teacher.

    Args:
        teacher: `[batch, C, H, W]`.
        student: `[batch, C, H, W]`, already at the teacher's width.
        masks: `[batch, M, C]`, not negative.
        normalization: `"sum"` (the paper) or `"sum_of_squares"` (ours).
        reduction: `"mean"` over the batch, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider: a scalar, or `[batch]`.

    Raises:
        ValueError: Maps of different shapes, masks that do not fit them, or an unknown option.

    >>> teacher, student = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    >>> channel_masked_mse(teacher, student, torch.tensor([[[0.5, 1.0]]]))
    tensor(0.6667)
    """
    return reduce(_masked_error(teacher, student, masks, normalization, over="channels"), reduction)


def spatial_masked_mse(
    teacher: Float[Tensor, "batch channels height width"],
    student: Float[Tensor, "..."],
    masks: Float[Tensor, "..."],
    *,
    normalization: MaskNormalization = "sum",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """The masked error over positions: ℓ = (1/M) Σ_m Σ_{k,p} (M_{m,p} e_{k,p})² / (C · Σ_p M_{m,p}), e = F_T − F_S.

    `channel_masked_mse` with the parts of channels and positions exchanged; what is said there holds here.

    Args:
        teacher: `[batch, C, H, W]`.
        student: `[batch, C, H, W]`, already at the teacher's width.
        masks: `[batch, M, H·W]`, not negative.
        normalization: `"sum"` (the paper) or `"sum_of_squares"` (ours).
        reduction: `"mean"` over the batch, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider: a scalar, or `[batch]`.

    Raises:
        ValueError: As `channel_masked_mse`.

    >>> teacher, student = torch.tensor([2.0, 0.0]).view(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    >>> spatial_masked_mse(teacher, student, torch.tensor([[[0.5, 1.0]]]))
    tensor(0.6667)
    """
    return reduce(_masked_error(teacher, student, masks, normalization, over="positions"), reduction)


def mask_diversity_loss(
    masks: Float[Tensor, "batch masks entries"], *, dice: Dice = "global", reduction: Reduction = "mean"
) -> Float[Tensor, "..."]:
    """How much a sample's masks overlap, in the form of Dice: 0 for masks without a common entry, large for copies.

    `"global"` is Σ_{i≠j} ⟨M_i, M_j⟩ / Σ_i ‖M_i‖², the sums running over all pairs at once: M − 1 for M equal masks.
    `"pairwise_mean"` is the mean over pairs i ≠ j of 2⟨M_i, M_j⟩ / (‖M_i‖² + ‖M_j‖²): 1 for equal masks. Either stays
    as it is when all masks are multiplied by a number. Masks of zeros overlap with nothing.

    Args:
        masks: `[batch, M, entries]`, not negative. One mask alone gives 0, with a warning.
        dice: `"global"` (the paper) or `"pairwise_mean"`.
        reduction: `"mean"` over the batch, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider: a scalar, or `[batch]`.

    Raises:
        ValueError: An unknown option.

    >>> equal = torch.full((1, 6, 10), 0.3)
    >>> mask_diversity_loss(equal), mask_diversity_loss(equal, dice="pairwise_mean")
    (tensor(5.), tensor(1.))
    """
    check_option(dice, "dice", ("global", "pairwise_mean"))
    number = masks.shape[1]
    if number == 1:
        warnings.warn("The diversity of one mask alone is 0: nothing keeps it from anything.", stacklevel=2)
    masks = _relative(at_least_float32(masks), dims=(1, 2))
    products = masks @ masks.mT
    squares = products.diagonal(dim1=1, dim2=2)
    others = 1 - torch.eye(number, dtype=masks.dtype, device=masks.device)
    if dice == "global":
        return reduce((products * others).sum(dim=(1, 2)) / _positive(squares.sum(dim=1)), reduction)
    coefficients = 2 * products / _positive(squares[:, :, None] + squares[:, None, :])
    return reduce((coefficients * others).sum(dim=(1, 2)) / max(1, number * (number - 1)), reduction)


def _masked_error(
    teacher: Tensor, student: Tensor, masks: Tensor, normalization: str, *, over: Literal["channels", "positions"]
) -> Tensor:
    """The masked error of every sample, `[batch]`; squares are summed first, so no tensor has masks × C × P entries."""
    check_option(normalization, "normalization", ("sum", "sum_of_squares"))
    check_same_shape(teacher, student, "teacher", "student")
    squares = (at_least_float32(teacher.detach()) - at_least_float32(student)).square().flatten(2)
    dim, rest = (2, 1) if over == "channels" else (1, 2)
    if masks.ndim != 3 or masks.shape[0] != len(teacher) or masks.shape[2] != squares.shape[rest]:
        raise ValueError(
            f"Expected argument `masks` to have shape [{len(teacher)}, masks, {squares.shape[rest]}] for maps of "
            f"{tuple(teacher.shape)}, but got {tuple(masks.shape)}."
        )
    energy = squares.mean(dim=dim).unsqueeze(2)  # `[batch, entries, 1]`, the mean over what is not masked
    masks = masks.to(torch.promote_types(masks.dtype, energy.dtype))
    if normalization == "sum":
        weights = masks.square() / _positive(masks.sum(dim=2, keepdim=True))
    else:
        weights = _relative(masks, dims=(2,)).square()
        weights = weights / _positive(weights.sum(dim=2, keepdim=True))
    return (weights @ energy.to(weights.dtype)).mean(dim=(1, 2))


def _relative(masks: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Masks over their largest entry, for ratios that a common factor does not change: squares of tiny ones stay."""
    return masks / _positive(masks.detach().amax(dim=dims, keepdim=True))


def _positive(value: Tensor) -> Tensor:
    """A denominator that is 0 only where its numerator is, as the least positive number."""
    return value.clamp_min(torch.finfo(value.dtype).tiny)
