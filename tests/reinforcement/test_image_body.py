from __future__ import annotations

import pytest
import torch

from tutelage.reinforcement import ImageBody


def test_the_network_of_deep_q_learning() -> None:
    body = ImageBody((4, 84, 84), scale=1 / 255)
    # Convolutions of 8, 4 and 3 pixels with strides 4, 2 and 1 leave 7 × 7 of 84 × 84.
    assert body.network[-2].in_features == 64 * 7 * 7
    assert sum(parameter.numel() for parameter in body.parameters()) == 1_684_128
    white = torch.full((2, 4, 84, 84), 255, dtype=torch.uint8)
    torch.testing.assert_close(body(white), body.network(torch.ones(2, 4, 84, 84)))


def test_channels_last_is_the_same_network_on_turned_images() -> None:
    images = torch.rand(3, 4, 6, 5)
    first = ImageBody((4, 6, 5), layers=((2, 3, 1),), width=7)
    last = ImageBody((6, 5, 4), layers=((2, 3, 1),), width=7, channels_last=True)
    last.load_state_dict(first.state_dict())
    torch.testing.assert_close(last(images.permute(0, 2, 3, 1)), first(images))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="large enough"):
        ImageBody((4, 10, 10))
    with pytest.raises(ValueError, match="`width`"):
        ImageBody((4, 84, 84), width=0)
