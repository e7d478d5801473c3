"""How long a model takes to answer."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_positive
from tutelage.assessment.evaluation_mode import evaluation_mode
from tutelage.batch import Inputs
from tutelage.models import call_model


@dataclass(frozen=True, slots=True)
class LatencyDistribution:
    """Single measurements of one forward pass.

    Attributes:
        milliseconds: One a repeat, in the order measured.
        batch_size: Samples in the batch that was timed.
        threads: CPU threads that PyTorch could use.
    """

    milliseconds: tuple[float, ...]
    batch_size: int
    threads: int

    @property
    def median(self) -> float:
        """The median, in milliseconds."""
        return float(np.median(self.milliseconds))

    @property
    def p95(self) -> float:
        """The 95th percentile, in milliseconds."""
        return float(np.quantile(self.milliseconds, 0.95))


def latency_distribution(
    model: nn.Module,
    inputs: Inputs,
    *,
    repeats: int = 50,
    warmup: int = 5,
    threads: int | None = None,
    max_seconds: float | None = None,
) -> LatencyDistribution:
    """Time forward passes: evaluation mode, no gradients; on an accelerator the pass is waited for.

    Args:
        model: What is timed.
        inputs: One batch, on the model's device.
        repeats: Passes that are measured.
        warmup: Passes before them that are not.
        threads: CPU threads to allow meanwhile; None leaves the setting as it is. It is restored afterwards.
        max_seconds: Stop early, after at least one measured pass, when warm-up and passes have taken this long.

    Raises:
        ValueError: `repeats` or `threads` is below 1, `warmup` below 0, or `max_seconds` is not positive.

    >>> timed = latency_distribution(nn.Linear(4, 2), torch.zeros(8, 4), repeats=3, warmup=1)
    >>> len(timed.milliseconds), timed.batch_size, timed.median > 0
    (3, 8, True)
    """
    check_at_least(repeats, "repeats", 1)
    check_at_least(warmup, "warmup", 0)
    if threads is not None:
        check_at_least(threads, "threads", 1)
    if max_seconds is not None:
        check_positive(max_seconds, "max_seconds")
    first = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
    before = torch.get_num_threads()
    milliseconds: list[float] = []
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        with evaluation_mode(model), torch.inference_mode():
            begun = time.perf_counter()
            for repeat in range(-warmup, repeats):
                late = max_seconds is not None and time.perf_counter() - begun > max_seconds
                if late and milliseconds:
                    break
                if late and repeat < 0:
                    continue
                start = time.perf_counter()
                call_model(model, inputs)
                if first.device.type != "cpu":
                    torch.accelerator.synchronize(first.device)
                if repeat >= 0:
                    milliseconds.append((time.perf_counter() - start) * 1000)
        return LatencyDistribution(tuple(milliseconds), len(first), torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
