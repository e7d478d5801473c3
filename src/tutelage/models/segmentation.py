"""A small network for dense prediction: scores of classes on a coarse map, and logits for every pixel."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tutelage._checks import check_at_least
from tutelage.models.plain import check_sizes
from tutelage.models.pretrained import new_model
from tutelage.models.specification import ModelSpecification, described, remember


class Segmenter(nn.Module):
    """A convolutional pyramid whose stages meet at a quarter of the picture's size.

    The first stage halves height and width, and so does each later one. Every stage from the second on is brought to
    one width by a 1×1 convolution and to the second stage's size, their sum is convolved once more, and `score` gives
    class scores `[batch, classes, height / 4, width / 4]`, the map that distillation taps.

    Args:
        in_channels: Channels of the pictures.
        num_classes: Classes.
        widths: Channels of the stages, at least two.
        separable: Depthwise 3×3 and pointwise convolutions in the place of whole ones.
    """

    def __init__(self, in_channels: int, num_classes: int, widths: Sequence[int], *, separable: bool) -> None:
        super().__init__()
        stages = [_convolution(in_channels, widths[0], stride=2)]
        for before, width in itertools.pairwise(widths):
            parts = ((before, 2), (width, 1))
            stages.append(
                nn.Sequential(
                    *(_convolution(each, width, stride=stride, separable=separable) for each, stride in parts)
                )
            )
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList(nn.Conv2d(width, widths[1], kernel_size=1, bias=False) for width in widths[1:])
        self.fuse = _convolution(widths[1], widths[1], stride=1, separable=separable)
        self.score = nn.Conv2d(widths[1], num_classes, kernel_size=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits `[batch, height, width, classes]` of pictures `[batch, channels, height, width]`."""
        return per_pixel(self.score(self.pyramid(pictures)), (pictures.shape[2], pictures.shape[3]))

    def pyramid(self, pictures: Tensor) -> Tensor:
        """The map that `score` reads, `[batch, widths[1], height / 4, width / 4]`."""
        features, levels = self.stages[0](pictures), []
        for stage, lateral in zip(self.stages[1:], self.lateral, strict=True):
            features = stage(features)
            levels.append(lateral(features))
        size = levels[0].shape[2:]
        fused = sum(
            (F.interpolate(level, size, mode="bilinear", align_corners=False) for level in levels[1:]), start=levels[0]
        )
        read: Tensor = self.fuse(fused)
        return read


@described
def segmenter(
    input_shape: Sequence[int], num_classes: int, *, widths: Sequence[int] = (16, 32, 64), separable: bool = False
) -> Segmenter:
    """A small network for dense prediction, see `Segmenter`.

    Args:
        input_shape: `(channels, height, width)`; other heights and widths work too.
        num_classes: Classes of a pixel.
        widths: Channels of the stages, at least two; each stage halves height and width.
        separable: Depthwise 3×3 and pointwise convolutions in the place of whole ones.

    Returns:
        Maps `[batch, channels, height, width]` to logits `[batch, height, width, num_classes]`, classes last as
        everywhere; its submodule `score` gives the scores `[batch, num_classes, height / 4, width / 4]`.

    Raises:
        ValueError: A size that is not positive, or fewer than two stages.

    >>> import torch
    >>> segmenter((1, 32, 32), 11)(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 32, 32, 11])
    """
    shape = check_sizes(input_shape, "input_shape")
    if len(shape) != 3:
        raise ValueError(f"Expected argument `input_shape` to be (channels, height, width), but got {shape}.")
    check_at_least(num_classes, "num_classes", 1)
    widths = check_sizes(widths, "widths")
    if len(widths) < 2:
        raise ValueError(f"Expected argument `widths` to hold at least 2 stages, but got {len(widths)}.")
    return Segmenter(shape[0], num_classes, widths, separable=separable)


class PretrainedSegmenter(nn.Module):
    """A segmentation network of `transformers` in the form of ours: logits for every pixel, classes last.

    Args:
        network: Gives an output with `logits` `[batch, classes, rows, columns]`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits `[batch, height, width, classes]` of pictures `[batch, channels, height, width]`."""
        scores = self.network(pixel_values=pictures).logits
        return per_pixel(scores, (pictures.shape[2], pictures.shape[3]))


def transformers_segmenter(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    class_name: str = "SegformerForSemanticSegmentation",
    **settings: Any,
) -> PretrainedSegmenter:
    """A segmentation network of `transformers` with random weights.

    Args:
        input_shape: `(channels, height, width)`; other heights and widths work too.
        num_classes: Classes of a pixel.
        class_name: The class, such as `SegformerForSemanticSegmentation` or `MobileNetV2ForSemanticSegmentation`.
        **settings: Of its configuration (`hidden_sizes`, `depths` …).

    Returns:
        Maps `[batch, channels, height, width]` to logits `[batch, height, width, num_classes]`; the network itself is
        its submodule `network` (the score map of a SegFormer is `network.decode_head.classifier`).

    >>> import torch
    >>> small = {"hidden_sizes": (8, 8, 8, 8), "depths": (1, 1, 1, 1), "num_attention_heads": (1, 1, 1, 1)}
    >>> model = transformers_segmenter((3, 32, 32), 5, decoder_hidden_size=8, **small)
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 32, 32, 5])
    """
    channels = check_sizes(input_shape, "input_shape")[0]
    check_at_least(num_classes, "num_classes", 1)
    chosen = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    model = PretrainedSegmenter(new_model(class_name, num_channels=channels, num_labels=num_classes, **chosen))
    arguments = {"input_shape": list(input_shape), "num_classes": num_classes, "class_name": class_name, **chosen}
    remember(model, ModelSpecification(name="transformers_segmenter", arguments=arguments))
    return model


def per_pixel(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Score maps `[batch, classes, rows, columns]` as logits of pixels `[batch, *size, classes]`, bilinearly.

    The memory stays in the order of the maps, in which losses over pixels are fastest.
    """
    return F.interpolate(scores.contiguous(), size, mode="bilinear", align_corners=False).movedim(1, -1)


def _convolution(before: int, width: int, *, stride: int, separable: bool = False) -> nn.Sequential:
    if separable:
        layers = [
            nn.Conv2d(before, before, kernel_size=3, stride=stride, padding=1, groups=before, bias=False),
            nn.Conv2d(before, width, kernel_size=1, bias=False),
        ]
    else:
        layers = [nn.Conv2d(before, width, kernel_size=3, stride=stride, padding=1, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU())
