"""Files that somebody made to do harm: each writes one into a folder, for the reader that will be given it.

A file that can run code would create the canary.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.reliability.readers import readers
from tutelage.files import sha256_of, write_json, write_sealed_json

Attack = Callable[[Path, Path], object]


class _Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def _good(name: str, folder: Path) -> None:
    readers()[name].make(folder)


# ── NumPy ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _npy(content: bytes) -> Attack:
    return lambda folder, canary: (folder / "zinnia.npy").write_bytes(content)


def _npz(*members: tuple[str, bytes]) -> Attack:
    def write(folder: Path, canary: Path) -> None:
        with zipfile.ZipFile(folder / "zinnia.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)

    return write


def _npz_of_one_member_many_times(folder: Path, canary: Path) -> None:
    """Six thousand entries of the directory name the same megabyte."""
    with zipfile.ZipFile(folder / "zinnia.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _header("(262144,)") + bytes(1 << 20))
        archive.filelist *= 6000


def _pickled_npy(folder: Path, canary: Path) -> None:
    np.save(folder / "zinnia.npy", np.array([_Canary(canary)], dtype=object), allow_pickle=True)


def _pickled_npz(folder: Path, canary: Path) -> None:
    np.savez(folder / "zinnia.npz", x=np.array([_Canary(canary)], dtype=object), y=np.zeros(1))


def _code_in_npy(folder: Path, canary: Path) -> None:
    (folder / "zinnia.npy").write_bytes(_header(f"(1, __import__('os').mkdir({str(canary)!r}))") + bytes(4))


# ── safetensors, JSON, YAML ──────────────────────────────────────────────────────────────────────────────────────────


def _safetensors(header: bytes | dict[str, Any], *, length: int | None = None) -> Attack:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + bytes(12)
    return lambda folder, canary: (folder / "a.safetensors").write_bytes(content)


def _text(name: str, text: str) -> Attack:
    return lambda folder, canary: (folder / name).write_text(text.replace("CANARY", str(canary)))


def _link(name: str, target: str) -> Attack:
    return lambda folder, canary: (folder / name).symlink_to(target)


_ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
_MERGES = "a0: &a0 {k: v}\n" + "".join(
    f"a{n}: &a{n} {{'<<': [{', '.join([f'*a{n - 1}'] * 10)}]}}\n".replace("'<<'", "<<") for n in range(1, 12)
)


# ── Folders ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _checkpoint(change: Callable[[Path], object]) -> Attack:
    """Checkpoints that a stranger altered, with checksums that fit."""

    def write(folder: Path, canary: Path) -> None:
        _good("checkpoint", folder)
        for place in folder.glob("step-*"):
            change(place)
            sums = {path.name: sha256_of(path) for path in sorted(place.iterdir()) if path.name != "manifest.json"}
            manifest = json.loads((place / "manifest.json").read_text())
            manifest.pop("seal")
            write_sealed_json(place / "manifest.json", {**manifest, "sha256": {**manifest["sha256"], **sums}})

    return write


def _alter_cache(**changes: Any) -> Attack:
    def write(folder: Path, canary: Path) -> None:
        _good("teacher cache", folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest.pop("seal")
        write_sealed_json(folder / "manifest.json", {**manifest, **changes})

    return write


def _pickled_shard(folder: Path, canary: Path) -> None:
    _good("teacher cache", folder)
    np.save(folder / "00000.npy", np.array([_Canary(canary)] * 16, dtype=object), allow_pickle=True)
    content = (folder / "00000.npy").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("seal")
    manifest["shards"]["0"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_sealed_json(folder / "manifest.json", manifest)


def _model_that_calls(name: str, **arguments: Any) -> Attack:
    def write(folder: Path, canary: Path) -> None:
        _good("saved model", folder)
        told = {key: str(canary) if value == "CANARY" else value for key, value in arguments.items()}
        told = {key: f"mkdir {canary}" if value == "MKDIR" else value for key, value in told.items()}
        write_json(folder / "model.json", {"name": name, "arguments": told})

    return write


def _model_within_a_model(folder: Path, canary: Path) -> None:
    inner = {"name": "os:mkdir", "arguments": {"path": str(canary)}}
    arguments = {"model": inner, "calibrator": {"name": "temperature"}}
    _good("saved model", folder)
    name = "tutelage.assessment.calibrated_model:calibrated_model"
    write_json(folder / "model.json", {"name": name, "arguments": arguments})


def _pickled_weights(folder: Path, canary: Path) -> None:
    _good("transformers folder", folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Canary(canary)))


def _code_beside_weights(folder: Path, canary: Path) -> None:
    """A configuration that names a class in a file beside it, as `trust_remote_code` would run it."""
    _good("transformers folder", folder)
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    mapped = {"AutoConfig": "evil.Evil", "AutoModelForSequenceClassification": "evil.Evil"}
    write_json(folder / "config.json", {**config, "model_type": "evil", "auto_map": mapped})


def _code_beside_tokenizer(folder: Path, canary: Path) -> None:
    _good("tokenizer and texts", folder)
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    told = {**config, "tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    write_json(folder / "tokenizer_config.json", told)


def _data_set_elsewhere(folder: Path, canary: Path) -> None:
    """A saved data set that names files outside of its folder."""
    _good("Hugging Face data set", folder)
    state = json.loads((folder / "state.json").read_text())
    write_json(folder / "state.json", {**state, "_data_files": [{"filename": "../../../../../../etc/passwd"}]})


# ── Images and tables ────────────────────────────────────────────────────────────────────────────────────────────────


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(bytes(min(1 << 20, (3 * width + 1) * height))))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + _chunk(b"IEND", b"")


def _image(content: Callable[[], bytes]) -> Attack:
    def write(folder: Path, canary: Path) -> None:
        _good("folder of images", folder)
        (folder / "cat" / "0.png").write_bytes(content())

    return write


def _sparse(name: str, head: str, size: int) -> Attack:
    """A file whose second line is a gigabyte of zero bytes, which take no room on the disk."""

    def write(folder: Path, canary: Path) -> None:
        with (folder / name).open("w") as stream:
            stream.write(head)
            stream.truncate(size)

    return write


def _parquet_bomb(folder: Path, canary: Path) -> None:
    """A gigabyte and a half of zeros in some kilobytes."""
    import pyarrow
    import pyarrow.parquet

    part = pyarrow.table({"size": np.zeros(10_000_000), "kind": np.zeros(10_000_000, dtype=np.int8)})
    with pyarrow.parquet.ParquetWriter(folder / "zinnia.parquet", part.schema, compression="zstd") as writer:
        for _ in range(20):
            writer.write_table(part)


# ── The list ─────────────────────────────────────────────────────────────────────────────────────────────────────────

ATTACKS: dict[str, tuple[str, Attack]] = {
    "npy: a terabyte is declared": ("npy stream", _npy(_header("(1000000, 1000000)") + bytes(16))),
    "npy: a header of 4 GB is declared": ("npy stream", _npy(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(64))),
    "npy: a length below zero": ("npy stream", _npy(_header("(-1, 4)") + bytes(16))),
    "npy: lengths that overflow": ("npy stream", _npy(_header(f"({2**62}, {2**62})") + bytes(16))),
    "npy: a pickle": ("npy stream", _pickled_npy),
    "npy: code in the header": ("npy stream", _code_in_npy),
    "npz: a terabyte is declared": ("npz data", _npz(("x.npy", _header("(1000000, 1000000)")), ("y.npy", b""))),
    "npz: one megabyte six thousand times": ("npz data", _npz_of_one_member_many_times),
    "npz: a pickle": ("npz data", _pickled_npz),
    "npz: names that lead elsewhere": ("npz data", _npz(("../../CANARY.npy", _header("(4, 1)") + bytes(16)))),
    "safetensors: a header of 2^63 bytes": ("safetensors file", _safetensors(b"{}", length=2**63)),
    "safetensors: a header nested 100,000 times": ("safetensors file", _safetensors(b'{"a":' * 100_000)),
    "safetensors: a shape of 10^18": (
        "safetensors file",
        _safetensors({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 12]}}),
    ),
    "safetensors: offsets beyond the end": (
        "safetensors file",
        _safetensors({"a": {"dtype": "F32", "shape": [10**6], "data_offsets": [0, 4 * 10**6]}}),
    ),
    "JSON: NaN": ("JSON file", _text("a.json", '{"a": NaN}')),
    "JSON: nested a million times": ("JSON file", _text("a.json", "[" * 1_000_000)),
    "JSON: a number of 100,000 digits": ("JSON file", _text("a.json", "9" * 100_000)),
    "JSON: a device without end": ("JSON file", _link("a.json", "/dev/zero")),
    "JSON: a report of another form": ("report.json", _text("report.json", '{"title": "x", "arms": [{"name": [1]}]}')),
    "YAML: a tag that calls": ("config", _text("config.yaml", "a: !!python/object/apply:os.mkdir ['CANARY']")),
    "YAML: a tag that makes an object": ("config", _text("config.yaml", "!!python/object/new:os.mkdir ['CANARY']")),
    "YAML: aliases of aliases, 10^12 values": ("config", _text("config.yaml", _ALIASES)),
    "YAML: merges of merges, 10^11 keys": ("config", _text("config.yaml", _MERGES)),
    "YAML: a list within itself": ("config", _text("config.yaml", "seeds: &a [*a]")),
    "YAML: nested 100,000 times": ("config", _text("config.yaml", "a: " + "[" * 100_000)),
    "YAML: two megabytes": ("config", _text("config.yaml", "a: " + "x" * 2_000_000)),
    "YAML: a date that is none": ("config", _text("config.yaml", "a: !!timestamp soon")),
    "YAML: an arm's name that leads elsewhere": (
        "config",
        _text("config.yaml", "data: iris\narms: {'../../evil': [cross_entropy]}"),
    ),
    "YAML: an arm's name from the root": (
        "config",
        _text("config.yaml", "data: iris\narms: {'/tmp/evil': [cross_entropy]}"),
    ),
    "YAML: a device without end": ("config", _link("config.yaml", "/dev/zero")),
    "checkpoint: names that lead elsewhere": (
        "checkpoint",
        _checkpoint(lambda place: write_json(place / "more.json", {})),
    ),
    "checkpoint: state nested 100,000 times": (
        "checkpoint",
        _checkpoint(lambda place: (place / "state.json").write_text("[" * 100_000 + "]" * 100_000)),
    ),
    "checkpoint: state of another form": (
        "checkpoint",
        _checkpoint(lambda place: (place / "state.json").write_text('{"dict": [[[1], 2, 3]]}')),
    ),
    "cache: a count of 10^15": ("teacher cache", _alter_cache(count=10**15, shard_size=1)),
    "cache: a record of 10^15 bytes": (
        "teacher cache",
        _alter_cache(record=[["index", "<i8", []], ["top_log_probs", "<f2", [10**15]]]),
    ),
    "cache: a pickle with a checksum that fits": ("teacher cache", _pickled_shard),
    "model: calls os.system": ("saved model", _model_that_calls("os:system", command="MKDIR")),
    "model: calls os.mkdir": ("saved model", _model_that_calls("os:mkdir", path="CANARY")),
    "model: calls subprocess": ("saved model", _model_that_calls("subprocess:Popen", args="MKDIR", shell=True)),
    "model: calls through another module": (
        "saved model",
        _model_that_calls("tutelage.workers:os.mkdir", path="CANARY"),
    ),
    "model: calls pandas.read_pickle": (
        "saved model",
        _model_that_calls("pandas:read_pickle", filepath_or_buffer="CANARY"),
    ),
    "model: calls eval": ("saved model", _model_that_calls("builtins:eval", source="1")),
    "model: a call within a call": ("saved model", _model_within_a_model),
    "model: layers of 10^12 units": (
        "saved model",
        _model_that_calls("mlp", input_shape=[4], num_classes=3, hidden=[10**12]),
    ),
    "model: a hundred layers of 10^5 units": (
        "saved model",
        _model_that_calls("mlp", input_shape=[4], num_classes=3, hidden=[10**5] * 100),
    ),
    "transformers: pickled weights": ("transformers folder", _pickled_weights),
    "transformers: code beside the weights": ("transformers folder", _code_beside_weights),
    "tokenizer: code beside it": ("tokenizer and texts", _code_beside_tokenizer),
    "data set: files elsewhere": ("Hugging Face data set", _data_set_elsewhere),
    "image: 60,000 × 60,000 pixels": ("folder of images", _image(lambda: _png(60_000, 60_000))),
    "image: a text that unpacks to 200 MB": (
        "folder of images",
        _image(lambda: _png(8, 8, _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 << 20))))),
    ),
    "CSV: zero bytes": ("CSV table", _text("zinnia.csv", "size,kind\n" + "\0" * 1000 + "\n1,a\n")),
    "CSV: a line of a gigabyte": ("CSV table", _sparse("zinnia.csv", "size,kind\n1,a\n", 1 << 30)),
    "JSONL: a line of a gigabyte": ("JSONL table", _sparse("zinnia.jsonl", '{"size": 1, "kind": "a"}\n', 1 << 30)),
    "JSONL: nested 100,000 times": ("JSONL table", _text("zinnia.jsonl", '{"kind": ' * 100_000)),
    "Parquet: 200 million rows in kilobytes": ("Parquet table", _parquet_bomb),
}
"""Which reader is given what."""

LONG = ("CSV: a line of a gigabyte", "JSONL: a line of a gigabyte", "Parquet: 200 million rows in kilobytes")
REASONS = {
    "npy: a pickle": "Python objects",
    "npz: a pickle": "Python objects",
    "cache: a pickle": "Python objects",
    "model: calls": "annotated to return one",
    "model: a call": "annotated to return one",
    "model: layers": "memory|allocate",
    "model: a hundred layers": "memory|allocate",
    "transformers: pickled": "is a pickle",
    "transformers: code": "custom code",
    "tokenizer: code": "custom code",
    "YAML: a tag": "could not determine a constructor",
    "YAML: aliases": "more than 100000 values",
    "YAML: merges": "more than 100000 values",
}
"""What the line must say, by how the attack's name begins."""
