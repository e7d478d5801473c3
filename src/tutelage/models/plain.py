"""Plain PyTorch networks: a multi-layer perceptron and a convolutional network."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from tutelage._checks import check_at_least, check_in_range, check_option
from tutelage.models.specification import described

Normalization = Literal["batch", "layer"]


@described
def mlp(
    input_shape: int | Sequence[int],
    num_classes: int,
    *,
    hidden: Sequence[int] = (64,),
    dropout: float = 0.0,
    normalization: Normalization | None = None,
) -> nn.Sequential:
    """A multi-layer perceptron: for each hidden width linear → normalization → ReLU → dropout, then `head`.

    Args:
        input_shape: Number of features, or the shape of one sample, which is flattened.
        num_classes: Number of logits.
        hidden: Widths of the hidden layers; none makes a linear classifier.
        dropout: Probability of dropping a hidden activation.
        normalization: `"batch"`, `"layer"` or none.

    Returns:
        Maps `[batch, *input_shape]` to logits `[batch, num_classes]`. Layers are named `linear1`, `normalization1`,
        `activation1`, `dropout1` … `head`; a layer that does nothing is left out.

    Raises:
        ValueError: A size is not positive, or the dropout is not in [0, 1].

    >>> import torch
    >>> model = mlp((1, 8, 8), 10, hidden=(32, 16))
    >>> model(torch.zeros(2, 1, 8, 8)).shape, model.head.in_features
    (torch.Size([2, 10]), 16)
    """
    shape = check_sizes((input_shape,) if isinstance(input_shape, int) else input_shape, "input_shape")
    check_at_least(num_classes, "num_classes", 1)
    check_in_range(dropout, "dropout", 0.0, 1.0)
    check_option(normalization, "normalization", (None, "batch", "layer"))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if len(shape) > 1:
        layers["flatten"] = nn.Flatten()
    width = math.prod(shape)
    for number, next_width in enumerate(check_sizes(hidden, "hidden", empty=True), start=1):
        layers[f"linear{number}"] = nn.Linear(width, next_width)
        if normalization is not None:
            kind = nn.BatchNorm1d if normalization == "batch" else nn.LayerNorm
            layers[f"normalization{number}"] = kind(next_width)
        layers[f"activation{number}"] = nn.ReLU()
        if dropout > 0:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
        width = next_width
    layers["head"] = nn.Linear(width, num_classes)
    return nn.Sequential(layers)


@described
def convnet(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    channels: Sequence[int] = (8, 16, 32),
    kernel_size: int = 3,
    dropout: float = 0.0,
    normalization: Literal["batch"] | None = "batch",
) -> nn.Sequential:
    """A convolutional network: a convolution a stage, each after the first with stride 2, then the mean and `head`.

    Args:
        input_shape: Shape of one sample: `(channels, height, width)` of an image, or `(channels, length)` of a signal.
        num_classes: Number of logits.
        channels: Channels of the stages.
        kernel_size: Side of every kernel, odd; borders are padded with zeros.
        dropout: Probability of dropping a channel mean before the head.
        normalization: `"batch"` after every convolution, or none.

    Returns:
        Maps `[batch, *input_shape]` to logits `[batch, num_classes]`. Stages are named `stage1`, `stage2` …; the
        mean over all positions is `pool`, and `head` reads it.

    Raises:
        ValueError: A size is not positive, the kernel is even, the shape has neither two nor three dimensions, or
            the dropout is not in [0, 1].

    >>> import torch
    >>> convnet((1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).shape, convnet((1, 40), 10)(torch.zeros(2, 1, 40)).shape
    (torch.Size([2, 10]), torch.Size([2, 10]))
    """
    shape = check_sizes(input_shape, "input_shape")
    if len(shape) not in (2, 3):
        raise ValueError(
            "Expected argument `input_shape` to be (channels, height, width) or (channels, length), "
            f"but got {tuple(shape)}."
        )
    check_at_least(num_classes, "num_classes", 1)
    check_in_range(dropout, "dropout", 0.0, 1.0)
    check_option(normalization, "normalization", (None, "batch"))
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"Expected argument `kernel_size` to be odd and positive, but got {kernel_size}.")
    image = len(shape) == 3
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width = shape[0]
    for number, next_width in enumerate(check_sizes(channels, "channels"), start=1):
        convolution = (nn.Conv2d if image else nn.Conv1d)(
            width,
            next_width,
            kernel_size,
            stride=1 if number == 1 else 2,
            padding=kernel_size // 2,
            bias=normalization is None,
        )
        stage: OrderedDict[str, nn.Module] = OrderedDict(convolution=convolution)
        if normalization is not None:
            stage["normalization"] = (nn.BatchNorm2d if image else nn.BatchNorm1d)(next_width)
        stage["activation"] = nn.ReLU()
        layers[f"stage{number}"] = nn.Sequential(stage)
        width = next_width
    layers["pool"] = nn.Sequential((nn.AdaptiveAvgPool2d if image else nn.AdaptiveAvgPool1d)(1), nn.Flatten())
    if dropout > 0:
        layers["dropout"] = nn.Dropout(dropout)
    layers["head"] = nn.Linear(width, num_classes)
    return nn.Sequential(layers)


def check_sizes(sizes: object, name: str, *, empty: bool = False) -> tuple[int, ...]:
    """The sizes as a tuple; `ValueError` unless they are a list of positive whole numbers.

    >>> check_sizes([8, 0], "channels")
    Traceback (most recent call last):
    ValueError: Expected argument `channels` to be a list of positive whole numbers, but got [8, 0].
    """
    whole = isinstance(sizes, Sequence) and all(type(size) is int and size > 0 for size in sizes)
    if not whole or not (sizes or empty):
        raise ValueError(f"Expected argument `{name}` to be a list of positive whole numbers, but got {sizes!r}.")
    return tuple(sizes)  # type: ignore[arg-type]
