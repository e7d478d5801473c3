"""Checkpoints: whole or not there. Tensors in safetensors, the rest in JSON, a checksum for every file; no pickle."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from tutelage.files import (
    read_json,
    read_sealed_json,
    read_tensors,
    sha256_of,
    sync_folder,
    write_json,
    write_sealed_json,
    write_tensors,
)
from tutelage.training.sharding import spread_like

FORMAT = 1
_PREFIX = "step-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run needs to go on with the same bits.

    Attributes:
        step: Optimiser steps taken.
        modules: Parameters and buffers of the modules that learn: `{"student.layer.weight": tensor, …}`.
        state: Everything else, as nested dicts, lists, tuples, numbers, strings and tensors.
    """

    step: int
    modules: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path | str, checkpoint: Checkpoint, *, keep: int = 2) -> Path:
    """Write a checkpoint beside its place, flush it, move it in, then drop all but the newest `keep`.

    A crash, a kill or a full disk at any moment leaves the earlier checkpoints as they were.

    Raises:
        OSError: It could not be written; the text says where and which earlier one stands.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{_PREFIX}{checkpoint.step:09d}"
    part = folder / f".{place.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        tree, tensors = pack(checkpoint.state)
        write_tensors(part / "modules.safetensors", checkpoint.modules)
        write_tensors(part / "state.safetensors", tensors)
        write_json(part / "state.json", tree, indent=None)
        sums = {path.name: sha256_of(path) for path in sorted(part.iterdir())}
        write_sealed_json(part / "manifest.json", {"format": FORMAT, "step": checkpoint.step, "sha256": sums})
        if place.exists():  # a step is written again only when a resumed run comes by an interrupted run's last one
            shutil.rmtree(folder / f".{place.name}.old", ignore_errors=True)
            place.replace(folder / f".{place.name}.old")
        part.replace(place)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        whole = checkpoint_folders(folder)
        stands = f"the last good one is {whole[-1]}" if whole else "there is no earlier one"
        raise OSError(f"Could not write a checkpoint to {place} ({error}); {stands}.") from error
    for old in (*checkpoint_folders(folder)[:-keep], *folder.glob(f".{_PREFIX}*")):  # a kill leaves the latter behind
        shutil.rmtree(old, ignore_errors=True)
    return place


def checkpoint_folders(folder: Path | str) -> list[Path]:
    """The checkpoints under a folder, oldest first."""
    folder = Path(folder)
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir()) if folder.is_dir() else []


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read one checkpoint; every file's checksum is verified before it is used.

    Raises:
        ValueError: A file is missing, cut off or altered, or the format is a newer one.
    """
    path = Path(path)
    manifest = read_sealed_json(path / "manifest.json") if (path / "manifest.json").is_file() else {}
    if not isinstance(manifest.get("sha256"), dict):
        raise ValueError(f"Expected {path} to be a checkpoint, but its manifest is missing or damaged.")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"Expected {path} to have format {FORMAT}, but got {manifest.get('format')!r}.")
    names = ("modules.safetensors", "state.json", "state.safetensors")
    if set(manifest["sha256"]) != set(names):
        raise ValueError(f"Expected the manifest of {path} to list {', '.join(names)}, but it lists other files.")
    for name in names:
        if not (path / name).is_file():
            raise ValueError(f"Expected {path} to hold {name}, but it is missing.")
        if sha256_of(path / name) != manifest["sha256"][name]:
            raise ValueError(f"Expected {path / name} to match its checksum, but it was cut off or altered.")
    tree, tensors = read_json(path / "state.json"), read_tensors(path / "state.safetensors")
    try:
        state, step = unpack(tree, tensors), int(manifest["step"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"Expected {path} to hold what `save_checkpoint` writes, but it does not: {error}.") from error
    return Checkpoint(step, read_tensors(path / "modules.safetensors"), state)


def load_latest(folder: Path | str) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None when there is none; a damaged one is passed over.

    Raises:
        ValueError: There are checkpoints, but every one of them is damaged.
    """
    errors = []
    put_aside = list(Path(folder).glob(f".{_PREFIX}*.old"))  # a kill came while its step was written again
    by_step = sorted([*put_aside, *checkpoint_folders(folder)], key=lambda path: path.name.strip(".").split(".")[0])
    for path in reversed(by_step):
        try:
            return load_checkpoint(path)
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError(f"Every checkpoint in {folder} is damaged: {errors[0]}")
    return None


def pack(value: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split nested state into a tree that JSON can hold and the tensors it refers to.

    >>> tree, tensors = pack({"step": 3, 0: (torch.ones(2), None)})
    >>> unpack(tree, tensors)
    {'step': 3, 0: (tensor([1., 1.]), None)}
    """
    tensors: dict[str, Tensor] = {}

    def visit(part: Any) -> Any:
        if isinstance(part, Tensor):
            name = str(len(tensors))
            tensors[name] = part.detach()
            return {"tensor": name}
        if isinstance(part, Mapping):
            return {"dict": [[visit(key), visit(entry)] for key, entry in part.items()]}
        if isinstance(part, tuple):
            return {"tuple": [visit(entry) for entry in part]}
        if isinstance(part, list):
            return [visit(entry) for entry in part]
        if isinstance(part, float) and not math.isfinite(part):
            return {"float": str(part)}
        if part is None or isinstance(part, bool | int | float | str):
            return part
        raise ValueError(f"A checkpoint holds nests of tensors, numbers and text, but got a {type(part).__name__}.")

    return visit(value), tensors


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nested state that `pack` split.

    Raises:
        ValueError: The tree has another form than `pack` gives.
    """
    if isinstance(tree, list):
        return [unpack(entry, tensors) for entry in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        kind, content = next(iter(tree.items()))
        if kind == "tensor" and content in tensors:
            return tensors[content]
        if kind == "dict" and isinstance(content, list):
            return {unpack(key, tensors): unpack(entry, tensors) for key, entry in content}
        if kind == "tuple" and isinstance(content, list):
            return tuple(unpack(entry, tensors) for entry in content)
        if kind == "float":
            return float(content)
    raise ValueError("Expected packed state, but the tree has another form.")


def named_state(modules: Mapping[str, torch.nn.Module]) -> dict[str, Tensor]:
    """The state dicts of several modules as one, `module.parameter` by name; tensors are not copied."""
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def load_named_state(modules: Mapping[str, torch.nn.Module], state: Mapping[str, Tensor]) -> None:
    """Put `named_state` back; modules that are spread over processes take their shares.

    Raises:
        ValueError: A tensor is missing, left over, or of another shape.
    """
    own = named_state(modules)
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise ValueError(
            f"Expected the checkpoint to fit the modules, but it lacks {missing[:3]} and has {unknown[:3]} besides."
        )
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise ValueError(
                f"Expected {key} in the checkpoint to have shape {tuple(value.shape)}, "
                f"but got {tuple(state[key].shape)}."
            )
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(spread_like(state[key], value))
