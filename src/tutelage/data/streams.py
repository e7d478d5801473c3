"""An unlabelled stream of inputs: an array file, a folder of images, or the test part of named data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tutelage.data.archives import INPUT_KEYS, TARGET_KEYS, read_npy, read_npz
from tutelage.data.images import SUFFIXES, read_image
from tutelage.data.loading import load_data
from tutelage.data.samples import Data
from tutelage.files import errors_name


@dataclass
class InputStream:
    """Inputs in the order in which they come.

    Attributes:
        inputs: `[samples, …]`.
        names: What each sample is called: its file, or its number.
        target: `[samples]` classes where they are known; they are for judging, never for learning.
        class_names: Names of the classes, where they are known.
    """

    inputs: Tensor
    names: list[str]
    target: Tensor | None = None
    class_names: tuple[str, ...] = ()


def read_stream(
    source: Path | str,
    *,
    options: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
    mode: Literal["RGB", "L"] = "RGB",
) -> InputStream:
    """Read a stream.

    Args:
        source: A `.npy` file `[samples, …]`; an `.npz` file with `inputs` (or `x`) and perhaps `target` (or `y`); a
            folder of images, in the order of their names; or anything `load_data` knows, whose test part is the stream.
            Images of bytes are scaled to [0, 1].
        options: Passed on to `load_data`.
        size: Height and width that images of a folder are resized to.
        mode: How images of a folder are read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A damaged file, an array of objects, inputs that are not finite, or images of different sizes.

    >>> read_stream("digits").inputs.shape[1:]
    torch.Size([1, 8, 8])
    """
    path = Path(source)
    with errors_name(path):
        found = _from_files(path, size=size, mode=mode)
    if found is not None:
        return found
    data: Data = load_data(source, **(options or {}))
    batch = data.test.batch(torch.arange(len(data.test)))
    if not isinstance(batch.inputs, Tensor):
        raise ValueError(f"Expected the inputs of {source} to be one tensor, but they are named tensors.")
    return InputStream(*_numbered(batch.inputs), target=batch.target, class_names=tuple(data.class_names))


def _from_files(path: Path, *, size: tuple[int, int] | None, mode: Literal["RGB", "L"]) -> InputStream | None:
    """The stream in an array file or a folder of images, or None when `load_data` has to read it."""
    if path.suffix == ".npy":
        return InputStream(*_numbered(_as_inputs(read_npy(path), path)))
    if path.suffix == ".npz":
        arrays = read_npz(path)
        inputs = next((arrays[key] for key in INPUT_KEYS if key in arrays), None)
        if inputs is None:
            raise ValueError(f"Expected {path} to hold 'inputs' (or 'x'), but it holds {sorted(arrays)}.")
        target = next((torch.from_numpy(arrays[key].astype(np.int64)) for key in TARGET_KEYS if key in arrays), None)
        return InputStream(*_numbered(_as_inputs(inputs, path)), target=target)
    if path.is_dir() and not _has_parts(path):
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"Expected {path} to hold images, but there is none.")
        images = [read_image(file, size=size, mode=mode) for file in files]
        odd = next((file for file, image in zip(files, images, strict=True) if image.shape != images[0].shape), None)
        if odd is not None:
            raise ValueError(f"Expected images of one size, but {odd} differs from {files[0]}; pass --size.")
        return InputStream(torch.stack(images), [str(file.relative_to(path)) for file in files])
    return None


def _has_parts(path: Path) -> bool:
    return any((path / part).is_dir() for part in ("train", "test"))


def _as_inputs(array: Any, path: Path) -> Tensor:
    if array.dtype.kind not in "fiub" or array.ndim < 2 or not len(array):
        raise ValueError(f"Expected {path} to hold numbers [samples, …], but got {array.dtype} of shape {array.shape}.")
    scaled = array.astype(np.float32) / (255 if array.dtype == np.uint8 and array.ndim >= 3 else 1)
    if not np.isfinite(scaled).all():
        raise ValueError(f"Expected the inputs of {path} to be finite, but they hold NaN or infinity.")
    return torch.from_numpy(scaled)


def _numbered(inputs: Tensor) -> tuple[Tensor, list[str]]:
    return inputs, [str(number) for number in range(len(inputs))]
