"""Direct coverage optimisation (DCO, arXiv 2502.07154): learn to be right at least once in N attempts.

Cross-entropy pushes one sample towards certainty. When N samples may be tried, what counts is the coverage 1 − (1 −
p)^N of the right answer's probability p, and beyond p ≈ 1/N there is little left to gain. All functions take ℓ = log p,
the *sum* of an answer's token log-probabilities (`sequence_log_prob`); averaging it, or applying the loss to single
tokens, is another method.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage._checks import Reduction, check_same_shape, check_unit_interval, reduce
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import IGNORE_INDEX, mean_over_positions
from tutelage.objectives.precision import at_least_float32
from tutelage.objectives.sequences import token_log_probs

_SERIES_BELOW = -12.0  # of ℓ + log N: there the series' relative error is below 1e-11


def direct_coverage_optimization_loss(
    log_prob: Float[Tensor, "*batch"], *, num_samples: float, reduction: Reduction = "mean"
) -> Float[Tensor, "..."]:
    """L_N = −log(1 − (1 − p)^N): minus the logarithm of the chance that one of N samples is right.

    Its gradient with respect to ℓ is −F (`coverage_gradient_factor`): cross-entropy's gradient, faded out for answers
    that N attempts will find anyway. Loss and gradient are finite for every finite ℓ, from probabilities far below the
    smallest float to exactly 1. N = 1 is cross-entropy: loss −ℓ, gradient −1. Values for different N are not
    comparable.

    Args:
        log_prob: ℓ of each problem's reference answer.
        num_samples: N, real and at least 1.
        reduction: `"mean"` over problems, `"sum"`, or `"none"`.

    Returns:
        Nats, not negative, in float32 or wider.

    Raises:
        ValueError: N below 1, a log-probability above 1e-6 or NaN, or an unknown reduction.

    Source: arXiv 2502.07154, DCO objective and gradient factor.

    >>> direct_coverage_optimization_loss(torch.tensor([0.5]).log(), num_samples=2)
    tensor(0.2877)
    """
    _check_num_samples(num_samples, "num_samples")
    _check_log_prob(log_prob, "log_prob")
    return reduce(_coverage_loss(log_prob, num_samples), reduction)


def coverage_gradient_factor(log_prob: Float[Tensor, "*batch"], *, num_samples: float) -> Float[Tensor, "*batch"]:
    """F = N (1−p)^(N−1) p / (1 − (1−p)^N): what DCO multiplies cross-entropy's gradient with.

    F falls as p grows: it is 1 for Np ≪ 1, one half at p ≈ 1.26/N, 0.01 at p ≈ 6.4/N, and 0 at p = 1; for N = 1 it is
    always 1.

    Args:
        log_prob: ℓ = log p; −∞ (p = 0) is allowed and gives 1.
        num_samples: N, real and at least 1.

    Returns:
        Values in [0, 1], in float32 or wider, for weighting and filtering: no gradient goes through them.

    Raises:
        ValueError: N below 1, or a log-probability above 1e-6 or NaN.

    Source: arXiv 2502.07154, gradient of the DCO objective.

    >>> coverage_gradient_factor(torch.tensor([0.5]).log(), num_samples=2)
    tensor([0.6667])
    """
    _check_num_samples(num_samples, "num_samples")
    _check_log_prob(log_prob, "log_prob")
    return _loss_and_factor(at_least_float32(log_prob.detach()), num_samples)[1]


def stepwise_direct_coverage_loss(
    step_log_prob: Float[Tensor, "batch steps"],
    mask: Bool[Tensor, "batch steps"],
    *,
    effective_samples: float,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """DCO for searches that branch at every step: Σ_i −log(1 − (1 − p̂(a_i | s_i))^N_eff) over a proof's steps.

    N_eff is about the breadth of the search tree; a proof of k steps takes about N_eff^k attempts, so long proofs ask
    for a small one. N_eff = 1 is summed cross-entropy. For a proof as a whole use
    `direct_coverage_optimization_loss` of the summed log-probabilities.

    Args:
        step_log_prob: Log-probability of each reference step, summed over its tokens. Whatever stands at steps that
            are left out, NaN included, does not count.
        mask: Which steps exist.
        effective_samples: N_eff, real and at least 1.
        reduction: `"mean"` over problems (of the sums over their steps), `"sum"`, or `"none"`.

    Returns:
        Nats, in float32 or wider.

    Raises:
        ValueError: Shapes that differ, a problem without steps, N_eff below 1, a kept log-probability above 1e-6 or
            NaN, or an unknown reduction.

    Source: arXiv 2502.07154, step-wise DCO.

    >>> steps, mask = torch.tensor([[0.5, 0.5, 0.9]]).log(), torch.tensor([[True, True, False]])
    >>> stepwise_direct_coverage_loss(steps, mask, effective_samples=2)
    tensor(0.5754)
    """
    _check_num_samples(effective_samples, "effective_samples")
    check_same_shape(step_log_prob, mask, "step_log_prob", "mask")
    if not mask.any(dim=1).all():
        empty = int((~mask.any(dim=1)).nonzero()[0])
        raise ValueError(f"Expected argument `mask` to keep a step of every problem, but it keeps none of row {empty}.")
    steps = step_log_prob.masked_fill(~mask, 0.0)
    _check_log_prob(steps, "step_log_prob")
    return reduce(_coverage_loss(steps, effective_samples).masked_fill(~mask, 0.0).sum(dim=1), reduction)


def approximate_coverage_loss(
    log_prob: Float[Tensor, "batch"],
    mode_confidence: Float[Tensor, "batch"],
    *,
    num_samples: float,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """DCO^a, for chains of thought: cross-entropy weighted by F(N, p̂_mode), mean of F · (−ℓ).

    The probability of an answer sums over all ways to reason towards it and cannot be had; the share of the most
    frequent answer among some samples stands for it (`estimate_mode_confidence`). The weight carries no gradient.

    Args:
        log_prob: ℓ of the training pair of reasoning and answer.
        mode_confidence: p̂_mode of each problem, in [0, 1]; estimate it anew from time to time.
        num_samples: N, real and at least 1.
        reduction: `"mean"` over problems (not over weights), `"sum"`, or `"none"`.

    Returns:
        Nats, in float32 or wider.

    Raises:
        ValueError: Shapes that differ, N below 1, a log-probability above 1e-6 or NaN, a confidence outside [0, 1], or
            an unknown reduction.

    Source: arXiv 2502.07154, approximate DCO. The form of the weighting is ours: public summaries agree on the
    estimate of the mode only.

    >>> approximate_coverage_loss(torch.tensor([-3.0]), torch.tensor([0.5]), num_samples=2)
    tensor(2.)
    """
    check_same_shape(log_prob, mode_confidence, "log_prob", "mode_confidence")
    check_unit_interval(mode_confidence, "mode_confidence")
    _check_log_prob(log_prob, "log_prob")
    confidence = at_least_float32(mode_confidence).clamp(0, 1)
    weight = coverage_gradient_factor(confidence.log(), num_samples=num_samples)
    return reduce(-weight * at_least_float32(log_prob), reduction)


def estimate_mode_confidence(answers: Sequence[Sequence[Hashable]]) -> Float[Tensor, "batch"]:
    """The share of the most frequent answer among each problem's samples.

    Args:
        answers: For each problem, the final answers of its samples; None where a sample has no answer. It counts as a
            sample, but "no answer" is never the mode.

    Returns:
        `[problems]` in [0, 1], as the default floating-point type.

    Raises:
        ValueError: A problem without samples.

    >>> estimate_mode_confidence([["7", "7", "8", None], [1, 2]])
    tensor([0.5000, 0.5000])
    """
    shares = []
    for position, samples in enumerate(answers):
        if not len(samples):
            raise ValueError(f"Expected argument `answers` to hold samples of every problem, but {position} has none.")
        counts = Counter(answer for answer in samples if answer is not None)
        shares.append(max(counts.values(), default=0) / len(samples))
    return torch.tensor(shares, dtype=torch.get_default_dtype())


def coverage_optimal_distribution(probs: Float[Tensor, "answers"], *, num_samples: float) -> Float[Tensor, "answers"]:
    """What to sample from when the truth is distributed as p and N attempts count: argmax_q Σ_i p_i (1 − (1 − q_i)^N).

    q_i = max(0, 1 − (μ / (N p_i))^(1/(N−1))) with μ such that q sums to 1, found by bisection of log μ; one-hot for
    N = 1. DCO's own optimum maximises the expected *logarithm* of coverage, which is not the same.

    Args:
        probs: p `[answers]`.
        num_samples: N, real and at least 1.

    Returns:
        q `[answers]`, as p's type (float32 for half precision).

    Raises:
        ValueError: p is no distribution, or N below 1.

    >>> coverage_optimal_distribution(torch.tensor([0.5, 0.25, 0.15, 0.1]), num_samples=2)
    tensor([0.6667, 0.3333, 0.0000, 0.0000])
    """
    _check_num_samples(num_samples, "num_samples")
    if not len(probs) or not (probs >= 0).all() or not math.isclose(float(probs.double().sum()), 1, abs_tol=1e-2):
        raise ValueError("Expected argument `probs` to hold a distribution, but it does not.")
    p = probs.detach().double()
    if num_samples == 1:
        best = torch.zeros_like(p).index_fill_(0, p.argmax(), 1.0)
        return best.to(at_least_float32(probs).dtype)
    slope = (num_samples * p).log()  # of coverage at q = 0; −∞ where p = 0, which gives q = 0

    def at(log_price: float) -> Tensor:
        return (-torch.expm1((log_price - slope) / (num_samples - 1))).clamp(min=0.0)

    high = float(slope.max())  # Σ q = 0
    low = high + (num_samples - 1) * math.log(1e-6) - 1.0  # q = 1 for the likeliest answer, all but 1e-6
    while float(at(low).sum()) < 1:
        low = high - 2 * (high - low)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if float(at(middle).sum()) > 1 else (low, middle)
    found = at((low + high) / 2)
    return (found / found.sum()).to(at_least_float32(probs).dtype)


class DirectCoverageLoss(Objective):
    """Mean `direct_coverage_optimization_loss` over the answers of a batch; it takes the place of cross-entropy.

    An answer is a sequence's labelled positions (logits `[batch, time, vocabulary]`, target `[batch, time]` aligned
    with them), or the class of a sample (logits `[batch, classes]`). Sequences without a label are left out.

    Args:
        num_samples: N: about how many attempts there will be. The method has no published default; set your own.
        ignore_index: The label of positions to skip.

    >>> DirectCoverageLoss(num_samples=2)(torch.zeros(1, 2), torch.tensor([0]))
    tensor(0.2877)
    """

    reads = ("student.logits", "batch.target")

    def __init__(self, *, num_samples: float = 16.0, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        _check_num_samples(num_samples, "num_samples")
        self.num_samples = num_samples
        self.ignore_index = ignore_index

    def loss(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over answers."""
        tokens = token_log_probs(student_logits, target, ignore_index=self.ignore_index)
        labelled = target != self.ignore_index
        if tokens.ndim > 1:
            tokens, labelled = tokens.flatten(1).sum(dim=1), labelled.flatten(1).any(dim=1)
        answers = tokens if labelled.all() else tokens[labelled]
        return mean_over_positions(_coverage_loss(answers, self.num_samples))


