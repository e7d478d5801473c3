"""Numbers that change during a run: weights and temperatures as functions of its progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tutelage._checks import check_at_least, check_positive


@dataclass(frozen=True, slots=True)
class Progress:
    """A step's place in a run.

    Attributes:
        step: Optimiser steps taken so far.
        total_steps: Optimiser steps of the whole run.
        steps_per_epoch: Optimiser steps of one epoch.

    >>> Progress(step=5, total_steps=20, steps_per_epoch=10).epoch
    0.5
    """

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> float:
        """Epochs done so far, with fractions."""
        return self.step / max(1, self.steps_per_epoch)

    @property
    def fraction(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return min(1.0, self.step / max(1, self.total_steps))


Schedule = Callable[[Progress], float]
"""A number as a function of the run's progress."""


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value all through the run."""

    value: float

    def __call__(self, progress: Progress) -> float:
        """The value."""
        return self.value


@dataclass(frozen=True, slots=True)
class LinearRamp:
    """From `start` in a straight line to `end`, which is reached after `epochs` epochs (None: at the end of the run).

    Counted in whole epochs from 0, as papers do: `start` all through the first epoch, `end` from epoch `epochs` on.
    With `epochs=None` the value follows the share of the run that is done, step by step. Can be called with a
    `Progress`, or with an epoch when `epochs` is given.

    >>> [LinearRamp(epochs=4)(epoch) for epoch in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    >>> LinearRamp(epochs=None, start=1.0, end=0.0)(Progress(step=25, total_steps=100, steps_per_epoch=10))
    0.75
    """

    epochs: float | None = 20
    start: float = 0.0
    end: float = 1.0

    def __call__(self, progress: Progress | float) -> float:
        """The value at this place in the run, or in this epoch."""
        return self.start + (self.end - self.start) * _done(progress, self.epochs)


@dataclass(frozen=True, slots=True)
class CosineRamp:
    """From `start` along half a cosine to `end`, which is reached after `epochs` epochs (None: at the end of the run).

    >>> round(CosineRamp(epochs=None, start=1.0, end=0.0)(Progress(step=50, total_steps=100, steps_per_epoch=10)), 6)
    0.5
    """

    epochs: float | None = None
    start: float = 0.0
    end: float = 1.0

    def __call__(self, progress: Progress | float) -> float:
        """The value at this place in the run, or in this epoch."""
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * _done(progress, self.epochs))) / 2


def _done(progress: Progress | float, epochs: float | None) -> float:
    if epochs is None:
        if not isinstance(progress, Progress):
            raise ValueError(
                "Expected a `Progress`: a ramp over the whole run (`epochs=None`) can't tell from an epoch."
            )
        return progress.fraction
    check_positive(epochs, "epochs")
    epoch = progress.epoch if isinstance(progress, Progress) else progress
    return min(1.0, math.floor(epoch + 1e-9) / epochs)


@dataclass(frozen=True, slots=True)
class LinearTemperatureAnnealing:
    """SinKD's annealed temperature: from `start` in the first epoch down to `end` in the last one.

    T_e = start + (end − start) · e / (epochs − 1) for e = 0 … epochs − 1; called with the epoch (or a `Progress`).

    >>> [LinearTemperatureAnnealing(4.0, 4)(epoch) for epoch in range(4)]
    [4.0, 3.0, 2.0, 1.0]
    """

    start: float
    epochs: int
    end: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self.start, "start")
        check_positive(self.end, "end")
        check_at_least(self.epochs, "epochs", 1)

    def __call__(self, progress: Progress | float) -> float:
        """The temperature of an epoch (0-based); past the last one it stays at `end`."""
        epoch = math.floor(progress.epoch + 1e-9) if isinstance(progress, Progress) else progress
        done = min(1.0, max(0.0, epoch) / max(1, self.epochs - 1))
        return self.start + (self.end - self.start) * done
