"""Distillation from a teacher's likeliest classes alone, and what all others share."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_option, check_same_shape
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import counted, mean_over_positions
from tutelage.objectives.precision import at_least_float32
from tutelage.outputs import TopClasses

Rest = Literal["bucket", "ignore"]
"""What happens to the classes that the teacher does not tell: they count as one, or not at all."""


def top_k_forward_kl(
    student_logits: Float[Tensor, "*positions classes"],
    teacher_log_probs: Float[Tensor, "*positions k"],
    teacher_classes: Int[Tensor, "*positions k"],
    teacher_log_rest: Float[Tensor, "*positions"] | None = None,
    *,
    rest: Rest = "bucket",
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """KL(teacher ‖ student) over the teacher's k likeliest classes and one more outcome: any other class.

    With `rest="bucket"` it is Σ_{v ∈ top} p_v (log p_v − log q_v) + p_rest (log p_rest − log q_rest), where q are the
    student's probabilities of the same k classes and q_rest the sum of its others: a lower bound of the whole
    divergence (data processing), 0 exactly where all k + 1 probabilities agree, and the whole divergence for k = C − 1.
    With `rest="ignore"` the last term is left out; what the student gives to other classes then still costs, since its
    softmax is over all classes, but the loss is no divergence: it can be negative, and it has no minimum at q = p.

    The student's logits are read three times; no second tensor of their size is kept besides their gradient. The
    temperature is the one at which the teacher was asked: what is not told can not be tempered.

    Args:
        student_logits: `[…, classes]`; the gradient goes here, and only here.
        teacher_log_probs: `[…, k]`, at most 0.
        teacher_classes: `[…, k]` distinct classes.
        teacher_log_rest: `[…]` log of what remains; by default computed from the k.
        rest: What happens to the other classes.
        reduction: `"mean"` over positions (0 when there are none), `"sum"`, or `"none"`: `[…]`.

    Returns:
        Nats, in float32 or wider.

    Raises:
        ValueError: Shapes that differ, an unknown option.

    Source: the usual form of offline distillation for language models; the bucket is ours.

    >>> log_probs = torch.tensor([[0.7, 0.2]]).log()
    >>> classes = torch.tensor([[0, 1]])
    >>> top_k_forward_kl(torch.tensor([[0.4, 0.4, 0.2]]).log(), log_probs, classes)
    tensor(0.1838)
    """
    check_rest(rest)
    check_option(reduction, "reduction", ("mean", "sum", "none"))
    check_same_shape(teacher_log_probs, teacher_classes, "teacher_log_probs", "teacher_classes")
    check_same_shape(
        student_logits[..., 0], teacher_log_probs[..., 0], "student_logits[..., 0]", "teacher_log_probs[..., 0]"
    )
    logits = at_least_float32(student_logits)
    total = logits.logsumexp(dim=-1, keepdim=True)
    student = logits.gather(-1, teacher_classes) - total
    known = teacher_log_probs.to(logits.dtype)
    log_rest = _log_of_the_rest(known) if teacher_log_rest is None else teacher_log_rest.to(logits.dtype)
    student_rest = None
    if rest == "bucket" and teacher_classes.shape[-1] < logits.shape[-1]:
        student_rest = logits.scatter(-1, teacher_classes, -torch.inf).logsumexp(dim=-1) - total.squeeze(-1)
    values = k_and_one_divergence(known, log_rest, student, student_rest)
    if reduction == "none":
        return values
    return values.sum() if reduction == "sum" else mean_over_positions(values)


class TopKForwardKL(Objective):
    """`top_k_forward_kl` from a teacher that gives `Outputs.top`: a cache built with `top_k`, or a served model.

    Args:
        rest: What happens to the classes that the teacher does not tell.

    >>> from tutelage.outputs import TopClasses
    >>> top = TopClasses(torch.tensor([[0.5]]).log(), torch.tensor([[2]]), torch.tensor([0.5]).log())
    >>> TopKForwardKL()(torch.zeros(1, 4), top, None)
    tensor(0.1438)
    """

    reads = ("student.logits", "teacher.top", "batch.target?")

    def __init__(self, *, rest: Rest = "bucket") -> None:
        super().__init__()
        check_rest(rest)
        self.rest: Rest = rest

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return f"rest={self.rest!r}"

    def loss(self, student_logits: Tensor, teacher_top: TopClasses, target: Tensor | None) -> Tensor:
        """The mean over samples, or over the positions of sequences that are not to be skipped."""
        log_probs, classes, log_rest = teacher_top
        student, log_probs, classes, log_rest = counted(
            target, student_logits, log_probs, classes, log_rest.unsqueeze(-1)
        )
        return top_k_forward_kl(student, log_probs, classes, log_rest.squeeze(-1), rest=self.rest)


def check_rest(rest: str) -> None:
    """Raise `ValueError` unless `rest` is a way to treat the classes that are not told."""
    check_option(rest, "rest", ("bucket", "ignore"))


def k_and_one_divergence(
    teacher: Tensor, teacher_rest: Tensor | None, student: Tensor, student_rest: Tensor | None
) -> Tensor:
    """Σ p (log p − log q) over `[…, k]` known classes, and over the rest `[…]` where both sides give one.

    >>> half = torch.tensor([0.5]).log()
    >>> k_and_one_divergence(half, half[0], torch.tensor([0.25]).log(), torch.tensor(0.75).log())
    tensor(0.1438)
    """
    values = _expected_gap(teacher.detach(), student).sum(dim=-1)
    if teacher_rest is None or student_rest is None:
        return values
    return values + _expected_gap(teacher_rest.detach(), student_rest)


def _expected_gap(log_p: Tensor, log_q: Tensor) -> Tensor:
    """P (log p − log q), and 0 where p is 0."""
    p = log_p.exp()
    return p * torch.where(p > 0, log_p - log_q, 0.0)


def _log_of_the_rest(log_probs: Tensor) -> Tensor:
    """log(1 − Σ p), −∞ where the known classes hold everything."""
    return (-torch.expm1(log_probs.logsumexp(dim=-1).clamp(max=0.0))).log()
