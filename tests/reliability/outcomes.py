"""What a job left in its folder, so that two of them can be compared: all bits, but for what depends on the machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from tutelage.files import read_tensors

_MEASURED = ("seconds", "milliseconds", "created", "latency", "on_front", "memory", "cost")
_ASIDE = (".html", ".lock")


def outcome(folder: Path) -> dict[str, Any]:
    """Every file by its place: tensors as bytes, JSON without time and memory, others by their checksum.

    The folder's own place is taken out of YAML. Pages are left out: they show the same JSON and the time. So are a
    checkpoint's `state.json`, which holds seconds, and its manifest, which holds the checksum of that.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.suffix in _ASIDE or ("checkpoints" in path.parts and path.suffix == ".json"):
            continue
        if path.suffix == ".safetensors":
            found[name] = {
                key: (str(value.dtype), value.numpy().tobytes()) for key, value in read_tensors(path).items()
            }
        elif path.suffix == ".json":
            found[name] = _without_measured(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[name] = [_without_measured(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".yaml":
            told = json.dumps(yaml.safe_load(path.read_text()))
            found[name] = told.replace(str(folder), "FOLDER")
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The places of files that are in one of two outcomes, or differ."""
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def _without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_measured(part) for key, part in value.items() if not any(word in key for word in _MEASURED)
        }
    return [_without_measured(part) for part in value] if isinstance(value, list) else value
