"""What objectives cost: PLD against its bound, and the classic losses against `F.cross_entropy`.

In CPU seconds on one thread. Bound of PLD, forward and backward for 4096 samples and 1000 classes: three
cross-entropies and one stable sort of the teacher's logits. A table of classes × classes for each sample would take
16 GB; the measured peak shows that there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.allocator import keep_freed_memory
from benchmarks.harness import peak_memory, record, side_by_side
from tutelage.objectives import (
    decoupled_distillation,
    dist_distillation,
    forward_kl,
    jensen_shannon,
    knowledge_distillation,
    listmle,
    logit_mse,
    plackett_luce_distillation,
    reverse_kl,
    soft_cross_entropy,
    teacher_optimal_permutation,
    total_variation,
    universal_logit_distance,
)

BATCH, CLASSES, THREADS = 4096, 1000, 1
BOUND = {"cross_entropy": 3.0, "sort": 1.0}


def subjects() -> dict[str, Callable[[], object]]:
    """Forward and backward of each loss on the same logits, and a sort."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, BATCH, CLASSES, generator=generator)
    target = torch.randint(CLASSES, (BATCH,), generator=generator)
    permutation = teacher_optimal_permutation(teacher, target)

    def both_ways(loss: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        def run() -> None:
            logits = student.detach().requires_grad_()
            torch.autograd.grad(loss(logits), logits)

        return run

    return {
        "cross_entropy": both_ways(lambda logits: F.cross_entropy(logits, target)),
        "sort": lambda: torch.sort(teacher, dim=1, descending=True, stable=True),
        "plackett_luce_distillation": both_ways(lambda logits: plackett_luce_distillation(logits, teacher, target)),
        "listmle": both_ways(lambda logits: listmle(logits, permutation)),
        "knowledge_distillation": both_ways(lambda logits: knowledge_distillation(logits, teacher, target)),
        "decoupled_distillation": both_ways(lambda logits: decoupled_distillation(logits, teacher, target)),
        "dist_distillation": both_ways(lambda logits: dist_distillation(logits, teacher)),
        "forward_kl": both_ways(lambda logits: forward_kl(logits, teacher, reduction="mean")),
        "reverse_kl": both_ways(lambda logits: reverse_kl(logits, teacher, reduction="mean")),
        "jensen_shannon": both_ways(lambda logits: jensen_shannon(logits, teacher, reduction="mean")),
        "total_variation": both_ways(lambda logits: total_variation(logits, teacher, reduction="mean")),
        "soft_cross_entropy": both_ways(lambda logits: soft_cross_entropy(logits, teacher)),
        "logit_mse": both_ways(lambda logits: logit_mse(logits, teacher)),
        "universal_logit_distance": both_ways(lambda logits: universal_logit_distance(logits, teacher)),
    }


def subject(name: str) -> Callable[[], object]:
    """One of the subjects, for a process of its own."""
    torch.set_num_threads(THREADS)
    return subjects()[name]


def measure(*, quick: bool = False) -> dict[str, Any]:
    """The record; quickly, only what `make bench-check` compares, in fewer turns."""
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    everything = subjects()
    bounded = side_by_side(
        {name: everything[name] for name in ("plackett_luce_distillation", *BOUND)},
        turns=11 if quick else 21,
        clock=time.process_time,
    )
    of_bound = bounded.ratio("plackett_luce_distillation", BOUND)
    print(f"PLD over (3 cross-entropies + 1 sort): {of_bound}")
    losses = [name for name in everything if name not in BOUND]
    timings = side_by_side(
        {name: everything[name] for name in ("cross_entropy", *losses)}, turns=11, warm_up=1, clock=time.process_time
    )
    logits_bytes = BATCH * CLASSES * 4
    rows: dict[str, dict[str, Any]] = {}
    for name in losses:
        over_cross_entropy = timings.ratio(name, "cross_entropy")
        rows[name] = {
            "over_cross_entropy": over_cross_entropy.record(),
            "milliseconds": round(1e3 * timings.of(name).median, 1),
        }
        peak = ""
        if not quick:
            of_logits = peak_memory("benchmarks.objectives:subject", name) / logits_bytes
            rows[name]["peak_over_logits"] = round(of_logits, 1)
            peak = f", peak {of_logits:5.1f} times the logits"
        print(f"{name:28} {over_cross_entropy!s:>22} cross-entropies{peak}")
    return {
        "batch": BATCH,
        "classes": CLASSES,
        "pld_over_bound": {**of_bound.record(), "bound": BOUND, "holds": of_bound.median <= 1},
        "milliseconds": {name: round(1e3 * bounded.of(name).median, 1) for name in bounded.seconds},
        "losses": rows,
    }


def main() -> None:
    """Measure, print, and write the result."""
    path = record("objectives", measure())
    print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
