from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import tutelage.objectives.pairwise_l1 as module
from tutelage.objectives import pairwise_l1_distance


def test_known_answer() -> None:
    first, second = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[0.7, 0.3], [0.4, 0.6]])
    torch.testing.assert_close(pairwise_l1_distance(first, second), torch.tensor([[0.4, 1.0], [1.0, 0.4]]))


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 9),
    others=st.integers(1, 9),
    features=st.integers(1, 6),
    block=st.sampled_from([1, 20, 2**19]),
    seed=st.integers(0, 1000),
)
def test_agrees_with_the_definition_in_blocks_of_any_size(
    rows: int, others: int, features: int, block: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Whole numbers, so that some are equal.
    first = torch.randint(-2, 3, (rows, features), generator=generator).double().requires_grad_()
    second = torch.randint(-2, 3, (others, features), generator=generator).double().requires_grad_()
    weights = torch.randn(rows, others, generator=generator, dtype=torch.float64)
    expected = (first[:, None] - second).abs().sum(dim=-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        distance = pairwise_l1_distance(first, second)
        slopes = torch.autograd.grad(distance, (first, second), weights)
    torch.testing.assert_close(distance, expected)
    torch.testing.assert_close(slopes, torch.autograd.grad(expected, (first, second), weights))


def test_gradients_of_both_orders_match_finite_differences() -> None:
    first, second = torch.randn(3, 4).double().requires_grad_(), torch.randn(5, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(pairwise_l1_distance, (first, second))
    assert torch.autograd.gradgradcheck(pairwise_l1_distance, (first, second))


def test_equal_rows_get_no_gradient() -> None:
    first = torch.ones(1, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(pairwise_l1_distance(first, torch.ones(1, 3)).sum(), first)
    assert not gradient.any()


def test_transposed_inputs_and_half_precision() -> None:
    first, second = torch.randn(4, 6, dtype=torch.bfloat16).T, torch.randn(6, 4).T.T
    distance = pairwise_l1_distance(first, second)
    assert distance.dtype == torch.float32
    torch.testing.assert_close(distance, torch.cdist(first.float(), second, p=1))
