"""Samples that live in memory as tensors: a batch is one gather a tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.batch import Batch, Inputs

IGNORE_INDEX = -100
"""The target of a position to skip, as in `torch.nn.functional.cross_entropy`."""


class ArraySamples:
    """Samples held as tensors; nothing runs per sample in Python when a batch is taken.

    NumPy arrays become tensors: reals as float32, integers as int64. Tensors keep their type, except that integer and
    boolean targets become int64. What can share memory with the caller's array does.

    Args:
        inputs: `[samples, …]`, or named tensors or arrays of that form.
        target: `[samples]` classes (integers from 0; -100 is skipped by the losses), reals (`[samples]` or
            `[samples, values]`), or `[samples, time]` tokens aligned with the logits.
        index: `[samples]` integers: each sample's stable index; the row number by default.
        extras: More per-sample tensors by name, each `[samples, …]`.

    Raises:
        ValueError: No samples, lengths that differ, labels that are negative (other than -100) or not finite, or an
            index that repeats.

    >>> samples = ArraySamples(np.eye(3), np.array([0, 1, 0]))
    >>> batch = samples.batch(torch.tensor([2, 0]))
    >>> batch.target.tolist(), batch.index.tolist(), batch.inputs.dtype
    ([0, 0], [2, 0], torch.float32)
    >>> ArraySamples(np.eye(3), np.array([0, 1]))
    Traceback (most recent call last):
    ValueError: Expected argument `target` to hold 3 samples like `inputs`, but got 2.
    """

    inputs: Inputs
    target: Tensor | None
    index: Tensor
    extras: dict[str, Tensor]

    def __init__(
        self,
        inputs: Tensor | Mapping[str, Any] | NDArray[Any],
        target: Tensor | NDArray[Any] | None = None,
        *,
        index: Tensor | NDArray[Any] | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(inputs, Mapping):
            if not inputs:
                raise ValueError("Expected argument `inputs` to hold at least one named tensor, but it is empty.")
            self.inputs = {name: as_tensor(value, f"inputs[{name!r}]") for name, value in inputs.items()}
            self._size = len(next(iter(self.inputs.values())))
        else:
            self.inputs = as_tensor(inputs, "inputs")
            self._size = len(self.inputs)
        if self._size == 0:
            raise ValueError("Expected argument `inputs` to hold at least one sample, but it is empty.")
        self.target = None if target is None else as_target(target)
        self.extras = {name: as_tensor(value, f"extras[{name!r}]") for name, value in (extras or {}).items()}
        if index is None:
            self.index = torch.arange(self._size)
        else:
            self.index = as_tensor(index, "index").long()
            if self.index.ndim != 1 or torch.unique(self.index).numel() != self.index.numel():
                raise ValueError("Expected argument `index` to hold one distinct integer a sample, but some repeat.")
        for name, value in self._tensors().items():
            if len(value) != self._size:
                raise ValueError(
                    f"Expected argument `{name}` to hold {self._size} samples like `inputs`, but got {len(value)}."
                )
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={tuple(value.shape)}" for name, value in self._tensors().items() if name != "index")
        return f"ArraySamples({parts})"

    def batch(self, rows: Tensor | slice) -> Batch:
        """The given rows as a batch; a slice gives views, row numbers give copies.

        Args:
            rows: `[batch]` int64 row numbers in [0, len), or a slice.

        Raises:
            IndexError: A row number outside [0, len).
        """
        if isinstance(rows, slice):
            return Batch(self.inputs, self.target, self.index, self.extras).take(rows)
        return Batch(
            inputs={name: value.index_select(0, rows) for name, value in self.inputs.items()}
            if isinstance(self.inputs, dict)
            else self.inputs.index_select(0, rows),
            target=None if self.target is None else self.target.index_select(0, rows),
            index=self.index.index_select(0, rows),
            extras={name: value.index_select(0, rows) for name, value in self.extras.items()},
        )

    def subset(self, rows: Tensor | slice) -> ArraySamples:
        """The given rows as samples of their own; each keeps its stable index."""
        part = self.batch(rows)
        return ArraySamples(part.inputs, part.target, index=part.index, extras=part.extras)

    def with_target(self, target: Tensor | NDArray[Any] | None, **extras: Tensor) -> ArraySamples:
        """The same inputs under other labels (noisy ones, a teacher's), and more extras if given.

        >>> ArraySamples(torch.zeros(2, 1), torch.tensor([0, 1])).with_target(torch.tensor([1, 1])).target.tolist()
        [1, 1]
        """
        return ArraySamples(self.inputs, target, index=self.index, extras={**self.extras, **extras})

    def fingerprint(self) -> str:
        """SHA-256 over names, types, shapes and contents, in hexadecimal; computed once."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(self._tensors())
        return self._fingerprint

    def _tensors(self) -> dict[str, Tensor]:
        named = self.inputs if isinstance(self.inputs, dict) else {"": self.inputs}
        tensors = {f"inputs[{name!r}]" if name else "inputs": value for name, value in named.items()}
        if self.target is not None:
            tensors["target"] = self.target
        tensors["index"] = self.index
        return tensors | {f"extras[{name!r}]": value for name, value in self.extras.items()}


def as_tensor(value: Any, name: str) -> Tensor:
    """A tensor of at least one dimension: NumPy reals become float32, integers int64; tensors stay as they are.

    >>> as_tensor(np.array([1.0, 2.0]), "inputs")
    tensor([1., 2.])
    """
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.astype(np.float32, copy=False)
        elif array.dtype.kind in "iu":
            array = array.astype(np.int64, copy=False)
        elif array.dtype.kind not in "bc":
            raise ValueError(f"Expected argument `{name}` to hold numbers, but got an array of {array.dtype}.")
        if not (array.flags.writeable and array.dtype.isnative and all(stride >= 0 for stride in array.strides)):
            array = np.array(array, dtype=array.dtype.newbyteorder("="))
        value = torch.from_numpy(array)
    if value.ndim == 0:
        raise ValueError(f"Expected argument `{name}` to hold one entry a sample, but got a single number.")
    return cast(Tensor, value.detach())


def as_target(value: Any) -> Tensor:
    """Targets as a tensor: integers and booleans become int64, reals stay reals.

    Raises:
        ValueError: A negative label (other than -100), or a real that is NaN or infinite.

    >>> as_target(torch.tensor([0, -1]))
    Traceback (most recent call last):
    ValueError: Expected argument `target` to hold classes from 0 or -100 (skipped), but got -1.
    """
    target = as_tensor(value, "target")
    if target.is_floating_point():
        if not torch.isfinite(target).all():
            raise ValueError("Expected argument `target` to be finite, but it holds NaN or infinity.")
        return target
    if target.is_complex():
        raise ValueError("Expected argument `target` to hold classes or real numbers, but got complex numbers.")
    target = target.long()
    if target.numel() and int(target.min()) < 0:
        wrong = target[(target < 0) & (target != IGNORE_INDEX)]
        if wrong.numel():
            allowed = f"classes from 0 or {IGNORE_INDEX} (skipped)"
            raise ValueError(f"Expected argument `target` to hold {allowed}, but got {int(wrong[0])}.")
    return target


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of tensors; the order of the names does not matter.

    >>> a, b = torch.zeros(2), torch.ones(3)
    >>> fingerprint_of({"a": a, "b": b}) == fingerprint_of({"b": b, "a": a})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        if value.numel():
            digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
