"""One student of a comparison: taught, asked on validation, timed; a finalist is asked on the test part as well."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from tutelage.assessment import assess
from tutelage.comparison.applicability import in_one_line, objectives_of
from tutelage.comparison.lessons import Setting
from tutelage.comparison.settings import ComparisonConfig
from tutelage.config import DistillConfig, parse_config
from tutelage.data import load_data
from tutelage.data.samples import Data
from tutelage.models import call_model, merge_lora
from tutelage.objectives import Objective
from tutelage.objectives.schedules import Progress
from tutelage.reproduction.recipe import Arm, Context, Metrics
from tutelage.reproduction.trial import peak_rss_mb
from tutelage.teachers import CachedTeacher, Teacher, TeacherCache
from tutelage.teaching import build_for, build_student, live_teacher
from tutelage.training import Monitor, Trainer, evaluate_model

TRAIN_CACHE, TEST_CACHE = "teacher-cache", "teacher-test-cache"
"""Where the teacher's answers are, in the folder that all trials share."""


class Failure(dict[str, "float | list[float]"]):
    """What a trial that failed gives in place of metrics: nothing, and the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def __reduce__(self) -> tuple[type[Failure], tuple[str]]:
        return Failure, (self.reason,)


@dataclass(frozen=True)
class Taught:
    """A student and what was measured on the way.

    Attributes:
        student: On the CPU, in evaluation mode.
        validation: Its metrics on validation.
        step: Seconds of an optimiser step: of the processor where the device is one, so that other processes do not
            count; else of the clock.
        memory: The most that the run held, in MiB: of the accelerator's memory, or of the process's.
    """

    student: nn.Module
    validation: dict[str, float]
    step: float
    memory: float


class StepClock(Monitor):
    """Times optimiser steps, the first one apart, since it pays for what later ones find done.

    Args:
        limit: Stop the run after the first step that ends later than so many seconds after the start.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self._limit = limit
        self._times: list[float] = []

    def on_start(self, trainer: Any) -> None:
        """Start the clock."""
        self._trainer = trainer
        self._now = time.process_time if trainer.accelerator.device.type == "cpu" else time.perf_counter
        self._times = [self._now()]

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        """Note the time."""
        self._times = [*self._times[:2], self._now()]
        self._steps = progress.step
        if self._times[-1] - self._times[0] > self._limit:
            self._trainer.stop()

    @property
    def seconds(self) -> float:
        """Of a step: the mean without the first one, where there are others."""
        if self._steps == 1:
            return self._times[1] - self._times[0]
        return (self._times[-1] - self._times[1]) / (self._steps - 1)


def needs_live_teacher(setting: Setting) -> bool:
    """Whether a lesson looks inside the teacher or teaches it, so that stored answers do not do."""
    return setting.method.get("name") == "mutual" or any(
        objective.taps["teacher"] or type(objective).attach is not Objective.attach
        for objective in objectives_of(setting)
    )


def distillation_of(config: ComparisonConfig, setting: Setting, training: Mapping[str, Any]) -> DistillConfig:
    """The distillation by one setting, with its learning rate; what differs in training besides may be given."""
    rate = {"learning_rate": config.training.learning_rate * setting.rate}
    online = {"teacher": _online(config)} if setting.method.get("name") == "mutual" else {}
    return config.distillation(config.name, {"lesson": setting.terms}, setting.method, {**rate, **training}, **online)


def _online(config: ComparisonConfig) -> dict[str, Any]:
    plain = config.teachers[0].model_dump(mode="json", exclude_none=True)
    return {**{key: value for key, value in plain.items() if key != "train"}, "kind": "online"}


