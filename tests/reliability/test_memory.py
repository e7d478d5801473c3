"""Memory: running out of it in a step loses nothing and says what to do; long runs, and many of them, keep none."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from tests.reliability.faults import Faults
from tutelage.data import ArraySamples
from tutelage.features import FeatureMatching
from tutelage.objectives import CrossEntropy, KnowledgeDistillation, LinearRamp, Progress
from tutelage.teachers import CachedTeacher, TeacherCache, build_cache
from tutelage.training import (
    Distillation,
    Monitor,
    ProgressMonitor,
    Trainer,
    TrainingSettings,
    Weighted,
    evaluate_model,
)

MEBIBYTE = 2**20
WIDTH = 600_000  # activations of 16 samples take 37 MiB: more than an allocator keeps when it gets them back


class Tightens(Monitor):
    """Leaves this process little more memory than it has, after a step."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        if progress.step == self.after:
            most = psutil.Process().memory_info().vms + 8 * MEBIBYTE
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def wide_run(folder: Path, *monitors: Monitor) -> nn.Module:
    torch.manual_seed(0)
    samples = ArraySamples(torch.randn(64, 4), torch.arange(64) % 2)
    student = nn.Sequential(nn.Linear(4, WIDTH), nn.Dropout(0.1), nn.Linear(WIDTH, 2))
    settings = TrainingSettings(epochs=2, batch_size=16, optimizer="sgd", learning_rate=1e-3, checkpoint_every=2)
    method = Distillation(None, student, CrossEntropy())
    Trainer(method, samples, settings=settings, folder=folder, monitors=monitors).run(resume=True)
    return student


def starve(folder: Path) -> None:
    try:
        wide_run(folder, Tightens(after=5))
    except BaseException as error:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (folder / "error.txt").write_text(f"{type(error).__name__}: {error}")


def test_running_out_of_memory_in_a_step_says_what_to_lower_and_loses_nothing(tmp_path: Path, faults: Faults) -> None:
    with faults.inject("out of memory in a step"):
        child = multiprocessing.get_context("fork").Process(target=starve, args=(tmp_path,))
        child.start()
        child.join()
        text = (tmp_path / "error.txt").read_text()
        assert text.startswith("OutOfMemoryError: Out of memory in step 5 with 16 samples a process: lower")
        assert "(now 16)" in text
        assert str(tmp_path / "checkpoints") in text
        resumed, whole = wide_run(tmp_path), wide_run(tmp_path / "whole")
        for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def held() -> Counter[str]:
    """What this process holds now: objects, tensors and their bytes, open files, threads, resident memory."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [value for value in objects if issubclass(type(value), torch.Tensor)]
    process = psutil.Process()
    return Counter(
        objects=len(objects),
        tensors=len(tensors),
        tensor_bytes=sum(value.numel() * value.element_size() for value in tensors),
        files=process.num_fds(),
        threads=process.num_threads(),
        python_threads=threading.active_count(),
        resident=process.memory_info().rss,
    )


class Measures(Monitor):
    """Looks at what the process holds after some steps."""

    def __init__(self, *steps: int) -> None:
        self.seen: dict[int, Counter[str]] = {step: Counter() for step in steps}

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        if progress.step in self.seen:
            self.seen[progress.step] = held()


def check_flat(before: Counter[str], after: Counter[str], *, resident: float, objects: int = 50) -> None:
    for name in ("tensors", "tensor_bytes", "files", "threads", "python_threads"):
        assert after[name] <= before[name], (name, before, after)
    assert after["objects"] <= before["objects"] + objects, (before, after)
    assert after["resident"] <= before["resident"] + resident * MEBIBYTE, (before, after)


def network(seed: int, width: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 2))


def rich_run(folder: Path, *monitors: Monitor, **settings: Any) -> Trainer:
    """A run with much that could grow: a cache, taps, a projector, records, checkpoints, evaluations, monitors."""
    torch.manual_seed(0)
    samples = ArraySamples(torch.randn(64, 4), torch.arange(64) % 2)
    student = network(1, 8)

    def method(teacher: Any) -> Distillation:
        objectives = {
            "label": CrossEntropy(),
            "teacher": Weighted(KnowledgeDistillation(alpha=1.0, temperature=2.0), LinearRamp(epochs=3)),
            "features": FeatureMatching(["0"], ["0"]),
        }
        return Distillation(teacher, student, objectives)

    live = method(network(2, 16))
    assert live.teacher is not None
    reads = {path.removesuffix("?") for term in live.terms.values() for path in term.objective.reads}
    signals = sorted(path.removeprefix("teacher.") for path in reads if path.startswith("teacher."))
    if not (folder / "cache").exists():
        build_cache(live.teacher, samples, folder / "cache", signals=signals, dtype="float32")
    chosen = {"batch_size": 16, "clip_norm": 1.0, "keep_best": "validation_loss", "learning_rate": 1e-3} | settings
    return Trainer(
        method(CachedTeacher(TeacherCache(folder / "cache", data=samples))),
        samples,
        settings=TrainingSettings.model_validate(chosen),
        evaluate=lambda: evaluate_model(student, samples),
        folder=folder / "run",
        monitors=[ProgressMonitor(), *monitors],
    )


def alone(function: Callable[[Path, int], list[Counter[str]]], folder: Path, count: int) -> list[Counter[str]]:
    """Call a function in a fresh process, in which nothing of other tests comes and goes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, folder, count).result()


def many_steps(folder: Path, steps: int) -> list[Counter[str]]:
    torch.set_num_threads(1)
    measures = Measures(steps // 2, steps)
    every = steps // 20
    cadence = {"log_every": every, "evaluate_every": every, "checkpoint_every": every}
    rich_run(folder, measures, max_steps=steps, **cadence).run()
    return list(measures.seen.values())


@pytest.mark.parametrize("steps", [600, pytest.param(10_000, marks=pytest.mark.reliability)])
def test_memory_is_flat_over_many_steps(tmp_path: Path, steps: int) -> None:
    check_flat(*alone(many_steps, tmp_path, steps), resident=1.0)


def many_runs(folder: Path, runs: int) -> list[Counter[str]]:
    torch.set_num_threads(1)
    seen = []
    for number in range(runs):
        rich_run(folder, max_steps=4, checkpoint_every=2).run(resume=number % 2 == 1)
        if number in (runs // 2, runs - 1):
            seen.append(held())
    return seen


@pytest.mark.parametrize("runs", [10, pytest.param(100, marks=pytest.mark.reliability)])
def test_memory_is_flat_over_many_runs_in_a_process(tmp_path: Path, runs: int) -> None:
    check_flat(*alone(many_runs, tmp_path, runs), resident=runs / 20)
