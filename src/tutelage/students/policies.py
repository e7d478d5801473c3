"""Policies that delete and shrink layers, and the policy gradient that teaches them.

Source: Ashok et al., "N2N Learning", ICLR 2018, arXiv 1709.06030, sections 3.1 and 3.2. In the official code the cells
of the shrinkage policy are not registered, so that only its output layer learns; here all parameters learn. There every
rollout is credited with the mean reward of its iteration; here with its own (Williams 1992, REINFORCE).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Categorical

from tutelage._checks import check_at_least, check_in_range, check_option, check_same_shape

Baseline = Literal["mean", "ema"]


class RemovalPolicy(nn.Module):
    """Which layers to keep: a bidirectional LSTM over the layers, and a decision a layer, independent given its states.

    Args:
        in_features: Entries of a layer's description.
        hidden: Units a direction.
        layers: Depth of the LSTM.

    >>> policy = RemovalPolicy(5)
    >>> keep, log_prob, entropy = policy.sample(torch.rand(4, 5), torch.tensor([True, False, False, True]))
    >>> keep.shape, keep[0].item(), log_prob.requires_grad
    (torch.Size([4]), True, True)
    """

    def __init__(self, in_features: int, hidden: int = 30, layers: int = 2) -> None:
        super().__init__()
        _check_sizes(in_features, hidden, layers)
        self.lstm = nn.LSTM(in_features, hidden, layers, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, 2)

    def sample(
        self, x: Float[Tensor, "*rollouts layers entries"], forced: Bool[Tensor, "layers"]
    ) -> tuple[Bool[Tensor, "*rollouts layers"], Float[Tensor, "*rollouts"], Float[Tensor, "*rollouts"]]:
        """Draw decisions from PyTorch's global generator.

        Args:
            x: Descriptions `[layers, entries]`; several rollouts may lie along one leading axis.
            forced: Layers that are kept in any case.

        Returns:
            What is kept, and log-probability and entropy summed over the free decisions (a scalar a rollout).
        """
        states = self.lstm(x if x.ndim == 3 else x[None])[0]
        choice = Categorical(logits=self.head(states if x.ndim == 3 else states[0]))
        drawn = choice.sample()  # type: ignore[no-untyped-call]
        free = ~forced
        log_prob = (choice.log_prob(drawn) * free).sum(dim=-1)  # type: ignore[no-untyped-call]
        entropy = (choice.entropy() * free).sum(dim=-1)  # type: ignore[no-untyped-call]
        return (drawn == 1) | forced, log_prob, entropy


class ShrinkagePolicy(nn.Module):
    """By how much to shrink each entry of each layer: an LSTM that reads, entry by entry, what it has made so far.

    Every entry of every layer is one step. The input is the layer's description with the multipliers chosen for its
    earlier entries applied (not rounded), so that each choice depends on those before it.

    Args:
        in_features: Entries of a layer's description.
        multipliers: What may be chosen.
        hidden: Units.
        layers: Depth of the LSTM.

    >>> policy = ShrinkagePolicy(2, [0.5, 1.0])
    >>> chosen, log_prob, entropy = policy.sample(torch.ones(3, 2), torch.tensor([[True, False]] * 3))
    >>> chosen[:, 0].tolist(), log_prob.ndim
    ([1.0, 1.0, 1.0], 0)
    """

    multipliers: Tensor

    def __init__(self, in_features: int, multipliers: Sequence[float], hidden: int = 30, layers: int = 2) -> None:
        super().__init__()
        _check_sizes(in_features, hidden, layers)
        if not multipliers or not all(0 < multiplier <= 1 for multiplier in multipliers):
            raise ValueError(f"Expected argument `multipliers` to be numbers in (0, 1], but got {list(multipliers)}.")
        self.register_buffer("multipliers", torch.tensor(multipliers, dtype=torch.float32))
        self.lstm = nn.LSTM(in_features, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, len(multipliers))

    def sample(
        self, x: Float[Tensor, "*rollouts layers entries"], forced: Bool[Tensor, "layers entries"]
    ) -> tuple[Float[Tensor, "*rollouts layers entries"], Float[Tensor, "*rollouts"], Float[Tensor, "*rollouts"]]:
        """Draw multipliers from PyTorch's global generator.

        Args:
            x: Descriptions `[layers, entries]`; several rollouts may lie along one leading axis.
            forced: Entries that stay as they are.

        Returns:
            The multipliers, 1 where forced, and log-probability and entropy summed over the free decisions.
        """
        rows = x if x.ndim == 3 else x[None]
        chosen = torch.ones_like(rows)
        log_prob, entropy = rows.new_zeros(len(rows)), rows.new_zeros(len(rows))
        state: tuple[Tensor, Tensor] | None = None
        waiting: list[Tensor] = []  # inputs of steps without a choice: they go through the LSTM with the next choice
        for layer, row in enumerate(forced.tolist()):
            current = rows[:, layer]
            for entry, is_forced in enumerate(row):
                waiting.append(current)
                if is_forced:
                    continue
                states, state = self.lstm(torch.stack(waiting, dim=1), state)
                waiting = []
                choice = Categorical(logits=self.head(states[:, -1]))
                drawn = choice.sample()  # type: ignore[no-untyped-call]
                log_prob = log_prob + choice.log_prob(drawn)  # type: ignore[no-untyped-call]
                entropy = entropy + choice.entropy()  # type: ignore[no-untyped-call]
                chosen[:, layer, entry] = self.multipliers[drawn]
                current = rows[:, layer] * chosen[:, layer]
        if x.ndim == 3:
            return chosen, log_prob, entropy
        return chosen[0], log_prob[0], entropy[0]


def reinforce_loss(
    log_probs: Float[Tensor, "rollouts"], rewards: Float[Tensor, "rollouts"], *, baseline: float
) -> Float[Tensor, ""]:
    """−mean over rollouts of log π · (R − b), whose gradient is that of the expected reward, times −1.

    Args:
        log_probs: A rollout's log-probability, summed over its decisions.
        rewards: A rollout's reward; no gradient flows into it.
        baseline: b, which must not depend on these rollouts.

    Raises:
        ValueError: Lengths that differ.

    >>> reinforce_loss(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 0.0]), baseline=0.5)
    tensor(-0.2500)
    """
    check_same_shape(log_probs, rewards, "log_probs", "rewards")
    return -(log_probs * (rewards.detach() - baseline)).mean()


class RunningBaseline:
    """The average of the iterations' mean rewards so far, plain or exponential; 0 before the first.

    Args:
        kind: `"mean"` weighs all iterations alike, `"ema"` forgets old ones.
        decay: Weight of the past in the exponential average, which starts at the first mean.

    Raises:
        ValueError: An unknown kind, or a decay outside [0, 1].

    >>> baseline = RunningBaseline("ema", decay=0.5)
    >>> baseline.update(1.0), baseline.update(0.0)
    (None, None)
    >>> baseline.value
    0.5
    """

    def __init__(self, kind: Baseline = "ema", *, decay: float = 0.9) -> None:
        check_option(kind, "kind", ("mean", "ema"))
        check_in_range(decay, "decay", 0.0, 1.0)
        self.kind, self.decay = kind, decay
        self.value = 0.0
        self._count = 0

    def update(self, mean_reward: float) -> None:
        """Take in the mean reward of an iteration."""
        self._count += 1
        share = 1 / self._count if self.kind == "mean" or self._count == 1 else 1 - self.decay
        self.value += share * (float(mean_reward) - self.value)


def _check_sizes(in_features: int, hidden: int, layers: int) -> None:
    check_at_least(in_features, "in_features", 1)
    check_at_least(hidden, "hidden", 1)
    check_at_least(layers, "layers", 1)
