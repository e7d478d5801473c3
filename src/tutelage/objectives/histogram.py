"""Regression as classification: real targets become histograms, and a network learns these by cross-entropy.

HL-Gauss (Imani and White 2018; for value functions arXiv 2403.03950) spreads a target over the bins near it, two-hot
over the two atoms around it, and C51 (Bellemare et al., 2017) projects a distribution of returns. Bins are intervals
and atoms are points, so each has its own support. A prediction is read off as the mean of the histogram.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage._checks import (
    Reduction,
    check_finite,
    check_option,
    check_positive,
    check_probabilities,
    check_same_shape,
    check_unit_interval,
    reduce,
)
from tutelage.batch import Batch
from tutelage.objectives.histogram_supports import AtomSupport, HistogramSupport, Support, as_histogram_support
from tutelage.objectives.objective import Objective
from tutelage.objectives.precision import at_least_float32, log_probabilities
from tutelage.outputs import Outputs

OutOfRange = Literal["clip", "raise"]


def hl_gauss_target(
    target: Float[Tensor, "..."],
    support: HistogramSupport,
    *,
    sigma: float | None = None,
    sigma_to_bin_ratio: float = 0.75,
    out_of_range: OutOfRange = "clip",
) -> Float[Tensor, "... bins"]:
    """The histogram of a normal distribution around y, truncated to the support.

    p_i = [Φ((e_i − y)/σ) − Φ((e_{i−1} − y)/σ)] / [Φ((e_m − y)/σ) − Φ((e_0 − y)/σ)].

    Args:
        target: y, any shape.
        support: Bins with edges e.
        sigma: σ; by default `sigma_to_bin_ratio` times the width of a bin.
        sigma_to_bin_ratio: At 0.75 about six bins get mass, and the mean is y to 5e-6 bins away from the limits.
        out_of_range: `"clip"` targets to the support, or `"raise"`.

    Returns:
        `[..., m]` probabilities, in float32 or wider, without a gradient.

    Raises:
        ValueError: σ or the ratio is not positive, a target is not finite, or it is outside and shall raise.

    Source: arXiv 2403.03950, section 3.1 (HL-Gauss) and appendix A.

    >>> hl_gauss_target(torch.tensor([0.5, 0.25]), HistogramSupport(0.0, 1.0, 2), sigma=0.5)
    tensor([[0.5000, 0.5000],
            [0.6130, 0.3870]])
    """
    check_positive(sigma_to_bin_ratio, "sigma_to_bin_ratio")
    scale = sigma_to_bin_ratio * support.bin_width
    if sigma is not None:
        check_positive(sigma, "sigma")
        scale = sigma
    value = _inside(target, support, out_of_range)
    edges = support.edges.to(value)
    cumulative = torch.erf((edges - value[..., None]) / (math.sqrt(2) * scale))
    # Clipped, a target has at least half of its mass inside: the denominator is at least about 1 of erf's range of 2.
    return cumulative.diff(dim=-1) / (cumulative[..., -1:] - cumulative[..., :1])


def two_hot_target(target: Float[Tensor, "..."], support: AtomSupport) -> Float[Tensor, "... atoms"]:
    """Mass on the two atoms around y, such that the mean is y; y is clipped to the support.

    Args:
        target: y, any shape.
        support: Atoms.

    Returns:
        `[..., m]` probabilities, in float32 or wider, without a gradient.

    Raises:
        ValueError: A target is not finite.

    Source: arXiv 2403.03950, section 3.1 (two-hot).

    >>> two_hot_target(torch.tensor([0.25, 1.0]), AtomSupport(-1.0, 1.0, 3))
    tensor([[0.0000, 0.7500, 0.2500],
            [0.0000, 0.0000, 1.0000]])
    """
    lower, share = _neighbours(_inside(target, support, "clip"), support)
    found = share.new_zeros(*share.shape, support.num_atoms)
    return found.scatter_(-1, lower[..., None], 1 - share[..., None]).scatter_(
        -1, lower[..., None] + 1, share[..., None]
    )


def categorical_projection(
    probs: Float[Tensor, "batch atoms"],
    reward: Float[Tensor, "batch"],
    discount: Float[Tensor, "batch"],
    support: AtomSupport,
) -> Float[Tensor, "batch atoms"]:
    """C51: the distribution of r + γ z on the atoms, each moved atom's mass shared by its two neighbours.

    Mass is conserved, and so is the mean where nothing is clipped.

    Args:
        probs: Probabilities of the next state's return at the atoms z.
        reward: r.
        discount: γ (1 − done), by item, in [0, 1].
        support: Atoms.

    Returns:
        `[batch, m]`, in float32 or wider, without a gradient.

    Raises:
        ValueError: Shapes that do not match, rows that are no probabilities, a reward that is not finite, or a discount
            outside [0, 1].

    Source: Bellemare et al., "A Distributional Perspective on Reinforcement Learning", ICML 2017, algorithm 1.

    >>> support = AtomSupport(-1.0, 1.0, 3)
    >>> categorical_projection(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([0.5]), torch.tensor([1.0]), support)
    tensor([[0.0000, 0.5000, 0.5000]])
    """
    check_same_shape(reward, discount, "reward", "discount")
    check_same_shape(reward, probs[:, 0], "reward", "probs[:, 0]")
    _check_count(probs, support, "probs")
    check_probabilities(probs, "probs", tolerance=1e-2 if probs.element_size() < 4 else 1e-4)
    check_unit_interval(discount, "discount", tolerance=0.0)
    value = at_least_float32(probs.detach())
    atoms = support.atoms.to(value)
    moved = reward.to(value)[:, None] + discount.to(value)[:, None] * atoms
    lower, share = _neighbours(_inside(moved, support, "clip"), support)
    return torch.zeros_like(value).scatter_add_(1, lower, value * (1 - share)).scatter_add_(1, lower + 1, value * share)


def categorical_expectation(logits: Float[Tensor, "... classes"], support: Support) -> Float[Tensor, "..."]:
    """The value that a histogram stands for: Σ softmax(logits)_i z_i, with bin centers or atoms z.

    Args:
        logits: `[..., m]`.
        support: A `HistogramSupport` or an `AtomSupport`.

    Returns:
        `[...]`, in float32 or wider. The gradient reaches `logits`.

    Raises:
        ValueError: The last dimension is not m.

    >>> categorical_expectation(torch.zeros(1, 2), HistogramSupport(0.0, 4.0, 2))
    tensor([2.])
    """
    _check_count(logits, support, "logits")
    probs = at_least_float32(logits).softmax(dim=-1)
    return probs @ support.values.to(probs)


def hl_gauss_loss(
    logits: Float[Tensor, "... bins"],
    target: Float[Tensor, "..."],
    support: HistogramSupport,
    *,
    sigma_to_bin_ratio: float = 0.75,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy −Σ_i p_i log softmax(logits)_i against `hl_gauss_target`; targets outside the support are clipped.

    No entry of its gradient exceeds 1 / batch, however far the target is: that is what squared errors lack. No
    gradient reaches the target. Its cost beyond cross-entropy is one `erf` for each bin.

    Args:
        logits: `[..., m]`.
        target: y `[...]`.
        support: Bins.
        sigma_to_bin_ratio: σ in bins.
        reduction: `"mean"`, `"sum"` or `"none"` (`[...]`).

    Returns:
        Nats, in float32 or wider.

    Raises:
        ValueError: As `hl_gauss_target`; a last dimension other than m, shapes that do not match, or an unknown
            reduction.

    Source: arXiv 2403.03950, section 3.1.

    >>> hl_gauss_loss(torch.zeros(1, 4), torch.tensor([0.3]), HistogramSupport(0.0, 1.0, 4))
    tensor(1.3863)
    """
    _check_count(logits, support, "logits")
    check_same_shape(logits[..., 0], target, "logits[..., 0]", "target")
    probs = hl_gauss_target(target, support, sigma_to_bin_ratio=sigma_to_bin_ratio)
    return reduce(_soft_cross_entropy(logits, probs), reduction)


