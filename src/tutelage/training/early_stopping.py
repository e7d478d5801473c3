"""The best evaluation so far: when to stop, and which weights to end with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tutelage.training.checkpoints import load_named_state, named_state
from tutelage.training.settings import EarlyStopping, TrainingSettings


class BestSoFar:
    """Follows the metrics that the settings name for early stopping and for keeping the best weights."""

    def __init__(self, settings: TrainingSettings) -> None:
        self._stopping = settings.early_stopping
        self._keeping = EarlyStopping(metric=settings.keep_best) if settings.keep_best else None
        self.evaluations_without_improvement = 0
        self.stopped = False  # by a monitor
        self._stopping_best: float | None = None
        self._keeping_best: float | None = None
        self._weights: dict[str, Tensor] = {}

    @property
    def exhausted(self) -> bool:
        """Whether the run has gone on for longer than its patience without becoming better, or was stopped."""
        waited = self._stopping is not None and self.evaluations_without_improvement >= self._stopping.patience
        return waited or self.stopped

    def see(self, record: Mapping[str, Any], modules: Mapping[str, nn.Module]) -> None:
        """Take in a record; one without the metric (no evaluation was due) changes nothing.

        Raises:
            ValueError: An evaluation has no such metric.
        """
        evaluated = any(name.startswith("validation_") for name in record)
        if self._stopping is not None and (value := self._read(self._stopping, record, evaluated)) is not None:
            if self._better(self._stopping, value, self._stopping_best):
                self._stopping_best, self.evaluations_without_improvement = value, 0
            else:
                self.evaluations_without_improvement += 1
        value = None if self._keeping is None else self._read(self._keeping, record, evaluated)
        if self._keeping is not None and value is not None and self._better(self._keeping, value, self._keeping_best):
            self._keeping_best = value
            self._weights = {name: tensor.detach().clone() for name, tensor in named_state(modules).items()}

    def put_back(self, modules: Mapping[str, nn.Module]) -> None:
        """End with the best evaluation's weights, when the settings ask for it."""
        if self._weights:
            load_named_state(modules, self._weights)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of this."""
        return {
            "without_improvement": self.evaluations_without_improvement,
            "stopped": self.stopped,
            "stopping_best": self._stopping_best,
            "keeping_best": self._keeping_best,
            "weights": self._weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put `state_dict` back."""
        self.evaluations_without_improvement = state["without_improvement"]
        self.stopped = bool(state.get("stopped", False))
        self._stopping_best, self._keeping_best = state["stopping_best"], state["keeping_best"]
        self._weights = dict(state["weights"])

    @staticmethod
    def _read(wanted: EarlyStopping, record: Mapping[str, Any], evaluated: bool) -> float | None:
        if wanted.metric in record:
            return float(record[wanted.metric])
        if evaluated:
            known = ", ".join(f"`{name}`" for name in record if name.startswith(("validation_", "loss")))
            raise ValueError(f"Expected the metric to watch to be one of {known}, but got `{wanted.metric}`.")
        return None

    @staticmethod
    def _better(wanted: EarlyStopping, value: float, best: float | None) -> bool:
        if best is None or math.isnan(best):
            return True
        gain = best - value if wanted.lower_is_better else value - best
        return gain > wanted.minimum_change
