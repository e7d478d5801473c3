"""Losses that bear wrong labels: squared error, Jensen–Shannon with the label, robust log loss, active + passive.

More of them: `generalized_cross_entropy`, `mean_absolute_error_loss`, `symmetric_cross_entropy_loss` and the adaptive
losses of `tutelage.objectives.label_distributional_robustness`.

A loss whose sum over all labels is a constant is called symmetric; its minimiser is not moved by uniform label noise
(Ghosh et al., AAAI 2017). All take p = softmax(logits).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import (
    Reduction,
    check_at_least,
    check_non_negative,
    check_option,
    check_positive,
    check_target,
    reduce,
)
from tutelage.objectives.comp_sum import comp_sum_from_cross_entropy
from tutelage.objectives.label_loss import _LabelLoss, label_cross_entropy
from tutelage.objectives.precision import at_least_float32, log_probabilities

Passive = Literal["rce", "agce", "aul"]

PASSIVE_OPTIONS: dict[str, dict[str, float]] = {
    "rce": {"zero": 1e-4},
    "agce": {"a": 3.0, "q": 1.5},
    "aul": {"a": 6.0, "q": 1.5},
}
"""The options of each passive loss, with their defaults (those of the code of arXiv 2112.14869)."""


def squared_error_loss(
    logits: Float[Tensor, "batch classes"], target: Int[Tensor, "..."], *, reduction: Reduction = "mean"
) -> Float[Tensor, "..."]:
    """Σ_k (1[k = y] − p_k)², the Brier score as a loss, in [0, 2].

    Args:
        logits: `[batch, classes]`.
        target: `[batch]` classes.
        reduction: `"mean"`, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider.

    Raises:
        ValueError: A target of another shape or outside the classes, or an unknown reduction.

    >>> squared_error_loss(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([0]))
    tensor(0.3750)
    """
    check_target(target, logits.shape[1], shape=logits.shape[:1])
    probs = at_least_float32(logits).softmax(dim=1)
    label = target.long()[:, None]
    residual = probs.scatter_add(1, label, probs.new_full(label.shape, -1.0))
    return reduce(residual.square().sum(dim=1), reduction)


def jensen_shannon_label_loss(
    logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, "..."],
    *,
    label_weight: float = 0.5,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """[w KL(e_y ‖ m) + (1 − w) KL(p ‖ m)] / (−(1 − w) ln(1 − w)) with m = w e_y + (1 − w) p and the one-hot label e_y.

    Between cross-entropy (w → 0) and 1 − p_y (w → 1). It depends on the logits through p_y alone, and is so computed.

    Args:
        logits: `[batch, classes]`.
        target: `[batch]` classes.
        label_weight: w, in (0, 1).
        reduction: `"mean"`, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider.

    Raises:
        ValueError: `label_weight` outside (0, 1), a target of another shape or outside the classes, or an unknown
            reduction.

    Source: Englesson and Azizpour, "Generalized Jensen-Shannon Divergence Loss for Learning with Noisy Labels",
    NeurIPS 2021.

    >>> jensen_shannon_label_loss(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([0]))
    tensor(0.6226)
    """
    if not 0 < label_weight < 1:
        raise ValueError(f"Expected argument `label_weight` to be in (0, 1), but got {label_weight}.")
    rest = 1 - label_weight
    cross_entropy = label_cross_entropy(logits, target)
    wrong = comp_sum_from_cross_entropy(cross_entropy, tau=2.0)  # 1 − p_y
    log_mixture = torch.log1p(-rest * wrong)  # log m_y; for the other classes log(p_k / m_k) = −log(1 − w)
    right = (-cross_entropy).exp() * (cross_entropy + log_mixture)
    total = -label_weight * log_mixture - rest * (wrong * math.log(rest) + right)
    return reduce(total / (-rest * math.log(rest)), reduction)


def robust_log_loss(
    logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, "..."],
    *,
    alpha: float = 1.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """RLL: log((α+1)/α) − log(α + p_y) + mean_{k≠y} log(α + p_k): bounded, and symmetric.

    Args:
        logits: `[batch, classes]`.
        target: `[batch]` classes.
        alpha: α; a smaller one comes nearer to cross-entropy.
        reduction: `"mean"`, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider; in [0, (1 + 1/(C − 1)) · log((α+1)/α)] for C classes.

    Raises:
        ValueError: α not positive, fewer than two classes, a target of another shape or outside the classes, or an
            unknown reduction.

    Source: Patel and Sastry, "Memorization in Deep Neural Networks: Does the Loss Function Matter?", PAKDD 2021, arXiv
    2107.09957; checked against public code. That of arXiv 2112.14869 applies it to raw logits: it is not symmetric.

    >>> robust_log_loss(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([0]))
    tensor(0.6931)
    """
    check_positive(alpha, "alpha")
    num_classes = logits.shape[1]
    check_at_least(num_classes, "logits.shape[1]", 2)
    check_target(target, num_classes, shape=logits.shape[:1])
    probs = at_least_float32(logits).softmax(dim=1)
    logs = torch.log1p(probs if alpha == 1 else probs / alpha)  # log(α + p_k) − log α
    label = logs.gather(1, target.long()[:, None])[:, 0]
    # As differences from log(1 + 1/α), the label's logarithm where p_y = 1.
    values = math.log1p(1 / alpha) - label + (logs.sum(dim=1) - label) / (num_classes - 1)
    return reduce(values, reduction)


def active_passive_loss(
    logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, "..."],
    *,
    active: Literal["nce"] = "nce",
    passive: Passive = "rce",
    active_weight: float = 1.0,
    passive_weight: float = 1.0,
    passive_options: Mapping[str, float] | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """A robust loss that raises the label's probability, plus one that lowers the others'.

    Active: normalised cross-entropy NCE = log p_y / Σ_k log p_k. Passive, all functions of p_y: RCE = −ln(zero) ·
    (1 − p_y); AGCE = ((a+1)^q − (a+p_y)^q) / q; AUL = ((a−p_y)^q − (a−1)^q) / q. NCE and RCE are symmetric, the other
    two asymmetric in the sense of their paper.

    Args:
        logits: `[batch, classes]`.
        target: `[batch]` classes.
        active: `"nce"`.
        passive: `"rce"`, `"agce"` or `"aul"`.
        active_weight: Of the active loss, at least 0.
        passive_weight: Of the passive loss, at least 0.
        passive_options: `zero` of RCE (1e-4; what the label's 0 counts as); `a` and `q` of AGCE (3, 1.5) and of AUL
            (6, 1.5).
        reduction: `"mean"`, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider.

    Raises:
        ValueError: Fewer than two classes, a negative weight, an unknown name or option, `zero` outside (0, 1), `a` not
            positive (AGCE) or not above 1 (AUL), `q` not positive, a target of another shape or outside the classes, or
            an unknown reduction.

    Source: Ma et al., "Normalized Loss Functions for Deep Learning with Noisy Labels", ICML 2020 (NCE, RCE); Zhou et
    al., "Asymmetric Loss Functions for Learning with Noisy Labels", ICML 2021 (AGCE, AUL).

    >>> logits, target = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([0])
    >>> active_passive_loss(logits, target, passive="agce", passive_options={"a": 1.0, "q": 1.0})
    tensor(1.)
    """
    check_option(active, "active", ("nce",))
    check_option(passive, "passive", tuple(PASSIVE_OPTIONS))
    check_non_negative(active_weight, "active_weight")
    check_non_negative(passive_weight, "passive_weight")
    for name in passive_options or {}:
        check_option(name, "passive_options", tuple(PASSIVE_OPTIONS[passive]))
    options = PASSIVE_OPTIONS[passive] | dict(passive_options or {})
    check_at_least(logits.shape[1], "logits.shape[1]", 2)
    check_target(target, logits.shape[1], shape=logits.shape[:1])
    log_probs = log_probabilities(logits)
    label = log_probs.gather(1, target.long()[:, None])[:, 0]
    normalised = label / log_probs.sum(dim=1)
    wrong = comp_sum_from_cross_entropy(-label, tau=2.0)
    return reduce(active_weight * normalised + passive_weight * _passive(passive, wrong, options), reduction)


def _passive(passive: Passive, wrong: Tensor, options: Mapping[str, float]) -> Tensor:
    """The passive loss of 1 − p_y; powers as expm1(q · log1p(·)), which is exact for a right label too."""
    if passive == "rce":
        zero = options["zero"]
        if not 0 < zero < 1:
            raise ValueError(f"Expected option `zero` of `passive_options` to be in (0, 1), but got {zero}.")
        return -math.log(zero) * wrong
    a, q = options["a"], options["q"]
    check_positive(q, "passive_options['q']")
    if passive == "agce":
        check_positive(a, "passive_options['a']")
        return -math.pow(a + 1, q) / q * torch.expm1(q * torch.log1p(-wrong / (a + 1)))
    if not (math.isfinite(a) and a > 1):
        raise ValueError(f"Expected argument `passive_options['a']` of AUL to be above 1, but got {a}.")
    return math.pow(a - 1, q) / q * torch.expm1(q * torch.log1p(wrong / (a - 1)))


class SquaredErrorLoss(_LabelLoss):
    """Mean `squared_error_loss` over the labelled positions of a batch.

    >>> SquaredErrorLoss()(torch.zeros(2, 2), torch.tensor([0, -100]))
    tensor(0.5000)
    """

    function = staticmethod(squared_error_loss)

    def __init__(self) -> None:
        super().__init__()


class JensenShannonLabelLoss(_LabelLoss):
    """Mean `jensen_shannon_label_loss` over the labelled positions of a batch.

    Args:
        label_weight: The label's share of the mixture, in (0, 1).

    >>> JensenShannonLabelLoss()(torch.zeros(2, 2), torch.tensor([0, -100]))
    tensor(0.6226)
    """

    function = staticmethod(jensen_shannon_label_loss)

    def __init__(self, *, label_weight: float = 0.5) -> None:
        super().__init__(label_weight=label_weight)


class RobustLogLoss(_LabelLoss):
    """Mean `robust_log_loss` over the labelled positions of a batch.

    Args:
        alpha: A smaller one comes nearer to cross-entropy.

    >>> RobustLogLoss()(torch.zeros(2, 2), torch.tensor([0, -100]))
    tensor(0.6931)
    """

    function = staticmethod(robust_log_loss)

    def __init__(self, *, alpha: float = 1.0) -> None:
        super().__init__(alpha=alpha)


class ActivePassiveLoss(_LabelLoss):
    """Mean `active_passive_loss` over the labelled positions of a batch.

    Args:
        active: `"nce"`.
        passive: `"rce"`, `"agce"` or `"aul"`.
        active_weight: Of the active loss.
        passive_weight: Of the passive loss.
        passive_options: `zero` of RCE; `a` and `q` of AGCE and of AUL.

    >>> ActivePassiveLoss(passive_options={"zero": 0.01})(torch.zeros(2, 2), torch.tensor([0, -100]))
    tensor(2.8026)
    """

    function = staticmethod(active_passive_loss)

    def __init__(
        self,
        *,
        active: Literal["nce"] = "nce",
        passive: Passive = "rce",
        active_weight: float = 1.0,
        passive_weight: float = 1.0,
        passive_options: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            active=active,
            passive=passive,
            active_weight=active_weight,
            passive_weight=passive_weight,
            passive_options=passive_options,
        )
