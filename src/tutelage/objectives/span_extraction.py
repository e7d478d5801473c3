"""Tagging as reading: a query asks for entities of one type, and the model marks where they start and end.

The head and loss of the machine-reading form of named-entity recognition (Li et al., "A Unified MRC Framework for Named
Entity Recognition", ACL 2020), as used with Dice losses in arXiv 1911.02855.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_in_range, check_non_negative, check_same_shape
from tutelage.objectives.dice import self_adjusting_dice_loss


class SpanLogits(NamedTuple):
    """What the head says; every logit is that of a yes.

    Attributes:
        start: `[batch, time]`: an entity starts here.
        end: `[batch, time]`: an entity ends here (the last token, not the one after).
        span: `[batch, time, time]`: an entity reaches from the first index to the second.
        answerable: `[batch]`: the passage holds an entity of this type at all; None without that head.
    """

    start: Tensor
    end: Tensor
    span: Tensor
    answerable: Tensor | None = None

    def spans(self, mask: Bool[Tensor, "batch time"]) -> list[set[tuple[int, int]]]:
        """The entities of each passage: (first, last) where start, end and span are all likelier than not.

        Args:
            mask: Tokens of the passage (not of query or padding).
        """
        found = (self.span > 0) & (self.start > 0)[:, :, None] & (self.end > 0)[:, None, :] & _possible(mask)
        entities: list[set[tuple[int, int]]] = [set() for _ in range(len(mask))]
        for row, first, last in found.nonzero().tolist():
            entities[row].add((first, last))
        return entities


class SpanExtractionHead(nn.Module):
    """Start, end and start-by-end logits over an encoder's hidden states.

    A span's logit is a two-layer network of the hidden states of both ends. Its first layer is the sum of one linear
    map for each end, so that pairs are never concatenated; memory is batch · time² · hidden_features.

    Args:
        in_features: Width of a hidden state.
        hidden_features: Width inside the span network; by default `in_features`.
        dropout: Inside the span network, in [0, 1].
        answerable: Add a logit for "there is an entity", read from the first token's hidden state.

    >>> logits = SpanExtractionHead(8)(torch.zeros(2, 5, 8))
    >>> logits.start.shape, logits.span.shape
    (torch.Size([2, 5]), torch.Size([2, 5, 5]))
    """

    def __init__(
        self, in_features: int, *, hidden_features: int | None = None, dropout: float = 0.2, answerable: bool = False
    ) -> None:
        super().__init__()
        check_at_least(in_features, "in_features", 1)
        check_in_range(dropout, "dropout", 0, 1)
        hidden_features = in_features if hidden_features is None else hidden_features
        check_at_least(hidden_features, "hidden_features", 1)
        self.ends = nn.Linear(in_features, 2)
        self.span_from = nn.Linear(in_features, hidden_features)
        self.span_to = nn.Linear(in_features, hidden_features, bias=False)
        self.span = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden_features, 1))
        self.answerable = nn.Linear(in_features, 1) if answerable else None

    def forward(self, hidden: Float[Tensor, "batch time width"]) -> SpanLogits:
        """Logits from hidden states `[batch, time, in_features]`."""
        start, end = self.ends(hidden).unbind(dim=-1)
        pairs = self.span_from(hidden)[:, :, None] + self.span_to(hidden)[:, None]
        answerable = None if self.answerable is None else self.answerable(hidden[:, 0])[:, 0]
        return SpanLogits(start, end, self.span(pairs)[..., 0], answerable)


def span_extraction_loss(
    logits: SpanLogits,
    start: Shaped[Tensor, "batch time"],
    end: Shaped[Tensor, "batch time"],
    span: Shaped[Tensor, "batch time time"],
    mask: Shaped[Tensor, "batch time"],
    *,
    loss: Callable[..., Tensor] = self_adjusting_dice_loss,
    start_weight: float = 1.0,
    end_weight: float = 1.0,
    span_weight: float = 0.3,
    answerable_weight: float = 0.4,
) -> Float[Tensor, ""]:
    """w_start L_start + w_end L_end + w_span L_span + w_answerable L_answerable, each a binary loss of its own.

    Args:
        logits: What the head says.
        start: Labels 0 and 1: an entity starts here.
        end: An entity ends here.
        span: An entity reaches from the first index to the second.
        mask: Tokens of the passage; spans count when both ends are in it, in this order.
        loss: Called as `loss(logits, labels, mask=…)` on equal shapes.
        start_weight: w_start.
        end_weight: w_end.
        span_weight: w_span (0.2 to 0.3 in published scripts).
        answerable_weight: w_answerable (0.2 to 0.4); unused without that head. Its label is whether `span` holds one.

    Returns:
        A scalar.

    Raises:
        ValueError: Shapes that do not match, or a weight below 0.

    >>> logits, none = SpanExtractionHead(8)(torch.zeros(2, 5, 8)), torch.zeros(2, 5)
    >>> span_extraction_loss(logits, none, none, torch.zeros(2, 5, 5), torch.ones(2, 5)).shape
    torch.Size([])
    """
    weights = {"start": start_weight, "end": end_weight, "span": span_weight, "answerable": answerable_weight}
    for name, weight in weights.items():
        check_non_negative(weight, f"{name}_weight")
    check_same_shape(logits.start, mask, "logits.start", "mask")
    counted = mask != 0
    total = start_weight * loss(logits.start, start, mask=counted)
    total = total + end_weight * loss(logits.end, end, mask=counted)
    total = total + span_weight * loss(logits.span, span, mask=_possible(counted))
    if logits.answerable is not None:
        answerable = (span != 0).flatten(1).any(dim=1).to(logits.answerable.dtype)
        total = total + answerable_weight * loss(logits.answerable, answerable, mask=torch.ones_like(answerable))
    return total


def _possible(mask: Tensor) -> Tensor:
    """Pairs (first, last) of tokens of the passage with first ≤ last."""
    return (mask[:, :, None] & mask[:, None, :]).triu()
