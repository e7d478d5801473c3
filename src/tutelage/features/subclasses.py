"""Subclass distillation: the loss towards soft targets over S subclasses of each class, and what they say of classes.

Outputs are class-major: subclass s of class c is output c · S + s.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from tutelage._checks import Reduction, check_at_least, check_floating, check_positive, check_probabilities, reduce
from tutelage.objectives.objective import Objective
from tutelage.objectives.precision import at_least_float32, log_probabilities


def subclass_distillation(
    student_logits: Float[Tensor, "batch outputs"],
    targets: Float[Tensor, "batch classes subclasses"],
    *,
    temperature: float = 1.0,
    scale_by_squared_temperature: bool = True,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy of the student's subclasses against soft targets: −τ² Σ q log softmax(z / τ) over all C · S cells.

    With one subclass a class it is the cross-entropy of classic distillation. The gradient of the mean is
    τ (softmax(z / τ) − q) / batch; only `student_logits` get one. The least value is τ² times the entropy of q, not 0.

    Args:
        student_logits: `[batch, classes * subclasses]`, class-major, of a `SubclassHead`.
        targets: `[batch, classes, subclasses]`, probabilities that sum to 1 over all cells of a sample (within 1e-4).
        temperature: τ of the student. That of the teacher is in the targets already.
        scale_by_squared_temperature: Multiply by τ², so that gradients keep their size as τ changes.
        reduction: `"mean"` over the batch, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In nats, in float32 or wider: a scalar, or `[batch]`.

    Raises:
        ValueError: Shapes that differ, targets that are negative or do not sum to 1, a temperature that is not
            positive, or an unknown reduction.

    Source: LELP, arXiv 2409.20449, section 3.

    >>> import torch
    >>> targets = torch.tensor([[[0.375, 0.375], [0.125, 0.125]]])
    >>> subclass_distillation(torch.zeros(1, 4), targets)  # log 4
    tensor(1.3863)
    """
    check_positive(temperature, "temperature")
    check_floating(student_logits, "student_logits")
    cells = targets.detach().flatten(1)
    if cells.shape != student_logits.shape:
        raise ValueError(
            "Expected argument `student_logits` to hold an output for each of classes × subclasses of `targets`, "
            f"but got shapes {tuple(student_logits.shape)} and {tuple(targets.shape)}."
        )
    check_probabilities(cells, "targets")
    loss = -(at_least_float32(cells) * log_probabilities(student_logits, temperature)).sum(dim=1)
    return reduce(loss * temperature**2 if scale_by_squared_temperature else loss, reduction)


def class_log_probabilities(
    student_logits: Float[Tensor, "batch outputs"], num_classes: int
) -> Float[Tensor, "batch classes"]:
    """What subclass logits say about the classes: logsumexp over the subclasses of each, normalised over the classes.

    Args:
        student_logits: `[batch, num_classes * subclasses]`, class-major.
        num_classes: C.

    Returns:
        `[batch, num_classes]`, in float32 or wider, differentiable; `exp` of a row sums to 1.

    Raises:
        ValueError: The number of outputs is no multiple of the number of classes.

    >>> import torch
    >>> class_log_probabilities(torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log(), 2).exp()
    tensor([[0.7500, 0.2500]])
    """
    check_at_least(num_classes, "num_classes", 1)
    check_floating(student_logits, "student_logits")
    samples, outputs = student_logits.shape
    if outputs == 0 or outputs % num_classes:
        raise ValueError(
            f"Expected argument `student_logits` to hold a multiple of {num_classes} outputs, but got {outputs}."
        )
    return log_probabilities(student_logits).reshape(samples, num_classes, -1).logsumexp(dim=2)


class SubclassDistillation(Objective):
    """Mean `subclass_distillation` of a batch, for targets that were made beforehand.

    The student's output layer is a `SubclassHead` in a `SubclassClassifier`; the targets travel with the samples as
    the extra `subclass_targets`, `[batch, classes, subclasses]`. For targets that a run makes from its teacher see
    `LinearProjectionDistillation`.

    Args:
        temperature: τ of the student.

    >>> import torch
    >>> SubclassDistillation()(torch.zeros(1, 4), torch.tensor([[[0.375, 0.375], [0.125, 0.125]]]))
    tensor(1.3863)
    """

    reads = ("student.features.subclasses", "batch.extras.subclass_targets")

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__()
        check_positive(temperature, "temperature")
        self.temperature = temperature

    def loss(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over the batch."""
        return subclass_distillation(student_logits, targets, temperature=self.temperature)
