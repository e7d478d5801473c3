"""The task by our trainer, or by our losses."""

from __future__ import annotations

import torch
from torch.nn import functional

from benchmarks.peer_runs.tasks import (
    ALPHA,
    BETA,
    IGNORED,
    LEARNING_RATE,
    TEMPERATURE,
    Classes,
    Losses,
    Prepared,
    Task,
    serve,
    taught,
)
from tutelage.data import ArraySamples
from tutelage.objectives import KnowledgeDistillation, Objective, TokenDivergence, dist_distillation
from tutelage.training import Distillation, Trainer, TrainingSettings


def prepare(task: Task) -> Prepared:
    """A trainer that does not shuffle."""
    if isinstance(task, Losses):
        return task.prepared(
            {
                "classic": KnowledgeDistillation(alpha=ALPHA, temperature=TEMPERATURE),
                "dist": lambda student, teacher, target: dist_distillation(student, teacher),
                "jensen_shannon": TokenDivergence(kind="jsd", beta=BETA),
            }[task.kind]
        )
    teacher, student = task.networks()
    inputs, target = task.data()
    if isinstance(task, Classes):
        samples = ArraySamples(inputs, target)
        objective: Objective = KnowledgeDistillation(alpha=ALPHA, temperature=TEMPERATURE)
    else:
        aligned = functional.pad(target[:, 1:], (0, 1), value=IGNORED)
        samples = ArraySamples({"input_ids": inputs, "attention_mask": torch.ones_like(inputs)}, aligned)
        objective = TokenDivergence(kind="jsd", beta=BETA)
    settings = TrainingSettings(
        epochs=task.epochs,
        batch_size=task.batch_size,
        learning_rate=LEARNING_RATE,
        weight_decay=0.0,
        scheduler="constant",
        shuffle=False,
    )
    trainer = Trainer(Distillation(teacher, student, objective), samples, settings=settings)
    return taught(task, trainer.run, student)


if __name__ == "__main__":
    serve(prepare)
