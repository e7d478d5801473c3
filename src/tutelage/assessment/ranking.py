"""How good an order is within lists, and what a decision by score costs in money."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from tutelage._checks import check_at_least, check_finite, check_option, check_same_length, check_same_shape
from tutelage.data.ranking_lists import padded_lists


def ndcg_at_k(
    scores: Shaped[Tensor, "..."],
    relevance: Tensor,
    list_sizes: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    k: int | None = 10,
    gain: Literal["exponential", "linear"] = "exponential",
) -> float:
    """Normalised discounted cumulative gain of the first k ranks, the mean over lists that have a relevant item.

    DCG@k = Σ_{r ≤ k} gain(y of rank r) / log2(1 + r), divided by that of the best order. Ties between scores keep the
    order of items.

    Args:
        scores: `[items]` with `list_sizes`, or `[lists, items]`.
        relevance: Of the same shape: grades of at least 0.
        list_sizes: `[lists]` integers for flat scores.
        mask: `[lists, items]` for padded scores: True where there is an item.
        k: Ranks that count, or None for all.
        gain: `"exponential"` (2^y − 1) or `"linear"` (y, as trec_eval has it); the same for labels 0 and 1.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: Shapes or sizes that do not fit, scores that are not finite, negative relevance, no list with a
            relevant item, or k below 1.

    Source: Järvelin and Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS 20(4), 2002.

    >>> ndcg_at_k(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0, 1, 0]]))
    0.6309297535714575
    """
    check_option(gain, "gain", ("exponential", "linear"))
    if k is not None:
        check_at_least(k, "k", 1)
    order, grades = _ranked(scores, relevance, list_sizes, mask)
    gains = grades.exp2() - 1 if gain == "exponential" else grades
    depth = gains.shape[1] if k is None else min(k, gains.shape[1])
    discount = torch.arange(2, depth + 2, dtype=torch.float64, device=gains.device).log2()
    found = (gains.gather(1, order)[:, :depth] / discount).sum(dim=1)
    ideal = (gains.sort(dim=1, descending=True).values[:, :depth] / discount).sum(dim=1)
    return float((found / ideal).mean())


def mean_reciprocal_rank(
    scores: Shaped[Tensor, "..."],
    relevance: Tensor,
    list_sizes: Tensor | None = None,
    *,
    mask: Tensor | None = None,
) -> float:
    """1 / (rank of the first relevant item), the mean over lists that have one. Ties keep the order of items.

    Args:
        scores: `[items]` with `list_sizes`, or `[lists, items]`.
        relevance: Of the same shape; relevant where above 0.
        list_sizes: `[lists]` integers for flat scores.
        mask: `[lists, items]` for padded scores: True where there is an item.

    Returns:
        A fraction in (0, 1].

    Raises:
        ValueError: As `ndcg_at_k`.

    >>> mean_reciprocal_rank(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0, 1, 1]]))
    0.5
    """
    order, grades = _ranked(scores, relevance, list_sizes, mask)
    first = (grades.gather(1, order) > 0).double().argmax(dim=1)
    return float((1 / (first + 1).double()).mean())


def top_fraction_decision(scores: Shaped[Tensor, "items"], *, fraction: float = 0.01) -> Bool[Tensor, "items"]:
    """Flag the max(1, ⌊fraction · items⌋) items with the highest scores; of equal scores, the earlier ones.

    Args:
        scores: `[items]`.
        fraction: The share that is known to be positive (the "prior"), in (0, 1].

    Raises:
        ValueError: No item, a score that is not finite, or a fraction outside (0, 1].

    >>> top_fraction_decision(torch.tensor([0.1, 0.9, 0.9, 0.2]), fraction=0.25)
    tensor([False,  True, False, False])
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"Expected argument `fraction` to be in (0, 1], but got {fraction}.")
    check_same_length(scores, scores, "scores", "scores")
    check_finite(scores, "scores")
    count = max(1, math.floor(fraction * len(scores) + 1e-9))  # 0.29 · 100 is 28.999…
    chosen = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    chosen[scores.argsort(descending=True, stable=True)[:count]] = True
    return chosen


def misclassification_cost(
    target: Shaped[Tensor, "items"], prediction: Shaped[Tensor, "items"], amounts: Shaped[Tensor, "items"]
) -> float:
    """The money of wrong decisions: Σ a_i · |t_i − t̂_i|.

    A wrongly flagged item with a negative amount lowers the sum, which rewards flagging the largest losers. Where
    amounts have both signs and either error costs what is at stake, pass their absolute values.

    Args:
        target: `[items]`, 0 or 1.
        prediction: `[items]`, 0 or 1.
        amounts: `[items]`: what is at stake, in any unit.

    Returns:
        In the unit of the amounts; summed in float64.

    Raises:
        ValueError: Shapes that differ, no item, labels other than 0 and 1, or amounts that are not finite.

    Source: Li et al., ACM TOIS 44(1), 2025, whose tables give its negative.

    >>> misclassification_cost(torch.tensor([1, 0, 0]), torch.tensor([0, 1, 0]), torch.tensor([50.0, 20.0, 7.0]))
    70.0
    """
    for name, labels in (("target", target), ("prediction", prediction)):
        check_same_shape(labels, amounts, name, "amounts")
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError(f"Expected argument `{name}` to hold labels 0 and 1, but it does not.")
    check_same_length(target, amounts, "target", "amounts")
    check_finite(amounts, "amounts")
    return float(amounts.double()[target.bool() != prediction.bool()].sum())


def captured_amount(
    scores: Shaped[Tensor, "items"], amounts: Shaped[Tensor, "items"], *, fraction: float = 0.01
) -> float:
    """The money of the items with the highest scores, as a share of the largest that as many items could hold.

    Args:
        scores: `[items]`.
        amounts: `[items]`; those of the largest must sum to more than 0.
        fraction: The share of items that is flagged (see `top_fraction_decision`).

    Returns:
        At most 1; negative when the flagged items lost money.

    Raises:
        ValueError: Shapes that differ, amounts that are not finite or whose largest do not sum to more than 0, or as
            `top_fraction_decision`.

    >>> captured_amount(torch.tensor([0.9, 0.1, 0.2, 0.3]), torch.tensor([60.0, 80.0, 0.0, -5.0]), fraction=0.25)
    0.75
    """
    check_same_shape(scores, amounts, "scores", "amounts")
    money = amounts.double()
    found = money[top_fraction_decision(scores, fraction=fraction)].sum()
    largest = money[top_fraction_decision(money, fraction=fraction)].sum()
    if not largest > 0:
        raise ValueError(f"Expected the largest amounts to sum to more than 0, but they sum to {float(largest)}.")
    return float(found / largest)


def _ranked(scores: Tensor, relevance: Tensor, list_sizes: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Items in descending order of score and their grades, for the lists with a relevant item; padding comes last."""
    (rows, grades), present = padded_lists(list_sizes, mask, scores=scores, relevance=relevance)
    check_finite(rows, "scores")
    check_finite(grades, "relevance")
    if (grades < 0).any():
        raise ValueError(f"Expected argument `relevance` to be at least 0, but got {float(grades.min())}.")
    relevant = (grades > 0).any(dim=1)
    if not relevant.any():
        raise ValueError("Expected argument `relevance` to hold a relevant item in some list, but there is none.")
    order = rows.double().masked_fill(~present, -math.inf).argsort(dim=1, descending=True, stable=True)
    return order[relevant], grades[relevant].double()
