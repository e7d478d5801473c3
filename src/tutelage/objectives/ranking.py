"""Losses on ranked lists: flat items with list sizes, or padded rows with a mask."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from tutelage._checks import (
    Reduction,
    check_at_least,
    check_finite,
    check_option,
    check_positive,
    check_same_shape,
    reduce,
)
from tutelage.data.ranking_lists import padded_lists
from tutelage.objectives.objective import Objective
from tutelage.objectives.plackett_luce import position_weights, weighted_ranking_loss
from tutelage.objectives.precision import at_least_float32

LambdaScheme = Literal["ranknet", "lambdarank", "ndcg_loss1", "ndcg_loss2", "ndcg_loss2pp"]
_SCHEMES = (None, "ranknet", "lambdarank", "ndcg_loss1", "ndcg_loss2", "ndcg_loss2pp")
_SMALLEST_DCG = 1e-10  # of the released code; lists without a relevant item have gains of 0 in any case


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


def ranknet_loss(
    scores: Float[Tensor, "..."],
    targets: Tensor,
    list_sizes: Tensor | None = None,
    *,
    soft: bool = True,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Binary cross-entropy of every pair's order (Burges et al., "Learning to Rank using Gradient Descent", ICML 2005).

    For the pairs i < j of a list, ℓ_ij = −p_ij log σ(s_i − s_j) − (1 − p_ij) log σ(s_j − s_i). The soft loss is
    smallest where scores differ as the targets do, and there equals the entropy of the p_ij; the gradient is then 0.
    No gradient reaches the targets.

    Time and memory: lists × longest list² numbers.

    Args:
        scores: `[items]` with `list_sizes`, or `[lists, items]`.
        targets: Of the same shape: a teacher's scores, or relevance.
        list_sizes: `[lists]` integers for flat scores.
        soft: p_ij = σ(t_i − t_j); otherwise 1, 0, and ½ for ties.
        mask: `[lists, items]` for padded scores: True where there is an item.
        weights: `[lists, items, items]`: a factor by pair, read at i < j; the mean divides by the number of pairs.
        reduction: `"mean"` over all pairs of all lists, `"sum"`, or `"none"` (`[lists, items, items]`, 0 where there is
            no pair).

    Returns:
        In float32 or wider: a scalar, or the losses by pair.

    Raises:
        ValueError: Shapes or sizes that do not fit, a list of fewer than two items, or an unknown option.

    >>> ranknet_loss(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 1.0, 2.0]]))
    tensor(0.7139)
    """
    check_option(reduction, "reduction", ("mean", "sum", "none"))
    (rows, wanted), present = padded_lists(list_sizes, mask, scores=scores, targets=targets)
    if int(present.sum(dim=1).min()) < 2:
        raise ValueError("Expected every list to hold at least two items, but one holds fewer.")
    rows = at_least_float32(rows)
    difference = rows[:, :, None] - rows[:, None, :]
    with torch.no_grad():
        wanted = wanted.to(rows.dtype)
        wanted = wanted[:, :, None] - wanted[:, None, :]
        first_wins = wanted.sigmoid_() if soft else wanted.sign_().add_(1).div_(2)
        pairs = (present[:, :, None] & present[:, None, :]).triu(diagonal=1).to(rows.dtype)
        if weights is not None:
            check_same_shape(weights, pairs, "weights", "the pairs of `scores`")
    losses = F.softplus(difference) - first_wins * difference
    losses = losses * (pairs if weights is None else pairs * weights.detach().to(rows.dtype))
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / pairs.sum()


