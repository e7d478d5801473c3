"""The gradient of a head, summed up over blocks of tokens in the precision that was asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.kernels.head import compute_dtype


class HeadGradient:
    """∇C += δᵀ E, block by block.

    Args:
        weight: `[vocabulary, width]`, the head.
        accumulate: `"input"`: in a buffer of the weight's dtype, rounded after every block. `"float32"`: in float32 at
            least. `"compensated"`: in a buffer of the weight's dtype beside a second one that keeps what rounding cut
            off (Kahan 1965).
        dtype: What deltas and hidden states come in; None is what `compute_dtype` says of the weight.
        whole: Every tile will be added to as a whole, beginning with the first block of tokens. Nothing need be zeroed.
    """

    def __init__(
        self, weight: Tensor, accumulate: str, dtype: torch.dtype | None = None, *, whole: bool = False
    ) -> None:
        wide = dtype or compute_dtype(weight.dtype)
        self.weight_dtype = weight.dtype
        held = wide if accumulate == "float32" else weight.dtype
        self.direct = held == wide and accumulate != "compensated"
        self.whole = whole and self.direct
        make = torch.empty if self.whole else torch.zeros
        self.total = make(weight.shape, dtype=held, device=weight.device)
        self.lost = torch.zeros_like(self.total) if accumulate == "compensated" else None

    def add(
        self, start: int, stop: int, delta: Tensor, hidden: Tensor, kept: Tensor | None = None, *, first: bool = False
    ) -> None:
        """Add one tile's part.

        Args:
            start: First vocabulary entry of the tile.
            stop: Its end.
            delta: `[tokens, columns]`: loss gradient with respect to the logits of the tile, or of its kept columns.
            hidden: `[tokens, width]`.
            kept: `[columns]`, the places of those columns in the tile; None when they are all of it.
            first: Whether this is the first block of tokens.
        """
        total = self.total[start:stop]
        if self.direct and kept is None:
            total.addmm_(delta.t(), hidden, beta=0 if first and self.whole else 1)
            return
        part = total if kept is None else total.index_select(0, kept)
        if self.direct:
            part.addmm_(delta.t(), hidden)
        else:
            summand = torch.mm(delta.t(), hidden)
            lost = None
            if self.lost is not None:
                lost = self.lost[start:stop] if kept is None else self.lost[start:stop].index_select(0, kept)
                summand -= lost
            grown = (part + summand).to(part.dtype)
            if self.lost is not None:
                lost = ((grown.to(summand.dtype) - part) - summand).to(part.dtype)
                _put(self.lost[start:stop], kept, lost)
            part = grown
        _put(total, kept, part)

    def result(self) -> Tensor:
        """∇C in the weight's dtype."""
        return self.total.to(self.weight_dtype)


def _put(rows: Tensor, kept: Tensor | None, values: Tensor) -> None:
    if kept is None:
        rows.copy_(values)
    else:
        rows.index_copy_(0, kept, values)
