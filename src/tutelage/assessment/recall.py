"""How many samples of a class are found: class by class, and of classes that a student was never shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_floating, check_in_range, check_target


def per_class_recall(
    logits: Float[Tensor, "samples classes"], target: Int[Tensor, "samples"]
) -> Float[Tensor, "classes"]:
    """The share of each class's samples whose highest logit is that class's.

    Args:
        logits: Scores by class. Among equal scores the first class counts.
        target: The true class of each sample.

    Returns:
        `[classes]` float64, in [0, 1]; NaN for a class without samples.

    Raises:
        ValueError: Lengths differ, or a target is no class.

    >>> per_class_recall(torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]]), torch.tensor([0, 1, 1]))
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    check_floating(logits, "logits")
    num_classes = logits.shape[1]
    check_target(target, num_classes, shape=logits.shape[:1])
    found = target[logits.argmax(dim=1) == target]
    hits, counts = (torch.bincount(labels.long(), minlength=num_classes).double() for labels in (found, target))
    return hits / counts


def zero_shot_recall(
    logits: Float[Tensor, "samples classes"], target: Int[Tensor, "samples"], classes: Sequence[int]
) -> float:
    """The mean recall of the classes that a student never saw a sample of (`tutelage.data.drop_classes`).

    The student chooses among all classes, seen ones too. Every unseen class counts alike, however many samples it has.

    Args:
        logits: Scores by class, of the whole test part.
        target: The true class of each sample.
        classes: The unseen classes.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: Lengths differ, a target is no class, `classes` is empty, or one of them is no class or has no
            sample.

    Source: Ye et al., ICLR 2024, arXiv 2401.08732, zero-shot experiments.

    >>> zero_shot_recall(torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]]), torch.tensor([0, 1, 1]), [1])
    0.5
    """
    recall = per_class_recall(logits, target)
    if not len(classes):
        raise ValueError("Expected argument `classes` to hold at least one class, but it is empty.")
    for label in classes:
        check_in_range(label, "classes", 0, len(recall) - 1)
        if recall[label].isnan():
            raise ValueError(f"Expected argument `classes` to hold classes of the data, but {label} has no sample.")
    return float(recall[list(classes)].mean())
