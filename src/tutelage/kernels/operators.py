"""The kernels as PyTorch operators, so that a compiler sees one opaque call each, and their gradients.

`fused`: the loss, with its gradients computed on the way. `row_values`: log-sum-exp and label logit of every token;
its gradient is a second operator that makes the logits again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutelage.kernels.blocks import choose_blocks
from tutelage.kernels.blockwise import order_by_mean_logit, row_gradients, row_values
from tutelage.kernels.fused import Filter, fused_cross_entropy
from tutelage.kernels.head import LinearHead, compute_dtype

NOWHERE = -(2**62)
"""The target of a token that is left out."""


@torch.library.custom_op(
    "tutelage::fused_linear_cross_entropy",
    mutates_args=(),
    schema="(Tensor hidden, Tensor weight, Tensor? bias, Tensor target, float? softcap, float label_smoothing, "
    "bool mean, float empty, bool[] needs, float? epsilon, bool[] filtered, int[]? block_size, str accumulate) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)
def fused_operator(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    softcap: float | None,
    label_smoothing: float,
    mean: bool,
    empty: float,
    needs: list[bool],
    epsilon: float | None,
    filtered: list[bool],
    block_size: list[int] | None,
    accumulate: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`fused_cross_entropy` as an operator."""
    rows, columns = choose_blocks(
        _pair(block_size), len(hidden), len(weight), hidden.device, buffers=1 if softcap is None else 2
    )
    return fused_cross_entropy(
        hidden,
        LinearHead(weight, bias, softcap),
        target,
        ignore_index=NOWHERE,
        label_smoothing=label_smoothing,
        mean=mean,
        empty=empty,
        needs=(needs[0], needs[1], needs[2]),
        skipping=Filter(epsilon, *filtered),
        rows=rows,
        columns=columns,
        accumulate=accumulate,
    )


@fused_operator.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    needs = rest[4]
    loss = hidden.new_empty((), dtype=compute_dtype(hidden.dtype))
    return loss, *_gradients_like(hidden, weight, bias, needs)


def _fused_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.needs = inputs[8]


