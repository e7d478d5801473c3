from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tutelage.features.relations import fsp_matrix, normalized_positions


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_fsp(x: Tensor, y: Tensor, *, instance_norm: bool) -> Tensor:
    """Sample by sample and channel by channel, with PyTorch's own instance normalisation."""
    if instance_norm:
        x, y = nn.InstanceNorm2d(x.shape[1])(x), nn.InstanceNorm2d(y.shape[1])(y)
    positions = x.shape[2] * x.shape[3]
    rows = [
        [[float((a * b).sum()) / positions for b in other] for a in sample] for sample, other in zip(x, y, strict=True)
    ]
    return torch.tensor(rows, dtype=x.dtype)


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 4),
    other=st.integers(1, 4),
    height=st.integers(1, 4),
    seed=st.integers(0, 999),
    instance_norm=st.booleans(),
)
def test_agrees_with_a_loop_over_samples_and_channels(
    batch: int, channels: int, other: int, height: int, seed: int, instance_norm: bool
) -> None:
    x, y = draw(batch, channels, height, 3, seed=seed), draw(batch, other, height, 3, seed=seed + 1)
    found = fsp_matrix(x, y, instance_norm=instance_norm)
    torch.testing.assert_close(found, slow_fsp(x, y, instance_norm=instance_norm))


def test_entries_are_correlations_and_the_diagonal_is_one_up_to_eps() -> None:
    x = draw(2, 5, 4, 6)
    matrix = fsp_matrix(x, x)
    variance = x.flatten(2).var(dim=2, correction=0)
    torch.testing.assert_close(matrix.diagonal(dim1=1, dim2=2), variance / (variance + 1e-5))
    torch.testing.assert_close(matrix, matrix.mT)
    assert matrix.abs().max() <= 1


def test_a_constant_channel_gives_a_row_of_zeros() -> None:
    x = draw(1, 3, 4, 4)
    x[:, 1] = 7.0
    matrix = fsp_matrix(x, draw(1, 2, 4, 4, seed=1))
    assert torch.equal(matrix[0, 1], torch.zeros(2, dtype=torch.float64))
    assert matrix[0, 0].abs().min() > 0


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(0.1, 100), shift=st.floats(-5, 5))
def test_scaling_and_shifting_a_map_changes_nothing(scale: float, shift: float) -> None:
    x, y = draw(2, 3, 5, 5), draw(2, 4, 5, 5, seed=1)
    torch.testing.assert_close(fsp_matrix(scale * x + shift, y), fsp_matrix(x, y), atol=1e-2, rtol=0)
    torch.testing.assert_close(
        fsp_matrix(scale * x + shift, y, eps=1e-12), fsp_matrix(x, y, eps=1e-12), atol=1e-6, rtol=0
    )


def test_samples_do_not_meet() -> None:
    x, y = draw(3, 2, 4, 4), draw(3, 3, 4, 4, seed=1)
    alone = torch.cat([fsp_matrix(x[[row]], y[[row]]) for row in range(3)])
    torch.testing.assert_close(fsp_matrix(x, y), alone)


def test_gradients() -> None:
    x, y = draw(2, 2, 3, 2).requires_grad_(), draw(2, 3, 3, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(fsp_matrix, (x, y))


def test_half_precision_is_computed_in_float32() -> None:
    x = draw(2, 3, 8, 8).to(torch.bfloat16)
    matrix = fsp_matrix(x, x)
    assert matrix.dtype == torch.float32
    torch.testing.assert_close(matrix, fsp_matrix(x.float(), x.float()))


def test_a_single_position_has_no_variance() -> None:
    assert torch.equal(normalized_positions(draw(2, 3, 1, 1)), torch.zeros(2, 3, 1, dtype=torch.float64))


def test_bad_input() -> None:
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"same batch size, height and width.*\(2, 3, 4, 4\) and \(2, 3, 4, 5\)"):
        fsp_matrix(x, torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match="same batch size"):
        fsp_matrix(x, x[:1])
    with pytest.raises(ValueError, match=r"`eps` to be positive, but got 0"):
        fsp_matrix(x, x, eps=0.0)
