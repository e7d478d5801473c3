"""A small real distillation that the tests of this folder start in this process or in others."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from tutelage.data import ArraySamples
from tutelage.features import FeatureMatching
from tutelage.objectives import CrossEntropy, KnowledgeDistillation, LinearRamp, Objective, Progress
from tutelage.training import Distillation, Monitor, Trainer, TrainingSettings, Weighted, evaluate_model


def samples(count: int = 70) -> ArraySamples:
    """Two noisy classes in four dimensions."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 4, generator=generator)
    return ArraySamples(inputs, (inputs[:, 0] + 0.3 * inputs[:, 1] > 0).long())


def network(width: int, seed: int, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 2))


def trainer(
    folder: str | None, *, dropout: float = 0.2, pause: float = 0.0, features: float = 0.0, **settings: object
) -> Trainer:
    """A distillation with dropout (so random state matters), a schedule, and a checkpoint every other step."""
    student = network(8, seed=1, dropout=dropout)
    objectives: dict[str, Objective | Weighted] = {
        "label": CrossEntropy(),
        "teacher": Weighted(KnowledgeDistillation(alpha=1.0, temperature=2.0), LinearRamp(epochs=3)),
    }
    if features:
        objectives["features"] = Weighted(FeatureMatching(["0", "3:input"], ["0", "3:input"]), features)
    data = samples()
    chosen = {"epochs": 4, "batch_size": 16, "checkpoint_every": 2, "learning_rate": 0.01, **settings}
    return Trainer(
        Distillation(network(16, seed=2), student, objectives),
        data,
        settings=TrainingSettings.model_validate(chosen),
        evaluate=lambda: evaluate_model(student, data),
        folder=folder,
        monitors=[Slow(pause)],
    )


class Slow(Monitor):
    """Takes its time, so that a test can stop the process in the middle; says where the run is."""

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        if self.pause:
            print(progress.step, flush=True)
            time.sleep(self.pause)


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = {name: float(value) for name, value in (pair.split("=") for pair in sys.argv[3:])}
    job = trainer(sys.argv[1], pause=float(sys.argv[2]), **options)
    job.run(resume=True)
    if job.accelerator.is_main_process:
        from tutelage.files import write_tensors

        learned = {**job.method.student.state_dict(), **job.method.objectives.state_dict()}
        write_tensors(f"{sys.argv[1]}/final.safetensors", learned)
