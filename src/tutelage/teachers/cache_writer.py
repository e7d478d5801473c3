"""Asking a teacher once about every sample, and keeping what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage._checks import check_at_least
from tutelage.data.samples import Samples
from tutelage.files import atomic_path, remove_half_written
from tutelage.outputs import Outputs
from tutelage.teachers.cache import TeacherCache
from tutelage.teachers.cache_format import StoredDtype, check_signals, pack
from tutelage.teachers.cache_manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    Manifest,
    StoredFile,
    read_records,
    shard_path,
    taps_of,
)
from tutelage.teachers.fingerprint import teacher_fingerprint
from tutelage.teachers.folder_lock import LOCK_NAME, folder_lock
from tutelage.teachers.teacher import Teacher

_SHARD_BYTES = 64 << 20

Records = NDArray[Any]
Ask = Callable[[range], Iterator[tuple[Outputs, Tensor]]]
"""What a teacher says about the samples of some rows, batch by batch, with their stable indices."""


def build_cache(
    teacher: Teacher,
    samples: Samples,
    folder: Path | str,
    *,
    signals: Sequence[str] = ("logits",),
    top_k: int | None = None,
    dtype: StoredDtype = "float16",
    shard_size: int | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TeacherCache:
    """Ask a teacher once about every sample and write what it says to a folder.

    The folder holds one `.npy` file of records for every `shard_size` samples, `index.npy` and `manifest.json`, which
    records the fingerprints of teacher and data and a checksum for every file. Each file is written whole or not at
    all. Calling again after an interruption, or on a finished cache, keeps every intact shard and makes the others: on
    the same machine the result has the bytes of an uninterrupted run, provided that `batch_size` is the same.

    Accuracy of float16: a logit z comes back within 2⁻¹¹ · (max z − z), the row's maximum exactly; hence every
    probability within 2⁻¹¹ · (1/e + ln C). Embeddings and features come back within a relative 2⁻¹¹. A logit of -inf
    comes back as the maximum − 65504.

    With `top_k`, `Outputs.logits` of the cache are log-probabilities: the stored ones for the k likeliest classes, and
    for each other class the log of an equal share of the remaining probability. They are valid logits with the
    teacher's probabilities for the k classes, but the teacher's own logit level is gone.

    Args:
        teacher: Any teacher with a `fingerprint()`, or a bare `nn.Module` that is called with a batch. It should be
            deterministic, and what it says about a sample must not depend on the rest of the batch.
        samples: What is asked about. All samples must have signals of one shape: pad sequences to one length.
        folder: Where the cache goes.
        signals: Any of `"logits"`, `"embedding"`, `"features.NAME"`.
        top_k: Keep the k likeliest classes and the total of the others instead of all logits.
        dtype: Precision of the stored signals.
        shard_size: Samples in a file; by default as many as fit 64 MiB.
        batch_size: Samples in a call of the teacher.
        device: Where batches are moved; by default where the teacher's first parameter is, or the CPU.
        progress: Called with (shards done, all shards) after each of them.

    Returns:
        The cache, opened.

    Raises:
        ValueError: A wrong argument; a signal that is missing, not finite, of varying shape or too large for float16;
            two samples with one index; a folder that holds something else or is being written by another process.

    >>> import tempfile
    >>> from tutelage.batch import Batch
    >>> from tutelage.outputs import Outputs
    >>> class Numbers:
    ...     def __len__(self): return 5
    ...     def batch(self, rows): return Batch(rows.float().unsqueeze(1), None, rows + 100)
    ...     def fingerprint(self): return "five numbers"
    >>> class Doubling:
    ...     def __call__(self, batch): return Outputs(logits=batch.inputs * torch.tensor([1.0, 2.0]))
    ...     def fingerprint(self): return "doubling"
    >>> cache = build_cache(Doubling(), Numbers(), tempfile.mkdtemp())
    >>> cache.read(torch.tensor([104, 101])).logits
    tensor([[4., 8.],
            [1., 2.]])
    """
    check_signals(signals, top_k, dtype)
    check_at_least(batch_size, "batch_size", 1)
    check_at_least(len(samples), "samples", 1)
    if shard_size is not None:
        check_at_least(shard_size, "shard_size", 1)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if device is None:
        first = next(teacher.parameters(), None) if isinstance(teacher, nn.Module) else None
        device = torch.device("cpu") if first is None else first.device
    with folder_lock(folder):
        manifest = Manifest(
            teacher=teacher_fingerprint(teacher),
            data=samples.fingerprint(),
            count=len(samples),
            signals=list(signals),
            taps=taps_of(teacher, list(signals)),
            top_k=top_k,
            dtype=dtype,
            shard_size=shard_size or 0,
        )

        def ask(rows: range) -> Iterator[tuple[Outputs, Tensor]]:
            for start in range(rows.start, rows.stop, batch_size):
                batch = samples.batch(torch.arange(start, min(rows.stop, start + batch_size))).to(device)
                with torch.no_grad():
                    yield teacher(batch), batch.index

        manifest = _begin(folder, manifest, ask, getattr(teacher, "vocab_size", None))
        _finish(folder, manifest, ask, progress)
    return TeacherCache(folder)


def _begin(folder: Path, wanted: Manifest, ask: Ask, num_classes: int | None) -> Manifest:
    """The manifest of a folder: the one that is there, less the shards that are not intact, or a new one."""
    remove_half_written(folder)
    if (folder / MANIFEST_NAME).is_file():
        manifest = Manifest.load(folder)
        manifest.check_settings(wanted, folder)
        manifest.shards = {
            number: shard for number, shard in manifest.shards.items() if _is_intact(shard, shard_path(folder, number))
        }
        return manifest
    if other := next((path.name for path in sorted(folder.iterdir()) if path.name != LOCK_NAME), None):
        raise ValueError(f"Expected {folder} to be empty or to hold a teacher cache, but it holds {other!r}.")
    outputs, index = next(iter(ask(range(1))))
    if "logits" in wanted.signals:
        wanted.num_classes = num_classes if outputs.logits is None else outputs.logits.shape[-1]
    record = _packed(outputs, index, wanted).dtype
    wanted.record = [list(column) for column in record.descr]
    wanted.record = wanted.layout().description
    wanted.shard_size = wanted.shard_size or max(1, _SHARD_BYTES // record.itemsize)
    wanted.save(folder)
    return wanted


def _finish(folder: Path, manifest: Manifest, ask: Ask, progress: Callable[[int, int], None] | None) -> None:
    """Make the shards that are missing, then the index."""
    kind = manifest.layout().dtype
    for number in range(manifest.num_shards):
        if number not in manifest.shards:
            records = np.empty(len(manifest.rows(number)), dtype=kind)
            done = 0
            for outputs, index in ask(manifest.rows(number)):
                packed = _packed(outputs, index, manifest)
                if packed.dtype != kind:
                    raise ValueError(
                        f"Expected the teacher's signals to have one shape for all samples, but got {packed.dtype} "
                        f"after {kind} (row {manifest.rows(number)[done]}); pad sequences to one length."
                    )
                records[done : done + len(packed)] = packed
                done += len(packed)
            manifest.shards[number] = _write_array(shard_path(folder, number), records)
            manifest.save(folder)
        if progress is not None:
            progress(number + 1, manifest.num_shards)
    shards = range(manifest.num_shards)
    parts = [read_records(folder, manifest, number)["index"].copy() for number in shards]  # one is mapped at a time
    stable = np.concatenate(parts)
    in_order = np.sort(stable)
    if (twice := in_order[1:][in_order[1:] == in_order[:-1]]).size:
        raise ValueError(f"Expected every sample to have an index of its own, but {twice[0]} occurs twice.")
    manifest.index = _write_array(folder / INDEX_NAME, stable)
    manifest.save(folder)


def _packed(outputs: Outputs, index: Tensor, manifest: Manifest) -> Records:
    return pack(
        outputs,
        index,
        manifest.signals,
        top_k=manifest.top_k,
        dtype=manifest.dtype,
        num_classes=manifest.num_classes,
    )


def _is_intact(file: StoredFile, path: Path) -> bool:
    try:
        file.check(path)
    except ValueError:
        return False
    return True


def _write_array(path: Path, array: Records) -> StoredFile:
    with atomic_path(path) as part:
        with part.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
        return StoredFile.of(part)
