"""Networks as rows of whole numbers, one a layer: what a policy reads, and what deleting and shrinking layers makes.

Source: Ashok et al., "N2N Learning: Network to Network Compression via Policy Gradient Reinforcement Learning", ICLR
2018, arXiv 1709.06030, section 3.1. `describe_layers` makes rows from a network, `build_student` a network from rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ENTRIES = ("type", "kernel", "stride", "width", "padding", "skip start", "skip end")
"""The columns of a description; networks without residual blocks have the first five."""

WIDTH_FLOOR = 10
"""No layer is shrunk below this many channels (the official code's bound)."""

_TYPES = (
    *("Unknown", "Conv", "MaxPool", "ReLU", "BatchNorm", "Linear", "Dropout"),
    *("LogSoftmax", "AvgPool", "L2Norm", "Softmax"),
)
_WEIGHTED = ("Conv", "Linear")


class InvalidArchitecture(ValueError):  # noqa: N818 - named after what was found
    """Layers that do not make a network: a map that vanishes, a linear layer out of bounds, sums that do not fit."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer in whole numbers, 0 where an entry does not apply.

    Attributes:
        kind: The PyTorch class: `Conv1d`, `Conv2d`, `BatchNorm2d`, `MaxPool2d`, `AvgPool2d`, `AdaptiveAvgPool2d`,
            `ReLU`, `Linear`, `Dropout`, `LogSoftmax`, `Softmax`, or another activation without parameters.
        kernel: Side of the kernel; for an adaptive pool the side of what comes out.
        stride: Stride.
        width: Channels or features that come out; of a batch norm, those that it scales.
        padding: Zeros at a border.
        skip: Whether the layer is the first, and whether it is the last, of a residual block's body.
        fixed: Changed by neither stage: linear layers, average pools, strided convolutions, shortcuts, and the last
            layer with weights.
        bias: Whether a convolution or linear layer has one.
        rate: Of a dropout.
        block: Number of the residual block that the layer is in, from 1; 0 outside.
        shortcut: Whether it is beside the block's body.
    """

    kind: str
    kernel: int = 0
    stride: int = 0
    width: int = 0
    padding: int = 0
    skip: tuple[int, int] = (0, 0)
    fixed: bool = False
    bias: bool = True
    rate: float = 0.0
    block: int = 0
    shortcut: bool = False

    @property
    def family(self) -> str:
        """The kind without its dimensions: `Conv` for `Conv2d`."""
        return self.kind[:-2] if self.kind.endswith(("1d", "2d")) else self.kind

    @property
    def row(self) -> tuple[int, ...]:
        """The seven entries; the type is 0 for what is not in the paper's table, and adaptive pools are average pools.

        >>> LayerSpec("Conv2d", kernel=3, stride=1, width=16, padding=1).row
        (1, 3, 1, 16, 1, 0, 0)
        """
        family = self.family.removeprefix("Adaptive")
        kind = _TYPES.index(family) if family in _TYPES else 0
        return (kind, self.kernel, self.stride, self.width, self.padding, *self.skip)


Architecture = tuple[LayerSpec, ...]
"""Layers in forward order, a residual block's body before its shortcut; hashable."""


def layer_table(specs: Sequence[LayerSpec], *, entries: int | None = None) -> Float[Tensor, "layers entries"]:
    """The description that a policy reads, raw.

    Args:
        specs: The layers.
        entries: Columns, 5 or 7; by default 7 if there are residual blocks.

    >>> layer_table([LayerSpec("Conv2d", 3, 1, 16, 1), LayerSpec("ReLU")]).tolist()
    [[1.0, 3.0, 1.0, 16.0, 1.0], [3.0, 0.0, 0.0, 0.0, 0.0]]
    """
    columns = entries or (len(ENTRIES) if any(spec.block for spec in specs) else 5)
    return torch.tensor([spec.row[:columns] for spec in specs], dtype=torch.float32).view(len(specs), columns)


def forced_keeps(specs: Sequence[LayerSpec]) -> Bool[Tensor, "layers"]:
    """Which layers the first stage may not remove: the first, the last, and every fixed one.

    >>> forced_keeps([LayerSpec("Conv2d"), LayerSpec("ReLU"), LayerSpec("Linear", fixed=True)]).tolist()
    [True, False, True]
    """
    ends = (0, len(specs) - 1)
    return torch.tensor([spec.fixed or place in ends for place, spec in enumerate(specs)], dtype=torch.bool)


def forced_entries(specs: Sequence[LayerSpec], *, entries: int | None = None) -> Bool[Tensor, "layers entries"]:
    """Which entries the second stage may not change, or could not: the type, skips, and what is at its bound already.

    Free are kernel, padding, stride (of max pools) and width (of convolutions) outside residual blocks; in a block
    only the width of the first convolution and, where a shortcut has weights that follow, of the last. Batch norms
    follow the convolution before them.

    >>> forced_entries([LayerSpec("Conv2d", 3, 1, 16, 1), LayerSpec("BatchNorm2d", width=16)]).tolist()
    [[True, False, True, False, False], [True, True, True, True, True]]
    """
    columns = layer_table(specs, entries=entries).shape[1]
    forced = torch.ones(len(specs), columns, dtype=torch.bool)
    widths = _free_widths(specs)
    for place, spec in enumerate(specs):
        if spec.fixed:
            continue
        if not spec.block and spec.family in ("Conv", "MaxPool"):
            forced[place, 1] = spec.kernel <= 1
            forced[place, 2] = spec.stride <= 1
            forced[place, 4] = spec.padding <= 0
        forced[place, 3] = place not in widths or spec.width <= WIDTH_FLOOR
    return forced


def apply_removal(specs: Sequence[LayerSpec], keep: Bool[Tensor, "layers"]) -> list[LayerSpec]:
    """The layers that are left; fixed ones stay whatever `keep` says.

    Widths that follow from others (batch norms, the end of a block) are brought up to date; a residual block that has
    lost its body is gone.

    Args:
        specs: The layers.
        keep: One decision a layer.

    Raises:
        ValueError: As many decisions as layers are needed.

    >>> layers = [LayerSpec("Conv2d", 3, 1, 16, 1), LayerSpec("ReLU"), LayerSpec("Conv2d", 3, 1, 32, 1)]
    >>> [spec.width for spec in apply_removal(layers, torch.tensor([True, False, True]))]
    [16, 32]
    """
    if len(keep) != len(specs):
        raise ValueError(f"Expected argument `keep` to hold {len(specs)} decisions, one a layer, but got {len(keep)}.")
    return fitted([spec for spec, stays in zip(specs, keep.tolist(), strict=True) if stays or spec.fixed])


def apply_shrinkage(specs: Sequence[LayerSpec], multipliers: Float[Tensor, "layers entries"]) -> list[LayerSpec]:
    """Layers whose free entries are multiplied and rounded down; see `forced_entries` for those that never change.

    Kernels and strides stay at least 1, widths at least `WIDTH_FLOOR` (or what they were, if that is less).

    Args:
        specs: The layers.
        multipliers: One an entry, in (0, 1].

    Raises:
        ValueError: Another shape, or a multiplier out of (0, 1].

    >>> half = torch.full((1, 5), 0.5)
    >>> apply_shrinkage([LayerSpec("Conv2d", 3, 1, 64, 1)], half)[0].row[:5]
    (1, 1, 1, 32, 0)
    """
    forced = forced_entries(specs, entries=multipliers.shape[1])
    if multipliers.shape != forced.shape or not ((multipliers > 0) & (multipliers <= 1)).all():
        raise ValueError(
            f"Expected argument `multipliers` to hold {tuple(forced.shape)} numbers in (0, 1], "
            f"but got {tuple(multipliers.shape)} in [{multipliers.min():g}, {multipliers.max():g}]."
        )
    table = multipliers.masked_fill(forced, 1.0).tolist()
    shrunk = []
    for spec, (_, kernel, stride, width, padding, *_) in zip(specs, table, strict=True):
        shrunk.append(
            replace(
                spec,
                kernel=_times(spec.kernel, kernel, 1),
                stride=_times(spec.stride, stride, 1),
                width=_times(spec.width, width, WIDTH_FLOOR),
                padding=_times(spec.padding, padding, 0),
            )
        )
    return fitted(shrunk)


def fitted(specs: Sequence[LayerSpec]) -> list[LayerSpec]:
    """The layers with widths and skips that follow from the others brought up to date.

    A batch norm has the width that arrives; the last convolution of a block without weights in its shortcut has the
    width that entered the block; a shortcut's has that of the body's end.
    """
    found: list[LayerSpec] = []
    width: int | None = None
    for body, shortcut in in_blocks(specs):
        if not (body and body[0].block):
            body, width = _flow(body or shortcut, width)
            found += body
            continue
        entered = width
        if not shortcut and entered is not None:
            body = _with_last_width(body, entered)
        body, width = _flow(body, entered)
        shortcut = shortcut if width is None else _with_last_width(shortcut, width)
        last = len(body) - 1
        found += [replace(spec, skip=(int(place == 0), int(place == last))) for place, spec in enumerate(body)]
        found += _flow(shortcut, entered)[0]
    return found


def in_blocks(specs: Sequence[LayerSpec]) -> Iterator[tuple[list[LayerSpec], list[LayerSpec]]]:
    """Consecutive parts as (body, shortcut): a chain outside blocks has no shortcut, a block may have lost its body."""
    for _, members in itertools.groupby(specs, key=lambda spec: spec.block):
        part = list(members)
        yield [spec for spec in part if not spec.shortcut], [spec for spec in part if spec.shortcut]


def with_fixed(specs: Sequence[LayerSpec]) -> list[LayerSpec]:
    """The layers of a whole network, marked as `fixed` where neither stage may change them."""
    weighted = [place for place, spec in enumerate(specs) if spec.family in _WEIGHTED and not spec.shortcut]
    return [
        replace(
            spec,
            fixed=spec.shortcut
            or spec.family in ("Linear", "AvgPool", "AdaptiveAvgPool")
            or (spec.family == "Conv" and spec.stride > 1)
            or place == weighted[-1],
        )
        for place, spec in enumerate(specs)
    ]


def _flow(specs: Sequence[LayerSpec], width: int | None) -> tuple[list[LayerSpec], int | None]:
    found = []
    for spec in specs:
        if spec.family in _WEIGHTED:
            width = spec.width
        elif spec.family == "BatchNorm" and width is not None:
            spec = replace(spec, width=width)
        found.append(spec)
    return found, width


def _with_last_width(specs: Sequence[LayerSpec], width: int) -> list[LayerSpec]:
    """The layers with that width for their last convolution."""
    last = max((place for place, spec in enumerate(specs) if spec.family == "Conv"), default=None)
    return [replace(spec, width=width) if place == last else spec for place, spec in enumerate(specs)]


def _free_widths(specs: Sequence[LayerSpec]) -> set[int]:
    """Places of convolutions that may choose their width."""
    places: dict[int, list[int]] = {}
    for place, spec in enumerate(specs):
        if spec.family == "Conv" and not spec.shortcut:
            places.setdefault(spec.block, []).append(place)
    with_weights = {spec.block for spec in specs if spec.shortcut and spec.family == "Conv"}
    free = set(places.pop(0, []))
    for block, inside in places.items():
        free |= set(inside[:1]) - set(inside[-1:])
        free |= set(inside[-1:]) if block in with_weights else set()
    return free


def _times(value: int, multiplier: float, floor: int) -> int:
    """The product rounded down, not below the floor; single precision's error in the multiplier is rounded away."""
    return min(value, max(floor, math.floor(value * round(multiplier, 6) + 1e-9)))
