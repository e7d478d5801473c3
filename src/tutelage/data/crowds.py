"""Crowds: density maps whose sum is a count, and canvases full of handwritten digits to be counted."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from torch import Tensor

from tutelage._checks import check_at_least, check_non_negative, check_positive
from tutelage.data.arrays import ArraySamples
from tutelage.data.parts import assemble
from tutelage.data.samples import Data

REACH = 4.0
"""A head's kernel is cut off at this many standard deviations (SciPy's default)."""

_DIGIT = 8  # pixels, height and width of scikit-learn's digits
_SCALES = (0.7, 1.6)  # at the top and at the bottom of a canvas
_PATCH = math.ceil(_DIGIT * _SCALES[1] * 1.1) + 2  # the largest digit, a pixel around it, and room for the jitter


def density_map(
    points: Num[Tensor, "points 2"],
    shape: tuple[int, int],
    *,
    sigma: Literal["adaptive"] | float = "adaptive",
    k: int = 3,
    beta: float = 0.1,
) -> Float[Tensor, "height width"]:
    """The density of a crowd: one normalised Gaussian for each head, so that the map sums to the count.

    A kernel is cut off at 4σ and sums to 1; what falls outside the image is lost, so that heads near the border count
    less than 1 (zero padding, as in the official preparation). A pixel counts once, however many points fall into it.

    Args:
        points: `[points, 2]` heads as (x, y) in pixels, truncated to the pixel they are in.
        shape: Height and width of the image.
        sigma: Standard deviation in pixels, for all heads; or `"adaptive"`: `beta` times the sum of the distances to
            the `k` nearest heads. With fewer others than `k`, the mean of those there are stands for the missing ones;
            for a single head it is a quarter of the mean of height and width.
        k: Neighbours, for `"adaptive"`.
        beta: Factor, for `"adaptive"`.

    Returns:
        `[height, width]` float32, on the device of `points`.

    Raises:
        ValueError: A point outside the image or not finite, or a size, `sigma`, `k` or `beta` that is not positive.

    Source: Zhang et al., "Single-Image Crowd Counting via Multi-Column CNN" (CVPR 2016, section 2.2); arXiv 2003.10120,
    official preparation of ShanghaiTech (A: k = 3, beta = 0.1; B: sigma = 15).

    >>> density = density_map(torch.tensor([[10.7, 20.0], [30.0, 12.5]]), (48, 40), sigma=1.5)
    >>> density.shape, round(density.sum().item(), 5), bool(density[20, 10] == density.max())
    (torch.Size([48, 40]), 2.0, True)
    """
    height, width = shape
    check_at_least(height, "shape", 1)
    check_at_least(width, "shape", 1)
    if sigma != "adaptive":
        check_positive(sigma, "sigma")
    check_at_least(k, "k", 1)
    check_positive(beta, "beta")
    limits = torch.tensor([width, height], device=points.device)
    outside = ~((points >= 0) & (points < limits)).all(dim=1)  # true for NaN
    if outside.any():
        point = tuple(points[outside][0].tolist())
        raise ValueError(f"Expected argument `points` to lie in {width}×{height} pixels (x, y), but got {point}.")
    heads = torch.unique(points.long(), dim=0)
    if sigma == "adaptive":
        deviations = _adaptive_sigma(heads, shape, k, beta)
    else:
        deviations = torch.full((len(heads),), sigma, device=points.device)
    # A Gaussian is the product of one over rows and one over columns, so that the sum over heads is a matrix product.
    rows = _kernels(heads[:, 1], deviations, height)
    columns = _kernels(heads[:, 0], deviations, width)
    return rows.T @ columns


def downsample_density(density: Float[Tensor, "*batch height width"], factor: int = 8) -> Float[Tensor, "*batch h w"]:
    """A density map at a fraction of its size that keeps the count: sums over blocks.

    Maps are padded with zeros below and to the right to whole blocks, so that the result has the size of what a network
    with three pools that round up gives. (The official code resizes by cubic interpolation, which changes the count and
    makes negative densities.)

    Args:
        density: `[..., height, width]`.
        factor: Height and width of a block.

    Returns:
        `[..., ⌈height / factor⌉, ⌈width / factor⌉]`.

    Raises:
        ValueError: `factor` is below 1.

    >>> downsample_density(torch.ones(5, 4), factor=4)
    tensor([[16.],
            [ 4.]])
    """
    check_at_least(factor, "factor", 1)
    height, width = density.shape[-2:]
    padded = F.pad(density, (0, -width % factor, 0, -height % factor))
    rows, columns = padded.shape[-2] // factor, padded.shape[-1] // factor
    return padded.reshape(*density.shape[:-2], rows, factor, columns, factor).sum(dim=(-3, -1))


def crowds(
    *,
    size: int = 64,
    counts: tuple[int, int] = (3, 40),
    sigma: float = 2.5,
    noise: float = 0.1,
    distractors: int = 4,
    train: int = 200,
    validation: int = 60,
    test: int = 200,
    mirrored: bool = False,
    seed: int = 0,
) -> Data:
    """Canvases of real handwritten digits to be counted, a crowd in small.

    A canvas is a random gradient with noise and line segments; on it are digits, 0.7 times their 8 × 8 pixels at the
    top to 1.6 times at the bottom (times 0.9 to 1.1), which overlap where they meet. The head of a digit is its middle;
    it is never so near the border that its kernel would lose mass, so that every target sums to the count exactly, up
    to rounding (two heads in one pixel are drawn apart). Parts share neither canvases nor digits. `extras["count"]`
    holds the true counts.

    Args:
        size: Height and width of a canvas in pixels.
        counts: The smallest and the largest number of digits, drawn uniformly.
        sigma: Standard deviation of a head's kernel in pixels.
        noise: Standard deviation of the noise.
        distractors: Line segments a canvas.
        train: Training canvases.
        validation: Validation canvases.
        test: Test canvases.
        mirrored: Add the mirror image of every training canvas as a sample of its own.
        seed: Fixes every draw.

    Returns:
        Inputs `[canvases, 1, size, size]`, targets `[canvases, 1, ⌈size / 8⌉, ⌈size / 8⌉]` densities; task regression.

    Raises:
        ValueError: Canvases too small for `sigma`, counts that are not a range, or a size or number that cannot be.

    >>> data = crowds(size=48, counts=(3, 9), sigma=1.5, train=4, validation=2, test=2, mirrored=True)
    >>> batch = data.train.batch(torch.arange(8))
    >>> batch.inputs.shape, batch.target.shape
    (torch.Size([8, 1, 48, 48]), torch.Size([8, 1, 6, 6]))
    >>> torch.allclose(batch.target.sum(dim=(1, 2, 3)), batch.extras["count"].float())
    True
    """
    check_positive(sigma, "sigma")
    check_non_negative(noise, "noise")
    check_at_least(distractors, "distractors", 0)
    low, high = counts
    check_at_least(low, "counts", 1)
    check_at_least(high, "counts", low)
    margin = max(int(REACH * sigma + 0.5), _DIGIT // 2)
    room = size - 2 * margin
    if room < 1 or room**2 < high:
        raise ValueError(
            f"Expected argument `size` to leave room for {high} heads at {margin} pixels from the border, "
            f"but got {size}."
        )
    from sklearn.datasets import load_digits

    pictures = torch.from_numpy((load_digits().images / 16).astype(np.float32))
    pictures = pictures[torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))]
    parts, start = {}, 0
    drawn = {"train": train, "validation": validation, "test": test}
    for stream, (part, number) in enumerate(drawn.items()):
        check_at_least(number, part, 1)
        generator = torch.Generator().manual_seed(3 * seed + stream)
        own = pictures[[slice(0, 1000), slice(1000, 1300), slice(1300, None)][stream]]
        count = torch.randint(low, high + 1, (number,), generator=generator)
        owner = torch.repeat_interleave(count)
        heads = margin + _distinct_positions(count, room, generator)
        images = _background(number, size, noise, distractors, generator)
        images = (images + _digits_at(own, heads, owner, number, size, generator)).clamp(0, 1).unsqueeze(1)
        each = torch.split(heads, count.tolist())
        target = downsample_density(torch.stack([density_map(one, (size, size), sigma=sigma) for one in each]))
        target = target.unsqueeze(1)
        if mirrored and part == "train":
            images = torch.cat([images, images.flip(-1)])
            reversed_heads = [torch.stack([size - 1 - one[:, 0], one[:, 1]], dim=1) for one in each]
            turned = torch.stack([density_map(one, (size, size), sigma=sigma) for one in reversed_heads])
            target = torch.cat([target, downsample_density(turned).unsqueeze(1)])
            count = count.repeat(2)
        index = torch.arange(start, start + len(images))
        parts[part] = ArraySamples(images, target, index=index, extras={"count": count})
        start += len(images)
    return assemble(
        "crowds",
        parts,
        task="regression",
        num_classes=math.ceil(size / 8) ** 2,
        description=f"{start} canvases of {size} × {size} pixels with {low} to {high} handwritten digits to count",
    )


def _adaptive_sigma(heads: Int[Tensor, "heads 2"], shape: tuple[int, int], k: int, beta: float) -> Tensor:
    from scipy.spatial import KDTree

    if len(heads) <= 1:
        return torch.full((len(heads),), sum(shape) / 8, device=heads.device)
    neighbours = min(k, len(heads) - 1)
    places = heads.cpu().numpy()
    distances, _ = KDTree(places).query(places, k=neighbours + 1)  # the nearest one is the head itself
    mean = torch.from_numpy(distances[:, 1:].mean(axis=1)).to(heads.device, torch.float32)
    return beta * k * mean


def _kernels(
    centres: Int[Tensor, "heads"], sigma: Float[Tensor, "heads"], size: int
) -> Float[Tensor, "heads positions"]:
    """For each head the values at 0 … size − 1 of a Gaussian around it that is cut off at 4σ and sums to 1."""
    if not len(centres):
        return sigma.new_zeros(0, size)
    radius = (REACH * sigma + 0.5).long()
    exponent = -0.5 / sigma.square()[:, None]
    offset = torch.arange(int(radius.max()) + 1, device=sigma.device)
    half = torch.exp(exponent * offset.square()) * (offset <= radius[:, None])
    total = 2 * half.sum(dim=1, keepdim=True) - 1  # both sides of the centre, whose value is 1
    offset = torch.arange(size, device=sigma.device) - centres[:, None]
    return torch.exp(exponent * offset.square()) * (offset.abs() <= radius[:, None]) / total


def _distinct_positions(
    count: Int[Tensor, "canvases"], room: int, generator: torch.Generator
) -> Int[Tensor, "digits 2"]:
    """As many distinct (x, y) in [0, room)² for each canvas as it has digits, canvas by canvas."""
    order = torch.rand(len(count), room * room, generator=generator).argsort(dim=1)[:, : int(count.max())]
    cells = order[torch.arange(order.shape[1]) < count[:, None]]
    return torch.stack([cells % room, cells // room], dim=1)


def _background(
    number: int, size: int, noise: float, distractors: int, generator: torch.Generator
) -> Float[Tensor, "canvases size size"]:
    """A gradient in a random direction, noise, and line segments about a pixel wide."""
    axis = torch.linspace(-1, 1, size)
    slope = 0.3 * (torch.rand(number, 2, 1, 1, generator=generator) - 0.5)
    canvas = 0.2 + slope[:, 0] * axis[:, None] + slope[:, 1] * axis
    canvas = canvas + noise * torch.randn(number, size, size, generator=generator)
    pixel = torch.arange(size, dtype=torch.float32)
    for _ in range(distractors):
        start, end, ink = (torch.rand(number, values, 1, 1, generator=generator) for values in (2, 2, 1))
        start, along = size * start, 0.5 * size * (end - 0.5)
        squared = along.square().sum(dim=1, keepdim=True).clamp_min(1)
        dx, dy = pixel - start[:, 0], pixel[:, None] - start[:, 1]
        share = ((dx * along[:, 0] + dy * along[:, 1]) / squared[:, 0]).clamp(0, 1)
        distance = torch.hypot(dx - share * along[:, 0], dy - share * along[:, 1])
        canvas = canvas + 0.8 * ink[:, 0] * (1.2 - distance).clamp(0, 1)
    return canvas


def _digits_at(
    pictures: Float[Tensor, "pictures 8 8"],
    heads: Int[Tensor, "digits 2"],
    owner: Int[Tensor, "digits"],
    number: int,
    size: int,
    generator: torch.Generator,
) -> Float[Tensor, "canvases size size"]:
    """Canvases `[number, size, size]` with a scaled digit around each head, added up where they overlap."""
    digits = len(heads)
    chosen = pictures[torch.randint(len(pictures), (digits,), generator=generator)].unsqueeze(1)
    depth = heads[:, 1] / (size - 1)
    scale = (_SCALES[0] + (_SCALES[1] - _SCALES[0]) * depth) * (0.9 + 0.2 * torch.rand(digits, generator=generator))
    ink = 0.6 + 0.4 * torch.rand(digits, 1, 1, generator=generator)
    theta = torch.zeros(digits, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = _PATCH / (_DIGIT * scale)  # how far across a digit its patch reaches
    grid = F.affine_grid(theta, [digits, 1, _PATCH, _PATCH], align_corners=False)
    patches = ink * F.grid_sample(chosen, grid, align_corners=False)[:, 0]
    wide = size + 2 * _PATCH  # patches reach over the border
    corner = heads + _PATCH - _PATCH // 2
    step = torch.arange(_PATCH)
    rows, columns = corner[:, 1, None] + step, corner[:, 0, None] + step
    cells = (owner[:, None, None] * wide + rows[:, :, None]) * wide + columns[:, None, :]
    canvas = torch.zeros(number * wide * wide).index_add_(0, cells.flatten(), patches.flatten())
    return canvas.view(number, wide, wide)[:, _PATCH:-_PATCH, _PATCH:-_PATCH]
