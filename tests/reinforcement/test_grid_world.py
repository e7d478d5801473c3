from __future__ import annotations

import pytest
import torch

from tutelage.reinforcement import GridWorld


def walk(grid: GridWorld, policy: torch.Tensor, start: int, episodes: int) -> float:
    """The return of a policy by playing it."""
    generator = torch.Generator().manual_seed(1)
    total = 0.0
    for _ in range(episodes):
        cell, discount = start, 1.0
        for _ in range(200):
            cell = int(torch.multinomial(grid.transition[cell, policy[cell]], 1, generator=generator))
            if cell == grid.num_cells - 1:
                total += discount
                break
            discount *= grid.discount
    return total / episodes


def test_values_without_slipping_are_powers_of_the_discount() -> None:
    grid = GridWorld(4, slip=0.0, discount=0.9)
    best = grid.optimal_values().amax(dim=1)
    steps = torch.tensor([6 - row - column for row in range(4) for column in range(4)])
    torch.testing.assert_close(best[:-1], 0.9 ** (steps[:-1] - 1.0).double())
    torch.testing.assert_close(grid.transition.sum(dim=-1), torch.ones(16, 4, dtype=torch.float64))


def test_slipping_by_hand() -> None:
    grid = GridWorld(2, slip=0.4)
    # From cell 0 to the right: 0.6 + 0.1 right, 0.1 down, 0.1 up and 0.1 left, which are walls.
    torch.testing.assert_close(grid.transition[0, 1], torch.tensor([0.2, 0.7, 0.1, 0.0], dtype=torch.float64))


def test_the_best_policy_earns_the_best_value_and_no_other_earns_more() -> None:
    grid = GridWorld(4)
    values = grid.optimal_values()
    best = values.argmax(dim=1)
    assert grid.mean_return(best) == pytest.approx(values.amax(dim=1)[:-1].mean().item(), abs=1e-8)
    for seed in range(20):
        other = torch.randint(4, (16,), generator=torch.Generator().manual_seed(seed))
        assert grid.mean_return(other) <= grid.mean_return(best)
    assert grid.mean_return(torch.zeros(16).long()) < 0.2  # always up


def test_exact_returns_agree_with_playing() -> None:
    grid = GridWorld(3)
    policy = grid.optimal_values().argmax(dim=1)
    played = sum(walk(grid, policy, start, 150) for start in range(8)) / 8
    assert grid.mean_return(policy) == pytest.approx(played, abs=0.02)


def test_records_have_the_right_shares_and_noise() -> None:
    grid = GridWorld(3)
    clean, noisy = grid.record(20_000), grid.record(20_000, reward_noise=0.5)
    assert torch.equal(clean.observation, noisy.observation)
    assert torch.equal(clean.reward, clean.terminated.float())
    assert (noisy.reward - clean.reward).std().item() == pytest.approx(0.5, rel=0.03)
    cell, landed = clean.observation.argmax(dim=1), clean.next_observation.argmax(dim=1)
    assert cell.max() == 7
    assert torch.equal(clean.terminated, landed == 8)
    chosen = (cell == 4) & (clean.action == 2)
    shares = torch.bincount(landed[chosen], minlength=9) / chosen.sum()
    torch.testing.assert_close(shares.double(), grid.transition[4, 2], atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GridWorld(1), "`size`"),
        (lambda: GridWorld(slip=1.5), "`slip`"),
        (lambda: GridWorld(discount=1.0), "`discount`"),
        (lambda: GridWorld(2).record(0), "`count`"),
        (lambda: GridWorld(2).record(1, reward_noise=-1.0), "`reward_noise`"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
