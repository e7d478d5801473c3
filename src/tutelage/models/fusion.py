"""A network over several views of a sample: a branch a view, their features side by side, one body on top."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FusionNetwork(nn.Module):
    """Every view goes through a branch of its own; what the branches give is concatenated and read by the body.

    Args:
        branches: By the name of the view, which is the name of the argument in a call; each gives `[batch, width]`.
        body: Maps `[batch, sum of widths]` to what the network gives.

    The concatenated features pass through `concatenated`, a layer that does nothing, so that they can be tapped.

    Raises:
        ValueError: No branch, or a call with other views than there are branches.

    >>> network = FusionNetwork({"image": nn.Linear(4, 3), "sound": nn.Linear(2, 3)}, nn.Linear(6, 5))
    >>> network(image=torch.zeros(7, 4), sound=torch.zeros(7, 2)).shape
    torch.Size([7, 5])
    """

    def __init__(self, branches: Mapping[str, nn.Module], body: nn.Module) -> None:
        super().__init__()
        if not branches:
            raise ValueError("Expected argument `branches` to hold at least one network, but it is empty.")
        self.branches = nn.ModuleDict(branches)
        self.concatenated = nn.Identity()
        self.body = body

    def forward(self, **views: Tensor) -> Tensor:
        """What the body says about all views together."""
        if views.keys() != self.branches.keys():
            raise ValueError(
                f"Expected the views {', '.join(sorted(self.branches))}, but got {', '.join(sorted(views)) or 'none'}."
            )
        features = [branch(views[name]) for name, branch in self.branches.items()]
        fused: Tensor = self.body(self.concatenated(torch.cat(features, dim=1)))
        return fused
