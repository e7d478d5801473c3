"""Batches without examples that teach nothing any more, for direct coverage optimisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_at_least, check_in_range, check_same_shape
from tutelage.objectives.coverage import coverage_gradient_factor


class CoverageFilteredSampler:
    """Draws batches in random order; examples whose gradient factor fell below a threshold are replaced by others.

    DCO gives an answer with Np ≫ 1 hardly any gradient, so that it would only shrink the effective batch. Going through
    the sampler is one epoch: as many batches as without a filter (⌈size / batch_size⌉), each as full as the examples
    left allow and without repetition inside a batch. Since dropped examples are not seen again, `reset` from time to
    time: what was learned can be forgotten. When no example is left the epoch ends early.

    Args:
        size: Number of examples, which are the rows 0 … size − 1.
        batch_size: Rows of a batch.
        num_samples: N of the loss, real and at least 1.
        threshold: Examples with F < threshold are left out, in [0, 1]. 0 keeps all. The method's own value is not
            published; 0.01 is ours (p ≈ 6.4/N).
        seed: Of the order.

    >>> sampler = CoverageFilteredSampler(4, batch_size=2, num_samples=16)
    >>> sampler.update(torch.tensor([0, 3]), torch.tensor([-0.01, -20.0]))
    >>> sampler.kept.tolist()
    [False, True, True, True]
    >>> [0 in batch.tolist() for batch in sampler]
    [False, False]
    """

    def __init__(
        self, size: int, *, batch_size: int, num_samples: float, threshold: float = 0.01, seed: int = 0
    ) -> None:
        check_at_least(size, "size", 1)
        check_at_least(batch_size, "batch_size", 1)
        check_in_range(threshold, "threshold", 0, 1)
        coverage_gradient_factor(torch.zeros(1), num_samples=num_samples)  # checks N
        self.size = size
        self.batch_size = batch_size
        self.num_samples = num_samples
        self.threshold = threshold
        self.factor = torch.ones(size, dtype=torch.float64)
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def kept(self) -> Tensor:
        """Which examples still take part: bool `[size]`."""
        return self.factor >= self.threshold

    def update(self, rows: Int[Tensor, "batch"], log_prob: Float[Tensor, "batch"]) -> None:
        """Note what the model now says about some examples (the ℓ of their loss).

        Raises:
            ValueError: Shapes that differ, or a log-probability above 1e-6 or NaN.
        """
        check_same_shape(rows, log_prob, "rows", "log_prob")
        factor = coverage_gradient_factor(log_prob.detach().cpu(), num_samples=self.num_samples)
        self.factor[rows.cpu().long()] = factor.double()

    def reset(self) -> None:
        """Let every example take part again, until it is updated."""
        self.factor.fill_(1.0)

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        """One epoch of rows, int64 `[at most batch_size]` each; an `update` between two batches counts at once."""
        waiting = self._order()
        for _ in range(len(self)):
            waiting = waiting[self.kept[waiting]]
            if len(waiting) < self.batch_size:  # go on with a new round, in which those that wait come first
                later = self._order()
                waiting = torch.cat([waiting, later[~torch.isin(later, waiting)]])
            if not len(waiting):
                return
            yield waiting[: self.batch_size]
            waiting = waiting[self.batch_size :]

    def state_dict(self) -> dict[str, Any]:
        """What continues the run after the present epoch: factors and the generator's state."""
        return {"factor": self.factor.clone(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.factor.copy_(state["factor"])
        self._generator.set_state(state["generator"])

    def _order(self) -> Tensor:
        rows = self.kept.nonzero()[:, 0]
        return rows[torch.randperm(len(rows), generator=self._generator)]
