"""Learning from labels alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage._checks import check_in_range, check_target
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import IGNORE_INDEX, reduce_over_labels
from tutelage.objectives.precision import at_least_float32


class CrossEntropy(Objective):
    """Mean cross-entropy with hard labels over the labelled positions of a batch, in nats.

    Logits are `[..., classes]` (classes last, sequences included) and labels `[...]`. Half precision is computed in
    float32. A batch without any label gives 0 instead of NaN.

    Args:
        label_smoothing: Share of the label that is spread evenly over all classes, in [0, 1] (Szegedy et al., 2016).
        ignore_index: The label of positions to skip.

    >>> import torch
    >>> CrossEntropy()(torch.zeros(2, 4), torch.tensor([3, -100]))
    tensor(1.3863)
    """

    reads = ("student.logits", "batch.target")

    def __init__(self, *, label_smoothing: float = 0.0, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        check_in_range(label_smoothing, "label_smoothing", 0, 1)
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def loss(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over labelled positions."""
        if student_logits.ndim in (2, 4) and student_logits.device.type == "cpu" and target.dtype == torch.int64:
            return self._fast(student_logits, target)
        return reduce_over_labels(
            lambda labels, logits: F.cross_entropy(
                at_least_float32(logits), labels, label_smoothing=self.label_smoothing, reduction="none"
            ),
            target,
            student_logits,
            ignore_index=self.ignore_index,
        )

    def _fast(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The same from one kernel, which checks labels itself on a CPU; what it finds wrong is said in our words."""
        try:
            loss = F.cross_entropy(
                at_least_float32(student_logits).movedim(-1, 1),  # pixels: maps are the layout that it is fast in
                target,
                label_smoothing=self.label_smoothing,
                ignore_index=self.ignore_index,
            )
        except (IndexError, RuntimeError, ValueError):
            num_classes = student_logits.shape[-1]
            check_target(target, num_classes, shape=student_logits.shape[:-1], ignore_index=self.ignore_index)
            raise
        if loss.isnan() and not (target != self.ignore_index).any():
            return student_logits.sum() * 0.0
        return loss
