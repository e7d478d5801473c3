"""Where the ratios of a bilevel run stand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutelage.data.samples import Samples
from tutelage.training.bilevel import BilevelDistiller
from tutelage.training.monitors import Monitor, Record


class RatioMonitor(Monitor):
    """Logs where the ratios of a `BilevelDistiller` stand, and how many the controller has driven to an end.

    Adds to every record, over the given samples: `ratio/mean`, the quantiles `ratio/q10`, `ratio/q50` and `ratio/q90`,
    and `ratio/saturated`, the share below 0.05 or above 0.95.

    Args:
        method: The method that runs.
        samples: Whose ratios are looked at.
        average_after: The epoch after which `average` begins.
        batch_size: Samples a call.

    Attributes:
        average: `[samples]`, the mean ratio of each sample over the records after epoch `average_after`; None before.

    >>> from torch import nn
    >>> from tutelage.data import ArraySamples
    >>> from tutelage.objectives import FusionRatioController
    >>> samples = ArraySamples(torch.zeros(4, 2), torch.arange(4) % 2)
    >>> method = BilevelDistiller(
    ...     nn.Linear(2, 2), nn.Linear(2, 2), FusionRatioController(18), None, step_size=0.1, class_means=torch.eye(2)
    ... )
    >>> RatioMonitor(method, samples).on_record(record := {"epoch": 1})
    >>> sorted(record)
    ['epoch', 'ratio/mean', 'ratio/q10', 'ratio/q50', 'ratio/q90', 'ratio/saturated']
    """

    def __init__(
        self, method: BilevelDistiller, samples: Samples, *, average_after: float = 0.0, batch_size: int = 512
    ) -> None:
        self.method = method
        self.samples = samples
        self.average_after = average_after
        self.batch_size = batch_size
        self.average: Tensor | None = None
        self._count = 0

    def on_start(self, trainer: Any) -> None:
        """Begin the average."""
        self.average, self._count = None, 0

    def on_record(self, record: Record) -> None:
        """Add the figures."""
        device = next(self.method.student.parameters()).device
        parts = torch.split(torch.arange(len(self.samples)), self.batch_size)
        ratios = torch.cat([self.method.ratios(self.samples.batch(rows).to(device)).cpu() for rows in parts])
        quantiles = ratios.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=ratios.dtype)).tolist()
        record["ratio/mean"] = ratios.mean().item()
        record |= dict(zip(("ratio/q10", "ratio/q50", "ratio/q90"), quantiles, strict=True))
        record["ratio/saturated"] = ((ratios < 0.05) | (ratios > 0.95)).float().mean().item()
        if record["epoch"] > self.average_after:
            self._count += 1
            self.average = ratios if self.average is None else self.average + (ratios - self.average) / self._count
