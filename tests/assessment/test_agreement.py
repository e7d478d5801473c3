from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from tutelage.assessment import (
    answer_agreement,
    cohen_kappa,
    disagreement_breakdown,
    fleiss_kappa,
    krippendorff_alpha,
    pabak,
    prediction_fidelity,
    quadratic_weighted_kappa,
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40),
    st.sampled_from([None, "linear", "quadratic"]),
)
def test_kappa_agrees_with_scikit_learn(pairs, weights):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    if len({*a, *b}) == 1:
        return
    agreement = cohen_kappa(a, b, weights=weights)
    # scikit-learn warns and gives 0/0 only for one label in all, which is left out above
    assert float(agreement) == pytest.approx(cohen_kappa_score(a, b, weights=weights), abs=1e-12)
    assert float(cohen_kappa(b, a, weights=weights)) == pytest.approx(float(agreement), abs=1e-12)
    low, high = agreement.ci
    assert low <= high <= 1 + 1e-12


def test_kappa_known_answers():
    agreement = cohen_kappa([1, 1, 0, 0], [1, 0, 0, 0])
    assert (agreement.kappa, agreement.observed, agreement.expected, agreement.n) == (0.5, 0.75, 0.5, 4)
    assert float(cohen_kappa([0, 0, 1, 1], [0, 1, 0, 1])) == 0
    assert float(cohen_kappa([0, 0, 1, 1], [1, 1, 0, 0])) == -1
    assert cohen_kappa(["a", "b"], ["a", "b"]).ci == (1.0, 1.0)
    assert quadratic_weighted_kappa([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]) == -1
    binary = ([0, 1, 1, 0, 1], [0, 1, 0, 0, 1])
    assert quadratic_weighted_kappa(*binary) == pytest.approx(float(cohen_kappa(*binary)))


def test_weights_count_steps_along_the_given_labels():
    a, b = [0, 4, 4, 0], [0, 4, 0, 4]
    declared = cohen_kappa([0, 1, 4], [0, 4, 4], weights="linear", labels=[0, 1, 2, 3, 4])
    assert float(declared) == pytest.approx(cohen_kappa_score([0, 1, 4], [0, 4, 4], weights="linear", labels=range(5)))
    assert float(declared) != pytest.approx(float(cohen_kappa([0, 1, 4], [0, 4, 4], weights="linear")))
    assert float(cohen_kappa(a, b, labels=[4, 0])) == float(cohen_kappa(a, b))


def test_missing_labels_change_nothing():
    base = cohen_kappa([1, 0, 1, 0], [1, 0, 0, 0])
    for gap in (None, float("nan")):
        assert cohen_kappa([1, 0, 1, 0, gap], [1, 0, 0, 0, 1]) == base
    assert cohen_kappa(torch.tensor([1.0, 0, 1, 0, math.nan]), np.array([1.0, 0, 0, 0, 1])).kappa == base.kappa
    with pytest.raises(ValueError, match="but 1 are not"):
        cohen_kappa([1, None], [1, 0], missing="raise")
    with pytest.raises(ValueError, match="at least one item that both"):
        cohen_kappa([1, None], [None, 0])


