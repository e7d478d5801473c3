from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.batch import Batch
from tutelage.objectives import AtomSupport, CategoricalValueHead, HistogramHead, HistogramSupport, HLGaussLoss
from tutelage.training import Distillation

SUPPORT = HistogramSupport(-10.0, 10.0, 51)


@pytest.mark.parametrize("support", [SUPPORT, AtomSupport(-10.0, 10.0, 51)])
@pytest.mark.parametrize("start", [None, 0.0, -6.0, 9.0])
def test_a_value_head_starts_at_its_initial_value(support, start) -> None:
    head = CategoricalValueHead(8, 3, support, initial_value=start)
    logits = head(torch.zeros(2, 8))
    assert logits.shape == (2, 3, 51)
    expected = torch.full((2, 3), start or 0.0)
    torch.testing.assert_close(head.value(logits), expected, atol=0.02, rtol=0)  # 0.1% of the distance to the middle


def test_actions_do_not_mix() -> None:
    head = CategoricalValueHead(4, 2, SUPPORT)
    hidden = torch.randn(3, 4)
    second = hidden @ head.linear.weight[51:].T + head.linear.bias[51:]
    torch.testing.assert_close(head(hidden)[:, 1], second)


def test_a_range_without_zero_starts_in_its_middle() -> None:
    head = HistogramHead(8, (5.0, 9.0, 20))
    assert 6.5 < head(torch.zeros(1, 8)).logits.item() < 7.5
    with pytest.raises(ValueError, match="`initial_value`"):
        HistogramHead(8, (5.0, 9.0, 20), initial_value=0.0)


def test_a_regression_network_learns_by_histograms() -> None:
    inputs = torch.randn(256, 3)
    target = 2 * inputs[:, 0] - inputs[:, 1]
    network = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), HistogramHead(32, (-8.0, 8.0, 32)))
    method = Distillation(None, network, HLGaussLoss((-8.0, 8.0, 32)))
    batch = Batch(inputs, target, torch.arange(256))
    method.setup(batch)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    before = (network(inputs).logits - target).square().mean().item()
    for _ in range(150):
        optimizer.zero_grad()
        sum(method.step(batch).values()).backward()
        optimizer.step()
    after = (network(inputs).logits - target).square().mean().item()
    assert after < 0.05 * before
