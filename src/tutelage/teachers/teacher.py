"""What every teacher is: something that gives signals for a batch, without a gradient."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from tutelage.batch import Batch
from tutelage.outputs import Outputs


@runtime_checkable
class Teacher(Protocol):
    """Gives its outputs for a batch: no gradient, evaluation mode, on the batch's device."""

    def __call__(self, batch: Batch) -> Outputs: ...
