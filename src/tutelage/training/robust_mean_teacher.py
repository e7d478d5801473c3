"""RMT: a deployed classifier that follows a drifting stream with a mean teacher, anchored to its source classes.

Source: Döbler et al., "Robust Mean Teacher for Continual and Gradual Test-Time Adaptation", CVPR 2023, arXiv
2211.13081; the authors' own benchmark (MIT) is `mariodoebler/test-time-adaptation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tutelage._checks import check_at_least, check_in_range, check_non_negative, check_positive
from tutelage.features.prototypes import nearest_prototype
from tutelage.objectives.contrastive import multi_view_contrastive_loss
from tutelage.objectives.symmetric import symmetric_cross_entropy
from tutelage.teachers.moving_average import ExponentialMovingAverage
from tutelage.training.adaptation import (
    Deployed,
    OptimizerFactory,
    check_several,
    configure_batch_statistics,
    logits_of_model,
)


class RobustMeanTeacher:
    """Answers a batch with student and teacher together, then learns from it.

    The loss of a batch is self_training_weight · ½(ℓ(z, z') + ℓ(z̃, z')) + contrastive_weight · L_CL + source_weight ·
    CE: ℓ is the symmetric cross-entropy with the teacher's logits z' as constants, z̃ the student's logits of the
    augmented batch; L_CL pulls the features of both views to the nearest source prototype; CE is the student's loss on
    a labelled source batch. Then the teacher follows the student. The answer is z + z', from before the step.

    With `contrastive_weight=0` and `source_weight=0` it is a mean teacher; with `alpha=0` too, one of cross-entropy.

    Args:
        model: Adapted in place; configured by `configure_batch_statistics`.
        feature_extractor: The part of the model that makes features `[batch, width]`.
        classifier: The part that makes logits of them.
        prototypes: `[classes, width]`, the mean features of the source classes by the model as it was trained.
        projector_dim: Width of the contrastive projector (two linear layers with a ReLU); None or 0: no projector.
        momentum: Of the teacher.
        temperature: Of the contrastive loss.
        alpha: Weight of the student-target term of the symmetric cross-entropy.
        self_training_weight: λ_ST.
        contrastive_weight: λ_CL.
        source_weight: λ_CE; 0 adapts without source data.
        optimizer: From a list of parameters (student and projector) to an optimiser.
        augment: From a batch to a batch, see `tutelage.data.test_time_augmentation`.
        source_loader: Labelled source batches, as pairs or `Batch`es; gone through again and again.

    Attributes:
        model: The student.
        teacher: The average, an `ExponentialMovingAverage`.
        projector: The contrastive projector.

    Raises:
        ValueError: A setting out of range, or `source_weight` above 0 without a loader.

    >>> body, head = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten()), nn.Linear(8, 3)
    >>> adapter = RobustMeanTeacher(
    ...     nn.Sequential(body, head), body, head, torch.randn(3, 8), source_weight=0.0, projector_dim=4,
    ...     optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3), augment=lambda x: x.flip(-1),
    ... )
    >>> adapter.adapt(torch.rand(4, 1, 2, 2)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        feature_extractor: nn.Module,
        classifier: nn.Module,
        prototypes: Tensor,
        *,
        projector_dim: int | None = 128,
        momentum: float = 0.999,
        temperature: float = 0.1,
        alpha: float = 0.5,
        self_training_weight: float = 1.0,
        contrastive_weight: float = 1.0,
        source_weight: float = 1.0,
        optimizer: OptimizerFactory,
        augment: Callable[[Tensor], Tensor],
        source_loader: Iterable[Any] | None = None,
    ) -> None:
        check_positive(temperature, "temperature")
        check_in_range(alpha, "alpha", 0.0, 1.0)
        for value, name in (
            (self_training_weight, "self_training_weight"),
            (contrastive_weight, "contrastive_weight"),
            (source_weight, "source_weight"),
        ):
            check_non_negative(value, name)
        if source_weight > 0 and source_loader is None:
            raise ValueError(f"Expected argument `source_loader`, since `source_weight` is {source_weight}, got None.")
        configure_batch_statistics(model)
        self.model, self.feature_extractor, self.classifier = model, feature_extractor, classifier
        self.prototypes = prototypes.detach()
        self.teacher = ExponentialMovingAverage(model, momentum=momentum, buffers="average")
        self.projector: nn.Module = nn.Identity()
        if projector_dim:
            layers = [nn.Linear(prototypes.shape[1], projector_dim), nn.ReLU(), nn.Linear(projector_dim, projector_dim)]
            self.projector = nn.Sequential(*layers).to(prototypes.device)
        self.temperature, self.alpha, self.augment = temperature, alpha, augment
        self.weights = self_training_weight, contrastive_weight, source_weight
        self.optimizer = optimizer([*model.parameters(), *self.projector.parameters()])
        self._source = None if source_loader is None else _endless(source_loader, "source_loader")
        self._remember()

    def warm_up(self, loader: Iterable[Any], steps: int) -> None:
        """Bring student, teacher and optimiser into a stable regime on unlabelled source batches, before deployment.

        Each step minimises the symmetric cross-entropy between student and teacher on the same batch; the learning rate
        grows in a straight line to its value. `reset` comes back to the state in which this ends.

        Args:
            loader: Source batches: tensors, pairs or `Batch`es, gone through again and again.
            steps: Optimiser steps.
        """
        check_at_least(steps, "steps", 1)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        batches = _endless(loader, "loader")
        for number in range(steps):
            x, _ = next(batches)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (number + 1) / steps
            with torch.no_grad():
                told = logits_of_model(self.teacher.module, x)
            self._step(symmetric_cross_entropy(logits_of_model(self.model, x), told, alpha=self.alpha))
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._remember()

    def adapt(self, x: Tensor) -> Tensor:
        """The summed logits of student and teacher, `[batch, classes]`, from before the step that the batch makes.

        Raises:
            ValueError: A batch of one sample.
        """
        check_several(x)
        self_training, contrastive, source = self.weights
        features = self.feature_extractor(x)
        logits = self.classifier(features)
        other = self.feature_extractor(self.augment(x))
        with torch.no_grad():
            told = logits_of_model(self.teacher.module, x)
        first, second = (
            symmetric_cross_entropy(said, told, alpha=self.alpha) for said in (logits, self.classifier(other))
        )
        loss = self_training * (first + second) / 2
        if contrastive:
            anchors = self.prototypes[nearest_prototype(features.detach(), self.prototypes)]
            views = self.projector(torch.stack([anchors, features, other], dim=1))
            loss = loss + contrastive * multi_view_contrastive_loss(views, temperature=self.temperature)
        if source:
            assert self._source is not None
            inputs, target = next(self._source)
            assert target is not None
            loss = loss + source * functional.cross_entropy(logits_of_model(self.model, inputs), target)
        answer: Tensor = (logits + told).detach()
        self._step(loss)
        return answer

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The summed logits of student and teacher, without learning."""
        check_several(x)
        return logits_of_model(self.model, x) + logits_of_model(self.teacher.module, x)

    def reset(self) -> None:
        """Student, teacher, projector and optimiser as they were at deployment, bit for bit."""
        self._deployed.restore()

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.teacher.update(self.model)

    def _remember(self) -> None:
        self._deployed = Deployed(self.model, self.teacher, self.projector, self.optimizer)


def _endless(loader: Iterable[Any], name: str) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Inputs and targets, from the beginning again whenever the loader ends."""
    while True:
        empty = True
        for batch in loader:
            empty = False
            if isinstance(batch, Tensor):
                yield batch, None
            elif hasattr(batch, "inputs"):
                yield batch.inputs, batch.target
            else:
                yield batch[0], batch[1] if len(batch) > 1 else None
        if empty:
            raise ValueError(f"Expected argument `{name}` to give at least one batch, but it is empty.")
