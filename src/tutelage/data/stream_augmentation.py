"""The augmentation under which a model that adapts at test time looks at its inputs a second time.

Source: the pipeline of Wang et al., "Continual Test-Time Domain Adaptation" (CoTTA), CVPR 2022, arXiv 2203.13591, as
used by Döbler et al., "Robust Mean Teacher", CVPR 2023. There one draw serves a whole batch; here every image has its
own. Hue is turned in the YIQ plane.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tutelage._checks import check_at_least
from tutelage.data.image_transforms import Images

_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def test_time_augmentation(
    size: int,
    *,
    flip: bool = True,  # noqa: PT028 (no test, whatever its name)
    generator: torch.Generator | None = None,  # noqa: PT028
) -> Callable[[Tensor], Tensor]:
    """A random change of images in [0, 1]: colours, a small turn, shift and zoom, a little blur and noise.

    In a random order: brightness × [0.6, 1.4], contrast × [0.7, 1.3] about the image's mean, saturation × [0.5, 1.5],
    hue ± 0.06 of a turn, gamma [0.7, 1.3] (saturation and hue with three channels only). Then ± 15°, a shift of up to
    1/16, a zoom of [0.9, 1.1] with the border continued; blur with σ in [0.001, 0.5]; the centre of `size` pixels; a
    mirror image by chance; noise of deviation 0.005.

    Args:
        size: Height and width of what comes out.
        flip: Mirror half of the images. Leave it off where left and right matter (letters, digits).
        generator: Where numbers come from, on the CPU; None is PyTorch's own.

    Returns:
        A function from `[batch, channels, height, width]` to the same with `size`; no gradient is needed.

    Raises:
        ValueError: A size below 1, or larger than the images.

    >>> augment = test_time_augmentation(8, generator=torch.Generator().manual_seed(0))
    >>> images = augment(torch.rand(4, 1, 8, 8))
    >>> images.shape, bool(((images >= 0) & (images <= 1)).all())
    (torch.Size([4, 1, 8, 8]), True)
    """
    check_at_least(size, "size", 1)

    def augment(images: Images) -> Tensor:
        if min(images.shape[-2:]) < size:
            raise ValueError(f"Expected images of at least {size} pixels, but got {tuple(images.shape)}.")

        def uniform(low: float, high: float) -> Tensor:
            drawn = torch.rand(len(images), 1, 1, 1, generator=generator) * (high - low) + low
            return drawn.to(images)

        changed = images.clamp(0, 1)
        changes = [_brightness, _contrast, _gamma] + ([_saturation, _hue] if images.shape[1] == 3 else [])
        for place in torch.randperm(len(changes), generator=generator).tolist():
            changed = changes[place](changed, uniform).clamp(0, 1)
        changed = _blur(_affine(changed, uniform), uniform(0.001, 0.5))
        top, left = ((extent - size) // 2 for extent in images.shape[-2:])
        changed = changed[..., top : top + size, left : left + size]
        if flip:
            changed = torch.where(uniform(0, 1) < 0.5, changed.flip(-1), changed)
        noise = torch.randn(changed.shape, generator=generator).to(changed)
        return (changed + 0.005 * noise).clamp(0, 1)

    return augment


test_time_augmentation.__test__ = False  # type: ignore[attr-defined]  # pytest: a name that starts with "test" is no test

_Uniform = Callable[[float, float], Tensor]


def _brightness(images: Tensor, uniform: _Uniform) -> Tensor:
    return images * uniform(0.6, 1.4)


def _contrast(images: Tensor, uniform: _Uniform) -> Tensor:
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * uniform(0.7, 1.3)


def _gamma(images: Tensor, uniform: _Uniform) -> Tensor:
    return images ** uniform(0.7, 1.3)


def _saturation(images: Tensor, uniform: _Uniform) -> Tensor:
    grey = (images * _YIQ[0].to(images).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    return grey + (images - grey) * uniform(0.5, 1.5)


def _hue(images: Tensor, uniform: _Uniform) -> Tensor:
    to_yiq = _YIQ.to(images)
    luma, first, second = torch.einsum("ij,bjhw->ibhw", to_yiq, images).unsqueeze(2)
    angle = uniform(-0.06, 0.06) * 2 * math.pi
    turned = torch.cat(
        [luma, first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()], dim=1
    )
    return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(to_yiq), turned)


def _affine(images: Tensor, uniform: _Uniform) -> Tensor:
    angle, zoom = uniform(-15, 15).view(-1) * math.pi / 180, uniform(0.9, 1.1).view(-1)
    shifts = [uniform(-1 / 8, 1 / 8).view(-1) for _ in range(2)]  # in units of half the image
    height, width = images.shape[-2:]
    cosine, sine = angle.cos() / zoom, angle.sin() / zoom
    rows = [
        torch.stack([cosine, -sine * height / width, shifts[0]], dim=1),
        torch.stack([sine * width / height, cosine, shifts[1]], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian of five taps a side, its width drawn for every image."""
    taps = torch.stack([torch.exp(-((place / sigma) ** 2) / 2) for place in range(-2, 3)])
    taps = taps / taps.sum(dim=0)
    height, width = images.shape[-2:]
    padded = functional.pad(images, (0, 0, 2, 2), mode="replicate")
    tall = sum(tap * padded[..., place : place + height, :] for place, tap in enumerate(taps))
    padded = functional.pad(torch.as_tensor(tall), (2, 2, 0, 0), mode="replicate")
    return torch.as_tensor(sum(tap * padded[..., place : place + width] for place, tap in enumerate(taps)))
