"""Pairwise ranking loss weighted by the money between two items (PA-RiskRanker), and its boosting form.

Source: Li et al., "Learn to Rank Risky Investors", ACM TOIS 44(1), 2025, arXiv 2509.16616. The paper calls the loss
PA-BCE; its code has a pointwise loss of a like name (cross-entropy with weight 2 on positives), which is another one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tutelage._checks import Reduction, check_at_least, check_finite, check_option, check_positive
from tutelage.data.ranking_lists import padded_lists
from tutelage.objectives.objective import Objective
from tutelage.objectives.precision import at_least_float32
from tutelage.objectives.ranking import reduce_over_lists


def profit_aware_pairwise_loss(
    scores: Float[Tensor, "..."],
    amounts: Tensor,
    list_sizes: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    top_k: int | None = 6,
    log_base: float = 10.0,
    amount_scale: float = 1.0,
    drop_zero_lists: bool = True,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """PA-BCE: of two items the one with the larger amount should score higher, the more so the more money is between.

    Among the k = min(top_k, n) items of a list with the largest amounts, in descending order of amount:

        L = 1/k · Σ_{i<j} w_ij · softplus(−(s_i − s_j)),   w_ij = log_base(1 + amount_scale · (a_i − a_j)).

    Only differences of amounts enter, so amounts may be negative. Ties have weight 0; where they straddle the k-th
    place, the earlier item counts. **Items outside the top k get no direct gradient**: what they score follows from
    shared weights alone. `top_k=None` takes all pairs. Labels are not used, and no gradient reaches the amounts.

    Time and memory: one sort a list, and lists × k² numbers, `longest list²` where `top_k` is None.

    Args:
        scores: `[items]` with `list_sizes`, or `[lists, items]`.
        amounts: Of the same shape: profit and loss of each item, in any unit. The unit matters, since a logarithm is
            taken of it: below 1 the weight is nearly linear. Differences are taken in float64, so give amounts in
            float64 when they are large.
        list_sizes: `[lists]` integers for flat scores: how many items each list has.
        mask: `[lists, items]` for padded scores: True where there is an item.
        top_k: How many items of a list count, at least 2, or None for all.
        log_base: Base of the weight's logarithm; natural inside the softplus in any case.
        amount_scale: Multiplies the amounts: 0.01 turns cents into euros.
        drop_zero_lists: Leave lists out of the mean whose loss is exactly 0 (one item, or all amounts tied).
        reduction: `"mean"` over the lists that count (0 with a gradient of 0 when none does), `"sum"`, or `"none"`
            (`[lists]`).

    Returns:
        In float32 or wider: a scalar, or `[lists]`.

    Raises:
        ValueError: Shapes or sizes that do not fit, a list without items, amounts that are not finite, `top_k` below
            2, `log_base` of 1 or less, or a scale that is not positive.

    Source: the paper's PA-BCE as its released code computes it (option "graph").

    >>> profit_aware_pairwise_loss(torch.tensor([0.0, 0.0]), torch.tensor([9.0, 0.0]), torch.tensor([2]), top_k=2)
    tensor(0.3466)
    """
    _check_options(top_k, log_base, amount_scale)
    check_option(reduction, "reduction", ("mean", "sum", "none"))
    rows, weights, ranked, counts = _weighted_pairs(
        scores, amounts, list_sizes, mask, top_k=top_k, log_base=log_base, amount_scale=amount_scale
    )
    top = at_least_float32(rows).gather(1, ranked)
    pairs = -F.logsigmoid(top[:, :, None] - top[:, None, :])
    losses = (weights.to(top.dtype) * pairs).sum(dim=(1, 2)) / counts.to(top.dtype)
    return reduce_over_lists(losses, reduction=reduction, drop_zero_lists=drop_zero_lists)


def profit_aware_pairwise_gradients(
    scores: Float[Tensor, "items"],
    amounts: Tensor,
    list_sizes: Tensor,
    *,
    top_k: int | None = 20,
    log_base: float = math.e,
) -> tuple[Float[Tensor, "items"], Float[Tensor, "items"]]:
    """Gradient and Hessian diagonal of Σ_{i<j} w_ij · softplus(−(s_i − s_j)), for gradient boosting.

    g_i = Σ_j w_ij (σ(s_i − s_j) − 1[a_i > a_j]) and h_i = Σ_j w_ij σ(s_i − s_j) (1 − σ(s_i − s_j)), over the `top_k`
    items of a list with the largest amounts; 0 elsewhere. Unlike `profit_aware_pairwise_loss` it sums over pairs and
    lists, without 1/k, and its defaults are those of the paper's boosting code.

    Args:
        scores: `[items]`, list after list.
        amounts: `[items]`.
        list_sizes: `[lists]`.
        top_k: How many items of a list count, or None for all.
        log_base: Base of the weight's logarithm.

    Returns:
        Gradient and Hessian diagonal, `[items]` each, in float32 or wider, without a graph; the Hessian is not
        negative.

    Raises:
        ValueError: As `profit_aware_pairwise_loss`.

    >>> gradient, hessian = profit_aware_pairwise_gradients(
    ...     torch.zeros(2), torch.tensor([math.e - 1, 0.0]), torch.tensor([2])
    ... )
    >>> gradient.tolist(), hessian.tolist()
    ([-0.5, 0.5], [0.25, 0.25])
    """
    _check_options(top_k, log_base, 1.0)
    rows, weights, ranked, _ = _weighted_pairs(
        scores.detach(), amounts, list_sizes, None, top_k=top_k, log_base=log_base, amount_scale=1.0
    )
    gradient, hessian = _boosting_derivatives(at_least_float32(rows), weights, ranked)
    present = torch.arange(rows.shape[1], device=rows.device) < list_sizes.to(rows.device)[:, None]
    return gradient[present], hessian[present]


class ProfitAwareBoostingObjective:
    """`profit_aware_pairwise_gradients` as an objective of LightGBM or XGBoost.

    The weights depend on the amounts alone and are computed once: lists × k² numbers, k = `top_k`.

    Args:
        amounts: `[items]`, in the order of the training rows; float64 keeps large amounts exact, which LightGBM's own
            labels (float32) would not.
        list_sizes: `[lists]`: rows of one list stand together, in this order.
        top_k: How many items of a list count, or None for all.
        log_base: Base of the weight's logarithm.

    Raises:
        ValueError: As `profit_aware_pairwise_loss`.

    Pass it to the native interface: `lightgbm.train({"objective": objective, …}, dataset)`. Scores then start at 0.

    >>> objective = ProfitAwareBoostingObjective(torch.tensor([9.0, 0.0]), torch.tensor([2]), log_base=10)
    >>> objective(np.zeros(2))[0].tolist()
    [-0.5, 0.5]
    """

    def __init__(
        self, amounts: Tensor, list_sizes: Tensor, *, top_k: int | None = 20, log_base: float = math.e
    ) -> None:
        _check_options(top_k, log_base, 1.0)
        rows, self._weights, self._ranked, _ = _weighted_pairs(
            torch.zeros_like(amounts, dtype=torch.float64),
            amounts,
            list_sizes,
            None,
            top_k=top_k,
            log_base=log_base,
            amount_scale=1.0,
        )
        self._present = torch.arange(rows.shape[1], device=rows.device) < list_sizes.to(rows.device)[:, None]

    def __call__(
        self, predictions: NDArray[Any], dataset: Any = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Gradient and Hessian diagonal at these scores; the data set, which boosters pass along, is not read."""
        scores = torch.zeros(self._present.shape, dtype=torch.float64)
        scores[self._present] = torch.as_tensor(np.asarray(predictions), dtype=torch.float64)
        gradient, hessian = _boosting_derivatives(scores, self._weights, self._ranked)
        return gradient[self._present].numpy(), hessian[self._present].numpy()


