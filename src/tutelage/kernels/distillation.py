"""Distillation between two output layers without the logits of either."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import Reduction, check_in_range, check_non_negative, check_option, check_positive
from tutelage.kernels.arguments import as_autocast, check_block_size, check_head, check_labels, wanted_gradients
from tutelage.kernels.dense_distillation import dense_distillation
from tutelage.kernels.divergence_blocks import Divergence
from tutelage.kernels.fused_distillation import DistillationRows, fused_distillation_operator
from tutelage.kernels.operators import NOWHERE


def linear_distillation(
    student_hidden: Float[Tensor, "*positions student_width"],
    student_weight: Float[Tensor, "_ student_width"],
    teacher_hidden: Float[Tensor, "*positions teacher_width"],
    teacher_weight: Float[Tensor, "_ teacher_width"],
    target: Tensor | None = None,
    *,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl",
    beta: float = 0.5,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = False,
    hard_weight: float = 0.0,
    soft_weight: float = 1.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    student_logit_scale: float = 1.0,
    teacher_logit_scale: float = 1.0,
    return_entropy: bool = False,
    common_prefix: bool = False,
    block_size: tuple[int, int] | None = None,
    accumulate: Literal["input", "float32", "compensated"] = "input",
    backend: Literal["auto", "torch", "dense"] = "auto",
    validate: bool | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Divergence between a student's and a frozen teacher's next-token predictions, from hidden states and heads.

    soft_weight · D(teacher, student) + hard_weight · cross-entropy, where neither model's token × vocabulary logits are
    ever stored. With u = student logits / temperature, w = teacher logits / temperature and their softmaxes p_S, p_T:

    - forward KL: Σ p_T (log p_T − log p_S), with gradient p_S − p_T in u;
    - reverse KL: r = Σ p_S (log p_S − log p_T), with gradient p_S (log p_S − log p_T − r);
    - JSD: β KL(p_T ‖ m) + (1 − β) KL(p_S ‖ m), m = β p_T + (1 − β) p_S, with gradient (1 − β) p_S (c − Σ p_S c), c =
      log p_S − log m.

    The scaling of Liger-Kernel's chunked losses: both terms are summed over the positions that count and divided by
    their number; β = 0 and β = 1 are forward and reverse KL and not the limits, which are 0. Ours is exact to the last
    token block, computes everything in float32 at least, and takes one exponential a logit.

    Args:
        student_hidden: `[..., student width]`.
        student_weight: `[vocabulary, student width]`.
        teacher_hidden: `[..., teacher width]`; no gradient reaches the teacher.
        teacher_weight: `[vocabulary, teacher width]`.
        target: `[...]` tokens that the positions predict, or `ignore_index`; needed for the hard term. Without it all
            positions count.
        student_bias: `[vocabulary]`.
        teacher_bias: `[vocabulary]`.
        divergence: `"forward_kl"`, `"reverse_kl"` or `"jsd"`.
        beta: The teacher's share of the mixture of `"jsd"`.
        temperature: Softens both models in the soft term; the hard term is at temperature 1.
        scale_by_temperature_squared: Multiply the soft term by temperature².
        hard_weight: Weight of the cross-entropy of `target`.
        soft_weight: Weight of the divergence.
        ignore_index: The target of positions that are left out.
        reduction: `"mean"` over the positions that count (0 when none does), their `"sum"`, or `"none"`: `[...]`, 0
            where left out, whose backward pass computes everything a second time.
        student_softcap: κ of the student: logits become κ·tanh(logit / κ).
        teacher_softcap: κ of the teacher.
        student_logit_scale: What the student multiplies hidden · weightᵀ + bias by, before the soft-cap (Cohere).
        teacher_logit_scale: The teacher's.
        return_entropy: Also return the entropy of p_S at every position, `[...]`, without gradient.
        common_prefix: Where one vocabulary has more rows (padding), compare the rows that both have.
        block_size: Tokens and vocabulary entries of a tile; two buffers of tokens × vocabulary are held.
        accumulate: As in `linear_cross_entropy`.
        backend: `"torch"` (= `"auto"`), or `"dense"`, the reference that stores both logits.
        validate: Whether to look for targets outside the vocabulary; None: on a CPU only, outside a compiler.

    Returns:
        The loss in nats, in float32 or wider; or (loss, entropy) with `return_entropy`.

    Raises:
        ValueError: Shapes or vocabularies that do not fit, a setting out of range, or no target for a hard term.
        RuntimeError: On a backward pass with `create_graph=True`, unless the back-end is `"dense"`.

    >>> one, teacher = torch.ones(1, 1), torch.tensor([[0.7], [0.2], [0.1]]).log()
    >>> linear_distillation(one, torch.tensor([[0.4], [0.4], [0.2]]).log(), one, teacher)
    tensor(0.1838)
    """
    if common_prefix:
        shared = min(len(student_weight), len(teacher_weight))
        student_weight, teacher_weight = student_weight[:shared], teacher_weight[:shared]
        student_bias = None if student_bias is None else student_bias[:shared]
        teacher_bias = None if teacher_bias is None else teacher_bias[:shared]
    check_head(student_hidden, student_weight, student_bias, student_softcap, "student_")
    check_head(teacher_hidden, teacher_weight, teacher_bias, teacher_softcap, "teacher_")
    _check(student_hidden, student_weight, teacher_hidden, teacher_weight, target, hard_weight)
    for value, name, allowed in (
        (divergence, "divergence", ("forward_kl", "reverse_kl", "jsd")),
        (reduction, "reduction", ("mean", "sum", "none")),
        (accumulate, "accumulate", ("input", "float32", "compensated")),
        (backend, "backend", ("auto", "torch", "dense")),
    ):
        check_option(value, name, allowed)
    check_in_range(beta, "beta", 0.0, 1.0)
    check_positive(temperature, "temperature")
    check_non_negative(hard_weight, "hard_weight")
    check_non_negative(soft_weight, "soft_weight")
    shape = student_hidden.shape[:-1]
    if target is not None:
        check_labels(target, shape, len(student_weight), ignore_index, validate)
        labels = torch.where(target == ignore_index, NOWHERE, target.long()).reshape(-1)
    else:
        labels = torch.zeros(shape.numel(), dtype=torch.int64, device=student_hidden.device)
    kind: str = divergence
    if kind == "jsd" and beta in (0.0, 1.0):
        kind = "reverse_kl" if beta else "forward_kl"

    scaled = (_scaled(value, student_logit_scale) for value in (student_hidden, student_bias))
    student_hidden, student_bias = scaled  # type: ignore[assignment]
    teacher_hidden, teacher_bias = (_scaled(value, teacher_logit_scale) for value in (teacher_hidden, teacher_bias))  # type: ignore[assignment]
    student = as_autocast(student_hidden, student_weight, student_bias)
    teacher = as_autocast(teacher_hidden, teacher_weight, teacher_bias)
    rows = _as_rows(student), tuple(None if value is None else value.detach() for value in _as_rows(teacher))
    soft = soft_weight * (temperature**2 if scale_by_temperature_squared else 1)
    counts = (labels != NOWHERE).to(torch.float64 if student_hidden.dtype == torch.float64 else torch.float32)
    weights = counts / counts.sum().clamp(min=1) if reduction == "mean" else counts
    softcaps = (student_softcap, teacher_softcap)
    if backend == "dense":
        setting = Divergence(kind, beta, temperature, soft, hard_weight, return_entropy)
        losses, entropies = dense_distillation(*rows, labels, *softcaps, setting)
        loss = losses if reduction == "none" else (losses * weights).sum()
    else:
        numbers, needs = [beta, temperature, soft, hard_weight], wanted_gradients(*rows[0])
        rest = (*softcaps, kind, numbers, return_entropy, needs, check_block_size(block_size), accumulate)
        arguments = (*rows[0], *rows[1], labels, weights, *rest)
        if reduction == "none":
            losses, entropies = DistillationRows.apply(*arguments)  # type: ignore[no-untyped-call]
            loss = losses
        else:
            loss, losses, entropies, *_ = fused_distillation_operator(*arguments)
    if reduction == "none":
        loss = loss.reshape(shape)
    return (loss, entropies.detach().reshape(shape)) if return_entropy else loss


