from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.features import as_map, as_tokens, resize_map

sizes = st.integers(1, 5)


@given(height=sizes, columns=sizes, extra=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_tokens_of_a_map_become_the_map_again(height: int, columns: int, extra: int) -> None:
    original = torch.randn(2, 3, height, columns)
    tokens = torch.cat([torch.randn(2, extra, 3), as_tokens(original)], dim=1)
    assert torch.equal(as_map(tokens, extra_tokens=extra, aspect_ratio=height / columns), original)


def test_cells_are_in_raster_order() -> None:
    tokens = torch.arange(6.0).reshape(1, 6, 1)
    assert as_map(tokens, aspect_ratio=2 / 3).tolist() == [[[[0, 1, 2], [3, 4, 5]]]]


def test_a_class_token_is_told_from_the_count() -> None:
    tokens = torch.arange(5.0).reshape(1, 5, 1)
    assert as_map(tokens).tolist() == [[[[1, 2], [3, 4]]]]
    assert as_map(tokens[:, :4]).tolist() == [[[[0, 1], [2, 3]]]]
    assert as_map(tokens, extra_tokens=4).tolist() == [[[[4]]]]


def test_errors_name_the_count_and_the_options() -> None:
    with pytest.raises(ValueError, match=r"ratio 1 after 0 or 1 extra tokens, but got 7 tokens .*`extra_tokens`"):
        as_map(torch.zeros(2, 7, 3))
    with pytest.raises(ValueError, match="after 2 extra tokens, but got 4 tokens"):
        as_map(torch.zeros(2, 4, 3), extra_tokens=2)
    with pytest.raises(ValueError, match="after 5 extra tokens"):
        as_map(torch.zeros(2, 4, 3), extra_tokens=5)
    with pytest.raises(ValueError, match=r"but got shape \(2, 3\)"):
        as_map(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="`aspect_ratio` to be positive"):
        as_map(torch.zeros(2, 4, 3), aspect_ratio=0.0)
    with pytest.raises(ValueError, match="`extra_tokens` to be at least 0"):
        as_map(torch.zeros(2, 4, 3), extra_tokens=-1)
    with pytest.raises(ValueError, match=r"but got shape \(2,\)"):
        as_tokens(torch.zeros(2))
    with pytest.raises(ValueError, match="`resize` to be one of 'area'"):
        resize_map(torch.zeros(1, 1, 2, 2), (1, 1), "cubic")


def test_resizing() -> None:
    features = torch.randn(2, 3, 4, 6)
    assert resize_map(features, (4, 6), "bilinear") is features
    means = F.avg_pool2d(features, 2)
    torch.testing.assert_close(resize_map(features, (2, 3), "area"), means)
    assert resize_map(features, (7, 5), "bicubic").shape == (2, 3, 7, 5)
    constant = torch.full((1, 1, 3, 3), 2.0)
    for resize in ("area", "bicubic", "bilinear", "nearest"):
        torch.testing.assert_close(resize_map(constant, (5, 4), resize), torch.full((1, 1, 5, 4), 2.0))
