"""SKT: a thin student copies a teacher's maps layer by layer, and the relations between its layers.

Source: Liu et al., "Efficient Crowd Counting via Structured Knowledge Transfer", ACM Multimedia 2020, arXiv 2003.10120.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tutelage._checks import (
    check_at_least,
    check_non_negative,
    check_option,
    check_positive,
    check_same_length,
    check_same_shape,
)
from tutelage.features.feature_objective import _TappedObjective
from tutelage.features.relations import normalized_positions
from tutelage.models.csrnet import CSRNET_TAPS
from tutelage.objectives.precision import at_least_float32

Total = Literal["sum", "mean"]
"""How a sample's positions, layers, entries and pairs become one number; samples are averaged in either case."""

FeatureMaps = Sequence[Float[Tensor, "_ _ _ _"]]


def intra_layer_pattern_loss(
    student: FeatureMaps, teacher: FeatureMaps, *, reduction: Total = "sum", eps: float = 1e-8
) -> Float[Tensor, ""]:
    """Intra-layer pattern transfer: at every position of every layer, 1 − the cosine of the two channel vectors.

    L = mean over samples of Σ_l Σ_p (1 − cos(s_l[:, p], t_l[:, p])). A vector shorter than `eps` has no direction: its
    position counts 1 and passes no gradient. The scale of a map does not matter.

    Args:
        student: Maps `[batch, channels, height, width]`, already of the teacher's channels.
        teacher: As many maps of the same shapes; detached.
        reduction: `"sum"` over positions and layers, as published: it grows with the image. `"mean"` over the positions
            of a layer, then over layers: in [0, 2].
        eps: The shortest vector with a direction.

    Returns:
        A scalar in float32 or wider, averaged over the batch.

    Raises:
        ValueError: Different numbers of maps, or shapes that differ.

    >>> student = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # (1, 0) and (0, 1)
    >>> teacher = torch.tensor([[[[0.0, 0.0]], [[1.0, 1.0]]]])  # (0, 1) and (0, 1)
    >>> intra_layer_pattern_loss([student], [teacher])
    tensor(1.)
    """
    check_option(reduction, "reduction", ("sum", "mean"))
    check_positive(eps, "eps")
    check_same_length(student, teacher, "student", "teacher")
    layers = []
    for number, (student_map, teacher_map) in enumerate(zip(student, teacher, strict=True)):
        check_same_shape(student_map, teacher_map, f"student[{number}]", f"teacher[{number}]")
        distance = 1 - _cosine(at_least_float32(student_map), at_least_float32(teacher_map.detach()), eps)
        layers.append(distance.mean() if reduction == "mean" else distance.sum() / len(distance))
    total = torch.stack(layers)
    return total.mean() if reduction == "mean" else total.sum()


