"""From samples to batches: the order of an epoch is a function of (seed, epoch), so a run can go on in its middle."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tutelage.batch import Batch
from tutelage.data.arrays import ArraySamples
from tutelage.data.samples import Samples


def epoch_order(length: int, *, seed: int, epoch: int, shuffle: bool = True) -> Tensor:
    """The order in which an epoch visits the rows: int64 `[length]`, the same on every process and machine.

    >>> epoch_order(4, seed=0, epoch=0, shuffle=False).tolist()
    [0, 1, 2, 3]
    >>> sorted(epoch_order(4, seed=0, epoch=1).tolist())
    [0, 1, 2, 3]
    """
    if not shuffle:
        return torch.arange(length)
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(length, generator=generator)


def load_batches(
    samples: Samples, rows: Iterable[Tensor], *, num_workers: int = 0, seed: int | None = None, first: int = 0
) -> Iterator[Batch]:
    """Batches for the given groups of rows, in their order.

    Args:
        samples: Where to read from.
        rows: int64 row numbers, one tensor a batch.
        num_workers: Processes that read ahead; 0 reads in this one, which is fastest for data in memory. The batches
            are the same for every number when there is a `seed`, or nothing in them is drawn.
        seed: Batch n is read with PyTorch's, NumPy's and Python's generators seeded by (seed, n), so random
            augmentation does not depend on who reads, and when; the generators of this process stay as they are. None
            draws from them as they are.
        first: The number of the first batch.
    """
    draws = seed is not None and type(samples) is not ArraySamples
    numbers = itertools.count((seed or 0) * 1_000_003 + first)
    if num_workers == 0:
        if not draws:
            return map(samples.batch, rows)
        return (_read(samples, group, number) for group, number in zip(rows, numbers, strict=False))
    from torch.utils.data import DataLoader

    groups = [[number if draws else None, *group.tolist()] for group, number in zip(rows, numbers, strict=False)]
    loader: DataLoader[Batch] = DataLoader(
        _RowReader(samples),
        batch_sampler=groups,
        collate_fn=_as_read,  # type: ignore[arg-type]  # `__getitems__` gives whole batches
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(0),  # seeds the workers; the global generator is left alone
        multiprocessing_context="fork" if torch.multiprocessing.get_start_method(allow_none=True) != "spawn" else None,
    )
    return iter(loader)


@dataclass(frozen=True, slots=True)
class BatchesInOrder:
    """All samples in order, in batches on a device; can be gone through any number of times.

    >>> from tutelage.data.arrays import ArraySamples
    >>> batches = BatchesInOrder(ArraySamples(torch.arange(5.0)), batch_size=2)
    >>> [batch.index.tolist() for batch in batches]
    [[0, 1], [2, 3], [4]]
    """

    samples: Samples
    batch_size: int
    device: torch.device | str = "cpu"
    num_workers: int = 0

    def __iter__(self) -> Iterator[Batch]:
        rows = torch.split(torch.arange(len(self.samples)), self.batch_size)
        for batch in load_batches(self.samples, rows, num_workers=self.num_workers, seed=0):
            yield batch.to(self.device)


class _RowReader(torch.utils.data.Dataset[Batch]):
    """Gives `DataLoader` whole batches at a time."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, group: list[int | None]) -> Batch:
        number, *rows = group
        return _read(self.samples, torch.tensor(rows, dtype=torch.int64), number)


def _read(samples: Samples, rows: Tensor, number: int | None) -> Batch:
    """A batch, with all generators seeded by the number while it is read."""
    if number is None:
        return samples.batch(rows)
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(number % 2**63)
    np.random.seed(number % 2**32)
    random.seed(number)
    try:
        return samples.batch(rows)
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


def _as_read(batch: Batch) -> Batch:
    return batch
