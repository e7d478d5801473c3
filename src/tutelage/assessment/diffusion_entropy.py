"""Entropies of representations: of their diffusion spectrum, and the simpler ones that it is compared with."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage._checks import check_at_least, check_option, check_positive
from tutelage.assessment.diffusion_spectrum import (
    Bandwidth,
    Normalization,
    checked_representations,
    diffusion_scale,
    diffusion_spectrum,
    gaussian_affinity,
    resolve_bandwidth,
)


def diffusion_spectral_entropy(
    x: Float[Tensor, "samples width"],
    *,
    bandwidth: Bandwidth = 10.0,
    time: float = 1,
    normalization: Normalization = "random_walk",
    base: float = 2.0,
    max_samples: int = 10_000,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Diffusion spectral entropy (DSE): −Σ α log α of α_i = λ_i^t / Σ_j λ_j^t.

    Between 0 (one point, or σ → ∞) and log N (all points far apart); log k for k tight, far clusters of equal size.
    It grows with N, and has no unit of length: compare values at one N, and at bandwidths that stand alike to the
    distances.

    Args:
        x: `[samples, width]` representations.
        bandwidth: σ of the kernel, in the unit of `x`; the published default suits features of norm 10 to 100. See
            `median_bandwidth`.
        time: t, diffusion steps, any positive number. Larger ones shrink noise directions.
        normalization: Which random walk, see `diffusion_spectrum`.
        base: Of the logarithm: 2 gives bits, `math.e` nats.
        max_samples: Of more samples than this, so many are drawn at random. See
            `estimate_diffusion_spectral_entropy` for all of them.
        generator: The random state of that draw.

    Returns:
        A scalar in float32 or wider, computed in float64; differentiable in `x`.

    Raises:
        ValueError: Fewer than two samples, values that are not finite, or a setting that is not positive.

    Source: Liao et al., CISS 2024, arXiv 2312.04823, DSE. The authors' code adds machine epsilon to every α; here
    0 log 0 = 0.

    >>> two_clusters = torch.tensor([[0.0], [1000.0]]).repeat_interleave(5, dim=0)
    >>> diffusion_spectral_entropy(two_clusters)
    tensor(1.)
    """
    check_at_least(max_samples, "max_samples", 2)
    if len(x) > max_samples:
        x = x[torch.randperm(len(x), generator=generator)[:max_samples].to(x.device)]
    spectrum = diffusion_spectrum(x, bandwidth=bandwidth, normalization=normalization)
    return spectral_entropy(spectrum, time=time, base=base).to(torch.promote_types(x.dtype, torch.float32))


def matrix_entry_entropy(
    x: Float[Tensor, "samples width"], *, bandwidth: Bandwidth = 10.0, base: float = 2.0
) -> Float[Tensor, ""]:
    """Entropy of the entries of the (anisotropic) diffusion matrix, divided by their sum N.

    Args:
        x: `[samples, width]`.
        bandwidth: σ of the kernel.
        base: Of the logarithm.

    Returns:
        A scalar in float32 or wider, between log N (no two points see each other) and 2 log N (all are one).

    Raises:
        ValueError: As `diffusion_spectral_entropy`.

    Source: Liao et al., arXiv 2312.04823; the authors' code.

    >>> matrix_entry_entropy(torch.zeros(4, 1))
    tensor(4.)
    """
    points = checked_representations(x)
    affinity = gaussian_affinity(points, resolve_bandwidth(points, bandwidth))
    scale = diffusion_scale(affinity, "random_walk")
    kernel = scale[:, None] * affinity * scale
    entries = kernel / kernel.sum(dim=1, keepdim=True) / len(x)
    return shannon_entropy(entries, base=base).to(torch.promote_types(x.dtype, torch.float32))


