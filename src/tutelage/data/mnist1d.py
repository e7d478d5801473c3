"""MNIST-1D: ten one-dimensional digit shapes, shifted, stretched, sheared and buried in noise; drawn afresh."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage._checks import check_at_least, check_non_negative
from tutelage.data.arrays import ArraySamples
from tutelage.data.parts import assemble
from tutelage.data.samples import Data

Array = NDArray[np.float64]

# One row a digit: heights of its stroke at twelve equally spaced points (Greydanus and Kobak 2024, template table).
_TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
_LOW_PADDING, _HIGH_PADDING = 36, 60
_LENGTH = len(_TEMPLATES[0]) + _HIGH_PADDING  # the grid on which signals are shifted and sheared
_MAX_TRANSLATION = 48
_CORRELATION_WIDTH = 2.0


def mnist1d(
    *,
    train: int = 3600,
    validation: int = 400,
    test: int = 1000,
    length: int = 40,
    scale: float = 0.4,
    correlated_noise: float = 0.25,
    noise: float = 0.02,
    shear: float = 0.75,
    channel: bool = False,
    seed: int = 42,
) -> Data:
    """Freshly drawn MNIST-1D signals, classes balanced, standardised by the training part.

    The process is that of the public `mnist1d` package with its default settings, vectorised and with a random state of
    its own; the draws differ from its published file, the distribution does not.

    Args:
        train: Training signals (the public set has 4 000, of which none are kept for validation).
        validation: Validation signals.
        test: Test signals.
        length: Points a signal.
        scale: Width of the range of random amplitudes around 1.
        correlated_noise: Standard deviation, before smoothing, of the noise around the shape.
        noise: Standard deviation of the white noise everywhere.
        shear: Width of the range of random slopes.
        channel: Signals as `[1, length]` in place of `[length]`.
        seed: Fixes the draws.

    Source:
        Greydanus and Kobak, "Scaling Down Deep Learning with MNIST-1D" (ICML 2024), section 2.

    >>> data = mnist1d(train=100, validation=10, test=10)
    >>> data.train.batch(slice(0, 3)).inputs.shape
    torch.Size([3, 40])
    """
    for size, name in ((train, "train"), (validation, "validation"), (test, "test"), (length, "length")):
        check_at_least(size, name, 1)
    for amount, name in ((scale, "scale"), (correlated_noise, "correlated_noise"), (noise, "noise"), (shear, "shear")):
        check_non_negative(amount, name)
    generator = np.random.default_rng(seed)
    sizes = (train, validation, test)
    labels = np.concatenate([generator.permutation(np.arange(size) % 10) for size in sizes])
    total = len(labels)
    signals = render_signals(
        labels,
        length=length,
        padding=generator.integers(_LOW_PADDING, _HIGH_PADDING + 1, size=total),
        amplitude=1 + scale * (generator.random(total) - 0.5),
        translation=generator.integers(0, _MAX_TRANSLATION, size=total),
        correlated_noise=correlated_noise * generator.standard_normal((total, _LENGTH)),
        white_noise=noise * generator.standard_normal((total, _LENGTH)),
        slope=shear * (generator.random(total) - 0.5),
    )
    signals = ((signals - signals[:train].mean()) / signals[:train].std()).astype(np.float32)
    whole = ArraySamples(signals[:, None] if channel else signals, labels)
    parts, start = {}, 0
    for name, size in zip(("train", "validation", "test"), sizes, strict=True):
        parts[name] = whole.subset(slice(start, start + size))
        start += size
    return assemble(
        "mnist1d",
        parts,
        num_classes=10,
        class_names=[str(label) for label in range(10)],
        description=f"MNIST-1D: {total} generated signals of {length} points in 10 classes",
    )


def templates() -> Array:
    """The ten clean shapes `[10, 12]`: standardised, starting at 0, in units of a sixth."""
    shapes = np.array(_TEMPLATES, dtype=np.float64)
    shapes = (shapes - shapes.mean(axis=1, keepdims=True)) / shapes.std(axis=1, keepdims=True)
    return np.asarray((shapes - shapes[:, :1]) / 6)


def render_signals(
    labels: NDArray[Any],
    *,
    length: int,
    padding: NDArray[Any],
    amplitude: Array,
    translation: NDArray[Any],
    correlated_noise: Array,
    white_noise: Array,
    slope: Array,
) -> Array:
    """Signals `[samples, length]` from given draws: pad, stretch, scale, shift, add noise, shear, sub-sample."""
    from scipy.ndimage import gaussian_filter1d

    epsilon = 1e-8  # marks the shape apart from its padding, which is exactly 0
    shapes = np.pad(templates()[labels] + epsilon, ((0, 0), (0, _HIGH_PADDING)))
    signals = _interpolate(shapes, np.linspace(0, 1, _LENGTH) * (len(_TEMPLATES[0]) + padding - 1)[:, None])
    signals = signals * amplitude[:, None]
    columns = (np.arange(_LENGTH) - translation[:, None]) % _LENGTH
    signals = np.take_along_axis(signals, columns, axis=1)
    background = gaussian_filter1d(correlated_noise, _CORRELATION_WIDTH, axis=1)
    signals = np.where(signals != 0, signals, background) + white_noise
    signals = signals - slope[:, None] * np.linspace(-0.5, 0.5, _LENGTH)
    points = np.linspace(0, 1, length) * (_LENGTH - 1)
    return _interpolate(signals, np.broadcast_to(points, (len(signals), length)))


def _interpolate(values: Array, position: Array) -> Array:
    """Linear interpolation of rows `[samples, points]` at fractional columns `[samples, new]`."""
    low = np.clip(np.floor(position).astype(np.int64), 0, values.shape[1] - 2)
    left = np.take_along_axis(values, low, axis=1)
    right = np.take_along_axis(values, low + 1, axis=1)
    return np.asarray(left + (position - low) * (right - left))
