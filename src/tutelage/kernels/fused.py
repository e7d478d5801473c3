"""Cross-entropy and its gradient in one go over blocks of tokens: three matrix products, one exponential a logit.

A block's logits are made tile by tile, and turned into probabilities among the tile's columns while it is in the cache.
Once all tiles are there, one factor a token and tile makes them probabilities of the whole vocabulary, and both
gradients follow at once. Nothing is computed twice; what is held is one block of tokens × vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tutelage.kernels.blocks import row_blocks
from tutelage.kernels.head import LabelPlaces, LinearHead, compute_dtype
from tutelage.kernels.head_gradient import HeadGradient
from tutelage.kernels.tile_softmax import softmax_tile


@dataclass(frozen=True)
class Filter:
    """Which gradients skip columns of a block in which every |softmax − onehot| is below `epsilon`."""

    epsilon: float | None = None
    hidden: bool = True
    classifier: bool = True

    @property
    def active(self) -> bool:
        """Whether anything can be skipped."""
        return bool(self.epsilon) and (self.hidden or self.classifier)


def fused_cross_entropy(
    hidden: Tensor,
    head: LinearHead,
    target: Tensor,
    *,
    ignore_index: int,
    label_smoothing: float,
    mean: bool,
    empty: float,
    needs: tuple[bool, bool, bool],
    skipping: Filter,
    rows: int,
    columns: int,
    accumulate: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss over valid tokens and its gradients; its parameters are those of `linear_cross_entropy`.

    Args:
        hidden: `[tokens, width]`.
        head: The output layer, in its natural order.
        target: `[tokens]`.
        ignore_index: The target of tokens that are left out.
        label_smoothing: Share of the uniform distribution in the target.
        mean: Divide by the number of valid tokens.
        empty: The mean over no token.
        needs: Whether the gradients of hidden states, weight and bias are wanted.
        skipping: The gradient filter; a tile of it is one column of a block of tokens.
        rows: Tokens of a block.
        columns: Vocabulary entries of a tile.
        accumulate: See `HeadGradient`.

    Returns:
        The loss, and three gradients; one that is not wanted is empty.
    """
    wide = compute_dtype(hidden.dtype)
    valid = (target != ignore_index).nonzero().squeeze(1)
    count = len(valid)
    whole = count == len(target)
    needs_hidden, needs_weight, needs_bias = needs
    loss = hidden.new_zeros((), dtype=wide)
    scale = 1 / count if mean and count else 1.0
    grad_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format) if needs_hidden else None
    unfiltered = count > 0 and not (skipping.active and skipping.classifier)
    sums = HeadGradient(head.weight, accumulate, whole=unfiltered) if needs_weight else None
    grad_bias = hidden.new_zeros(head.weight.shape[0], dtype=wide) if needs_bias else None
    block = SoftmaxBlock(head, min(rows, count), columns, wide) if count else None

    for first, last in row_blocks(count, rows):
        assert block is not None
        kept_rows = valid[first:last]
        states = (hidden[first:last] if whole else hidden.index_select(0, kept_rows)).to(wide)
        labels = LabelPlaces.of(target.index_select(0, kept_rows), block.spans)
        normaliser, target_logit, logit_sum = block.fill(states, labels, with_sum=label_smoothing > 0)
        values = normaliser - (1 - label_smoothing) * target_logit
        if label_smoothing:
            values -= label_smoothing / head.weight.shape[0] * logit_sum
        loss += values.sum()
        if not any(needs):
            continue
        part = torch.zeros_like(states) if needs_hidden else None
        scaled = states if scale == 1.0 else states * scale
        for start, stop, delta in block.gradients(normaliser, labels, label_smoothing):
            kept = _kept_columns(delta, skipping.epsilon) if skipping.active else None
            if block.slope_tiles is not None:
                delta.mul_(block.slope_of(start, stop))
            small = delta if kept is None else delta.index_select(1, kept)
            if part is not None:
                if kept is None or not skipping.hidden:
                    part.addmm_(delta, head.rows(start, stop))
                elif kept.numel():
                    part.addmm_(small, head.weight[start:stop].index_select(0, kept).to(wide))
            if sums is not None:
                if kept is None or not skipping.classifier:
                    sums.add(start, stop, delta, scaled, first=first == 0)
                elif kept.numel():
                    sums.add(start, stop, small, scaled, kept)
            if grad_bias is not None:
                if kept is None or not (skipping.hidden and skipping.classifier):
                    grad_bias[start:stop].add_(delta.sum(dim=0), alpha=scale)
                elif kept.numel():
                    grad_bias[start:stop].index_add_(0, kept, small.sum(dim=0), alpha=scale)
        if grad_hidden is not None and part is not None:
            part = part.mul_(scale).to(hidden.dtype)
            if whole:
                grad_hidden[first:last] = part
            else:
                grad_hidden.index_copy_(0, kept_rows, part)
    if mean:
        loss = loss * scale if count else torch.full_like(loss, empty)
    nothing = hidden.new_zeros(0)
    return (
        loss,
        nothing if grad_hidden is None else grad_hidden,
        nothing.clone() if sums is None else sums.result(),
        nothing.clone() if grad_bias is None or head.bias is None else grad_bias.to(head.bias.dtype),
    )


