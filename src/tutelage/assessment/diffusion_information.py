"""Mutual information of representations with labels or inputs, from entropies of categories of equal size."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from tutelage._checks import check_at_least, check_finite, check_option, check_same_length
from tutelage.assessment.diffusion_entropy import (
    diffusion_spectral_entropy,
    matrix_entry_entropy,
    shannon_histogram_entropy,
)
from tutelage.assessment.diffusion_spectrum import (
    Bandwidth,
    Normalization,
    checked_representations,
    resolve_bandwidth,
)

Subsets = Mapping[int, Sequence[Tensor]]
"""For every category the samples, as index tensors, that its entropy is compared with."""


def diffusion_spectral_mutual_information(
    x: Float[Tensor, "samples width"],
    reference: Shaped[Tensor, "samples *features"],
    *,
    discrete: bool | None = None,
    clusters: int = 10,
    repetitions: int = 5,
    subsets: Subsets | None = None,
    entropy: Literal["diffusion", "matrix_entry", "histogram"] = "diffusion",
    bins: int = 2,
    bandwidth: Bandwidth = 10.0,
    time: float = 1,
    normalization: Normalization = "random_walk",
    base: float = 2.0,
    min_category: int | None = None,
    generator: torch.Generator | None = None,
    return_clusters: bool = False,
) -> Float[Tensor, ""] | tuple[Float[Tensor, ""], Int[Tensor, " samples"]]:
    """Diffusion spectral mutual information (DSMI) of representations and a reference.

    I(Z; Y) = Σ_y p(y) [mean_r H(Z_{S_{y,r}}) − H(Z_y)]: how much less entropy the n_y samples of a category have than
    as many of all samples, S_{y,r}, drawn without replacement. Equal sizes matter, since these entropies grow with
    them. The draws are independent, from one generator; the authors' code starts anew for every category, so that
    categories of one size share their draws.

    Args:
        x: `[samples, width]` representations Z.
        reference: Y. Classes `[samples]`: the categories. Reals `[samples]`: `clusters` bins of equal width. Vectors
            `[samples, …]` (inputs): `clusters` spectral clusters (nearest-neighbour affinity, `cluster_qr`, seed 0).
        discrete: Whether `reference` holds categories; None decides by its type, and refuses reals that are all whole
            numbers.
        clusters: Categories of a reference that has none.
        repetitions: Draws a category.
        subsets: Draws to use, by category, in place of random ones; all of the category's size.
        entropy: `"diffusion"`: DSE. `"matrix_entry"`: `matrix_entry_entropy`. `"histogram"`:
            `shannon_histogram_entropy`, which makes it CSMI.
        bins: Of the histogram.
        bandwidth: σ of the kernel; `"median"` is that of all samples, for every category.
        time: Diffusion steps of DSE.
        normalization: Of DSE.
        base: Of the logarithm.
        min_category: Leave out categories below this size, with a warning; p(y) is over those that stay. By default
            a category with a single sample is an error.
        generator: The random state (CPU) of the draws.
        return_clusters: Give the categories as well, which can be the `reference` of the next call.

    Returns:
        A scalar in float32 or wider; near 0 for an unrelated reference, and may then be slightly negative; exactly 0
        for one category. With `return_clusters`, also `[samples]` int64 categories. Differentiable in `x` as DSE is.

    Raises:
        ValueError: Lengths differ, a reference that is ambiguous or not finite, a category with fewer than two samples,
            subsets of another size, or as `diffusion_spectral_entropy`.

    Source: Liao et al., CISS 2024, arXiv 2312.04823, DSMI.

    >>> far_apart, labels = torch.tensor([[0.0], [1000.0]]).repeat(8, 1), torch.tensor([0, 1]).repeat(8)
    >>> draw = [torch.arange(8)]  # four of each
    >>> diffusion_spectral_mutual_information(far_apart, labels, subsets={0: draw, 1: draw})
    tensor(1.)
    """
    check_option(entropy, "entropy", ("diffusion", "matrix_entry", "histogram"))
    check_at_least(repetitions, "repetitions", 1)
    check_at_least(clusters, "clusters", 1)
    check_same_length(x, reference, "x", "reference")
    points = checked_representations(x)
    of: Callable[[Tensor], Tensor]
    if entropy == "histogram":
        of = partial(shannon_histogram_entropy, bins=bins, base=base)
    else:
        sigma = resolve_bandwidth(points, bandwidth)
        of = partial(matrix_entry_entropy, bandwidth=sigma, base=base)
        if entropy == "diffusion":
            of = partial(
                diffusion_spectral_entropy,
                bandwidth=sigma,
                time=time,
                normalization=normalization,
                base=base,
                max_samples=len(x),
            )
    labels = categories(reference, discrete=discrete, clusters=clusters)
    total, kept = points.new_zeros(()), 0
    for category in torch.unique(labels).tolist():
        own = (labels == category).nonzero().flatten()
        if len(own) < (2 if min_category is None else min_category):
            _refuse_or_warn(category, len(own), min_category)
            continue
        draws = _draws(category, len(own), len(x), repetitions, subsets, generator)
        compared = torch.stack([of(points[rows.to(x.device)]) for rows in draws]).mean()
        total, kept = total + len(own) * (compared - of(points[own.to(x.device)])), kept + len(own)
    if kept == 0:
        raise ValueError(f"Expected a category with at least {min_category} samples, but there is none.")
    value = (total / kept).to(torch.promote_types(x.dtype, torch.float32))
    return (value, labels) if return_clusters else value


def categories(
    reference: Shaped[Tensor, "samples *features"], *, discrete: bool | None = None, clusters: int = 10
) -> Int[Tensor, " samples"]:
    """A reference as categories: classes as they are, reals in bins of equal width, vectors by spectral clustering.

    Args:
        reference: `[samples]` classes or reals, or `[samples, …]` vectors.
        discrete: Whether it holds classes; None decides by its type.
        clusters: How many bins or clusters.

    Returns:
        `[samples]` int64; bins that hold nothing are absent.

    Raises:
        ValueError: Reals that are all whole numbers, without `discrete`; values that are not finite; vectors said to
            be classes; or fewer vectors than clusters.

    >>> categories(torch.tensor([0.0, 0.04, 0.11, 1.0]))
    tensor([0, 0, 1, 9])
    """
    reference = reference.detach()
    whole = not reference.is_floating_point()
    if reference.ndim > 1:
        if discrete:
            raise ValueError(f"Expected classes to have shape [samples], but got {tuple(reference.shape)}.")
        return _spectral_clusters(reference, clusters)
    if not whole:
        check_finite(reference, "reference")
        rounded = bool((reference == reference.round()).all())
        if discrete and not rounded:
            raise ValueError("Expected argument `reference` to hold classes, but it holds reals.")
        if discrete is None and rounded:
            raise ValueError(
                "Expected argument `discrete` to say whether `reference`, reals that are all whole numbers, holds "
                "classes, but got None."
            )
    if discrete or (discrete is None and whole):
        return reference.long()
    low, high = (extreme.double() for extreme in reference.aminmax())
    return ((reference.double() - low) / (high - low).clamp_min(1e-300) * clusters).long().clamp_max(clusters - 1)


def _spectral_clusters(vectors: Tensor, clusters: int) -> Tensor:
    from sklearn.cluster import SpectralClustering

    vectors = vectors.flatten(1).double().cpu()
    check_finite(vectors, "reference")
    neighbors = 10
    if len(vectors) < max(clusters, neighbors + 1):
        raise ValueError(
            f"Expected argument `reference` to hold at least {max(clusters, neighbors + 1)} vectors to cluster, "
            f"but got {len(vectors)}."
        )
    clustering = SpectralClustering(
        clusters, affinity="nearest_neighbors", n_neighbors=neighbors, assign_labels="cluster_qr", random_state=0
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Graph is not fully connected")  # separate clusters are welcome
        return torch.from_numpy(clustering.fit_predict(vectors.numpy())).long()


def _draws(
    category: int,
    size: int,
    samples: int,
    repetitions: int,
    subsets: Subsets | None,
    generator: torch.Generator | None,
) -> Sequence[Tensor]:
    if subsets is None:
        return [torch.randperm(samples, generator=generator)[:size].sort().values for _ in range(repetitions)]
    given = subsets.get(category, ())
    if not given:
        raise ValueError(f"Expected argument `subsets` to hold index tensors for category {category}, but got none.")
    for rows in given:
        if tuple(rows.shape) != (size,):
            raise ValueError(
                f"Expected `subsets[{category}]` to hold index tensors of shape {(size,)}, the category's size, "
                f"but got {tuple(rows.shape)}."
            )
    return given


def _refuse_or_warn(category: int, size: int, min_category: int | None) -> None:
    if min_category is None:
        raise ValueError(
            f"Expected every category to hold at least 2 samples, but category {category} has {size}; "
            "`min_category=2` leaves such categories out."
        )
    check_at_least(min_category, "min_category", 2)
    warnings.warn(
        f"Category {category} has {size} samples and is left out (`min_category={min_category}`).", stacklevel=3
    )
