"""Losses on ranked lists."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tutelage._checks import Reduction, check_option, check_same_shape, reduce
from tutelage.objectives.plackett_luce import position_weights, weighted_ranking_loss
from tutelage.objectives.precision import at_least_float32


def listmle(
    scores: Float[Tensor, "batch items"],
    permutation: Int64[Tensor, "..."],
    *,
    weights: Literal["position"] | Tensor | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Negative log-likelihood of a ranking under the Plackett–Luce model (Xia et al., "ListMLE", 2008).

    ℓ = Σ_k α_k (logsumexp_{l ≥ k} s_{π_l} − s_{π_k}) for the items π_1, π_2, … from best to worst.

    Args:
        scores: `[batch, items]`. The gradient reaches them.
        permutation: `[batch, items]`, the item at each rank, best first.
        weights: α by rank, used as given: `[items]` or `[batch, items]`, not negative, without gradient. None: all 1.
            `"position"`: α_k ∝ 2^(items − k) − 1, summing to 1 (position-aware ListMLE, Lan et al., 2014).
        reduction: `"mean"` over lists, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider: a scalar, or `[batch]`.

    Raises:
        ValueError: Shapes that do not fit, rows of `permutation` that do not name every item once, negative weights, or
            an unknown option.

    >>> listmle(torch.zeros(1, 3), torch.tensor([[2, 0, 1]])).neg().exp()
    tensor(0.1667)
    """
    check_option(reduction, "reduction", ("mean", "sum", "none"))
    check_same_shape(scores, permutation, "scores", "permutation")
    _check_permutation(permutation)
    num_items = scores.shape[1]
    if weights is None:
        by_rank = torch.ones_like(at_least_float32(scores[:1])[0]) if len(scores) else at_least_float32(scores)
    elif isinstance(weights, Tensor):
        by_rank = _checked_weights(weights.detach(), scores)
    else:
        check_option(weights, "weights", (None, "position"))
        by_rank = position_weights(num_items, like=scores)
    by_row = by_rank.ndim == 2
    return reduce(
        weighted_ranking_loss(scores, lambda rows: (permutation[rows], by_rank[rows] if by_row else by_rank)), reduction
    )


def _check_permutation(permutation: Tensor) -> None:
    num_items = permutation.shape[-1]
    inside = bool(((permutation >= 0) & (permutation < num_items)).all())
    if not inside or not torch.zeros_like(permutation, dtype=torch.bool).scatter_(-1, permutation, True).all():
        raise ValueError(
            f"Expected argument `permutation` to name each of {num_items} items once a row, but some row does not."
        )


def _checked_weights(weights: Tensor, scores: Tensor) -> Tensor:
    if tuple(weights.shape) not in (tuple(scores.shape), tuple(scores.shape[1:])):
        raise ValueError(
            f"Expected argument `weights` to have shape {tuple(scores.shape[1:])} or {tuple(scores.shape)}, "
            f"but got {tuple(weights.shape)}."
        )
    if not (weights >= 0).all():
        raise ValueError("Expected argument `weights` to be at least 0, but it holds negative numbers or NaN.")
    return weights.to(at_least_float32(scores[:0]).dtype)
