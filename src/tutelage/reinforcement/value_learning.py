"""Q-learning with the value loss as a choice: squared error, Huber, two-hot, HL-Gauss or C51 (arXiv 2403.03950)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_in_range, check_non_negative, check_option
from tutelage.models import mlp
from tutelage.objectives import (
    AtomSupport,
    CategoricalValueHead,
    HistogramSupport,
    c51_loss,
    conservative_q_regularizer,
    hl_gauss_loss,
    td_target,
    two_hot_loss,
)
from tutelage.reinforcement.replay import Transitions

ValueLoss = Literal["mse", "huber", "two_hot", "hl_gauss", "c51"]
VALUE_LOSSES: tuple[ValueLoss, ...] = ("mse", "huber", "two_hot", "hl_gauss", "c51")
Body = Callable[[Sequence[int]], nn.Module]
"""From the shape of one observation to a network that maps `[batch, …]` to `[batch, width]`."""


class DQNAgent(nn.Module):
    """Q-values of discrete actions, learned by bootstrapping on a slower copy of the network.

    Everything but the output layer and the loss is the same for every value loss. All but C51 predict a scalar target
    r + γ (1 − done) Q(s', a'), in which the next value is read off as a mean before it becomes a histogram; C51 learns
    the distribution of returns.

    Args:
        observation_shape: Shape of one observation.
        num_actions: A.
        value_loss: `"mse"`, `"huber"`, `"two_hot"`, `"hl_gauss"` or `"c51"`.
        body: Network below the output layer; by default a multi-layer perceptron with two hidden layers of 128.
        value_range: (v_min, v_max) of histograms; values outside are clipped. For HL-Gauss take it 3σ wider than what
            returns reach.
        num_bins: Bins or atoms.
        sigma_to_bin_ratio: Width of HL-Gauss's histograms, in bins.
        discount: γ, in [0, 1].
        double: The online network chooses the next action, the copy says what it is worth.
        conservative_weight: Weight of CQL's term, for records of acting.
        learning_rate: Adam's.

    Observations may be of any type: the networks read them in their own.

    Raises:
        ValueError: An unknown loss, sizes below 1, γ outside [0, 1], or a negative weight.

    >>> agent = DQNAgent((4,), 2, value_loss="hl_gauss", value_range=(0.0, 100.0))
    >>> agent.values(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        num_actions: int,
        *,
        value_loss: ValueLoss = "mse",
        body: Body | None = None,
        value_range: tuple[float, float] = (-10.0, 10.0),
        num_bins: int = 51,
        sigma_to_bin_ratio: float = 0.75,
        discount: float = 0.99,
        double: bool = True,
        conservative_weight: float = 0.0,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        check_option(value_loss, "value_loss", VALUE_LOSSES)
        check_at_least(num_actions, "num_actions", 1)
        check_in_range(discount, "discount", 0, 1)
        check_non_negative(conservative_weight, "conservative_weight")
        self.value_loss = value_loss
        self.discount = discount
        self.chooses_online = double
        self.conservative_weight = conservative_weight
        self.sigma_to_bin_ratio = sigma_to_bin_ratio
        self.bins = HistogramSupport(*value_range, num_bins)
        self.atoms = AtomSupport(*value_range, num_bins)
        trunk = (body or _perceptron)(observation_shape)
        with torch.no_grad():
            width = trunk(torch.zeros(1, *observation_shape)).shape[-1]
        head: nn.Module
        if value_loss in ("mse", "huber"):
            head = nn.Linear(width, num_actions)
        else:
            head = CategoricalValueHead(width, num_actions, self.bins if value_loss == "hl_gauss" else self.atoms)
        self.online = nn.Sequential(trunk, head)
        self.target = deepcopy(self.online).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.online.parameters(), lr=learning_rate)
        self._clipped, self._targets = torch.zeros(()), 0

    @property
    def clipped_share(self) -> float:
        """The share of the scalar targets so far that the range of the histograms cut; take a wider one if it is much.

        0 for squared error and Huber, which cut nothing, and for C51, which has no scalar targets.
        """
        return float(self._clipped) / max(1, self._targets)

    def values(self, observation: Shaped[Tensor, "batch *shape"]) -> Float[Tensor, "batch actions"]:
        """Q of every action, by the online network."""
        return self._values(self.online(self._read(observation)))

    @torch.no_grad()
    def act(self, observation: Tensor) -> int:
        """The greedy action for one observation."""
        return int(self.values(observation[None]).argmax())

    def loss(self, steps: Transitions) -> Tensor:
        """The value loss of some transitions, and CQL's term when it has a weight; no gradient reaches the copy."""
        said, following = self.online(self._read(steps.observation)), self._read(steps.next_observation)
        rows = torch.arange(len(steps), device=said.device)
        chosen = said[rows, steps.action]  # [batch], or [batch, bins]
        with torch.no_grad():
            copied = self.target(following)
            guide = self.online(following) if self.chooses_online else copied
            best = self._values(guide).argmax(dim=1)
            discount = self.discount * (~steps.terminated).to(steps.reward.dtype)
        if self.value_loss == "c51":
            loss = c51_loss(chosen, copied[rows, best].softmax(dim=-1), steps.reward, discount, self.atoms)
        else:
            target = td_target(steps.reward, discount, self._values(copied)[rows, best])
            loss = self._scalar_loss(chosen, target)
        if self.conservative_weight:
            loss = loss + self.conservative_weight * conservative_q_regularizer(self._values(said), steps.action)
        return loss

    def update(self, steps: Transitions) -> float:
        """One step of Adam on some transitions; gives their loss."""
        loss = self.loss(steps)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def refresh_target(self) -> None:
        """Let the copy be what the online network is now."""
        self.target.load_state_dict(self.online.state_dict())

    def _read(self, observation: Tensor) -> Tensor:
        return observation.to(next(self.online.parameters()).dtype)

    def _values(self, said: Tensor) -> Tensor:
        head = self.online[-1]
        return head.value(said) if isinstance(head, CategoricalValueHead) else said

    def _scalar_loss(self, chosen: Tensor, target: Tensor) -> Tensor:
        if self.value_loss == "mse":
            return F.mse_loss(chosen, target)
        if self.value_loss == "huber":
            return F.smooth_l1_loss(chosen, target)
        outside = (target < self.bins.v_min) | (target > self.bins.v_max)
        self._clipped, self._targets = outside.sum() + self._clipped.to(outside.device), self._targets + len(target)
        if self.value_loss == "two_hot":
            return two_hot_loss(chosen, target, self.atoms)
        return hl_gauss_loss(chosen, target, self.bins, sigma_to_bin_ratio=self.sigma_to_bin_ratio)


