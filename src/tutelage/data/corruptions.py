"""Corruptions of small images, at severities 1 to 5: the kinds of noise that shifted test data have.

The kinds follow Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (ICLR 2019), section 4; strengths are set for small grey images, not copied from the ImageNet tables.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tutelage._checks import check_option

Images = Float[Tensor, "batch channels height width"]


def corrupt(images: Images, name: str, *, severity: int, generator: torch.Generator) -> Images:
    """Images under one corruption, clipped to [0, 1].

    Args:
        images: Values in [0, 1].
        name: A key of `CORRUPTIONS`.
        severity: 1 (mild) to 5 (strong).
        generator: The random state (on the CPU).

    Raises:
        ValueError: An unknown corruption, or a severity outside 1 to 5.

    >>> images = torch.full((1, 1, 4, 4), 0.5)
    >>> bool((corrupt(images, "brightness", severity=5, generator=torch.Generator()) > 0.5).all())
    True
    """
    check_option(name, "name", CORRUPTIONS)
    check_option(severity, "severity", (1, 2, 3, 4, 5))
    return CORRUPTIONS[name](images, severity, generator).clamp(0, 1)


def _normal(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(images.shape, generator=generator).to(images)


def _gaussian_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    return images + (0.08, 0.14, 0.2, 0.28, 0.38)[severity - 1] * _normal(images, generator)


def _shot_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    photons = (60.0, 25.0, 12.0, 6.0, 3.0)[severity - 1]
    return torch.poisson(images.clamp(min=0).cpu() * photons, generator=generator).to(images) / photons


def _impulse_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    share = (0.03, 0.07, 0.12, 0.2, 0.3)[severity - 1]
    draw = torch.rand(images.shape, generator=generator).to(images)
    return torch.where(draw < share / 2, 0.0, torch.where(draw > 1 - share / 2, 1.0, images))


def _smooth(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with reflected borders, separable."""
    radius = min(max(1, round(3 * sigma)), min(images.shape[-2:]) - 1)
    offset = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.softmax(-(offset**2) / (2 * sigma**2), dim=0)
    channels = images.shape[1]
    padded = F.pad(images, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def _blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    shorter = min(images.shape[-2:])
    return _smooth(images, (0.03, 0.05, 0.07, 0.09, 0.12)[severity - 1] * shorter)


def _contrast(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    mean = images.mean(dim=(-2, -1), keepdim=True)
    return mean + (0.6, 0.45, 0.3, 0.2, 0.1)[severity - 1] * (images - mean)


def _brightness(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    return images + (0.1, 0.2, 0.3, 0.45, 0.6)[severity - 1]


def _pixelate(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    height, width = images.shape[-2:]
    share = (0.75, 0.6, 0.5, 0.4, 0.3)[severity - 1]
    small = F.interpolate(images, (max(1, round(share * height)), max(1, round(share * width))), mode="area")
    return F.interpolate(small, (height, width), mode="nearest-exact")


def _elastic(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    batch, _, height, width = images.shape
    field = torch.randn(batch, 2, height, width, generator=generator).to(images)
    field = _smooth(field, 0.12 * min(height, width))
    field = field / field.std(dim=(-2, -1), keepdim=True).clamp(min=1e-6)
    shift = (0.06, 0.1, 0.14, 0.19, 0.25)[severity - 1] * field  # in halves of the image
    identity = torch.eye(2, 3, dtype=images.dtype, device=images.device).expand(batch, 2, 3)
    grid = F.affine_grid(identity, [batch, 1, height, width], align_corners=False) + shift.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


CORRUPTIONS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "pixelate": _pixelate,
    "elastic": _elastic,
}
"""Corruptions by name: functions of (images, severity, generator)."""
