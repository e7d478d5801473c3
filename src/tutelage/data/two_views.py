"""Two views of every sample, such as two sensors that see one scene: data for lessons across modalities."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage._checks import check_at_least, check_in_range, check_non_negative, check_option
from tutelage.data.archives import read_npy
from tutelage.data.arrays import ArraySamples
from tutelage.data.mnist1d import mnist1d
from tutelage.data.parts import assemble
from tutelage.data.samples import Data

Array = NDArray[np.floating[Any]]

_PROJECTION_SEED = 20250707  # the second sensor is the same one in every split


def two_views(
    kind: Literal["same_scene", "same_class"] = "same_scene",
    *,
    student: Literal["image", "signal"] = "signal",
    dropped: float = 0.25,
    projections: int = 12,
    noise: float = 0.4,
    seed: int = 0,
) -> Data:
    """The handwritten digits of scikit-learn, each with a second view of it, split 60 : 20 : 20.

    The image is `[64]` grey values in [0, 1]. The signal is, by `kind`,
    `same_scene`: fixed Gaussian projections of that very image, standardised, plus noise; pixels of the image are then
    dropped at random, so neither view holds all that the other one does;
    `same_class`: a signal of `mnist1d` of the same class, dealt out at random, and nothing more in common (as in
    AV-MNIST).

    Samples' inputs are the student's view. Extras hold what other networks read: `auxiliary.input`, the other view, and
    `teacher.image` and `teacher.signal`, both (see `Batch.inputs_for`).

    Args:
        kind: What the two views have in common.
        student: Which view the student sees.
        dropped: Share of pixels dropped from every image of `same_scene`.
        projections: Numbers in a signal of `same_scene`.
        noise: Standard deviation of the noise on it, in those of the projections.
        seed: Fixes split, dropped pixels, noise and the deal.

    Source: after "MST-Distill", arXiv 2507.07015, whose data sets are of the second kind (AV-MNIST) and the first.

    >>> batch = two_views().train.batch(torch.arange(2))
    >>> tuple(batch.inputs.shape), {name: tuple(view.shape) for name, view in batch.inputs_for("teacher").items()}
    ((2, 12), {'image': (2, 64), 'signal': (2, 12)})
    """
    check_option(kind, "kind", ("same_scene", "same_class"))
    check_option(student, "student", ("image", "signal"))
    check_in_range(dropped, "dropped", 0.0, 1.0)
    check_at_least(projections, "projections", 1)
    check_non_negative(noise, "noise")
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    image: Array = (pixels / 16).astype(np.float32)
    generator = np.random.default_rng(seed)
    signal: Array
    if kind == "same_scene":
        signal = _projected(image, projections) + noise * generator.standard_normal((len(image), projections))
        image = image * (generator.random(image.shape) >= dropped)
    else:
        signal = _dealt(target, generator, seed)
    views = {"image": image.astype(np.float32), "signal": signal.astype(np.float32)}
    shared = kind.replace("_", " ")
    other = "image" if student == "signal" else "signal"
    extras = {"auxiliary.input": views[other], **{f"teacher.{name}": view for name, view in views.items()}}
    return assemble(
        "two_views",
        {"train": ArraySamples(views[student], target, extras=extras)},
        fractions=(0.6, 0.2, 0.2),
        seed=seed,
        class_names=[str(label) for label in range(10)],
        description=f"1 797 handwritten digits, two views of the {shared}; a student sees the {student}",
    )


def av_mnist(
    folder: Path | str = "data/avmnist", *, student: Literal["image", "sound"] = "image", seed: int = 0
) -> Data:
    """AV-MNIST from a folder: handwritten digits, each with the spectrogram of a spoken digit of its class.

    The folder holds `image/train_data.npy`, `image/test_data.npy`, `sound/` (or `audio/`) with the same two files,
    `train_labels.npy` and `test_labels.npy`, as it is distributed. All samples are put together, each view is scaled to
    [0, 1] by its extremes, and the whole is split 60 : 20 : 20, as in the authors' code of MST-Distill.

    Args:
        folder: Where it is.
        student: Which view the student sees.
        seed: Fixes the split.

    Returns:
        Inputs `[1, 28, 28]` (image) or `[1, 112, 112]` (sound), with the extras of `two_views`.

    Raises:
        ValueError: A file is missing; it is named.
    """
    check_option(student, "student", ("image", "sound"))
    place = Path(folder)
    sound = "sound" if (place / "sound").is_dir() else "audio"
    views, sizes = {}, {"image": 28, "sound": 112}
    for view, inside in (("image", "image"), ("sound", sound)):
        pixels = np.concatenate([_array(place / inside / f"{part}_data.npy") for part in ("train", "test")])
        pixels = pixels.reshape(-1, 1, sizes[view], sizes[view]).astype(np.float32)
        views[view] = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    target = np.concatenate([_array(place / f"{part}_labels.npy") for part in ("train", "test")]).astype(np.int64)
    other = "image" if student == "sound" else "sound"
    extras = {"auxiliary.input": views[other], **{f"teacher.{name}": view for name, view in views.items()}}
    return assemble(
        "AV-MNIST",
        {"train": ArraySamples(views[student], target, extras=extras)},
        num_classes=10,
        fractions=(0.6, 0.2, 0.2),
        seed=seed,
        class_names=[str(label) for label in range(10)],
        description=f"AV-MNIST: {len(target)} digits, seen and heard; a student gets the {student}",
    )


def _array(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise ValueError(f"Expected AV-MNIST to hold the file {path}, but there is none.")
    return read_npy(path)


def _projected(image: Array, projections: int) -> Array:
    directions = np.random.default_rng(_PROJECTION_SEED).standard_normal((image.shape[1], projections))
    values = image @ directions
    standardised: Array = (values - values.mean(axis=0)) / values.std(axis=0)
    return standardised


def _dealt(target: NDArray[np.int64], generator: np.random.Generator, seed: int) -> Array:
    """A signal of its own for every sample, of the sample's class."""
    most = int(np.bincount(target).max())
    signals = mnist1d(train=10 * most, validation=10, test=10, seed=seed).train
    batch = signals.batch(torch.arange(len(signals)))
    assert isinstance(batch.inputs, torch.Tensor)
    assert batch.target is not None
    inputs, labels = batch.inputs.numpy(), batch.target.numpy()
    dealt = np.empty((len(target), inputs.shape[1]), dtype=np.float32)
    for label in np.unique(target):
        rows = np.flatnonzero(target == label)
        dealt[rows] = inputs[generator.permutation(np.flatnonzero(labels == label))[: len(rows)]]
    return dealt
