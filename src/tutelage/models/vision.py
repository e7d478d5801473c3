"""Image classifiers over `transformers` configurations, with stems and patches that suit small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from tutelage._checks import check_at_least, check_option
from tutelage.models.plain import check_sizes
from tutelage.models.pretrained import new_model
from tutelage.models.specification import described


@described
def resnet(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    widths: Sequence[int] = (16, 32, 64),
    depths: Sequence[int] = (1, 1, 1),
    layer_type: Literal["basic", "bottleneck"] = "basic",
    stem: Literal["small", "standard"] = "small",
) -> nn.Module:
    """A residual network (He et al. 2016, "Deep Residual Learning for Image Recognition").

    Args:
        input_shape: `(channels, height, width)`; other heights and widths work too.
        num_classes: Number of logits.
        widths: Channels of the stages; every stage after the first halves height and width.
        depths: Residual layers of the stages; three stages of n basic layers are the paper's CIFAR networks of 6n + 2
            layers (§4.2; here with projection shortcuts), `(2, 2, 2, 2)` is ResNet-18.
        layer_type: `"basic"` (two 3×3 convolutions) or `"bottleneck"` (1×1, 3×3, 1×1).
        stem: `"small"`, a 3×3 convolution that keeps the size, for images of 8 to 64 pixels; `"standard"`, the 7×7
            convolution and max pooling for ImageNet, which divide the size by four.

    Returns:
        A `ResNetForImageClassification`; it maps `[batch, *input_shape]` to an output with `logits`.

    Raises:
        ValueError: A size is not positive, or there are not as many widths as depths.

    >>> import torch
    >>> resnet((1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).logits.shape
    torch.Size([2, 10])
    """
    shape = check_image_shape(input_shape)
    check_at_least(num_classes, "num_classes", 1)
    widths, depths = _stages(widths, depths)
    check_option(layer_type, "layer_type", ("basic", "bottleneck"))
    check_option(stem, "stem", ("small", "standard"))
    model = new_model(
        "ResNetForImageClassification",
        num_channels=shape[0],
        embedding_size=widths[0],
        hidden_sizes=list(widths),
        depths=list(depths),
        layer_type=layer_type,
        num_labels=num_classes,
    )
    if stem == "small":
        embedder = model.get_submodule("resnet.embedder")
        convolution = nn.Conv2d(shape[0], widths[0], kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        embedder.get_submodule("embedder").convolution = convolution
        embedder.pooler = nn.Identity()
    return model


@described
def vit(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    patch_size: int | None = None,
    hidden_size: int = 64,
    num_layers: int = 4,
    num_heads: int = 4,
    intermediate_size: int | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """A vision transformer (Dosovitskiy et al. 2021, "An Image is Worth 16×16 Words").

    Args:
        input_shape: `(channels, height, width)`.
        num_classes: Number of logits.
        patch_size: Side of a patch; by default the smallest that divides the image and makes at most 64 patches.
        hidden_size: Width of a token.
        num_layers: Number of blocks.
        num_heads: Attention heads; they divide the width.
        intermediate_size: Width inside the feed-forward layers; by default four times the token's.
        dropout: Probability of dropping an activation, in attention and outside.

    Returns:
        A `ViTForImageClassification`; it maps `[batch, *input_shape]` to an output with `logits`.

    Raises:
        ValueError: A size is not positive, or does not divide what it must.

    >>> import torch
    >>> vit((1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).logits.shape
    torch.Size([2, 10])
    """
    shape = check_image_shape(input_shape)
    check_at_least(num_classes, "num_classes", 1)
    patch_size = check_patch_size(shape, patch_size, most=64)
    check_heads(hidden_size, num_heads)
    return new_model(
        "ViTForImageClassification",
        num_channels=shape[0],
        image_size=shape[1:],
        patch_size=patch_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=intermediate_size or 4 * hidden_size,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=num_classes,
    )


@described
def swin(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    patch_size: int | None = None,
    hidden_size: int = 32,
    depths: Sequence[int] = (2, 2),
    num_heads: Sequence[int] = (2, 4),
    window_size: int = 4,
    dropout: float = 0.0,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """A Swin transformer (Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows").

    Args:
        input_shape: `(channels, height, width)`.
        num_classes: Number of logits.
        patch_size: Side of a patch; by default the smallest that divides the image and makes at most 64 patches.
        hidden_size: Width of a token in the first stage; it doubles with every stage, as height and width halve.
        depths: Blocks of the stages.
        num_heads: Attention heads of the stages; they divide the stage's width.
        window_size: Side of an attention window, in patches.
        dropout: Probability of dropping an activation, in attention and outside.
        drop_path_rate: Probability of skipping the last block for a sample; it grows linearly over the blocks.

    Returns:
        A `SwinForImageClassification`; it maps `[batch, *input_shape]` to an output with `logits`.

    Raises:
        ValueError: A size is not positive, or does not divide what it must.

    >>> import torch
    >>> swin((1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).logits.shape
    torch.Size([2, 10])
    """
    shape = check_image_shape(input_shape)
    check_at_least(num_classes, "num_classes", 1)
    patch_size = check_patch_size(shape, patch_size, most=64)
    check_at_least(window_size, "window_size", 1)
    num_heads, depths = _stages(num_heads, depths, name="num_heads")
    for stage, heads in enumerate(num_heads):
        check_heads(hidden_size * 2**stage, heads)
    sides = [-(-side // (patch_size * 2 ** (len(depths) - 1))) for side in shape[1:]]
    if min(sides) < window_size:
        raise ValueError(
            f"Expected argument `window_size` to fit the last stage's {sides[0]}×{sides[1]} patches, "
            f"but got {window_size}."
        )
    return new_model(
        "SwinForImageClassification",
        num_channels=shape[0],
        image_size=shape[1:],
        patch_size=patch_size,
        embed_dim=hidden_size,
        depths=list(depths),
        num_heads=list(num_heads),
        window_size=window_size,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        drop_path_rate=drop_path_rate,
        num_labels=num_classes,
    )


@described
def convnext(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    patch_size: int | None = None,
    widths: Sequence[int] = (16, 32, 64),
    depths: Sequence[int] = (1, 1, 1),
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """A ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s").

    Args:
        input_shape: `(channels, height, width)`; other heights and widths work too.
        num_classes: Number of logits.
        patch_size: Side of a patch; by default the smallest that divides the image and makes at most 256 patches.
        widths: Channels of the stages; every stage after the first halves height and width.
        depths: Blocks of the stages.
        drop_path_rate: Probability of skipping the last block for a sample; it grows linearly over the blocks.

    Returns:
        A `ConvNextForImageClassification`; it maps `[batch, *input_shape]` to an output with `logits`.

    Raises:
        ValueError: A size is not positive, there are not as many widths as depths, or the image is too small for
            that many stages.

    >>> import torch
    >>> convnext((1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).logits.shape
    torch.Size([2, 10])
    """
    shape = check_image_shape(input_shape)
    check_at_least(num_classes, "num_classes", 1)
    patch_size = check_patch_size(shape, patch_size, most=256)
    widths, depths = _stages(widths, depths)
    if min(shape[1:]) // patch_size < 2 ** (len(widths) - 1):
        raise ValueError(
            f"Expected argument `widths` to have fewer stages than {len(widths)}: each after the first halves the "
            f"image, which is {shape[1]}×{shape[2]} pixels in patches of {patch_size}."
        )
    return new_model(
        "ConvNextForImageClassification",
        num_channels=shape[0],
        image_size=shape[1:],
        patch_size=patch_size,
        num_stages=len(widths),
        hidden_sizes=list(widths),
        depths=list(depths),
        drop_path_rate=drop_path_rate,
        num_labels=num_classes,
    )


def check_heads(hidden_size: int, num_heads: int) -> None:
    """Raise `ValueError` unless both are positive and the heads divide the width."""
    check_at_least(hidden_size, "hidden_size", 1)
    check_at_least(num_heads, "num_heads", 1)
    if hidden_size % num_heads:
        raise ValueError(
            f"Expected argument `num_heads` to divide the width, but got {num_heads} heads for {hidden_size}."
        )


def check_image_shape(input_shape: object) -> tuple[int, int, int]:
    """`(channels, height, width)` as it is, or `ValueError` unless it is one."""
    shape = check_sizes(input_shape, "input_shape")
    if len(shape) != 3:
        raise ValueError(f"Expected argument `input_shape` to be (channels, height, width), but got {shape}.")
    return shape


def _stages(widths: object, depths: object, *, name: str = "widths") -> tuple[tuple[int, ...], tuple[int, ...]]:
    checked = check_sizes(widths, name), check_sizes(depths, "depths")
    if len(checked[0]) != len(checked[1]):
        raise ValueError(
            f"Expected arguments `{name}` and `depths` to have one entry a stage each, "
            f"but got {len(checked[0])} and {len(checked[1])} entries."
        )
    return checked


def check_patch_size(shape: tuple[int, int, int], patch_size: int | None, *, most: int) -> int:
    """The side of a patch, by default the smallest that makes at most `most`; `ValueError` unless it divides."""
    _, height, width = shape
    if patch_size is None:
        divisors = [size for size in range(1, min(height, width) + 1) if height % size == width % size == 0]
        return next((size for size in divisors if height * width // size**2 <= most), divisors[-1])
    check_at_least(patch_size, "patch_size", 1)
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"Expected argument `patch_size` to divide the image's {height}×{width} pixels, but got {patch_size}."
        )
    return patch_size
