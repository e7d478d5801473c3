"""Objectives on hidden states and output layers: the logits of a large vocabulary are never built."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from tutelage._checks import check_in_range, check_non_negative, check_option, check_positive
from tutelage.kernels import linear_cross_entropy, linear_distillation, linear_log_sum_exp
from tutelage.kernels.gathered import gathered_logits
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import IGNORE_INDEX, mean_over_positions
from tutelage.objectives.top_classes import Rest, check_rest, k_and_one_divergence
from tutelage.outputs import TopClasses

_STUDENT = ("student.hidden", "student.head", "student.head_bias?", "student.head_softcap?")
_TEACHER = ("teacher.hidden", "teacher.head", "teacher.head_bias?", "teacher.head_softcap?")


class LinearCrossEntropy(Objective):
    """Cross-entropy of a causal language model, from its hidden states (`tutelage.kernels.linear_cross_entropy`).

    The same loss as `CrossEntropy`, without the `[batch, time, vocabulary]` logits.

    Args:
        label_smoothing: Share of the target that is spread over all tokens.
        filter_eps: Leave out blocks of gradients below this; `"auto"` does so for half precision only.

    >>> hidden, head = torch.randn(1, 2, 4), torch.randn(9, 4)
    >>> LinearCrossEntropy()(hidden, head, None, None, torch.tensor([[3, -100]])).shape
    torch.Size([])
    """

    reads = (*_STUDENT, "batch.target")

    def __init__(self, *, label_smoothing: float = 0.0, filter_eps: float | Literal["auto"] | None = "auto") -> None:
        super().__init__()
        check_in_range(label_smoothing, "label_smoothing", 0.0, 1.0)
        self.label_smoothing = label_smoothing
        self.filter_eps = filter_eps

    def loss(self, hidden: Tensor, head: Tensor, bias: Tensor | None, softcap: float | None, target: Tensor) -> Tensor:
        """The mean over labelled positions; 0 when there is none."""
        loss: Any = linear_cross_entropy(
            hidden,
            head,
            target,
            bias=bias,
            softcap=softcap,
            label_smoothing=self.label_smoothing,
            filter_eps=self.filter_eps,
            empty="zero",
        )
        assert isinstance(loss, Tensor)
        return loss


class LinearDistillation(Objective):
    """A divergence from teacher to student, from both models' hidden states (`tutelage.kernels.linear_distillation`).

    The same loss as `TokenDivergence` (or, with `hard_weight`, a mixture with cross-entropy), without the logits of
    either model. The two may differ in width; of vocabularies that differ in size the common rows are compared.

    Args:
        divergence: `"forward_kl"`, `"reverse_kl"` or `"jsd"`.
        beta: The teacher's share of the mixture of `"jsd"`.
        temperature: Softens both predictions.
        scale_by_temperature_squared: Multiply the divergence by temperature².
        hard_weight: Weight of the cross-entropy of the labels.
        soft_weight: Weight of the divergence.

    >>> hidden, head = torch.randn(1, 2, 4), torch.randn(9, 4)
    >>> parts = (hidden, head, None, None)
    >>> float(LinearDistillation()(*parts, *parts, torch.tensor([[3, -100]]))) < 1e-6
    True
    """

    reads = (*_STUDENT, *_TEACHER, "batch.target?")

    def __init__(
        self,
        *,
        divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl",
        beta: float = 0.5,
        temperature: float = 1.0,
        scale_by_temperature_squared: bool = False,
        hard_weight: float = 0.0,
        soft_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_option(divergence, "divergence", ("forward_kl", "reverse_kl", "jsd"))
        check_in_range(beta, "beta", 0.0, 1.0)
        check_positive(temperature, "temperature")
        check_non_negative(hard_weight, "hard_weight")
        check_non_negative(soft_weight, "soft_weight")
        self.options: dict[str, Any] = {
            "divergence": divergence,
            "beta": beta,
            "temperature": temperature,
            "scale_by_temperature_squared": scale_by_temperature_squared,
            "hard_weight": hard_weight,
            "soft_weight": soft_weight,
        }

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())

    def loss(self, *parts: Any) -> Tensor:
        """The mean over the positions that are not to be skipped."""
        hidden, head, bias, softcap, teacher_hidden, teacher_head, teacher_bias, teacher_softcap, target = parts
        loss: Any = linear_distillation(
            hidden,
            head,
            teacher_hidden,
            teacher_head,
            target,
            student_bias=bias,
            teacher_bias=teacher_bias,
            student_softcap=softcap,
            teacher_softcap=teacher_softcap,
            common_prefix=len(head) != len(teacher_head),
            **self.options,
        )
        assert isinstance(loss, Tensor)
        return loss


class LinearTopKForwardKL(Objective):
    """`TopKForwardKL` from the student's hidden states: k logits a position and one log-sum-exp, never all logits.

    The teacher gives `Outputs.top` (a cache built with `top_k`, or a served model), so that neither model's logits are
    in memory.

    Args:
        rest: What happens to the tokens that the teacher does not tell: `"bucket"` or `"ignore"`.

    >>> top = TopClasses(torch.tensor([[[0.5]]]).log(), torch.tensor([[[2]]]), torch.tensor([[0.5]]).log())
    >>> LinearTopKForwardKL()(torch.zeros(1, 1, 3), torch.zeros(4, 3), None, None, top, None)
    tensor(0.1438)
    """

    reads = (*_STUDENT, "teacher.top", "batch.target?")

    def __init__(self, *, rest: Rest = "bucket") -> None:
        super().__init__()
        check_rest(rest)
        self.rest: Rest = rest

    def loss(
        self,
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        softcap: float | None,
        teacher_top: TopClasses,
        target: Tensor | None,
    ) -> Tensor:
        """The mean over the positions that are not to be skipped."""
        kept = torch.ones_like(teacher_top.log_rest, dtype=torch.bool) if target is None else target != IGNORE_INDEX
        rows, classes = hidden[kept], teacher_top.classes[kept]
        logits = gathered_logits(rows, head, classes)
        if bias is not None:
            logits = logits + bias[classes]
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        known = logits - linear_log_sum_exp(rows, head, bias, softcap).unsqueeze(-1)
        student_rest = (-torch.expm1(known.logsumexp(dim=-1).clamp(max=-1e-7))).log() if self.rest == "bucket" else None
        log_rest = teacher_top.log_rest[kept] if classes.shape[-1] < len(head) else None
        return mean_over_positions(k_and_one_divergence(teacher_top.log_probs[kept], log_rest, known, student_rest))
