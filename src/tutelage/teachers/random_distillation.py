"""Distilling a random teacher, without labels: what a student learns from the dynamics of distillation alone.

Source: Sarnthein et al., "Random Teachers are Good Teachers", ICML 2023, arXiv 2302.12091, section 3.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tutelage._checks import check_at_least
from tutelage.objectives.divergences import predictive_entropy, soft_cross_entropy
from tutelage.teachers.initializations import interpolated_initialization

Factory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass
class RandomDistillation:
    """What came out.

    Attributes:
        teacher: Encoder and head, untrained, frozen, in evaluation mode.
        student: Encoder and head that learned, in evaluation mode.
        history: The divergence KL(teacher ‖ student) of every step: the loss less the teacher's entropy.
        snapshots: Copies of the student's encoder by the step after which they were taken.
    """

    teacher: nn.Sequential
    student: nn.Sequential
    history: list[float]
    snapshots: dict[int, nn.Module] = field(default_factory=dict)


def distill_random_teacher(
    encoder: nn.Module,
    head: nn.Module,
    loader: Iterable[Any],
    *,
    alpha: float = 0.0,
    steps: int,
    optimizer: Factory | None = None,
    fresh: tuple[nn.Module, nn.Module] | None = None,
    snapshots: Iterable[int] = (),
) -> RandomDistillation:
    """Let a student imitate an untrained teacher on unlabelled inputs.

    The teacher is encoder and head as given, in evaluation mode (batch norm uses its initial statistics); the student
    starts at `interpolated_initialization(teacher, fresh, alpha)` in training mode. The loss is the cross-entropy of
    softmaxes at temperature 1 over the head's cosines, without centring, augmentation or weight decay. Logits are
    compared in float32 at least: their divergence is about 1e-5.

    Args:
        encoder: Any module `[batch, …]` → `[batch, width]`; not changed.
        head: `[batch, width]` → `[batch, logits]`, such as `L2BottleneckHead`; not changed.
        loader: Batches: tensors, or pairs or `Batch`es whose inputs are used; gone through again and again.
        alpha: How far from the teacher the student starts, in [0, 1].
        steps: Optimiser steps.
        optimizer: From parameters to an optimiser; Adam with learning rate 1e-3 by default.
        fresh: Another encoder and head to interpolate with; needed when `alpha` is above 0.
        snapshots: Steps after which to keep a copy of the student's encoder; 0 is the start.

    Returns:
        Teacher, student, the divergence of every step, and the snapshots.

    Raises:
        ValueError: `alpha` outside [0, 1], or above 0 without `fresh`; fewer than one step; a loader without batches.

    >>> from tutelage.teachers import L2BottleneckHead
    >>> encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    >>> result = distill_random_teacher(encoder, L2BottleneckHead(8, (), 4, 16), [torch.randn(32, 4)], steps=20)
    >>> result.history[-1] < result.history[0]
    True
    """
    check_at_least(steps, "steps", 1)
    teacher = nn.Sequential(copy.deepcopy(encoder), copy.deepcopy(head)).eval().requires_grad_(False)
    if alpha and fresh is None:
        raise ValueError(f"Expected argument `fresh`, since `alpha` is {alpha}, but got None.")
    student = interpolated_initialization(teacher, teacher if fresh is None else nn.Sequential(*fresh), alpha)
    assert isinstance(student, nn.Sequential)
    student.train()
    make = optimizer or partial(torch.optim.Adam, lr=1e-3)
    stepper = make([parameter for parameter in student.parameters() if parameter.requires_grad])
    wanted, kept = set(snapshots), {}
    if 0 in wanted:
        kept[0] = copy.deepcopy(student[0]).eval()
    losses = []
    for number, inputs in enumerate(itertools.islice(_again_and_again(loader), steps), start=1):
        with torch.no_grad():
            told = teacher(inputs)
        loss = soft_cross_entropy(student(inputs), told, reduction="mean")
        stepper.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        stepper.step()
        losses.append(loss.detach().double() - predictive_entropy(told.double(), reduction="mean"))
        if number in wanted:
            kept[number] = copy.deepcopy(student[0]).eval()
    return RandomDistillation(teacher, student.eval(), torch.stack(losses).tolist(), kept)


def _again_and_again(loader: Iterable[Any]) -> Iterator[Tensor]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            inputs = getattr(batch, "inputs", batch)
            yield inputs[0] if isinstance(inputs, tuple | list) else inputs
        if empty:
            raise ValueError("Expected argument `loader` to give at least one batch, but it is empty.")
