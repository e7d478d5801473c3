"""The reference: logits are built, and autograd does the rest. Slow and large; every other back-end is held to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.kernels.head import compute_dtype
from tutelage.kernels.operators import NOWHERE


def dense_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """Logits `[tokens, vocabulary]` in float32 or wider."""
    wide = compute_dtype(hidden.dtype)
    logits = F.linear(hidden.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
    return logits if softcap is None else softcap * (logits / softcap).tanh()


def dense_row_values(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp, label logit and sum of logits of every token; 0 for those that are left out.

    Only tokens that count are computed, so nothing that is wrong with another one spreads.
    """
    valid = (target != NOWHERE).nonzero().squeeze(1)
    logits = dense_logits(hidden[valid], weight, bias, softcap)
    labels = target[valid]
    here = (labels >= 0) & (labels < logits.shape[1])
    column = labels.clamp(0, logits.shape[1] - 1)[:, None]
    label_logit = torch.where(here, logits.gather(1, column).squeeze(1), 0)
    values = (logits.logsumexp(dim=1), label_logit, logits.sum(dim=1))
    lse, label, total = (value.new_zeros(len(target)).index_copy(0, valid, value) for value in values)
    return lse, label, total
