"""Balances between teachers and between losses, brought up to date once a step; no gradient goes through them.

Source: Zhao et al., "Mitigating the Accuracy-Robustness Trade-off via Multi-Teacher Adversarial Distillation", TPAMI
2024, arXiv 2306.16170, sections 3.3 (entropy) and 3.4 (normalised losses).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_non_negative, check_positive, check_same_length
from tutelage.objectives.divergences import predictive_entropy


class EntropyBalance(nn.Module):
    """Temperatures of several teachers, moved until all of them are equally unsure.

    An update takes the mean entropy H_i of each teacher at its temperature. A teacher that is less sure than the others
    (than their mean, where there are more than one) gets sharper by `rate`, one that is surer gets softer:
    τ_i ← clip(τ_i − rate · sign(H_i − H_others)). It is the sign of the descent direction of the squared gap, as
    entropy grows with the temperature. The step's own loss uses the temperatures of before.

    Args:
        num_teachers: How many there are.
        rate: How far a temperature moves in a step; may be set at any time.
        bounds: The least and greatest temperature.
        initial: Where all of them start.

    Raises:
        ValueError: Fewer than two teachers, a negative rate, or bounds that are not positive, ascending and around
            `initial`.

    >>> balance = EntropyBalance(rate=0.1)
    >>> sharp, soft = torch.tensor([[4.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    >>> balance.update([sharp, soft])
    (1.1, 1.0)
    """

    temperature: Tensor

    def __init__(
        self,
        num_teachers: int = 2,
        *,
        rate: float = 0.001,
        bounds: tuple[float, float] = (1.0, 10.0),
        initial: float = 1.0,
    ) -> None:
        super().__init__()
        check_at_least(num_teachers, "num_teachers", 2)
        check_non_negative(rate, "rate")
        low, high = bounds
        check_positive(low, "bounds")
        if not low <= initial <= high:
            raise ValueError(f"Expected argument `initial` to be within `bounds` {tuple(bounds)}, but got {initial}.")
        self.rate, self.bounds = rate, (low, high)
        self.register_buffer("temperature", torch.full((num_teachers,), initial, dtype=torch.float64))
        self.entropies: tuple[float, ...] = ()
        """Of the teachers at the last update, for a log."""

    @property
    def temperatures(self) -> tuple[float, ...]:
        """One for each teacher, in the order of the logits."""
        return tuple(self.temperature.tolist())

    @torch.no_grad()
    def update(self, teacher_logits: Sequence[Float[Tensor, "batch classes"]]) -> tuple[float, ...]:
        """Move the temperatures by what the teachers say about one batch, and give them.

        Args:
            teacher_logits: `[batch, classes]` of each teacher.

        Raises:
            ValueError: Another number of teachers, or fewer than two classes, where entropy is always 0.
        """
        check_same_length(teacher_logits, self.temperature, "teacher_logits", "temperatures")
        for logits in teacher_logits:
            check_at_least(logits.shape[-1], "classes", 2)
        entropies = torch.stack(
            [
                predictive_entropy(logits, temperature=temperature, reduction="mean").double()
                for logits, temperature in zip(teacher_logits, self.temperatures, strict=True)
            ]
        ).to(self.temperature.device)
        entropies = mean_over_processes(entropies)
        others = (entropies.sum() - entropies) / (len(entropies) - 1)
        moved = self.temperature - self.rate * torch.sign(entropies - others)
        self.temperature.copy_(moved.round(decimals=12).clamp_(*self.bounds))
        self.entropies = tuple(entropies.tolist())
        return self.temperatures


class NormalizedLossBalance(nn.Module):
    """Weights of several losses, so that none falls faster than the others.

    The first update keeps the losses as units. From then on ℓ_i is a loss in its unit, its share is
    ℓ_i^exponent / Σ_j ℓ_j^exponent, and its weight moves towards the share: w_i ← w_i + rate · (share_i − w_i), at
    least 0 and with sum 1. A loss that has fallen less counts more. The step's loss uses the weights that `update`
    returns.

    Args:
        num_losses: How many there are.
        rate: How far a weight moves in a step, of the way to its share; may be set at any time.
        exponent: How strongly shares follow the losses.

    Raises:
        ValueError: Fewer than two losses, or a rate outside [0, 1].

    >>> balance = NormalizedLossBalance(rate=0.1)
    >>> balance.update([2.0, 2.0])
    (0.5, 0.5)
    >>> [round(weight, 4) for weight in balance.update([1.0, 2.0])]
    [0.4833, 0.5167]
    """

    weight: Tensor
    initial: Tensor

    def __init__(self, num_losses: int = 2, *, rate: float = 0.025, exponent: float = 1.0) -> None:
        super().__init__()
        check_at_least(num_losses, "num_losses", 2)
        if not 0 <= rate <= 1:
            raise ValueError(f"Expected argument `rate` to be in [0, 1], but got {rate}.")
        check_non_negative(exponent, "exponent")
        self.rate, self.exponent = rate, exponent
        self.register_buffer("weight", torch.full((num_losses,), 1 / num_losses, dtype=torch.float64))
        self.register_buffer("initial", torch.zeros(num_losses, dtype=torch.float64))  # 0: not seen yet
        self.relative: tuple[float, ...] = ()
        """The losses of the last update in their units, for a log."""

    @property
    def weights(self) -> tuple[float, ...]:
        """One for each loss; their sum is 1."""
        return tuple(self.weight.tolist())

    @torch.no_grad()
    def update(self, losses: Sequence[float]) -> tuple[float, ...]:
        """Move the weights by the losses of one step, and give them.

        Raises:
            ValueError: Another number of losses, one that is negative or not finite, or one that starts at 0.
        """
        check_same_length(losses, self.weight, "losses", "weights")
        values = torch.as_tensor([float(loss) for loss in losses], dtype=torch.float64, device=self.weight.device)
        values = mean_over_processes(values)
        for value in values.tolist():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"Expected argument `losses` to be finite and at least 0, but got {value}.")
        if not self.initial.any():
            if not values.all():
                raise ValueError("Expected the first losses to be above 0, since they become units, but one is 0.")
            self.initial.copy_(values)
        relative = values / self.initial
        shares = relative**self.exponent
        total = shares.sum()
        shares = shares / total if total > 0 else torch.full_like(shares, 1 / len(shares))
        moved = (self.weight + self.rate * (shares - self.weight)).clamp_(min=0)
        self.weight.copy_(moved / moved.sum())
        self.relative = tuple(relative.tolist())
        return self.weights


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of every process's values, so that all of them move alike; the values themselves in a single one."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        values = values.clone()
        distributed.all_reduce(values)
        values /= distributed.get_world_size()
    return values
