"""A sample as a picture that a page can hold."""

from __future__ import annotations

import base64
import io

import torch
from torch import Tensor


def png_data_uri(image: Tensor) -> str:
    """A PNG data URI of an image tensor, one pixel a pixel.

    Values in [0, 1] are taken as they are, and bytes as bytes; any other range is stretched from its least to its
    greatest value.

    Args:
        image: `[channels, height, width]` with 1 (grey) or 3 (colour) channels.

    Raises:
        ValueError: Another shape.

    >>> png_data_uri(torch.zeros(1, 2, 2))[:22]
    'data:image/png;base64,'
    """
    from PIL import Image

    if not is_image(image):
        raise ValueError(
            f"Expected argument `image` to have shape [1 or 3, height, width], but got {tuple(image.shape)}."
        )
    pixels = image.detach().cpu()
    if pixels.dtype != torch.uint8:
        values = pixels.float().nan_to_num()
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 1:
            values = (values - low) / (high - low or 1.0)
        pixels = (values * 255).round().to(torch.uint8)
    array = pixels.permute(1, 2, 0).squeeze(-1).contiguous().numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def is_image(value: object) -> bool:
    """Whether something is an image tensor, `[1 or 3, height, width]`.

    >>> is_image(torch.zeros(3, 8, 8)), is_image(torch.zeros(8, 8))
    (True, False)
    """
    return isinstance(value, Tensor) and value.ndim == 3 and value.shape[0] in (1, 3) and min(value.shape[1:]) > 1
