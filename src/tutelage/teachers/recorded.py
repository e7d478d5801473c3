"""A teacher that was asked beforehand: its logits travel with the samples."""

from __future__ import annotations

import torch

from tutelage.batch import Batch
from tutelage.data.arrays import ArraySamples
from tutelage.outputs import Outputs
from tutelage.teachers.teacher import Teacher

_PLACE = "teacher_logits"


def record_logits(teacher: Teacher, samples: ArraySamples, *, batch_size: int = 512) -> ArraySamples:
    """The same samples with what a teacher says about each in `extras["teacher_logits"]`.

    For small data in memory, where the samples are drawn, repeated or stored together with the signals; for large data
    see `build_cache`.

    Args:
        teacher: Who is asked, a batch at a time.
        samples: The samples.
        batch_size: Samples a call.

    Raises:
        ValueError: The teacher gives no logits.

    >>> from torch import nn
    >>> from tutelage.teachers import FrozenTeacher
    >>> told = record_logits(FrozenTeacher(nn.Linear(2, 3)), ArraySamples(torch.zeros(4, 2)))
    >>> RecordedTeacher()(told.batch(torch.tensor([1, 0]))).logits.shape
    torch.Size([2, 3])
    """
    said = [teacher(samples.batch(rows)).logits for rows in torch.split(torch.arange(len(samples)), batch_size)]
    logits = [part for part in said if part is not None]
    if len(logits) < len(said):
        raise ValueError("Expected argument `teacher` to give logits, but it gives none.")
    extras = {**samples.extras, _PLACE: torch.cat(logits).cpu()}
    return ArraySamples(samples.inputs, samples.target, index=samples.index, extras=extras)


class RecordedTeacher:
    """Reads its logits from the batch, where `record_logits` put them."""

    def __call__(self, batch: Batch) -> Outputs:
        """What the teacher said about the batch.

        Raises:
            ValueError: The batch does not carry the logits.
        """
        if _PLACE not in batch.extras:
            raise ValueError(f"Expected batches to carry `extras[{_PLACE!r}]`; see `record_logits`.")
        return Outputs(logits=batch.extras[_PLACE])
