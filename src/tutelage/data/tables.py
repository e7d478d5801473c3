"""Tables as samples: columns standardised and one-hot by the training part alone, or a text column as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from tutelage._checks import check_at_least, check_option, nearest
from tutelage.data.arrays import ArraySamples
from tutelage.data.characters import ByteTokenizer, encode_text, pad_sequences
from tutelage.data.parts import FRACTIONS, assemble
from tutelage.data.samples import Data, Task
from tutelage.data.subsets import split_rows

_MOST_CATEGORIES = 256  # a text column with more values than this is an identifier or prose, not a category


def table_data(
    name: str,
    frames: Mapping[str, Any],
    *,
    target_column: str,
    text_column: str | None = None,
    feature_columns: Sequence[str] | None = None,
    task: Task | None = None,
    missing: Literal["error", "mean", "drop"] = "error",
    tokenizer: Any = None,
    max_length: int = 128,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    class_names: Sequence[str] = (),
    description: str = "",
) -> Data:
    """Data from data frames.

    Number columns are standardised by the mean and standard deviation of the training part (a constant column becomes
    0); text, category and boolean columns become one column a training category, and a category unseen in training is
    all zeros. With a text column, inputs are `input_ids` and `attention_mask` `[rows, max_length at most]`.

    Classes are the sorted values of the training target, numbered from 0. A regression target is standardised; its
    `target_mean` and `target_std` are in the extras.

    Args:
        name: What the data is called.
        frames: A pandas frame a part (`train`, and optionally `validation` and `test`).
        target_column: The column to predict.
        text_column: The one column that is read, as text.
        feature_columns: The columns that are read; all but the target by default.
        task: Classification for a target of integers, text or booleans, regression for reals, by default.
        missing: What a missing value does: `"error"`; `"mean"` (the training mean, or no category); `"drop"` (the row).
        tokenizer: Of the text column: one from here or from `transformers`; bytes by default.
        max_length: Tokens of a text that are kept, start and end included.
        fractions: Train, validation and test shares, where parts are missing.
        seed: Fixes the cut.
        class_names: Names in place of the target's values.
        description: One line for the report.

    Raises:
        ValueError: An unknown column, a missing value, a class that training lacks, or a text column with too many
            values for a category.

    >>> import pandas
    >>> frame = pandas.DataFrame({"size": [1.0, 2.0] * 10, "colour": ["red", "blue"] * 10, "kind": ["a", "b"] * 10})
    >>> data = table_data("toy", {"train": frame}, target_column="kind")
    >>> data.train.batch(torch.tensor([0])).inputs.shape, data.class_names
    (torch.Size([1, 3]), ('a', 'b'))
    """
    check_option(missing, "missing", ("error", "mean", "drop"))
    for part, frame in frames.items():
        if not len(frame):
            raise ValueError(f"Expected {name} to hold at least one row in its {part} part, but it is empty.")
    columns = _columns(name, frames, target_column, text_column, feature_columns)
    frames = {part: _complete(name, part, frame, target_column, columns, missing) for part, frame in frames.items()}
    frames = _cut(frames, target_column, task, fractions, seed)
    task = task or _task_of(frames["train"][target_column])
    extras: dict[str, Any] = {}
    if task == "regression":
        targets, extras = _real_targets(name, frames, target_column)
        num_classes: int | None = 1
    else:
        targets, values = _class_targets(name, frames, target_column)
        class_names, num_classes = class_names or [str(value) for value in values], len(values)
    if text_column is not None:
        extras["tokenizer"] = tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
        inputs: dict[str, Any] = {
            part: _tokens(frame[text_column].fillna("").astype(str).tolist(), tokenizer, max_length)
            for part, frame in frames.items()
        }
    else:
        inputs, extras["feature_names"] = _features(name, frames, columns)
    parts, start = {}, 0
    for part, frame in frames.items():
        index = torch.arange(start, start + len(frame))
        parts[part] = ArraySamples(inputs[part], targets[part], index=index)
        start += len(frame)
    return assemble(
        name,
        parts,
        task=task,
        num_classes=num_classes,
        class_names=class_names,
        description=description or f"{name}: {start} rows",
        fractions=fractions,
        seed=seed,
        extras=extras,
    )


def _columns(
    name: str, frames: Mapping[str, Any], target: str, text: str | None, features: Sequence[str] | None
) -> list[str]:
    present = list(frames["train"].columns)
    chosen = [text] if text is not None else list(features) if features is not None else None
    for part, frame in frames.items():
        for column in [target, *(chosen or present)]:
            if column not in frame.columns:
                listed = ", ".join(map(repr, list(frame.columns)[:12]))
                raise ValueError(
                    f"Expected the {part} part of {name} to have the column {column!r}, "
                    f"but it has {listed}{nearest(column, frame.columns)}."
                )
    columns = [column for column in chosen or present if column != target]
    if not columns:
        raise ValueError(f"Expected {name} to have a column beside the target {target!r}, but it has none.")
    return columns


def _complete(name: str, part: str, frame: Any, target: str, columns: Sequence[str], missing: str) -> Any:
    frame = frame[[*columns, target]]
    absent = frame.isna()
    if missing == "drop":
        frame = frame[~absent.any(axis=1)]
        if not len(frame):
            raise ValueError(f"Expected a row without missing values in the {part} part of {name}, but there is none.")
    for column in [target] if missing != "error" else [*columns, target]:
        count = int(frame[column].isna().sum())
        if count:
            cure = "" if column == target else " (or pass missing='mean' or missing='drop')"
            raise ValueError(
                f"Expected no missing values in the {part} part of {name}, but column {column!r} has {count}{cure}."
            )
    return frame.reset_index(drop=True)


def _task_of(target: Any) -> Task:
    return "regression" if target.dtype.kind == "f" else "classification"


def _cut(
    frames: Mapping[str, Any], target: str, task: Task | None, fractions: Sequence[float], seed: int
) -> dict[str, Any]:
    """All three parts, before anything is computed from the training part."""
    done = dict(frames)

    def cut(shares: Sequence[float]) -> list[Any]:
        whole = done["train"]
        classes = None
        if (task or _task_of(whole[target])) == "classification":
            classes = torch.from_numpy(np.unique(whole[target].astype(str), return_inverse=True)[1])
        rows = split_rows(len(whole), shares, seed=seed, target=classes)
        return [whole.iloc[part.numpy()].reset_index(drop=True) for part in rows]

    if len(fractions) != 3:
        raise ValueError(f"Expected argument `fractions` to hold 3 numbers, but got {len(fractions)}.")
    if set(done) == {"train"}:
        done["train"], done["validation"], done["test"] = cut(fractions)
    for part, share in (("validation", fractions[1]), ("test", fractions[2])):
        if part not in done:
            share = share / (fractions[0] + share)
            done["train"], done[part] = cut((1 - share, share))
    return done


def _class_targets(name: str, frames: Mapping[str, Any], column: str) -> tuple[dict[str, np.ndarray], list[Any]]:
    values = sorted(frames["train"][column].unique().tolist(), key=lambda value: (str(type(value)), value))
    numbers = {value: number for number, value in enumerate(values)}
    if len(values) < 2:
        raise ValueError(f"Expected at least 2 classes in column {column!r} of {name}, but got {values[0]!r} only.")
    targets = {}
    for part, frame in frames.items():
        labels = frame[column].map(numbers)
        if labels.isna().any():
            new = frame[column][labels.isna()].iloc[0]
            raise ValueError(
                f"Expected the {part} part of {name} to have the classes of its training part, "
                f"but column {column!r} holds {new!r}."
            )
        targets[part] = labels.to_numpy(dtype=np.int64)
    return targets, values


def _real_targets(name: str, frames: Mapping[str, Any], column: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    import pandas

    if not all(pandas.api.types.is_numeric_dtype(frame[column]) for frame in frames.values()):
        raise ValueError(f"Expected column {column!r} of {name} to hold numbers for regression, but it does not.")
    values = {part: frame[column].to_numpy(dtype=np.float64) for part, frame in frames.items()}
    mean, deviation = float(values["train"].mean()), float(values["train"].std()) or 1.0
    scaled = {part: ((value - mean) / deviation).astype(np.float32) for part, value in values.items()}
    return scaled, {"target_mean": mean, "target_std": deviation}


def _features(
    name: str, frames: Mapping[str, Any], columns: Sequence[str]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    import pandas

    blocks: dict[str, list[np.ndarray]] = {part: [] for part in frames}
    names: list[str] = []
    train = frames["train"]
    for column in columns:
        kind = train[column].dtype
        if pandas.api.types.is_numeric_dtype(kind) and not pandas.api.types.is_bool_dtype(kind):
            values = {part: _numbers(name, part, frame[column]) for part, frame in frames.items()}
            mean, deviation = np.nanmean(values["train"]), np.nanstd(values["train"])
            if not np.isfinite(mean):
                raise ValueError(f"Expected column {column!r} of {name} to hold finite numbers, but it does not.")
            scale = deviation if deviation > 1e-12 * max(1.0, abs(mean)) else np.inf
            for part, value in values.items():
                blocks[part].append(np.nan_to_num((value - mean) / scale)[:, None])
            names.append(column)
            continue
        first = train[column].dropna().iloc[:1].tolist()
        if first and not isinstance(first[0], (str, bool)):
            raise ValueError(
                f"Expected column {column!r} of {name} to hold numbers or categories, but got "
                f"{type(first[0]).__name__}; encode it, or name the columns to read with `feature_columns`."
            )
        categories = sorted(train[column].dropna().astype(str).unique())
        if len(categories) > _MOST_CATEGORIES:
            raise ValueError(
                f"Expected column {column!r} of {name} to hold at most {_MOST_CATEGORIES} categories, but got "
                f"{len(categories)}; name the columns to read with `feature_columns`, or this one with `text_column`."
            )
        for part, frame in frames.items():
            written = frame[column].astype(str).to_numpy(dtype=object)
            blocks[part].append(written[:, None] == np.array(categories, dtype=object)[None])
        names += [f"{column}={category}" for category in categories]
    return {part: np.concatenate(block, axis=1).astype(np.float32) for part, block in blocks.items()}, tuple(names)


def _numbers(name: str, part: str, column: Any) -> np.ndarray:
    try:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected column {column.name!r} of {name} to hold numbers in its {part} part as in training, "
            f"but it does not: {error}."
        ) from error
    if np.isinf(values).any():
        raise ValueError(f"Expected column {column.name!r} of {name} to be finite, but its {part} part is not.")
    return np.asarray(values)


def _tokens(texts: Sequence[str], tokenizer: Any, max_length: int) -> dict[str, torch.Tensor]:
    check_at_least(max_length, "max_length", 3)
    start = _first_id(tokenizer, "bos_token_id", "cls_token_id")
    end = _first_id(tokenizer, "eos_token_id", "sep_token_id")
    room = max_length - len(start) - len(end)
    sequences = [[*start, *encode_text(tokenizer, text)[:room], *end] for text in texts]
    sizes = torch.tensor([len(sequence) for sequence in sequences])
    ids = pad_sequences(sequences, tokenizer.pad_token_id or 0)
    return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < sizes[:, None]).long()}


def _first_id(tokenizer: Any, *names: str) -> list[int]:
    found = [getattr(tokenizer, name, None) for name in names]
    return [number for number in found if number is not None][:1]