def log1mexp(log_prob: Tensor) -> Tensor:
    """Log(1 − e^ℓ) for ℓ ≤ 0, without loss of digits at either end; −∞ at 0.

    Source: M. Mächler, "Accurately Computing log(1 − exp(−|a|))", 2012.

    >>> log1mexp(torch.tensor([0.25]).log()).exp(), log1mexp(torch.tensor([-1e-20]))
    (tensor([0.7500]), tensor([-46.0517]))
    """
    near_one = log_prob > -math.log(2)
    return torch.where(near_one, (-torch.expm1(log_prob)).log(), torch.log1p(-log_prob.exp()))


class _Coverage(torch.autograd.Function):
    """−log(1 − (1 − e^ℓ)^N) with gradient −F: autograd's own is ∞ · 0 at both ends."""

    @staticmethod
    def forward(context: Any, log_prob: Tensor, num_samples: float) -> Tensor:
        loss, factor = _loss_and_factor(log_prob, num_samples)
        context.save_for_backward(log_prob, factor)
        context.num_samples = num_samples
        return loss

    @staticmethod
    def backward(context: Any, outer: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        log_prob, factor = context.saved_tensors
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for
            factor = _loss_and_factor(log_prob, context.num_samples)[1]
        return -factor * outer, None


def _coverage_loss(log_prob: Tensor, num_samples: float) -> Tensor:
    loss: Tensor = _Coverage.apply(at_least_float32(log_prob), float(num_samples))  # type: ignore[no-untyped-call]
    return loss


def _loss_and_factor(log_prob: Tensor, num_samples: float) -> tuple[Tensor, Tensor]:
    """Minus log coverage, and F."""
    value = log_prob.clamp(max=0.0)
    if num_samples == 1:
        return -value, torch.ones_like(value)
    log_samples = math.log(num_samples)
    rare, certain = value + log_samples < _SERIES_BELOW, value == 0
    inside = value.masked_fill(rare | certain, -1.0)
    log_wrong = log1mexp(inside)
    log_coverage = log1mexp(num_samples * log_wrong)
    log_factor = log_samples + inside + (num_samples - 1) * log_wrong - log_coverage
    # The series in p for rare answers, where 1 − e^ℓ rounds to 1.
    second = (num_samples - 1) * value.exp() / 2
    loss = torch.where(rare, second - value - log_samples, -log_coverage).masked_fill(certain, 0.0)
    factor = torch.where(rare, 1 - second, log_factor.exp()).masked_fill(certain, 0.0)
    return loss, factor.clamp(0.0, 1.0)


def _check_num_samples(num_samples: float, name: str) -> None:
    if not (math.isfinite(num_samples) and num_samples >= 1):
        raise ValueError(f"Expected argument `{name}` to be at least 1, but got {num_samples}.")


def _check_log_prob(log_prob: Tensor, name: str) -> None:
    if not (log_prob <= 1e-6).all():  # false for NaN
        raise ValueError(f"Expected argument `{name}` to hold log-probabilities (at most 0), but it does not.")
