"""What minimising a comp-sum loss guarantees about errors: H-consistency bounds and minimizability gaps.

For a hypothesis set H whose scores can take every value independently for each class,

    R01(h) − R01*(H) ≤ Γ_τ( R_τ(h) − R_τ*(H) + M_τ(H) ) − M_01(H),

where R_τ is the mean of the comp-sum loss (`tutelage.objectives.comp_sum`), R01 the error rate, * the best in H, M the
minimizability gap, and Γ_τ = T_τ⁻¹ on [0, 1]. Gaps belong to a hypothesis set: a trained network alone does not show
them.

Source: Mao, Mohri and Zhong, "Cross-Entropy Loss Functions: Theoretical Analysis and Applications", ICML 2023,
arXiv 2304.07288, the sections on H-consistency bounds and on minimizability gaps; all formulas re-derived.

Functions of tensors compute in float64 and give the argument's precision (float32 at least). Natural logarithms.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage._checks import (
    check_at_least,
    check_floating,
    check_non_negative,
    check_probabilities,
    check_same_shape,
    check_unit_interval,
)

BISECTIONS = 60


def comp_sum_conditional_risk(
    probs: Float[Tensor, "*batch classes"], scores: Float[Tensor, "..."], *, tau: float
) -> Float[Tensor, "*batch"]:
    """C_τ(p, s) = Σ_y p_y ℓ_τ(s, y): the loss of scores at an input whose label is distributed as p.

    Args:
        probs: `[..., classes]`: p.
        scores: `[..., classes]`: s.
        tau: τ, at least 0.

    Returns:
        `[...]`. Infinite where a loss with p_y > 0 exceeds float64.

    Raises:
        ValueError: A negative τ, shapes that differ, or p that does not sum to 1 within 1e-4.

    >>> comp_sum_conditional_risk(torch.tensor([0.5, 0.5]), torch.zeros(2), tau=2.0)
    tensor(0.5000)
    """
    check_non_negative(tau, "tau")
    check_probabilities(probs, "probs")
    check_same_shape(probs, scores, "probs", "scores")
    p = probs.double()
    losses = _comp_sum(-scores.double().log_softmax(dim=-1), tau)
    return _as(probs, (p * losses.masked_fill(p == 0, 0)).sum(dim=-1))


def comp_sum_min_conditional_risk(probs: Float[Tensor, "*batch classes"], *, tau: float) -> Float[Tensor, "*batch"]:
    """C*_τ(p), the least conditional risk over all score vectors.

    ((Σ_y p_y^{1/(2−τ)})^{2−τ} − 1) / (1 − τ) for τ < 2; the entropy −Σ p log p for τ = 1; (1 − max p) / (τ − 1) for
    τ ≥ 2. It is 0 for a certain label.

    Args:
        probs: `[..., classes]`: p.
        tau: τ, at least 0.

    Returns:
        `[...]`.

    Raises:
        ValueError: A negative τ, or p that does not sum to 1 within 1e-4.

    >>> [round(comp_sum_min_conditional_risk(torch.tensor([0.5, 0.5]), tau=tau).item(), 4) for tau in (0, 1, 2)]
    [1.0, 0.6931, 0.5]
    """
    check_non_negative(tau, "tau")
    check_probabilities(probs, "probs")
    p = probs.double().clamp_min(0)
    if tau == 1:
        least = torch.special.entr(p).sum(dim=-1)
    elif tau < 2:
        least = torch.expm1((2 - tau) * (p.log() / (2 - tau)).logsumexp(dim=-1)) / (1 - tau)
    else:
        least = (1 - p.amax(dim=-1)) / (tau - 1)
    return _as(probs, least)


def comp_sum_transform(beta: Float[Tensor, "*batch"], *, tau: float, num_classes: int) -> Float[Tensor, "*batch"]:
    """T_τ(β): a lower bound of the surrogate's conditional regret where the zero-one conditional regret is β.

    With a(β) = (((1+β)^{1/(2−τ)} + (1−β)^{1/(2−τ)}) / 2)^{2−τ} and n classes:

    - τ < 1: 2^{1−τ} (1 − a(β)) / (1 − τ);
    - τ = 1: ((1+β) log(1+β) + (1−β) log(1−β)) / 2;
    - 1 < τ < 2: (a(β) − 1) / ((τ−1) n^{τ−1});
    - τ ≥ 2: β / ((τ−1) n^{τ−1}).

    It is attained for every n where τ ≤ 1, and for n = 2 where τ ≤ 2; else it is valid but loose.

    Args:
        beta: β in [0, 1].
        tau: τ, at least 0.
        num_classes: n, at least 2.

    Returns:
        Of the shape of `beta`; 0 at 0, and increasing.

    Raises:
        ValueError: β outside [0, 1], a negative τ, or fewer than two classes.

    >>> comp_sum_transform(torch.tensor([0.0, 0.6, 1.0]), tau=0.0, num_classes=10)
    tensor([0.0000, 0.2000, 1.0000])
    """
    check_floating(beta, "beta")
    check_unit_interval(beta, "beta", tolerance=0.0)
    _check_family(tau, num_classes)
    return _as(beta, _transform(beta.double(), tau, num_classes))


def comp_sum_transform_inverse(t: Float[Tensor, "*batch"], *, tau: float, num_classes: int) -> Float[Tensor, "*batch"]:
    """Γ_τ(t) = T_τ⁻¹(t) on [0, 1] by bisection, and 1 from T_τ(1) on: no error rate is larger.

    The upper end of the last interval is given, so rounding aside a guarantee stays one. T_τ is flat at 0 for τ < 2:
    there the result is exact to about 1e-8 only.

    Args:
        t: At least 0.
        tau: τ, at least 0.
        num_classes: n, at least 2.

    Returns:
        Of the shape of `t`, in [0, 1].

    Raises:
        ValueError: A negative or non-finite t, a negative τ, or fewer than two classes.

    >>> comp_sum_transform_inverse(torch.tensor([0.0, 0.2, 7.0]), tau=0.0, num_classes=10)
    tensor([0.0000, 0.6000, 1.0000])
    """
    check_floating(t, "t")
    _check_family(tau, num_classes)
    return _as(t, _inverse(_gap(t, "t"), tau, num_classes))


def approximate_comp_sum_transform_inverse(
    t: Float[Tensor, "*batch"], *, tau: float, num_classes: int
) -> Float[Tensor, "*batch"]:
    """Γ̃_τ(t), the paper's explicit form to leading order, for reading off how a bound scales; no guarantee.

    √(2^τ (2−τ) t) for τ < 1; √(2 n^{τ−1} (2−τ) t) for 1 ≤ τ < 2; (τ−1) n^{τ−1} t for τ ≥ 2. For some τ above 4/3 it is
    less than Γ_τ at large t, where only `comp_sum_transform_inverse` bounds the error.

    Args:
        t: At least 0.
        tau: τ, at least 0.
        num_classes: n, at least 2.

    Raises:
        ValueError: A negative or non-finite t, a negative τ, or fewer than two classes.

    >>> approximate_comp_sum_transform_inverse(torch.tensor([0.02]), tau=1.0, num_classes=10)
    tensor([0.2000])
    """
    check_floating(t, "t")
    _check_family(tau, num_classes)
    gap = _gap(t, "t")
    if tau >= 2:
        return _as(t, (tau - 1) * math.pow(num_classes, tau - 1) * gap)
    return _as(t, ((math.pow(2, tau) if tau < 1 else 2 * math.pow(num_classes, tau - 1)) * (2 - tau) * gap).sqrt())


def h_consistency_bound(
    surrogate_gap: Float[Tensor, "*batch"] | float,
    *,
    tau: float,
    num_classes: int,
    surrogate_minimizability_gap: Float[Tensor, "..."] | float = 0.0,
    zero_one_minimizability_gap: Float[Tensor, "..."] | float = 0.0,
) -> Float[Tensor, "..."]:
    """Γ_τ(R_τ(h) − R_τ*(H) + M_τ(H)) − M_01(H): no h of H has an error rate further above the best in H.

    Args:
        surrogate_gap: R_τ(h) − R_τ*(H), at least 0.
        tau: τ, at least 0.
        num_classes: n, at least 2.
        surrogate_minimizability_gap: M_τ(H); 0 where H holds the pointwise minimisers.
        zero_one_minimizability_gap: M_01(H).

    Returns:
        An error rate; numbers give float64.

    Raises:
        ValueError: A negative or non-finite gap, a negative τ, or fewer than two classes.

    Source: arXiv 2304.07288, the H-consistency bounds for comp-sum losses.

    >>> h_consistency_bound(0.02, tau=1.0, num_classes=10)
    tensor(0.1993, dtype=torch.float64)
    """
    _check_family(tau, num_classes)
    gap = _gap(surrogate_gap, "surrogate_gap") + _gap(surrogate_minimizability_gap, "surrogate_minimizability_gap")
    bound = _inverse(gap, tau, num_classes) - _gap(zero_one_minimizability_gap, "zero_one_minimizability_gap")
    return _as(surrogate_gap, bound)


def minimizability_gap(
    best_in_class_risk: Float[Tensor, ""] | float, min_conditional_risks: Float[Tensor, "inputs"]
) -> Float[Tensor, ""]:
    """M(H) = R*(H) − E_x[C*(H, x)]: what the best of H loses because it cannot be the best at every input at once.

    Args:
        best_in_class_risk: R*(H).
        min_conditional_risks: `[M]`: C*(H, x) of inputs drawn as x is.

    Raises:
        ValueError: No inputs.

    >>> minimizability_gap(0.5, torch.tensor([0.25, 0.5]))
    tensor(0.1250)
    """
    check_at_least(min_conditional_risks.numel(), "len(min_conditional_risks)", 1)
    best = torch.as_tensor(best_in_class_risk, dtype=torch.float64)
    return _as(min_conditional_risks, best - min_conditional_risks.double().mean())


def minimizability_gap_upper_bound(
    sum_exp_risk: Float[Tensor, ""] | float, min_conditional_risks: Float[Tensor, "inputs"], *, tau: float
) -> Float[Tensor, ""]:
    """M_τ(H) ≤ f_τ(R_0*(H)) − E_x[C*_τ(H, x)], f_τ(u) = ((1+u)^{1−τ} − 1) / (1 − τ) and log(1+u): to compare τ by.

    From Jensen's inequality, since ℓ_τ = f_τ(ℓ_0) and f_τ is concave.

    Args:
        sum_exp_risk: R_0*(H), the best risk of the sum-exponential loss (τ = 0), at least 0.
        min_conditional_risks: `[M]`: C*_τ(H, x) of inputs drawn as x is.
        tau: τ, at least 0.

    Raises:
        ValueError: A negative or non-finite risk, a negative τ, or no inputs.

    >>> minimizability_gap_upper_bound(1.0, torch.tensor([0.5]), tau=1.0)
    tensor(0.1931)
    """
    check_non_negative(tau, "tau")
    risk = _gap(sum_exp_risk, "sum_exp_risk")
    return minimizability_gap(_comp_sum(risk.log1p(), tau), min_conditional_risks)


def _comp_sum(cross_entropy: Tensor, tau: float) -> Tensor:
    """ℓ_τ from −log p, without a gradient in mind."""
    return cross_entropy if tau == 1 else torch.expm1((1 - tau) * cross_entropy) / (1 - tau)


def _transform(beta: Tensor, tau: float, num_classes: int) -> Tensor:
    if tau >= 2:
        return beta / ((tau - 1) * math.pow(num_classes, tau - 1))
    if tau == 1:
        return (torch.xlogy(1 + beta, 1 + beta) + torch.xlogy(1 - beta, 1 - beta)) / 2
    exponent = 2 - tau
    halves = torch.logaddexp(beta.log1p() / exponent, (-beta).log1p() / exponent) - math.log(2)
    factor = math.pow(2 if tau < 1 else num_classes, 1 - tau)
    return (factor * torch.expm1(exponent * halves) / (tau - 1)).abs()  # negative by rounding at most


def _inverse(t: Tensor, tau: float, num_classes: int) -> Tensor:
    low, high = torch.zeros_like(t), torch.ones_like(t)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        reached = _transform(middle, tau, num_classes) >= t
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    return high.masked_fill(t == 0, 0)


def _gap(value: Tensor | float, name: str) -> Tensor:
    number = torch.as_tensor(value, dtype=torch.float64)
    if number.numel():
        check_non_negative(float(number.min()), name)
        check_non_negative(float(number.max()), name)
    return number


def _check_family(tau: float, num_classes: int) -> None:
    check_non_negative(tau, "tau")
    check_at_least(num_classes, "num_classes", 2)


def _as(argument: Tensor | float, value: Tensor) -> Tensor:
    if not isinstance(argument, Tensor):
        return value
    return value.to(torch.promote_types(argument.dtype, torch.float32))
