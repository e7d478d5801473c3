from __future__ import annotations

import math
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.assessment import calibration_curve_of_greedy, coverage_from_log_prob, greedy_confidence, pass_at_k
from tutelage.models import causal_lm


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


END, PAD = 2, 0


def greedy_by_hand(model, prompt: list[int], steps: int) -> tuple[list[int], float]:
    """Token by token without a cache."""
    text, probability = list(prompt), 1.0
    for _ in range(steps):
        probs = model(torch.tensor([text])).logits[0, -1].softmax(-1)
        probability *= probs.max().item()
        if probs.argmax() == END:
            break
        text.append(int(probs.argmax()))
    return text[len(prompt) :], probability


def test_greedy_confidence_is_the_product_over_the_completion():
    ends_soon = 0
    for seed in range(6):
        torch.manual_seed(seed)
        model = causal_lm(
            5, architecture="llama", hidden_size=16, eos_token_id=END, pad_token_id=PAD, tie_word_embeddings=False
        )
        with torch.no_grad():
            model.get_output_embeddings().weight *= 20  # sure enough to differ
        model.eval()
        prompts = [[1, 3, 4], [1, 4]]
        padded = {
            "input_ids": torch.tensor([[1, 3, 4], [PAD, 1, 4]]),
            "attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]]),
        }
        expected = [greedy_by_hand(model, prompt, 4) for prompt in prompts]
        model.train()
        confidence = greedy_confidence(model, padded, max_new_tokens=4)
        assert model.training
        torch.testing.assert_close(confidence, torch.tensor([p for _, p in expected]), rtol=1e-3, atol=1e-6)
        seen = {}
        curve = calibration_curve_of_greedy(
            model, padded, lambda row, tokens, seen=seen: seen.setdefault(row, tokens.tolist()) is None,
            num_bins=2, max_new_tokens=4,
        )  # fmt: skip
        assert [seen[0], seen[1]] == [tokens for tokens, _ in expected]
        assert int(curve.count.sum()) == 2
        assert curve.accuracy.nansum() == 0
        ends_soon += sum(len(tokens) < 4 for tokens, _ in expected)
    assert ends_soon  # some completion ends before the limit, so that the end token's part is tested


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
