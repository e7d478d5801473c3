"""Probabilities that are muted where they are high, g = (1 − p)^α p, and sums of them over a batch or over classes.

From logits everything stays exact where 1 − p rounds to 0: of a row only the largest probability can be near 1, and for
it log(1 − p) is the log-sum-exp of the other classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.objectives.precision import at_least_float32

_BLOCK = 2**17  # numbers: 512 KiB, small enough for caches, and large beside what it costs to start an operation
_BLOCK_ON_ACCELERATOR = 2**26


def muted_binary(input: Tensor, alpha: float, *, from_logits: bool) -> Tensor:
    """(1 − p)^α p, item by item, for logits of a positive class or its probabilities.

    >>> muted_binary(torch.zeros(1), 1.0, from_logits=True)
    tensor([0.2500])
    """
    value = at_least_float32(input)
    if not from_logits:
        return _muted(value, alpha)
    if alpha == 0:
        return value.sigmoid()
    return (alpha * F.logsigmoid(-value) + F.logsigmoid(value)).exp()


@dataclass(frozen=True)
class Transform:
    """What is summed: x = g or g²; with `smooth`, scale · x / (scale · x + smooth), the loss of a class not labelled.

    >>> Transform(square=True, smooth=1.0).value(torch.tensor(1.0))
    tensor(0.5000)
    """

    square: bool
    scale: float = 1.0
    smooth: float | None = None

    def value(self, muted: Tensor) -> Tensor:
        """The summand."""
        x = muted.square() if self.square else muted
        return x if self.smooth is None else self.scale * x / (self.scale * x + self.smooth)

    def slope(self, muted: Tensor) -> Tensor:
        """Its derivative with respect to g."""
        slope = 2 * muted if self.square else torch.ones_like(muted)
        if self.smooth is None:
            return slope
        x = muted.square() if self.square else muted
        return slope.mul_(self.scale * self.smooth).div_((self.scale * x + self.smooth).square_())


def muted_sums(
    input: Tensor,
    target: Tensor,
    alpha: float,
    *,
    from_logits: bool,
    transform: Transform,
    dim: int,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums of transformed g over the items (`dim=0`) or classes (`dim=1`) of a matrix, and the label's own g.

    Args:
        input: `[items, classes]` logits or probabilities.
        target: `[items]` int64 classes.
        alpha: α.
        from_logits: Whether a softmax is still to be taken.
        transform: What is summed.
        dim: 0 or 1.
        keep: `[items, classes]`: entries where it is False count as g = 0; it is True at every label.

    Returns:
        `[classes]` or `[items]`, and `[items]`, in float32 or wider. The gradient reaches the input.

    >>> logits, identity = torch.zeros(2, 2), Transform(square=False)
    >>> muted_sums(logits, torch.tensor([0, 1]), 0.0, from_logits=True, transform=identity, dim=0)
    (tensor([1., 1.]), tensor([0.5000, 0.5000]))
    """
    if from_logits:
        sums, own = _MutedSums.apply(input, target, alpha, transform, dim, keep)  # type: ignore[no-untyped-call]
        return sums, own
    return _plain_sums(_muted(at_least_float32(input), alpha), target, transform, dim, keep)


def _muted(probs: Tensor, alpha: float) -> Tensor:
    """From probabilities. At p = 1 the factor's slope is infinite; there it is taken as 0."""
    if alpha == 0:
        return probs
    rest = 1 - probs
    some = rest > 0
    return torch.where(some, torch.where(some, rest, 1.0).pow(alpha), 0.0) * probs


def _muted_softmax(logits: Tensor, alpha: float) -> Tensor:
    """From logits, by operations that autograd knows."""
    log_p = at_least_float32(logits).log_softmax(dim=1)
    if alpha == 0:
        return log_p.exp()
    top = log_p.argmax(dim=1, keepdim=True)
    log_rest = log_p.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    others = torch.log1p(-log_p.exp().scatter(1, top, 0.0))
    return (alpha * others.scatter(1, top, log_rest) + log_p).exp()


