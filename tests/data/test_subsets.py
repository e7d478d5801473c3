from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data import ArraySamples, DatasetSamples, SubsetSamples, split, subset, targets_of
from tutelage.data.subsets import split_rows


@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    shares=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    seed=st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_parts_are_disjoint_complete_and_stratified(counts: list[int], shares: list[int], seed: int) -> None:
    target = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    total = sum(counts)
    fractions = [share / sum(shares) for share in shares]
    if min(fractions) * total < 1:
        return
    parts = split_rows(total, fractions, seed=seed, target=target)
    assert torch.cat(parts).sort().values.tolist() == list(range(total))
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) - fraction * total) <= 1
        found = target[part].bincount(minlength=len(counts))
        for label, count in enumerate(counts):
            assert abs(int(found[label]) - fraction * count) < 2


def test_seed_decides() -> None:
    first, again, other = (split_rows(100, (0.5, 0.5), seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_stratified_rows_within_a_class_are_random() -> None:
    target = torch.arange(1000) % 2
    first = split_rows(1000, (0.5, 0.5), seed=0, target=target)[0]
    assert 0.3 < (first < 500).float().mean() < 0.7
    assert first.diff().float().std() > 0.5


def test_sizes() -> None:
    assert [len(rows) for rows in split_rows(1797, (1000, 200, 597))] == [1000, 200, 597]
    assert [len(rows) for rows in split_rows(10, (3, 2))] == [3, 2]


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((0.5, 0.4), "sum to 1, but got 0.9"),
        ((1.5, -0.5), "positive"),
        ((), "positive"),
        ((6, 5), "at most 10 samples, but got 11"),
        ((0.99, 0.01), "leave part 1 empty"),
    ],
)
def test_bad_fractions(fractions, message) -> None:
    with pytest.raises(ValueError, match=message):
        split_rows(10, fractions)


def test_split_keeps_indices_and_proportions() -> None:
    whole = ArraySamples(torch.arange(40.0), torch.tensor([0, 0, 0, 1] * 10))
    train, test = split(whole, (0.8, 0.2), seed=3)
    assert targets_of(train).bincount().tolist() == [24, 8]
    assert targets_of(test).bincount().tolist() == [6, 2]
    rows = torch.arange(len(test))
    assert torch.equal(test.batch(rows).inputs, test.batch(rows).index.float())


def test_stratify_needs_classes() -> None:
    with pytest.raises(ValueError, match="one class each"):
        split(ArraySamples(torch.zeros(4, 1), torch.rand(4)), (0.5, 0.5), stratify=True)


def test_subset_of_a_subset() -> None:
    base = DatasetSamples([(torch.tensor([float(row)]), row % 2) for row in range(10)])
    inner = SubsetSamples(SubsetSamples(base, torch.tensor([9, 7, 5])), torch.tensor([2, 0]))
    assert inner.samples is base
    assert inner.batch(torch.tensor([0, 1])).inputs.flatten().tolist() == [5.0, 9.0]
    assert targets_of(inner).tolist() == [1, 1]
    assert inner.fingerprint() != SubsetSamples(base, torch.tensor([9, 5])).fingerprint()
    assert inner.fingerprint() == SubsetSamples(base, torch.tensor([5, 9])).fingerprint()


@pytest.mark.parametrize("rows", [[], [10], [-1], [1, 1]])
def test_bad_rows(rows: list[int]) -> None:
    base = DatasetSamples([(torch.zeros(1), 0)] * 10)
    with pytest.raises(ValueError, match="`rows`"):
        subset(base, torch.tensor(rows, dtype=torch.int64))


def test_targets_of_unlabelled() -> None:
    with pytest.raises(ValueError, match="have none"):
        targets_of(ArraySamples(torch.zeros(2, 1)))
