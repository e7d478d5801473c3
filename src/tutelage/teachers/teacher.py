"""What every teacher is: something that gives signals for a batch, without a gradient."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import nn

from tutelage.batch import Batch
from tutelage.outputs import Outputs


@runtime_checkable
class Teacher(Protocol):
    """Gives its outputs for a batch: no gradient, evaluation mode, on the batch's device."""

    def __call__(self, batch: Batch) -> Outputs:
        """What the teacher says about a batch."""
        ...


class TeacherModule(nn.Module):
    """A teacher made of modules: it moves between devices with `.to`, and stays frozen and in evaluation mode.

    The type tells teachers from plain networks: a plain `nn.Module` given as a teacher is wrapped in `FrozenTeacher`.
    """

    def train(self, mode: bool = True) -> TeacherModule:
        """Keep evaluation mode, whatever is asked."""
        return super().train(False)

    def __call__(self, batch: Batch) -> Outputs:
        """The teacher's outputs for a batch."""
        outputs: Outputs = super().__call__(batch)
        return outputs

    def forward(self, batch: Batch) -> Any:
        """What a subclass defines."""
        raise NotImplementedError(f"{type(self).__name__} must define `forward`.")