class SoftmaxBlock:
    """The softmax of one block of tokens over the whole vocabulary, tile by tile, in one reused buffer."""

    def __init__(self, head: LinearHead, rows: int, columns: int, dtype: torch.dtype) -> None:
        self.head = head
        self.spans = head.spans(columns)
        vocabulary, device = head.weight.shape[0], head.weight.device
        self.buffer = torch.empty(rows * vocabulary, dtype=dtype, device=device)
        self.slope_tiles = None if head.softcap is None else torch.empty_like(self.buffer)
        self.normalisers = torch.empty(0)
        self.rows = rows

    def tile(self, start: int, stop: int) -> Tensor:
        """The probabilities of a span among its own columns, `[tokens, columns]`."""
        return self.buffer[start * self.rows : stop * self.rows].view(self.rows, stop - start)

    def slope_of(self, start: int, stop: int) -> Tensor:
        """The derivative of the soft-cap in a span."""
        assert self.slope_tiles is not None
        return self.slope_tiles[start * self.rows : stop * self.rows].view(self.rows, stop - start)

    def fill(self, states: Tensor, labels: LabelPlaces, *, with_sum: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Make the tiles of a block of tokens.

        Returns:
            For each token the log-sum-exp, the logit of its label (0 when it is nowhere) and the sum of its logits (0
            unless asked for).
        """
        self.rows = len(states)
        target_logit, logit_sum = torch.zeros(2, self.rows, dtype=states.dtype, device=states.device)
        normalisers = []
        for number, (start, stop) in enumerate(self.spans):
            tile = self.tile(start, stop)
            make = partial(self.head.logits, states, self.head.rows(start, stop), start, stop, tile)
            make()
            target_logit += labels.pick(tile, number)
            if with_sum:
                logit_sum += tile.sum(dim=1)
            if self.slope_tiles is not None:
                self.head.slope(tile, out=self.slope_of(start, stop))
            normalisers.append(softmax_tile(tile, make))
        self.normalisers = torch.stack(normalisers)
        return self.normalisers.logsumexp(dim=0), target_logit, logit_sum

    def gradients(
        self, normaliser: Tensor, labels: LabelPlaces, label_smoothing: float
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Every span with softmax − target distribution, which takes the place of the tile."""
        share = torch.full_like(normaliser, label_smoothing - 1)
        mass = (self.normalisers - normaliser).exp_()
        for number, (start, stop) in enumerate(self.spans):
            tile = self.tile(start, stop)
            tile.mul_(mass[number, :, None])
            labels.add(tile, number, share)
            if label_smoothing:
                tile.sub_(label_smoothing / self.head.weight.shape[0])
            yield start, stop, tile


def _kept_columns(delta: Tensor, epsilon: float | None) -> Tensor | None:
    """Columns in which some |softmax − target| reaches ε, or None when all do."""
    assert epsilon is not None
    places = ((delta.amax(dim=0) >= epsilon) | (delta.amin(dim=0) <= -epsilon)).nonzero().squeeze(1)
    return None if len(places) == delta.shape[1] else places
