"""How often a model is right, how likely it finds the truth, and whether it ranks wrong classes as its teacher does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_at_least, check_floating, check_same_logits, check_target

PAIR_BUDGET = 1 << 22  # class pairs held at once by `rank_agreement`: 4 Mi, i.e. tens of megabytes


def accuracy(
    logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"], *, ignore_index: int = -100
) -> float:
    """The share of samples whose highest logit is that of the target class.

    Args:
        logits: Logits, probabilities or any other scores by class. Among equal scores the first class counts.
        target: Classes in [0, classes), or `ignore_index`.
        ignore_index: Samples with this target are left out.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: Shapes do not match, a target is no class, or no sample is left.

    >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1, 1, 0]))
    0.75
    """
    scores, classes = _kept(logits, target, ignore_index)
    return float((scores.argmax(dim=-1) == classes).double().mean())


def top_k_accuracy(
    logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"], *, k: int = 5, ignore_index: int = -100
) -> float:
    """The share of samples whose target is among the `k` highest logits.

    A class with the same score as the target's goes before it only if its number is lower, so that `k = 1` is
    `accuracy` and constant logits earn nothing by ties.

    Args:
        logits: Scores by class.
        target: Classes in [0, classes), or `ignore_index`.
        k: How many guesses a sample has; at most the number of classes.
        ignore_index: Samples with this target are left out.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: `k` is not in [1, classes], shapes do not match, a target is no class, or no sample is left.

    >>> top_k_accuracy(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([1, 2]), k=2)
    0.5
    """
    hits, _ = _within_top_k(logits, target, k, ignore_index)
    return float(hits.double().mean())


def balanced_top_k_accuracy(
    logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"], *, k: int = 1, ignore_index: int = -100
) -> float:
    """The mean over classes of `top_k_accuracy` on the class's samples: rare classes count as much as common ones.

    Classes without samples are left out. Arguments and errors are those of `top_k_accuracy`; `k = 1` gives the mean of
    `per_class_recall`.

    Returns:
        A fraction in [0, 1].

    >>> balanced_top_k_accuracy(torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 0, 1]))
    0.5
    """
    hits, classes = _within_top_k(logits, target, k, ignore_index)
    counts = torch.bincount(classes)
    rates = torch.bincount(classes[hits], minlength=len(counts)).double() / counts
    return float(rates[counts > 0].mean())


def negative_log_likelihood(
    logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"], *, ignore_index: int = -100
) -> float:
    """The mean over samples of −log softmax(logits)[target], in nats.

    Args:
        logits: Unnormalised log-probabilities.
        target: Classes in [0, classes), or `ignore_index`.
        ignore_index: Samples with this target are left out.

    Raises:
        ValueError: Shapes do not match, a target is no class, or no sample is left.

    >>> round(negative_log_likelihood(torch.zeros(3, 2), torch.tensor([0, 1, 1])), 6)
    0.693147
    """
    scores, classes = _kept(logits, target, ignore_index)
    return float(F.cross_entropy(_at_least_float32(scores), classes, reduction="none").double().mean())


def rank_agreement(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, "batch"],
) -> float:
    """Whether a student ranks the wrong classes as its teacher does: mean Kendall τ-b over the non-label classes.

    For each sample τ-b = Σ sign(sᵢ − sⱼ)·sign(tᵢ − tⱼ) / √(n_s·n_t) over the pairs i < j of classes other than the
    label, where n_s and n_t count the pairs that are not tied in s and in t. A sample in which all of one side's logits
    are tied has no order to compare and is left out. Cost: batch · classes² operations, in blocks of bounded memory.

    Args:
        student_logits: The student's scores by class.
        teacher_logits: The teacher's.
        target: The label of each sample, which is left out of its ranking.

    Returns:
        A number in [−1, 1]; NaN if no sample has an order.

    Raises:
        ValueError: Shapes do not match, there are fewer than three classes, or a target is no class.

    Source: M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945); used on logits to test the
    Plackett–Luce distillation of arXiv 2506.12542.

    >>> logits = torch.tensor([[9.0, 3.0, 2.0, 1.0]])
    >>> rank_agreement(logits, logits * 2, torch.tensor([0])), rank_agreement(logits, -logits, torch.tensor([0]))
    (1.0, -1.0)
    """
    check_same_logits(student_logits, teacher_logits)
    batch, classes = student_logits.shape
    check_target(target, classes, shape=(batch,))
    if classes < 3:
        raise ValueError(f"Expected argument `student_logits` to have at least 3 classes, but got {classes}.")
    others = torch.ones_like(student_logits, dtype=torch.bool).scatter_(1, target.long()[:, None], False)
    student = student_logits[others].view(batch, classes - 1)
    teacher = teacher_logits[others].view(batch, classes - 1)
    total, counted = 0.0, 0
    for start in range(0, batch, max(1, PAIR_BUDGET // classes**2)):
        rows = slice(start, start + max(1, PAIR_BUDGET // classes**2))
        order_s, order_t = _pair_signs(student[rows]), _pair_signs(teacher[rows])
        concordance = (order_s * order_t).sum(dim=(1, 2)).double()
        untied = order_s.abs().sum(dim=(1, 2)).double() * order_t.abs().sum(dim=(1, 2)).double()
        ordered = untied > 0
        total += float((concordance[ordered] / untied[ordered].sqrt()).sum())
        counted += int(ordered.sum())
    return total / counted if counted else float("nan")


def _within_top_k(logits: Tensor, target: Tensor, k: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Whether each counted sample's target is among its k highest logits, and that target."""
    check_at_least(k, "k", 1)
    if k > logits.shape[-1]:
        raise ValueError(f"Expected argument `k` to be at most the number of classes {logits.shape[-1]}, but got {k}.")
    scores, classes = _kept(logits, target, ignore_index)
    own = scores.gather(-1, classes[:, None])
    earlier = torch.arange(scores.shape[-1], device=scores.device) < classes[:, None]
    before = (scores > own) | ((scores == own) & earlier)
    return before.sum(dim=-1) < k, classes


def _pair_signs(scores: Tensor) -> Tensor:
    """The sign of every difference of two scores in a row: [batch, n] → [batch, n, n] int8."""
    left, right = scores[:, :, None], scores[:, None, :]
    return (left > right).to(torch.int8) - (left < right).to(torch.int8)


def _kept(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The rows that have a target, flat: [n, classes] and [n]."""
    check_floating(logits, "logits")
    check_target(target, logits.shape[-1], shape=logits.shape[:-1], ignore_index=ignore_index)
    flat = target.reshape(-1).long()
    kept = flat != ignore_index
    if not kept.any():
        raise ValueError("Expected argument `target` to hold at least one class, but every sample is left out.")
    return logits.reshape(-1, logits.shape[-1])[kept], flat[kept]


def _at_least_float32(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
