from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tutelage.objectives import c51_loss, hl_gauss_loss
from tutelage.reinforcement import DQNAgent, ReplayBuffer, Transitions, fitted_q_iteration, train_dqn
from tutelage.reinforcement.value_learning import VALUE_LOSSES

DISCOUNT = 0.8


class Corridor:
    """Five cells; walking right to the end pays 1 and ends the episode."""

    observation_space = SimpleNamespace(shape=(5,))
    action_space = SimpleNamespace(n=2)

    def reset(self, *, seed=None):
        self.cell, self.steps = 0, 0
        return F.one_hot(torch.tensor(0), 5).numpy(), {}

    def step(self, action):
        self.cell = max(0, self.cell + (1 if action else -1))
        self.steps += 1
        terminated = self.cell == 4
        return F.one_hot(torch.tensor(self.cell), 5).numpy(), float(terminated), terminated, self.steps >= 30, {}


def corridor_steps() -> tuple[Transitions, torch.Tensor]:
    """All transitions of the corridor, and the exact Q-values."""
    rows, exact = [], torch.zeros(4, 2)
    for cell in range(4):
        for action in range(2):
            landed = max(0, cell + (1 if action else -1))
            rows.append((cell, action, float(landed == 4), landed, landed == 4))
            away = 4 - landed
            exact[cell, action] = 1.0 if away == 0 else DISCOUNT**away
    cells, actions, rewards, landed, ends = map(torch.tensor, zip(*rows, strict=True))
    one_hot = lambda cell: F.one_hot(cell, 5).float()  # noqa: E731
    return Transitions(one_hot(cells), actions, rewards, one_hot(landed), ends), exact


@pytest.mark.parametrize("value_loss", VALUE_LOSSES)
def test_fitted_q_iteration_finds_the_exact_values(value_loss) -> None:
    torch.manual_seed(0)
    steps, exact = corridor_steps()
    agent = DQNAgent(
        (5,), 2, value_loss=value_loss, value_range=(-0.5, 1.5), num_bins=41, discount=DISCOUNT, learning_rate=5e-3
    )
    fitted_q_iteration(agent, steps, iterations=8, updates_per_iteration=25, batch_size=32)
    found = agent.values(torch.eye(5)[:4]).detach()
    torch.testing.assert_close(found, exact, atol=0.06, rtol=0)


def test_the_loss_by_hand() -> None:
    torch.manual_seed(0)
    steps, _ = corridor_steps()
    for value_loss in ("mse", "hl_gauss", "c51"):
        agent = DQNAgent((5,), 2, value_loss=value_loss, value_range=(-1.0, 2.0), num_bins=7, discount=DISCOUNT)
        with torch.no_grad():
            for parameter in agent.target.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        said, copied = agent.online(steps.observation), agent.target(steps.next_observation)
        values = agent.values(steps.next_observation)
        best = values.argmax(dim=1)
        rows = torch.arange(len(steps))
        gamma = DISCOUNT * (~steps.terminated).float()
        if value_loss == "c51":
            expected = c51_loss(
                said[rows, steps.action], copied[rows, best].softmax(-1), steps.reward, gamma, agent.atoms
            )
        else:
            worth = copied if value_loss == "mse" else copied.softmax(-1) @ agent.bins.centers.float()
            target = steps.reward + gamma * worth[rows, best]
            chosen = said[rows, steps.action]
            expected = F.mse_loss(chosen, target) if value_loss == "mse" else hl_gauss_loss(chosen, target, agent.bins)
        torch.testing.assert_close(agent.loss(steps), expected)


def test_the_conservative_term_lowers_unseen_actions() -> None:
    steps, _ = corridor_steps()
    seen = steps.take(steps.action.nonzero()[:, 0])  # only ever to the right
    gaps = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        agent = DQNAgent((5,), 2, discount=DISCOUNT, conservative_weight=weight)
        fitted_q_iteration(agent, seen, iterations=4, updates_per_iteration=30, batch_size=16)
        left, right = agent.values(torch.eye(5)[:4]).detach().mean(dim=0)
        gaps.append(float(right - left))
    assert gaps[1] > gaps[0] + 0.5


