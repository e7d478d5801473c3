"""A vocabulary that is spread over processes: each makes the logits of its own rows of the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tutelage._checks import check_at_least
from tutelage.kernels.operators import (
    NOWHERE,
    forbid_second_derivative,
    row_gradients_operator,
    row_values_operator,
)


@dataclass(frozen=True)
class VocabParallel:
    """Which rows of the head are on this rank.

    Attributes:
        start: First token of this rank.
        stop: The token after its last.
        group: The processes that share the vocabulary; None is all of them.
        reduce_hidden_grad: Whether the gradient of the hidden states is summed over the ranks (in float32). Without it
            each rank has only the part that comes from its own tokens.

    >>> VocabParallel(0, 5).stop
    5
    """

    start: int
    stop: int
    group: Any = None
    reduce_hidden_grad: bool = True

    @classmethod
    def from_vocab(cls, size: int, group: Any = None) -> VocabParallel:
        """The shard of this rank when `size` tokens are dealt out evenly, the remainder to the first ranks.

        Raises:
            ValueError: There are fewer tokens than ranks.
        """
        ranks, rank = dist.get_world_size(group), dist.get_rank(group)
        check_at_least(size, "size", ranks)
        share, remainder = divmod(size, ranks)
        start = rank * share + min(rank, remainder)
        return cls(start, start + share + (rank < remainder), group)

    def check_shard(self, rows: int) -> None:
        """Raise `ValueError` unless the shard has that many rows."""
        if self.stop - self.start != rows:
            raise ValueError(
                f"Expected argument `weight` to have the {self.stop - self.start} rows of the shard "
                f"[{self.start}, {self.stop}), but it has {rows}."
            )

    def vocabulary(self, device: torch.device) -> int:
        """The number of tokens on all ranks together; asked on the device that the group talks on."""
        size = torch.tensor(self.stop, device=device)
        dist.all_reduce(size, dist.ReduceOp.MAX, self.group)
        return int(size)


class _ParallelRowValues(torch.autograd.Function):
    """`row_values` of the whole vocabulary from those of every shard."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        hidden, weight, bias, target, shard, softcap, with_sum, sorts, epsilon, filtered, tile = arguments
        target = torch.where(target == NOWHERE, NOWHERE, target - shard.start)
        lse, label, total = row_values_operator(
            hidden, weight, bias, target, softcap, with_sum, sorts, epsilon, filtered, tile, "torch"
        )
        largest = lse.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX, shard.group)
        share = (lse - largest).exp_()
        summed = torch.cat([share, label, total])
        dist.all_reduce(summed, dist.ReduceOp.SUM, shard.group)
        share, label, total = torch.split(summed, [len(lse), len(lse), len(total)])
        lse = torch.where(target == NOWHERE, 0, largest + share.log())
        ctx.save_for_backward(hidden, weight, bias, target, lse)
        ctx.shard, ctx.softcap, ctx.with_sum = shard, softcap, with_sum
        ctx.options = (sorts, epsilon, filtered, tile, "torch")
        return lse, label.clone(), total.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        forbid_second_derivative()
        hidden, weight, bias, target, lse = ctx.saved_tensors
        by_lse, by_label, by_sum = upstream
        needs = list(ctx.needs_input_grad[:3])
        found = row_gradients_operator(
            hidden,
            weight,
            bias,
            target,
            lse,
            by_lse,
            by_label,
            by_sum if ctx.with_sum else None,
            ctx.softcap,
            needs,
            *ctx.options,
        )
        gradients = [value if needed else None for value, needed in zip(found, needs, strict=True)]
        if gradients[0] is not None and ctx.shard.reduce_hidden_grad:
            wide = gradients[0].to(torch.promote_types(gradients[0].dtype, torch.float32))
            dist.all_reduce(wide, dist.ReduceOp.SUM, ctx.shard.group)
            gradients[0] = wide.to(gradients[0].dtype)
        return *gradients, *[None] * 8


def parallel_row_values(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp, label logit and sum of logits over the vocabulary of all ranks; the same on each of them.

    Args:
        arguments: Hidden states, local weight and bias, targets in the whole vocabulary, the shard, soft-cap, whether
            sums are wanted, whether columns are sorted, and the gradient filter and tile of `row_gradients`.
    """
    values: tuple[Tensor, Tensor, Tensor] = _ParallelRowValues.apply(*arguments)  # type: ignore[no-untyped-call]
    return values
