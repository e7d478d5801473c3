"""The correctness-aware loss of calibrators: confidence up where a prediction is right, down where it is wrong."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import Reduction, check_same_shape, check_target, reduce
from tutelage.objectives.objective import Objective
from tutelage.objectives.precision import at_least_float32


def correctness_aware_loss(
    calibrated_logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, "batch"],
    *,
    prediction: Int[Tensor, "batch"] | None = None,
    class_balance: bool = False,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """The Brier score of "my prediction is right": (ĉ − c)², ĉ the largest calibrated probability, c = 1[ŷ = y].

    Cross-entropy asks for the true class's probability, so on a narrowly wrong sample it can gain by making all of the
    distribution sharper, the wrong prediction with it. This loss sees nothing but confidence and correctness: through
    one temperature a sample, it always raises the temperature of a wrong sample and lowers that of a right one.

    Args:
        calibrated_logits: `[batch, classes]`, differentiated: what the calibrator made of the classifier's logits.
        target: `[batch]` true classes.
        prediction: `[batch]` the classifier's own predictions ŷ. By default the largest calibrated logit, which is the
            same for calibrators that divide logits by a temperature.
        class_balance: Right and wrong samples weigh the same in total, as in the released code: a right one 1 − a and a
            wrong one a, with the accuracy a of the batch, divided by their mean. Where nothing is informative, the
            best confidence is then ½ whatever the accuracy; without it, it is the accuracy. A batch that is all right
            or all wrong is not weighted.
        reduction: `"mean"`, `"sum"`, or `"none"`: `[batch]`.

    Returns:
        A value in [0, 1] (mean, without balance), in float32 or wider. No gradient flows through c or the weights.

    Raises:
        ValueError: There are no samples, shapes do not match, or a class is out of range.

    Source: Liu et al., "Optimizing Calibration by Gaining Aware of Prediction Correctness", arXiv 2404.13016; the
    weights from `temperature_scaling_CA.py` of the released code.

    >>> import torch
    >>> logits = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]]).log()
    >>> correctness_aware_loss(logits, torch.tensor([0, 1]), reduction="none")
    tensor([0.0900, 0.3600])
    """
    if not len(calibrated_logits):
        raise ValueError("Expected argument `calibrated_logits` to hold at least one sample, but it is empty.")
    num_classes = calibrated_logits.shape[-1]
    check_target(target, num_classes, shape=calibrated_logits.shape[:1])
    log_confidence, most_likely = at_least_float32(calibrated_logits).log_softmax(dim=1).max(dim=1)
    if prediction is not None:
        check_same_shape(prediction, target, "prediction", "target")
    right = ((most_likely if prediction is None else prediction) == target).to(log_confidence.dtype)
    loss = (log_confidence.exp() - right).square()
    if class_balance:
        share = right.double().mean().item()
        if 0 < share < 1:
            loss = loss * (right * (1 - share) + (1 - right) * share) / (2 * share * (1 - share))  # the mean weight
    return reduce(loss, reduction)


class CorrectnessAwareLoss(Objective):
    """Mean `correctness_aware_loss` of a batch; the student is a calibrated classifier.

    Args:
        class_balance: Right and wrong samples weigh the same in total.

    >>> import torch
    >>> CorrectnessAwareLoss()(torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([1]))
    tensor(0.4900)
    """

    reads = ("student.logits", "batch.target")

    def __init__(self, *, class_balance: bool = False) -> None:
        super().__init__()
        self.class_balance = class_balance

    def loss(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch; sequences are refused."""
        check_target(target, student_logits.shape[-1], shape=student_logits.shape[:1])
        return correctness_aware_loss(student_logits, target, class_balance=self.class_balance)
