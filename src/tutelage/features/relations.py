"""Relations inside feature maps: how channels, and how layers, go together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from tutelage._checks import check_positive
from tutelage.objectives.precision import at_least_float32


def fsp_matrix(
    x: Float[Tensor, "batch channels height width"],
    y: Float[Tensor, "other_batch other_channels other_height other_width"],
    *,
    instance_norm: bool = True,
    eps: float = 1e-5,
) -> Float[Tensor, "batch channels other_channels"]:
    """The flow between two layers of a network: the product of every pair of their channels, averaged over positions.

    F[b, i, j] = Σ_p x[b, i, p] · y[b, j, p] / (height · width), the FSP matrix ("flow of solution procedure") of
    Yim et al., "A Gift from Knowledge Distillation" (CVPR 2017, section 3.1). With `instance_norm` every channel is
    first brought to mean 0 and variance var / (var + eps) over its positions (SKT, arXiv 2003.10120): the entries are
    then correlations in [-1, 1], up to `eps`, and do not change when a map is scaled or shifted. A channel that is
    constant correlates with nothing: its entries are 0.

    All samples go through one batched product. The gradient reaches both arguments; detach a teacher's maps.

    Args:
        x: `[batch, channels, height, width]`.
        y: `[batch, other_channels, height, width]`, of the same positions.
        instance_norm: Normalise every channel of every sample over its positions (biased variance, no affine).
        eps: Added to the variance.

    Returns:
        `[batch, channels, other_channels]`, in float32 or wider.

    Raises:
        ValueError: Different batch sizes or positions, or `eps` not positive.

    >>> x = torch.tensor([[[[0.0, 2.0]], [[5.0, 1.0]]]])
    >>> fsp_matrix(x, x).round(decimals=3)
    tensor([[[ 1., -1.],
             [-1.,  1.]]])
    >>> fsp_matrix(x, x, instance_norm=False)
    tensor([[[ 2.,  1.],
             [ 1., 13.]]])
    """
    if x.shape[0] != y.shape[0] or x.shape[2:] != y.shape[2:]:
        raise ValueError(
            "Expected arguments `x` and `y` to have the same batch size, height and width, "
            f"but got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    first = normalized_positions(x, eps=eps) if instance_norm else at_least_float32(x).flatten(2)
    second = normalized_positions(y, eps=eps) if instance_norm else at_least_float32(y).flatten(2)
    return torch.bmm(first, second.mT) / first.shape[2]


def normalized_positions(
    features: Float[Tensor, "batch channels *positions"], *, eps: float = 1e-5
) -> Float[Tensor, "batch channels flat"]:
    """Instance normalisation: every channel of every sample with mean 0 and variance var / (var + eps).

    Args:
        features: `[batch, channels, …]`, whatever follows being positions.
        eps: Added to the (biased) variance.

    Returns:
        `[batch, channels, positions]`, flattened, in float32 or wider.

    >>> normalized_positions(torch.tensor([[[1.0, 3.0], [7.0, 7.0]]])).round(decimals=3)
    tensor([[[-1.,  1.],
             [ 0.,  0.]]])
    """
    check_positive(eps, "eps")
    flat = at_least_float32(features).flatten(2)
    return functional.layer_norm(flat, flat.shape[2:], eps=eps)  # one sample's channel is one row