def listwise_softmax_loss(
    scores: Float[Tensor, "..."],
    relevance: Tensor,
    list_sizes: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    item_reduction: Literal["mean", "sum"] = "mean",
    drop_zero_lists: bool = True,
) -> Float[Tensor, ""]:
    """Cross-entropy of relevance against the softmax over a list: −Σ_i t_i log softmax(s)_i, or the mean over items.

    The mean over lists leaves out those whose loss is exactly 0, such as lists without a relevant item, if asked. The
    gradient reaches the scores alone.

    Args:
        scores: `[items]` with `list_sizes`, or `[lists, items]`.
        relevance: Of the same shape: labels 0 and 1, or weights.
        list_sizes: `[lists]` integers for flat scores.
        mask: `[lists, items]` for padded scores: True where there is an item.
        item_reduction: `"mean"` divides a list's loss by its items, as Rankformer does; `"sum"` does not.
        drop_zero_lists: Leave lists out of the mean whose loss is exactly 0.

    Returns:
        A scalar in float32 or wider; 0 with a gradient of 0 when no list counts.

    Raises:
        ValueError: Shapes or sizes that do not fit, a list without items, or an unknown option.

    Source: Buyl et al., "RankFormer", KDD 2023; Li et al., ACM TOIS 44(1), 2025 (baseline).

    >>> listwise_softmax_loss(torch.zeros(4), torch.tensor([1, 0, 0, 0]), torch.tensor([2, 2]), item_reduction="sum")
    tensor(0.6931)
    """
    check_option(item_reduction, "item_reduction", ("mean", "sum"))
    (rows, wanted), present = padded_lists(list_sizes, mask, scores=scores, relevance=relevance)
    rows = at_least_float32(rows)
    lowest = torch.finfo(rows.dtype).min
    log_probs = rows.masked_fill(~present, lowest).log_softmax(dim=1).masked_fill(~present, 0)
    losses = -(wanted.detach().to(rows.dtype) * log_probs).sum(dim=1)
    if item_reduction == "mean":
        losses = losses / present.sum(dim=1)
    return reduce_over_lists(losses, drop_zero_lists=drop_zero_lists)


def lambda_loss(
    scores: Float[Tensor, "..."],
    relevance: Tensor,
    list_sizes: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    scheme: LambdaScheme | None = "lambdarank",
    sigma: float = 1.0,
    mu: float = 10.0,
    k: int | None = None,
    log_base: float = 2.0,
    drop_zero_lists: bool = True,
) -> Float[Tensor, ""]:
    """LambdaLoss (Wang et al., CIKM 2018): a pairwise loss whose weights say what a swap would cost in NDCG.

    With the items of a list in descending order of score, ranks r = 1, 2, …, discounts D_r = log2(1 + r) and gains
    G_i = (2^{y_i} − 1) / maxDCG@k:

        L = −Σ w_ij log σ(sigma · (s_i − s_j))   over pairs with y_i > y_j and both ranks at most k.

    - None and `"ranknet"`: w = 1.
    - `"lambdarank"`: |1/D_i − 1/D_j| · |G_i − G_j|.
    - `"ndcg_loss2"`: |1/D_δ − 1/D_{δ+1}| · |G_i − G_j| with δ = |r_i − r_j|.
    - `"ndcg_loss2pp"`: `mu` · (ndcg_loss2) + (lambdarank).
    - `"ndcg_loss1"`: G_i / D_i, over **all** ordered pairs within k, also j = i and y_i ≤ y_j.

    The weights carry no gradient. Ties between scores keep the order of items. With gains 2^y − 1, relevance is meant
    to be a grade of a few.

    Time and memory: one sort a list, and lists × min(k, longest list)² numbers.

    Args:
        scores: `[items]` with `list_sizes`, or `[lists, items]`.
        relevance: Of the same shape: grades of at least 0.
        list_sizes: `[lists]` integers for flat scores.
        mask: `[lists, items]` for padded scores: True where there is an item.
        scheme: How pairs are weighted.
        sigma: Steepness of the sigmoid.
        mu: Weight of the first term of `"ndcg_loss2pp"`.
        k: Ranks that count, or None for all.
        log_base: Base of the logarithm.
        drop_zero_lists: Leave lists out of the mean whose loss is exactly 0, such as lists of one grade.

    Returns:
        The mean over lists of the sum over pairs, a scalar in float32 or wider.

    Raises:
        ValueError: Shapes or sizes that do not fit, a list without items, negative or non-finite relevance, a number
            out of its range, or an unknown option.

    >>> lambda_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[1, 0]]), scheme="ranknet")
    tensor(1.)
    """
    _check_lambda_options(scheme, sigma, mu, k, log_base)
    (rows, grades), present = padded_lists(list_sizes, mask, scores=scores, relevance=relevance)
    check_finite(grades, "relevance")
    if (grades < 0).any():
        raise ValueError(f"Expected argument `relevance` to be at least 0, but got {float(grades.min())}.")
    rows = at_least_float32(rows)
    with torch.no_grad():
        depth = rows.shape[1] if k is None else min(k, rows.shape[1])
        order = rows.masked_fill(~present, -math.inf).argsort(dim=1, descending=True, stable=True)[:, :depth]
        counted, grades = present.gather(1, order), grades.detach().to(rows.dtype)
        discount = torch.arange(2, depth + 3, dtype=rows.dtype, device=rows.device).log2()
        gains = grades.exp2() - 1  # padding holds relevance 0
        ideal = (gains.sort(dim=1, descending=True).values[:, :depth] / discount[:-1]).sum(dim=1, keepdim=True)
        gains = gains.gather(1, order) / ideal.clamp(min=_SMALLEST_DCG)
        pairs = counted[:, :, None] & counted[:, None, :]
        if scheme != "ndcg_loss1":
            grades = grades.gather(1, order)
            pairs &= grades[:, :, None] > grades[:, None, :]
        weights = _lambda_weights(gains, discount, scheme, mu).masked_fill(~pairs, 0)
    top = rows.gather(1, order)
    log_right = F.logsigmoid(sigma * (top[:, :, None] - top[:, None, :]))
    losses = -(weights * log_right).sum(dim=(1, 2)) / math.log(log_base)
    return reduce_over_lists(losses, drop_zero_lists=drop_zero_lists)


