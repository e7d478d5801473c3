"""Users' own data as samples: torch data sets, Hugging Face data sets, and pairs of arrays."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.batch import Batch, Inputs
from tutelage.data.arrays import ArraySamples, as_target, as_tensor, fingerprint_of
from tutelage.data.samples import Samples

TARGET_NAMES = ("target", "targets", "label", "labels", "y")
INPUT_NAMES = ("inputs", "input", "x", "image", "img", "pixel_values")


class DatasetSamples:
    """A map-style data set in Python as samples: items are read one by one and stacked.

    An item is `(input, target)`, an input alone, or a dict; in a dict the target is found by name (`target`,
    `targets`, `label`, `labels`, `y`), a single input called `inputs`, `input`, `x`, `image`, `img` or
    `pixel_values` becomes a tensor, and anything else stays a dict of tensors. Images (PIL) become `[channels, height,
    width]` in [0, 1].

    The fingerprint reads every item once. Where items change from one reading to the next (random augmentation), it
    does too, and signals cached from a teacher do not fit: augment in the method, not in the data.

    Args:
        dataset: Has `__len__` and `__getitem__`.

    Raises:
        ValueError: No items, or no length (an iterable data set).

    >>> samples = DatasetSamples([(np.zeros(2, dtype=np.float32), 1), (np.ones(2, dtype=np.float32), 0)])
    >>> samples.batch(torch.tensor([1, 0])).target.tolist()
    [0, 1]
    """

    def __init__(self, dataset: Any) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise ValueError(
                f"Expected argument `dataset` to have `__len__` and `__getitem__`, but got {type(dataset).__name__}."
            )
        if len(dataset) == 0:
            raise ValueError("Expected argument `dataset` to hold at least one sample, but it is empty.")
        self.dataset = dataset
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, rows: Tensor) -> Batch:
        """The given rows as a batch.

        Raises:
            ValueError: Items of different shapes; the message says which.
        """
        items = [_parts(self.dataset[row]) for row in rows.tolist()]
        names = list(items[0][0])
        named = {name: _stack([part[name] for part, _ in items], name) for name in names}
        inputs: Inputs = named[""] if names == [""] else named
        found = [target for _, target in items]
        target = None if found[0] is None else as_target(_stack(found, "target"))
        return Batch(inputs, target, rows.long())

    @functools.cached_property
    def targets(self) -> Tensor | None:
        """All targets, `[samples, …]`, or None; reads every item once."""
        found = [_parts(self.dataset[row])[1] for row in range(len(self))]
        return None if found[0] is None else as_target(_stack(found, "target"))

    def fingerprint(self) -> str:
        """SHA-256 over the content of every item; computed once."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for row in range(len(self)):
                digest.update(fingerprint_of(_named(self.batch(torch.tensor([row])))).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def materialize(self, *, batch_size: int = 256) -> ArraySamples:
        """Every item read once into memory: batches are then as fast as tensors are."""
        batches = [self.batch(rows) for rows in torch.split(torch.arange(len(self)), batch_size)]
        targets = [batch.target for batch in batches if batch.target is not None]
        named = [_input_names(batch) for batch in batches]
        joined = {name: torch.cat([part[name] for part in named]) for name in named[0]}
        inputs: Inputs = joined.get("", joined)
        return ArraySamples(inputs, torch.cat(targets) if targets else None)


def as_samples(data: Any) -> Samples:
    """Samples from whatever a user has.

    Args:
        data: `Samples`; `(inputs, target)` tensors or arrays; a tensor or array of inputs; a dict of arrays, in which
            the target is found by name; a `torch.utils.data.TensorDataset`; a Hugging Face `Dataset`; any map-style
            data set.

    Raises:
        ValueError: None of these, or empty.

    >>> len(as_samples((np.zeros((4, 2)), np.zeros(4, dtype=int))))
    4
    >>> as_samples(3)
    Traceback (most recent call last):
    ValueError: Expected samples, a pair of arrays or a map-style data set, but got int.
    """
    if isinstance(data, (Tensor, np.ndarray)):
        return ArraySamples(data)
    if isinstance(data, Mapping):
        named, target = _parts(data)
        return ArraySamples(named.get("", named), target)
    if isinstance(data, torch.utils.data.TensorDataset) and len(data.tensors) <= 2:
        return ArraySamples(data.tensors[0], *data.tensors[1:])
    if type(data).__module__.startswith("datasets.") and hasattr(data, "with_format"):
        return _hugging_face_samples(data)
    if isinstance(data, Samples):
        return data
    if _is_pair(data):
        inputs, target = data
        return ArraySamples(inputs if isinstance(inputs, Mapping) else _array(inputs), _array(target))
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, str):
        return DatasetSamples(data)
    raise ValueError(f"Expected samples, a pair of arrays or a map-style data set, but got {type(data).__name__}.")


def _is_pair(data: Any) -> bool:
    return (
        isinstance(data, tuple)
        and len(data) == 2
        and all(isinstance(part, (Tensor, np.ndarray, Mapping, list)) or hasattr(part, "to_numpy") for part in data)
    )


def _array(value: Any) -> Any:
    return value if isinstance(value, Tensor) else np.asarray(value)


def _hugging_face_samples(dataset: Any) -> Samples:
    """Columns of numbers become tensors in memory; with images or other objects, rows are decoded when asked for."""
    if len(dataset) == 0:
        raise ValueError("Expected argument `data` to hold at least one sample, but it is empty.")
    images = any(type(feature).__name__ == "Image" for feature in dataset.features.values())
    if images:
        return DatasetSamples(dataset)
    columns: dict[str, Any] = {}
    for name, values in dataset.with_format("numpy")[:].items():
        column = np.asarray(values)
        if column.dtype.kind not in "biuf":
            raise ValueError(
                f"Expected every column of the data set to hold numbers of one shape, but {name!r} does not; "
                "remove or encode it first."
            )
        columns[name] = column
    named, target = _parts(columns)
    return ArraySamples(named.get("", named), target)


def _parts(item: Any) -> tuple[dict[str, Any], Any]:
    """An item's inputs by name (the empty name for a single tensor) and its target."""
    if isinstance(item, Mapping):
        target_name = next((name for name in TARGET_NAMES if name in item), None)
        named = {name: value for name, value in item.items() if name != target_name}
        if len(named) == 1 and next(iter(named)) in INPUT_NAMES:
            named = {"": next(iter(named.values()))}
        return named, None if target_name is None else item[target_name]
    if isinstance(item, (tuple, list)):
        if len(item) != 2:
            raise ValueError(f"Expected an item of the data set to be (input, target), but got {len(item)} parts.")
        inputs, target = item
        return (dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}), target
    return {"": item}, None


def _stack(values: Sequence[Any], name: str) -> Tensor:
    tensors = [_tensor(value) for value in values]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(
            f"Expected items of the data set to have one shape, but {name or 'the input'} has {sorted(shapes)[:3]}; "
            "resize or pad them in the data set."
        )
    return torch.stack(tensors)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "convert") and hasattr(value, "getbands"):  # a PIL image
        pixels = np.asarray(value, dtype=np.float32) / 255
        return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())
    return as_tensor(np.asarray(value)[None], "item")[0]


def _input_names(batch: Batch) -> dict[str, Tensor]:
    return batch.inputs if isinstance(batch.inputs, dict) else {"": batch.inputs}


def _named(batch: Batch) -> dict[str, Tensor]:
    named = _input_names(batch)
    return named if batch.target is None else {**named, "target": batch.target}
