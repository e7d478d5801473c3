"""The comp-sum family: sum-exponential, cross-entropy, generalised cross-entropy and mean absolute error in one loss.

Source: Mao, Mohri and Zhong, "Cross-Entropy Loss Functions: Theoretical Analysis and Applications", ICML 2023,
arXiv 2304.07288. What its guarantees are: `tutelage.objectives.h_consistency`; under attack:
`tutelage.objectives.adversarial`.

With p the softmax probability of the label, ℓ_τ = (p^(τ−1) − 1) / (1 − τ), and −log p for τ = 1. All is computed from
−log p by `expm1`, which is exact on both sides of τ = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import Reduction, check_non_negative, reduce
from tutelage.objectives.label_loss import _LabelLoss, label_cross_entropy
from tutelage.objectives.positions import IGNORE_INDEX, reduce_over_labels


def comp_sum_loss(
    logits: Float[Tensor, "batch classes *rest"],
    target: Int[Tensor, "..."],
    *,
    tau: float = 1.0,
    weight: Float[Tensor, "..."] | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """ℓ_τ = Φ^τ(Σ_{k≠y} exp(s_k − s_y)), with Φ^τ(u) = ((1 + u)^(1−τ) − 1) / (1 − τ) and Φ^1(u) = log(1 + u).

    τ = 0: sum-exponential, 1/p − 1. τ = 1: cross-entropy. 1 < τ < 2: generalised cross-entropy with q = τ − 1. τ = 2:
    mean absolute error, 1 − p (half the L1 distance to the one-hot label). As p → 0 it has the limit 1 / (τ − 1) for
    τ > 1, and none for τ ≤ 1. The gradient is that of cross-entropy times p^(τ−1), so for τ ≥ 2 and many classes a
    fresh network hardly learns.

    Args:
        logits: `[batch, classes, …]`, as in `torch.nn.functional.cross_entropy`.
        target: `[batch, …]` classes.
        tau: τ, at least 0.
        weight: `[classes]`: a sample's loss is multiplied by the weight of its class.
        reduction: `"mean"` (with weights: divided by the sum of the samples' weights), `"sum"`, or `"none"` (the shape
            of `target`).

    Returns:
        In float32 or wider. For τ < 1 it is infinite only where ℓ_τ exceeds the range of that type; the gradient then
        is the greatest finite number instead.

    Raises:
        ValueError: A negative τ, a target of another shape or outside the classes, weights of another shape or
            negative, or an unknown reduction.

    Source: arXiv 2304.07288, the definition of comp-sum losses.

    >>> logits = torch.zeros(1, 2)
    >>> [round(comp_sum_loss(logits, torch.tensor([0]), tau=tau).item(), 4) for tau in (0, 0.5, 1, 1.5, 2)]
    [1.0, 0.8284, 0.6931, 0.5858, 0.5]
    """
    check_non_negative(tau, "tau")
    values = comp_sum_from_cross_entropy(label_cross_entropy(logits, target), tau=tau)
    if weight is None:
        return reduce(values, reduction)
    _check_weight(weight, logits.shape[1])
    weights = weight.to(values.dtype)[target.long()]
    if reduction == "mean":
        return (weights * values).sum() / weights.sum()
    return reduce(weights * values, reduction)


def comp_sum_from_cross_entropy(cross_entropy: Float[Tensor, "*batch"], *, tau: float) -> Float[Tensor, "*batch"]:
    """ℓ_τ from −log p, of any shape; exact in value and gradient from p = 1 down to where p underflows.

    >>> comp_sum_from_cross_entropy(torch.tensor([0.0, 1000.0]), tau=2.0)
    tensor([0., 1.])
    """
    if tau == 1:
        return cross_entropy
    exponent = (1 - tau) * cross_entropy
    if tau > 1:
        # The derivative of expm1 is taken from its result, which has no digits left where exp is small.
        power = torch.where(exponent < -0.5, exponent.exp() - 1, torch.expm1(exponent))
        return power / (1 - tau)
    # Past the float range the value grows to infinity along a line whose slope, the gradient, stays finite.
    slope = torch.finfo(exponent.dtype).max * (1 - tau) * (1 - 1e-5)
    limit = math.log(slope)
    return (torch.expm1(exponent.clamp(max=limit)) + slope * (exponent - limit).relu()) / (1 - tau)


def generalized_cross_entropy(
    logits: Float[Tensor, "batch classes *rest"],
    target: Int[Tensor, "..."],
    *,
    q: float = 0.7,
    truncation: float | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """GCE: (1 − p^q) / q, between cross-entropy (q → 0) and mean absolute error (q = 1); `comp_sum_loss` at τ = 1 + q.

    Args:
        logits: `[batch, classes, …]`.
        target: `[batch, …]` classes.
        q: In (0, 1].
        truncation: k in (0, 1): p is replaced by max(p, k), so samples whose label is less likely teach nothing. The
            published training also prunes such samples now and then; here every step sees all.
        reduction: `"mean"`, `"sum"`, or `"none"` (the shape of `target`).

    Returns:
        In float32 or wider.

    Raises:
        ValueError: `q` outside (0, 1], `truncation` outside (0, 1), a target of another shape or outside the classes,
            or an unknown reduction.

    Source: Zhang and Sabuncu, "Generalized Cross Entropy Loss", NeurIPS 2018 (L_q and truncated L_q).

    >>> logits = torch.tensor([[0.25, 0.75]]).log()
    >>> generalized_cross_entropy(logits, torch.tensor([0]), q=0.5)
    tensor(1.)
    >>> generalized_cross_entropy(logits, torch.tensor([0]), q=0.5, truncation=0.36)
    tensor(0.8000)
    """
    if not 0 < q <= 1:
        raise ValueError(f"Expected argument `q` to be in (0, 1], but got {q}.")
    if truncation is not None and not 0 < truncation < 1:
        raise ValueError(f"Expected argument `truncation` to be in (0, 1), but got {truncation}.")
    values = label_cross_entropy(logits, target)
    if truncation is not None:
        values = values.clamp(max=-math.log(truncation))
    return reduce(comp_sum_from_cross_entropy(values, tau=1 + q), reduction)


def mean_absolute_error_loss(
    logits: Float[Tensor, "batch classes *rest"], target: Int[Tensor, "..."], *, reduction: Reduction = "mean"
) -> Float[Tensor, "..."]:
    """MAE between softmax(logits) and the one-hot label, halved: 1 − p. `comp_sum_loss` at τ = 2.

    Symmetric: its sum over all labels is classes − 1 whatever the logits, which makes it robust to uniform label noise
    (Ghosh et al., AAAI 2017). Some libraries give the L1 distance itself, which is twice this.

    Args:
        logits: `[batch, classes, …]`.
        target: `[batch, …]` classes.
        reduction: `"mean"`, `"sum"`, or `"none"` (the shape of `target`).

    Raises:
        ValueError: A target of another shape or outside the classes, or an unknown reduction.

    >>> mean_absolute_error_loss(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([1]))
    tensor(0.2500)
    """
    return comp_sum_loss(logits, target, tau=2.0, reduction=reduction)


class CompSumLoss(_LabelLoss, name="comp_sum"):
    """Mean `comp_sum_loss` over the labelled positions of a batch; classes last, so `[..., classes]` logits.

    Args:
        tau: τ, at least 0; 1 is cross-entropy.
        weight: `[classes]` weights of the classes; the mean divides by the sum of the samples' weights.

    >>> CompSumLoss(tau=2.0)(torch.zeros(2, 4), torch.tensor([3, -100]))
    tensor(0.7500)
    """

    function = staticmethod(comp_sum_loss)
    weight: Tensor | None

    def __init__(self, *, tau: float = 1.0, weight: Tensor | Sequence[float] | None = None) -> None:
        super().__init__(tau=tau)
        weights = None if weight is None else torch.as_tensor(weight, dtype=torch.float32)
        if weights is not None:
            _check_weight(weights, len(weights))
        self.register_buffer("weight", weights, persistent=False)

    def loss(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over labelled positions; 0 when there are none."""
        weight = self.weight
        if weight is None:
            return super().loss(student_logits, target)
        weighted = reduce_over_labels(
            lambda labels, logits: self.function(logits, labels, weight=weight, reduction="none", **self.options),
            target,
            student_logits,
            reduction="sum",
        )
        total = weight[target[target != IGNORE_INDEX].long()].sum()
        return weighted / total.clamp_min(torch.finfo(total.dtype).tiny)