class ProfitAwarePairwiseLoss(Objective):
    """Mean `profit_aware_pairwise_loss` over the lists of a batch, each a sample of the data.

    In training it reads scores `[batch, items]` from the student's logits, and `amounts` and (where lists differ in
    length) `mask` from the batch's extras.

    Args:
        top_k: How many items of a list count, or None for all.
        log_base: Base of the weight's logarithm.
        amount_scale: Multiplies the amounts.
        drop_zero_lists: Leave lists out of the mean whose loss is exactly 0.

    >>> ProfitAwarePairwiseLoss(top_k=2)(torch.tensor([[1.0, -1.0]]), torch.tensor([[9.0, 0.0]]))
    tensor(0.0635)
    """

    reads = ("student.logits", "batch.extras.amounts", "batch.extras.list_sizes?", "batch.extras.mask?")

    def __init__(
        self,
        *,
        top_k: int | None = 6,
        log_base: float = 10.0,
        amount_scale: float = 1.0,
        drop_zero_lists: bool = True,
    ) -> None:
        super().__init__()
        _check_options(top_k, log_base, amount_scale)
        self.top_k = top_k
        self.log_base = log_base
        self.amount_scale = amount_scale
        self.drop_zero_lists = drop_zero_lists

    def loss(
        self, scores: Tensor, amounts: Tensor, list_sizes: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The mean over the lists that count."""
        return profit_aware_pairwise_loss(
            scores,
            amounts,
            list_sizes,
            mask=mask,
            top_k=self.top_k,
            log_base=self.log_base,
            amount_scale=self.amount_scale,
            drop_zero_lists=self.drop_zero_lists,
        )


def _check_options(top_k: int | None, log_base: float, amount_scale: float) -> None:
    if top_k is not None:
        check_at_least(top_k, "top_k", 2)
    if not (math.isfinite(log_base) and log_base > 1):
        raise ValueError(f"Expected argument `log_base` to be above 1, but got {log_base}.")
    check_positive(amount_scale, "amount_scale")


def _weighted_pairs(
    scores: Tensor,
    amounts: Tensor,
    list_sizes: Tensor | None,
    mask: Tensor | None,
    *,
    top_k: int | None,
    log_base: float,
    amount_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Padded scores; of the top k items by amount: weights by pair (0 unless a_i > a_j), places, and how many."""
    (rows, money), present = padded_lists(list_sizes, mask, scores=scores, amounts=amounts)
    check_finite(money, "amounts")
    with torch.no_grad():
        money = money.detach().to(torch.float64)
        depth = money.shape[1] if top_k is None else min(top_k, money.shape[1])
        ranked = money.masked_fill(~present, -math.inf).argsort(dim=1, descending=True, stable=True)[:, :depth]
        money, counted = money.gather(1, ranked), present.gather(1, ranked)
        between = (money[:, :, None] - money[:, None, :]).clamp_(min=0)  # 0 also for j ≤ i, since amounts descend
        weights = between.mul_(amount_scale).log1p_().div_(math.log(log_base))
        weights.masked_fill_(~(counted[:, :, None] & counted[:, None, :]), 0)
    return rows, weights, ranked, counted.sum(dim=1)


def _boosting_derivatives(scores: Tensor, weights: Tensor, ranked: Tensor) -> tuple[Tensor, Tensor]:
    """In the padded layout: w σ(s_j − s_i) pushes i up and j down, for every pair with a_i > a_j."""
    top = scores.gather(1, ranked)
    wrong = torch.sigmoid(top[:, None, :] - top[:, :, None])
    weights = weights.to(scores.dtype)
    push, curvature = weights * wrong, weights * wrong * (1 - wrong)
    gradient, hessian = torch.zeros_like(scores), torch.zeros_like(scores)
    gradient.scatter_(1, ranked, push.sum(dim=1) - push.sum(dim=2))
    hessian.scatter_(1, ranked, curvature.sum(dim=1) + curvature.sum(dim=2))
    return gradient, hessian