def _fused_backward(ctx: Any, upstream: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
    gradients = scaled_gradients(ctx.saved_tensors, upstream, ctx.needs)
    return gradients[0], gradients[1], gradients[2], *[None] * 10


torch.library.register_autograd("tutelage::fused_linear_cross_entropy", _fused_backward, setup_context=_fused_context)


def scaled_gradients(
    saved: tuple[Tensor, ...], upstream: Tensor | None, needs: list[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients that were computed in forward, times the gradient of the loss.

    They are given away as they are, without a copy, unless the graph is kept for another backward pass.

    Raises:
        RuntimeError: A second derivative is asked for.
    """
    forbid_second_derivative()
    if upstream is None:
        return tuple(None for _ in saved)
    if torch.compiler.is_compiling() or _graph_is_kept():
        return tuple(
            (value * upstream).to(value.dtype) if needed else None for value, needed in zip(saved, needs, strict=True)
        )
    # A new tensor over the same memory: as nothing else holds it, `.grad` takes it over.
    given = [value.detach() if needed else None for value, needed in zip(saved, needs, strict=True)]
    if upstream.device.type != "cpu" or upstream.item() != 1:
        for value in given:
            if value is not None:
                value.mul_(upstream)
    return tuple(given)


def forbid_second_derivative() -> None:
    """Raise `RuntimeError` in a backward pass with `create_graph=True`."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "Expected `create_graph=False`: the linear losses have no second derivative. Use `backend='dense'` for it."
        )


def _graph_is_kept() -> bool:
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if asked is None else bool(asked())


@torch.library.custom_op(
    "tutelage::linear_row_values",
    mutates_args=(),
    schema="(Tensor hidden, Tensor weight, Tensor? bias, Tensor target, float? softcap, bool with_sum, bool sorts, "
    "float? epsilon, bool[] filtered, int[]? block_size, str backend) -> (Tensor, Tensor, Tensor)",
)
def row_values_operator(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    softcap: float | None,
    with_sum: bool,
    sorts: bool,
    epsilon: float | None,
    filtered: list[bool],
    block_size: list[int] | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """`row_values` of the tokens that are not left out, as an operator; 0 for the others.

    `sorts`, `epsilon` and `filtered` are for the gradient only.
    """
    valid = _valid(target)
    states, labels = (hidden, target) if valid is None else (hidden[valid], target[valid])
    head = LinearHead(weight, bias, softcap)
    rows, columns = choose_blocks(_pair(block_size), len(states), len(weight), hidden.device)
    if backend == "triton":
        from tutelage.kernels.triton_rows import triton_row_values

        lse, label, total = triton_row_values(states, head, labels, with_sum=with_sum)
    else:
        lse, label, total = row_values(states, head, labels, rows=rows, columns=columns, with_sum=with_sum)
    if valid is not None:
        lse, label = _spread(lse, valid, len(target)), _spread(label, valid, len(target))
        total = _spread(total, valid, len(target)) if with_sum else total
    return lse, label, total


@row_values_operator.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    softcap: float | None,
    with_sum: bool,
    *rest: Any,
) -> tuple[Tensor, ...]:
    wide, tokens = compute_dtype(hidden.dtype), hidden.shape[0]
    sizes = (tokens, tokens, tokens if with_sum else 0)
    return tuple(hidden.new_empty(size, dtype=wide) for size in sizes)


@torch.library.custom_op(
    "tutelage::linear_row_gradients",
    mutates_args=(),
    schema="(Tensor hidden, Tensor weight, Tensor? bias, Tensor target, Tensor normaliser, Tensor by_lse, "
    "Tensor by_label, Tensor? by_sum, float? softcap, bool[] needs, bool sorts, float? epsilon, bool[] filtered, "
    "int[]? block_size, str backend) -> (Tensor, Tensor, Tensor)",
)
def row_gradients_operator(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    normaliser: Tensor,
    by_lse: Tensor,
    by_label: Tensor,
    by_sum: Tensor | None,
    softcap: float | None,
    needs: list[bool],
    sorts: bool,
    epsilon: float | None,
    filtered: list[bool],
    block_size: list[int] | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """`row_gradients` of the tokens that are not left out, as an operator; exactly 0 for the others."""
    valid = _valid(target)
    values: list[Any] = [hidden, target, normaliser, by_lse, by_label, by_sum]
    if valid is not None:
        values = [None if value is None else value[valid] for value in values]
    states, labels, lse, *upstream = values
    order = None
    if sorts and len(states):
        order = order_by_mean_logit(states, weight, bias)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        here = (labels >= 0) & (labels < len(order))
        labels = torch.where(here, place[labels.clamp(0, len(order) - 1)], NOWHERE)
    head = LinearHead(weight, bias, softcap, order)
    gradients = (upstream[0], upstream[1], upstream[2])
    wanted, skipping = (needs[0], needs[1], needs[2]), Filter(epsilon, *filtered)
    rows, columns = choose_blocks(_pair(block_size), len(states), len(weight), hidden.device)
    if backend == "triton":
        from tutelage.kernels.triton_rows import triton_row_gradients

        found = triton_row_gradients(states, head, labels, lse, gradients, needs=wanted, skipping=skipping)
    else:
        found = row_gradients(
            states, head, labels, lse, gradients, needs=wanted, skipping=skipping, rows=rows, columns=columns
        )
    grad_hidden = found[0] if valid is None or not needs[0] else _spread(found[0], valid, len(target))
    return grad_hidden, found[1], found[2]


@row_gradients_operator.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    return _gradients_like(hidden, weight, bias, rest[6])


def _row_values_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, target, ctx.softcap, _, *ctx.options = inputs
    ctx.save_for_backward(hidden, weight, bias, target, output[0])


def _row_values_backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
    forbid_second_derivative()
    hidden, weight, bias, target, lse = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:3])
    by_lse, by_label, by_sum = upstream
    found = row_gradients_operator(
        hidden,
        weight,
        bias,
        target,
        lse,
        by_lse,
        by_label,
        by_sum if by_sum.numel() else None,
        ctx.softcap,
        needs,
        *ctx.options,
    )
    return *[value if needed else None for value, needed in zip(found, needs, strict=True)], *[None] * 8


torch.library.register_autograd("tutelage::linear_row_values", _row_values_backward, setup_context=_row_values_context)


def _gradients_like(hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: list[bool]) -> tuple[Tensor, ...]:
    sources = (hidden, weight, bias)
    return tuple(
        hidden.new_empty(source.shape, dtype=source.dtype) if needed and source is not None else hidden.new_empty(0)
        for source, needed in zip(sources, needs, strict=True)
    )


def _valid(target: Tensor) -> Tensor | None:
    kept = target != NOWHERE
    return None if bool(kept.all()) else kept.nonzero().squeeze(1)


def _spread(values: Tensor, places: Tensor, size: int) -> Tensor:
    return values.new_zeros(size, *values.shape[1:]).index_copy_(0, places, values)


def _pair(block_size: list[int] | None) -> tuple[int, int] | None:
    return None if block_size is None else (block_size[0], block_size[1])
