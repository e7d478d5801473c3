from __future__ import annotations

import math
from inspect import unwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from tutelage.assessment import (
    captured_amount,
    mean_reciprocal_rank,
    misclassification_cost,
    ndcg_at_k,
    top_fraction_decision,
)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(2, 9), min_size=1, max_size=4), k=st.sampled_from([None, 1, 3, 10]))
def test_ndcg_is_that_of_scikit_learn(sizes: list[int], k: int | None) -> None:
    generator = torch.Generator().manual_seed(sum(sizes))
    scores = torch.randn(sum(sizes), generator=generator)
    grades = torch.randint(4, (sum(sizes),), generator=generator)
    expected = {"exponential": [], "linear": []}
    for s, y in zip(scores.split(sizes), grades.split(sizes), strict=True):
        y[0] = 1
        expected["linear"].append(ndcg_score(y[None].numpy(), s[None].numpy(), k=k))
        expected["exponential"].append(ndcg_score(2.0 ** y[None].numpy() - 1, s[None].numpy(), k=k))
    list_sizes = torch.tensor(sizes)
    mask = torch.arange(max(sizes)) < list_sizes[:, None]
    padded_scores, padded_grades = torch.full(mask.shape, math.nan), torch.full(mask.shape, 9)
    padded_scores[mask], padded_grades[mask] = scores, grades
    for gain, values in expected.items():
        assert ndcg_at_k(scores, grades, list_sizes, k=k, gain=gain) == pytest.approx(np.mean(values))
        assert ndcg_at_k(padded_scores, padded_grades, mask=mask, k=k, gain=gain) == pytest.approx(np.mean(values))


def test_known_answers_and_lists_without_a_relevant_item() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    relevance = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0]])  # ranks 2 and 1, and none
    assert ndcg_at_k(scores, relevance) == pytest.approx((1 / math.log2(3) + 1) / 2)
    assert ndcg_at_k(scores, relevance, k=1) == 0.5
    assert mean_reciprocal_rank(scores, relevance) == 0.75
    assert mean_reciprocal_rank(scores.flatten(), relevance.flatten(), torch.tensor([3, 3, 3])) == 0.75
    assert mean_reciprocal_rank(torch.zeros(1, 3), torch.tensor([[0, 0, 1]])) == pytest.approx(1 / 3)


@settings(max_examples=25, deadline=None)
@given(items=st.integers(1, 300), percent=st.integers(1, 100))
def test_as_many_items_are_flagged_as_the_fraction_says(items: int, percent: int) -> None:
    scores = torch.randn(items)
    flagged = top_fraction_decision(scores, fraction=percent / 100)
    assert flagged.sum() == max(1, items * percent // 100)
    assert flagged.all() or scores[flagged].min() >= scores[~flagged].max()


def test_ties_are_flagged_by_index() -> None:
    assert top_fraction_decision(torch.tensor([1, 2, 2, 2]), fraction=0.5).tolist() == [False, True, True, False]


def test_costs_and_captured_amounts() -> None:
    target, flagged = torch.tensor([1, 1, 0, 0]), torch.tensor([True, False, True, False])
    amounts = torch.tensor([100.0, 40.0, -15.0, 3.0])
    assert misclassification_cost(target, flagged, amounts) == 25.0
    assert misclassification_cost(target, flagged, amounts.abs()) == 55.0
    assert misclassification_cost(target, target, amounts) == 0.0
    cents = torch.full((1000,), 1e8 + 0.25, dtype=torch.float64)
    nothing = torch.zeros(1000, dtype=torch.int64)
    assert misclassification_cost(nothing + 1, nothing, cents) == 1e11 + 250
    assert captured_amount(amounts, amounts, fraction=0.5) == 1.0
    assert captured_amount(-amounts, amounts, fraction=0.5) == pytest.approx(-12 / 140)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unwrap(ndcg_at_k)(torch.zeros(1, 2), torch.zeros(1, 2)), "a relevant item in some list"),
        (lambda: unwrap(ndcg_at_k)(torch.zeros(1, 2), torch.tensor([[1, -1]])), "`relevance` to be at least 0"),
        (lambda: unwrap(ndcg_at_k)(torch.zeros(1, 2), torch.ones(1, 2), k=0), "`k` to be at least 1"),
        (lambda: unwrap(ndcg_at_k)(torch.zeros(1, 2), torch.ones(1, 2), gain="log"), "`gain` to be one of"),
        (lambda: unwrap(ndcg_at_k)(torch.tensor([[math.nan, 0]]), torch.ones(1, 2)), "`scores` to be finite"),
        (lambda: mean_reciprocal_rank(torch.zeros(3), torch.ones(3), torch.tensor([2])), "sum to the number of items"),
        (lambda: top_fraction_decision(torch.zeros(3), fraction=0.0), r"`fraction` to be in \(0, 1\]"),
        (lambda: top_fraction_decision(torch.zeros(3), fraction=1.5), r"`fraction` to be in \(0, 1\]"),
        (lambda: top_fraction_decision(torch.zeros(0)), "at least one value"),
        (lambda: top_fraction_decision(torch.tensor([math.nan])), "`scores` to be finite"),
        (lambda: misclassification_cost(torch.tensor([2]), torch.tensor([0]), torch.ones(1)), "labels 0 and 1"),
        (lambda: misclassification_cost(torch.tensor([1]), torch.tensor([0]), torch.tensor([math.inf])), "finite"),
        (lambda: unwrap(misclassification_cost)(torch.tensor([1, 0]), torch.tensor([0]), torch.ones(1)), "same shape"),
        (lambda: captured_amount(torch.zeros(2), torch.tensor([-1.0, -2.0])), "sum to more than 0"),
    ],
)
def test_bad_input_is_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
