"""Teacher caches: bytes a sample against full logits, and an epoch with a cached teacher, a live one, and none.

Targets: an epoch with a cached teacher takes at most 1.15 times one without a teacher; 32 of 1 000 classes take at
most a tenth of the bytes that all logits take in float32.

Run `python -m benchmarks.cache`. The three epochs are timed in turn, round after round, and each round's ratios are
taken before the median, so that a machine that slows down for a while slows all three.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable

import torch

from benchmarks.harness import record
from tutelage.data import ArraySamples
from tutelage.models import convnet, multiply_adds
from tutelage.objectives import CrossEntropy, KnowledgeDistillation, Objective
from tutelage.teachers import CachedTeacher, FrozenTeacher, Teacher, TeacherCache, build_cache
from tutelage.training import Distillation, Trainer, TrainingSettings

SHAPE, CLASSES, SAMPLES, ROUNDS = (3, 16, 16), 100, 2048, 7


def bytes_a_sample() -> bool:
    """Bytes of top-k and full caches of 1 000 classes."""
    samples = ArraySamples(torch.randn(512, 16))
    teacher = FrozenTeacher(torch.nn.Linear(16, 1000))
    print(f"{'1 000 classes':24}{'bytes a sample':>16}{'of float32 logits':>20}")
    share = 1.0
    for name, options in {
        "float16": {},
        "top 128, float16": {"top_k": 128},
        "top 32, float16": {"top_k": 32},
        "top 8, float16": {"top_k": 8},
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            cache = build_cache(teacher, samples, folder, **options)
            full = cache.full_logits_bytes_per_sample
            assert full is not None
            print(f"{name:24}{cache.bytes_per_sample:>16}{cache.bytes_per_sample / full:>20.1%}")
            if name == "top 32, float16":
                share = cache.bytes_per_sample / full
    return share <= 0.1


def epochs() -> dict[str, float]:
    """Epochs of a small convolutional student, over those without a teacher."""
    torch.manual_seed(0)
    samples = ArraySamples(torch.randn(SAMPLES, *SHAPE), torch.randint(0, CLASSES, (SAMPLES,)))
    teacher = FrozenTeacher(convnet(SHAPE, CLASSES, channels=(64, 96)))

    def epoch(asked: Teacher | None, objective: Objective) -> float:
        method = Distillation(asked, convnet(SHAPE, CLASSES, channels=(16, 32)), objective)
        trainer = Trainer(method, samples, settings=TrainingSettings(epochs=1, batch_size=128))
        started = time.perf_counter()
        trainer.run()
        return time.perf_counter() - started

    with tempfile.TemporaryDirectory() as full_folder, tempfile.TemporaryDirectory() as top_folder:
        build_cache(teacher, samples, full_folder)
        build_cache(teacher, samples, top_folder, top_k=8)
        full, top = TeacherCache(full_folder), TeacherCache(top_folder)
        mapped = TeacherCache(full_folder, memory_budget=0)
        arms: dict[str, Callable[[], float]] = {
            "no teacher": lambda: epoch(None, CrossEntropy()),
            "cached, in memory": lambda: epoch(CachedTeacher(full), KnowledgeDistillation()),
            "cached, mapped": lambda: epoch(CachedTeacher(mapped), KnowledgeDistillation()),
            "cached, top 8": lambda: epoch(CachedTeacher(top), KnowledgeDistillation()),
            "live": lambda: epoch(teacher, KnowledgeDistillation()),
        }
        for run in arms.values():
            run()  # warm up
        seconds = {name: [] for name in arms}
        for _ in range(ROUNDS):
            for name, run in arms.items():
                seconds[name].append(run())
    one = torch.zeros(1, *SHAPE)
    times = multiply_adds(teacher.model, one) / multiply_adds(convnet(SHAPE, CLASSES, channels=(16, 32)), one)
    print(f"\n{f'teacher {times:.1f} × student':24}{'seconds an epoch':>16}{'of no teacher':>20}")
    ratios = {}
    for name, measured in seconds.items():
        pairs = zip(measured, seconds["no teacher"], strict=True)
        ratios[name] = statistics.median(mine / alone for mine, alone in pairs)
        print(f"{name:24}{statistics.median(measured):>16.3f}{ratios[name]:>20.2f}")
    return ratios


def main() -> None:
    """Run both parts and say whether the targets are met."""
    torch.set_num_threads(1)
    small, ratios = bytes_a_sample(), epochs()
    fast = ratios["cached, in memory"] <= 1.15
    rounded = {name: round(ratio, 3) for name, ratio in ratios.items()}
    record("cache", {"epoch_over_no_teacher": rounded, "bound": 1.15, "holds": fast, "top_32_within_a_tenth": small})
    print(f"\nTop 32 of 1 000 classes in at most a tenth of the bytes: {'met' if small else 'MISSED'}.")
    print(f"Epoch with a cached teacher at most 1.15 times one without: {'met' if fast else 'MISSED'}.")


if __name__ == "__main__":
    main()
