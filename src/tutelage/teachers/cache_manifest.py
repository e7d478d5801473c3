"""What a teacher cache says about itself: `manifest.json`, and the files that it vouches for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tutelage.files import read_sealed_json, sha256_of, write_sealed_json
from tutelage.teachers.cache_format import Layout, StoredDtype

FORMAT = "tutelage-teacher-cache-1"
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.npy"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file's size and checksum, which hold before it is read."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> StoredFile:
        """The size and checksum of a file as it is now."""
        return cls(path.stat().st_size, sha256_of(path))

    def check_size(self, path: Path) -> None:
        """Raise `ValueError` unless the file is there in full length."""
        if not path.is_file():
            raise ValueError(f"Expected the cache to hold {path}, but it is missing; build the cache again to mend it.")
        if (size := path.stat().st_size) != self.bytes:
            raise ValueError(
                f"Expected {path} to have {self.bytes} bytes, but it has {size}; build the cache again to mend it."
            )

    def check(self, path: Path) -> None:
        """Raise `ValueError` unless the file's size and checksum are the recorded ones."""
        self.check_size(path)
        if sha256_of(path) != self.sha256:
            raise ValueError(
                f"Expected {path} to be as it was written, but its checksum differs; build the cache again to mend it."
            )


@dataclass(slots=True)
class Manifest:
    """Everything about a cache but the signals.

    Attributes:
        teacher: The teacher's fingerprint.
        data: The data's fingerprint.
        count: Samples.
        signals: Names of the stored signals.
        taps: Module paths of the stored features, where the teacher knows them.
        top_k: Classes kept of the logits, or None for all.
        dtype: Precision of the signals.
        record: The columns of a record: name, type, shape.
        num_classes: Classes of the logits, if they are stored.
        shard_size: Samples in a shard (the last one may hold fewer).
        shards: The finished shards by number.
        index: The file of all stable indices; there once everything is.
    """

    teacher: str
    data: str
    count: int
    signals: list[str]
    taps: dict[str, str]
    top_k: int | None
    dtype: StoredDtype
    record: list[list[Any]] = field(default_factory=list)
    num_classes: int | None = None
    shard_size: int = 0
    shards: dict[int, StoredFile] = field(default_factory=dict)
    index: StoredFile | None = None

    @property
    def num_shards(self) -> int:
        """Shards of the finished cache."""
        return -(-self.count // self.shard_size)

    def rows(self, number: int) -> range:
        """The rows that a shard holds."""
        return range(number * self.shard_size, min(self.count, (number + 1) * self.shard_size))

    def layout(self) -> Layout:
        """The layout of the records."""
        return Layout(self.record, self.num_classes)

    def check_teacher(self, fingerprint: str, taps: dict[str, str], folder: Path) -> None:
        """Raise `ValueError` unless the cache was made by this teacher, with these paths for the stored features."""
        if fingerprint != self.teacher:
            raise ValueError(
                f"Expected the cache {folder} to be made by this teacher ({fingerprint[:12]}), "
                f"but another one made it ({self.teacher[:12]})."
            )
        for name, path in self.taps.items():
            if taps.get(name, path) != path:
                raise ValueError(
                    f"Expected the cache {folder} to hold {taps[name]!r} as the feature {name!r}, but it has {path!r}."
                )

    def check_data(self, fingerprint: str, folder: Path) -> None:
        """Raise `ValueError` unless the cache was made from this data."""
        if fingerprint != self.data:
            raise ValueError(
                f"Expected the cache {folder} to be made from this data ({fingerprint[:12]}), "
                f"but it was made from other data ({self.data[:12]})."
            )

    def check_settings(self, wanted: Manifest, folder: Path) -> None:
        """Raise `ValueError` unless a cache that was begun is the one that is wanted now."""
        self.check_teacher(wanted.teacher, wanted.taps, folder)
        self.check_data(wanted.data, folder)
        for name in ("count", "signals", "taps", "top_k", "dtype", "shard_size"):
            mine, asked = getattr(self, name), getattr(wanted, name)
            if mine != asked and not (name == "shard_size" and asked == 0):
                raise ValueError(
                    f"Expected the cache {folder} to have {name} = {asked}, but it was begun with {mine}; "
                    "choose another folder."
                )

    def save(self, folder: Path) -> None:
        """Write the manifest atomically."""
        write_sealed_json(folder / MANIFEST_NAME, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read a folder's manifest.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is damaged, or of another format.
        """
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise FileNotFoundError(f"Expected a teacher cache at {folder}, but it has no {MANIFEST_NAME}.")
        found = read_sealed_json(path)
        if found.pop("format", None) != FORMAT:
            raise ValueError(f"Expected {path} to be of the format {FORMAT!r}, but it is not.")
        try:
            if missing := {part.name for part in fields(cls)} - found.keys():
                raise ValueError(f"{', '.join(sorted(missing))} missing")
            found["shards"] = {int(number): StoredFile(**shard) for number, shard in found["shards"].items()}
            found["index"] = found["index"] and StoredFile(**found["index"])
            manifest = cls(**found)
            if not (manifest.count > 0 and manifest.shard_size > 0):
                raise ValueError("count and shard_size must be positive")
            manifest.layout().check_classes()
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"Expected {path} to be a cache's manifest, but it is damaged: {error}.") from error
        return manifest


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies: `00000.npy` and so on."""
    return folder / f"{number:05d}.npy"


def read_records(folder: Path, manifest: Manifest, number: int) -> NDArray[Any]:
    """A shard's records, mapped into memory, not read.

    Raises:
        ValueError: The file is no array of the recorded layout.
    """
    path = shard_path(folder, number)
    records = _load_array(path)
    if records.dtype != manifest.layout().dtype or records.shape != (len(manifest.rows(number)),):
        raise ValueError(f"Expected {path} to hold {len(manifest.rows(number))} records of the manifest's layout.")
    return records


def read_index(folder: Path, manifest: Manifest) -> NDArray[Any]:
    """The stable index of every row, checked against its checksum."""
    path = folder / INDEX_NAME
    assert manifest.index is not None
    manifest.index.check(path)
    index = _load_array(path)
    if index.dtype != np.dtype("<i8") or index.shape != (manifest.count,):
        raise ValueError(f"Expected {path} to hold {manifest.count} indices.")
    return index


def _load_array(path: Path) -> NDArray[Any]:
    try:
        return cast(NDArray[Any], np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError, OverflowError) as error:
        raise ValueError(f"Expected {path} to be a .npy file, but it is damaged: {error}.") from error


def taps_of(teacher: object, signals: list[str]) -> dict[str, str]:
    """The module paths of the features among `signals`, where the teacher knows them (an attribute `taps`)."""
    taps = cast(dict[str, str], getattr(teacher, "taps", {}))
    names = [signal.removeprefix("features.") for signal in signals if signal.startswith("features.")]
    return {name: taps[name] for name in names if name in taps}
