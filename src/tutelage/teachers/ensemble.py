"""Several teachers that speak with one voice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tutelage._checks import check_non_negative, check_option
from tutelage.batch import Batch
from tutelage.outputs import Outputs
from tutelage.teachers.fingerprint import teacher_fingerprint
from tutelage.teachers.teacher import Teacher, TeacherModule


class EnsembleTeacher(TeacherModule):
    """The weighted average of several teachers' logits, or of their probabilities.

    Both are returned as `Outputs.logits` in float32: the mean of logits Σ w_i z_i, or the log of the mean of
    probabilities, log Σ w_i softmax(z_i), computed with logsumexp and valid as logits since they are
    log-probabilities. Embeddings and features of the members are not averaged and are left out.

    Args:
        teachers: At least one teacher; those that are modules move with `.to(device)`.
        average: What is averaged.
        weights: One non-negative weight a teacher, normalised to sum to 1; equal ones when left out.

    Raises:
        ValueError: No teacher, a wrong number of weights, a negative weight, weights that are all 0; in a call, a
            teacher without logits or class counts that differ.

    >>> one = lambda batch: Outputs(logits=torch.tensor([[0.0, 2.0]]))
    >>> two = lambda batch: Outputs(logits=torch.tensor([[4.0, 0.0]]))
    >>> EnsembleTeacher([one, two], weights=[3.0, 1.0])(Batch(torch.zeros(1, 1), None, torch.arange(1))).logits
    tensor([[1.0000, 1.5000]])
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        *,
        average: Literal["logits", "probabilities"] = "logits",
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_option(average, "average", ("logits", "probabilities"))
        if not teachers:
            raise ValueError("Expected argument `teachers` to hold at least one teacher, but got none.")
        given = [1.0] * len(teachers) if weights is None else [float(weight) for weight in weights]
        if len(given) != len(teachers):
            raise ValueError(
                f"Expected argument `weights` to hold one weight a teacher ({len(teachers)}), but got {len(given)}."
            )
        for weight in given:
            check_non_negative(weight, "weights")
        if sum(given) == 0:
            raise ValueError("Expected argument `weights` to have a positive sum, but got 0.")
        self.teachers = tuple(teachers)
        self.average = average
        self.weights = tuple(weight / sum(given) for weight in given)
        self.members = nn.ModuleList(teacher for teacher in teachers if isinstance(teacher, nn.Module))

    def forward(self, batch: Batch) -> Outputs:
        """The averaged logits for a batch, `[batch, classes]` or `[batch, time, vocabulary]`, without a gradient."""
        with torch.no_grad():
            given = [teacher(batch).logits for teacher in self.teachers]
            logits = torch.stack(_checked(given), dim=-1)
            weights = torch.tensor(self.weights, device=logits.device)
            if self.average == "logits":
                return Outputs(logits=logits @ weights)
            return Outputs(logits=torch.logsumexp(logits.log_softmax(dim=-2) + weights.log(), dim=-1))

    def fingerprint(self) -> str:
        """The hash of the members' fingerprints, their weights and what is averaged."""
        members = [teacher_fingerprint(teacher) for teacher in self.teachers]
        return hashlib.sha256(repr((self.average, self.weights, members)).encode()).hexdigest()


def _checked(given: list[Tensor | None]) -> list[Tensor]:
    logits = [value.float() for value in given if value is not None]
    if len(logits) < len(given):
        raise ValueError(
            f"Expected every teacher of the ensemble to give logits, but teacher {given.index(None)} gives none."
        )
    for number, value in enumerate(logits):
        if value.shape != logits[0].shape:
            raise ValueError(
                "Expected all teachers of the ensemble to have the same number of classes, "
                f"but teacher 0 gives logits {tuple(logits[0].shape)} and teacher {number} gives {tuple(value.shape)}."
            )
    return logits
