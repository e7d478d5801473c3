"""Which positions of a batch count, and how a mean over them is taken."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tutelage._checks import check_option, check_same_shape, check_target

IGNORE_INDEX = -100
"""The label of positions to skip, as in `torch.nn.functional.cross_entropy`."""


def counted(target: Tensor | None, *logits: Tensor) -> tuple[Tensor, ...]:
    """What a loss without labels compares: samples, or the positions of sequences that are not to be skipped.

    Logits `[batch, classes]` stay as they are, whatever their labels: a teacher can teach about a sample that has no
    label. Logits `[batch, time, vocabulary]` become rows `[positions, vocabulary]`; where there are labels, positions
    with the label -100 (padding, prompts) are left out. Real-valued targets (density maps) label nothing: all counts.

    Raises:
        ValueError: Sequences whose batch and time sizes differ from each other or from those of `target`.

    >>> target = torch.tensor([[5, -100], [-100, -100]])
    >>> [rows.shape[0] for rows in counted(target, torch.zeros(2, 2, 9), torch.zeros(2, 2, 7))]
    [1, 1]
    """
    if logits[0].ndim < 3:
        return logits
    for other in logits[1:]:
        check_same_shape(logits[0][..., 0], other[..., 0], "student_logits[..., 0]", "teacher_logits[..., 0]")
    if target is not None and not target.is_floating_point():
        check_same_shape(logits[0][..., 0], target, "student_logits[..., 0]", "target")
        kept = target != IGNORE_INDEX
        if not kept.all():
            return tuple(value[kept] for value in logits)
    return tuple(value.flatten(0, -2) for value in logits)


def mean_over_positions(values: Tensor) -> Tensor:
    """The mean of one value a position; 0 when there is no position, so that a batch of padding teaches nothing.

    >>> mean_over_positions(torch.tensor([1.0, 3.0])), mean_over_positions(torch.zeros(0))
    (tensor(2.), tensor(0.))
    """
    return values.mean() if values.numel() else values.sum()


def reduce_over_labels(
    loss: Callable[..., Tensor],
    target: Tensor,
    *logits: Tensor,
    ignore_index: int = IGNORE_INDEX,
    reduction: str = "mean",
) -> Tensor:
    """Compute a loss on the labelled rows of logits, and reduce it.

    Args:
        loss: From `(target [rows], *logits [rows, classes])` to one value a row.
        target: `[...]` classes, or `ignore_index` at positions to skip.
        logits: `[..., classes]` each.
        ignore_index: The label of positions to skip.
        reduction: `"mean"` over the labelled positions (0 when there are none), `"sum"`, or `"none"`: the shape of
            `target`, 0 at skipped positions.

    Raises:
        ValueError: A target of another shape or outside the classes; an unknown reduction.

    >>> reduce_over_labels(lambda target, logits: logits[:, 0], torch.tensor([0, -100]), torch.ones(2, 3))
    tensor(1.)
    """
    check_option(reduction, "reduction", ("mean", "sum", "none"))
    num_classes = logits[0].shape[-1]
    check_target(target, num_classes, shape=logits[0].shape[:-1], ignore_index=ignore_index)
    kept = target != ignore_index
    if whole := bool(kept.all()):
        values = loss(target.reshape(-1).long(), *(value.reshape(-1, num_classes) for value in logits))
    else:
        values = loss(target[kept].long(), *(value[kept] for value in logits))
    if reduction == "none":
        if whole:
            return values.reshape(target.shape)
        return torch.zeros(target.shape, dtype=values.dtype, device=values.device).masked_scatter(kept, values)
    return values.sum() if reduction == "sum" else mean_over_positions(values)