def adjacency_spectral_entropy(
    x: Float[Tensor, "samples width"],
    *,
    kind: Literal["knn", "gaussian", "anisotropic"] = "knn",
    neighbors: int = 10,
    bandwidth: Bandwidth = 10.0,
    base: float = 2.0,
) -> Float[Tensor, ""]:
    """Entropy of the moduli of an adjacency matrix's eigenvalues, divided by their sum.

    Args:
        x: `[samples, width]`.
        kind: `"gaussian"`: G itself. `"anisotropic"`: D^(−1/2) G D^(−1/2), which gives the diffusion spectral entropy
            at time 1. `"knn"`: 1 where a distance is at most the k-th smallest of its row, in which the point itself
            counts as the first; a directed graph, whose eigenvalues may be complex. No gradient.
        neighbors: k.
        bandwidth: σ of the Gaussian kinds.
        base: Of the logarithm.

    Returns:
        A scalar in float32 or wider, in [0, log N].

    Raises:
        ValueError: As `diffusion_spectral_entropy`, or more neighbours than samples.

    Source: Liao et al., arXiv 2312.04823; the authors' code.

    >>> far_apart = 100 * torch.eye(4)
    >>> adjacency_spectral_entropy(far_apart, kind="gaussian"), adjacency_spectral_entropy(far_apart, neighbors=1)
    (tensor(2.), tensor(2.))
    """
    check_option(kind, "kind", ("knn", "gaussian", "anisotropic"))
    points = checked_representations(x)
    if kind == "knn":
        check_at_least(neighbors, "neighbors", 1)
        if neighbors > len(x):
            raise ValueError(f"Expected argument `neighbors` to be at most {len(x)} (samples), but got {neighbors}.")
        distances = torch.cdist(points.detach(), points.detach(), compute_mode="donot_use_mm_for_euclid_dist")
        adjacency = distances <= distances.kthvalue(neighbors, dim=1, keepdim=True).values
        moduli = torch.linalg.eigvals(adjacency.double()).abs()
    else:
        affinity = gaussian_affinity(points, resolve_bandwidth(points, bandwidth))
        if kind == "anisotropic":
            scale = diffusion_scale(affinity, "random_walk")
            affinity = scale[:, None] * affinity * scale
        moduli = torch.linalg.eigvalsh(affinity).abs()
    return spectral_entropy(moduli, base=base).to(torch.promote_types(x.dtype, torch.float32))


def shannon_histogram_entropy(
    x: Float[Tensor, "samples width"], *, bins: int = 2, base: float = 2.0
) -> Float[Tensor, ""]:
    """Classic Shannon entropy (CSE) of the joint histogram of all dimensions.

    Every dimension is cut into equal bins [low, high) between its least and its largest value, which is in the last
    bin; a constant one has a single bin. In many dimensions every sample is alone in its cell, and the entropy is
    log N whatever the data.

    Args:
        x: `[samples, width]`.
        bins: Bins a dimension.
        base: Of the logarithm.

    Returns:
        A scalar in float32 or wider, in [0, log N]; no gradient.

    Raises:
        ValueError: Fewer than two samples, values that are not finite, or no bins.

    Source: Liao et al., arXiv 2312.04823; the authors' code.

    >>> shannon_histogram_entropy(torch.tensor([[0.0, 7.0], [0.4, 7.0], [0.5, 7.0], [1.0, 7.0]]))
    tensor(1.)
    """
    check_at_least(bins, "bins", 1)
    points = checked_representations(x).detach()
    low, high = points.aminmax(dim=0)
    width = torch.where(high > low, high - low, 1.0)
    cells = ((points - low) / width * bins).long().clamp_max(bins - 1)
    counts = torch.unique(cells, dim=0, return_counts=True)[1]
    return shannon_entropy(counts.double() / len(x), base=base).to(torch.promote_types(x.dtype, torch.float32))


def spectral_entropy(spectrum: Tensor, *, time: float = 1, base: float = 2.0) -> Tensor:
    """−Σ α log α of α = λ^t / Σ λ^t over the positive λ.

    >>> spectral_entropy(torch.tensor([1.0, 1.0, 0.0]), time=3)
    tensor(1.)
    """
    check_positive(time, "time")
    log_alpha = (time * spectrum[spectrum > 0].log()).log_softmax(dim=0)
    return -(log_alpha.exp() * log_alpha).sum() / log_of(base)


def shannon_entropy(probabilities: Tensor, *, base: float = 2.0) -> Tensor:
    """−Σ p log p over the positive p.

    >>> shannon_entropy(torch.tensor([0.5, 0.5, 0.0]))
    tensor(1.)
    """
    positive = probabilities[probabilities > 0]
    return -(positive * positive.log()).sum() / log_of(base)


def log_of(base: float) -> float:
    """The natural logarithm of a base of logarithms, which must be above 1."""
    if not (math.isfinite(base) and base > 1):
        raise ValueError(f"Expected argument `base` to be above 1, but got {base}.")
    return math.log(base)
