from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.assessment import LatencyDistribution, latency_distribution


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[bool, bool, int]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append((self.training, torch.is_grad_enabled(), torch.get_num_threads()))
        return x


def test_counts_modes_and_threads():
    model, before = Counting(), torch.get_num_threads()
    timed = latency_distribution(model, torch.zeros(3, 2), repeats=4, warmup=2, threads=before + 1)
    assert model.calls == [(False, False, before + 1)] * 6
    assert (len(timed.milliseconds), timed.batch_size, timed.threads) == (4, 3, before + 1)
    assert model.training
    assert torch.get_num_threads() == before
    assert min(timed.milliseconds) >= 0


def test_a_time_limit_leaves_at_least_one_measurement():
    model = Counting()
    timed = latency_distribution(model, torch.zeros(1, 2), repeats=1000, warmup=50, max_seconds=1e-9)
    assert len(timed.milliseconds) == 1
    assert len(model.calls) <= 2


def test_named_inputs():
    model = Counting()
    assert latency_distribution(model, {"x": torch.zeros(5, 2)}, repeats=1, warmup=0).batch_size == 5


def test_percentiles():
    timed = LatencyDistribution(tuple(float(value) for value in range(101)), batch_size=1, threads=1)
    assert (timed.median, timed.p95) == (50.0, 95.0)


@pytest.mark.parametrize("change", [{"repeats": 0}, {"warmup": -1}, {"threads": 0}, {"max_seconds": 0.0}])
def test_bad_input(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        latency_distribution(nn.Identity(), torch.zeros(1, 2), **change)
