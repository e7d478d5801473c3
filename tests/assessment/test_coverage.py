from __future__ import annotations

import math
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.assessment import coverage_from_log_prob, pass_at_k


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.data())
def test_pass_at_k_is_the_ratio_of_binomials(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert float(pass_at_k(n, c, k)) == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-6)


def test_pass_at_k_known_answers_and_shapes():
    n = torch.tensor([[10, 10], [10, 10]])
    c = torch.tensor([[3, 0], [6, 10]])
    torch.testing.assert_close(pass_at_k(n, c, 1), c / 10)
    five = pass_at_k(n, c, 5)
    assert five.shape == (2, 2)
    assert float(five[0, 0]) == pytest.approx(0.916667, abs=1e-6)
    assert five[0, 1] == 0
    assert five[1].tolist() == [1.0, 1.0]
    assert pass_at_k(100_000, torch.tensor([1]), 50_000).item() == pytest.approx(0.5, abs=1e-5)


def test_pass_at_k_is_unbiased():
    correct = torch.distributions.Binomial(20, torch.full((20_000,), 0.1)).sample().long()
    assert float(pass_at_k(20, correct, 5).mean()) == pytest.approx(1 - 0.9**5, abs=0.01)


def test_coverage_known_answers():
    log_prob = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64).log()
    expected = [0.8146980, 1 - 0.5**16, 1.0]
    assert coverage_from_log_prob(log_prob, num_samples=16).tolist() == pytest.approx(expected, abs=1e-7)
    torch.testing.assert_close(coverage_from_log_prob(log_prob, num_samples=1), log_prob.exp())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coverage_keeps_its_digits_at_both_ends(dtype):
    tiny = torch.tensor([-60.0], dtype=dtype)
    assert float(coverage_from_log_prob(tiny, num_samples=1000)) == pytest.approx(1000 * math.exp(-60), rel=1e-5)
    values = coverage_from_log_prob(torch.tensor([-1e4, -1e-12, 0.0], dtype=dtype), num_samples=256)
    assert values.tolist() == [0.0, 1.0, 1.0]
    assert coverage_from_log_prob(tiny.bfloat16(), num_samples=2).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k(10, 3, 0), "`k` to be at least 1"),
        (lambda: pass_at_k(torch.tensor([10, 4]), torch.tensor([3, 3]), 5), "at most `num_samples`"),
        (lambda: pass_at_k(10, 11, 1), "num_correct"),
        (lambda: coverage_from_log_prob(torch.tensor([0.1]), num_samples=2), "log-probabilities"),
        (lambda: coverage_from_log_prob(torch.tensor([math.nan]), num_samples=2), "log-probabilities"),
        (lambda: coverage_from_log_prob(torch.tensor([-1.0]), num_samples=0.5), "`num_samples` to be at least 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
