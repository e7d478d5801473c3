from __future__ import annotations

import pytest
import torch

from tutelage.objectives import CoverageFilteredSampler


def rows(sampler: CoverageFilteredSampler) -> list[list[int]]:
    return [batch.tolist() for batch in sampler]


def test_without_a_filter_an_epoch_holds_every_example() -> None:
    sampler = CoverageFilteredSampler(12, batch_size=4, num_samples=8)
    epoch = rows(sampler)
    assert sorted(row for batch in epoch for row in batch) == list(range(12))
    assert len(epoch) == len(sampler) == 3
    assert rows(sampler) != epoch


def test_learned_examples_are_replaced_and_batches_stay_full() -> None:
    sampler = CoverageFilteredSampler(10, batch_size=3, num_samples=16)
    sampler.update(torch.arange(5), torch.full((5,), -0.01))
    epoch = rows(sampler)
    assert len(epoch) == 4
    assert all(len(set(batch)) == 3 for batch in epoch)
    assert {row for batch in epoch for row in batch} == set(range(5, 10))


def test_an_update_counts_at_once() -> None:
    sampler = CoverageFilteredSampler(8, batch_size=2, num_samples=16)
    seen: list[int] = []
    for batch in sampler:
        assert not set(batch.tolist()) & set(seen)
        seen += batch.tolist()
        sampler.update(batch, torch.zeros(2))
    assert sorted(seen) == list(range(8))
    assert rows(sampler) == []  # nothing is left to learn
    sampler.reset()
    assert len(rows(sampler)) == 4


def test_fewer_examples_than_a_batch_come_once_each() -> None:
    sampler = CoverageFilteredSampler(6, batch_size=4, num_samples=16)
    sampler.update(torch.arange(4), torch.zeros(4))
    assert [sorted(batch) for batch in rows(sampler)] == [[4, 5], [4, 5]]


def test_the_threshold_is_that_of_the_factor() -> None:
    sampler = CoverageFilteredSampler(2, batch_size=1, num_samples=2, threshold=0.7)
    sampler.update(torch.tensor([0, 1]), torch.tensor([0.5, 0.4]).log())  # F = 2/3 and 0.75
    assert sampler.kept.tolist() == [False, True]
    keeping_all = CoverageFilteredSampler(1, batch_size=1, num_samples=2, threshold=0)
    keeping_all.update(torch.tensor([0]), torch.zeros(1))
    assert keeping_all.kept.all()


def test_a_run_continues_from_its_state() -> None:
    first = CoverageFilteredSampler(9, batch_size=2, num_samples=4, seed=1)
    rows(first)
    first.update(torch.tensor([3]), torch.zeros(1))
    second = CoverageFilteredSampler(9, batch_size=2, num_samples=4, seed=2)
    second.load_state_dict(first.state_dict())
    assert rows(first) == rows(second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0, "batch_size": 1, "num_samples": 2}, "`size`"),
        ({"size": 2, "batch_size": 0, "num_samples": 2}, "`batch_size`"),
        ({"size": 2, "batch_size": 1, "num_samples": 0}, "`num_samples`"),
        ({"size": 2, "batch_size": 1, "num_samples": 2, "threshold": 2.0}, "`threshold`"),
    ],
)
def test_bad_input(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        CoverageFilteredSampler(**arguments)
