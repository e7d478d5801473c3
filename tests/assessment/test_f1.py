from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from sklearn.metrics import f1_score

from tutelage.assessment import best_f1_threshold, span_f1, spans_from_tags


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), max_size=12))
def test_no_threshold_is_better(pairs) -> None:
    scores = torch.tensor([0.3, *(s / 5 for s, _ in pairs)])
    target = [1, *(y for _, y in pairs)]
    best = best_f1_threshold(scores, torch.tensor(target))
    reached = {float(t): f1_score(target, (scores >= t).int().tolist()) for t in scores}
    assert reached[best] == pytest.approx(max(reached.values()))
    assert best == max(t for t, f1 in reached.items() if f1 >= reached[best] - 1e-12)


def test_for_known_probabilities_the_threshold_is_half_the_best_f1() -> None:
    p = torch.rand(100_000, dtype=torch.float64) ** 4
    target = (torch.rand(100_000) < p).long()
    threshold = best_f1_threshold(p, target)
    f1 = f1_score(target, (p >= threshold).int())
    assert threshold == pytest.approx(f1 / 2, abs=0.03)


def test_spans_are_right_as_a_whole() -> None:
    predicted = [{("per", 0, 1), ("loc", 3, 3)}, [("per", 2, 2), ("per", 2, 2)], set()]
    gold = [{("per", 0, 1), ("loc", 3, 4)}, [("per", 2, 2)], {("org", 0, 0)}]
    found = span_f1(predicted, gold)
    assert found == {
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 4),
        "f1": pytest.approx(4 / 7),
        "true_positives": 2,
        "predicted": 3,
        "gold": 4,
    }
    assert span_f1([[]], [[]])["f1"] == 0.0


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("", set()),
        ("O B-a I-a O", {("a", 1, 2)}),
        ("B-a B-a", {("a", 0, 0), ("a", 1, 1)}),
        ("B-a I-b I-b", {("a", 0, 0), ("b", 1, 2)}),
        ("I-a O I-a", {("a", 0, 0), ("a", 2, 2)}),
        ("B-x-y I-x-y", {("x-y", 0, 1)}),
    ],
)
def test_tags(tags: str, spans: set) -> None:
    assert spans_from_tags(tags.split()) == spans


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_f1_threshold(torch.tensor([0.1]), torch.tensor([0])), "at least one 1"),
        (lambda: best_f1_threshold(torch.tensor([float("nan")]), torch.tensor([1])), "`probs` to be finite"),
        (lambda: span_f1([[]], []), "same length"),
        (lambda: spans_from_tags(["S-a"]), "'S-a'"),
        (lambda: spans_from_tags(["B"]), "'B'"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
