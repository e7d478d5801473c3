"""CSRNet: a network that counts a crowd by predicting its density, and its thinner copies."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, overload

from torch import Tensor, nn

from tutelage._checks import check_at_least
from tutelage.models.plain import check_sizes
from tutelage.models.specification import described

STAGE_WIDTHS = (64, 128, 256, 512)
STAGE_DEPTHS = (2, 2, 3, 3)
BACK_END_WIDTHS = (512, 512, 512, 256, 128, 64)

CSRNET_TAPS = ("conv0_0", "pool0", "pool1", "pool2", "conv4_0", "conv4_3")
"""Where SKT reads features, as module paths of a `CSRNet`: after a ReLU or a pool, at 1/1, 1/2, 1/4 and thrice 1/8."""


class CSRNet(nn.Sequential):
    """A density map at an eighth of an image's size: ten convolutions of VGG-16 and six dilated ones.

    Every 3 × 3 convolution is followed by a ReLU. Pools round up, so that the map has
    ⌈⌈⌈H/2⌉/2⌉/2⌉ × ⌈⌈⌈W/2⌉/2⌉/2⌉ values; their sum is the count. The last layer has no activation.
    Layers are named as in SKT's released students (`conv0_0` … `conv4_5`, `conv5_0`), and initialised as these: normal
    with He's variance over the outputs, biases 0.

    Args:
        width_divisor: Divides all widths (rounded): 1 is CSRNet, 4 the student of SKT.
        in_channels: Channels of the images.

    Raises:
        ValueError: `width_divisor` or `in_channels` is below 1.

    Source:
        Li et al., "CSRNet" (CVPR 2018), configuration B; Liu et al., "Efficient Crowd Counting via Structured Knowledge
        Transfer" (ACM Multimedia 2020, arXiv 2003.10120) for the thinner copies.

    >>> import torch
    >>> model = CSRNet(width_divisor=16, in_channels=1)
    >>> density, taps = model(torch.zeros(2, 1, 20, 33), return_features=True)
    >>> density.shape, taps[0].shape
    (torch.Size([2, 1, 3, 5]), torch.Size([2, 4, 20, 33]))
    >>> sum(parameter.numel() for parameter in CSRNet().parameters())
    16263489
    """

    def __init__(self, width_divisor: int = 1, in_channels: int = 3) -> None:
        check_at_least(width_divisor, "width_divisor", 1)
        check_at_least(in_channels, "in_channels", 1)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for stage, (stage_width, depth) in enumerate(zip(STAGE_WIDTHS, STAGE_DEPTHS, strict=True)):
            if stage > 0:
                layers[f"pool{stage - 1}"] = nn.MaxPool2d(2, stride=2, ceil_mode=True)
            width = divided_width(stage_width, width_divisor)
            for number in range(depth):
                layers[f"conv{stage}_{number}"] = _convolution(channels, width, dilation=1)
                channels = width
        for number, back_end_width in enumerate(BACK_END_WIDTHS):
            width = divided_width(back_end_width, width_divisor)
            layers[f"conv4_{number}"] = _convolution(channels, width, dilation=2)
            channels = width
        layers["conv5_0"] = nn.Conv2d(channels, 1, kernel_size=1)
        super().__init__(layers)
        self.width_divisor = width_divisor
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    @property
    def tap_channels(self) -> tuple[int, ...]:
        """Channels of the six maps at `CSRNET_TAPS`."""
        widths = (*STAGE_WIDTHS[:1], *STAGE_WIDTHS[:3], BACK_END_WIDTHS[0], BACK_END_WIDTHS[3])
        return tuple(divided_width(width, self.width_divisor) for width in widths)

    @overload
    def forward(self, x: Tensor, return_features: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, return_features: Literal[True]) -> tuple[Tensor, list[Tensor]]: ...
    def forward(self, x: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """The density `[batch, 1, height / 8, width / 8]`; with `return_features` the six maps of `CSRNET_TAPS` too."""
        features = []
        for name, layer in self.named_children():
            x = layer(x)
            if name in CSRNET_TAPS:
                features.append(x)
        return (x, features) if return_features else x


def divided_width(width: int, divisor: int) -> int:
    """A width of CSRNet over a divisor, rounded, and at least 1.

    >>> [divided_width(width, 3) for width in (64, 128, 256, 512)]
    [21, 43, 85, 171]
    """
    return max(1, round(width / divisor))


@described
def csrnet(input_shape: Sequence[int], *, width_divisor: int = 1) -> CSRNet:
    """`CSRNet` for the images of a data set.

    Args:
        input_shape: `(channels, height, width)` of one image; only the channels matter.
        width_divisor: Divides all widths.

    Raises:
        ValueError: `input_shape` is not that of an image, or `width_divisor` is below 1.

    >>> csrnet((1, 48, 48), width_divisor=16).tap_channels
    (4, 4, 8, 16, 32, 16)
    """
    shape = check_sizes(input_shape, "input_shape")
    if len(shape) != 3:
        raise ValueError(f"Expected argument `input_shape` to be (channels, height, width), but got {shape}.")
    return CSRNet(width_divisor, in_channels=shape[0])


def _convolution(in_channels: int, out_channels: int, *, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=dilation, dilation=dilation), nn.ReLU()
    )
