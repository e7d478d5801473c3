"""The head through which a random teacher speaks: a perceptron, a bottleneck of length 1, and very many cosines.

Source: Sarnthein et al., "Random Teachers are Good Teachers", ICML 2023, arXiv 2302.12091, appendix E; after DINO,
arXiv 2104.14294. The public module of the release multiplies by the raw weight where the paper normalises it; this
normalises.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from tutelage._checks import check_at_least


class L2BottleneckHead(nn.Module):
    """Linear–GELU layers, a linear bottleneck scaled to length 1, and its cosines with `out_dim` directions.

    Linear weights start from a truncated normal distribution with deviation 0.02, biases at 0.

    Args:
        in_dim: Width of the features.
        hidden_dims: Widths of the layers with GELU before the bottleneck; may be empty.
        bottleneck_dim: Width of the bottleneck.
        out_dim: Number of logits. A batch of 256 with the paper's 65 536 is 64 MB.
        normalize_features: Scale the bottleneck to length 1.
        normalize_weights: Scale every row of the last layer to length 1, anew in each call.

    Shape: `[batch, in_dim]` → `[batch, out_dim]`; with both normalisations in [-1, 1].

    >>> import torch
    >>> head = L2BottleneckHead(8, (16,), 4, 32)
    >>> logits = head(torch.randn(5, 8))
    >>> logits.shape, bool(logits.abs().max() <= 1.0001)
    (torch.Size([5, 32]), True)
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int] = (2048, 2048),
        bottleneck_dim: int = 256,
        out_dim: int = 65536,
        *,
        normalize_features: bool = True,
        normalize_weights: bool = True,
    ) -> None:
        super().__init__()
        for value, name in ((in_dim, "in_dim"), (bottleneck_dim, "bottleneck_dim"), (out_dim, "out_dim")):
            check_at_least(value, name, 1)
        for width in hidden_dims:
            check_at_least(width, "hidden_dims", 1)
        self.normalize_features, self.normalize_weights = normalize_features, normalize_weights
        widths = [in_dim, *hidden_dims]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.bottleneck = nn.Linear(widths[-1], bottleneck_dim)
        self.last = nn.Linear(bottleneck_dim, out_dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[batch, out_dim]` of features `[batch, in_dim]`."""
        narrow = self.bottleneck(self.layers(features))
        if self.normalize_features:
            narrow = functional.normalize(narrow, dim=-1)
        weight = functional.normalize(self.last.weight, dim=-1) if self.normalize_weights else self.last.weight
        return functional.linear(narrow, weight)
