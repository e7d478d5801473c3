"""Fresh weights for scoring: every network starts from the same distribution, whatever its builder's habit."""

from __future__ import annotations

import torch
from torch import nn

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@torch.no_grad()
def gaussian_reinitialize(model: nn.Module, generator: torch.Generator | None = None) -> nn.Module:
    """Give a network new random weights, in place: N(0, 1) for linear layers and convolutions, biases 0, norms 1 and 0.

    Running statistics of norms are reset; other parameters (tables of positions, tokens) are drawn from N(0, 1) too.
    The order is that of `model.named_modules()`, so one seed gives one network. Meant for networks with norms in train
    mode: without batch statistics, activations of a deep network overflow.

    Args:
        model: Overwritten.
        generator: Where the numbers come from, on the model's device; None is PyTorch's own.

    Returns:
        The model.

    >>> layer = gaussian_reinitialize(nn.Linear(2, 1), torch.Generator().manual_seed(0))
    >>> layer.bias.item()
    0.0
    """
    done: set[int] = set()
    for module in model.modules():
        is_norm = isinstance(module, _NORMS)
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in done:
                continue
            done.add(id(parameter))
            if name.endswith("bias"):
                parameter.zero_()
            elif is_norm:
                parameter.fill_(1.0)
            else:
                parameter.normal_(generator=generator)
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
    return model
