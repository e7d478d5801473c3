"""Log-sum-exp and label logit of every token, and their gradients, as Triton kernels.

The same two passes as `blockwise`, with one difference: a program owns a stretch of the vocabulary and sums up its part
of the head's gradient alone, so that only the gradient of hidden states needs atomic additions. Where PyTorch is asked
for deterministic algorithms, a second launch with programs that own tokens takes their place.

Tested against the reference in Triton's interpreter (`TRITON_INTERPRET=1`); not yet timed on a GPU.
"""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tutelage.kernels.fused import Filter
from tutelage.kernels.head import LinearHead, compute_dtype

_BLOCKS = {"ROWS": 64, "COLUMNS": 64, "WIDTH": 32}


def _row_values(  # type: ignore[no-untyped-def]
    hidden, weight, bias, target, lse, label, total, tokens, vocabulary, width, softcap,
    HAS_BIAS: tl.constexpr, CAPPED: tl.constexpr, WITH_SUM: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program a block of tokens; the vocabulary passes by."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = row < tokens
    labels = tl.load(target + row, mask=here, other=-1)
    largest = tl.full((ROWS,), -1e30, ACC)
    sums = tl.zeros((ROWS,), ACC)
    picked = tl.zeros((ROWS,), ACC)
    added = tl.zeros((ROWS,), ACC)
    for start in range(0, vocabulary, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < vocabulary
        z = tl.zeros((ROWS, COLUMNS), ACC)
        for first in range(0, width, WIDTH):
            d = first + tl.arange(0, WIDTH)
            e = tl.load(
                hidden + row[:, None] * width + d[None, :], mask=here[:, None] & (d < width)[None, :], other=0.0
            )
            c = tl.load(
                weight + column[None, :] * width + d[:, None], mask=inside[None, :] & (d < width)[:, None], other=0.0
            )
            z = tl.dot(e, c, z, input_precision=PRECISION, out_dtype=ACC)
        if HAS_BIAS:
            z += tl.load(bias + column, mask=inside, other=0.0).to(ACC)[None, :]
        if CAPPED:
            z = softcap * (1 - 2 / (tl.exp(2 * (z / softcap)) + 1))
        picked += tl.sum(tl.where(column[None, :] == labels[:, None], z, 0.0), 1)
        if WITH_SUM:
            added += tl.sum(tl.where(inside[None, :], z, 0.0), 1)
        z = tl.where(inside[None, :], z, -float("inf"))  # after the cap, which would make it finite
        grown = tl.maximum(largest, tl.max(z, 1))
        sums = sums * tl.exp(largest - grown) + tl.sum(tl.exp(z - grown[:, None]), 1)
        largest = grown
    tl.store(lse + row, largest + tl.log(sums), mask=here)
    tl.store(label + row, picked, mask=here)
    if WITH_SUM:
        tl.store(total + row, added, mask=here)


def _row_gradients(  # type: ignore[no-untyped-def]
    hidden, weight, bias, order, target, lse, by_lse, by_label, by_sum, grad_hidden, grad_weight, grad_bias,
    tokens, vocabulary, width, softcap, epsilon,
    HAS_BIAS: tl.constexpr, CAPPED: tl.constexpr, SORTED: tl.constexpr, WITH_SUM: tl.constexpr, SKIPS: tl.constexpr,
    SKIP_HIDDEN: tl.constexpr, SKIP_WEIGHT: tl.constexpr, HIDDEN: tl.constexpr, WEIGHT: tl.constexpr,
    BIAS: tl.constexpr, OWNS_ROWS: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program a stretch of the vocabulary (or, with `OWNS_ROWS`, a block of tokens); the other one passes by."""
    passing = tl.cdiv(vocabulary, COLUMNS) if OWNS_ROWS else tl.cdiv(tokens, ROWS)
    for step in range(0, passing):
        row = (tl.program_id(0) if OWNS_ROWS else step) * ROWS + tl.arange(0, ROWS)
        place = (step if OWNS_ROWS else tl.program_id(0)) * COLUMNS + tl.arange(0, COLUMNS)
        here = row < tokens
        inside = place < vocabulary
        column = tl.load(order + place, mask=inside, other=0) if SORTED else place
        z = tl.zeros((ROWS, COLUMNS), ACC)
        for first in range(0, width, WIDTH):
            d = first + tl.arange(0, WIDTH)
            e = tl.load(
                hidden + row[:, None] * width + d[None, :], mask=here[:, None] & (d < width)[None, :], other=0.0
            )
            c = tl.load(
                weight + column[None, :] * width + d[:, None], mask=inside[None, :] & (d < width)[:, None], other=0.0
            )
            z = tl.dot(e, c, z, input_precision=PRECISION, out_dtype=ACC)
        if HAS_BIAS:
            z += tl.load(bias + column, mask=inside, other=0.0).to(ACC)[None, :]
        if CAPPED:
            z = softcap * (1 - 2 / (tl.exp(2 * (z / softcap)) + 1))
        norm = tl.load(lse + row, mask=here, other=0.0)
        both = here[:, None] & inside[None, :]
        softmax = tl.where(both, tl.exp(z - norm[:, None]), 0.0)
        labels = tl.load(target + row, mask=here, other=-1)
        hit = (place[None, :] == labels[:, None]) & both
        skipped = False
        if SKIPS:
            skipped = tl.max(tl.max(tl.where(hit, 1 - softmax, softmax), 1), 0) < epsilon
        if not (skipped and SKIP_HIDDEN and SKIP_WEIGHT):
            delta = softmax * tl.load(by_lse + row, mask=here, other=0.0)[:, None]
            delta += tl.where(hit, tl.load(by_label + row, mask=here, other=0.0)[:, None], 0.0)
            if WITH_SUM:
                delta += tl.where(both, tl.load(by_sum + row, mask=here, other=0.0)[:, None], 0.0)
            if CAPPED:
                delta *= 1 - (z / softcap) * (z / softcap)
            if BIAS:
                at = grad_bias + column
                tl.store(at, tl.load(at, mask=inside, other=0.0) + tl.sum(delta, 0), mask=inside)
            for first in range(0, width, WIDTH):
                d = first + tl.arange(0, WIDTH)
                if HIDDEN:
                    if not (skipped and SKIP_HIDDEN):
                        kept = inside[:, None] & (d < width)[None, :]
                        c = tl.load(weight + column[:, None] * width + d[None, :], mask=kept, other=0.0)
                        part = tl.dot(delta.to(c.dtype), c, input_precision=PRECISION, out_dtype=ACC)
                        at = grad_hidden + row[:, None] * width + d[None, :]
                        kept = here[:, None] & (d < width)[None, :]
                        if OWNS_ROWS:
                            tl.store(at, tl.load(at, mask=kept, other=0.0) + part, mask=kept)
                        else:
                            tl.atomic_add(at, part, mask=kept)
                if WEIGHT:
                    if not (skipped and SKIP_WEIGHT):
                        kept = here[:, None] & (d < width)[None, :]
                        e = tl.load(hidden + row[:, None] * width + d[None, :], mask=kept, other=0.0)
                        part = tl.dot(tl.trans(delta.to(e.dtype)), e, input_precision=PRECISION, out_dtype=ACC)
                        at = grad_weight + column[:, None] * width + d[None, :]
                        kept = inside[:, None] & (d < width)[None, :]
                        tl.store(at, tl.load(at, mask=kept, other=0.0) + part, mask=kept)


# Kernels are read as source, so whatever an import hook has wrapped around them comes off.
_values_kernel = triton.jit(unwrap(_row_values))
_gradients_kernel = triton.jit(unwrap(_row_gradients))


def triton_row_values(
    hidden: Tensor, head: LinearHead, target: Tensor, *, with_sum: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`tutelage.kernels.blockwise.row_values` by a Triton kernel."""
    hidden, weight = hidden.contiguous(), head.weight.contiguous()
    tokens, width = hidden.shape
    lse = hidden.new_zeros(tokens, dtype=compute_dtype(hidden.dtype))
    label, total = torch.zeros_like(lse), torch.zeros_like(lse if with_sum else lse[:0])
    if tokens:
        _values_kernel[(triton.cdiv(tokens, _BLOCKS["ROWS"]),)](
            hidden, weight, weight if head.bias is None else head.bias, target, lse, label, total,
            tokens, weight.shape[0], width, head.softcap or 0.0,
            HAS_BIAS=head.bias is not None, CAPPED=head.softcap is not None, WITH_SUM=with_sum, **_precision(lse),
        )  # fmt: skip
    return lse, label, total


def triton_row_gradients(
    hidden: Tensor,
    head: LinearHead,
    target: Tensor,
    normaliser: Tensor,
    upstream: tuple[Tensor | None, Tensor | None, Tensor | None],
    *,
    needs: tuple[bool, bool, bool],
    skipping: Filter,
) -> tuple[Tensor, Tensor, Tensor]:
    """`tutelage.kernels.blockwise.row_gradients` by a Triton kernel."""
    hidden, weight = hidden.contiguous(), head.weight.contiguous()
    (tokens, width), vocabulary, wide = hidden.shape, weight.shape[0], normaliser.dtype
    by_lse, by_label, by_sum = (None if value is None else value.contiguous() for value in upstream)
    grad_hidden, grad_weight, grad_bias = (
        torch.zeros(shape if needed else 0, dtype=wide, device=hidden.device)
        for shape, needed in zip(((tokens, width), (vocabulary, width), (vocabulary,)), needs, strict=True)
    )
    apart = needs[0] and torch.are_deterministic_algorithms_enabled()

    def launch(programs: int, *, by_rows: bool, wanted: tuple[bool, bool, bool]) -> None:
        _gradients_kernel[(programs,)](
            hidden, weight, weight if head.bias is None else head.bias, target if head.order is None else head.order,
            target, normaliser, by_lse, by_label, by_lse if by_sum is None else by_sum,
            grad_hidden, grad_weight, grad_bias, tokens, vocabulary, width,
            head.softcap or 0.0, skipping.epsilon or 0.0,
            HAS_BIAS=head.bias is not None, CAPPED=head.softcap is not None, SORTED=head.order is not None,
            WITH_SUM=by_sum is not None, SKIPS=skipping.active, SKIP_HIDDEN=skipping.hidden,
            SKIP_WEIGHT=skipping.classifier, HIDDEN=wanted[0], WEIGHT=wanted[1], BIAS=wanted[2], OWNS_ROWS=by_rows,
            **_precision(normaliser),
        )  # fmt: skip

    if tokens:
        of_columns = (needs[0] and not apart, needs[1], needs[2])
        if any(of_columns):
            launch(triton.cdiv(vocabulary, _BLOCKS["COLUMNS"]), by_rows=False, wanted=of_columns)
        if apart:
            launch(triton.cdiv(tokens, _BLOCKS["ROWS"]), by_rows=True, wanted=(True, False, False))
    bias_dtype = wide if head.bias is None else head.bias.dtype
    return grad_hidden.to(hidden.dtype), grad_weight.to(weight.dtype), grad_bias.to(bias_dtype)


def _precision(like: Tensor) -> dict[str, Any]:
    exact = like.dtype == torch.float64 or not torch.backends.cuda.matmul.allow_tf32
    return {
        "ACC": tl.float64 if like.dtype == torch.float64 else tl.float32,
        "PRECISION": "ieee" if exact else "tf32",
        **_BLOCKS,
    }
