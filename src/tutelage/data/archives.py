"""NumPy archives (`.npz`) as data: never unpickled, and never larger than they may be."""

from __future__ import annotations

import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from io import IOBase
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tutelage.data.arrays import ArraySamples
from tutelage.data.parts import FRACTIONS, assemble
from tutelage.data.samples import Data, Task

INPUT_KEYS = ("inputs", "x", "X")
TARGET_KEYS = ("target", "y", "Y")
_DAMAGE = (
    *(ValueError, TypeError, EOFError, OSError, LookupError, OverflowError, RuntimeError, MemoryError),
    *(SyntaxError, tokenize.TokenError),  # a header is written in Python
)
_PREFIXES = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


def npz_data(
    path: Path | str,
    *,
    task: Task | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    max_bytes: int = 4 << 30,
) -> Data:
    """Data from an `.npz` file.

    Keys are `inputs` (or `x`) and `target` (or `y`); with parts, `train_inputs`, `validation_inputs`, `test_inputs` and
    so on (`x_train` is read too). Parts that are missing are cut from the training part. Images of bytes (three or more
    dimensions) are scaled to [0, 1].

    Args:
        path: The file.
        task: Classification for integer targets and regression for reals, by default.
        num_classes: Classes; by default one more than the largest training label.
        class_names: A name a class.
        fractions: Train, validation and test shares, where parts are missing.
        seed: Fixes the cut.
        max_bytes: The most that all arrays together may take in memory.

    Raises:
        ValueError: No such archive, an array of objects, arrays beyond `max_bytes`, no inputs or target, or bad labels.
    """
    path = Path(path)
    arrays = read_npz(path, max_bytes=max_bytes)
    parts = {}
    for part, prefixes in _PREFIXES.items():
        keys = [key for prefix in prefixes for key in (f"{prefix}_{{}}", f"{{}}_{prefix}")]
        keys += ["{}"] if part == "train" else []
        found = [(key, _first(arrays, key, INPUT_KEYS), _first(arrays, key, TARGET_KEYS)) for key in keys]
        for key, inputs, target in found:
            if inputs is None or part in parts:
                continue
            if target is None:
                wanted = key.format("target")
                raise ValueError(
                    f"Expected {path} to hold {wanted!r} beside its inputs, but it holds {sorted(arrays)}."
                )
            parts[part] = _samples(path, inputs, target, task)
    if "train" not in parts:
        raise ValueError(
            f"Expected {path} to hold 'inputs' and 'target' (or 'x' and 'y'), but it holds {sorted(arrays)}."
        )
    start = 0
    for part, samples in parts.items():
        parts[part] = ArraySamples(samples.inputs, samples.target, index=samples.index + start)
        start += len(samples)
    return assemble(
        path.stem,
        parts,
        task=task,
        num_classes=num_classes,
        class_names=class_names,
        fractions=fractions,
        seed=seed,
        description=f"{path.name}: {start} samples",
    )


def read_npz(path: Path | str, *, max_bytes: int = 4 << 30) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` file; sizes are checked in the headers before anything is unpacked.

    Raises:
        ValueError: The file is damaged, holds Python objects, or would take more than `max_bytes`.
    """
    path = Path(path)
    arrays: dict[str, NDArray[Any]] = {}
    total = 0
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            for member in members:
                with archive.open(member) as stream:
                    try:
                        check_header(stream, member.file_size)
                    except ValueError as error:
                        raise ValueError(f"the array {member.filename[:-4]!r} {error}") from error
                total += member.file_size
                if total > max_bytes:
                    raise ValueError(f"its arrays take more than max_bytes={max_bytes} bytes")
            for member in members:
                with archive.open(member) as stream:
                    arrays[member.filename[:-4]] = np.lib.format.read_array(stream, allow_pickle=False)
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, *_DAMAGE) as error:
        raise ValueError(f"Expected {path} to be a NumPy archive, but {_in_one_line(error)}.") from error
    return arrays


def read_npy(path: Path | str) -> NDArray[Any]:
    """The array of an `.npy` file; its size is checked in the header before memory is taken.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds Python objects, or another length than its header says.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            check_header(stream, path.stat().st_size)
            stream.seek(0)
            array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise ValueError(f"Expected {path} to be a NumPy array, but it {_in_one_line(error)}.") from error
    return array


def check_header(stream: IOBase | IO[bytes], length: int) -> None:
    """Raise `ValueError` unless the array that begins here is one of plain values and ends with the stream.

    Args:
        stream: Stands before the array's header, and after it at the end.
        length: Bytes of the header and the array together.
    """
    version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read_header(stream)  # type: ignore[no-untyped-call]
    if kind.hasobject:
        raise ValueError("holds Python objects, which are never unpickled")
    if any(size < 0 for size in shape):
        raise ValueError("has a negative length")
    if (found := length - stream.tell()) != (declared := kind.itemsize * math.prod(shape)):
        raise ValueError(f"has {found} bytes where its header says {declared}")


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _first(arrays: dict[str, NDArray[Any]], key: str, names: Sequence[str]) -> NDArray[Any] | None:
    return next((arrays[key.format(name)] for name in names if key.format(name) in arrays), None)


def _samples(path: Path, inputs: NDArray[Any], target: NDArray[Any], task: Task | None) -> ArraySamples:
    if inputs.dtype == np.uint8 and inputs.ndim >= 3:
        inputs = inputs.astype(np.float32) / 255
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        raise ValueError(f"Expected the inputs of {path} to be finite, but they hold NaN or infinity.")
    if target.ndim == 2 and target.shape[1] == 1:
        target = target[:, 0]
    if task == "classification" and target.dtype.kind == "f":
        if not np.isfinite(target).all() or (target != np.round(target)).any():
            wrong = target[~np.isfinite(target) | (target != np.round(target))].flat[0]
            raise ValueError(f"Expected the target of {path} to hold integer classes, but got {wrong}.")
        target = target.astype(np.int64)
    if task == "regression":
        target = target.astype(np.float32)
    return ArraySamples(inputs, target)
