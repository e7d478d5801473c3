"""The precision that losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(value: Tensor) -> Tensor:
    """Half-precision numbers as float32, others as they are.

    >>> at_least_float32(torch.zeros(2, dtype=torch.bfloat16)).dtype, at_least_float32(torch.zeros(2).double()).dtype
    (torch.float32, torch.float64)
    """
    return value.to(torch.promote_types(value.dtype, torch.float32))


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log softmax(logits / temperature) over the last dimension, in float32 or wider.

    >>> log_probabilities(torch.tensor([0.0, 0.0]), temperature=2.0)
    tensor([-0.6931, -0.6931])
    """
    logits = at_least_float32(logits)
    return (logits if temperature == 1 else logits / temperature).log_softmax(dim=-1)
