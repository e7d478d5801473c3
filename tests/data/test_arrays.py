from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data import ArraySamples, Samples


def make(count: int = 5) -> ArraySamples:
    return ArraySamples(
        {"a": torch.arange(count * 2.0).view(count, 2), "b": torch.arange(count)},
        torch.arange(count) % 2,
        index=torch.arange(count) + 100,
        extras={"cost": torch.arange(count) * 1.5},
    )


def test_batch_gives_the_asked_rows_in_order() -> None:
    batch = make().batch(torch.tensor([3, 0, 3]))
    assert batch.inputs["a"].tolist() == [[6.0, 7.0], [0.0, 1.0], [6.0, 7.0]]
    assert batch.inputs["b"].tolist() == [3, 0, 3]
    assert batch.target.tolist() == [1, 0, 1]
    assert batch.index.tolist() == [103, 100, 103]
    assert batch.extras["cost"].tolist() == [4.5, 0.0, 4.5]


@given(rows=st.lists(st.integers(0, 4), min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_batch_agrees_with_indexing_row_by_row(rows: list[int]) -> None:
    samples = make()
    batch = samples.batch(torch.tensor(rows))
    for place, row in enumerate(rows):
        one = samples.batch(torch.tensor([row]))
        assert torch.equal(batch.inputs["a"][place], one.inputs["a"][0])
        assert batch.index[place] == one.index[0]


def test_slices_equal_gathers() -> None:
    samples = make()
    gathered, sliced = samples.batch(torch.tensor([1, 2, 3])), samples.batch(slice(1, 4))
    assert torch.equal(gathered.inputs["a"], sliced.inputs["a"])
    assert torch.equal(gathered.index, sliced.index)


def test_it_is_samples() -> None:
    assert isinstance(make(), Samples)


@pytest.mark.parametrize("row", [-1, 5])
def test_rows_outside_are_refused(row: int) -> None:
    with pytest.raises(IndexError):
        make().batch(torch.tensor([row]))


def test_types() -> None:
    samples = ArraySamples(np.ones((2, 3)), np.array([0, 1], dtype=np.uint8))
    assert samples.inputs.dtype == torch.float32
    assert samples.target.dtype == torch.int64
    assert ArraySamples(np.ones((2, 3), dtype=np.int16)).inputs.dtype == torch.int64
    assert ArraySamples(torch.ones(2, 3, dtype=torch.float64), torch.ones(2)).inputs.dtype == torch.float64
    assert ArraySamples(torch.ones(2, 3), torch.tensor([True, False])).target.tolist() == [1, 0]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0)[::-1].reshape(2, 3),
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.broadcast_to(np.float32(1), (2, 3)),
    ],
    ids=["reversed", "big-endian", "read-only"],
)
def test_unusual_arrays(array: np.ndarray) -> None:
    assert ArraySamples(array).inputs.numpy().tolist() == array.tolist()


def test_subset_keeps_index() -> None:
    part = make().subset(torch.tensor([4, 2]))
    assert part.index.tolist() == [104, 102]
    assert part.batch(torch.tensor([1])).index.tolist() == [102]


def test_fingerprint_is_content() -> None:
    first = make().fingerprint()
    assert first == make().fingerprint()
    assert len(first) == 64
    changed = make()
    changed.inputs["a"][0, 0] = 9.0
    assert changed.fingerprint() != first
    assert make().with_target(torch.zeros(5, dtype=torch.int64)).fingerprint() != first
    assert make(4).fingerprint() != first
    assert ArraySamples(torch.zeros(4, 1)).fingerprint() != ArraySamples(torch.zeros(4, 1, 1)).fingerprint()
    assert len(ArraySamples(torch.zeros(4, 1, dtype=torch.bfloat16)).fingerprint()) == 64


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (torch.zeros(0, 2), {}, "at least one sample"),
        ({}, {}, "at least one named tensor"),
        (torch.zeros(2, 2), {"target": torch.zeros(3)}, "`target` to hold 2 samples like `inputs`, but got 3"),
        (torch.zeros(2, 2), {"target": torch.tensor([0, -2])}, "but got -2"),
        (torch.zeros(2, 2), {"target": torch.tensor([0.0, float("nan")])}, "finite"),
        (torch.zeros(2, 2), {"index": torch.tensor([1, 1])}, "distinct"),
        (torch.zeros(2, 2), {"extras": {"w": torch.zeros(1)}}, r"extras\['w'\]"),
        (np.array(["a", "b"]), {}, "to hold numbers"),
        (torch.tensor(1.0), {}, "single number"),
    ],
)
def test_bad_input(inputs, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        ArraySamples(inputs, **options)


def test_skipped_labels_are_allowed() -> None:
    assert ArraySamples(torch.zeros(2, 1), torch.tensor([-100, 3])).target.tolist() == [-100, 3]
