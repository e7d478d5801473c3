"""How many dimensions a cloud of points really has."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage._checks import check_at_least


def two_nearest_neighbour_dimension(x: Float[Tensor, "samples width"]) -> float:
    """The intrinsic dimension from the ratios of distances to the second and to the first neighbour (TwoNN).

    samples / Σ log(r₂ / r₁), the maximum-likelihood estimate where density hardly changes over two neighbours.

    Args:
        x: `[samples, width]` points, no two of them the same.

    Raises:
        ValueError: Fewer than three samples.

    Source: Facco et al., "Estimating the intrinsic dimension of datasets by a minimal neighborhood information",
    Scientific Reports 7, 2017, equation 3.

    >>> line = torch.rand(2000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.ones(1, 5)
    >>> 0.9 < two_nearest_neighbour_dimension(line) < 1.1
    True
    """
    check_at_least(len(x), "samples", 3)
    distances = torch.cdist(x, x).topk(3, largest=False).values
    return float(len(x) / (distances[:, 2] / distances[:, 1]).log().sum())
