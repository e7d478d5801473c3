"""The MLP-Mixer: an image classifier of multi-layer perceptrons alone, over patches and over channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tutelage._checks import check_at_least
from tutelage.models.specification import described
from tutelage.models.vision import check_image_shape, check_patch_size


@described
def mlp_mixer(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    patch_size: int | None = None,
    hidden_size: int = 64,
    num_layers: int = 4,
    token_size: int | None = None,
    channel_size: int | None = None,
) -> nn.Module:
    """An MLP-Mixer (Tolstikhin et al. 2021, "MLP-Mixer: An all-MLP Architecture for Vision", section 2).

    Args:
        input_shape: `(channels, height, width)`.
        num_classes: Number of logits.
        patch_size: Side of a patch; by default the smallest that divides the image and makes at most 64 patches.
        hidden_size: Width of a token.
        num_layers: Number of blocks.
        token_size: Width inside the perceptrons over patches; by default half the token's.
        channel_size: Width inside the perceptrons over channels; by default four times the token's.

    Returns:
        An `MLPMixer`; it maps `[batch, *input_shape]` to logits `[batch, num_classes]`.

    Raises:
        ValueError: A size is not positive, or a patch does not divide the image.

    >>> import torch
    >>> mlp_mixer((1, 8, 8), 10, hidden_size=16)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    shape = check_image_shape(input_shape)
    check_at_least(num_classes, "num_classes", 1)
    check_at_least(hidden_size, "hidden_size", 2)
    check_at_least(num_layers, "num_layers", 1)
    return MLPMixer(
        shape,
        num_classes,
        check_patch_size(shape, patch_size, most=64),
        hidden_size,
        num_layers,
        token_size or hidden_size // 2,
        channel_size or 4 * hidden_size,
    )


class MLPMixer(nn.Module):
    """See `mlp_mixer`. Modules are `embed`, `blocks.N` (tokens in, tokens out), `norm` and `head`."""

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        patch_size: int,
        hidden_size: int,
        num_layers: int,
        token_size: int,
        channel_size: int,
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        patches = (height // patch_size) * (width // patch_size)
        self.embed = nn.Conv2d(channels, hidden_size, patch_size, stride=patch_size)
        self.blocks = nn.Sequential(
            *(_MixerBlock(patches, hidden_size, token_size, channel_size) for _ in range(num_layers))
        )
        self.norm = nn.LayerNorm(hidden_size)
        self.head = nn.Linear(hidden_size, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits `[batch, classes]` of images `[batch, channels, height, width]`."""
        tokens = self.norm(self.blocks(self.embed(inputs).flatten(2).transpose(1, 2)))
        logits: Tensor = self.head(tokens.mean(dim=1))
        return logits


class _MixerBlock(nn.Module):
    """Mixes patches, each channel alone, then channels, each patch alone; both with a residual."""

    def __init__(self, patches: int, width: int, token_size: int, channel_size: int) -> None:
        super().__init__()
        self.token_norm, self.channel_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.token_mixing = _perceptron(patches, token_size)
        self.channel_mixing = _perceptron(width, channel_size)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.token_mixing(self.token_norm(tokens).transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = tokens + self.channel_mixing(self.channel_norm(tokens))
        return mixed


def _perceptron(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