def test_constant_raters_are_undefined_or_zero():
    with pytest.warns(UserWarning, match="undefined"):
        assert math.isnan(cohen_kappa([1, 1, 1], [1, 1, 1]).kappa)
    assert cohen_kappa([1, 1, 1, 1], [1, 0, 1, 0]).kappa == 0


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    table = np.array([[0.4, 0.1], [0.1, 0.4]])  # kappa 0.6
    hits = 0
    for _ in range(60):
        cells = generator.choice(4, size=150, p=table.ravel())
        low, high = cohen_kappa((cells // 2).tolist(), (cells % 2).tolist()).ci
        hits += low <= 0.6 <= high
    assert hits >= 51


def test_prevalence_adjusted_kappa():
    assert pabak([1, 1, 0, 0], [1, 0, 0, 0]) == 0.5
    assert pabak([1, 1], [1, 1]) == 1
    assert pabak([0, 1, 2], [1, 2, 0]) == -0.5


def test_fleiss_kappa_of_the_published_example():
    # Fleiss 1971 as printed in textbooks: 10 subjects, 14 raters, 5 categories, kappa 0.210
    counts = torch.tensor(
        [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ]
    )
    assert fleiss_kappa(counts) == pytest.approx(0.20993, abs=1e-5)


def test_fleiss_kappa_of_two_raters_is_scotts_pi():
    a, b = torch.randint(3, (40,)), torch.randint(3, (40,))
    counts = torch.nn.functional.one_hot(a, 3) + torch.nn.functional.one_hot(b, 3)
    share = counts.sum(0) / 80
    expected = float(share.square().sum())
    observed = float((a == b).double().mean())
    assert fleiss_kappa(counts) == pytest.approx((observed - expected) / (1 - expected), abs=1e-6)


def test_krippendorff_alpha_is_fleiss_kappa_with_the_small_sample_term():
    ratings = torch.randint(4, (25, 3))
    counts = torch.nn.functional.one_hot(ratings, 4).sum(1)
    expected = 1 - (1 - fleiss_kappa(counts)) * (1 - 1 / 75)
    assert krippendorff_alpha(ratings.float()) == pytest.approx(expected, abs=1e-12)


def test_krippendorff_alpha_of_the_published_example():
    # Krippendorff 2011, example C/D: 4 observers, 12 units, with gaps
    gap = math.nan
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, gap, gap, gap],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, gap, 3],
        [gap, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, gap],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, gap],
    ]
    ratings = torch.tensor(observers, dtype=torch.float64).T
    assert krippendorff_alpha(ratings, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(ratings, "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(ratings, "interval") == pytest.approx(0.849, abs=5e-4)


def test_undefined_panels_warn():
    with pytest.warns(UserWarning, match="undefined"):
        assert math.isnan(fleiss_kappa(torch.tensor([[3, 0], [3, 0]])))
    with pytest.warns(UserWarning, match="undefined"):
        assert math.isnan(krippendorff_alpha(torch.ones(4, 2)))


def test_answer_agreement_has_wilsons_interval():
    a, b = list("aabbccddee"), list("aabbccddxy")
    rate, (low, high) = answer_agreement(a, b)
    interval = binomtest(8, 10).proportion_ci(method="wilson")
    assert (rate, low, high) == (0.8, pytest.approx(interval.low), pytest.approx(interval.high))
    assert answer_agreement([1, 2], [1, 2])[0] == 1
    assert answer_agreement([1, 2], [3, 4])[0] == 0
    assert answer_agreement([1.0], [1.0005], equal=lambda x, y: abs(x - y) < 1e-3)[0] == 1


def test_breakdown_shares_sum_to_one():
    student, teacher, gold = (torch.randint(3, (50,)).tolist() for _ in range(3))
    shares = disagreement_breakdown(student, teacher, gold)
    assert sum(shares.values()) == pytest.approx(1)
    agreed = shares["both_right"] + shares["both_wrong_same"]
    assert agreed == pytest.approx(answer_agreement(student, teacher)[0])


def test_prediction_fidelity():
    student, teacher = torch.randn(50, 4), torch.randn(50, 4)
    fidelity = prediction_fidelity(student, teacher, teacher.argmax(1))
    kl = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=teacher), torch.distributions.Categorical(logits=student)
    )
    assert fidelity.kl == pytest.approx(float(kl.mean()), rel=1e-5)
    assert fidelity.agreement == pytest.approx(float((student.argmax(1) == teacher.argmax(1)).double().mean()))
    assert fidelity.agreement_on_teacher_errors is None  # the teacher makes none
    target = torch.randint(4, (50,))
    wrong = teacher.argmax(1) != target
    on_errors = float((student.argmax(1) == teacher.argmax(1))[wrong].double().mean())
    assert prediction_fidelity(student, teacher, target).agreement_on_teacher_errors == pytest.approx(on_errors)
    assert prediction_fidelity(teacher, teacher + 3).kl == pytest.approx(0, abs=1e-6)


def test_fidelity_of_masked_classes_is_finite():
    masked = torch.tensor([[1.0, 0.0, -torch.inf]])
    assert prediction_fidelity(masked, masked).kl == 0
    assert prediction_fidelity(torch.tensor([[1.0, 0.0, 0.0]]), masked).kl > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cohen_kappa([1], [1, 2]), "same length"),
        (lambda: cohen_kappa([], []), "empty"),
        (lambda: cohen_kappa([1, 5], [1, 1], labels=[0, 1]), "one of .* but got 5"),
        (lambda: cohen_kappa([1, 0], [1, 1], labels=[0, 1, 1]), "each label once"),
        (lambda: answer_agreement([], []), "empty"),
        (lambda: disagreement_breakdown([1], [1, 2], [1, 2]), "same length"),
        (lambda: fleiss_kappa(torch.tensor([[2, 0], [1, 2]])), "same number of raters"),
        (lambda: fleiss_kappa(torch.tensor([[1, 0]])), "at least 2"),
        (lambda: fleiss_kappa(torch.tensor([[1.5, 0.5]])), "whole numbers"),
        (lambda: krippendorff_alpha(torch.tensor([[1.0, math.nan]])), "at least two ratings"),
        (lambda: prediction_fidelity(torch.zeros(2, 3), torch.zeros(2, 4)), "number of classes"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
