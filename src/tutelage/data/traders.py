"""Made-up trading accounts: how they behave, and what they won or lost in markets of different moods."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage._checks import check_at_least, check_non_negative

FEATURES = (
    "win_rate",
    "trades_per_day",
    "holding_hours",
    "leverage",
    "stop_usage",
    "night_share",
    "instruments",
    "deposit",
    "adds_to_losers",
    "reversal_share",
    "account_age",
    "mobile_share",
)
"""What is known of an account, in the order of the columns."""

_FACTORS = 3  # styles of trading that make the features correlated
_REGIME_SHIFT = {"trades_per_day": 0.5, "leverage": 0.4, "holding_hours": -0.4, "instruments": 0.3}
"""How far a market's mood moves what everybody does: one account hints at the mood, a list of them shows it."""


@dataclass(frozen=True, slots=True)
class TraderLists:
    """Accounts in lists, one market a list.

    Attributes:
        features: `[lists, items, 12]` float32, columns as in `FEATURES`.
        amounts: `[lists, items]` float64: profit of the account, in units of money; most are negative.
        skill: `[lists, items]`: what drives chance and size of a profit, which no learner sees.
        regime: `[lists]`: the market's mood, which no learner sees either.
    """

    features: Tensor
    amounts: Tensor
    skill: Tensor
    regime: Tensor


def synthetic_traders(
    num_lists: int, list_size: int, *, regime_strength: float = 1.0, noise: float = 0.4, seed: int = 0
) -> TraderLists:
    """Draw accounts market by market.

    Twelve correlated features; skill is a smooth, non-linear function of five of them. The mood of the market, one
    number a list, moves all amounts of the list and decides whether reversing or following pays (an interaction). An
    account wins with probability σ(skill − 1) and then the amount is exp(4 + skill + noise), else minus that with the
    sign of skill turned; the noise has Laplace tails, so that amounts have tails of a power law.

    Args:
        num_lists: Markets.
        list_size: Accounts a market.
        regime_strength: How much the mood matters to skill; at 0 lists are random groups of one market.
        noise: Scale of the Laplace noise; the power of the tail is its inverse, and must exceed 1 for a mean.
        seed: Of everything.

    Raises:
        ValueError: No list, lists of fewer than two, a negative strength or noise, or noise of 1 or more.

    >>> traders = synthetic_traders(30, 50)
    >>> traders.features.shape, 0.2 < (traders.amounts > 0).double().mean() < 0.5
    (torch.Size([30, 50, 12]), tensor(True))
    """
    check_at_least(num_lists, "num_lists", 1)
    check_at_least(list_size, "list_size", 2)
    check_non_negative(regime_strength, "regime_strength")
    if not 0 <= noise < 1:
        raise ValueError(f"Expected argument `noise` to be in [0, 1), but got {noise}.")
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    columns = len(FEATURES)
    loadings = torch.randn(_FACTORS, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    latent = 0.45 * normal(num_lists, list_size, _FACTORS) @ loadings + 0.7 * normal(num_lists, list_size, columns)
    regime = normal(num_lists)
    z = dict(zip(FEATURES, latent.unbind(dim=-1), strict=True))
    steady = (
        0.8 * torch.tanh(z["win_rate"])
        + 0.5 * torch.sin(1.5 * z["holding_hours"])
        + 0.5 * z["leverage"] * z["stop_usage"].tanh()
        - 0.4 * torch.nn.functional.softplus(z["adds_to_losers"])
    )
    mood = regime_strength * regime[:, None]
    skill = 1.6 * (steady + mood * (0.8 * torch.tanh(z["reversal_share"]) + 0.3))
    wins = torch.rand(num_lists, list_size, generator=generator, dtype=torch.float64) < torch.sigmoid(skill - 1)
    uniform = torch.rand(num_lists, list_size, generator=generator, dtype=torch.float64) - 0.5
    laplace = -noise * uniform.sign() * torch.log1p(-2 * uniform.abs())
    amounts = torch.where(wins, (4 + skill + laplace).exp(), -(4 - skill + laplace).exp())

    shift = torch.tensor([_REGIME_SHIFT.get(name, 0.0) for name in FEATURES], dtype=torch.float64)
    seen = latent + shift * regime[:, None, None] * float(regime_strength > 0)
    shares = torch.tensor([name.endswith(("rate", "share", "usage")) for name in FEATURES])
    features = torch.where(shares, seen.sigmoid(), (0.5 * seen).exp()).float()
    return TraderLists(features, amounts, skill, regime)
