"""Parts of a data set: any rows as samples of their own, and seeded splits with every class in proportion."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.batch import Batch
from tutelage.data.arrays import ArraySamples
from tutelage.data.samples import Samples


class SubsetSamples:
    """Some rows of any samples; each keeps its stable index.

    Args:
        samples: Where the rows are taken from.
        rows: `[subset]` int64 row numbers of `samples`.

    Raises:
        ValueError: No rows, a row that repeats, or one outside the samples.

    >>> base = ArraySamples(torch.arange(4.0), torch.tensor([0, 1, 0, 1]))
    >>> SubsetSamples(base, torch.tensor([3, 1])).batch(torch.tensor([0])).index.tolist()
    [3]
    """

    samples: Samples
    rows: Tensor

    def __init__(self, samples: Samples, rows: Tensor) -> None:
        rows = rows.long().flatten()
        if rows.numel() == 0:
            raise ValueError("Expected argument `rows` to hold at least one row, but it is empty.")
        if int(rows.min()) < 0 or int(rows.max()) >= len(samples):
            got = f"{int(rows.min())} to {int(rows.max())}"
            raise ValueError(f"Expected argument `rows` to be in [0, {len(samples)}), but got {got}.")
        if torch.unique(rows).numel() != rows.numel():
            raise ValueError("Expected argument `rows` to hold distinct rows, but some repeat.")
        if isinstance(samples, SubsetSamples):
            rows = samples.rows[rows]
            samples = samples.samples
        self.samples = samples
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Tensor) -> Batch:
        """The given rows of this subset as a batch."""
        return self.samples.batch(self.rows[rows])

    def fingerprint(self) -> str:
        """SHA-256 over the fingerprint of the whole and the rows taken from it."""
        content = self.samples.fingerprint().encode() + self.rows.numpy().tobytes()
        return hashlib.sha256(content).hexdigest()


def subset(samples: Samples, rows: Tensor) -> Samples:
    """The given rows as samples of their own: copied if they are in memory, otherwise taken when asked for.

    >>> len(subset(ArraySamples(torch.arange(4.0)), torch.tensor([3, 1])))
    2
    """
    return samples.subset(rows) if isinstance(samples, ArraySamples) else SubsetSamples(samples, rows)


def targets_of(samples: Samples, *, batch_size: int = 1024) -> Tensor:
    """All targets in row order, `[samples, …]`; samples that are not in memory are read once.

    Raises:
        ValueError: The samples have no target.

    >>> targets_of(ArraySamples(torch.zeros(2, 1), torch.tensor([1, 0]))).tolist()
    [1, 0]
    """
    if isinstance(samples, ArraySamples):
        targets = [samples.target]
    elif isinstance(getattr(samples, "targets", None), Tensor):
        targets = [samples.targets]  # type: ignore[attr-defined]
    elif isinstance(samples, SubsetSamples) and isinstance(getattr(samples.samples, "targets", None), Tensor):
        targets = [samples.samples.targets[samples.rows]]  # type: ignore[attr-defined]
    else:
        targets = [samples.batch(rows).target for rows in torch.split(torch.arange(len(samples)), batch_size)]
    found = [target for target in targets if target is not None]
    if len(found) != len(targets):
        raise ValueError("Expected samples with a target, but these have none.")
    return torch.cat(found)


def split(
    samples: Samples, fractions: Sequence[float], seed: int = 0, stratify: bool | None = None
) -> tuple[Samples, ...]:
    """Cut samples into disjoint parts at random.

    Args:
        samples: What is cut.
        fractions: The share of every part, summing to 1; or whole numbers: the size of every part.
        seed: Fixes the cut.
        stratify: Keep every class in proportion, to within two samples a part; by default whenever targets are
            `[samples]` classes.

    Returns:
        One `Samples` a fraction; rows stay in their order, and indices are kept.

    Raises:
        ValueError: Fractions that are not positive or do not sum to 1, sizes that exceed the samples, or a part that
            would be empty.

    >>> whole = ArraySamples(torch.arange(10.0), torch.tensor([0, 1] * 5))
    >>> [targets_of(part).bincount().tolist() for part in split(whole, (0.6, 0.4), seed=1)]
    [[3, 3], [2, 2]]
    >>> split(whole, (0.5, 0.6))
    Traceback (most recent call last):
    ValueError: Expected argument `fractions` to sum to 1, but got 1.1.
    """
    target: Tensor | None = None
    if stratify is not False:
        probe = samples.batch(torch.zeros(1, dtype=torch.int64)).target
        classes = probe is not None and probe.ndim == 1 and not probe.is_floating_point()
        if stratify and not classes:
            raise ValueError("Expected samples with one class each for `stratify=True`, but these have none.")
        target = targets_of(samples) if classes else None
    return tuple(subset(samples, rows) for rows in split_rows(len(samples), fractions, seed=seed, target=target))


def split_rows(
    count: int, fractions: Sequence[float], *, seed: int = 0, target: Tensor | None = None
) -> tuple[Tensor, ...]:
    """The rows of every part of a random cut, each ascending; see `split`.

    With a target, the samples of a class are spread evenly over [0, 1) at a random offset, and the line is cut where
    the parts end: sizes are exact, and every class is in proportion.

    >>> [rows.numel() for rows in split_rows(10, (5, 2, 3))]
    [5, 2, 3]
    """
    sizes = _sizes(count, fractions)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    if target is not None:
        _, label = torch.unique(target[order], return_inverse=True)
        by_class = label.argsort(stable=True)
        counts = label.bincount()
        starts = counts.cumsum(0) - counts
        rank = torch.empty(count, dtype=torch.float64)
        rank[by_class] = (torch.arange(count) - starts.repeat_interleave(counts)).double()
        offset = torch.rand(len(counts), generator=generator, dtype=torch.float64)
        order = order[((rank + offset[label]) / counts[label]).argsort(stable=True)]
    return tuple(part.sort().values for part in torch.split(order[: sum(sizes)], sizes))


def _sizes(count: int, fractions: Sequence[float]) -> list[int]:
    if not fractions or not all(math.isfinite(part) and part > 0 for part in fractions):
        raise ValueError(f"Expected argument `fractions` to hold positive numbers, but got {tuple(fractions)}.")
    if all(isinstance(part, int) for part in fractions) and sum(fractions) > 1:
        if sum(fractions) > count:
            raise ValueError(
                f"Expected argument `fractions` to ask for at most {count} samples, but got {sum(fractions)}."
            )
        return [int(part) for part in fractions]
    if abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"Expected argument `fractions` to sum to 1, but got {sum(fractions):.6g}.")
    cuts = [round(count * sum(fractions[:end])) for end in range(len(fractions) + 1)]
    sizes = [high - low for low, high in itertools.pairwise(cuts)]
    if 0 in sizes:
        raise ValueError(
            f"Expected enough samples for {len(sizes)} parts, but {count} leave part {sizes.index(0)} empty."
        )
    return sizes
