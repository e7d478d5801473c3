"""Relations inside feature maps: how channels, and how layers, go together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from tutelage._checks import Reduction, check_positive, reduce
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


def sample_relation_distance(
    student: Float[Tensor, "batch *student_shape"],
    teacher: Float[Tensor, "other_batch *teacher_shape"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """How differently two networks find the samples of a batch alike.

    d_r = ‖G_T − G_S‖²_F / batch², with G = A Aᵀ of the flattened features A and rows of G of length 1. It is DisWOT's
    relation metric (CVPR 2023, arXiv 2303.15678, equation 5) and the similarity-preserving loss of Tung and Mori (ICCV
    2019, equation 4). Widths and sizes may differ between the two; scaling either changes nothing.

    Args:
        student: `[batch, …]` features; they get the gradient.
        teacher: `[batch, …]`, of the same samples; detached.
        reduction: `"mean"` over samples, `"sum"`, or `"none"` (`[batch]`); a sample counts the mean over its relations.

    Returns:
        At least 0, in float32 or wider: a scalar, or `[batch]`. A row of zeros is alike to nothing.

    Raises:
        ValueError: Batch sizes that differ.

    >>> sample_relation_distance(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2))
    tensor(0.2929)
    """
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(
            "Expected arguments `student` and `teacher` to have the same batch size, "
            f"but got {student.shape[0]} and {teacher.shape[0]}."
        )
    difference = _relations(student.flatten(1)) - _relations(teacher.detach().flatten(1))
    return reduce(difference.square().mean(dim=1), reduction)


def channel_relation_distance(
    student: Float[Tensor, "batch channels *positions"],
    teacher: Float[Tensor, "other_batch other_channels *other_positions"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """How differently two networks let their channels go together, within every sample.

    Σ_b ‖E^T_b − E^S_b‖²_F / (batch · channels), with E_b = f_b f_bᵀ of a map f_b `[channels, positions]` and rows of
    length 1: DisWOT's semantic metric as a distiller (arXiv 2303.15678, section 3.3), and ICKD's loss up to a factor.
    The numbers of positions may differ.

    Args:
        student: `[batch, channels, …]`; gets the gradient.
        teacher: `[batch, channels, …]`; detached.
        reduction: `"mean"` over samples, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        At least 0, in float32 or wider: a scalar, or `[batch]`.

    Raises:
        ValueError: Batch sizes or channels that differ.

    >>> channel_relation_distance(torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[1.0], [0.0]]]))
    tensor(0.)
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            "Expected arguments `student` and `teacher` to have the same batch size and channels, "
            f"but got {tuple(student.shape[:2])} and {tuple(teacher.shape[:2])}."
        )
    difference = _relations(student.flatten(2)) - _relations(teacher.detach().flatten(2))
    return reduce(difference.square().sum(dim=2).mean(dim=1), reduction)


def _relations(rows: Tensor) -> Tensor:
    """The product of every two rows, each row of products with length 1."""
    wide = at_least_float32(rows)
    return functional.normalize(wide @ wide.mT, dim=-1)


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
