"""Data by name: what comes with the toolkit, files and folders of the user's own, or a function that makes it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage._checks import nearest
from tutelage.data.adapters import as_samples
from tutelage.data.parts import assemble
from tutelage.data.samples import Data
from tutelage.files import errors_name
from tutelage.registry import LazyRegistry, resolve

BUILT_IN = LazyRegistry(
    {
        "arithmetic": "tutelage.data.arithmetic:arithmetic",
        "breast_cancer": "tutelage.data.toy_tables:breast_cancer",
        "crowds": "tutelage.data.crowds:crowds",
        "diabetes": "tutelage.data.toy_tables:diabetes",
        "digit_scenes": "tutelage.data.digit_scenes:digit_scenes",
        "digits": "tutelage.data.digits:digits",
        "glyphs": "tutelage.data.glyphs:glyphs",
        "iris": "tutelage.data.toy_tables:iris",
        "mnist1d": "tutelage.data.mnist1d:mnist1d",
        "topics_tags": "tutelage.data.topics_tags:topics_tags",
        "topics_text": "tutelage.data.topics_text:topics_text",
        "two_views": "tutelage.data.two_views:two_views",
        "wine": "tutelage.data.toy_tables:wine",
    }
)
"""Data that needs no network, by name."""

_TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
_PARTS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}


def load_data(name_or_path: str | Path, **options: Any) -> Data:
    """Data by name.

    Args:
        name_or_path: One of
            a name in `BUILT_IN` (`"digits"`);
            an `.npz` file (see `tutelage.data.archives.npz_data`);
            a `.csv`, `.jsonl` or `.parquet` file, or a folder with `train.csv` and so on: a table (see
            `tutelage.data.tables.table_data`) or, with the option `completion_column`, texts for a language model
            (see `tutelage.data.texts.text_data`);
            a folder of images by class (see `tutelage.data.images.image_folder_data`);
            a folder that `datasets.Dataset.save_to_disk` wrote (needs the package `datasets`);
            `package.module:factory`, a function that returns `Data`, samples, or what `as_samples` takes.
        **options: Passed on to what makes the data.

    Raises:
        ValueError: Neither a name nor a file, an option that does not exist, or data that do not fit; one line says
            which.

    >>> load_data("digits", flat=True).num_classes
    10
    >>> load_data("digitz")
    Traceback (most recent call last):
    ValueError: Expected the data to be one of 'arithmetic', ..., but got 'digitz' (did you mean 'digits'?).
    """
    name = str(name_or_path)
    if not name:
        raise ValueError("Expected the data to be named, but got an empty name.")
    if name in BUILT_IN:
        return _data(name, _call(name, BUILT_IN[name], options))
    path = Path(name_or_path).expanduser()
    if path.exists():
        with errors_name(path):
            return _from_path(path, options)
    if ":" in name and not Path(name).is_absolute():
        return _data(name, _call(name, resolve(name, BUILT_IN, "data"), options))
    if path.suffix or "/" in name or "\\" in name or isinstance(name_or_path, Path):
        siblings = [str(path.with_name(one.name)) for one in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ValueError(f"Expected data at {path}, but there is no such file or folder{nearest(path, siblings)}.")
    listed = ", ".join(map(repr, sorted(BUILT_IN)))
    raise ValueError(
        f"Expected the data to be one of {listed}, a file, a folder or `package.module:factory`, "
        f"but got {name!r}{nearest(name, BUILT_IN)}."
    )


def _from_path(path: Path, options: dict[str, Any]) -> Data:
    if path.is_file():
        if path.suffix == ".npz":
            from tutelage.data.archives import npz_data

            return _data(path.stem, _call(str(path), npz_data, {"path": path, **options}))
        if path.suffix in _TABLE_SUFFIXES:
            return _table(path.stem, {"train": read_table(path, as_text="completion_column" in options)}, options)
        raise ValueError(
            f"Expected a data file to end in '.npz', '.csv', '.jsonl' or '.parquet', but got {path.name!r} "
            "(pickles and archives of tensors are never read)."
        )
    if any((path / mark).is_file() for mark in ("dataset_info.json", "dataset_dict.json", "state.json")):
        return _hugging_face(path, options)
    tables = {
        _PARTS[file.stem.lower()]: file
        for file in sorted(path.iterdir())
        if file.suffix in _TABLE_SUFFIXES and file.stem.lower() in _PARTS
    }
    if "train" in tables:
        as_text = "completion_column" in options
        frames = {part: read_table(file, as_text=as_text) for part, file in tables.items()}
        return _table(path.name, frames, options)
    from tutelage.data.images import image_folder_data

    return _data(path.name, _call(str(path), image_folder_data, {"root": path, **options}))


def read_table(path: Path, *, as_text: bool = False) -> Any:
    """A pandas frame from a `.csv`, `.jsonl` or `.parquet` file; `ValueError` names the file when it cannot be read."""
    import pandas

    try:
        if path.suffix == ".jsonl":
            return pandas.read_json(path, lines=True, dtype=False)
        if path.suffix == ".parquet":
            return pandas.read_parquet(path)
        return pandas.read_csv(path, dtype=str, keep_default_na=False) if as_text else pandas.read_csv(path)
    except (ValueError, OSError, LookupError, TypeError, OverflowError, NotImplementedError, MemoryError) as error:
        cause = " ".join(str(error).split()).rstrip(".")[:500] or type(error).__name__
        raise ValueError(f"Expected {path} to be a {path.suffix[1:]} table, but it cannot be read: {cause}.") from error


def _table(name: str, frames: Mapping[str, Any], options: dict[str, Any]) -> Data:
    from tutelage.data.tables import table_data
    from tutelage.data.texts import text_data

    if "completion_column" in options:
        return _data(name, _call(name, text_data, {"name": name, "frames": frames, **options}))
    if "target_column" not in options:
        columns = ", ".join(map(repr, list(frames["train"].columns)[:12]))
        raise ValueError(
            f"Expected the option `target_column` for the table {name!r}: one of {columns}; or, for a language model, "
            "`completion_column`."
        )
    return _data(name, _call(name, table_data, {"name": name, "frames": frames, **options}))


def _hugging_face(path: Path, options: dict[str, Any]) -> Data:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"Reading {path} needs the package `datasets`: pip install 'tutelage[language]'") from error
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # the library has no kind of its own for damage
        cause = " ".join(str(error).split()).rstrip(".")[:500] or type(error).__name__
        raise ValueError(f"Expected {path} to be a saved Hugging Face data set, but it is damaged: {cause}.") from error
    parts = loaded if isinstance(loaded, Mapping) else {"train": loaded}
    parts = {_PARTS[name]: part for name, part in parts.items() if name in _PARTS}
    if "train" not in parts:
        raise ValueError(f"Expected {path} to hold a part called 'train', but it holds {sorted(loaded)}.")
    if "target_column" in options:
        return _table(path.name, {name: part.to_pandas() for name, part in parts.items()}, options)
    names = next((one.names for one in parts["train"].features.values() if type(one).__name__ == "ClassLabel"), ())
    samples = {name: as_samples(part) for name, part in parts.items()}
    return _data(
        path.name, _call(path.name, assemble, {"name": path.name, "parts": samples, "class_names": names, **options})
    )


def _call(name: str, make: Any, options: dict[str, Any]) -> Any:
    """Call a maker of data with options that it has; a wrong one is named."""
    if not callable(make):
        raise ValueError(f"Expected the data {name!r} to be a function, but got {type(make).__name__}.")
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return make(**options)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            if option not in parameters:
                known = [one for one in parameters if one not in ("name", "frames", "path", "root", "parts")]
                listed = ", ".join(f"`{one}`" for one in known) or "none"
                raise ValueError(
                    f"Expected the options of the data {name!r} to be among {listed}, "
                    f"but got `{option}`{nearest(option, known)}."
                )
    try:
        return make(**options)
    except TypeError as error:
        if not getattr(make, "__module__", "").startswith("tutelage.data"):
            raise  # a fault of the user's own function, best read where it happened
        given = ", ".join(f"{option}={value!r}" for option, value in options.items() if option != "frames")
        raise ValueError(
            f"Expected options of the right types for the data {name!r}, but got {given}: {error}."
        ) from error


def _data(name: str, made: Any) -> Data:
    return made if isinstance(made, Data) else assemble(name, {"train": as_samples(made)})