def _check(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    target: Tensor | None,
    hard_weight: float,
) -> None:
    if len(student_weight) != len(teacher_weight):
        raise ValueError(
            "Expected arguments `student_weight` and `teacher_weight` to have the same vocabulary, "
            f"but got {len(student_weight)} and {len(teacher_weight)} rows "
            "(`common_prefix=True` compares those that both have)."
        )
    if student_hidden.shape[:-1] != teacher_hidden.shape[:-1]:
        raise ValueError(
            "Expected arguments `student_hidden` and `teacher_hidden` to have the same positions, "
            f"but got {tuple(student_hidden.shape)} and {tuple(teacher_hidden.shape)}."
        )
    if hard_weight > 0 and target is None:
        raise ValueError("Expected argument `target` to be given with a `hard_weight` above 0, but got None.")


def _scaled(value: Tensor | None, scale: float) -> Tensor | None:
    return value if value is None or scale == 1 else value * scale


def _as_rows(head: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    hidden, *rest = head
    assert hidden is not None
    return hidden.reshape(-1, hidden.shape[-1]), *rest


class LinearDistillationLoss(nn.Module):
    """`linear_distillation` with its settings.

    Args:
        settings: Keyword arguments of `linear_distillation` other than the biases.

    >>> loss = LinearDistillationLoss(divergence="jsd", temperature=2.0)
    >>> loss(torch.zeros(4, 3), torch.zeros(11, 3), torch.zeros(4, 5), torch.zeros(11, 5))
    tensor(0.)
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def forward(
        self,
        student_hidden: Tensor,
        student_weight: Tensor,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        target: Tensor | None = None,
        *,
        student_bias: Tensor | None = None,
        teacher_bias: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The loss of hidden states `[..., width]` under heads `[vocabulary, width]`."""
        return linear_distillation(
            student_hidden,
            student_weight,
            teacher_hidden,
            teacher_weight,
            target,
            student_bias=student_bias,
            teacher_bias=teacher_bias,
            **self.settings,
        )

    def extra_repr(self) -> str:
        """The settings."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
