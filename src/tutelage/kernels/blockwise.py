"""Log-sum-exp and label logit of every token, and their gradients, from single tiles of logits that are made twice.

The vocabulary is the outer loop, so a stretch of the head stays in the cache while all tokens pass by.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from tutelage.kernels.blocks import row_blocks
from tutelage.kernels.fused import Filter
from tutelage.kernels.head import LabelPlaces, LinearHead, compute_dtype
from tutelage.kernels.tile_softmax import softmax_tile


def row_values(
    hidden: Tensor,
    head: LinearHead,
    target: Tensor,
    *,
    rows: int,
    columns: int,
    with_sum: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """What a loss needs to know of each token.

    Args:
        hidden: `[tokens, width]`.
        head: The output layer.
        target: `[tokens]`, the label; one outside the vocabulary is nowhere.
        rows: Tokens of a tile.
        columns: Vocabulary entries of a tile.
        with_sum: Also sum up the logits of every token.

    Returns:
        `[tokens]` log-sum-exp, `[tokens]` logit of the label (0 when it is nowhere), and `[tokens]` sums of logits
        (empty when not asked for).
    """
    wide, device = compute_dtype(hidden.dtype), hidden.device
    tokens = len(hidden)
    normaliser = torch.full((tokens,), -torch.inf, dtype=wide, device=device)
    target_logit = torch.zeros_like(normaliser)
    logit_sum = torch.zeros(tokens if with_sum else 0, dtype=wide, device=device)
    buffer = torch.empty(rows * columns, dtype=wide, device=device)
    spans = head.spans(columns)
    labels = LabelPlaces.of(target, spans)
    for number, (start, stop) in enumerate(spans):
        weights = head.rows(start, stop)
        for first, last in row_blocks(tokens, rows):
            tile = buffer[: (last - first) * (stop - start)].view(last - first, stop - start)
            make = partial(head.logits, hidden[first:last].to(wide), weights, start, stop, tile)
            make()
            target_logit[first:last] += labels.part(first, last).pick(tile, number)
            if with_sum:
                logit_sum[first:last] += tile.sum(dim=1)
            normaliser[first:last] = torch.logaddexp(normaliser[first:last], softmax_tile(tile, make))
    return normaliser, target_logit, logit_sum


def row_gradients(
    hidden: Tensor,
    head: LinearHead,
    target: Tensor,
    normaliser: Tensor,
    upstream: tuple[Tensor, Tensor, Tensor | None],
    *,
    needs: tuple[bool, bool, bool],
    skipping: Filter,
    rows: int,
    columns: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the values of `row_values`: ∂/∂z = softmax · g_lse + onehot · g_label + g_sum.

    Args:
        hidden: `[tokens, width]`.
        head: The output layer; its `order` says which columns share a tile.
        target: `[tokens]`: the place of the label in that order.
        normaliser: `[tokens]`, the log-sum-exp (over all ranks, where the vocabulary is spread).
        upstream: The gradients `[tokens]` with respect to log-sum-exp, label logit and (or None) sum of logits.
        needs: Whether the gradients of hidden states, weight and bias are wanted.
        skipping: The gradient filter.
        rows: Tokens of a tile.
        columns: Vocabulary entries of a tile.

    Returns:
        Three gradients in the dtypes of their tensors; one that is not wanted is empty.
    """
    wide, device = compute_dtype(hidden.dtype), hidden.device
    (tokens, width), vocabulary = hidden.shape, head.weight.shape[0]
    needs_hidden, needs_weight, needs_bias = needs
    by_lse, by_label, by_sum = upstream
    grad_hidden = torch.zeros((tokens, width) if needs_hidden else 0, dtype=wide, device=device)
    grad_weight = hidden.new_zeros((vocabulary, width) if needs_weight else 0, dtype=head.weight.dtype)
    grad_bias = torch.zeros(vocabulary if needs_bias else 0, dtype=wide, device=device)
    buffer = torch.empty(rows * columns, dtype=wide, device=device)
    spans = head.spans(columns)
    labels = LabelPlaces.of(target, spans)
    for number, (start, stop) in enumerate(spans):
        weights = head.rows(start, stop)
        direct = grad_weight.dtype == wide and head.order is None
        weight_part = grad_weight[start:stop] if needs_weight and direct else torch.zeros_like(weights)
        bias_part = torch.zeros(stop - start, dtype=wide, device=device)
        for first, last in row_blocks(tokens, rows):
            states = hidden[first:last].to(wide)
            tile = buffer[: (last - first) * (stop - start)].view(last - first, stop - start)
            head.logits(states, weights, start, stop, tile)
            slope = None if head.softcap is None else head.slope(tile)
            tile.sub_(normaliser[first:last, None]).exp_()
            places = labels.part(first, last)
            skipped = skipping.active and _negligible(tile, places, number, skipping.epsilon)
            if skipped and skipping.hidden and skipping.classifier:
                continue
            tile.mul_(by_lse[first:last, None])
            places.add(tile, number, by_label[first:last])
            if by_sum is not None:
                tile.add_(by_sum[first:last, None])
            if slope is not None:
                tile.mul_(slope)
            if needs_hidden and not (skipped and skipping.hidden):
                grad_hidden[first:last].addmm_(tile, weights)
            if needs_weight and not (skipped and skipping.classifier):
                weight_part.addmm_(tile.t(), states)
            if needs_bias:
                bias_part += tile.sum(dim=0)
        if needs_weight and not direct:
            _put(grad_weight, head.order, start, stop, weight_part.to(grad_weight.dtype))
        if needs_bias:
            _put(grad_bias, head.order, start, stop, bias_part)
    bias_dtype = wide if head.bias is None else head.bias.dtype
    return grad_hidden.to(hidden.dtype), grad_weight, grad_bias.to(bias_dtype)


def order_by_mean_logit(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Vocabulary entries in ascending order of their mean logit (before any soft-cap), ties by number.

    The mean of products is the product with the mean, so this costs no pass over the logits.
    """
    wide = compute_dtype(hidden.dtype)
    mean = torch.mv(weight.to(wide), hidden.to(wide).mean(dim=0))
    return (mean if bias is None else mean + bias).argsort(stable=True)


def _negligible(softmax: Tensor, labels: LabelPlaces, number: int, epsilon: float | None) -> bool:
    """Whether every |softmax − onehot| of a tile is below ε (the one question that a device must answer)."""
    assert epsilon is not None
    at_label = labels.pick(softmax, number)
    labels.add(softmax, number, 1 - 2 * at_label)  # p becomes 1 − p
    answer = bool(softmax.amax() < epsilon)
    column = labels.column[:, number, None]
    inside = labels.inside[:, number, None]
    softmax.scatter_(1, column, torch.where(inside, at_label[:, None], softmax.gather(1, column)))
    return answer


def _put(gradient: Tensor, order: Tensor | None, start: int, stop: int, values: Tensor) -> None:
    if order is None:
        gradient[start:stop] = values
    else:
        gradient.index_copy_(0, order[start:stop], values)
