"""From one, two or three parts to a checked `Data`: missing parts are cut from the training part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.data.samples import Data, Samples, Task
from tutelage.data.subsets import split, targets_of

FRACTIONS = (0.7, 0.1, 0.2)
"""Train, validation and test shares of data that come in one piece."""


def assemble(
    name: str,
    parts: Mapping[str, Samples],
    *,
    task: Task | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
    description: str = "",
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    extras: Mapping[str, Any] | None = None,
) -> Data:
    """A `Data` from the parts there are, checked.

    Args:
        name: What it is called in reports.
        parts: `train`, and optionally `validation` and `test`. With neither, all three are cut from `train` by
            `fractions`; when one is missing, it is cut from `train` in the proportion that `fractions` gives.
        task: What a target is; by default classification for integers and regression for reals.
        num_classes: Classes; by default one more than the largest label of the training part.
        class_names: A name a class.
        description: One line for the report.
        fractions: Train, validation and test shares (or, with `train` alone, sizes).
        seed: Fixes the cut.
        extras: Anything further that belongs to the data.

    Raises:
        ValueError: A label outside the classes, a class without a training sample, class names that do not match, or
            a target that does not fit the task.

    >>> from tutelage.data.arrays import ArraySamples
    >>> whole = ArraySamples(torch.zeros(20, 3), torch.arange(20) % 2)
    >>> data = assemble("toy", {"train": whole})
    >>> len(data.train), len(data.validation), len(data.test), data.num_classes
    (14, 2, 4, 2)
    """
    unknown = set(parts) - {"train", "validation", "test"}
    if unknown or "train" not in parts:
        raise ValueError(f"Expected the parts `train`, `validation` and `test` of {name}, but got {sorted(parts)}.")
    if len(fractions) != 3:
        raise ValueError(f"Expected argument `fractions` to hold 3 numbers, but got {len(fractions)}.")
    complete = dict(parts)
    if len(complete) == 1:
        complete["train"], complete["validation"], complete["test"] = split(parts["train"], fractions, seed)
    for missing, share in (("validation", fractions[1]), ("test", fractions[2])):
        if missing not in complete:
            share = share / (fractions[0] + share)
            complete["train"], complete[missing] = split(complete["train"], (1 - share, share), seed)
    if task is None:
        target = complete["train"].batch(torch.zeros(1, dtype=torch.int64)).target
        if target is None:
            raise ValueError(f"Expected {name} to have a target, but it has none.")
        task = "regression" if target.is_floating_point() else "classification"
    if task == "classification":
        num_classes = _check_classes(name, complete, num_classes)
    elif task == "regression" and num_classes is None:
        target = targets_of(complete["train"])
        num_classes = 1 if target.ndim == 1 else target.shape[-1]
    if class_names and len(class_names) != num_classes:
        raise ValueError(f"Expected a name for each of {num_classes} classes of {name}, but got {len(class_names)}.")
    return Data(
        name=name,
        train=complete["train"],
        validation=complete["validation"],
        test=complete["test"],
        task=task,
        num_classes=num_classes or 0,
        class_names=tuple(class_names),
        description=description,
        extras=dict(extras or {}),
    )


def _check_classes(name: str, parts: Mapping[str, Samples], num_classes: int | None) -> int:
    labels: dict[str, Tensor] = {}
    for part, samples in parts.items():
        target = targets_of(samples)
        if target.is_floating_point() or target.ndim != 1:
            raise ValueError(
                f"Expected the {part} target of {name} to hold one integer class a sample, "
                f"but got {target.dtype} of shape {tuple(target.shape)}."
            )
        labels[part] = torch.unique(target[target >= 0])
    if num_classes is None:
        num_classes = int(labels["train"].max()) + 1 if labels["train"].numel() else 0
        absent = num_classes - labels["train"].numel()
        if absent:
            there = set(labels["train"].tolist())
            first = next(label for label in range(num_classes) if label not in there)
            raise ValueError(
                f"Expected every class of {name} in its training part, but class {first} has no sample "
                f"({absent} of {num_classes} classes have none); pass num_classes={num_classes} if that is meant."
            )
        if num_classes < 2:
            raise ValueError(f"Expected at least 2 classes in {name}, but got {num_classes}.")
        for part, found in labels.items():
            new = [label for label in found.tolist() if label >= num_classes]
            if new:
                raise ValueError(
                    f"Expected the {part} part of {name} to have the classes of its training part "
                    f"(0 to {num_classes - 1}), but got class {new[0]}."
                )
    for part, found in labels.items():
        if found.numel() and int(found.max()) >= num_classes:
            raise ValueError(f"Expected the {part} labels of {name} in [0, {num_classes}), but got {int(found.max())}.")
    return num_classes
