"""Watches whether a run keeps to the power law that its first part follows."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tutelage._checks import check_at_least, check_non_negative, check_positive
from tutelage.scaling import PowerLawPlusConstant, fit_power_law
from tutelage.training.monitors import Monitor, Record

_FEWEST = 4  # points in the window, of which the fit takes two (three with a constant)


class PowerLawMonitor(Monitor):
    """Warns when a metric departs upwards from its power law, and can stop the run there.

    While a student learns what its data can teach, its distance to the teacher on held-out data falls like a power of
    the steps. With a fixed set of responses it leaves that line when the student begins to learn these responses by
    heart; that is the time at which more imitation makes it worse (teacher hacking), and it shows without knowing what
    the teacher stands for.

    The law is fitted once, to the evaluations in `fit_window`, on logarithms. After the window an evaluation is off
    when it lies more than `threshold` standard deviations of the fit's residuals above the law; `patience` of them in a
    row fire. A metric that does not fall over its window is compared with its mean there.

    It adds to records after the window: `power_law/expected`, `power_law/deviation` (in standard deviations), and
    `power_law/fired`.

    Args:
        fit_window: Shares of the run between which the law is fitted; it begins after the warm-up.
        threshold: Standard deviations that are still regular.
        patience: Evaluations in a row that must be off.
        metric: What is watched, as logged: positive, and better when lower.
        constant: Fit a floor too, for a metric that ends in one; else a pure power law.
        least_deviation: The smallest standard deviation of the logarithm that is believed, so that the rounding of a
            smooth curve does not fire.
        stop: End the run when it fires.

    Attributes:
        fired_at: The step at which it fired; None as long as it did not.
        law: What was fitted; None before the window ends, and for a metric that did not fall.

    Raises:
        ValueError: A window that is not two rising shares in [0, 1), or a number out of its range.

    Source: "On Teacher Hacking in Language Model Distillation", ICML 2025, shows the departure by eye; the rule is
    ours.

    >>> monitor = PowerLawMonitor(patience=2)
    >>> curve = [10 * step**-0.5 if step <= 60 else 2.0 for step in range(1, 101)]
    >>> any(monitor.observe(step, value, total_steps=100) for step, value in enumerate(curve, start=1))
    True
    >>> monitor.fired_at
    62
    """

    def __init__(
        self,
        fit_window: Sequence[float] = (0.1, 0.5),
        threshold: float = 3.0,
        patience: int = 3,
        *,
        metric: str = "validation_loss",
        constant: bool = False,
        least_deviation: float = 5e-3,
        stop: bool = False,
    ) -> None:
        low, high = fit_window if len(fit_window) == 2 else (1.0, 0.0)
        if not 0 <= low < high < 1:
            raise ValueError(f"Expected argument `fit_window` to be two rising shares in [0, 1), but got {fit_window}.")
        check_non_negative(threshold, "threshold")
        check_at_least(patience, "patience", 1)
        check_positive(least_deviation, "least_deviation")
        self.fit_window = (low, high)
        self.threshold = threshold
        self.patience = patience
        self.metric = metric
        self.constant = constant
        self.least_deviation = least_deviation
        self.stop = stop
        self._trainer: Any = None
        self.fired_at: int | None = None
        self.law: PowerLawPlusConstant | None = None
        self._window: list[tuple[int, float]] = []
        self._fitted = False
        self._level = self._spread = math.nan
        self._deviation: float | None = None
        self._off = 0

    def on_start(self, trainer: Any) -> None:
        """Begin, and take in what a resumed run has logged so far."""
        self._trainer = trainer
        self._forget()
        for record in trainer.history:
            if self.metric in record:
                self.observe(record["step"], record[self.metric], total_steps=trainer.total_steps)

    def on_record(self, record: Record) -> None:
        """Look at the metric; warn on stderr when it fires, once."""
        if self.metric not in record:
            return
        fired = self.observe(record["step"], record[self.metric], total_steps=self._trainer.total_steps)
        if self._deviation is not None:
            expected = self._expected(record["step"])
            record["power_law/expected"] = expected
            record["power_law/deviation"] = self._deviation
            record["power_law/fired"] = float(self.fired_at is not None)
        if fired:
            print(
                f"Step {record['step']}: `{self.metric}` is {record[self.metric]:.4g}, where the power law of the run "
                f"so far expects {expected:.4g}: more of this data may make the student worse. Fresh or more diverse "
                f"responses help{'; the run stops here' if self.stop else ', and so does stopping'}.",
                file=sys.stderr,
            )
            if self.stop:
                self._trainer.stop()

    def observe(self, step: int, value: float, *, total_steps: int) -> bool:
        """Take in one evaluation; True at the one at which the monitor fires.

        Args:
            step: Optimiser steps so far.
            value: The metric.
            total_steps: Optimiser steps of the whole run.

        Raises:
            ValueError: A value that is not positive and finite.
        """
        check_positive(value, self.metric)
        low, high = (share * total_steps for share in self.fit_window)
        if step <= high:
            if step >= max(low, 1):
                self._window.append((step, value))
            return False
        if not self._fitted:
            self._fit()
        if len(self._window) < _FEWEST:
            return False
        self._deviation = (math.log(value) - math.log(self._expected(step))) / self._spread
        self._off = self._off + 1 if self._deviation > self.threshold else 0
        if self._off < self.patience or self.fired_at is not None:
            return False
        self.fired_at = step
        return True

    def _forget(self) -> None:
        self.fired_at = self.law = self._deviation = None
        self._window, self._fitted, self._off = [], False, 0

    def _fit(self) -> None:
        """Law, or level, and the residuals' standard deviation."""
        self._fitted = True
        if len(self._window) < _FEWEST:
            return
        steps, values = np.array(self._window, dtype=np.float64).T
        try:
            law = fit_power_law(steps, values, constant=self.constant).law
            assert isinstance(law, PowerLawPlusConstant)
            self.law = law
            residuals = np.log(values) - np.log(law.predict(steps))
        except ValueError:  # it does not fall
            self._level = float(np.exp(np.log(values).mean()))
            line = np.polyfit(np.log(steps), np.log(values), 1)
            residuals = np.log(values) - np.polyval(line, np.log(steps))
        freedom = len(values) - (3 if self.constant else 2)
        self._spread = max(math.sqrt(float(residuals @ residuals) / freedom), self.least_deviation)

    def _expected(self, step: int) -> float:
        return self._level if self.law is None else float(self.law.predict(step))
