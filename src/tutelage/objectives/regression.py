"""Learning real values."""

from __future__ import annotations

from torch import Tensor

from tutelage._checks import check_same_shape
from tutelage.objectives.objective import Objective
from tutelage.objectives.precision import at_least_float32


class MeanSquaredError(Objective):
    """Mean squared difference of the student's output and a real-valued target.

    Outputs are `[batch]`, `[batch, 1]` for targets `[batch]`, or of the target's own shape.

    >>> import torch
    >>> MeanSquaredError()(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 3.0]))
    tensor(0.5000)
    """

    reads = ("student.logits", "batch.target")

    def loss(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch and its outputs."""
        if student_logits.ndim == target.ndim + 1 and student_logits.shape[-1] == 1:
            student_logits = student_logits[..., 0]
        check_same_shape(student_logits, target, "student_logits", "target")
        prediction = at_least_float32(student_logits)
        return (prediction - target.to(prediction.dtype)).square().mean()
