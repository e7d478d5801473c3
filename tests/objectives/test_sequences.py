from __future__ import annotations

import pytest
import torch

from tutelage.objectives import perturb_logits, sequence_level_kd, sequence_log_prob, token_entropy, token_log_probs


def test_token_log_probs_are_those_of_the_softmax() -> None:
    logits, target = torch.randn(2, 3, 5, dtype=torch.float64), torch.randint(5, (2, 3))
    expected = (logits / 0.7).log_softmax(-1).gather(-1, target[..., None])[..., 0]
    torch.testing.assert_close(token_log_probs(logits, target, temperature=0.7), expected)
    target[0, 1:] = -100
    skipped = token_log_probs(logits, target, temperature=0.7)
    torch.testing.assert_close(skipped[1], expected[1])
    assert (skipped[0, 1:] == 0).all()


def test_a_sequence_is_the_sum_over_what_follows() -> None:
    logits = torch.randn(1, 4, 6, dtype=torch.float64)
    target = torch.tensor([[2, 5, 1, -100]])
    log_p = logits.log_softmax(-1)
    expected = log_p[0, 0, 5] + log_p[0, 1, 1]  # position t predicts token t + 1; the first token is given
    torch.testing.assert_close(sequence_log_prob(logits, target), expected[None])
    torch.testing.assert_close(sequence_log_prob(logits, target, average=True), expected[None] / 2)


def test_a_padded_batch_equals_one_by_one() -> None:
    logits = torch.randn(3, 6, 7, dtype=torch.float64)
    target = torch.randint(7, (3, 6))
    target[0, :2] = -100  # prompt
    target[0, 4:] = -100  # padding
    target[1, 3:] = -100
    whole = sequence_log_prob(logits, target)
    for row, length in enumerate((4, 3, 6)):
        torch.testing.assert_close(whole[row], sequence_log_prob(logits[[row], :length], target[[row], :length])[0])


def test_no_gradient_at_skipped_positions_and_bfloat16_is_exact() -> None:
    logits = torch.randn(2, 4, 5).bfloat16().requires_grad_()
    target = torch.tensor([[-100, -100, 3, 1], [0, 1, -100, -100]])
    result = sequence_log_prob(logits, target)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), sequence_log_prob(logits.double(), target), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(result.sum(), logits)
    assert gradient[0, 0].abs().sum() == 0
    assert gradient[0, 1].abs().sum() > 0
    assert gradient[1, 1:].abs().sum() == 0


def test_huge_logits() -> None:
    logits = (1e4 * torch.randn(2, 3, 4).sign()).requires_grad_()
    result = sequence_log_prob(logits, torch.randint(4, (2, 3)))
    assert torch.isfinite(result).all()
    assert torch.isfinite(torch.autograd.grad(result.sum(), logits)[0]).all()


def test_sequences_without_tokens() -> None:
    nothing = torch.full((1, 3), -100)
    for average in (False, True):
        assert sequence_log_prob(torch.zeros(1, 3, 4), nothing, average=average).item() == 0
    assert sequence_log_prob(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64)).tolist() == [0, 0]
    assert sequence_log_prob(torch.zeros(1, 1, 4), torch.tensor([[2]])).item() == 0  # a first token is never predicted


def test_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1e4, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(token_entropy(logits), torch.tensor([4.0, 1.0]).log())


@pytest.mark.parametrize("wrong", [torch.tensor([[0, 4]]), torch.tensor([[0]]), torch.tensor([[0.0, 1.0]])])
def test_bad_target(wrong) -> None:
    with pytest.raises((ValueError, TypeError)):
        sequence_log_prob(torch.zeros(1, 2, 4), wrong)


def test_sequence_level_distillation_is_cross_entropy_on_the_teachers_tokens() -> None:
    logits = torch.randn(2, 4, 7, dtype=torch.float64, requires_grad=True)
    tokens, mask = torch.randint(7, (2, 4)), torch.tensor([[0, 1, 1, 1], [0, 0, 1, 0]])
    kept = mask.bool()
    expected = torch.nn.functional.cross_entropy(logits[kept], tokens[kept])
    torch.testing.assert_close(sequence_level_kd(logits, tokens, mask), expected)
    assert torch.autograd.gradcheck(lambda value: sequence_level_kd(value, tokens, mask), (logits,))
    assert sequence_level_kd(logits, tokens, mask * 0).item() == 0
    with pytest.raises(ValueError, match="`mask`"):
        sequence_level_kd(logits, tokens, mask[:, :2])


def test_perturbed_logits_have_the_noise_asked_for() -> None:
    logits = torch.randn(200, 50)
    noise = perturb_logits(logits, 2.0, torch.Generator().manual_seed(0)) - logits
    assert noise.std().item() == pytest.approx(2.0, rel=0.03)
    again = perturb_logits(logits, 2.0, torch.Generator().manual_seed(0)) - logits
    assert torch.equal(noise, again)
    assert perturb_logits(logits, 0.0) is logits
    with pytest.raises(ValueError, match="`sigma`"):
        perturb_logits(logits, -1.0)
