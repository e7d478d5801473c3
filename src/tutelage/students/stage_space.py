"""A space of small convolutional networks for images."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from tutelage.models.sizes import parameter_count


class StageSpace:
    """Two stages of convolutions with a choice of depths, one width and one kernel, and 64 features before the head.

    An architecture is `(depth of stage 1, depth of stage 2, width, kernel)`. Every stage halves height and width. All
    networks have classifiers of one width, so that DisWOT can compare their gradients. The cost is the number of
    parameters.

    Args:
        depths: Depths that a stage may have.
        widths: Widths of its convolutions.
        kernels: Sides of their kernels, odd.
        num_classes: Number of logits.
        input_shape: `(channels, height, width)` of the images.

    >>> space = StageSpace(depths=(1, 2), widths=(8, 16), kernels=(3,), num_classes=10, input_shape=(1, 8, 8))
    >>> space.build((1, 2, 8, 3))(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        kernels: Sequence[int],
        num_classes: int,
        input_shape: Sequence[int],
    ) -> None:
        self.choices = (tuple(depths), tuple(depths), tuple(widths), tuple(kernels))
        self.num_classes, self.input_shape = num_classes, tuple(input_shape)

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """One of each choice."""
        return tuple(rng.choice(choice) for choice in self.choices)

    def mutate(self, arch: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
        """Another value for one choice."""
        place = rng.randrange(len(arch))
        other = rng.choice([value for value in self.choices[place] if value != arch[place]])
        return (*arch[:place], other, *arch[place + 1 :])

    def build(self, arch: tuple[int, ...]) -> nn.Module:
        """The network; its last map is `features`."""
        *depths, width, kernel = arch
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = self.input_shape[0]
        for stage, depth in enumerate(depths, start=1):
            for layer in range(depth):
                stride = 2 if layer == 0 else 1
                layers[f"layer{stage}_{layer}"] = _convolution(channels, width, kernel, stride)
                channels = width
        layers["features"] = _convolution(channels, 64, 1, 1)
        layers["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        layers["head"] = nn.Linear(64, self.num_classes)
        return nn.Sequential(layers)

    def cost(self, arch: tuple[int, ...]) -> int:
        """The number of parameters."""
        with torch.device("meta"):
            return parameter_count(self.build(arch))


def _convolution(channels: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())
