from __future__ import annotations

import pytest
import torch

from tutelage.kernels.tile_softmax import softmax_tile


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("moderate", [[0.3, -2.0, 1.0], [5.0, 5.0, 5.0]]),
        ("first column vanishes", [[-500.0, 2.0, 3.0], [0.0, 1.0, 2.0]]),
        ("huge", [[3000.0, 2000.0, 3000.0], [-3000.0, -3001.0, -4000.0]]),
        ("first column masked", [[-torch.inf, 1.0, 0.0], [0.0, -torch.inf, 1.0]]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_softmax_and_log_sum_exp(name: str, rows: list[list[float]], dtype: torch.dtype) -> None:
    logits = torch.tensor(rows, dtype=dtype)
    tile = logits.clone()
    found = softmax_tile(tile, lambda: tile.copy_(logits))
    torch.testing.assert_close(found, logits.logsumexp(dim=1))
    torch.testing.assert_close(tile, logits.softmax(dim=1))


def test_is_made_again_only_where_the_first_probability_vanishes() -> None:
    made = []
    for first in (0.0, -200.0):
        logits = torch.tensor([[first, 1.0]])
        tile = logits.clone()
        softmax_tile(tile, lambda tile=tile, logits=logits: (made.append(1), tile.copy_(logits)))
    assert len(made) == 1


def test_rows_without_any_mass_give_zeros_and_minus_infinity() -> None:
    logits = torch.full((2, 3), -torch.inf)
    tile = logits.clone()
    found = softmax_tile(tile, lambda: tile.copy_(logits))
    assert found.tolist() == [-torch.inf, -torch.inf]
    assert tile.eq(0).all()


def test_not_a_number_stays_visible() -> None:
    logits = torch.tensor([[0.0, torch.nan]])
    tile = logits.clone()
    assert softmax_tile(tile, lambda: tile.copy_(logits)).isnan().all()