class RanknetLoss(Objective):
    """`ranknet_loss` against a teacher's scores: student and teacher give `[batch, items]`, a list a sample.

    Where lists differ in length, `mask` is read from the batch's extras.

    Args:
        soft: Follow the teacher's differences; otherwise only its order.

    >>> RanknetLoss()(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 1.0, 2.0]]))
    tensor(0.7139)
    """

    reads = ("student.logits", "teacher.logits", "batch.extras.list_sizes?", "batch.extras.mask?")

    def __init__(self, *, soft: bool = True) -> None:
        super().__init__()
        self.soft = soft

    def loss(
        self, scores: Tensor, targets: Tensor, list_sizes: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The mean over all pairs."""
        return ranknet_loss(scores, targets, list_sizes, soft=self.soft, mask=mask)


class ListwiseSoftmaxLoss(Objective):
    """`listwise_softmax_loss` of scores `[batch, items]` and a target of relevance of that shape, a list a sample.

    Where lists differ in length, `mask` is read from the batch's extras.

    Args:
        item_reduction: `"mean"` or `"sum"` over the items of a list.
        drop_zero_lists: Leave lists out of the mean whose loss is exactly 0.

    >>> ListwiseSoftmaxLoss(item_reduction="sum")(torch.zeros(1, 2), torch.tensor([[1, 0]]))
    tensor(0.6931)
    """

    reads = ("student.logits", "batch.target", "batch.extras.list_sizes?", "batch.extras.mask?")

    def __init__(self, *, item_reduction: Literal["mean", "sum"] = "mean", drop_zero_lists: bool = True) -> None:
        super().__init__()
        check_option(item_reduction, "item_reduction", ("mean", "sum"))
        self.item_reduction: Literal["mean", "sum"] = item_reduction
        self.drop_zero_lists = drop_zero_lists

    def loss(
        self, scores: Tensor, relevance: Tensor, list_sizes: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The mean over the lists that count."""
        return listwise_softmax_loss(
            scores,
            relevance,
            list_sizes,
            mask=mask,
            item_reduction=self.item_reduction,
            drop_zero_lists=self.drop_zero_lists,
        )


class LambdaLoss(Objective):
    """`lambda_loss` of scores `[batch, items]` and a target of relevance of that shape, a list a sample.

    Where lists differ in length, `mask` is read from the batch's extras.

    Args:
        scheme: How pairs are weighted.
        sigma: Steepness of the sigmoid.
        mu: Weight of the first term of `"ndcg_loss2pp"`.
        k: Ranks that count, or None for all.
        log_base: Base of the logarithm.
        drop_zero_lists: Leave lists out of the mean whose loss is exactly 0.

    >>> LambdaLoss(scheme="ranknet")(torch.zeros(1, 2), torch.tensor([[1, 0]]))
    tensor(1.)
    """

    reads = ("student.logits", "batch.target", "batch.extras.list_sizes?", "batch.extras.mask?")

    def __init__(
        self,
        *,
        scheme: LambdaScheme | None = "lambdarank",
        sigma: float = 1.0,
        mu: float = 10.0,
        k: int | None = None,
        log_base: float = 2.0,
        drop_zero_lists: bool = True,
    ) -> None:
        super().__init__()
        _check_lambda_options(scheme, sigma, mu, k, log_base)
        self.scheme: LambdaScheme | None = scheme
        self.sigma = sigma
        self.mu = mu
        self.k = k
        self.log_base = log_base
        self.drop_zero_lists = drop_zero_lists

    def loss(
        self, scores: Tensor, relevance: Tensor, list_sizes: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The mean over the lists that count."""
        return lambda_loss(
            scores,
            relevance,
            list_sizes,
            mask=mask,
            scheme=self.scheme,
            sigma=self.sigma,
            mu=self.mu,
            k=self.k,
            log_base=self.log_base,
            drop_zero_lists=self.drop_zero_lists,
        )


def reduce_over_lists(losses: Tensor, *, reduction: Reduction = "mean", drop_zero_lists: bool = True) -> Tensor:
    """Reduce the losses of lists; the mean leaves lists out whose loss is exactly 0, if asked, and is 0 without lists.

    >>> reduce_over_lists(torch.tensor([0.0, 1.0, 2.0]))
    tensor(1.5000)
    """
    if reduction != "mean" or not drop_zero_lists:
        return reduce(losses, reduction)
    return losses.sum() / (losses.detach() != 0).sum().clamp(min=1)


def _check_lambda_options(scheme: object, sigma: float, mu: float, k: int | None, log_base: float) -> None:
    check_option(scheme, "scheme", _SCHEMES)
    check_positive(sigma, "sigma")
    check_positive(mu, "mu")
    if k is not None:
        check_at_least(k, "k", 1)
    if not (math.isfinite(log_base) and log_base > 1):
        raise ValueError(f"Expected argument `log_base` to be above 1, but got {log_base}.")


def _lambda_weights(gains: Tensor, discount: Tensor, scheme: str | None, mu: float) -> Tensor:
    """`[lists, ranks, ranks]`, from gains by rank and the discounts of one rank more than there are."""
    ranks = gains.shape[1]
    if scheme in (None, "ranknet"):
        return gains.new_ones(len(gains), ranks, ranks)
    worth = 1 / discount
    if scheme == "ndcg_loss1":
        return (gains * worth[:-1])[:, :, None].expand(-1, -1, ranks)
    by_rank = (worth[:-1, None] - worth[None, :-1]).abs()
    if scheme != "lambdarank":
        place = torch.arange(ranks, device=gains.device)
        apart = (place[:, None] - place[None, :]).abs()
        neighbours = (worth[:-1] - worth[1:])[(apart - 1).clamp(min=0)]  # an item and itself make no pair
        by_rank = neighbours if scheme == "ndcg_loss2" else mu * neighbours + by_rank
    return by_rank * (gains[:, :, None] - gains[:, None, :]).abs()


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
