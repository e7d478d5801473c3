"""Log-sum-exp and single logits of a linear output layer without all of them, and the loss that keeps them small."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_option, check_same_shape
from tutelage.kernels.arguments import (
    BACKENDS,
    as_autocast,
    check_block_size,
    check_head,
    check_labels,
    check_triton,
)
from tutelage.kernels.dense import dense_logits
from tutelage.kernels.head import compute_dtype
from tutelage.kernels.operators import row_values_operator


def linear_log_sum_exp(
    hidden: Float[Tensor, "*positions width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Tensor | None = None,
    softcap: float | None = None,
    *,
    block_size: tuple[int, int] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "*positions"]:
    """Log Σ exp of the logits hidden · weightᵀ + bias at every position; the logits are never stored.

    Source: arXiv 2411.09009, section 4.2. The backward pass makes the logits again, tile by tile.

    Args:
        hidden: `[..., width]`.
        weight: `[vocabulary, width]`.
        bias: `[vocabulary]`.
        softcap: κ: logits become κ·tanh(logit / κ), after the bias.
        block_size: Tokens and vocabulary entries of a tile.
        backend: As in `linear_cross_entropy`.

    Returns:
        `[...]` in float32 or wider, with gradients for `hidden`, `weight` and `bias`.

    Raises:
        ValueError: Shapes that do not fit, a soft-cap that is not positive, or an unknown back-end.

    >>> hidden, weight = torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> linear_log_sum_exp(hidden, weight)
    tensor(1.4076)
    """
    check_head(hidden, weight, bias, softcap)
    check_option(backend, "backend", BACKENDS)
    tile = check_block_size(block_size)
    hidden, weight, bias = as_autocast(hidden, weight, bias)  # type: ignore[assignment]
    if backend == "triton":
        check_triton(hidden)
    rows = hidden.reshape(-1, hidden.shape[-1])
    if backend == "dense":
        lse = dense_logits(rows, weight, bias, softcap).logsumexp(dim=1)
    else:
        nowhere = torch.full((len(rows),), -1, device=rows.device)
        kind = "triton" if backend == "triton" else "torch"
        options = (softcap, False, False, None, [True, True], tile, kind)
        lse = row_values_operator(rows, weight, bias, nowhere, *options)[0]
    return lse.reshape(hidden.shape[:-1])


def linear_target_logit(
    hidden: Float[Tensor, "*positions width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, "*positions"],
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "*positions"]:
    """The logit of one token at every position: the product of two rows.

    Args:
        hidden: `[..., width]`.
        weight: `[vocabulary, width]`.
        target: `[...]` tokens.
        bias: `[vocabulary]`.
        softcap: κ: logits become κ·tanh(logit / κ), after the bias.

    Returns:
        `[...]` in float32 or wider.

    Raises:
        ValueError: Shapes that do not fit, or a target outside the vocabulary.

    >>> linear_target_logit(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1]))
    tensor([2.])
    """
    check_head(hidden, weight, bias, softcap)
    check_labels(target, hidden.shape[:-1], weight.shape[0], None, None)
    hidden, weight, bias = as_autocast(hidden, weight, bias)  # type: ignore[assignment]
    wide = compute_dtype(hidden.dtype)
    target = target.long()
    logits = (hidden.to(wide) * weight[target].to(wide)).sum(dim=-1)
    if bias is not None:
        logits = logits + bias[target].to(wide)
    return logits if softcap is None else softcap * (logits / softcap).tanh()


def z_loss(
    lse: Float[Tensor, "*positions"], target: Tensor | None = None, *, ignore_index: int = -100
) -> Float[Tensor, ""]:
    """The mean square of log-sum-exps: added to a loss, it keeps logits from drifting.

    Source: PaLM, arXiv 2204.02311, section 5.

    Args:
        lse: `[...]`, from `linear_log_sum_exp` or `linear_cross_entropy(..., return_lse=True)`.
        target: `[...]`; only positions with another target than `ignore_index` count. None: all do.
        ignore_index: The target of positions that are left out.

    Returns:
        A scalar; 0 when no position counts.

    Raises:
        ValueError: `target` has another shape.

    >>> z_loss(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([5, 5, -100]))
    tensor(5.)
    """
    squares = lse.square()
    if target is None:
        return squares.mean() if squares.numel() else squares.sum()
    check_same_shape(lse, target, "lse", "target")
    kept = target != ignore_index
    return torch.where(kept, squares, 0).sum() / kept.sum().clamp(min=1)