class GeneralizedCrossEntropy(_LabelLoss, name="gce"):
    """Mean `generalized_cross_entropy` over the labelled positions of a batch.

    Args:
        q: In (0, 1]; small is near cross-entropy, 1 is mean absolute error.
        truncation: None, or the probability in (0, 1) below which a label teaches nothing.

    >>> GeneralizedCrossEntropy(q=0.5)(torch.zeros(2, 4), torch.tensor([3, -100]))
    tensor(1.)
    """

    function = staticmethod(generalized_cross_entropy)

    def __init__(self, *, q: float = 0.7, truncation: float | None = None) -> None:
        super().__init__(q=q, truncation=truncation)


class MeanAbsoluteErrorLoss(_LabelLoss):
    """Mean `mean_absolute_error_loss` over the labelled positions of a batch: 1 − the label's probability.

    >>> MeanAbsoluteErrorLoss()(torch.zeros(2, 4), torch.tensor([3, -100]))
    tensor(0.7500)
    """

    function = staticmethod(mean_absolute_error_loss)

    def __init__(self) -> None:
        super().__init__()


def _check_weight(weight: Tensor, num_classes: int) -> None:
    if tuple(weight.shape) != (num_classes,):
        raise ValueError(f"Expected argument `weight` to have shape {(num_classes,)}, but got {tuple(weight.shape)}.")
    if not (weight >= 0).all():
        raise ValueError("Expected argument `weight` to hold numbers of at least 0, but it holds others.")
