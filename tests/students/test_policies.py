import math

import pytest
import torch
from torch import nn

from tutelage.students import RemovalPolicy, RunningBaseline, ShrinkagePolicy, reinforce_loss

FORCED = torch.tensor([True, False, False, False, True])


def entries(free: int = 2) -> torch.Tensor:
    forced = torch.ones(5, 4, dtype=torch.bool)
    forced[1:4, :free] = False
    return forced


def test_decisions_of_removal_are_counted_once_and_forced_ones_not_at_all():
    policy = RemovalPolicy(4)
    x = torch.randn(5, 4)
    torch.manual_seed(3)
    keep, log_prob, entropy = policy.sample(x, FORCED)
    assert keep[[0, 4]].all()
    log_p = policy.head(policy.lstm(x[None])[0][0]).log_softmax(dim=1)
    by_hand = sum(log_p[place, int(keep[place])] for place in (1, 2, 3))
    uncertainty = -sum((log_p[place].exp() * log_p[place]).sum() for place in (1, 2, 3))
    torch.testing.assert_close(log_prob, by_hand)
    torch.testing.assert_close(entropy, uncertainty)
    keep, log_prob, entropy = policy.sample(x, torch.ones(5, dtype=torch.bool))
    assert keep.all()
    assert log_prob == entropy == 0


def slow_shrinkage(
    policy: ShrinkagePolicy, x: torch.Tensor, chosen: torch.Tensor, forced: torch.Tensor
) -> torch.Tensor:
    """The log-probability of given choices: every entry of every layer one step of the LSTM, a plain loop."""
    state, total = None, torch.zeros(())
    for layer in range(len(x)):
        current = x[layer].clone()
        for entry in range(x.shape[1]):
            output, state = policy.lstm(current[None, None], state)
            if not forced[layer, entry]:
                which = (policy.multipliers == chosen[layer, entry]).nonzero()[0, 0]
                total = total + policy.head(output[0, 0]).log_softmax(dim=0)[which]
            current = current.clone()
            current[entry] = current[entry] * chosen[layer, entry]
    return total


def test_shrinkage_agrees_with_a_plain_loop_over_entries():
    policy = ShrinkagePolicy(4, [0.25, 0.5, 1.0])
    x, forced = torch.rand(2, 5, 4), entries()
    chosen, log_prob, entropy = policy.sample(x, forced)
    assert (chosen[:, forced] == 1).all()
    assert set(chosen.unique().tolist()) <= {0.25, 0.5, 1.0}
    for rollout in range(2):
        torch.testing.assert_close(log_prob[rollout], slow_shrinkage(policy, x[rollout], chosen[rollout], forced))
    assert (entropy > 0).all()
    assert (entropy <= 6 * math.log(3)).all()
    single, log_prob, _ = policy.sample(x[0], torch.ones(5, 4, dtype=torch.bool))
    assert (single == 1).all()
    assert log_prob == 0


@pytest.mark.parametrize("policy", [RemovalPolicy(4), ShrinkagePolicy(4, [0.5, 1.0])])
def test_every_parameter_learns(policy):
    forced = FORCED if isinstance(policy, RemovalPolicy) else entries()
    _, log_prob, _ = policy.sample(torch.rand(3, 5, 4), forced)
    reinforce_loss(log_prob, torch.tensor([1.0, 0.0, 0.5]), baseline=0.2).backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_policy_gradient_is_that_of_the_expected_reward():
    logit = torch.tensor(0.3, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    count = 40_000
    action = (torch.rand(count, generator=generator) < logit.detach().sigmoid()).float()
    log_probs = -nn.functional.binary_cross_entropy_with_logits(logit.expand(count), action, reduction="none")
    rewards = 2 * action - 0.5  # expected reward 2p − 0.5, with gradient 2 p (1 − p)
    reinforce_loss(log_probs, rewards, baseline=0.4).backward()
    p = logit.detach().sigmoid()
    assert -logit.grad.item() == pytest.approx((2 * p * (1 - p)).item(), abs=0.02)


def test_only_differences_from_the_baseline_count():
    log_probs = torch.randn(5, dtype=torch.float64, requires_grad=True)
    rewards = torch.rand(5, dtype=torch.float64)

    def gradient(rewards, baseline):
        return torch.autograd.grad(reinforce_loss(log_probs, rewards, baseline=baseline), log_probs)[0]

    torch.testing.assert_close(gradient(rewards + 3, 3.5), gradient(rewards, 0.5))
    assert (gradient(torch.full((5,), 0.7, dtype=torch.float64), 0.7) == 0).all()
    torch.testing.assert_close(gradient(rewards, 0.0), -rewards / 5)
    assert torch.autograd.gradcheck(lambda values: reinforce_loss(values, rewards, baseline=0.3), (log_probs,))


def test_baselines_by_hand():
    plain, decaying = RunningBaseline("mean"), RunningBaseline("ema", decay=0.9)
    assert plain.value == decaying.value == 0
    for reward in (1.0, 0.0, 0.5):
        plain.update(reward)
        decaying.update(reward)
    assert plain.value == pytest.approx(0.5)
    assert decaying.value == pytest.approx(0.9 * 0.9 + 0.1 * 0.5)


def test_bad_input():
    with pytest.raises(ValueError, match="multipliers"):
        ShrinkagePolicy(4, [0.0, 1.0])
    with pytest.raises(ValueError, match="multipliers"):
        ShrinkagePolicy(4, [])
    with pytest.raises(ValueError, match="hidden"):
        RemovalPolicy(4, hidden=0)
    with pytest.raises(ValueError, match="decay"):
        RunningBaseline("ema", decay=1.5)
