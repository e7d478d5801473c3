"""Deep Q-learning in an environment that is acted in."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from tutelage._checks import check_at_least, check_in_range
from tutelage.reinforcement.replay import ReplayBuffer
from tutelage.reinforcement.value_learning import DQNAgent, ValueLoss


@runtime_checkable
class Environment(Protocol):
    """What Gymnasium calls an `Env`, with discrete actions and observations of a fixed shape."""

    observation_space: Any
    action_space: Any

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode: its first observation, and information."""

    def step(self, action: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act: next observation, reward, whether a terminal state or a time limit was reached, and information."""


@dataclass(frozen=True, slots=True)
class DQNHistory:
    """What training left.

    Attributes:
        agent: What was learned.
        episode_ends: The step at which each episode ended.
        returns: Its undiscounted return.
    """

    agent: DQNAgent
    episode_ends: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)


def train_dqn(
    env_fn: Callable[[], Environment],
    *,
    value_loss: ValueLoss = "mse",
    steps: int = 50_000,
    buffer_size: int = 50_000,
    batch_size: int = 128,
    learning_starts: int = 1000,
    train_every: int = 1,
    target_every: int = 500,
    exploration: tuple[float, float] = (1.0, 0.05),
    exploration_fraction: float = 0.2,
    seed: int = 0,
    device: torch.device | str = "cpu",
    **agent_settings: Any,
) -> DQNHistory:
    """Deep Q-learning with replay and a target network; what the value loss is makes no other difference.

    Args:
        env_fn: Makes the environment (Gymnasium's interface).
        value_loss: See `DQNAgent`.
        steps: Steps in the environment.
        buffer_size: Transitions that are remembered.
        batch_size: Transitions of an update.
        learning_starts: Steps before the first update.
        train_every: Steps from one update to the next.
        target_every: Steps from one refresh of the target network to the next.
        exploration: Probability of a random action, at the start and at the end of its linear decay.
        exploration_fraction: Share of the steps over which it decays, in [0, 1].
        seed: Of weights, environment, exploration and replay: the same seed gives the same run on one machine.
            PyTorch's global generator is left as it was.
        device: Where the networks are; what is remembered stays in main memory.
        agent_settings: Further settings of `DQNAgent` (`value_range`, `discount`, `learning_rate`, `body` …).

    Returns:
        The agent and the return of every finished episode.

    Raises:
        ValueError: A count below 1, a probability outside [0, 1], or settings that the agent refuses.

    Source: Mnih et al., "Human-level control through deep reinforcement learning", Nature 2015, algorithm 1.
    """
    for name, count in (("steps", steps), ("train_every", train_every), ("target_every", target_every)):
        check_at_least(count, name, 1)
    for probability in exploration:
        check_in_range(probability, "exploration", 0, 1)
    check_in_range(exploration_fraction, "exploration_fraction", 0, 1)
    environment = env_fn()
    shape, num_actions = tuple(environment.observation_space.shape), int(environment.action_space.n)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        agent = DQNAgent(shape, num_actions, value_loss=value_loss, **agent_settings).to(device)
    history, dice = DQNHistory(agent), random.Random(seed)
    small = str(getattr(environment.observation_space, "dtype", None)) in ("uint8", "bool")
    buffer = ReplayBuffer(buffer_size, shape, dtype=torch.uint8 if small else torch.float32, seed=seed)
    observation, total = _copy(environment.reset(seed=seed)[0]), 0.0
    decay_steps = max(1, int(exploration_fraction * steps))
    for step in range(1, steps + 1):
        done_share = min(1.0, step / decay_steps)
        if dice.random() < exploration[0] + (exploration[1] - exploration[0]) * done_share:
            action = dice.randrange(num_actions)
        else:
            action = agent.act(observation.to(device))
        following, reward, terminated, truncated, _ = environment.step(action)
        following = _copy(following)
        buffer.add(observation, action, float(reward), following, terminated=bool(terminated))
        observation, total = following, total + float(reward)
        if terminated or truncated:
            history.episode_ends.append(step)
            history.returns.append(total)
            observation, total = _copy(environment.reset()[0]), 0.0
        if step >= learning_starts and step % train_every == 0:
            agent.update(buffer.sample(batch_size).to(device))
        if step % target_every == 0:
            agent.refresh_target()
    return history


def _copy(observation: Any) -> torch.Tensor:
    return torch.as_tensor(observation).clone()  # some environments write the next one into the same memory
