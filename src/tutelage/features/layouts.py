"""Layouts of features: tokens `[batch, tokens, width]`, maps `[batch, width, height, width]`, and ways between them."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tutelage._checks import check_at_least, check_option, check_positive

Resize = Literal["area", "bicubic", "bilinear", "nearest"]
"""How a map gets another height and width: `area` takes means over cells, the others interpolate."""

RESIZES = ("area", "bicubic", "bilinear", "nearest")


def as_map(
    features: Float[Tensor, "batch ..."], *, extra_tokens: int | None = None, aspect_ratio: float = 1.0
) -> Float[Tensor, "batch width height columns"]:
    """Features as a map `[batch, width, height, columns]`: tokens in raster order become its cells.

    Args:
        features: Tokens `[batch, tokens, width]`, or a map, which is given back as it is.
        extra_tokens: Leading tokens that are no part of the image (class, distillation, registers). By default they
            are told from the count: none where all tokens fill a grid, one where all but one do.
        aspect_ratio: Height over width of the image, and so of the grid.

    Raises:
        ValueError: Another number of dimensions, or tokens that fill no grid.

    >>> import torch
    >>> as_map(torch.zeros(2, 16, 8)).shape, as_map(torch.zeros(2, 17, 8)).shape
    (torch.Size([2, 8, 4, 4]), torch.Size([2, 8, 4, 4]))
    >>> as_map(torch.zeros(2, 10, 8), extra_tokens=2, aspect_ratio=0.5).shape
    torch.Size([2, 8, 2, 4])
    """
    if extra_tokens is not None:
        check_at_least(extra_tokens, "extra_tokens", 0)
    check_positive(aspect_ratio, "aspect_ratio")
    if features.ndim == 4:
        return features
    if features.ndim != 3:
        raise ValueError(
            "Expected argument `features` to be tokens [batch, tokens, width] or a map [batch, width, height, width], "
            f"but got shape {tuple(features.shape)}."
        )
    count = features.shape[1]
    for extra in (0, 1) if extra_tokens is None else (extra_tokens,):
        height = round(math.sqrt(max(count - extra, 0) * aspect_ratio))
        columns = round(height / aspect_ratio)
        if height > 0 and height * columns == count - extra:
            return features[:, extra:].transpose(1, 2).reshape(len(features), -1, height, columns)
    tried = "0 or 1" if extra_tokens is None else extra_tokens
    raise ValueError(
        f"Expected argument `features` to fill a grid of aspect ratio {aspect_ratio:g} after {tried} extra tokens, but "
        f"got {count} tokens in shape {tuple(features.shape)}; set `extra_tokens`, or `aspect_ratio` (height / width)."
    )


def as_tokens(features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch tokens width"]:
    """Features as tokens `[batch, tokens, width]`, the cells of a map in raster order.

    Args:
        features: Tokens, a map `[batch, width, height, width]`, or one vector a sample `[batch, width]`.

    Raises:
        ValueError: Another number of dimensions.

    >>> import torch
    >>> as_tokens(torch.zeros(2, 8, 4, 4)).shape, as_tokens(torch.zeros(2, 8)).shape
    (torch.Size([2, 16, 8]), torch.Size([2, 1, 8]))
    """
    if features.ndim == 4:
        return features.flatten(2).transpose(1, 2)
    if features.ndim not in (2, 3):
        raise ValueError(
            "Expected argument `features` to be [batch, width], tokens [batch, tokens, width] or a map "
            f"[batch, width, height, width], but got shape {tuple(features.shape)}."
        )
    return features.unsqueeze(1) if features.ndim == 2 else features


def resize_map(
    features: Float[Tensor, "batch width _ _"], size: tuple[int, int], resize: str
) -> Float[Tensor, "batch width height columns"]:
    """A map at another height and width; as it is, where it has them already.

    >>> import torch
    >>> resize_map(torch.arange(4.0).reshape(1, 1, 2, 2), (1, 1), "area")
    tensor([[[[1.5000]]]])
    """
    check_option(resize, "resize", RESIZES)
    if tuple(features.shape[2:]) == tuple(size):
        return features
    smooth = resize in ("bicubic", "bilinear")
    return F.interpolate(features, size, mode=resize, align_corners=False if smooth else None)
