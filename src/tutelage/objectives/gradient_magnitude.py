"""Weights that make several losses pull equally hard on the same parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def gradient_magnitude_weights(losses: Sequence[Tensor], parameters: Iterable[Tensor]) -> Tensor:
    """Weights ω_i = (1/g_i) / Σ_j (1/g_j), where g_i is the norm of loss i's gradient on some parameters (GradMag).

    ω_i g_i is then the same for all losses. A loss without a gradient gets the weight 0. Usually the parameters are
    those of the last layer, so that each loss costs one short backward pass.

    Args:
        losses: Scalars with a graph; the graph is kept.
        parameters: What the gradients are taken of.

    Returns:
        `[losses]`, not negative, of sum 1, without a gradient; all equal when no loss has a gradient.

    Raises:
        ValueError: No loss or no parameter.

    Source: Minixhofer et al. 2025, step 9.

    >>> weight = torch.tensor([1.0], requires_grad=True)
    >>> gradient_magnitude_weights([3 * weight.sum(), weight.sum()], [weight])
    tensor([0.2500, 0.7500])
    """
    watched = list(parameters)
    if not losses or not watched:
        raise ValueError(f"Expected losses and parameters, but got {len(losses)} losses and {len(watched)} parameters.")
    norms = []
    for loss in losses:
        parts = torch.autograd.grad(loss, watched, retain_graph=True, allow_unused=True) if loss.requires_grad else ()
        squares = [part.detach().float().square().sum() for part in parts if part is not None]
        norms.append(torch.stack(squares).sum().sqrt() if squares else torch.zeros((), device=loss.device))
    size = torch.stack(norms)
    felt = size > 0
    if not bool(felt.any()):
        return torch.full_like(size, 1 / len(losses))
    # Relative to the smallest one, so that tiny norms do not overflow.
    inverse = torch.where(felt, size[felt].min() / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0)
    return inverse / inverse.sum()
