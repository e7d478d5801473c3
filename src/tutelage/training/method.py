"""What a method is: which modules train, and what one step does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.objectives.schedules import Progress


@runtime_checkable
class Method(Protocol):
    """One way to teach.

    The trainer moves batches to the device, calls `step`, minimises the sum of the losses, and knows nothing else about
    what is taught. Every entry of `trainable()` gets an optimiser of its own, so networks that learn together share
    none of its state.
    """

    def trainable(self) -> dict[str, nn.Module]:
        """The modules that learn, by name: what the optimisers see and a checkpoint holds."""
        ...

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses of one batch, each a mean over its samples; their sum is minimised."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """Something with a state that a checkpoint must hold (an optimiser, a table), as PyTorch's own objects have it."""

    def state_dict(self) -> dict[str, Any]:
        """The state, as nested dicts, lists, numbers, text and tensors."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Put the state back."""
        ...


class BaseMethod:
    """The hooks a method may have besides `trainable` and `step`; every one does nothing until it is overridden.

    Attributes:
        shardable: Whether what learns may be spread over processes (`sharding: full`): a step then calls modules as
            often on every process, takes no gradient itself, and keeps no reference to single parameters.
    """

    shardable: ClassVar[bool] = False

    def setup(self, batch: Batch) -> None:
        """Make what depends on the models' shapes, from one first batch; called once, before optimisers are made."""

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Take statistics of all training data, before the first step of a run.

        A resumed run does not call it: what it finds belongs in what a checkpoint holds.

        Args:
            batches: The training data in order, on the device; they can be gone through any number of times.
        """

    def modules(self) -> dict[str, nn.Module]:
        """Further modules to move to the device that neither learn nor belong in a checkpoint (a frozen teacher)."""
        return {}

    def advance(self, progress: Progress) -> None:
        """Follow the run: called before every optimiser step."""

    def after_step(self, progress: Progress) -> None:
        """Called after every optimiser step (a moving average is brought up to date here)."""

    def figures(self) -> dict[str, float]:
        """What else to log with the losses, by name; asked at every record."""
        return {}

    def stateful(self) -> dict[str, Stateful]:
        """What else a checkpoint must hold to go on with the same bits, by name."""
        return {}
