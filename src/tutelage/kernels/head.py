"""A linear output layer, read one tile of logits at a time: tokens × a stretch of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums and logits are held in: float32 at least.

    >>> compute_dtype(torch.bfloat16), compute_dtype(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


@dataclass(frozen=True)
class LinearHead:
    """Logits z = E Cᵀ + b, then κ·tanh(z/κ) where there is a soft-cap.

    Attributes:
        weight: `[vocabulary, width]`, C.
        bias: `[vocabulary]`, b, or None.
        softcap: κ, or None.
        order: `[vocabulary]`: the column that stands at each place. None is the order of their numbers.
        dtype: What to compute in; None is what `compute_dtype` says of the weight.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    order: Tensor | None = None
    dtype: torch.dtype | None = None

    def computing_in(self, dtype: torch.dtype) -> LinearHead:
        """The same head, whose tiles are in another dtype."""
        return replace(self, dtype=dtype)

    def spans(self, columns: int) -> list[tuple[int, int]]:
        """First place and end of every tile of at most `columns` places."""
        vocabulary = self.weight.shape[0]
        return [(start, min(start + columns, vocabulary)) for start in range(0, vocabulary, columns)]

    def rows(self, start: int, stop: int) -> Tensor:
        """The weights of a span, `[columns, width]`, in the dtype to compute in."""
        part = self.weight[start:stop] if self.order is None else self.weight.index_select(0, self.order[start:stop])
        return part.to(self.dtype or compute_dtype(part.dtype))

    def logits(self, hidden: Tensor, rows: Tensor, start: int, stop: int, out: Tensor) -> None:
        """Fill a tile.

        Args:
            hidden: `[tokens, width]`, in the dtype to compute in.
            rows: What `rows` gave for the span.
            start: First place of the span.
            stop: Its end.
            out: `[tokens, columns]`.
        """
        torch.mm(hidden, rows.t(), out=out)
        if self.bias is not None:
            out += self.bias[start:stop] if self.order is None else self.bias.index_select(0, self.order[start:stop])
        if self.softcap is not None:
            out.div_(self.softcap).tanh_().mul_(self.softcap)

    def slope(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """∂z_capped/∂z = 1 − (z_capped/κ)² of capped logits, into `out` (which may be `logits`)."""
        assert self.softcap is not None
        out = torch.div(logits, self.softcap, out=out)
        return out.square_().neg_().add_(1)


@dataclass(frozen=True)
class LabelPlaces:
    """Where labels lie in the tiles of a vocabulary.

    Attributes:
        column: `[tokens, tiles]`, the label's column in each tile; some column of it where the label is elsewhere.
        inside: `[tokens, tiles]`, whether the label is in the tile.

    >>> LabelPlaces.of(torch.tensor([3, 9]), [(0, 4), (4, 6)]).inside
    tensor([[ True, False],
            [False, False]])
    """

    column: Tensor
    inside: Tensor

    @classmethod
    def of(cls, labels: Tensor, spans: list[tuple[int, int]]) -> LabelPlaces:
        """The places of labels `[tokens]` in tiles that go from `start` to `stop`; a label may be in none."""
        first, width = torch.tensor([(start, stop - start) for start, stop in spans], device=labels.device).t()
        column = labels[:, None] - first
        inside = (column >= 0) & (column < width)
        return cls(column.clamp_(min=0).minimum(width - 1), inside)

    def part(self, first: int, last: int) -> LabelPlaces:
        """The places of some of the labels."""
        return LabelPlaces(self.column[first:last], self.inside[first:last])

    def pick(self, tile: Tensor, number: int) -> Tensor:
        """The entries of a tile, by its number, at the labels; `[tokens]`, 0 where a label is elsewhere."""
        picked = tile.gather(1, self.column[:, number, None]).squeeze(1)
        return torch.where(self.inside[:, number], picked, 0)

    def add(self, tile: Tensor, number: int, values: Tensor) -> None:
        """Add values `[tokens]` to a tile at the labels that are in it."""
        here = torch.where(self.inside[:, number], values, 0)
        tile.scatter_add_(1, self.column[:, number, None], here[:, None])
