"""What training and assessment read from: numbered samples that give a batch for any rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from tutelage.batch import Batch

Task = Literal["classification", "regression", "causal_lm", "segmentation"]
"""What a target is: one class a sample, one real number (or vector) a sample, the next token at every position, or a
class for every pixel (`[height, width]`, logits with classes last)."""


@runtime_checkable
class Samples(Protocol):
    """Numbered samples.

    `batch(rows)` takes int64 positions `[batch]` in [0, len) and gives a `Batch` whose `index` holds each sample's
    stable index (unique in the data set; kept by subsets, so it need not equal the row).
    """

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor) -> Batch:
        """The samples in the given rows."""
        ...

    def fingerprint(self) -> str:
        """A hash of the content: the same for the same samples, on every machine."""
        ...


@dataclass(frozen=True, slots=True)
class Data:
    """A data set in three parts, with what is known about it.

    Attributes:
        name: What it is called in reports.
        train: What students learn from.
        validation: What choices are made on (early stopping, the best arm).
        test: What results are reported on, and nothing else.
        task: What a target is.
        num_classes: Classes, or vocabulary size for `causal_lm`; output values for regression.
        class_names: A name a class, in class order (empty when there are none).
        description: One line for the report.
        extras: Anything further that belongs to the data (a tokenizer, a vocabulary).
    """

    name: str
    train: Samples
    validation: Samples
    test: Samples
    task: Task = "classification"
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    description: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)
