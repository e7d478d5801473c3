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
        return self.value


@dataclass(frozen=True, slots=True)
class LinearRamp:
    """From `start` to `end` in a straight line over the first `epochs` epochs (or the whole run), then `end`.

    >>> LinearRamp(0.0, 1.0, epochs=10)(Progress(step=5, total_steps=100, steps_per_epoch=1))
    0.5
    """

    start: float
    end: float
    epochs: float | None = None

    def __call__(self, progress: Progress) -> float:
        done = progress.fraction if self.epochs is None else min(1.0, progress.epoch / self.epochs)
        return self.start + (self.end - self.start) * done


@dataclass(frozen=True, slots=True)
class CosineRamp:
    """From `start` to `end` along half a cosine over the first `epochs` epochs (or the whole run), then `end`."""

    start: float
    end: float
    epochs: float | None = None

    def __call__(self, progress: Progress) -> float:
        done = progress.fraction if self.epochs is None else min(1.0, progress.epoch / self.epochs)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True, slots=True)
class LinearTemperatureAnnealing:
    """SinKD's annealed temperature: from `start` in the first epoch down to `end` in the last one.

    T_e = start + (end − start) · e / (epochs − 1) for e = 0 … epochs − 1; called with the epoch.

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

    def __call__(self, epoch: float) -> float:
        """The temperature of an epoch (0-based); past the last one it stays at `end`."""
        done = min(1.0, max(0.0, epoch) / max(1, self.epochs - 1))
        return self.start + (self.end - self.start) * done
