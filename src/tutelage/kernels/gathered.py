"""Logits of a few tokens at every position, without those of all others."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BUFFER = 1 << 22


def gathered_logits(
    hidden: Float[Tensor, "rows width"], weight: Float[Tensor, "vocabulary width"], tokens: Int[Tensor, "rows k"]
) -> Float[Tensor, "rows k"]:
    """The products hidden[i] · weight[tokens[i, j]], some rows at a time.

    At most 4 Mi gathered numbers are held at once, forwards and backwards, so the memory does not grow with rows · k ·
    width. Gradients are summed over equal tokens in the weight's dtype.

    Args:
        hidden: `[rows, width]`.
        weight: `[vocabulary, width]`.
        tokens: `[rows, k]`.

    Returns:
        In float32 or wider.

    >>> gathered_logits(torch.tensor([[1.0, 2.0]]), torch.eye(2), torch.tensor([[1, 0]]))
    tensor([[2., 1.]])
    """
    made: Tensor = _GatheredLogits.apply(hidden, weight, tokens)  # type: ignore[no-untyped-call]
    return made


class _GatheredLogits(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
        context.save_for_backward(hidden, weight, tokens)
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        out = hidden.new_empty(tokens.shape, dtype=dtype)
        for rows in _parts(hidden, tokens):
            out[rows] = torch.einsum("rkd,rd->rk", weight[tokens[rows]].to(dtype), hidden[rows].to(dtype))
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight, tokens = context.saved_tensors
        gradient = gradients[0]
        for_hidden, for_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for rows in _parts(hidden, tokens):
            part = gradient[rows]
            gathered = weight[tokens[rows]].to(part.dtype)
            for_hidden[rows] = torch.einsum("rkd,rk->rd", gathered, part).to(hidden.dtype)
            outer = (part.unsqueeze(-1) * hidden[rows].to(part.dtype).unsqueeze(1)).to(weight.dtype)
            for_weight.index_add_(0, tokens[rows].flatten(), outer.flatten(0, 1))
        return for_hidden, for_weight, None


def _parts(hidden: Tensor, tokens: Tensor) -> list[slice]:
    size = max(1, _BUFFER // max(1, tokens.shape[1] * hidden.shape[1]))
    return [slice(start, start + size) for start in range(0, len(hidden), size)]
