"""The softmax of one tile of logits, in place and in one pass over memory, with the log-sum-exp that it divides by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def softmax_tile(tile: Tensor, remake: Callable[[], object]) -> Tensor:
    """Turn logits into probabilities among the columns of the tile.

    PyTorch's softmax finds the maximum, exponentiates, sums and divides while a row is in the cache, but keeps the sum
    to itself. It follows from any logit z and its probability p as z − log p. Should the first column's probability
    have vanished, the tile is made again and taken step by step.

    Args:
        tile: `[tokens, columns]` logits, overwritten.
        remake: Fills the tile with the same logits again.

    Returns:
        `[tokens]` log-sum-exp; −∞ for a row of −∞, whose probabilities are 0.

    >>> tile = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    >>> softmax_tile(tile, lambda: tile.copy_(torch.tensor([[0.0, 0.0], [0.0, 3.0]])))
    tensor([0.6931, 3.0486])
    >>> tile
    tensor([[0.5000, 0.5000],
            [0.0474, 0.9526]])
    """
    first = tile[:, 0].clone()
    torch.softmax(tile, dim=1, out=tile)
    share = tile[:, 0]
    tiny = torch.finfo(tile.dtype).tiny
    if bool((share > tiny).all()):
        return first - share.log()
    remake()
    largest = tile.amax(dim=1).clamp_(min=torch.finfo(tile.dtype).min)
    total = tile.sub_(largest[:, None]).exp_().sum(dim=1)
    tile.div_(total.clamp(min=tiny)[:, None])
    return largest + total.log()