def dense_fsp_loss(
    student: FeatureMaps,
    teacher: FeatureMaps,
    *,
    pool: Sequence[int] = (8, 4, 2),
    instance_norm: bool = True,
    reduction: Total = "sum",
) -> Float[Tensor, ""]:
    """Inter-layer relation transfer: squared differences of the FSP matrices of every pair of layers.

    L = mean over samples of Σ_{i<j} ‖F_ij(student) − F_ij(teacher)‖²_F, with `fsp_matrix` of maps brought to one size.
    All pairs that begin with the same layer, of all samples, are one batched product. With `instance_norm` the scale of
    a map does not matter. The official code's products read the first sample of a batch only; they agree with this for
    a batch of one.

    Args:
        student: At least two maps `[batch, channels, height, width]`, of the teacher's channels.
        teacher: As many maps of the same channels; detached. Sizes need only agree within either side.
        pool: For each leading map, the kernel and stride of a max-pool that rounds up; the rest stay as they are.
        instance_norm: See `fsp_matrix`.
        reduction: `"sum"` over entries and pairs, as published; `"mean"` over a pair's entries, then over pairs.

    Returns:
        A scalar in float32 or wider, averaged over the batch.

    Raises:
        ValueError: Different numbers of maps, fewer than two, other channels or batch sizes, sizes that differ after
            pooling, or a pool below 1 or for a map that is not there.

    >>> narrow, wide = torch.eye(2).reshape(1, 1, 2, 2), torch.eye(4).reshape(1, 1, 4, 4)
    >>> dense_fsp_loss([wide, narrow], [wide, -narrow], pool=(2,)).round(decimals=2)
    tensor(4.)
    """
    check_option(reduction, "reduction", ("sum", "mean"))
    check_same_length(student, teacher, "student", "teacher")
    if len(student) < 2:
        raise ValueError(f"Expected argument `student` to hold at least 2 maps to relate, but got {len(student)}.")
    if len(pool) > len(student):
        raise ValueError(
            f"Expected argument `pool` to hold at most one number a map, but got {len(pool)} for {len(student)} maps."
        )
    for size in pool:
        check_at_least(size, "pool", 1)
    for number, (student_map, teacher_map) in enumerate(zip(student, teacher, strict=True)):
        if student_map.shape[:2] != teacher_map.shape[:2]:
            raise ValueError(
                f"Expected arguments `student[{number}]` and `teacher[{number}]` to have the same batch size and "
                f"channels, but got {tuple(student_map.shape)} and {tuple(teacher_map.shape)}."
            )
    student_rows = _positions(student, pool, instance_norm, "student")
    teacher_rows = _positions([value.detach() for value in teacher], pool, instance_norm, "teacher")
    widths = [value.shape[1] for value in student]
    pairs, start = [], 0
    for number, width in enumerate(widths[:-1]):
        stop = start + width
        difference = _products(student_rows, start, stop) - _products(teacher_rows, start, stop)
        squares = difference.square().sum(dim=1).mean(dim=0)  # one value for each later channel
        if reduction == "mean":
            pairs += [part.mean() / width for part in torch.split(squares, widths[number + 1 :])]
        else:
            pairs.append(squares.sum())
        start = stop
    total = torch.stack(pairs)
    return total.mean() if reduction == "mean" else total.sum()


