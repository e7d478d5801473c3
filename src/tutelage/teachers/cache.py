"""A teacher's signals on disk, read by stable sample index at training speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage._checks import check_at_least, check_option
from tutelage.batch import Batch
from tutelage.data.samples import Samples
from tutelage.outputs import Outputs, TopClasses
from tutelage.teachers.cache_manifest import Manifest, read_index, read_records, shard_path, taps_of
from tutelage.teachers.fingerprint import teacher_fingerprint
from tutelage.teachers.teacher import Teacher

MEMORY_BUDGET = 512 << 20


class TeacherCache:
    """What a teacher said about every sample, as `build_cache` wrote it.

    Files are mapped into memory and read at the rows that are asked for; a cache within `memory_budget` is read once,
    at its first use, and kept as one tensor (on a GPU too, where indices come from there). Before the first use of a
    shard its checksum is verified, in every process once. Several processes may read one cache; a pickled cache is a
    handle that opens the folder again.

    Args:
        folder: Where the cache lies.
        teacher: Refuse the cache unless this teacher made it.
        data: Refuse the cache unless it was made from this data. Leave it out to read a cache of all samples for a
            subset, whose indices are in the cache but whose fingerprint is its own.
        verify: `"use"`: sizes now, checksums at first use; `"full"`: all checksums now.
        memory_budget: Largest size in bytes of a cache that is kept in memory; 0 maps files always.

    Attributes:
        folder: Where the cache lies.
        manifest: What it says about itself.
        in_memory: Whether it is kept in memory.

    Raises:
        FileNotFoundError: There is no cache.
        ValueError: The cache is not finished, damaged, or does not fit teacher or data.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        teacher: Teacher | None = None,
        data: Samples | None = None,
        verify: Literal["use", "full"] = "use",
        memory_budget: int = MEMORY_BUDGET,
    ) -> None:
        check_option(verify, "verify", ("use", "full"))
        check_at_least(memory_budget, "memory_budget", 0)
        self.folder = Path(folder)
        self.manifest = Manifest.load(self.folder)
        if self.manifest.index is None:
            done = f"{len(self.manifest.shards)} of {self.manifest.num_shards}"
            raise ValueError(
                f"Expected the cache {self.folder} to be finished, but {done} shards are; build it again to resume."
            )
        if teacher is not None:
            taps = taps_of(teacher, self.manifest.signals)
            self.manifest.check_teacher(teacher_fingerprint(teacher), taps, self.folder)
        if data is not None:
            self.manifest.check_data(data.fingerprint(), self.folder)
        for number in range(self.manifest.num_shards):
            if number not in self.manifest.shards:
                raise ValueError(f"Expected the cache {self.folder} to list shard {number}, but its manifest does not.")
            self.manifest.shards[number].check_size(shard_path(self.folder, number))
        self._layout = self.manifest.layout()
        self._memory_budget = memory_budget
        self._rows = _RowLookup(read_index(self.folder, self.manifest))
        self.in_memory = self.manifest.count * self.bytes_per_sample <= memory_budget
        self._shards: dict[int, NDArray[Any]] = {}
        self._resident: dict[torch.device, Tensor] = {}
        if verify == "full":
            for number in range(self.manifest.num_shards):
                self._shard(number)

    def __len__(self) -> int:
        return self.manifest.count

    @property
    def bytes_per_sample(self) -> int:
        """Bytes on disk for each sample, its index of 8 bytes included."""
        return self._layout.dtype.itemsize

    @property
    def full_logits_bytes_per_sample(self) -> int | None:
        """Bytes that all logits of a sample would take in float32; None when the cache holds no logits."""
        return self._layout.full_logits_bytes()

    def read(self, index: Tensor, *, dense: bool = True) -> Outputs:
        """The stored signals of some samples, as float32 on the index's device.

        Args:
            index: `[batch]` stable indices, in any order and repeated at will.
            dense: Where the likeliest classes are stored, give logits for all classes too.

        Returns:
            `logits` `[batch, …, classes]` (with `top_k`: log-probabilities, see `build_cache`), `embedding` and
            `features`, as far as they are stored; with `top_k`, `top` too.

        Raises:
            ValueError: An index is not in the cache, or a shard is damaged.
        """
        return self._layout.outputs(self._records(index), dense=dense)

    def read_top_classes(self, index: Tensor) -> TopClasses:
        """The likeliest classes as they are stored, without the dense `[batch, classes]` tensor.

        Raises:
            ValueError: The cache was built without `top_k`, or as for `read`.
        """
        if self.manifest.top_k is None:
            raise ValueError(f"Expected the cache {self.folder} to be built with `top_k`, but it holds all logits.")
        return self._layout.top_classes(self._records(index))

    def _records(self, index: Tensor) -> Tensor:
        device = index.device if self.in_memory else torch.device("cpu")
        rows = self._rows(index.to(device, torch.int64))
        records = (self._on(device).index_select(0, rows) if self.in_memory else self._gather(rows)).to(index.device)
        found = self._layout.column(records, "index")
        if not torch.equal(found, index.to(torch.int64)):
            missing = int(index[found != index][0])
            raise ValueError(f"Expected every index to be in the cache {self.folder}, but {missing} is not.")
        return records

    def _on(self, device: torch.device) -> Tensor:
        if device not in self._resident:
            whole = torch.empty(len(self), self.bytes_per_sample, dtype=torch.uint8)
            for number in range(self.manifest.num_shards):
                rows = self.manifest.rows(number)
                whole.numpy()[rows.start : rows.stop] = self._shard(number)
                del self._shards[number]
            self._resident[device] = whole.to(device)
        return self._resident[device]

    def _gather(self, rows: Tensor) -> Tensor:
        gathered = np.empty((len(rows), self.bytes_per_sample), dtype=np.uint8)
        shard, place = np.divmod(rows.numpy(), self.manifest.shard_size)
        for number in np.unique(shard):
            here = shard == number
            gathered[here] = self._shard(int(number))[place[here]]
        return torch.from_numpy(gathered)

    def _shard(self, number: int) -> NDArray[Any]:
        """A shard's records as bytes `[records, record_bytes]`, mapped after its checksum was verified."""
        if number not in self._shards:
            self.manifest.shards[number].check(shard_path(self.folder, number))
            records = read_records(self.folder, self.manifest, number)
            as_bytes = np.asarray(records).view(np.uint8)  # an `np.memmap` is slow to index; its base is mapped as well
            self._shards[number] = as_bytes.reshape(len(records), self.bytes_per_sample)
        return self._shards[number]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "memory_budget": self._memory_budget}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class CachedTeacher:
    """A teacher that is not there: what it said is read from a cache by `batch.index`, on the batch's device.

    Args:
        cache: A cache, or its folder.
        dense: Where the likeliest classes are stored, give logits of all classes too. A method leaves them out when no
            objective reads them, and they then cost nothing.

    >>> import tempfile
    >>> from tutelage.teachers import FrozenTeacher, build_cache
    >>> class Numbers:
    ...     def __len__(self): return 5
    ...     def batch(self, rows): return Batch(rows.float().unsqueeze(1), None, rows)
    ...     def fingerprint(self): return "five numbers"
    >>> live = FrozenTeacher(torch.nn.Linear(1, 3))
    >>> cached = CachedTeacher(build_cache(live, Numbers(), tempfile.mkdtemp(), dtype="float32"))
    >>> batch = Numbers().batch(torch.tensor([4, 2]))
    >>> torch.allclose(cached(batch).logits, live(batch).logits)
    True
    """

    def __init__(self, cache: TeacherCache | Path | str, *, dense: bool = True) -> None:
        self.cache = cache if isinstance(cache, TeacherCache) else TeacherCache(cache)
        self.dense = dense

    def __call__(self, batch: Batch) -> Outputs:
        """The stored signals of the batch's samples, see `TeacherCache.read`."""
        return self.cache.read(batch.index, dense=self.dense)

    def fingerprint(self) -> str:
        """The fingerprint of the teacher that was asked."""
        return self.cache.manifest.teacher


class _RowLookup:
    """Rows by stable index: a table where indices lie close together, binary search where they do not.

    An index that is not there gives some row; the caller compares the row's own index with the one it asked for.
    """

    def __init__(self, index: NDArray[Any]) -> None:
        low, high = int(index.min()), int(index.max())
        rows = torch.arange(len(index))
        held = torch.from_numpy(np.array(index))
        self._low = low
        self._is_table = high - low < 4 * len(index) + (1 << 16)
        if self._is_table:
            table = torch.zeros(high - low + 1, dtype=torch.int64)
            table[held - low] = rows
            tensors = [table]
        else:
            tensors = list(held.sort())
        self._tensors: dict[torch.device, list[Tensor]] = {held.device: tensors}

    def __call__(self, index: Tensor) -> Tensor:
        if index.device not in self._tensors:
            self._tensors[index.device] = [tensor.to(index.device) for tensor in self._tensors[torch.device("cpu")]]
        if self._is_table:
            table = self._tensors[index.device][0]
            return table[(index - self._low).clamp_(0, len(table) - 1)]
        in_order, order = self._tensors[index.device]
        return order[torch.searchsorted(in_order, index).clamp_(max=len(order) - 1)]