def fitted_q_iteration(
    agent: DQNAgent,
    steps: Transitions,
    *,
    iterations: int = 60,
    updates_per_iteration: int = 100,
    batch_size: int = 256,
    seed: int = 0,
) -> list[float]:
    """Learn from records of acting alone: fit the bootstrapped targets of a copy, refresh the copy, and again.

    Args:
        agent: What learns, in place.
        steps: The records.
        iterations: How often the copy is refreshed.
        updates_per_iteration: Steps of Adam between two refreshes.
        batch_size: Transitions of a step, drawn with replacement.
        seed: Of drawing.

    Returns:
        The mean loss of every iteration.

    Raises:
        ValueError: A count below 1, or no records.

    Source: Ernst et al., "Tree-Based Batch Mode Reinforcement Learning", JMLR 2005, with a network as the regressor.

    >>> one = torch.ones(8, 1)
    >>> ending = Transitions(one, torch.zeros(8).long(), torch.ones(8), one, torch.ones(8).bool())
    >>> losses = fitted_q_iteration(DQNAgent((1,), 2), ending, iterations=2, updates_per_iteration=20)
    >>> losses[-1] < losses[0]
    True
    """
    check_at_least(iterations, "iterations", 1)
    check_at_least(updates_per_iteration, "updates_per_iteration", 1)
    check_at_least(batch_size, "batch_size", 1)
    check_at_least(len(steps), "steps", 1)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(iterations):
        agent.refresh_target()
        total = 0.0
        for _ in range(updates_per_iteration):
            total += agent.update(steps.take(torch.randint(len(steps), (batch_size,), generator=generator)))
        losses.append(total / updates_per_iteration)
    return losses


def _perceptron(observation_shape: Sequence[int]) -> nn.Module:
    return nn.Sequential(mlp(observation_shape, 128, hidden=(128,)), nn.ReLU())
