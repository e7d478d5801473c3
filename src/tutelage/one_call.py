"""Distillation in one call, for people in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tutelage.assessment import ReportCard, assess
from tutelage.config import ObjectiveSettings, parse_config
from tutelage.data import as_samples
from tutelage.data.samples import Samples, Task
from tutelage.objectives import Objective
from tutelage.teachers import EnsembleTeacher, FrozenTeacher, Teacher, TeacherModule
from tutelage.training import (
    Distillation,
    Monitor,
    ProgressMonitor,
    Trainer,
    TrainingSettings,
    Weighted,
    evaluate_model,
)
from tutelage.training.distillation import named_terms

ObjectiveLike = str | Mapping[str, Any] | Objective | Weighted
"""An objective: its name, its settings (`{"name": …, "weight": …, "arguments": {…}}`), or the object itself."""


@dataclass(slots=True)
class Result:
    """What one distillation gave.

    Attributes:
        student: The student, trained in place, in evaluation mode.
        history: The records of the run: losses and metrics by step.
        report_card: What it learned, on the evaluation samples; None when there were none.
    """

    student: nn.Module
    history: list[dict[str, Any]]
    report_card: ReportCard | None = None


def distill(
    teacher: Teacher | nn.Module | Sequence[Teacher | nn.Module] | None,
    student: nn.Module,
    train: Any,
    eval: Any = None,
    *,
    objectives: ObjectiveLike | Iterable[ObjectiveLike] = "knowledge_distillation",
    task: Task = "classification",
    folder: Path | str | None = None,
    resume: bool = False,
    monitors: Sequence[Monitor] | None = None,
    settings: TrainingSettings | None = None,
    **training: Any,
) -> Result:
    """Teach a student, and say what it learned.

    Args:
        teacher: A module (it is frozen), a `Teacher`, several of either (their mean probabilities), or None.
        student: The module that learns; it is trained in place.
        train: What it learns from: `(inputs, target)` arrays or tensors, a PyTorch or Hugging Face dataset, or
            `Samples`.
        eval: What it is assessed on, in the same forms; None leaves the report card out.
        objectives: What is minimised: names, settings or objects; several are summed.
        task: What a target is: `classification`, `regression` or `causal_lm`.
        folder: Where metrics and checkpoints go; None writes nothing.
        resume: Go on from the newest checkpoint in `folder`.
        monitors: What watches the run; by default a progress bar.
        settings: All training settings; or give single ones by name.
        training: Fields of `TrainingSettings`: `epochs=10`, `learning_rate=1e-3`, `batch_size=128` …

    Returns:
        The student, the history and the report card.

    Raises:
        ValueError: A name, a setting, a shape or a label does not fit; the text says which.

    >>> import torch
    >>> inputs = torch.randn(64, 4)
    >>> target = (inputs[:, 0] > 0).long()
    >>> result = distill(None, nn.Linear(4, 2), (inputs, target), (inputs, target), objectives="cross_entropy",
    ...                  epochs=50, learning_rate=0.05, monitors=[])
    >>> result.report_card.metrics["accuracy"] > 0.9
    True
    """
    if settings is not None and training:
        raise ValueError(f"Expected `settings` or single settings, but got both (`{next(iter(training))}`).")
    chosen = settings or parse_config(training, TrainingSettings)
    samples = as_samples(train)
    held_out = None if eval is None else as_samples(eval)
    watching = [ProgressMonitor()] if monitors is None else monitors
    if held_out is not None:
        for monitor in watching:
            monitor.on_data(held_out)
    method = Distillation(_one_teacher(teacher), student, named_terms(make_objectives(objectives)))
    trainer = Trainer(
        method,
        samples,
        settings=chosen,
        evaluate=None if held_out is None else lambda: evaluate_model(student, held_out, task=task),
        folder=folder,
        monitors=watching,
    )
    history = trainer.run(resume=resume)
    student.eval()
    card = None if held_out is None else report_card(student, held_out, method.teacher)
    return Result(student, history, card)


def make_objectives(objectives: ObjectiveLike | Iterable[ObjectiveLike]) -> list[Weighted]:
    """Objectives from names, settings or objects, each with its weight.

    >>> [type(term.objective).__name__ for term in make_objectives(["cross_entropy", {"name": "pld", "weight": 0.5}])]
    ['CrossEntropy', 'PlackettLuceDistillation']
    """
    single = isinstance(objectives, str | Mapping | Objective | Weighted)
    made = []
    for entry in [objectives] if single else list(objectives):  # type: ignore[list-item, arg-type]
        if isinstance(entry, Weighted):
            made.append(entry)
        elif isinstance(entry, Objective):
            made.append(Weighted(entry))
        elif isinstance(entry, ObjectiveSettings):
            made.append(entry.make())
        else:
            made.append(parse_config({"name": entry} if isinstance(entry, str) else entry, ObjectiveSettings).make())  # type: ignore[arg-type]
    return made


def report_card(student: nn.Module, samples: Samples, teacher: Teacher | None, **options: Any) -> ReportCard:
    """The student's report card; a teacher whose signals were cached for other samples is left out."""
    from tutelage.teachers import CachedTeacher

    return assess(student, samples, teacher=None if isinstance(teacher, CachedTeacher) else teacher, **options)


def _one_teacher(teacher: Teacher | nn.Module | Sequence[Teacher | nn.Module] | None) -> Teacher | nn.Module | None:
    if not isinstance(teacher, list | tuple):
        return teacher  # type: ignore[return-value]
    members = [
        FrozenTeacher(one) if isinstance(one, nn.Module) and not isinstance(one, TeacherModule) else one
        for one in teacher
    ]
    return EnsembleTeacher(members, average="probabilities")
