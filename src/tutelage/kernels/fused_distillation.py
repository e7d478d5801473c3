"""Distillation between two heads as one PyTorch operator: values of tokens, and the gradients of their weighted sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutelage.kernels.blocks import choose_blocks, row_blocks
from tutelage.kernels.divergence_blocks import Divergence, DivergenceBlock
from tutelage.kernels.head import LabelPlaces, LinearHead, compute_dtype
from tutelage.kernels.head_gradient import HeadGradient
from tutelage.kernels.operators import NOWHERE, forbid_second_derivative, scaled_gradients


@torch.library.custom_op(
    "tutelage::fused_linear_distillation",
    mutates_args=(),
    schema="(Tensor student_hidden, Tensor student_weight, Tensor? student_bias, Tensor teacher_hidden, "
    "Tensor teacher_weight, Tensor? teacher_bias, Tensor target, Tensor row_weight, float? student_softcap, "
    "float? teacher_softcap, str kind, float[] numbers, bool entropy, bool[] needs, int[]? block_size, "
    "str accumulate) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def fused_distillation_operator(
    student_hidden: Tensor,
    student_weight: Tensor,
    student_bias: Tensor | None,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor | None,
    target: Tensor,
    row_weight: Tensor,
    student_softcap: float | None,
    teacher_softcap: float | None,
    kind: str,
    numbers: list[float],
    entropy: bool,
    needs: list[bool],
    block_size: list[int] | None,
    accumulate: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses of tokens, and the gradients of their sum weighted by `row_weight`.

    Args:
        student_hidden: `[tokens, student width]`.
        student_weight: `[vocabulary, student width]`.
        student_bias: `[vocabulary]` or None.
        teacher_hidden: `[tokens, teacher width]`.
        teacher_weight: `[vocabulary, teacher width]`.
        teacher_bias: `[vocabulary]` or None.
        target: `[tokens]`; `NOWHERE` for tokens that are left out.
        row_weight: `[tokens]`.
        student_softcap: The student's soft-cap.
        teacher_softcap: The teacher's.
        kind: The divergence.
        numbers: β, temperature, weight of the soft and of the hard term.
        entropy: Whether the student's entropies are wanted.
        needs: Whether the gradients of the student's hidden states, weight and bias are wanted.
        block_size: Tokens and vocabulary entries of a tile.
        accumulate: See `HeadGradient`.

    Returns:
        Weighted sum; losses `[tokens]`, 0 where left out; entropies (or nothing); three gradients (or nothing).
    """
    beta, temperature, soft_weight, hard_weight = numbers
    divergence = Divergence(kind, beta, temperature, soft_weight, hard_weight, entropy)
    student = LinearHead(student_weight, student_bias, student_softcap)
    teacher = LinearHead(teacher_weight, teacher_bias, teacher_softcap)
    wide = compute_dtype(torch.promote_types(student_hidden.dtype, teacher_hidden.dtype))
    student, teacher = student.computing_in(wide), teacher.computing_in(wide)
    tokens, vocabulary = len(student_hidden), len(student_weight)
    buffers = 2 + (hard_weight > 0 and temperature != 1) + (student_softcap is not None)
    pair = None if block_size is None else (block_size[0], block_size[1])
    rows, columns = choose_blocks(pair, tokens, vocabulary, student_hidden.device, buffers=buffers)
    valid = (target != NOWHERE).nonzero().squeeze(1)
    losses = torch.zeros(tokens, dtype=wide, device=student_hidden.device)
    entropies = torch.zeros_like(losses) if entropy else losses.new_zeros(0)
    grad_hidden = torch.zeros_like(student_hidden, memory_format=torch.contiguous_format) if needs[0] else None
    sums = HeadGradient(student_weight, accumulate, wide, whole=len(valid) > 0) if needs[1] else None
    grad_bias = losses.new_zeros(vocabulary if needs[2] else 0)
    block = DivergenceBlock(student, teacher, divergence, min(rows, len(valid)), columns, wide) if len(valid) else None
    for first, last in row_blocks(len(valid), rows):
        assert block is not None
        kept = valid[first:last]
        states, teacher_states = student_hidden[kept].to(wide), teacher_hidden[kept].to(wide)
        labels = LabelPlaces.of(target[kept], block.spans) if hard_weight else None
        values, uncertainty = block.values(states, teacher_states, labels)
        losses.index_copy_(0, kept, values)
        if entropy:
            entropies.index_copy_(0, kept, uncertainty)
        if not any(needs):
            continue
        weights = row_weight[kept].to(wide)
        part, scaled = torch.zeros_like(states), states * weights[:, None]
        for start, stop, delta in block.gradients():
            if needs[0]:
                part.addmm_(delta, student.rows(start, stop))
            if sums is not None:
                sums.add(start, stop, delta, scaled, first=first == 0)
            if needs[2]:
                grad_bias[start:stop].addmv_(delta.t(), weights)
        if grad_hidden is not None:
            grad_hidden.index_copy_(0, kept, part.mul_(weights[:, None]).to(grad_hidden.dtype))
    nothing = student_hidden.new_zeros(0)
    return (
        losses.dot(row_weight.to(wide)),
        losses,
        entropies,
        nothing if grad_hidden is None else grad_hidden,
        nothing.clone() if sums is None else sums.result(),
        grad_bias if student_bias is None else grad_bias.to(student_bias.dtype),
    )


@fused_distillation_operator.register_fake
def _(student_hidden: Tensor, student_weight: Tensor, student_bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    teacher_hidden, entropy, needs = rest[0], rest[9], rest[10]
    wide, tokens = compute_dtype(torch.promote_types(student_hidden.dtype, teacher_hidden.dtype)), len(student_hidden)
    new = student_hidden.new_empty
    sources = zip((student_hidden, student_weight, student_bias), needs, strict=True)
    gradients = [
        new(source.shape, dtype=source.dtype) if needed and source is not None else new(0) for source, needed in sources
    ]
    if not needs[2]:
        gradients[2] = new(0, dtype=wide if student_bias is None else student_bias.dtype)
    return new((), dtype=wide), new(tokens, dtype=wide), new(tokens if entropy else 0, dtype=wide), *gradients


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[3:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.needs = inputs[13]


def _backward(ctx: Any, upstream: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
    gradients = scaled_gradients(ctx.saved_tensors, upstream, ctx.needs)
    return *gradients, *[None] * 13


torch.library.register_autograd("tutelage::fused_linear_distillation", _backward, setup_context=_context)


class DistillationRows(torch.autograd.Function):
    """The losses of single tokens: the backward pass does all of it again, as only then their weights are known."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Losses and entropies from the arguments of `fused_distillation_operator`."""
        ctx.save_for_backward(*arguments[:7])
        ctx.rest = arguments[8:]
        without = (*arguments[:13], [False] * 3, *arguments[14:])
        _, losses, entropies, *_ = fused_distillation_operator(*without)
        ctx.mark_non_differentiable(entropies)
        return losses, entropies

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the losses weighted by their upstream gradients."""
        forbid_second_derivative()
        *_, grad_hidden, grad_weight, grad_bias = fused_distillation_operator(
            *ctx.saved_tensors, upstream[0].contiguous(), *ctx.rest
        )
        needs = ctx.rest[5]
        found = [
            value if needed else None
            for value, needed in zip((grad_hidden, grad_weight, grad_bias), needs, strict=True)
        ]
        return *found, *[None] * 13
