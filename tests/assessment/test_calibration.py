from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from tutelage.assessment import (
    brier_score,
    classwise_calibration_error,
    confidence_auroc,
    expected_calibration_error,
    kolmogorov_smirnov_calibration_error,
    maximum_calibration_error,
    narrow_misclassification_mask,
    reliability_curve,
    top_label_brier_score,
)


def slow_ece(confidence: list[float], correct: list[bool], num_bins: int) -> tuple[float, float]:
    """Expected and maximum calibration error, bin by bin as defined."""
    total, largest = 0.0, 0.0
    for b in range(num_bins):
        low, high = b / num_bins, (b + 1) / num_bins
        members = [i for i, c in enumerate(confidence) if low < c <= high or (b == 0 and c == 0)]
        if members:
            gap = abs(sum(correct[i] for i in members) - sum(confidence[i] for i in members)) / len(members)
            total += gap * len(members) / len(confidence)
            largest = max(largest, gap)
    return total, largest


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 20),
)
def test_equals_the_definition(pairs, num_bins):
    confidence = torch.tensor([c for c, _ in pairs], dtype=torch.float64)
    correct = torch.tensor([r for _, r in pairs])
    expected, largest = slow_ece(confidence.tolist(), correct.tolist(), num_bins)
    assert expected_calibration_error(confidence, correct, num_bins=num_bins) == pytest.approx(expected, abs=1e-12)
    assert maximum_calibration_error(confidence, correct, num_bins=num_bins) == pytest.approx(largest, abs=1e-12)
    assert expected <= largest + 1e-12
    curve = reliability_curve(confidence, correct, num_bins=num_bins)
    assert int(curve.count.sum()) == len(pairs)
    assert curve.accuracy.isnan().equal(curve.count == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_edges_belong_to_the_lower_bin(dtype):
    edges = (torch.arange(16, dtype=torch.float64) / 15).to(dtype)
    curve = reliability_curve(edges, torch.ones(16, dtype=torch.bool))
    assert curve.count.tolist() == [2] + [1] * 14  # 0 falls into the first bin, beside 1/15


def test_known_answers():
    confident = torch.ones(10)
    correct = torch.tensor([1] * 7 + [0] * 3)
    assert expected_calibration_error(confident, correct) == pytest.approx(0.3)
    tied = torch.full((5,), 0.8)
    assert kolmogorov_smirnov_calibration_error(tied, torch.tensor([0, 0, 1, 1, 1])) == pytest.approx(0.32, abs=1e-6)
    assert kolmogorov_smirnov_calibration_error(tied, torch.tensor([1, 1, 1, 0, 0])) == pytest.approx(0.2, abs=1e-6)
    probs = torch.tensor([[0.7, 0.2, 0.1]])
    assert brier_score(probs, torch.tensor([0])) == pytest.approx(0.09 + 0.04 + 0.01, abs=1e-6)
    assert brier_score(torch.tensor([[1.0, 0.0]]), torch.tensor([1])) == 2.0
    assert top_label_brier_score(torch.tensor([0.7, 0.7, 0.7, 0.6]), torch.tensor([1, 1, 1, 0])) == pytest.approx(
        0.1575
    )


def test_a_calibrated_predictor_has_small_errors():
    confidence = torch.rand(100_000)
    correct = torch.rand(100_000) < confidence
    assert expected_calibration_error(confidence, correct) < 0.02
    assert expected_calibration_error(confidence, correct, binning="mass") < 0.02
    assert kolmogorov_smirnov_calibration_error(confidence, correct) < 0.01


def test_equal_mass_bins_hold_equally_many_samples():
    confidence = torch.rand(100) ** 4
    curve = reliability_curve(confidence, torch.rand(100) < 0.5, num_bins=7, binning="mass")
    assert int(curve.count.sum()) == 100
    assert int(curve.count.max() - curve.count.min()) <= 1
    assert curve.confidence.diff().min() > 0
    few = reliability_curve(confidence[:3], torch.ones(3), num_bins=10, binning="mass")
    assert int(few.count.max()) == 1


def test_classwise_error_is_the_mean_over_classes():
    probs, target = torch.randn(60, 4).softmax(1), torch.randint(4, (60,))
    expected = sum(expected_calibration_error(probs[:, k], target == k, num_bins=10) for k in range(4)) / 4
    assert classwise_calibration_error(probs, target, num_bins=10) == pytest.approx(expected, abs=1e-12)


def test_agrees_with_scikit_learn():
    probs, target = torch.randn(80, 3).double().softmax(1), torch.randint(3, (80,))
    expected = brier_score_loss(target.numpy(), probs.numpy(), labels=[0, 1, 2], scale_by_half=False)
    assert brier_score(probs, target) == pytest.approx(expected)
    confidence, correct = (torch.rand(80) * 10).round() / 10, torch.rand(80) < 0.6
    assert confidence_auroc(confidence, correct) == pytest.approx(roc_auc_score(correct, confidence))


def test_order_of_samples_does_not_matter_without_ties():
    confidence, correct, order = torch.rand(50), torch.rand(50) < 0.5, torch.randperm(50)
    for measure in (expected_calibration_error, maximum_calibration_error, kolmogorov_smirnov_calibration_error):
        assert measure(confidence, correct) == pytest.approx(measure(confidence[order], correct[order]), abs=1e-9)


def test_narrow_misclassifications():
    probs = torch.tensor([[0.6, 0.4], [0.75, 0.25], [0.4, 0.6]])
    assert narrow_misclassification_mask(probs, torch.tensor([1, 1, 1])).tolist() == [True, False, False]
    assert narrow_misclassification_mask(probs, torch.tensor([1, 1, 1]), low=0.2).tolist() == [True, True, False]


def test_softmax_rounding_past_one_is_let_through():
    expected_calibration_error(torch.tensor([1.0000001]), torch.tensor([True]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_calibration_error(torch.tensor([1.2]), torch.tensor([1])), r"in \[0, 1\], but got 1.2"),
        (lambda: expected_calibration_error(torch.tensor([float("nan")]), torch.tensor([1])), r"in \[0, 1\]"),
        (lambda: expected_calibration_error(torch.empty(0), torch.empty(0)), "empty"),
        (lambda: expected_calibration_error(torch.rand(3), torch.ones(3), num_bins=0), "`num_bins` to be at least 1"),
        (lambda: expected_calibration_error(torch.rand(3), torch.ones(3), binning="with"), "did you mean 'width'"),
        (lambda: brier_score(torch.tensor([[0.5, 0.6]]), torch.tensor([0])), "sum to 1"),
        (lambda: brier_score(torch.tensor([[0.5, 0.5]]), torch.tensor([2])), r"classes in \[0, 2\)"),
        (lambda: brier_score(torch.empty(0, 2), torch.empty(0, dtype=torch.int64)), "empty"),
        (lambda: confidence_auroc(torch.rand(3), torch.ones(3)), "right and wrong"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
