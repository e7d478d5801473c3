"""How a search tries a student out: a short training on the teacher's logits, and the accuracy after it."""

from __future__ import annotations

from torch import nn

from tutelage.data.arrays import ArraySamples
from tutelage.data.samples import Samples
from tutelage.objectives.classic import LogitMSE
from tutelage.teachers.frozen import FrozenTeacher
from tutelage.teachers.recorded import RecordedTeacher, record_logits
from tutelage.teachers.teacher import Teacher
from tutelage.training.distillation import Distillation, Objectives
from tutelage.training.evaluation import evaluate_model
from tutelage.training.settings import TrainingSettings
from tutelage.training.trainer import Trainer


class ShortDistillation:
    """Trains students of one teacher on its logits, and asks them about validation data.

    By default as the official code of N2N does (arXiv 1709.06030): the mean squared error of logits alone, five epochs,
    Adam with learning rate 5e-4 and weight decay 5e-4. What the teacher says about samples in memory is asked once.

    Args:
        teacher: A classifier; it is frozen.
        train: What students learn from.
        validation: What they are asked about. Test data must stay out of a search.
        settings: How a training goes.
        objectives: What students learn.

    >>> import torch
    >>> samples = ArraySamples(torch.randn(32, 4), torch.arange(32) % 2)
    >>> lesson = ShortDistillation(nn.Linear(4, 2), samples, samples)
    >>> 0 <= lesson.accuracy(lesson.train(nn.Linear(4, 2))) <= 1
    True
    """

    def __init__(
        self,
        teacher: nn.Module,
        train: Samples,
        validation: Samples,
        *,
        settings: TrainingSettings | None = None,
        objectives: Objectives | None = None,
    ) -> None:
        asked = teacher if isinstance(teacher, FrozenTeacher) else FrozenTeacher(teacher)
        in_memory = isinstance(train, ArraySamples)
        self.teacher: Teacher = RecordedTeacher() if in_memory else asked
        self.samples = record_logits(asked, train) if isinstance(train, ArraySamples) else train
        self.validation = validation
        self.objectives = objectives or LogitMSE()
        self.settings = settings or TrainingSettings(
            optimizer="adam", learning_rate=5e-4, weight_decay=5e-4, scheduler="constant", epochs=5, batch_size=200
        )

    def train(self, student: nn.Module) -> nn.Module:
        """Train a student in place."""
        Trainer(Distillation(self.teacher, student, self.objectives), self.samples, settings=self.settings).run()
        return student

    def accuracy(self, network: nn.Module) -> float:
        """The share of validation samples that a network classifies correctly."""
        return evaluate_model(network, self.validation, prefix="")["accuracy"]
