"""Feature masks: small networks that damp parts of a layer, and teachers that are specialised by one of them."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import check_at_least, nearest
from tutelage.features.taps import first_tensor


class FeatureMask(nn.Module):
    """Reads a feature vector and gives a mask in (0, 1) for it: attention among its numbers, one token a number.

    A linear layer makes `dim` tokens of width e = ⌊dim / (hidden_divisor · num_heads)⌋ · num_heads; after one layer of
    self-attention (no residual, no normalisation) every token becomes one number, and a sigmoid the mask. The first
    layer has (dim + 1) · dim · e parameters, so for wide layers raise `hidden_divisor`.

    Args:
        dim: Width of the features.
        num_heads: Heads of the attention.
        hidden_divisor: How many times narrower than the features a token is, roughly.

    Raises:
        ValueError: Tokens would have no width: `dim` below `hidden_divisor · num_heads`.

    Source: Li et al., "MST-Distill", arXiv 2507.07015, method section, and the authors' code.

    >>> import torch
    >>> mask = FeatureMask(12, num_heads=2)
    >>> mask.hidden, mask(torch.zeros(4, 12)).shape
    (6, torch.Size([4, 12]))
    >>> FeatureMask(4)
    Traceback (most recent call last):
    ValueError: Expected argument `dim` to be at least 6 (`hidden_divisor` · `num_heads`), but got 4.
    """

    def __init__(self, dim: int, *, num_heads: int = 3, hidden_divisor: int = 2) -> None:
        super().__init__()
        check_at_least(num_heads, "num_heads", 1)
        check_at_least(hidden_divisor, "hidden_divisor", 1)
        smallest = hidden_divisor * num_heads
        if dim < smallest:
            raise ValueError(
                f"Expected argument `dim` to be at least {smallest} (`hidden_divisor` · `num_heads`), but got {dim}."
            )
        self.dim = dim
        self.hidden = dim // smallest * num_heads
        self.embed = nn.Linear(dim, dim * self.hidden)
        self.attention = nn.MultiheadAttention(self.hidden, num_heads, batch_first=True)
        self.score = nn.Linear(self.hidden, 1)

    def forward(self, features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        """The mask `[batch, dim]` of features `[batch, dim]`."""
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(
                f"Expected argument `features` to have shape (batch, {self.dim}), but got {tuple(features.shape)}."
            )
        tokens = self.embed(features).unflatten(1, (self.dim, self.hidden))
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        mask: Tensor = self.score(attended).squeeze(-1).sigmoid()
        return mask


class SpatialFeatureMask(nn.Module):
    """Reads a feature map and gives a mask in (0, 1) for its channels.

    Depth-wise 3 × 3 convolution with stride 2 → 1 × 1 convolution → batch normalisation → ReLU → mean over positions →
    `FeatureMask`.

    Args:
        channels: Channels of the map.
        num_heads: Heads of the attention.
        hidden_divisor: As in `FeatureMask`.

    Source: as `FeatureMask`.

    >>> import torch
    >>> SpatialFeatureMask(12)(torch.zeros(4, 12, 5, 7)).shape
    torch.Size([4, 12])
    """

    def __init__(self, channels: int, *, num_heads: int = 3, hidden_divisor: int = 2) -> None:
        super().__init__()
        self.channel_mask = FeatureMask(channels, num_heads=num_heads, hidden_divisor=hidden_divisor)
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )

    def forward(self, features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch channels"]:
        """The mask `[batch, channels]` of a map `[batch, channels, height, width]`."""
        if features.ndim != 4 or features.shape[1] != self.channel_mask.dim:
            raise ValueError(
                f"Expected argument `features` to have shape (batch, {self.channel_mask.dim}, height, width), "
                f"but got {tuple(features.shape)}."
            )
        mask: Tensor = self.channel_mask(self.reduce(features).mean(dim=(2, 3)))
        return mask


def feature_mask_for(features: Tensor, *, num_heads: int = 3, hidden_divisor: int = 2) -> nn.Module:
    """A mask that fits a layer, from one batch of what the layer gives.

    Args:
        features: `[batch, dim]`, or `[batch, channels, height, width]`.
        num_heads: As in `FeatureMask`.
        hidden_divisor: As in `FeatureMask`.

    >>> import torch
    >>> type(feature_mask_for(torch.zeros(2, 12))).__name__
    'FeatureMask'
    """
    if features.ndim not in (2, 4):
        raise ValueError(
            "Expected a layer to mask to give vectors (batch, dim) or maps (batch, channels, height, width), "
            f"but got {tuple(features.shape)}."
        )
    kind = FeatureMask if features.ndim == 2 else SpatialFeatureMask
    return kind(features.shape[1], num_heads=num_heads, hidden_divisor=hidden_divisor).to(features.device)


class SpecializedTeacher(nn.Module):
    """A network in which what one layer gives, f, is replaced by f ⊙ mask(f); called like the network itself.

    The network is shared, not copied: its hook lives only during a call, so the network itself and other teachers that
    are specialised from it know nothing of the mask. Nothing is frozen here, and gradients reach mask and network. A
    specialised teacher can itself be specialised at another layer, and then has both masks.

    Args:
        model: The network.
        layer_name: The layer's path, as in `model.named_modules()`.
        mask: Maps what the layer gives to a mask, `[batch, dim]` or `[batch, channels]`; positions share a channel's.

    Raises:
        ValueError: There is no such layer; in a call, the layer did not run or the mask does not fit.

    Source: as `FeatureMask`.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))
    >>> teacher = SpecializedTeacher(model, "0", FeatureMask(12))
    >>> teacher(torch.zeros(2, 4)).shape, len(model[0]._forward_hooks)
    (torch.Size([2, 3]), 0)
    """

    def __init__(self, model: nn.Module, layer_name: str, mask: nn.Module) -> None:
        super().__init__()
        layers = dict(model.named_modules())
        if layer_name not in layers:
            hint = nearest(layer_name, layers)
            listed = ", ".join(repr(name) for name in layers if name)
            raise ValueError(f"Expected argument `layer_name` to be one of {listed}, but got {layer_name!r}{hint}.")
        self.model = model
        self.mask = mask
        self.layer_name = layer_name
        if hasattr(model, "main_input_name"):  # how `transformers` models want to be called
            self.main_input_name = model.main_input_name

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """What the network gives with the layer masked."""
        ran = False

        def apply_mask(module: nn.Module, inputs: Any, output: Any) -> Any:
            nonlocal ran
            ran = True
            features = first_tensor(output, self.layer_name)
            mask = self.mask(features)
            if mask.shape != features.shape[: mask.ndim]:
                raise ValueError(
                    f"Expected the mask of {self.layer_name!r} to fit features {tuple(features.shape)}, "
                    f"but got {tuple(mask.shape)}."
                )
            masked = features * mask.reshape(mask.shape + (1,) * (features.ndim - mask.ndim))
            return (masked, *output[1:]) if isinstance(output, tuple) else masked

        hook = self.model.get_submodule(self.layer_name).register_forward_hook(apply_mask)
        try:
            result = self.model(*arguments, **named)
        finally:
            hook.remove()
        if not ran:
            raise ValueError(f"Expected the layer {self.layer_name!r} to run in a call of the model, but it did not.")
        return result
