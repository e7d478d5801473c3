"""The network below a value network's output layer, for observations that are images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tutelage._checks import check_at_least


class ImageBody(nn.Module):
    """Convolutions with ReLU, then one linear layer with ReLU.

    Args:
        observation_shape: `(channels, height, width)`, or `(height, width, channels)` with `channels_last`.
        layers: `(channels, kernel size, stride)` of every convolution. The default is that of deep Q-learning on Atari.
        width: Of the linear layer.
        channels_last: Whether channels are the last dimension, as in MinAtar.
        scale: Observations are multiplied by it (1 / 255 for bytes).

    Raises:
        ValueError: A width below 1, or images that are smaller than the convolutions need.

    Source: Mnih et al., "Human-level control through deep reinforcement learning", Nature 2015, methods; one layer of
    16 channels with 128 units above it is the network of Young and Tian, arXiv 1903.03176 (MinAtar).

    >>> ImageBody((10, 10, 4), layers=((16, 3, 1),), width=128, channels_last=True)(torch.zeros(2, 10, 10, 4)).shape
    torch.Size([2, 128])
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        *,
        layers: Sequence[tuple[int, int, int]] = ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
        width: int = 512,
        channels_last: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_at_least(width, "width", 1)
        self.channels_last, self.scale = channels_last, scale
        shape = list(observation_shape)
        before, *size = [shape[-1], *shape[:-1]] if channels_last else shape
        parts: list[nn.Module] = []
        for channels, kernel_size, stride in layers:
            size = [(length - kernel_size) // stride + 1 for length in size]
            if min(size) < 1:
                raise ValueError(f"Expected images large enough for {tuple(layers)}, but got {tuple(shape)}.")
            parts += [nn.Conv2d(before, channels, kernel_size, stride), nn.ReLU()]
            before = channels
        features = before * size[0] * size[1]
        self.network = nn.Sequential(*parts, nn.Flatten(), nn.Linear(features, width), nn.ReLU())

    def forward(self, observation: Tensor) -> Tensor:
        """From `[batch, *observation_shape]` to `[batch, width]`."""
        images = observation.to(torch.float32) * self.scale
        embedding: Tensor = self.network(images.permute(0, 3, 1, 2) if self.channels_last else images)
        return embedding
