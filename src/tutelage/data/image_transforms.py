"""Fixed image transforms: the same one for every image and every call, so that what a model says of a copy repeats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage._checks import check_in_range, check_non_negative, check_option, check_positive

Images = Float[Tensor, "batch channels height width"]
ImageTransform = Callable[[Tensor], Tensor]


class Rotation(nn.Module):
    """Turns images about their centre, counter-clockwise, bilinear, with zeros outside.

    Args:
        degrees: The angle.

    >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> Rotation(90.0)(image).round(decimals=3).squeeze().tolist()
    [[2.0, 4.0], [1.0, 3.0]]
    """

    def __init__(self, degrees: float) -> None:
        super().__init__()
        check_in_range(degrees, "degrees", -180.0, 180.0)
        self.degrees = float(degrees)

    def extra_repr(self) -> str:
        """The angle, in the printed module."""
        return f"degrees={self.degrees:g}"

    def forward(self, images: Images) -> Images:
        """The turned images."""
        height, width = images.shape[-2:]
        cosine, sine = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        down = (torch.arange(height, dtype=images.dtype, device=images.device) * 2 + 1 - height).unsqueeze(1)
        across = (torch.arange(width, dtype=images.dtype, device=images.device) * 2 + 1 - width).unsqueeze(0)
        grid = torch.stack([(cosine * across - sine * down) / width, (sine * across + cosine * down) / height], dim=-1)
        return F.grid_sample(images, grid.expand(images.shape[0], -1, -1, -1), align_corners=False)


class Greyscale(nn.Module):
    """Red, green and blue replaced by their luma 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).

    Images with one channel stay as they are, so a copy of these says nothing new: use `Blur` for them.

    >>> Greyscale()(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).flatten()
    tensor([0.2990, 0.2990, 0.2990])
    """

    def forward(self, images: Images) -> Images:
        """The grey images, with as many channels as before."""
        channels = images.shape[1]
        if channels == 1:
            return images
        if channels != 3:
            raise ValueError(f"Expected argument `images` to have 1 or 3 channels, but got {channels}.")
        weight = torch.tensor([0.299, 0.587, 0.114], dtype=images.dtype, device=images.device)
        return (images * weight.view(1, 3, 1, 1)).sum(dim=1, keepdim=True).expand(-1, 3, -1, -1)


class ColorJitter(nn.Module):
    """Contrast about each image's mean, then brightness: brightness · (mean + contrast · (image − mean)).

    Values are not cut to a range, so that it suits normalised images as well.

    Args:
        brightness: Factor, above 0; 1 changes nothing.
        contrast: Factor, above 0; 1 changes nothing.

    >>> ColorJitter(1.0, 0.5)(torch.tensor([[[[0.0, 1.0]]]])).flatten()
    tensor([0.2500, 0.7500])
    """

    def __init__(self, brightness: float, contrast: float) -> None:
        super().__init__()
        check_positive(brightness, "brightness")
        check_positive(contrast, "contrast")
        self.brightness, self.contrast = float(brightness), float(contrast)

    def extra_repr(self) -> str:
        """The factors, in the printed module."""
        return f"brightness={self.brightness:g}, contrast={self.contrast:g}"

    def forward(self, images: Images) -> Images:
        """The changed images."""
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        return self.brightness * (mean + self.contrast * (images - mean))


class Blur(nn.Module):
    """Gaussian blur; borders repeat.

    Args:
        sigma: Standard deviation in pixels, above 0; the kernel ends at 3 sigma.

    >>> Blur(1.0)(torch.full((1, 1, 4, 4), 0.5)).mean()
    tensor(0.5000)
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        check_positive(sigma, "sigma")
        self.sigma = float(sigma)

    def extra_repr(self) -> str:
        """The width, in the printed module."""
        return f"sigma={self.sigma:g}"

    def forward(self, images: Images) -> Images:
        """The blurred images."""
        channels, radius = images.shape[1], max(1, math.ceil(3 * self.sigma))
        offset = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
        kernel = torch.softmax(-offset.square() / (2 * self.sigma**2), dim=0)
        padded = F.pad(images, (radius,) * 4, mode="replicate")
        rows = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(rows, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


IMAGE_TRANSFORMS: dict[str, type[nn.Module]] = {
    "rotation": Rotation,
    "greyscale": Greyscale,
    "color_jitter": ColorJitter,
    "blur": Blur,
}
"""The fixed transforms by name."""


def build_image_transform(description: dict[str, Any]) -> nn.Module:
    """The transform that a name and its arguments describe, as a saved calibrator holds it.

    Args:
        description: `name`, a key of `IMAGE_TRANSFORMS`, and the arguments.

    Raises:
        ValueError: The name or an argument is unknown or out of range.

    >>> build_image_transform({"name": "rotation", "degrees": 12.0})
    Rotation(degrees=12)
    """
    arguments = dict(description)
    name = arguments.pop("name", None)
    check_option(name, "name", IMAGE_TRANSFORMS)
    try:
        return IMAGE_TRANSFORMS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"Expected the arguments of the image transform {name!r}, but got: {error}.") from error


def describe_image_transform(transform: ImageTransform) -> dict[str, Any]:
    """The name and arguments from which `build_image_transform` makes an equal transform.

    Raises:
        ValueError: It is none of `IMAGE_TRANSFORMS`.

    >>> describe_image_transform(Blur(1.0))
    {'name': 'blur', 'sigma': 1.0}
    """
    for name, kind in IMAGE_TRANSFORMS.items():
        if type(transform) is kind:
            own = {key: value for key, value in vars(transform).items() if isinstance(value, float)}
            return {"name": name, **own}
    raise ValueError(
        f"Expected one of the image transforms {', '.join(IMAGE_TRANSFORMS)}, but got {type(transform).__name__}."
    )


def default_image_transforms(
    *, rotation: float = 15, greyscale: bool = True, jitter: float = 0.2, generator: torch.Generator
) -> list[ImageTransform]:
    """The transformed copies of arXiv 2404.13016: a rotation, greyscale, and jittered colours.

    The directions (which way to turn, brighter or darker, more or less contrast) are drawn here, once; after that every
    call does the same to every image, so that a sample's confidence depends neither on its batch nor on the call.
    The strengths are ours: the released code reads logits that were computed beforehand.

    Args:
        rotation: Degrees; 0 leaves the copy out.
        greyscale: Whether there is a grey copy. For images with one channel it is the image itself.
        jitter: By what share brightness and contrast change, below 1; 0 leaves the copy out.
        generator: Draws the directions (on the CPU).

    Returns:
        Modules that map images `[batch, channels, height, width]` to images of the same shape.

    Raises:
        ValueError: A strength is out of range.

    >>> default_image_transforms(jitter=0, generator=torch.Generator().manual_seed(0))
    [Rotation(degrees=-15), Greyscale()]
    """
    check_non_negative(rotation, "rotation")
    check_in_range(jitter, "jitter", 0.0, 0.99)
    turn, light, contrast = (2 * torch.randint(2, (3,), generator=generator) - 1).tolist()
    copies: list[ImageTransform] = []
    if rotation:
        copies.append(Rotation(turn * rotation))
    if greyscale:
        copies.append(Greyscale())
    if jitter:
        copies.append(ColorJitter(1 + light * jitter, 1 + contrast * jitter))
    return copies