@pytest.mark.parametrize("value_loss", ["mse", "hl_gauss"])
def test_dqn_learns_to_walk_to_the_end(value_loss) -> None:
    settings = {
        "value_loss": value_loss,
        "steps": 1000,
        "batch_size": 32,
        "learning_starts": 200,
        "target_every": 50,
        "train_every": 2,
        "exploration_fraction": 0.5,
        "value_range": (-0.5, 1.5),
        "discount": DISCOUNT,
        "learning_rate": 3e-3,
    }
    before = torch.get_rng_state()
    history = train_dqn(Corridor, **settings)
    assert torch.equal(torch.get_rng_state(), before)
    assert [history.agent.act(torch.eye(5)[cell]) for cell in range(4)] == [1, 1, 1, 1]
    lengths = torch.tensor(history.episode_ends).diff()
    assert lengths[-10:].float().mean() < 6
    assert len(history.returns) == len(history.episode_ends)


def test_a_seed_gives_the_same_run() -> None:
    runs = [train_dqn(Corridor, steps=300, learning_starts=50, batch_size=8, seed=seed) for seed in (1, 1, 2)]
    weights = [torch.cat([p.flatten() for p in run.agent.online.parameters()]) for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


class Reused:
    """A counter of bytes that writes every observation into the same memory."""

    observation_space = SimpleNamespace(shape=(1,), dtype="uint8")
    action_space = SimpleNamespace(n=2)

    def reset(self, *, seed=None):
        self.memory = np.zeros(1, dtype=np.uint8)
        return self.memory, {}

    def step(self, action):
        self.memory += 1
        return self.memory, 0.0, bool(self.memory[0] == 200), False, {}


def test_observations_are_copied_and_bytes_stay_bytes(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(DQNAgent, "update", lambda self, steps: seen.append(steps))
    train_dqn(Reused, steps=150, learning_starts=150, batch_size=64)
    assert seen[0].observation.dtype == torch.uint8
    assert torch.equal(seen[0].observation + 1, seen[0].next_observation)
    assert torch.isfinite(DQNAgent((1,), 2, value_loss="hl_gauss").loss(seen[0]))


@pytest.mark.parametrize(("value_loss", "share"), [("hl_gauss", 0.25), ("two_hot", 0.25), ("mse", 0.0), ("c51", 0.0)])
def test_the_share_of_targets_that_were_clipped(value_loss, share) -> None:
    agent = DQNAgent((5,), 2, value_loss=value_loss, value_range=(-1.0, 1.0), discount=0.0)
    steps, _ = corridor_steps()
    assert agent.clipped_share == 0
    rewards = torch.tensor([5.0, -7.0, *[0.5] * 6])
    agent.loss(replace(steps, reward=rewards))
    assert agent.clipped_share == pytest.approx(share)
    agent.loss(steps)
    assert agent.clipped_share == pytest.approx(share / 2)


def test_the_buffer_forgets_the_oldest() -> None:
    buffer = ReplayBuffer(3, (2,))
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(1)
    for step in range(5):
        buffer.add(torch.full((2,), step), step, step / 10, torch.full((2,), step + 1), terminated=step == 4)
    assert sorted(buffer.all().action.tolist()) == [2, 3, 4]
    drawn = buffer.sample(200)
    assert set(drawn.action.tolist()) == {2, 3, 4}
    torch.testing.assert_close(drawn.observation[:, 0], drawn.action.float())
    torch.testing.assert_close(drawn.next_observation[:, 0], drawn.action + 1.0)
    assert torch.equal(drawn.terminated, drawn.action == 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DQNAgent((2,), 0), "`num_actions`"),
        (lambda: DQNAgent((2,), 2, discount=1.5), "`discount`"),
        (lambda: ReplayBuffer(0, (1,)), "`capacity`"),
        (lambda: train_dqn(Corridor, steps=0), "`steps`"),
        (lambda: train_dqn(Corridor, exploration=(2.0, 0.1)), "`exploration`"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