def teach(
    config: ComparisonConfig,
    data: Data,
    shared: Path,
    setting: Setting,
    *,
    seed: int,
    steps: int,
    limit: float = math.inf,
) -> Taught:
    """Teach one student from scratch, as `tutelage distill` would.

    Args:
        config: The comparison.
        data: Its data.
        shared: Folder of the teacher and its answers.
        setting: The lesson.
        seed: Of the student's first weights and of the order of the data.
        steps: Optimiser steps.
        limit: Seconds after which a step is the last one.
    """
    training: dict[str, Any] = {"max_steps": steps, "seed": seed, "trackers": []}
    if config.training.early_stopping is None and config.training.keep_best is None:
        training |= {"evaluate_every": steps, "log_every": steps}  # once, at the end
    distillation = distillation_of(config, setting, training)
    _forget_peak()
    torch.manual_seed(seed)  # every method's student of a seed starts from the same weights
    student = build_student(distillation, data)
    objectives = [term.make() for term in distillation.arms["lesson"]]
    teacher: Any
    if distillation.online:
        teacher = [build_for(one, data) for one in distillation.teachers]
    else:
        teacher = asked_teacher(config, data, shared, live=needs_live_teacher(setting))
    method = distillation.method.make(teacher, student, objectives)
    clock = StepClock(limit)
    history = Trainer(
        method,
        data.train,
        settings=distillation.training,
        evaluate=lambda: evaluate_model(student, data.validation, task=data.task),
        monitors=[clock],
    ).run()
    memory = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else peak_rss_mb()
    student = merge_lora(student).eval().cpu()
    asked_at_the_end = limit == math.inf and config.training.keep_best is None
    validation = history[-1] if asked_at_the_end else evaluate_model(student, data.validation, task=data.task)
    return Taught(
        student,
        {key: float(value) for key, value in validation.items() if key.startswith("validation_")},
        clock.seconds,
        memory,
    )


def asked_teacher(
    config: ComparisonConfig, data: Data, shared: Path, *, live: bool = False, test: bool = False
) -> Teacher | nn.Module | None:
    """The teacher for a trial: its stored answers where there are any, unless the live one is needed."""
    if not config.teachers:
        return None
    cache = shared / (TEST_CACHE if test else TRAIN_CACHE)
    if not live and (cache / "manifest.json").exists():
        return CachedTeacher(_opened(cache))
    return live_teacher(config.distillation(config.name, {"lesson": ["cross_entropy"]}, {}, {}), data, shared, seed=0)


@functools.lru_cache(maxsize=2)
def _opened(folder: Path) -> TeacherCache:
    return TeacherCache(folder)


@functools.lru_cache(maxsize=1)
def problem_of(config_yaml: str) -> tuple[ComparisonConfig, Data]:
    """A comparison and its data, read once in a process."""
    config = parse_config(yaml.safe_load(config_yaml), ComparisonConfig)
    return config, load_data(config.data.name, **config.data.options)


def run_candidate(context: Context, arm: Arm, seed: int) -> Metrics:
    """One trial, in a worker: metrics, or a `Failure` that says why there are none."""
    try:
        config, data = problem_of(context["config"])
        setting = Setting.from_dict(arm.settings["setting"])
        taught = teach(config, data, context.folder, setting, seed=seed, steps=arm.settings["steps"])
        metrics: Metrics = {**taught.validation, "step_seconds": taught.step, "memory_mb": taught.memory}
        if arm.settings["test"]:
            teacher = asked_teacher(config, data, context.folder, test=True)
            card = assess(taught.student, data.test, teacher=teacher, robustness=False, latency=False, num_examples=0)
            metrics |= {f"test/{name}": value for name, value in card.metrics.items()}
            metrics["samples"] = sample_values(taught.student, data)
    except Exception as error:  # one trial that fails is no reason to stop the others
        return Failure(in_one_line(error))
    for name, value in metrics.items():
        if not isinstance(value, list) and not math.isfinite(value):
            return Failure(f"`{name}` is {value}")
    return metrics


@torch.no_grad()
def sample_values(student: nn.Module, data: Data) -> list[float]:
    """For every test sample whether its class is right (1 or 0), or its squared error in a regression."""
    values: list[float] = []
    for rows in torch.arange(len(data.test)).split(256):  # type: ignore[no-untyped-call]
        batch = data.test.batch(rows)
        logits = call_model(student, batch.inputs).logits
        assert logits is not None
        assert batch.target is not None
        if data.task == "classification":
            values += (logits.argmax(dim=-1) == batch.target).float().tolist()
        else:
            error = logits.reshape(batch.target.shape).double() - batch.target.double()
            values += error.square().reshape(len(rows), -1).mean(dim=1).tolist()
    return values


def _forget_peak() -> None:
    """Begin a new measurement of peak memory, where the system lets one."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):  # no Linux: the peak is that of the process so far
        Path("/proc/self/clear_refs").write_text("5")
