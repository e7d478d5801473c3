"""Optimisers by name, and the learning rate as a function of the run's progress."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tutelage.objectives.schedules import Progress
from tutelage.registry import resolve
from tutelage.training.settings import TrainingSettings

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}


def make_optimizer(parameters: Iterable[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser that the settings name, over the given parameters.

    Of the settings it gets those that it takes by name (`lr`, `weight_decay`, `betas`, `momentum`, `nesterov`), and
    PyTorch's fused kernels where it has them. Parameters whose attribute `no_weight_decay` is true are not decayed.
    """
    kind = resolve(settings.optimizer, OPTIMIZERS, "optimizer")
    wanted: dict[str, Any] = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "betas": settings.betas,
        "momentum": settings.momentum,
        "nesterov": settings.nesterov,
    }
    accepted = inspect.signature(kind).parameters
    chosen = list(parameters)
    options = {name: value for name, value in wanted.items() if name in accepted}
    if "fused" in accepted and kind in OPTIMIZERS.values() and all(value.is_floating_point() for value in chosen):
        options["fused"] = True
    free = [value for value in chosen if getattr(value, "no_weight_decay", False)]
    groups: list[Any] = chosen
    if free and "weight_decay" in options:
        decayed = [value for value in chosen if not getattr(value, "no_weight_decay", False)]
        groups = [{"params": decayed}, {"params": free, "weight_decay": 0.0}] if decayed else free
        options["weight_decay"] = options["weight_decay"] if decayed else 0.0
    optimizer: torch.optim.Optimizer = kind(groups, **options)
    return optimizer


def learning_rate_factor(settings: TrainingSettings, progress: Progress) -> float:
    """The share of the peak learning rate that a step takes; `progress.step` counts the steps before it.

    >>> settings = TrainingSettings(scheduler="linear", warmup=0.2)
    >>> [round(learning_rate_factor(settings, Progress(step, 10, 10)), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]
    """
    warmup_steps = round(settings.warmup * progress.total_steps)
    if progress.step < warmup_steps:
        return (progress.step + 1) / warmup_steps
    done = (progress.step - warmup_steps) / max(1, progress.total_steps - warmup_steps)
    if settings.scheduler == "linear":
        return 1.0 - done
    if settings.scheduler == "cosine":
        return (1.0 + math.cos(math.pi * done)) / 2
    if settings.scheduler == "step":
        return float(settings.decay ** sum(progress.fraction >= milestone for milestone in settings.milestones))
    return 1.0
