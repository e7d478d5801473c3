"""Files that are whole or not there: written beside their place, flushed to the disk, then moved into it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

_OF_CONTENT = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError)
_LARGEST_YAML = 1 << 20  # bytes
_MOST_VALUES = 100_000


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path in the same folder that takes `path`'s place when the block ends without an error.

    Whatever stood at `path` stays as it was until then; on an error nothing is left behind.

    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "a.txt") as part:
    ...     _ = part.write_text("whole")
    >>> (folder / "a.txt").read_text(), len(list(folder.iterdir()))
    ('whole', 1)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)  # mkstemp makes private files; the result is an ordinary one
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_half_written(folder: Path | str) -> None:
    """Remove what `atomic_path` left under a folder when its process was killed; only for who alone writes there."""
    for part in Path(folder).rglob(".*.part"):
        if part.is_file():
            part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a file moved into it outlives a power cut."""
    with contextlib.suppress(OSError):  # some file systems and Windows do not open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file atomically; NaN and infinity are refused, since JSON has no such numbers."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def errors_name(path: Path | str) -> Iterator[None]:
    """Whatever comes of a file's content inside the block is one line that names the file, a `ValueError`.

    Errors that name it already, and those of a file that is not there, pass.

    >>> with errors_name("a.json"):
    ...     {}["width"]
    Traceback (most recent call last):
    ValueError: a.json: KeyError: 'width'
    """
    try:
        yield
    except _OF_CONTENT as error:
        text = " ".join(str(error).split())
        if isinstance(error, ValueError) and str(path) in text and "\n" not in str(error).strip():
            raise
        kind = "" if isinstance(error, ValueError) and text else f"{type(error).__name__}: "
        raise ValueError(f"{path}: {kind}{text[:1000]}".rstrip(": ")) from error


def read_json(path: Path | str) -> Any:
    """Read a JSON file; `ValueError` names the file when it is not JSON (NaN and infinity are not)."""
    path = Path(path)
    if path.exists() and not path.is_file():  # a device would be read for ever
        raise ValueError(f"Expected {path} to be a JSON file, but it is none.")
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # bad text and numbers of too many digits are kinds of the former
        raise ValueError(f"Expected {path} to be a JSON file, but it is damaged: {error}.") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no JSON")


def write_sealed_json(path: Path | str, value: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Write a JSON object atomically with a checksum of itself, its `seal`.

    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> write_sealed_json(path, {"step": 12})
    >>> read_sealed_json(path)
    {'step': 12}
    >>> _ = path.write_text(path.read_text().replace("12", "13"))
    >>> read_sealed_json(path)
    Traceback (most recent call last):
    ValueError: Expected .../a.json to match its checksum, but it was altered.
    """
    plain = json.loads(json.dumps(value, allow_nan=False))  # as it will be read back
    write_json(path, {**plain, "seal": _seal(plain)}, indent=indent)


def read_sealed_json(path: Path | str) -> dict[str, Any]:
    """Read what `write_sealed_json` wrote; `ValueError` names the file when anything in it was altered."""
    found = read_json(path)
    if not isinstance(found, dict) or found.pop("seal", None) != _seal(found):
        raise ValueError(f"Expected {path} to match its checksum, but it was altered.")
    return found


def _seal(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_yaml(path: Path | str) -> Any:
    r"""Read a YAML file of plain data; no tag can make anything else of it.

    Raises:
        ValueError: It is no such file, or larger than what people write: a megabyte, or a hundred thousand values once
            its aliases are written out.

    >>> path = Path(tempfile.mkdtemp()) / "a.yaml"
    >>> _ = path.write_text("a: &a [x, x]\nb: [*a, *a]")
    >>> read_yaml(path)
    {'a': ['x', 'x'], 'b': [['x', 'x'], ['x', 'x']]}
    """
    import yaml

    try:
        with Path(path).open("rb") as stream:
            text = stream.read(_LARGEST_YAML + 1)
        if len(text) > _LARGEST_YAML:
            raise ValueError(f"it has more than {_LARGEST_YAML} bytes")
        loader = yaml.SafeLoader(text.decode("utf-8"))
        try:
            root = loader.get_single_node()
            if root is None:
                return None
            if _written_out(root, {}) > _MOST_VALUES:  # found out before any of it is built
                raise ValueError(f"it has more than {_MOST_VALUES} values")
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as fault:
        problem = " ".join(str(fault).split())[:500]
        raise ValueError(f"Expected {path} to be a YAML file of plain data, but: {problem}.") from fault


def _written_out(node: Any, known: dict[int, float]) -> float:
    """How many values a YAML node has when every alias is written out; infinity for one that holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = node.value if isinstance(node.value, list) else []
        flat = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_written_out(one, known) for one in flat)
    return known[id(node)]


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically; tensors that share memory are written each in full."""
    from safetensors.torch import save_file

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in whole.items():
        pointer = tensor.untyped_storage().data_ptr()
        if tensor.numel() and (pointer in seen or tensor.untyped_storage().nbytes() != tensor.nbytes):
            whole[name] = tensor.clone()
        seen.add(whole[name].untyped_storage().data_ptr())
    with atomic_path(path) as part:
        save_file(whole, part, metadata=dict(metadata) if metadata else None)  # an empty one damages an empty file


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Read a safetensors file; `ValueError` names the file when it is missing parts or is no such file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a safetensors file at {path}, but there is none.")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, OSError, RuntimeError, OverflowError) as error:
        raise ValueError(f"Expected {path} to be a safetensors file, but it is damaged: {error}.") from error


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
