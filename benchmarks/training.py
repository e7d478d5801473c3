"""What the trainer costs: its step against a hand-written PyTorch loop that does the same arithmetic.

Bounds: 1.05 × the loop for a step of 20 ms or more, 1.5 × for a tiny network on digits. Both sides take the same
batches from memory, ask the same teacher, minimise the same losses and step the same fused AdamW. Memory: objects,
tensors and the resident size of the process after 1 000 steps against after 250.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import record, side_by_side
from tutelage.data import ArraySamples, epoch_order
from tutelage.objectives import CrossEntropy, ForwardKL
from tutelage.training import Distillation, Trainer, TrainingSettings

BOUNDS = {"tiny": 1.5, "tiny_with_teacher": 1.5, "large_with_teacher": 1.05}


def network(*widths: int) -> nn.Sequential:
    """A perceptron with ReLU between its layers."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def subjects(
    student_widths: tuple[int, ...], teacher_widths: tuple[int, ...] | None, samples: int, batch_size: int, epochs: int
) -> dict[str, Callable[[], object]]:
    """The trainer and the loop, each as a whole run on fresh networks with the same initial weights."""
    inputs = torch.randn(samples, student_widths[0])
    target = torch.randint(student_widths[-1], (samples,))
    data = ArraySamples(inputs, target)
    settings = TrainingSettings(epochs=epochs, batch_size=batch_size, learning_rate=1e-3, scheduler="constant")
    teacher = None if teacher_widths is None else network(*teacher_widths)

    def with_trainer() -> None:
        torch.manual_seed(0)
        student = network(*student_widths)
        objectives = [CrossEntropy()] if teacher is None else [CrossEntropy(), ForwardKL()]
        Trainer(Distillation(teacher, student, objectives), data, settings=settings).run()

    def by_hand() -> None:
        torch.manual_seed(0)
        student = network(*student_widths)
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
        for epoch in range(epochs):
            for rows in torch.split(epoch_order(samples, seed=0, epoch=epoch), batch_size):
                batch, labels = inputs[rows], target[rows]
                logits = student(batch)
                loss = F.cross_entropy(logits, labels)
                if teacher is not None:
                    with torch.no_grad():
                        taught = teacher(batch)
                    loss = loss + F.kl_div(
                        F.log_softmax(logits, -1), F.log_softmax(taught, -1), reduction="batchmean", log_target=True
                    )
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    return {"trainer": with_trainer, "loop": by_hand}


def growth() -> dict[str, float]:
    """What is held after 1 000 steps that was not after 250."""
    data = ArraySamples(torch.randn(64, 64), torch.randint(10, (64,)))
    held: list[tuple[int, int, int]] = []

    def look() -> dict[str, float]:
        gc.collect()
        objects = gc.get_objects()
        held.append((len(objects), sum(isinstance(one, Tensor) for one in objects), psutil.Process().memory_info().rss))
        return {}

    settings = TrainingSettings(max_steps=1000, batch_size=64, evaluate_every=250, log_every=1000)
    method = Distillation(network(64, 128, 10), network(64, 24, 10), [CrossEntropy(), ForwardKL()])
    Trainer(method, data, settings=settings, evaluate=look).run()
    first, last = held[0], held[-1]
    return {"objects": last[0] - first[0], "tensors": last[1] - first[1], "megabytes": (last[2] - first[2]) / 2**20}


def measure(*, quick: bool = False) -> dict[str, Any]:
    """The record; quickly, only what `make bench-check` compares, in fewer turns."""
    torch.set_num_threads(1)
    cases = {
        "tiny": ((64, 24, 10), None, 1280, 64, 20),
        "tiny_with_teacher": ((64, 24, 10), (64, 128, 10), 1280, 64, 20),
        "large_with_teacher": ((1024, 1024, 1024, 100), (1024, 1024, 100), 1280, 128, 2),
    }
    results: dict[str, Any] = {}
    for name, (student, teacher, samples, batch_size, epochs) in cases.items():
        timings = side_by_side(
            subjects(student, teacher, samples, batch_size, epochs), turns=5 if quick else 9, warm_up=1
        )
        ratio = timings.ratio("trainer", {"loop": 1.0})
        steps = epochs * (samples // batch_size)
        step = 1000 * timings.of("loop").median / steps
        holds = ratio.median <= BOUNDS[name]
        results[name] = {
            "trainer_over_loop": ratio.record(),
            "loop_step_milliseconds": round(step, 3),
            "bound": BOUNDS[name],
            "holds": holds,
        }
        print(f"{name}: {ratio.median:.3f} × the loop ({step:.2f} ms a step; bound {BOUNDS[name]}, holds: {holds})")
    if not quick:
        results["growth_from_250_to_1000_steps"] = growth()
        print(results["growth_from_250_to_1000_steps"])
    return results


def main() -> None:
    """Measure, print, and write the result."""
    print(record("training", measure()))


if __name__ == "__main__":
    main()
