"""Where the classes of a histogram lie on the real line: bins, or points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage._checks import check_at_least, check_non_negative


class Support:
    """Where values lie. All numbers are float64; they are cast to the type of the input where they are used."""

    def __init__(self, v_min: float, v_max: float, count: int, count_name: str) -> None:
        if not (math.isfinite(v_min) and math.isfinite(v_max) and v_min < v_max):
            raise ValueError(f"Expected argument `v_min` to be below `v_max`, but got {v_min} and {v_max}.")
        check_at_least(count, count_name, 2)
        self.v_min = float(v_min)
        self.v_max = float(v_max)

    @property
    def values(self) -> Tensor:
        """What each class of a histogram stands for, float64 `[m]`."""
        raise NotImplementedError

    def fraction_outside(self, target: Float[Tensor, "..."]) -> float:
        """The share of targets that would be clipped: log it, since a range that is too narrow cuts silently."""
        return float(((target < self.v_min) | (target > self.v_max)).double().mean())


class HistogramSupport(Support):
    """Bins of equal width on [v_min, v_max].

    The mean of a histogram is biased near the limits (at −10, 51 bins on [−10, 10] give −9.73): take a range at least
    3σ wider than the values, or let `margin` do so.

    Args:
        v_min: The least value, finite.
        v_max: The largest, above `v_min`.
        num_bins: m, at least 2.
        margin: How many bins to spend on either side beyond the two limits: 3σ are 2.25 bins at the usual σ of 0.75
            bins. `v_min` and `v_max` of the result are the widened ones.

    Attributes:
        edges: float64 `[m + 1]`.
        centers: float64 `[m]`.
        bin_width: (v_max − v_min) / m.

    Raises:
        ValueError: v_min ≥ v_max, fewer than 2 bins, or a margin that leaves no bin.

    >>> support = HistogramSupport(0.0, 1.0, 2)
    >>> support.edges.tolist(), support.centers.tolist(), support.bin_width
    ([0.0, 0.5, 1.0], [0.25, 0.75], 0.5)
    >>> HistogramSupport(0.0, 1.0, 12, margin=1.0).v_max
    1.1
    """

    def __init__(self, v_min: float, v_max: float, num_bins: int, *, margin: float = 0.0) -> None:
        super().__init__(v_min, v_max, num_bins, "num_bins")
        check_non_negative(margin, "margin")
        if 2 * margin >= num_bins:
            raise ValueError(f"Expected argument `margin` to be below half of {num_bins} bins, but got {margin}.")
        beyond = margin * (self.v_max - self.v_min) / (num_bins - 2 * margin)
        self.v_min, self.v_max = self.v_min - beyond, self.v_max + beyond
        self.num_bins = num_bins
        self.edges = torch.linspace(self.v_min, self.v_max, num_bins + 1, dtype=torch.float64)
        self.centers = (self.edges[1:] + self.edges[:-1]) / 2
        self.bin_width = (self.v_max - self.v_min) / num_bins

    @property
    def values(self) -> Tensor:
        """The centers."""
        return self.centers


class AtomSupport(Support):
    """Points of equal distance from v_min to v_max, both included.

    Args:
        v_min: The first atom, finite.
        v_max: The last one, above `v_min`.
        num_atoms: m, at least 2.

    Attributes:
        atoms: float64 `[m]`.

    Raises:
        ValueError: v_min ≥ v_max, or fewer than 2 atoms.

    >>> AtomSupport(-1.0, 1.0, 3).atoms.tolist()
    [-1.0, 0.0, 1.0]
    """

    def __init__(self, v_min: float, v_max: float, num_atoms: int) -> None:
        super().__init__(v_min, v_max, num_atoms, "num_atoms")
        self.num_atoms = num_atoms
        self.atoms = torch.linspace(self.v_min, self.v_max, num_atoms, dtype=torch.float64)

    @property
    def values(self) -> Tensor:
        """The atoms."""
        return self.atoms


def as_histogram_support(support: HistogramSupport | Sequence[float]) -> HistogramSupport:
    """The support itself, or the one that `(v_min, v_max, num_bins)` describes."""
    if isinstance(support, HistogramSupport):
        return support
    if len(support) != 3 or int(support[2]) != support[2]:
        raise ValueError(f"Expected argument `support` to be (v_min, v_max, num_bins), but got {tuple(support)}.")
    return HistogramSupport(support[0], support[1], int(support[2]))
