"""Sizes against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.models import causal_lm, convnet, mlp, multiply_adds, parameter_count


def test_tied_parameters_count_once_and_frozen_ones_on_request():
    model = causal_lm(11, num_layers=1)
    assert parameter_count(model) == sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    plain = mlp(3, 2, hidden=(4,))
    plain.linear1.requires_grad_(False)
    assert parameter_count(plain) == 4 * 4 + 5 * 2
    assert parameter_count(plain, trainable_only=True) == 5 * 2


@pytest.mark.parametrize("batch", [1, 3])
def test_multiply_adds_of_linear_layers_and_convolutions_by_hand(batch):
    assert multiply_adds(mlp(3, 2, hidden=(4,)), torch.zeros(batch, 3)) == batch * (3 * 4 + 4 * 2)
    model = convnet((1, 8, 8), 10, channels=(2, 3))
    by_hand = 64 * 9 * 1 * 2 + 16 * 9 * 2 * 3 + 3 * 10
    assert multiply_adds(model, torch.zeros(batch, 1, 8, 8)) == batch * by_hand


def test_attention_counts_whichever_way_it_is_computed():
    model = causal_lm(11, num_layers=1)
    tokens = {"input_ids": torch.ones(1, 6, dtype=torch.int64)}
    fused = multiply_adds(model, tokens)
    model.set_attn_implementation("eager")
    assert multiply_adds(model, tokens) == fused
    linear = 6 * (64 * 192 + 64 * 64 + 2 * 64 * 256 + 64 * 11)
    assert fused == linear + 2 * 6 * 6 * 64


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    model[1].eval()
    mean = model[0].running_mean.clone()
    multiply_adds(model, torch.randn(4, 3))
    assert [module.training for module in model] == [True, False, True]
    assert torch.equal(model[0].running_mean, mean)
