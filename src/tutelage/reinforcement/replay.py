"""What an agent remembers: the last transitions, drawn from at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tutelage._checks import check_at_least


@dataclass(frozen=True, slots=True)
class Transitions:
    """Steps of an environment.

    Attributes:
        observation: `[batch, …]`.
        action: `[batch]` int64.
        reward: `[batch]`.
        next_observation: `[batch, …]`.
        terminated: `[batch]` bool: the episode ended in a terminal state, whose value is 0. An episode cut by a time
            limit is not terminated: what would have followed still has a value.

    >>> steps = Transitions(torch.zeros(3, 2), torch.zeros(3).long(), *torch.zeros(2, 3, 2), torch.ones(3).bool())
    >>> len(steps), len(steps.take(torch.tensor([0, 2])))
    (3, 2)
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor

    def __len__(self) -> int:
        return len(self.action)

    def take(self, rows: Tensor) -> Transitions:
        """The given rows."""
        return Transitions(*(getattr(self, part.name)[rows] for part in fields(self)))

    def to(self, device: torch.device | str) -> Transitions:
        """The same steps on another device."""
        return Transitions(*(getattr(self, part.name).to(device) for part in fields(self)))


class ReplayBuffer:
    """The last `capacity` transitions; drawing is uniform with replacement.

    Args:
        capacity: How many are kept; the oldest are overwritten.
        observation_shape: Shape of one observation.
        dtype: Type of observations (`torch.uint8` saves memory for images).
        seed: Of drawing.

    Raises:
        ValueError: A capacity below 1.

    >>> buffer = ReplayBuffer(2, (1,))
    >>> for step in range(3):
    ...     buffer.add(torch.tensor([float(step)]), 0, 1.0, torch.tensor([step + 1.0]), terminated=False)
    >>> len(buffer), buffer.all().observation.flatten().tolist()
    (2, [2.0, 1.0])
    """

    def __init__(
        self, capacity: int, observation_shape: Sequence[int], *, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> None:
        check_at_least(capacity, "capacity", 1)
        self.capacity = capacity
        shape = (capacity, *observation_shape)
        self._data = Transitions(
            torch.zeros(shape, dtype=dtype),
            torch.zeros(capacity, dtype=torch.int64),
            torch.zeros(capacity),
            torch.zeros(shape, dtype=dtype),
            torch.zeros(capacity, dtype=torch.bool),
        )
        self._added = 0
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    def add(self, observation: Any, action: int, reward: float, next_observation: Any, *, terminated: bool) -> None:
        """Remember one step; observations are tensors or NumPy arrays."""
        row = self._added % self.capacity
        self._data.observation[row] = torch.as_tensor(observation)
        self._data.action[row] = action
        self._data.reward[row] = reward
        self._data.next_observation[row] = torch.as_tensor(next_observation)
        self._data.terminated[row] = terminated
        self._added += 1

    def sample(self, batch_size: int) -> Transitions:
        """Draw steps.

        Raises:
            ValueError: The buffer is empty, or a size below 1.
        """
        check_at_least(batch_size, "batch_size", 1)
        if not self._added:
            raise ValueError("Expected the replay buffer to hold transitions, but it is empty.")
        return self._data.take(torch.randint(len(self), (batch_size,), generator=self._generator))

    def all(self) -> Transitions:
        """Everything that is remembered, in no particular order."""
        return self._data.take(torch.arange(len(self)))