def _plain_sums(
    muted: Tensor, target: Tensor, transform: Transform, dim: int, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    own = muted.gather(1, target[:, None])[:, 0]
    if keep is not None:
        muted = muted * keep
    return transform.value(muted).sum(dim=dim), own


@dataclass(frozen=True)
class _Rows:
    """g of some rows, and what its gradient needs (for α = 0 nothing more).

    With m the largest class, p_c = π_c (1 − p_m) for the others.
    """

    shares: Tensor  # π: softmax over the classes other than m; 0 at m
    top: Tensor  # m, [rows, 1]
    top_p: Tensor  # p_m
    rest: Tensor  # 1 − p_m
    muted: Tensor  # g

    @classmethod
    def of(cls, logits: Tensor, alpha: float) -> _Rows:
        value = at_least_float32(logits)
        if alpha == 0:
            nothing = value[:, :0]
            return cls(nothing, nothing, nothing, nothing, value.softmax(dim=1))
        highest, top = value.max(dim=1, keepdim=True)
        shares = value.scatter(1, top, -torch.inf)
        second = shares.amax(dim=1, keepdim=True)
        shares = (shares - second).exp_()
        total = shares.sum(dim=1, keepdim=True)
        shares /= total
        gap = highest - second - total.log()  # log p_m − log(1 − p_m)
        top_p, rest = gap.sigmoid(), (-gap).sigmoid()
        muted = shares * rest
        muted *= (1 - muted).log_().mul_(alpha).exp_()
        top_g = (alpha * F.logsigmoid(-gap)).exp() * top_p
        return cls(shares, top, top_p, rest, muted.scatter_(1, top, top_g))

    def to_logits(self, slope: Tensor, alpha: float) -> Tensor:
        """The gradient of the logits from that of g (which is overwritten)."""
        # With w = ∂L/∂log g: ∂log g_j/∂z_c = (1 − α p_j / (1 − p_j)) (δ_jc − p_c); for m without 1 / (1 − p).
        w = slope.mul_(self.muted)
        if alpha == 0:
            return w.addcmul_(self.muted, w.sum(dim=1, keepdim=True), value=-1)
        own = w.gather(1, self.top)
        w.scatter_(1, self.top, 0.0)
        p = self.shares * self.rest
        w -= w * (alpha * p / (1 - p))
        through = w.sum(dim=1, keepdim=True)
        pull = self.rest * (through + own) - alpha * self.top_p * own
        w -= self.shares * pull
        return w.scatter_(1, self.top, own * (self.rest - alpha * self.top_p) - self.top_p * through)


class _MutedSums(torch.autograd.Function):
    """Sums and their gradient, block by block, so that no operation has to wait for memory."""

    @staticmethod
    def forward(
        context: Any,
        logits: Tensor,
        target: Tensor,
        alpha: float,
        transform: Transform,
        dim: int,
        keep: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        own = logits.new_empty(len(logits), dtype=at_least_float32(logits[:0]).dtype)
        sums = own.new_zeros(logits.shape[1]) if dim == 0 else torch.empty_like(own)
        for rows in _blocks(logits):
            part, own[rows] = _plain_sums(
                _Rows.of(logits[rows], alpha).muted, target[rows], transform, dim, None if keep is None else keep[rows]
            )
            if dim == 0:
                sums += part
            else:
                sums[rows] = part
        context.save_for_backward(logits, target, keep)
        context.settings = (alpha, transform, dim)
        return sums, own

    @staticmethod
    def backward(context: Any, outer_sums: Tensor, outer_own: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        logits, target, keep = context.saved_tensors
        alpha, transform, dim = context.settings
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for
            results = _plain_sums(_muted_softmax(logits, alpha), target, transform, dim, keep)
            (gradient,) = torch.autograd.grad(results, logits, (outer_sums, outer_own), create_graph=True)
            return gradient, None, None, None, None, None
        gradient = torch.empty_like(logits)
        for rows in _blocks(logits):
            part = _Rows.of(logits[rows], alpha)
            slope = transform.slope(part.muted)
            slope *= outer_sums if dim == 0 else outer_sums[rows, None]
            if keep is not None:
                slope *= keep[rows]
            slope.scatter_add_(1, target[rows, None], outer_own[rows, None])
            gradient[rows] = part.to_logits(slope, alpha)
        return gradient, None, None, None, None, None


def _blocks(logits: Tensor) -> Iterator[slice]:
    size = max(1, (_BLOCK if logits.device.type == "cpu" else _BLOCK_ON_ACCELERATOR) // max(1, logits.shape[1]))
    return (slice(start, start + size) for start in range(0, len(logits), size))
