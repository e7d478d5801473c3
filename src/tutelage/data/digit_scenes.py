"""Scenes of handwritten digits: small pictures for dense prediction, with a label for every pixel and boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage._checks import check_at_least, check_non_negative
from tutelage.data.arrays import ArraySamples
from tutelage.data.digits import digits
from tutelage.data.samples import Data

BACKGROUND = 0
"""The class of pixels without ink; digit d is class d + 1."""

_INK = 0.3  # from here on a pixel belongs to the digit
_SIDE = 8  # of a digit as it was scanned


def digit_scenes(
    *,
    size: int = 48,
    train: int = 600,
    validation: int = 150,
    test: int = 300,
    count: Sequence[int] = (3, 8),
    scale: Sequence[float] = (1.0, 1.8),
    noise: float = 0.15,
    clutter: float = 0.3,
    seed: int = 0,
) -> Data:
    """Grey pictures of several handwritten digits on a noisy background, for segmentation and detection.

    Each scene draws digits of its part of `digits()`, turned by up to 15°, scaled and placed about the centres of
    distinct cells of a square grid, so that they overlap lightly; where two meet, the later one is on top. The
    background is smooth clutter, and white noise lies over everything. Targets are `[size, size]` classes: 0 for the
    background, d + 1 for digit d. Batches carry `extras["boxes"]` `[batch, most, 4]` (left, top, right, bottom in
    pixels, around all ink of a digit, hidden or not) and `extras["box_labels"]` `[batch, most]` (the digit, or -1 where
    a scene has fewer).

    Args:
        size: Height and width in pixels.
        train: Training scenes.
        validation: Validation scenes.
        test: Test scenes.
        count: The fewest and the most digits of a scene.
        scale: The smallest and the largest scale; at 1 a digit has 8 × 8 pixels.
        noise: Standard deviation of the white noise.
        clutter: Largest brightness of the background; ink has 0.6 to 1.
        seed: Fixes every draw. Parts draw independently, and no scanned digit is in two parts.

    Raises:
        ValueError: Numbers out of range, or digits that do not fit the size.

    >>> data = digit_scenes(size=32, train=4, validation=2, test=2, count=(2, 4))
    >>> batch = data.train.batch(slice(0, 4))
    >>> batch.inputs.shape, batch.target.shape, batch.extras["boxes"].shape, data.num_classes
    (torch.Size([4, 1, 32, 32]), torch.Size([4, 32, 32]), torch.Size([4, 4, 4]), 11)
    """
    low, high = _range(count, "count")
    smallest, largest = _range(scale, "scale")
    check_at_least(int(low), "count", 1)
    check_non_negative(noise, "noise")
    check_non_negative(clutter, "clutter")
    if smallest <= 0:
        raise ValueError(f"Expected argument `scale` to be positive, but got {tuple(scale)}.")
    if largest * _SIDE > size:
        raise ValueError(f"Expected argument `size` to hold a digit of {largest * _SIDE:g} pixels, but got {size}.")
    scanned = digits(seed=seed)
    parts: dict[str, ArraySamples] = {}
    start = 0
    for stream, (part, number) in enumerate({"train": train, "validation": validation, "test": test}.items()):
        check_at_least(number, part, 1)
        source = getattr(scanned, part).batch(torch.arange(len(getattr(scanned, part))))
        generator = torch.Generator().manual_seed(3 * seed + stream)
        painted = _paint(
            source.inputs, source.target, number, size, (low, high), (smallest, largest), noise, clutter, generator
        )
        images, target, boxes, labels = painted
        parts[part] = ArraySamples(
            images,
            target,
            index=torch.arange(start, start + number),
            extras={"boxes": boxes, "box_labels": labels},
        )
        start += number
    return Data(
        "digit_scenes",
        parts["train"],
        parts["validation"],
        parts["test"],
        task="segmentation",
        num_classes=11,
        class_names=("background", *map(str, range(10))),
        description=f"{start} scenes of {low} to {high} handwritten digits, {size} × {size}, a class a pixel",
    )


def _paint(
    images: Tensor,
    classes: Tensor,
    number: int,
    size: int,
    count: tuple[float, float],
    scale: tuple[float, float],
    noise: float,
    clutter: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All scenes of a part, one layer of digits after the other: images, targets, boxes and their labels."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    most = int(count[1])
    cells = next(side for side in range(1, most + 1) if side * side >= most)
    present = torch.randint(int(count[0]), most + 1, (number,), generator=generator)
    cell = torch.rand(number, cells * cells, generator=generator).argsort(dim=1)
    coarse = clutter * torch.rand(number, 1, max(2, size // 6), max(2, size // 6), generator=generator)
    canvas = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    target = torch.full((number, size, size), BACKGROUND)
    boxes, labels = torch.zeros(number, most, 4), torch.full((number, most), -1)
    for layer in range(most):
        chosen = torch.randint(len(classes), (number,), generator=generator)
        side = _SIDE * uniform(scale[0], scale[1], number)
        place = torch.stack([cell[:, layer] % cells, cell[:, layer] // cells], dim=1)  # column and row
        centre = (place + 0.5 + uniform(-0.25, 0.25, number, 2)) * (size / cells)
        centre = torch.minimum(torch.maximum(centre, side[:, None] / 2), size - side[:, None] / 2)
        angle = uniform(-torch.pi / 12, torch.pi / 12, number)
        # From the scene's coordinates in [-1, 1] to the digit's: shift to its centre, turn, and stretch.
        shift = 2 * centre / size - 1
        cosine, sine, stretch = angle.cos(), angle.sin(), size / side
        turn = torch.stack([torch.stack([cosine, -sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1)
        turn = turn * stretch[:, None, None]
        theta = torch.cat([turn, -(turn @ shift.unsqueeze(2))], dim=2)
        grid = F.affine_grid(theta, [number, 1, size, size], align_corners=False)
        ink = F.grid_sample(images[chosen], grid, align_corners=False) * (layer < present)[:, None, None, None]
        inked = (ink >= _INK).squeeze(1)
        canvas = canvas * (1 - ink) + ink * uniform(0.6, 1.0, number)[:, None, None, None]
        target = torch.where(inked, classes[chosen][:, None, None] + 1, target)
        boxes[:, layer] = _boxes(inked)
        labels[:, layer] = torch.where(inked.flatten(1).any(dim=1), classes[chosen], -1)
    canvas = canvas + noise * torch.randn(canvas.shape, generator=generator)
    return canvas.clamp(0, 1), target, boxes, labels


def _boxes(inked: Tensor) -> Tensor:
    """Left, top, right and bottom of what is marked in every picture, `[pictures, 4]`; zeros where nothing is."""
    size = inked.shape[-1]
    place = torch.arange(size)
    edges = []
    for marked in (inked.any(dim=1), inked.any(dim=2)):  # columns, then rows
        first = torch.where(marked, place, size).amin(dim=1)
        last = torch.where(marked, place + 1, 0).amax(dim=1)
        edges.append((first, last))
    (left, right), (top, bottom) = edges
    found = torch.stack([left, top, right, bottom], dim=1)
    return torch.where(inked.flatten(1).any(dim=1, keepdim=True), found, 0).float()


def _range(value: Sequence[float], name: str) -> tuple[float, float]:
    if len(value) != 2 or value[0] > value[1]:
        raise ValueError(f"Expected argument `{name}` to hold the least and the most, but got {tuple(value)}.")
    return value[0], value[1]
