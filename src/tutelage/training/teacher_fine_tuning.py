"""MCMI fine-tuning: a trained teacher learns to say more about single inputs, before it teaches anyone.

Source: "Bayes Conditional Distribution Estimation for Knowledge Distillation Based on Conditional Mutual Information",
ICLR 2024, arXiv 2401.08732. The loss and its terms are in `tutelage.objectives.mcmi`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage._checks import check_option
from tutelage.batch import Batch
from tutelage.data.adapters import as_samples
from tutelage.data.loader import epoch_order, load_batches
from tutelage.data.samples import Samples
from tutelage.models.call import call_model
from tutelage.objectives.mcmi import CentroidUpdate, ClassCentroids, MCMILoss
from tutelage.objectives.schedules import Progress
from tutelage.training.method import BaseMethod
from tutelage.training.settings import TrainingSettings
from tutelage.training.trainer import Evaluate, Trainer

CentroidMode = Literal["train", "eval"]
"""The mode in which a model is asked for its class centroids."""


class MCMIFineTuning(BaseMethod):
    """One model learns by `mcmi_loss`, and its class centroids are kept up to date.

    The losses of a step are `cross_entropy` and `cmi`, the latter as it enters the sum: −λ times the mean divergence.
    Watch both: when λ is too large the cross-entropy rises.

    Args:
        model: What learns; it gives logits `[batch, classes]`.
        samples: What it learns from, and what the centroids are taken from: in random batches, as training sees them,
            for layers that look at the whole batch.
        objective: The loss, with its centroids.
        centroid_mode: `"train"`: the centroids are of the model as it trains, with dropout and the statistics of the
            batch. `"eval"`: of the model as it will teach. Either way the model's buffers stay as they are.
        batch_size: Samples a batch of the pass for the centroids.
        seed: Fixes the order of that pass.

    Raises:
        ValueError: An unknown mode.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        objective: MCMILoss,
        *,
        centroid_mode: CentroidMode = "train",
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        check_option(centroid_mode, "centroid_mode", ("train", "eval"))
        self.model = model
        self.samples = samples
        self.objective = objective
        self.centroid_mode = centroid_mode
        self.batch_size = batch_size
        self.seed = seed

    def trainable(self) -> dict[str, nn.Module]:
        """The model, and the objective, whose centroids belong in a checkpoint."""
        return {"model": self.model, "objective": self.objective}

    def setup(self, batch: Batch) -> None:
        """Make room for the centroids."""
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            self.objective.centroids.build(self._logits(batch))
        self.model.train(training)

    def advance(self, progress: Progress) -> None:
        """Take the centroids anew where it is time."""
        if self.objective.centroids.due(progress):
            self._estimate(progress.step // max(1, progress.steps_per_epoch))

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Both parts of the loss."""
        logits, target = self._logits(batch), _target(batch)
        parts = self.objective.parts(logits, target)
        self.objective.centroids.follow(logits, target)
        return {"cross_entropy": parts.cross_entropy, "cmi": -self.objective.cmi_weight * parts.cmi}

    @torch.no_grad()
    def _estimate(self, epoch: int) -> None:
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        training = self.model.training
        self.model.train(self.centroid_mode == "train")
        self.objective.centroids.estimate(self._predictions(epoch))
        self.model.train(training)
        for name, value in self.model.named_buffers():
            value.copy_(buffers[name])

    def _predictions(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        device = next(self.model.parameters()).device
        order = epoch_order(len(self.samples), seed=self.seed, epoch=epoch)
        for batch in load_batches(self.samples, torch.split(order, self.batch_size)):
            moved = batch.to(device)
            yield self._logits(moved), _target(moved)

    def _logits(self, batch: Batch) -> Tensor:
        logits = call_model(self.model, batch.inputs).logits
        if logits is None or logits.ndim != 2:
            raise ValueError("Expected the model to give logits `[batch, classes]`, but it does not.")
        return logits


def fine_tune_teacher(
    model: nn.Module,
    loader: Any,
    *,
    cmi_weight: float = 0.25,
    epochs: int = 20,
    batch_size: int = 64,
    learning_rate: float = 0.05,
    centroid_update: CentroidUpdate = "epoch",
    decay: float = 0.9999,
    centroid_mode: CentroidMode = "train",
    evaluate: Evaluate | None = None,
    folder: Path | str | None = None,
    resume: bool = False,
    **settings: Any,
) -> nn.Module:
    """Turn a trained classifier into an MCMI teacher: keep it likely, and raise its conditional mutual information.

    The defaults are those of the released code: SGD with momentum 0.9, weight decay 5e-4, and a cosine from half the
    rate of the first training to 0 (0.005 in place of 0.05 for its MobileNets and ShuffleNets). The last epoch's
    weights are kept: the released code picks the epoch by its test accuracy.

    Args:
        model: The trained classifier; it is changed in place.
        loader: What it was trained on: samples, or anything that `as_samples` takes; of a `DataLoader` the data set.
        cmi_weight: λ ≥ 0; 0 is plain further training, the control. What is best differs from pair to pair; 0.1 to 0.4
            is the range to try, and from 0.6 on the published teachers got worse than untouched ones.
        epochs: Passes over the samples.
        batch_size: Samples a batch.
        learning_rate: Peak rate.
        centroid_update: When the class centroids are taken anew; see `ClassCentroids`.
        decay: Of `centroid_update="ema"`.
        centroid_mode: In which mode the model is asked for them; see `MCMIFineTuning`.
        evaluate: Metrics to log; see `Trainer`.
        folder: Where metrics and checkpoints go; None writes nothing.
        resume: Go on from the newest checkpoint in `folder`.
        **settings: Further `TrainingSettings` (`optimizer`, `weight_decay`, `seed`, …).

    Returns:
        The same model, in evaluation mode.

    Raises:
        ValueError: A negative or infinite λ, an unknown option or setting, or a class without samples.

    >>> import copy
    >>> from tutelage.assessment import conditional_mutual_information
    >>> inputs = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    >>> target = (inputs[:, 0] > 0).long()
    >>> options = {"epochs": 40, "learning_rate": 0.5}
    >>> trained = fine_tune_teacher(nn.Linear(2, 2), (inputs, target), cmi_weight=0.0, **options)
    >>> plain, informative = (
    ...     fine_tune_teacher(copy.deepcopy(trained), (inputs, target), cmi_weight=weight, **options)(inputs)
    ...     for weight in (0.0, 0.5)
    ... )
    >>> cmi_of_plain = conditional_mutual_information(plain, target)
    >>> bool(conditional_mutual_information(informative, target) > cmi_of_plain)
    True
    """
    samples = as_samples(loader.dataset if isinstance(loader, torch.utils.data.DataLoader) else loader)
    chosen = TrainingSettings.model_validate(
        {
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "optimizer": "sgd",
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "scheduler": "cosine",
            **settings,
        }
    )
    objective = MCMILoss(ClassCentroids(centroid_update, decay=decay), cmi_weight=cmi_weight)
    method = MCMIFineTuning(
        model, samples, objective, centroid_mode=centroid_mode, batch_size=batch_size, seed=chosen.seed
    )
    Trainer(method, samples, settings=chosen, evaluate=evaluate, folder=folder).run(resume=resume)
    return model.eval()


def _target(batch: Batch) -> Tensor:
    if batch.target is None:
        raise ValueError("Expected samples with one class each, but they have no target.")
    return batch.target
