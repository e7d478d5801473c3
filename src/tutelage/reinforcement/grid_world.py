"""A grid whose floor is slippery: small enough that the best values and every policy's return are known exactly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_at_least, check_in_range, check_non_negative
from tutelage.reinforcement.replay import Transitions

_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


class GridWorld:
    """Walk to the last cell of a square grid; arriving pays 1 and ends the episode.

    Actions are up, right, down and left. With probability `slip` the step goes in a random one of the four directions
    instead. A step into a wall stays where it is. Observations are one-hot.

    Args:
        size: Cells along a side.
        slip: Probability of slipping, in [0, 1].
        discount: γ, in [0, 1).

    Attributes:
        num_cells: S = size²; cell S − 1 is the goal.
        num_actions: 4.
        transition: float64 `[S, 4, S]`: probability of the next cell.

    Raises:
        ValueError: A size below 2, or probabilities outside their range.

    >>> grid = GridWorld(2, slip=0.0, discount=0.9)
    >>> grid.optimal_values()[0].tolist()  # from the first cell: up and left lose a step
    [0.81, 0.9, 0.9, 0.81]
    """

    num_actions = len(_MOVES)

    def __init__(self, size: int = 8, *, slip: float = 0.2, discount: float = 0.95) -> None:
        check_at_least(size, "size", 2)
        check_in_range(slip, "slip", 0, 1)
        check_in_range(discount, "discount", 0, 1 - 1e-6)
        self.size, self.discount, self.num_cells = size, discount, size**2
        row, column = torch.arange(size**2) // size, torch.arange(size**2) % size
        landed = torch.stack(
            [(row + down).clamp(0, size - 1) * size + (column + right).clamp(0, size - 1) for down, right in _MOVES], 1
        )
        meant = F.one_hot(landed, size**2).double()
        self.transition = (1 - slip) * meant + slip * meant.mean(dim=1, keepdim=True)
        self._goal_share = self.transition[:, :, -1]  # the expected reward of a step, since arriving pays 1

    def optimal_values(self) -> Float[Tensor, "cells actions"]:
        """Q*, by value iteration to 1e-10; what follows the goal is worth 0."""
        found = torch.zeros(self.num_cells, self.num_actions, dtype=torch.float64)
        while True:
            following = found.amax(dim=1)
            following[-1] = 0
            updated = self._goal_share + self.discount * self.transition @ following
            if (updated - found).abs().max() < 1e-10:
                return updated
            found = updated

    def mean_return(self, policy: Int[Tensor, "cells"]) -> float:
        """The exact discounted return of a deterministic policy, averaged over all cells but the goal as the start.

        Args:
            policy: The action in every cell.
        """
        cells = torch.arange(self.num_cells - 1)
        chosen = self.transition[cells, policy[:-1].cpu()]
        system = torch.eye(self.num_cells - 1, dtype=torch.float64) - self.discount * chosen[:, :-1]
        return float(torch.linalg.solve(system, chosen[:, -1]).mean())

    def record(self, count: int, *, reward_noise: float = 0.0, seed: int = 0) -> Transitions:
        """Steps from random cells (the goal excepted) in random directions.

        Args:
            count: How many.
            reward_noise: Standard deviation of normal noise on every reward.
            seed: Of cells, actions, slipping and noise. Cells and actions are the same for every noise.

        Raises:
            ValueError: A count below 1, or a negative deviation.

        >>> steps = GridWorld(3).record(5)
        >>> steps.observation.shape, steps.reward.shape
        (torch.Size([5, 9]), torch.Size([5]))
        """
        check_at_least(count, "count", 1)
        check_non_negative(reward_noise, "reward_noise")
        generator = torch.Generator().manual_seed(seed)
        cell = torch.randint(self.num_cells - 1, (count,), generator=generator)
        action = torch.randint(self.num_actions, (count,), generator=generator)
        landed = torch.multinomial(self.transition[cell, action], 1, generator=generator)[:, 0]
        terminated = landed == self.num_cells - 1
        reward = terminated.float() + reward_noise * torch.randn(count, generator=generator)
        eye = torch.eye(self.num_cells)
        return Transitions(eye[cell], action, reward, eye[landed], terminated)
