"""Side-by-side timing in one process, and a record of it in `benchmarks/results/NAME.json`.

Subjects take turns (A B C, then C B A, …) so that a machine that slows down slows all of them, and are compared by the
ratio of their times within a turn. The median ratio and its quartiles are what a benchmark reports.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import RESULTS, Spread
from tutelage.files import write_json


@dataclass(frozen=True)
class Timings:
    """Seconds of each subject in each turn."""

    seconds: Mapping[str, list[float]]

    def of(self, subject: str) -> Spread:
        """Seconds of a subject."""
        return Spread.of(self.seconds[subject])

    def ratio(self, subject: str, reference: str | Mapping[str, float]) -> Spread:
        """Time of a subject over that of a reference, or of a weighted sum of references, turn by turn.

        Args:
            subject: The name of what is judged.
            reference: The name of what it is compared with, or weights by name: `{"cross_entropy": 3, "sort": 1}` is
                three cross-entropies and a sort.
        """
        weights = {reference: 1.0} if isinstance(reference, str) else reference
        turns = range(len(self.seconds[subject]))
        bounds = [sum(weight * self.seconds[name][turn] for name, weight in weights.items()) for turn in turns]
        return Spread.of([taken / bound for taken, bound in zip(self.seconds[subject], bounds, strict=True)])


def side_by_side(
    subjects: Mapping[str, Callable[[], object]],
    *,
    turns: int = 21,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Time subjects that take turns.

    Args:
        subjects: What to call, by name. Each call is timed as a whole, and waited for on an accelerator.
        turns: Measured calls of each subject.
        warm_up: Calls of each subject before that.
        clock: Gives seconds. `time.process_time` counts only those that this process had: for subjects on one thread of
            a machine that others use too.
    """
    for _ in range(warm_up):
        for subject in subjects.values():
            subject()
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    order = list(subjects.items())
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(turns):
            for name, subject in order:
                _finish()
                start = clock()
                subject()
                _finish()
                seconds[name].append(clock() - start)
            order.reverse()
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return Timings(seconds)


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Slope:
    """An exponent: the slope of a line through logarithms, with its standard error."""

    exponent: float
    error: float

    def __str__(self) -> str:
        return f"{self.exponent:.2f} ± {self.error:.2f}"


def log_log_slope(sizes: Sequence[float], values: Sequence[float]) -> Slope:
    """The exponent with which values grow, by least squares on logarithms.

    Args:
        sizes: At least three, all positive, not all the same.
        values: One a size, all positive.

    >>> log_log_slope([1, 2, 4], [3, 12, 48])
    Slope(exponent=2.0, error=0.0)
    """
    x, y = ([math.log(value) for value in row] for row in (sizes, values))
    middle, height = statistics.fmean(x), statistics.fmean(y)
    square = sum((one - middle) ** 2 for one in x)
    slope = sum((one - middle) * other for one, other in zip(x, y, strict=True)) / square
    residual = sum((other - height - slope * (one - middle)) ** 2 for one, other in zip(x, y, strict=True))
    return Slope(round(slope, 6), round(math.sqrt(residual / (len(x) - 2) / square), 6))


def peak_memory(function: str, *arguments: str) -> int:
    """Bytes by which a call raises the peak memory of a fresh process.

    Args:
        function: `package.module:function`. Called with the arguments, it makes its inputs and returns what to measure:
            a function without arguments.
        arguments: Passed on, as text.
    """
    command = [sys.executable, "-c", "from benchmarks.harness import _report_peak; _report_peak()"]
    # A fixed threshold makes glibc give back what is freed, so that nothing left from before the call is used again.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [*command, function, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env=environment,
    )
    return int(done.stdout.split()[-1])


def _report_peak() -> None:
    from tutelage.registry import resolve

    function, *arguments = sys.argv[1:]
    print(raised_peak(resolve(function, {}, "function")(*arguments)))


def raised_peak(measured: Callable[[], object]) -> int:
    """Bytes by which a call raises the peak memory of this process above what it holds now.

    Only Linux lets the peak start anew; elsewhere a call that stays below an earlier peak seems to take nothing.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _peak_of_this_process()
    measured()
    return _peak_of_this_process() - before


def _peak_of_this_process() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # Linux: `ru_maxrss` would inherit the peak of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine() -> dict[str, Any]:
    """What a measurement depends on: processor, cores, threads, load, versions."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": None if load is None else round(load, 2),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def record(name: str, results: Mapping[str, Any]) -> Path:
    """Write a benchmark's results beside a description of the machine, whole or not at all.

    Args:
        name: The benchmark; its file is `benchmarks/results/NAME.json`.
        results: Anything that JSON can hold.
    """
    path = RESULTS / f"{name}.json"
    write_json(path, {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), **results})
    return path
