"""What losses of logits and a label share: the kernel they are computed from, and the form of their modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_floating, check_target
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import reduce_over_labels
from tutelage.objectives.precision import at_least_float32


def label_cross_entropy(
    logits: Float[Tensor, "batch classes *rest"], target: Int[Tensor, "..."]
) -> Float[Tensor, "batch *rest"]:
    """−log softmax(logits)[target] of every label in nats, from one kernel, in float32 or wider.

    Args:
        logits: `[batch, classes, …]`.
        target: `[batch, …]` classes.

    Raises:
        ValueError: A target of another shape or outside the classes.

    >>> label_cross_entropy(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([0]))
    tensor([0.6931])
    """
    check_floating(logits, "logits")
    check_target(target, logits.shape[1], shape=(logits.shape[0], *logits.shape[2:]))
    return F.cross_entropy(at_least_float32(logits), target.long(), reduction="none")


class _LabelLoss(Objective):
    """The mean of a loss over the labelled positions of a batch: `[..., classes]` logits, and classes or -100.

    A subclass names the function; its options are checked once, by calling the function on a sample.
    """

    reads = ("student.logits", "batch.target")
    function: Callable[..., Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.function(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), **options)

    def loss(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over labelled positions; 0 when there are none."""
        return reduce_over_labels(self._rows, target, student_logits)

    def extra_repr(self) -> str:
        """The options, as they were given."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())

    def _rows(self, target: Tensor, logits: Tensor) -> Tensor:
        return self.function(logits, target, reduction="none", **self.options)
