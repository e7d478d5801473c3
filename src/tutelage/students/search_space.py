"""Spaces of student architectures: what a search draws from, changes, builds and pays for."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from tutelage._checks import check_at_least
from tutelage.models.plain import check_sizes, mlp
from tutelage.models.sizes import parameter_count
from tutelage.models.vision import check_image_shape, resnet


@runtime_checkable
class SearchSpace(Protocol):
    """What `evolutionary_search` needs to know of architectures, which may be anything hashable."""

    def sample(self, rng: random.Random) -> Hashable:
        """A random architecture."""

    def mutate(self, arch: Any, rng: random.Random) -> Hashable:
        """An architecture that differs from `arch` in one choice."""

    def build(self, arch: Any) -> nn.Module:
        """The network, with initial weights."""

    def cost(self, arch: Any) -> float:
        """What a budget bounds, such as the number of parameters."""


class DepthSpace:
    """Residual networks whose stages have a choice of depths: DisWOT's space S0 is `DepthSpace((1, 3, 5, 7))`.

    An architecture is a tuple of residual layers by stage. Its cost is the number of parameters.

    Args:
        depths: The depths that a stage may have.
        widths: Channels of the stages.
        num_classes: Number of logits.
        input_shape: `(channels, height, width)` of the images.

    >>> space = DepthSpace((1, 3), (4, 8), num_classes=10)
    >>> len(space), space.sample(random.Random(0)), space.mutate((1, 3), random.Random(0))
    (4, (3, 3), (1, 1))
    >>> space.cost((1, 1)) < space.cost((3, 1))
    True
    """

    def __init__(
        self,
        depths: Sequence[int] = (1, 3, 5, 7),
        widths: Sequence[int] = (16, 32, 64),
        *,
        num_classes: int = 100,
        input_shape: Sequence[int] = (3, 32, 32),
    ) -> None:
        self.depths = tuple(sorted(set(check_sizes(depths, "depths"))))
        self.widths = check_sizes(widths, "widths")
        self.num_classes = num_classes
        self.input_shape = check_image_shape(input_shape)
        self.cost = lru_cache(maxsize=None)(self._cost)  # a method's own cache would keep the space alive for good

    def __len__(self) -> int:
        return int(len(self.depths) ** len(self.widths))

    def __contains__(self, arch: object) -> bool:
        return isinstance(arch, tuple) and len(arch) == len(self.widths) and set(arch) <= set(self.depths)

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """A depth for every stage."""
        return tuple(rng.choice(self.depths) for _ in self.widths)

    def mutate(self, arch: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
        """Another depth for one stage (the same architecture when there is no other)."""
        place = rng.randrange(len(self.widths))
        others = [depth for depth in self.depths if depth != arch[place]] or [arch[place]]
        return (*arch[:place], rng.choice(others), *arch[place + 1 :])

    def build(self, arch: tuple[int, ...]) -> nn.Module:
        """The residual network."""
        if arch not in self:
            raise ValueError(
                f"Expected argument `arch` to be {len(self.widths)} depths out of {self.depths}, but got {arch!r}."
            )
        return resnet(self.input_shape, self.num_classes, widths=self.widths, depths=arch)

    def _cost(self, arch: tuple[int, ...]) -> int:
        with torch.device("meta"):
            return parameter_count(self.build(arch))


class PerceptronSpace:
    """Multi-layer perceptrons: how many hidden layers, and how wide each. An architecture is a tuple of widths.

    Args:
        widths: The widths that a layer may have.
        layers: The most hidden layers.
        num_classes: Number of logits.
        input_shape: Number of features, or the shape of one sample.

    >>> space = PerceptronSpace((8, 16), 2, num_classes=3, input_shape=4)
    >>> len(space), space.cost((8,))
    (6, 67)
    """

    def __init__(
        self,
        widths: Sequence[int] = (8, 16, 32, 64, 128),
        layers: int = 3,
        *,
        num_classes: int,
        input_shape: int | Sequence[int],
    ) -> None:
        self.widths = tuple(sorted(set(check_sizes(widths, "widths"))))
        check_at_least(layers, "layers", 1)
        self.layers, self.num_classes, self.input_shape = layers, num_classes, input_shape

    def __len__(self) -> int:
        return sum(len(self.widths) ** count for count in range(1, self.layers + 1))

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """One to `layers` widths."""
        return tuple(rng.choice(self.widths) for _ in range(rng.randint(1, self.layers)))

    def mutate(self, arch: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
        """Another width for one layer, one layer more, or one less."""
        change = rng.choice(["width", "more", "less"])
        place = rng.randrange(len(arch))
        if change == "more" and len(arch) < self.layers:
            return (*arch[:place], rng.choice(self.widths), *arch[place:])
        if change == "less" and len(arch) > 1:
            return (*arch[:place], *arch[place + 1 :])
        others = [width for width in self.widths if width != arch[place]] or [arch[place]]
        return (*arch[:place], rng.choice(others), *arch[place + 1 :])

    def build(self, arch: tuple[int, ...]) -> nn.Module:
        """The perceptron."""
        return mlp(self.input_shape, self.num_classes, hidden=arch)

    def cost(self, arch: tuple[int, ...]) -> int:
        """The number of parameters."""
        with torch.device("meta"):
            return parameter_count(self.build(arch))
