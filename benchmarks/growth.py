"""How time and memory grow with batch, classes, vocabulary and samples: log–log slopes beside expected exponents.

Every hot path runs at sizes that double, on one thread, all sizes in turn; time is the median of CPU seconds, memory
what a call adds to the peak of a process that does nothing else. The slope of a line through the logarithms, with its
standard error, should be at most the exponent that the algorithm promises: larger by a tenth and two standard errors,
it is called a miss. Smaller it may be: what a call costs whatever its size flattens the line at small sizes.

Run `python -m benchmarks.growth`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.allocator import keep_freed_memory
from benchmarks.diffusion_entropy import CLAIMED, dense, estimate, samples
from benchmarks.harness import log_log_slope, raised_peak, record, side_by_side
from benchmarks.linear_cross_entropy import LOSSES, backward, problem
from tutelage.data import ArraySamples
from tutelage.models import mlp
from tutelage.objectives import (
    CrossEntropy,
    ForwardKL,
    knowledge_distillation,
    plackett_luce_distillation,
    sinkhorn_distillation,
)
from tutelage.teachers import CachedTeacher, FrozenTeacher, TeacherCache, build_cache
from tutelage.training import Distillation, Trainer, TrainingSettings

SLACK = 0.1
WIDTH, TOKENS = 64, 256
SHARD, CLASSES = 2048, 100
Run = Callable[[], object]


@dataclass(frozen=True)
class Growth:
    """One hot path along one axis.

    Attributes:
        axis: What grows.
        sizes: Its values.
        prepare: From a size to what is measured.
        time: The expected exponent of time, or a function of the size to which time should be proportional.
        memory: The same of memory; None where it is not measured.
        turns: Measured calls of each size.
        given: From a size, bytes that the call must hand out (gradients), which are not counted.
    """

    axis: str
    sizes: Sequence[int]
    prepare: Callable[[int], Run]
    time: float | Callable[[float], float]
    memory: float | Callable[[float], float] | None
    turns: int = 5
    given: Callable[[int], int] = lambda size: 0

    def expected(self, law: float | Callable[[float], float]) -> float:
        """The exponent of a law over these sizes."""
        if isinstance(law, float | int):
            return law
        return log_log_slope(self.sizes, [law(size) for size in self.sizes]).exponent


def loss(function: Callable[..., Tensor], axis: str, size: int) -> Run:
    """Forward and backward of a loss of student's and teacher's logits, along the batch or the classes."""
    batch, classes = (size, 200) if axis == "batch" else (256, size)
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, batch, classes, generator=generator)
    target = torch.randint(classes, (batch,), generator=generator)
    labels = () if function is sinkhorn_distillation else (target,)

    def run() -> None:
        logits = student.detach().requires_grad_()
        torch.autograd.grad(function(logits, teacher, *labels), logits)

    return run


def linear(mode: str, vocabulary: int) -> Run:
    """Forward and backward of the fused linear cross-entropy."""
    hidden, weight, target = problem("random", TOKENS, WIDTH, vocabulary)
    return backward(LOSSES[mode], (hidden.requires_grad_(), weight.requires_grad_()), target)


def cache_of(size: int) -> tuple[FrozenTeacher, ArraySamples]:
    """A cheap teacher of 100 classes, and samples."""
    torch.manual_seed(0)
    return FrozenTeacher(torch.nn.Linear(16, CLASSES)), ArraySamples(torch.randn(size, 16))


def cache_build(size: int) -> Run:
    """Asking the teacher once about everything, and writing what it says."""
    teacher, inputs = cache_of(size)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            build_cache(teacher, inputs, folder, shard_size=SHARD)

    return run


def cache_read(size: int) -> Run:
    """Reading all of a cache in batches of 256, mapped."""
    teacher, inputs = cache_of(size)
    folder = tempfile.TemporaryDirectory()
    build_cache(teacher, inputs, folder.name)
    cached = CachedTeacher(TeacherCache(folder.name, memory_budget=0))

    def run() -> tempfile.TemporaryDirectory[str]:
        for rows in torch.arange(size).split(256):
            cached(inputs.batch(rows))
        return folder  # kept as long as what reads it

    return run


def trainer_steps(batch: int) -> Run:
    """Twenty steps of the trainer with a teacher."""
    torch.manual_seed(0)
    data = ArraySamples(torch.randn(batch, 256), torch.randint(10, (batch,)))
    teacher, student = (mlp(256, 10, hidden=(256, 256)) for _ in range(2))
    settings = TrainingSettings(max_steps=20, batch_size=batch)

    def run() -> None:
        Trainer(Distillation(teacher, student, [CrossEntropy(), ForwardKL()]), data, settings=settings).run()

    return run


def entropy(form: str, size: int) -> Run:
    """Diffusion spectral entropy by all eigenvalues, or its estimate."""
    x = samples(size)
    return dense(x, CLAIMED[0]) if form == "dense" else estimate(x, *CLAIMED, store=form == "kept")


def doubling(first: int, count: int) -> list[int]:
    """Sizes, each twice the one before."""
    return [first * 2**power for power in range(count)]


def gradients(vocabulary: int) -> int:
    """Bytes of the two gradients of a linear loss."""
    return 4 * (TOKENS + vocabulary) * WIDTH


def sorting(size: float) -> float:
    """What sorting costs."""
    return size * math.log(size)


def one_shard(size: float) -> float:
    """Bytes that building a cache holds: a shard of float16 logits, and indices of all samples, joined and sorted."""
    return SHARD * 2 * CLASSES + 3 * 8 * size


PATHS: Mapping[str, Growth] = {
    "knowledge_distillation, batch": Growth(
        "batch", doubling(512, 5), partial(loss, knowledge_distillation, "batch"), 1, 1
    ),
    "knowledge_distillation, classes": Growth(
        "classes", doubling(500, 5), partial(loss, knowledge_distillation, "classes"), 1, 1
    ),
    "plackett_luce_distillation, batch": Growth(
        "batch", doubling(512, 5), partial(loss, plackett_luce_distillation, "batch"), 1, 1
    ),
    "plackett_luce_distillation, classes": Growth(
        "classes", doubling(500, 5), partial(loss, plackett_luce_distillation, "classes"), sorting, 1
    ),
    "sinkhorn_distillation, batch": Growth(
        "batch", doubling(128, 4), partial(loss, sinkhorn_distillation, "batch"), 2, 2, turns=3
    ),
    "linear_cross_entropy, vocabulary": Growth(
        "vocabulary", doubling(8192, 4), partial(linear, "fused"), 1, 1, turns=3, given=gradients
    ),
    "linear_cross_entropy, recomputing, vocabulary": Growth(
        "vocabulary", doubling(8192, 4), partial(linear, "recompute"), 1, 0, turns=3, given=gradients
    ),
    "diffusion entropy, all eigenvalues, samples": Growth(
        "samples", doubling(400, 3), partial(entropy, "dense"), 3, 2, turns=3
    ),
    "diffusion entropy, estimate, samples": Growth(
        "samples", doubling(1000, 3), partial(entropy, "kept"), 2, 2, turns=3
    ),
    "diffusion entropy, estimate computed anew, samples": Growth(
        "samples", doubling(1000, 3), partial(entropy, "computed anew"), 2, 1, turns=3
    ),
    "building a cache, samples": Growth("samples", doubling(4096, 4), cache_build, 1, one_shard),
    "reading a cache, samples": Growth("samples", doubling(4096, 4), cache_read, 1, None),
    "20 steps of the trainer, batch": Growth("batch", doubling(512, 4), trainer_steps, 1, 1),
}


def memory() -> dict[str, list[int]]:
    """Bytes of every path at every size, from one fresh process."""
    code = "from benchmarks.growth import report_memory; report_memory()"
    # A fixed threshold makes glibc give back what is freed, so that no size uses again what one before it left.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, cwd=root, env=environment
    )
    found: dict[str, list[int]] = json.loads(done.stdout.splitlines()[-1])
    return found


def report_memory() -> None:
    """What `memory` asks its process for: each path once to load what it loads, then at every size."""
    torch.set_num_threads(1)
    found = {}
    for name, path in PATHS.items():
        if path.memory is not None:
            path.prepare(path.sizes[0])()
            found[name] = [max(raised_peak(path.prepare(size)) - path.given(size), 4096) for size in path.sizes]
    print(json.dumps(found))


def measure(*, quick: bool = False) -> dict[str, Any]:
    """The record."""
    del quick
    torch.set_num_threads(1)
    resettable = Path("/proc/self/clear_refs").exists()
    if not resettable:
        print("Memory is not measured: this system cannot start the peak of a process anew.")
    grown = memory() if resettable else {}
    keep_freed_memory()
    results: dict[str, Any] = {}
    for name, path in PATHS.items():
        subjects = {str(size): path.prepare(size) for size in path.sizes}
        timings = side_by_side(subjects, turns=path.turns, warm_up=1, clock=time.process_time)
        seconds = [timings.of(str(size)).median for size in path.sizes]
        row: dict[str, Any] = {
            "axis": path.axis,
            "sizes": list(path.sizes),
            "seconds": [float(f"{value:.4g}") for value in seconds],
            "time": judged(path.sizes, seconds, path.expected(path.time)),
        }
        if name in grown:
            assert path.memory is not None
            row["mib"] = [float(f"{value / 2**20:.4g}") for value in grown[name]]
            row["memory"] = judged(path.sizes, grown[name], path.expected(path.memory))
        results[name] = row
        shown = "; ".join(
            f"{kind} {row[kind]['exponent']:.2f} ± {row[kind]['error']:.2f}, expected {row[kind]['expected']:.2f}"
            f"{'' if row[kind]['holds'] else ' MISSED'}"
            for kind in ("time", "memory")
            if kind in row
        )
        print(f"{name}: {shown}", flush=True)
    return {"slack": SLACK, "paths": results}


def judged(sizes: Sequence[int], values: Sequence[float], expected: float) -> dict[str, Any]:
    """A slope beside what was expected."""
    slope = log_log_slope(sizes, values)
    return {
        "exponent": round(slope.exponent, 3),
        "error": round(slope.error, 3),
        "expected": round(expected, 3),
        "holds": slope.exponent <= expected + SLACK + 2 * slope.error,
    }


def main() -> None:
    """Measure, print, and write the result."""
    print(record("growth", measure()))


if __name__ == "__main__":
    main()
