"""One trial: an arm with a seed, alone with its random numbers and one thread, so that any process gives the same."""

from __future__ import annotations

import contextlib
import math
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tutelage.reproduction.recipe import Arm, Context, Metrics

RunArm = Callable[[Context, Arm, int], Metrics]


class TrialError(RuntimeError):
    """A trial failed; the message names it and says how."""


@dataclass(frozen=True)
class Trial:
    """An arm with a seed.

    >>> Trial(Arm("pld, t=4"), 2).name
    'pld, t=4, seed 2'
    """

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.arm.name}, seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What a trial gave.

    Attributes:
        arm: The arm's name.
        seed: The seed.
        metrics: What was measured.
        seconds: Wall time of the trial.
        peak_rss_mb: Peak memory of the process that ran it, in MiB.
    """

    arm: str
    seed: int
    metrics: Metrics
    seconds: float
    peak_rss_mb: float


def run_trial(run_arm: RunArm, context: Context, trial: Trial) -> Outcome:
    """Run one trial on one thread, with every generator seeded.

    Raises:
        TrialError: The trial raised, or measured something that is not a finite number.
    """
    started = time.perf_counter()
    try:
        with fixed_threads(1):
            seed_everything(trial.seed)
            metrics = run_arm(context, trial.arm, trial.seed)
        for name, value in metrics.items():
            if not all(math.isfinite(number) for number in (value if isinstance(value, list) else [value])):
                raise ValueError(f"Expected metric {name!r} to be finite, but got {value}.")
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise TrialError(f"Trial {trial.name!r} failed: {reason}\n{traceback.format_exc()}") from None
    return Outcome(trial.arm.name, trial.seed, metrics, time.perf_counter() - started, peak_rss_mb())


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Compute on exactly so many threads, since floating-point sums depend on it and results must not."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def peak_rss_mb() -> float:
    """The peak resident memory of this process so far, in MiB.

    >>> peak_rss_mb() > 1
    True
    """
    with contextlib.suppress(OSError, StopIteration, ValueError):
        # Not getrusage: on Linux its peak is inherited through fork and exec from a possibly larger parent.
        lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
