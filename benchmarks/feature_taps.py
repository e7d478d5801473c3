"""What taps cost: a training step whose student is tapped at every stage, against the same step without taps.

A step is forward, cross-entropy, backward and AdamW, on one thread. Nothing is computed from what the taps read: this
is the price of reading alone. Bound: 1.02 × the step without taps, at the median over turns, for real networks; the
perceptron on digits, whose whole step takes half a millisecond, is there to show the price of a hook.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.allocator import keep_freed_memory
from benchmarks.harness import record, side_by_side
from tutelage.features import ObservedModel, stage_paths
from tutelage.models import causal_lm, mlp, resnet, vit

BOUND = 1.02
UNBOUNDED = "mlp_on_digits_batch_64"

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "resnet_8_cifar_batch_32": (lambda: resnet((3, 32, 32), 10), (32, 3, 32, 32), 1),
    "vit_4_blocks_batch_16": (lambda: vit((3, 32, 32), 10), (16, 3, 32, 32), 1),
    "gpt2_4_layers_batch_8": (lambda: causal_lm(512, num_layers=4), (8, 64), 1),
    "mlp_on_digits_batch_64": (lambda: mlp(64, 10, hidden=(64, 64)), (64, 64), 40),
}
"""For each case: the student, the shape of a batch, and the steps that are timed together."""


def loss(observed: ObservedModel, inputs: Tensor, target: Tensor) -> Tensor:
    """Forward; what the taps read lives as long as it does in a run: until the losses are there."""
    outputs = observed(inputs)
    assert outputs.logits is not None
    return F.cross_entropy(outputs.logits.flatten(0, -2), target)


def steps(
    observed: ObservedModel, optimizer: torch.optim.Optimizer, inputs: Tensor, target: Tensor, count: int
) -> None:
    """Some training steps."""
    for _ in range(count):
        loss(observed, inputs, target).backward()
        optimizer.step()
        optimizer.zero_grad()


def subjects(name: str) -> dict[str, Callable[[], object]]:
    """The step with and without taps of one student, so that nothing differs but the taps."""
    make, shape, count = CASES[name]
    torch.manual_seed(0)
    student = make().train()
    tokens = isinstance(student, PreTrainedModel) and student.main_input_name == "input_ids"
    inputs = torch.randint(512, shape) if tokens else torch.randn(shape)
    target = torch.randint(10, shape if tokens else shape[:1]).flatten()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
    observed = {
        "taps": ObservedModel(student, taps={place: place for place in stage_paths(student)}),
        "no taps": ObservedModel(student),
    }
    return {subject: partial(steps, model, optimizer, inputs, target, count) for subject, model in observed.items()}


def measure(*, quick: bool = False) -> dict[str, Any]:
    """The record; quickly, in fewer turns."""
    torch.set_num_threads(1)
    keep_freed_memory()
    results: dict[str, Any] = {"bound": BOUND}
    for name, (make, _, count) in CASES.items():
        timings = side_by_side(subjects(name), turns=13 if quick else 41, clock=time.process_time)
        ratio = timings.ratio("taps", "no taps")
        milliseconds = 1000 * timings.of("no taps").median / count
        holds = None if name == UNBOUNDED else ratio.median <= BOUND
        results[name] = {
            "taps": len(stage_paths(make())),
            "step_milliseconds": float(f"{milliseconds:.4g}"),
            "step_with_taps_over_without": ratio.record(),
            "holds": holds,
        }
        verdict = "no bound" if holds is None else f"holds: {holds}"
        print(f"{name}: {ratio} × the step without taps ({milliseconds:.3g} ms; {verdict})")
    return results


def main() -> None:
    """Measure, print, and write the result."""
    print(record("feature_taps", measure()))


if __name__ == "__main__":
    main()