class StructuredKnowledgeTransfer(nn.Module):
    """All terms of SKT for a student that predicts density maps; owns the transforms to the teacher's channels.

    A transform is a 1×1 convolution with bias and a ReLU for each map. They train with the student and are thrown away
    after it: they read its features and change nothing in it. See `StructuredTransfer` for a form that a config names.

    Args:
        student_channels: Channels of the student's maps.
        teacher_channels: As many, of the teacher's.
        intra_weight: λ of `intra_layer_pattern_loss`.
        inter_weight: λ of `dense_fsp_loss`.
        pool: See `dense_fsp_loss`; for maps at 1/1, 1/2, 1/4 and then 1/8 of the image.
        reduction: Of both: `"sum"` as published, or `"mean"`.

    Raises:
        ValueError: Lists of other lengths, or a negative weight.

    >>> _ = torch.manual_seed(0)
    >>> transfer = StructuredKnowledgeTransfer((2, 3), (4, 5), pool=(2,))
    >>> student = [torch.rand(1, 2, 8, 8), torch.rand(1, 3, 4, 4)]
    >>> teacher = [torch.rand(1, 4, 8, 8), torch.rand(1, 5, 4, 4)]
    >>> density = torch.rand(3, 1, 1, 4, 4)
    >>> losses = transfer(student, teacher, *density)
    >>> sorted(losses)
    ['hard', 'inter', 'intra', 'soft', 'total']
    >>> expected = losses["hard"] + losses["soft"] + 0.5 * losses["intra"] + 0.5 * losses["inter"]
    >>> torch.testing.assert_close(losses["total"], expected)
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        *,
        intra_weight: float = 0.5,
        inter_weight: float = 0.5,
        pool: Sequence[int] = (8, 4, 2),
        reduction: Total = "sum",
    ) -> None:
        super().__init__()
        check_non_negative(intra_weight, "intra_weight")
        check_non_negative(inter_weight, "inter_weight")
        check_option(reduction, "reduction", ("sum", "mean"))
        self.intra_weight, self.inter_weight = intra_weight, inter_weight
        self.pool = tuple(pool)
        self.reduction: Total = reduction
        self.transforms = channel_transforms(student_channels, teacher_channels)

    def forward(
        self,
        student_features: FeatureMaps,
        teacher_features: FeatureMaps,
        student_density: Float[Tensor, "_ 1 _ _"],
        teacher_density: Float[Tensor, "_ 1 _ _"],
        target_density: Float[Tensor, "_ 1 _ _"],
    ) -> dict[str, Tensor]:
        """The terms, each averaged over the batch.

        Args:
            student_features: The student's maps, in the order of `student_channels`, as the student makes them.
            teacher_features: The teacher's; detached.
            student_density: The density that the student predicts.
            teacher_density: What the teacher predicts; detached. Both are the last map of `dense_fsp_loss`.
            target_density: The truth.

        Returns:
            `hard` Σ (student − target)², `soft` Σ (student − teacher)² over positions, `intra` and `inter`, all
            unweighted, and `total` = hard + soft + intra_weight · intra + inter_weight · inter. A term of weight 0 is
            computed without a gradient.
        """
        check_same_length(student_features, self.transforms, "student_features", "transforms")
        check_same_shape(student_density, teacher_density, "student_density", "teacher_density")
        check_same_shape(student_density, target_density, "student_density", "target_density")
        maps = [change(value) for change, value in zip(self.transforms, student_features, strict=True)]

        def intra() -> Tensor:
            return intra_layer_pattern_loss(maps, teacher_features, reduction=self.reduction)

        def inter() -> Tensor:
            student, teacher = [*maps, student_density], [*teacher_features, teacher_density]
            return dense_fsp_loss(student, teacher, pool=self.pool, reduction=self.reduction)

        terms = {
            "hard": _squared_error(student_density, target_density),
            "soft": _squared_error(student_density, teacher_density),
            "intra": _unless_unused(intra, self.intra_weight),
            "inter": _unless_unused(inter, self.inter_weight),
        }
        weighted = self.intra_weight * terms["intra"] + self.inter_weight * terms["inter"]
        return {**terms, "total": terms["hard"] + terms["soft"] + weighted}


class StructuredTransfer(_TappedObjective, name="skt"):
    """The two structured terms of SKT between tapped maps: λ_intra · L_intra + λ_inter · L_inter.

    With `mean_squared_error` (the hard term) and `logit_mse` (the soft one) it makes SKT: both are means where SKT
    sums, so give them the number of positions of a density map as weight. Without them it teaches any convolutional
    student from any convolutional teacher whose tapped maps have the same sizes. The transforms (1×1 convolution, ReLU)
    train beside the student and are no part of it.

    Args:
        student_taps: Places in the student: module paths, `PATH:input` or `stage:N`; by default those of a `CSRNet`.
        teacher_taps: As many in the teacher.
        intra_weight: λ of `intra_layer_pattern_loss`; at 0 it is not computed.
        inter_weight: λ of `dense_fsp_loss`; at 0 it is not computed.
        pool: See `dense_fsp_loss`: what brings the leading maps to the size of the others.
        with_output: Take what both models predict, maps `[batch, channels, height, width]`, as a last map of the
            inter-layer term.
        reduction: Of both terms: `"sum"` as published, or `"mean"`.

    Raises:
        ValueError: Other numbers of places, or a negative weight.

    >>> objective = StructuredTransfer(["0", "1"], ["0", "1"], pool=(), with_output=False)
    >>> maps = [torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)]
    >>> bool(objective(maps, maps) < 1e-4)  # as many channels, and no transforms made yet
    True
    """

    def __init__(
        self,
        student_taps: str | Sequence[str] = CSRNET_TAPS,
        teacher_taps: str | Sequence[str] = CSRNET_TAPS,
        *,
        intra_weight: float = 0.5,
        inter_weight: float = 0.5,
        pool: Sequence[int] = (8, 4, 2),
        with_output: bool = True,
        reduction: Total = "sum",
    ) -> None:
        outputs = ("student.logits", "teacher.logits") if with_output and inter_weight > 0 else ()
        super().__init__(student_taps, teacher_taps, also=outputs)
        self.check_pairs()
        check_non_negative(intra_weight, "intra_weight")
        check_non_negative(inter_weight, "inter_weight")
        check_option(reduction, "reduction", ("sum", "mean"))
        self.intra_weight, self.inter_weight = intra_weight, inter_weight
        self.pool = tuple(pool)
        self.reduction: Total = reduction
        self.transforms: nn.ModuleList | None = None

    def make_modules(
        self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *outputs: Tensor
    ) -> None:
        """Make the transforms."""
        pairs = self.aligned(student_features, teacher_features, maps=True)
        widths = [[value.shape[1] for value in side] for side in zip(*pairs, strict=True)]
        self.transforms = channel_transforms(*widths).to(pairs[0][0].device)

    def loss(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *outputs: Tensor) -> Tensor:
        """The weighted sum of the terms, averaged over the batch."""
        pairs = self.aligned(student_features, teacher_features, maps=True)
        student, teacher = [first for first, _ in pairs], [second for _, second in pairs]
        if self.transforms is not None:
            student = [change(value) for change, value in zip(self.transforms, student, strict=True)]
        total = student[0].new_zeros((), dtype=at_least_float32(student[0][:0]).dtype)
        if self.intra_weight > 0:
            total = total + self.intra_weight * intra_layer_pattern_loss(student, teacher, reduction=self.reduction)
        if self.inter_weight > 0:
            maps = [*student, *outputs[:1]], [*teacher, *outputs[1:]]
            total = total + self.inter_weight * dense_fsp_loss(*maps, pool=self.pool, reduction=self.reduction)
        return total


def channel_transforms(student_channels: Sequence[int], teacher_channels: Sequence[int]) -> nn.ModuleList:
    """A 1×1 convolution with bias and a ReLU for each pair of channels; initialised like `CSRNet`.

    >>> channel_transforms((2,), (4,))[0](torch.zeros(1, 2, 3, 3)).shape
    torch.Size([1, 4, 3, 3])
    """
    check_same_length(student_channels, teacher_channels, "student_channels", "teacher_channels")
    transforms = nn.ModuleList()
    for student, teacher in zip(student_channels, teacher_channels, strict=True):
        convolution = nn.Conv2d(student, teacher, kernel_size=1)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        transforms.append(nn.Sequential(convolution, nn.ReLU()))
    return transforms


def _cosine(first: Tensor, second: Tensor, eps: float) -> Tensor:
    """Cosines over channels `[batch, height, width]`; 0, without a gradient, where either vector has no direction."""
    # With a position's channels side by side in memory, norms over them take a tenth of the time.
    first, second = (value.contiguous(memory_format=torch.channels_last) for value in (first, second))
    lengths = torch.linalg.vector_norm(first, dim=1), torch.linalg.vector_norm(second, dim=1)
    known = (lengths[0] > eps) & (lengths[1] > eps)
    length = torch.where(known, lengths[0], 1) * torch.where(known, lengths[1], 1)
    return torch.where(known, (first * second).sum(dim=1), 0) / length


def _positions(maps: Sequence[Tensor], pool: Sequence[int], instance_norm: bool, name: str) -> Tensor:
    """The channels of all maps, at one size: `[batch, sum of channels, positions]`."""
    kernels = [*pool, *[1] * (len(maps) - len(pool))]
    pooled = [
        value if kernel == 1 else functional.max_pool2d(value, kernel, stride=kernel, ceil_mode=True)
        for value, kernel in zip(maps, kernels, strict=True)
    ]
    if len({(len(value), *value.shape[2:]) for value in pooled}) > 1:
        raise ValueError(
            f"Expected the maps of `{name}` to have the same batch size, height and width after pooling by "
            f"{tuple(pool)}, but got {[tuple(value.shape) for value in pooled]}."
        )
    rows = [normalized_positions(value) if instance_norm else at_least_float32(value).flatten(2) for value in pooled]
    return torch.cat(rows, dim=1)


def _products(rows: Tensor, start: int, stop: int) -> Tensor:
    """The FSP matrices of one map's channels with those of all later maps, side by side."""
    return torch.bmm(rows[:, start:stop], rows[:, stop:].mT) / rows.shape[2]


def _squared_error(density: Tensor, other: Tensor) -> Tensor:
    """Summed over positions, averaged over the batch."""
    return (at_least_float32(density) - at_least_float32(other.detach())).square().flatten(1).sum(dim=1).mean()


def _unless_unused(term: Callable[[], Tensor], weight: float) -> Tensor:
    with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
        return term()
