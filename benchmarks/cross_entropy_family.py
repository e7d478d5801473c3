"""What the losses around cross-entropy cost: forward and backward over that of `F.cross_entropy`.

For 4096 samples and 1000 classes, in float32 on one thread, in seconds of that thread. The bound is twice the time of
cross-entropy, unless a loss's formula needs more; `MORE` says what.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.allocator import keep_freed_memory
from benchmarks.harness import record, side_by_side
from tutelage.objectives import (
    AdaptiveLDRLoss,
    AtomSupport,
    DirectCoverageLoss,
    HistogramSupport,
    active_passive_loss,
    c51_loss,
    comp_sum_loss,
    crammer_singer_loss,
    dice_loss,
    focal_loss,
    generalized_cross_entropy,
    hl_gauss_loss,
    jensen_shannon_label_loss,
    label_distributionally_robust_loss,
    mean_absolute_error_loss,
    robust_log_loss,
    self_adjusting_dice_loss,
    smooth_adversarial_comp_sum_loss,
    squared_error_loss,
    symmetric_cross_entropy,
    symmetric_cross_entropy_loss,
    trades_loss,
    tversky_loss,
    two_hot_loss,
    weston_watkins_loss,
)

BATCH, CLASSES, THREADS, BOUND = 4096, 1000, 1, 2.0

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits [batch, classes] and labels [batch] to a scalar."""


def losses() -> dict[str, Loss]:
    """What is measured, by name; the first is the reference."""
    generator = torch.Generator().manual_seed(1)
    other = 3 * torch.randn(BATCH, CLASSES, generator=generator)
    adaptive, index = AdaptiveLDRLoss(BATCH), torch.arange(BATCH)
    bins, atoms = HistogramSupport(0.0, CLASSES, CLASSES), AtomSupport(0.0, CLASSES, CLASSES)
    returns, discount = other.softmax(dim=1), torch.full((BATCH,), 0.9)
    return {
        "cross_entropy": F.cross_entropy,
        "comp_sum_loss, tau 0.5": lambda logits, target: comp_sum_loss(logits, target, tau=0.5),
        "comp_sum_loss, tau 1.5": lambda logits, target: comp_sum_loss(logits, target, tau=1.5),
        "generalized_cross_entropy": generalized_cross_entropy,
        "mean_absolute_error_loss": mean_absolute_error_loss,
        "symmetric_cross_entropy_loss": symmetric_cross_entropy_loss,
        "jensen_shannon_label_loss": jensen_shannon_label_loss,
        "squared_error_loss": squared_error_loss,
        "robust_log_loss": robust_log_loss,
        "active_passive_loss": active_passive_loss,
        "crammer_singer_loss": crammer_singer_loss,
        "weston_watkins_loss": weston_watkins_loss,
        "label_distributionally_robust_loss": label_distributionally_robust_loss,
        "label_distributionally_robust_loss, scores": lambda logits, target: label_distributionally_robust_loss(
            logits, target, score_transform=None
        ),
        "AdaptiveLDRLoss": lambda logits, target: adaptive(logits, target, index),
        "symmetric_cross_entropy": lambda logits, target: symmetric_cross_entropy(logits, other),
        "trades_loss": lambda logits, target: trades_loss(logits, other, target),
        "smooth_adversarial_comp_sum_loss": lambda logits, target: smooth_adversarial_comp_sum_loss(
            logits, other, target
        ),
        "dice_loss": dice_loss,
        "dice_loss, by example": lambda logits, target: dice_loss(logits, target, aggregation="example"),
        "self_adjusting_dice_loss": self_adjusting_dice_loss,
        "tversky_loss": tversky_loss,
        "focal_loss": focal_loss,
        "hl_gauss_loss": lambda logits, target: hl_gauss_loss(logits, target.float(), bins),
        "two_hot_loss": lambda logits, target: two_hot_loss(logits, target.float(), atoms),
        "c51_loss": lambda logits, target: c51_loss(logits, returns, target.float(), discount, atoms),
        "DirectCoverageLoss": DirectCoverageLoss(),
    }


MORE = {
    "squared_error_loss": "a square of every probability, and its gradient",
    "robust_log_loss": "a second logarithm of every probability, and its gradient",
    "active_passive_loss": "the sum of all log-probabilities, and its gradient",
    "label_distributionally_robust_loss": "softplus of every logit and an l1 norm, and their gradients",
    "AdaptiveLDRLoss": "softplus, an l1 norm, and a second softmax with its entropy for the temperature",
    "symmetric_cross_entropy": "two predictions, each weighted by the other",
    "trades_loss": "two predictions and their divergence",
    "smooth_adversarial_comp_sum_loss": "two sets of logits and the distance of their margins",
    "dice_loss, by example": "a quotient for every item and class, and its gradient",
    "self_adjusting_dice_loss": "a power of every 1 − p, and its gradient",
    "hl_gauss_loss": "an error function for every bin edge of every item",
    "c51_loss": "a second set of probabilities, checked and moved to the atoms",
}
"""Losses that may cost more than the bound, and what for."""


def both_ways(loss: Loss, logits: Tensor, target: Tensor) -> Callable[[], object]:
    """Forward and backward of a loss."""

    def run() -> None:
        leaf = logits.detach().requires_grad_()
        torch.autograd.grad(loss(leaf, target), leaf)

    return run


def measure(*, quick: bool = False) -> dict[str, Any]:
    """The record; `make bench-check` needs all of it, which takes some seconds."""
    del quick
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(BATCH, CLASSES, generator=generator)
    target = torch.randint(CLASSES, (BATCH,), generator=generator)
    subjects = {name: both_ways(loss, logits, target) for name, loss in losses().items()}
    reference, *names = subjects
    timings = side_by_side(subjects, turns=7, warm_up=1, clock=time.process_time)
    rows = {}
    for name in names:
        ratio = timings.ratio(name, reference)
        rows[name] = {
            "over_cross_entropy": ratio.record(),
            "milliseconds": round(1e3 * timings.of(name).median, 1),
            "holds": ratio.median <= BOUND,
            **({"needs_more": MORE[name]} if name in MORE else {}),
        }
        excuse = f"  ({MORE[name]})" if name in MORE else ""
        print(f"{name:44} {ratio!s:>22} cross-entropies{excuse}")
    missed = [name for name, row in rows.items() if not row["holds"] and name not in MORE]
    print(f"Above the bound of {BOUND} without a reason: {', '.join(missed) or 'none'}.")
    sizes = {"batch": BATCH, "classes": CLASSES, "threads": THREADS, "bound": BOUND}
    milliseconds = round(1e3 * timings.of(reference).median, 1)
    return {**sizes, "missed": missed, "cross_entropy_milliseconds": milliseconds, "losses": rows}


def main() -> None:
    """Measure, print, and write the result."""
    path = record("cross_entropy_family", measure())
    print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