def two_hot_loss(
    logits: Float[Tensor, "... atoms"],
    target: Float[Tensor, "..."],
    support: AtomSupport,
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy against `two_hot_target`. No gradient reaches the target.

    Args:
        logits: `[..., m]`.
        target: y `[...]`, clipped to the support.
        support: Atoms.
        reduction: `"mean"`, `"sum"` or `"none"` (`[...]`).

    Returns:
        Nats, in float32 or wider.

    Raises:
        ValueError: A last dimension other than m, shapes that do not match, a target that is not finite, or an unknown
            reduction.

    >>> two_hot_loss(torch.zeros(1, 4), torch.tensor([0.3]), AtomSupport(0.0, 1.0, 4))
    tensor(1.3863)
    """
    _check_count(logits, support, "logits")
    check_same_shape(logits[..., 0], target, "logits[..., 0]", "target")
    log_p = log_probabilities(logits)
    lower, share = _neighbours(_inside(target, support, "clip").to(log_p), support)
    pair = log_p.gather(-1, torch.stack([lower, lower + 1], dim=-1))
    return reduce(-torch.lerp(pair[..., 0], pair[..., 1], share), reduction)


def c51_loss(
    logits: Float[Tensor, "batch atoms"],
    next_probs: Float[Tensor, "batch atoms"],
    reward: Float[Tensor, "batch"],
    discount: Float[Tensor, "batch"],
    support: AtomSupport,
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy against `categorical_projection`, which carries no gradient.

    Args:
        logits: Of the return of the action that was taken.
        next_probs: The target network's probabilities for the next state's greedy action.
        reward: r.
        discount: γ (1 − done), by item.
        support: Atoms.
        reduction: `"mean"`, `"sum"` or `"none"` (`[batch]`).

    Returns:
        Nats, in float32 or wider.

    Raises:
        ValueError: As `categorical_projection`, or an unknown reduction.

    >>> uniform, one = torch.full((1, 3), 1 / 3), torch.ones(1)
    >>> c51_loss(torch.zeros(1, 3), uniform, one, one, AtomSupport(-1.0, 1.0, 3))
    tensor(1.0986)
    """
    check_same_shape(logits, next_probs, "logits", "next_probs")
    return reduce(_soft_cross_entropy(logits, categorical_projection(next_probs, reward, discount, support)), reduction)


class HLGaussLoss(Objective):
    """Mean `hl_gauss_loss` of a batch: learning real values as histograms.

    It reads the student's logits `[..., m]`, or, where the student ends in a `HistogramHead` (whose logits are the
    decoded values), the histogram that this head leaves in its features.

    Args:
        support: Bins: a `HistogramSupport`, or `(v_min, v_max, num_bins)` as in a config.
        sigma_to_bin_ratio: σ in bins.
        reduction: `"mean"`, `"sum"` or `"none"`.

    >>> HLGaussLoss((0.0, 1.0, 4))(torch.zeros(1, 4), torch.tensor([0.3]))
    tensor(1.3863)
    """

    reads = ("student.logits", "batch.target")
    edges: Tensor

    def __init__(
        self,
        support: HistogramSupport | Sequence[float],
        *,
        sigma_to_bin_ratio: float = 0.75,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_positive(sigma_to_bin_ratio, "sigma_to_bin_ratio")
        check_option(reduction, "reduction", ("mean", "sum", "none"))
        self.support = as_histogram_support(support)
        self.sigma_to_bin_ratio = sigma_to_bin_ratio
        self.reduction: Reduction = reduction
        self.register_buffer("edges", self.support.edges.float())  # for the record: losses use the exact ones
        self.register_load_state_dict_post_hook(_check_loaded_edges)  # type: ignore[no-untyped-call]

    def build(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> None:
        """Find the histogram."""
        if "histogram" in student.features:
            self.reads = ("student.features.histogram", "batch.target")

    def loss(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The loss of the batch."""
        return hl_gauss_loss(
            student_logits,
            target,
            self.support,
            sigma_to_bin_ratio=self.sigma_to_bin_ratio,
            reduction=self.reduction,
        )


def _check_loaded_edges(loss: Any, _: Any) -> None:
    if not torch.allclose(loss.edges.double().cpu(), loss.support.edges, rtol=1e-2):
        raise ValueError(
            f"Expected a checkpoint of bins on [{loss.support.v_min:.6g}, {loss.support.v_max:.6g}], "
            f"but it has [{float(loss.edges[0]):.6g}, {float(loss.edges[-1]):.6g}]."
        )


def _inside(target: Tensor, support: Support, out_of_range: str) -> Tensor:
    check_option(out_of_range, "out_of_range", ("clip", "raise"))
    check_finite(target, "target")
    value = at_least_float32(target.detach())
    if out_of_range == "raise" and (outside := support.fraction_outside(value)):
        raise ValueError(
            f"Expected argument `target` to be in [{support.v_min}, {support.v_max}], but {outside:.2%} of it is not."
        )
    return value.clamp(support.v_min, support.v_max)


def _neighbours(value: Tensor, support: AtomSupport) -> tuple[Tensor, Tensor]:
    """The atom at or below each value (the last but one for v_max), and the share of the atom above it."""
    spacing = (support.v_max - support.v_min) / (support.num_atoms - 1)
    position = (value - support.v_min) / spacing
    lower = position.floor().clamp(0, support.num_atoms - 2)
    return lower.long(), (position - lower).clamp(0.0, 1.0)


def _soft_cross_entropy(logits: Tensor, probs: Tensor) -> Tensor:
    log_p = log_probabilities(logits)
    return -(probs.to(log_p) * log_p).sum(dim=-1)


def _check_count(value: Tensor, support: Support, name: str) -> None:
    if value.shape[-1] != len(support.values):
        raise ValueError(
            f"Expected argument `{name}` to have a last dimension of {len(support.values)}, but got {value.shape[-1]}."
        )
