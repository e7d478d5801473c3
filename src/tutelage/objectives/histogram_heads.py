"""Output layers that predict real values as histograms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_in_range
from tutelage.objectives.histogram import categorical_expectation, hl_gauss_target, two_hot_target
from tutelage.objectives.histogram_supports import AtomSupport, HistogramSupport, as_histogram_support
from tutelage.outputs import Outputs

_UNIFORM_SHARE = 1e-3  # of the initial histogram, so that no bin starts out of reach of the gradient


class HistogramHead(nn.Module):
    """The output layer of a regression network that learns by `HLGaussLoss`: a linear layer to histogram logits.

    It gives `Outputs` whose `logits` are the decoded values, so that evaluation, export and the report card treat the
    network like any regression, and whose `features["histogram"]` are the logits that `HLGaussLoss` finds by itself.

    Args:
        in_features: Width of what comes in.
        support: Bins: a `HistogramSupport`, or `(v_min, v_max, num_bins)`.
        initial_value: Where an untrained network starts: the bias is the logarithm of the histogram of this value, with
            a share of 0.1% spread evenly. By default 0 when the range holds it; else logits start near uniform, at the
            middle of the range.

    Raises:
        ValueError: Sizes below 1, or an initial value outside the range.

    >>> network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), HistogramHead(8, (-4.0, 4.0, 32)))
    >>> outputs = network(torch.zeros(5, 3))
    >>> outputs.logits.shape, outputs.features["histogram"].shape
    (torch.Size([5]), torch.Size([5, 32]))
    """

    def __init__(
        self, in_features: int, support: HistogramSupport | Sequence[float], *, initial_value: float | None = None
    ) -> None:
        super().__init__()
        check_at_least(in_features, "in_features", 1)
        self.support = as_histogram_support(support)
        self.linear = nn.Linear(in_features, self.support.num_bins)
        _start_at(self.linear, self.support, initial_value, rows=1)

    def value(self, logits: Float[Tensor, "... bins"]) -> Float[Tensor, "..."]:
        """The value that a histogram's logits stand for."""
        return categorical_expectation(logits, self.support)

    def forward(self, embedding: Float[Tensor, "... width"]) -> Outputs:
        """Values and their histograms."""
        logits = self.linear(embedding)
        return Outputs(logits=self.value(logits), features={"histogram": logits})


class CategoricalValueHead(nn.Module):
    """The output layer of a value network: one histogram for each action.

    Args:
        in_features: Width of what comes in.
        num_actions: A.
        support: `HistogramSupport` (HL-Gauss) or `AtomSupport` (two-hot, C51).
        initial_value: As in `HistogramHead`.

    Raises:
        ValueError: Sizes below 1, or an initial value outside the range.

    >>> head = CategoricalValueHead(8, 4, HistogramSupport(-10.0, 10.0, 51))
    >>> logits = head(torch.zeros(2, 8))
    >>> logits.shape, head.value(logits).abs().max() < 1e-5
    (torch.Size([2, 4, 51]), tensor(True))
    """

    def __init__(
        self,
        in_features: int,
        num_actions: int,
        support: HistogramSupport | AtomSupport,
        *,
        initial_value: float | None = None,
    ) -> None:
        super().__init__()
        check_at_least(in_features, "in_features", 1)
        check_at_least(num_actions, "num_actions", 1)
        self.support = support
        self.num_actions = num_actions
        self.linear = nn.Linear(in_features, num_actions * len(support.values))
        _start_at(self.linear, support, initial_value, rows=num_actions)

    def forward(self, embedding: Float[Tensor, "batch width"]) -> Float[Tensor, "batch actions classes"]:
        """Logits by action."""
        logits: Tensor = self.linear(embedding)
        return logits.view(len(embedding), self.num_actions, -1)

    def value(self, logits: Float[Tensor, "batch actions classes"]) -> Float[Tensor, "batch actions"]:
        """The values that the histograms stand for."""
        return categorical_expectation(logits, self.support)


def _start_at(
    linear: nn.Linear, support: HistogramSupport | AtomSupport, initial_value: float | None, *, rows: int
) -> None:
    if initial_value is None:
        if not support.v_min <= 0 <= support.v_max:
            return
        initial_value = 0.0
    check_in_range(initial_value, "initial_value", support.v_min, support.v_max)
    value = torch.tensor(initial_value, dtype=torch.float64)
    probs = two_hot_target(value, support) if isinstance(support, AtomSupport) else hl_gauss_target(value, support)
    with torch.no_grad():
        linear.bias.copy_(torch.lerp(probs, torch.full_like(probs, 1 / len(probs)), _UNIFORM_SHARE).log().repeat(rows))
