from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from tutelage.data import ArraySamples, DatasetSamples, Samples, as_samples


class Squares(Dataset):
    def __init__(self, form: str) -> None:
        self.form = form

    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int):
        value = torch.tensor([float(row), float(row) ** 2])
        return {
            "pair": (value, row % 3),
            "alone": value,
            "dict": {"x": value, "label": row % 3},
            "named": {"input_ids": torch.tensor([row]), "attention_mask": torch.tensor([1]), "labels": row % 3},
            "numpy": (value.numpy().astype(np.float64), np.int32(row % 3)),
            "real": (value, float(row)),
            "ragged": (torch.zeros(row + 1), 0),
            "triple": (value, 0, 0),
        }[self.form]


@pytest.mark.parametrize("form", ["pair", "dict", "numpy"])
def test_items_become_batches(form: str) -> None:
    batch = as_samples(Squares(form)).batch(torch.tensor([5, 2]))
    assert batch.inputs.tolist() == [[5.0, 25.0], [2.0, 4.0]]
    assert batch.inputs.dtype == torch.float32
    assert batch.target.tolist() == [2, 2]
    assert batch.target.dtype == torch.int64
    assert batch.index.tolist() == [5, 2]


def test_other_items() -> None:
    assert as_samples(Squares("alone")).batch(torch.tensor([1])).target is None
    assert as_samples(Squares("pair")).targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert as_samples(Squares("alone")).targets is None
    named = as_samples(Squares("named")).batch(torch.tensor([4, 1]))
    assert named.inputs["input_ids"].tolist() == [[4], [1]]
    assert named.target.tolist() == [1, 1]
    assert as_samples(Squares("real")).batch(torch.tensor([3])).target.tolist() == [3.0]


def test_materialized_samples_are_the_same() -> None:
    for form in ("pair", "named", "alone"):
        lazy = DatasetSamples(Squares(form))
        held = lazy.materialize(batch_size=4)
        rows = torch.tensor([5, 0, 3])
        first, second = lazy.batch(rows), held.batch(rows)
        assert str(first) == str(second)


def test_fingerprint_follows_content() -> None:
    assert DatasetSamples(Squares("pair")).fingerprint() == DatasetSamples(Squares("pair")).fingerprint()
    assert DatasetSamples(Squares("pair")).fingerprint() != DatasetSamples(Squares("real")).fingerprint()


def test_pil_images() -> None:
    image = pytest.importorskip("PIL.Image").fromarray(np.full((4, 5, 3), 255, dtype=np.uint8))
    assert as_samples([(image, 0)]).batch(torch.tensor([0])).inputs.shape == (1, 3, 4, 5)


def test_as_samples() -> None:
    x, y = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
    ready = ArraySamples(x, y)
    assert as_samples(ready) is ready
    for form in ((x, y), (x.numpy(), y.numpy()), TensorDataset(x, y), {"x": x, "y": y}, (x.tolist(), y.tolist())):
        samples = as_samples(form)
        assert isinstance(samples, ArraySamples)
        assert samples.target.tolist() == [0, 1, 0, 1]
        assert samples.inputs.shape == (4, 2)
    assert as_samples(x).target is None
    assert isinstance(as_samples({"a": x, "b": x, "target": y}).inputs, dict)
    assert isinstance(as_samples(Squares("pair")), Samples)


def test_hugging_face() -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"x": [[1.0, 2.0], [3.0, 4.0]], "label": [1, 0]})
    batch = as_samples(table).batch(torch.tensor([1]))
    assert batch.inputs.tolist() == [[3.0, 4.0]]
    assert batch.target.tolist() == [0]
    with pytest.raises(ValueError, match="'x' does not"):
        as_samples(datasets.Dataset.from_dict({"x": ["text"], "label": [1]}))


class Endless(IterableDataset):
    def __iter__(self):
        return iter([1])


@pytest.mark.parametrize("data", [3, "digits", Endless()])
def test_unusable(data) -> None:
    with pytest.raises(ValueError, match="Expected"):
        as_samples(data)


def test_bad_items() -> None:
    with pytest.raises(ValueError, match="one shape"):
        as_samples(Squares("ragged")).batch(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="3 parts"):
        as_samples(Squares("triple")).batch(torch.tensor([0]))
    with pytest.raises(ValueError, match="empty"):
        as_samples([])
