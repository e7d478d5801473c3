"""The reference for distillation between two heads: both logits are built, and autograd does the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.kernels.dense import dense_logits
from tutelage.kernels.divergence_blocks import Divergence
from tutelage.kernels.operators import NOWHERE

Rows = tuple[Tensor | None, ...]
"""Hidden states `[tokens, width]`, weight and bias of a model."""


def dense_distillation(
    student: Rows,
    teacher: Rows,
    target: Tensor,
    student_softcap: float | None,
    teacher_softcap: float | None,
    divergence: Divergence,
) -> tuple[Tensor, Tensor]:
    """Loss and student's entropy of every token, `[tokens]` each; 0 for those that are left out.

    Args:
        student: The student's rows.
        teacher: The teacher's.
        target: `[tokens]`, `NOWHERE` for those that are left out.
        student_softcap: The student's soft-cap.
        teacher_softcap: The teacher's.
        divergence: What is minimised.
    """
    valid = (target != NOWHERE).nonzero().squeeze(1)
    logits = []
    for (hidden, weight, bias), softcap in ((student, student_softcap), (teacher, teacher_softcap)):
        assert hidden is not None
        assert weight is not None
        logits.append(dense_logits(hidden[valid], weight, bias, softcap))
    first, second = ((value / divergence.temperature).log_softmax(dim=1) for value in logits)
    if divergence.kind == "forward_kl":
        soft = _kl(second, first)
    elif divergence.kind == "reverse_kl":
        soft = _kl(first, second)
    else:
        share = torch.tensor(divergence.beta, dtype=first.dtype, device=first.device)
        mixture = torch.logaddexp(second + share.log(), first + (-share).log1p())
        soft = divergence.beta * _kl(second, mixture) + (1 - divergence.beta) * _kl(first, mixture)
    losses = divergence.soft_weight * soft
    if divergence.hard_weight:
        hard = torch.nn.functional.cross_entropy(logits[0], target[valid], reduction="none")
        losses = losses + divergence.hard_weight * hard
    entropy = -(first.exp() * first).sum(dim=1)
    return tuple(value.new_zeros(len(target)).index_copy(0, valid, value) for value in (losses, entropy))  # type: ignore[return-value]


def _kl(first: Tensor, second: Tensor) -> Tensor:
    return (first.exp() * (first - second)).sum(dim=1)
