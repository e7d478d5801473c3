"""The spectrum of a diffusion over representations: how many directions a cloud of points really has."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage._checks import check_finite, check_floating, check_option, check_positive

Normalization = Literal["random_walk", "anisotropic"]
"""Which random walk: over the points as they lie, or with their density divided out."""

Bandwidth = float | Literal["median"]
"""σ of the Gaussian kernel, in the unit of the representations, or their median distance."""


def diffusion_spectrum(
    x: Float[Tensor, "samples width"],
    *,
    bandwidth: Bandwidth = 10.0,
    normalization: Normalization = "random_walk",
    kernel: Literal["gaussian"] = "gaussian",
) -> Float[Tensor, " samples"]:
    """Eigenvalues of the diffusion matrix of a cloud of points, in descending order; the first is 1.

    G_ij = exp(−‖x_i − x_j‖² / (2σ²)), D its row sums.

    - `"random_walk"`: eigenvalues of D^(−1/2) G D^(−1/2), which are those of D⁻¹ G. The authors' code computes these.
    - `"anisotropic"`: with K = D^(−1/2) G D^(−1/2) and E its row sums, eigenvalues of E⁻¹ K. The paper's text says
      this. The two differ, although the code takes them for the same.

    Differentiable in `x`. Where eigenvalues coincide, the gradient of a single one is not defined, but that of any
    symmetric function of all of them (an entropy) is, and is what comes out.

    Args:
        x: `[samples, width]`, computed in float64.
        bandwidth: σ; `"median"` takes the median distance, as a constant without a gradient. What it is compared with
            the median distance decides what the spectrum shows: state it.
        normalization: Which random walk.
        kernel: Only `"gaussian"`.

    Returns:
        `[samples]` float64 in [0, 1]; what rounding made negative is 0. Time O(N² D + N³), memory O(N²).

    Raises:
        ValueError: Fewer than two samples, values that are not finite, or a bandwidth that is not positive.

    Source: Liao et al., "Assessing Neural Network Representations During Training Using Noise-Resilient Diffusion
    Spectral Entropy", CISS 2024, arXiv 2312.04823.

    >>> pair = torch.tensor([[0.0], [1.0]])  # eigenvalues 1 and (1 − g) / (1 + g), where g = exp(−1 / 2σ²) = 1/3
    >>> [round(value, 4) for value in diffusion_spectrum(pair, bandwidth=0.67463).tolist()]
    [1.0, 0.5]
    """
    check_option(kernel, "kernel", ("gaussian",))
    x = checked_representations(x)
    affinity = gaussian_affinity(x, resolve_bandwidth(x, bandwidth))
    scale = diffusion_scale(affinity, normalization)
    eigenvalues: Tensor = torch.linalg.eigvalsh(scale[:, None] * affinity * scale)
    return eigenvalues.flip(0).clamp(0.0, 1.0)


def median_bandwidth(x: Float[Tensor, "samples width"], *, factor: float = 1.0) -> float:
    """A multiple of the median Euclidean distance over all pairs of different samples.

    Take it once, of the representations that others will be compared with, and keep it.

    Args:
        x: `[samples, width]`.
        factor: What the median is multiplied by.

    Returns:
        A positive number. Memory is that of the N (N − 1) / 2 distances.

    Raises:
        ValueError: Fewer than two samples, values that are not finite, a factor that is not positive, or a median of 0
            (half of all pairs coincide).

    >>> median_bandwidth(torch.tensor([[0.0], [1.0], [4.0]]), factor=0.5)  # distances 1, 3 and 4
    1.5
    """
    check_positive(factor, "factor")
    distances = torch.pdist(checked_representations(x).detach())
    middle = [distances.kthvalue(rank).values for rank in ((len(distances) + 1) // 2, len(distances) // 2 + 1)]
    bandwidth = factor * 0.5 * float(middle[0] + middle[1])
    if bandwidth <= 0:
        raise ValueError("Expected `x` to have a positive median distance, but most of its samples coincide.")
    return bandwidth


def checked_representations(x: Tensor) -> Tensor:
    """Representations in float64 around their mean, where inner products lose the fewest digits.

    Raises:
        ValueError: No matrix of real numbers, fewer than two samples, or values that are not finite.
    """
    check_floating(x, "x")
    if x.ndim != 2:
        raise ValueError(f"Expected argument `x` to have shape [samples, width], but got {tuple(x.shape)}.")
    if len(x) < 2:
        raise ValueError(f"Expected argument `x` to hold at least 2 samples, but got {len(x)}.")
    check_finite(x, "x")
    x = x.double()
    return x - x.detach().mean(dim=0)


def resolve_bandwidth(x: Tensor, bandwidth: Bandwidth) -> float:
    """The bandwidth as a number."""
    if isinstance(bandwidth, str):
        check_option(bandwidth, "bandwidth", ("median",))
        return median_bandwidth(x)
    check_positive(bandwidth, "bandwidth")
    return float(bandwidth)


def gaussian_affinity(x: Tensor, bandwidth: float) -> Tensor:
    """G `[samples, samples]`, with ones on its diagonal."""
    squares = x.square().sum(dim=1)
    distances = (squares[:, None] + squares - 2 * x @ x.T).clamp_min(0)
    distances = distances - torch.diag(distances.diagonal())
    return torch.exp(distances / (-2 * bandwidth**2))


def diffusion_scale(affinity: Tensor, normalization: Normalization) -> Tensor:
    """Factors s `[samples]`, such that s_i G_ij s_j is the symmetric matrix with the spectrum of the diffusion.

    >>> diffusion_scale(torch.ones(4, 4), "random_walk")
    tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    check_option(normalization, "normalization", ("random_walk", "anisotropic"))
    scale = affinity.sum(dim=1).rsqrt()
    return scale if normalization == "random_walk" else scale * (scale * (affinity @ scale)).rsqrt()
