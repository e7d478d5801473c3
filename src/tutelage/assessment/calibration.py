"""Whether confidence can be believed: calibration errors, Brier scores, and the reliability curve behind them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from tutelage._checks import (
    check_at_least,
    check_in_range,
    check_option,
    check_probabilities,
    check_same_length,
    check_same_shape,
    check_target,
    check_unit_interval,
)

Binning = Literal["width", "mass"]
"""Bins of equal width on [0, 1], or bins that hold equally many samples."""


class ReliabilityCurve(NamedTuple):
    """What happens in each bin of confidence, lowest first.

    Attributes:
        count: `[bins]` int64, samples in the bin.
        accuracy: `[bins]` float64, the share of them that is right; NaN in an empty bin.
        confidence: `[bins]` float64, their mean confidence; NaN in an empty bin.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    accuracy: Tensor
    confidence: Tensor


def reliability_curve(
    confidence: Float[Tensor, "samples"],
    correct: Shaped[Tensor, "samples"],
    *,
    num_bins: int = 15,
    binning: Binning = "width",
) -> ReliabilityCurve:
    """Accuracy against confidence, bin by bin.

    Args:
        confidence: The probability that each prediction is right, in [0, 1] (`predictive_confidence` of the logits).
        correct: Whether it is: booleans, or numbers 0 and 1.
        num_bins: How many bins.
        binning: `"width"`: bins (lo, hi] of equal width, so that an edge belongs to the lower bin and 0 to the first.
            `"mass"`: samples are sorted by confidence (stable) and cut into groups of equal count (±1).

    Returns:
        Count, accuracy and mean confidence of every bin, empty bins included.

    Raises:
        ValueError: Lengths differ, there are no samples, a confidence is outside [0, 1], or `num_bins` is below 1.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2.

    >>> curve = reliability_curve(torch.tensor([0.2, 0.7, 0.9]), torch.tensor([False, True, False]), num_bins=2)
    >>> curve.count.tolist(), curve.accuracy.tolist()
    ([1, 2], [0.0, 0.5])
    """
    confidence, correct, bins = _binned(confidence, correct, num_bins, binning)
    count = torch.bincount(bins, minlength=num_bins)
    return ReliabilityCurve(
        count,
        torch.bincount(bins, weights=correct, minlength=num_bins) / count,
        torch.bincount(bins, weights=confidence, minlength=num_bins) / count,
    )


def expected_calibration_error(
    confidence: Float[Tensor, "samples"],
    correct: Shaped[Tensor, "samples"],
    *,
    num_bins: int = 15,
    binning: Binning = "width",
) -> float:
    """ECE = Σ_bins (count / N)·|accuracy − mean confidence|.

    `binning="mass"` gives the adaptive calibration error. At small N the figure is noisy and biased upwards.

    Args:
        confidence: The probability that each prediction is right, in [0, 1].
        correct: Whether it is: booleans, or numbers 0 and 1.
        num_bins: How many bins; empty ones count nothing.
        binning: See `reliability_curve`.

    Returns:
        A fraction in [0, 1]; 0 is best.

    Raises:
        ValueError: As `reliability_curve`.

    Source: Guo et al. 2017, equation 3.

    >>> round(expected_calibration_error(torch.full((5,), 0.8), torch.tensor([1, 1, 1, 0, 0])), 6)
    0.2
    """
    confidence, correct, bins = _binned(confidence, correct, num_bins, binning)
    return float(torch.bincount(bins, weights=correct - confidence).abs().sum() / len(confidence))


def maximum_calibration_error(
    confidence: Float[Tensor, "samples"],
    correct: Shaped[Tensor, "samples"],
    *,
    num_bins: int = 15,
    binning: Binning = "width",
) -> float:
    """MCE = the largest |accuracy − mean confidence| of a bin that is not empty, whatever the bin's size.

    Args:
        confidence: The probability that each prediction is right, in [0, 1].
        correct: Whether it is: booleans, or numbers 0 and 1.
        num_bins: How many bins.
        binning: See `reliability_curve`.

    Returns:
        A fraction in [0, 1]; 0 is best.

    Raises:
        ValueError: As `reliability_curve`.

    Source: Guo et al. 2017, equation 5.

    >>> confidence, correct = torch.tensor([0.9, 0.9, 0.6]), torch.tensor([1, 1, 0])
    >>> round(maximum_calibration_error(confidence, correct), 6)
    0.6
    """
    curve = reliability_curve(confidence, correct, num_bins=num_bins, binning=binning)
    return float((curve.accuracy - curve.confidence).abs().nan_to_num().max())


def classwise_calibration_error(
    probs: Float[Tensor, "samples classes"], target: Int[Tensor, "samples"], *, num_bins: int = 15
) -> float:
    """The mean over classes k of the expected calibration error of (probs[:, k], target == k), equal-width bins.

    Args:
        probs: Probabilities by class.
        target: The true class of each sample.
        num_bins: How many bins.

    Returns:
        A fraction in [0, 1]; 0 is best.

    Raises:
        ValueError: Shapes do not match, rows are no probabilities, a target is no class, or there are no samples.

    Source: Kull et al., "Beyond temperature scaling", NeurIPS 2019 ("static calibration error" elsewhere).

    >>> classwise_calibration_error(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    0.0
    """
    check_at_least(num_bins, "num_bins", 1)
    _check_probs(probs, target)
    samples, classes = probs.shape
    gap = probs.double() - _one_hot(target, classes)
    cell = _width_bins(probs, num_bins) + num_bins * torch.arange(classes, device=probs.device)
    gaps = torch.bincount(cell.flatten(), weights=gap.flatten(), minlength=classes * num_bins)
    return float(gaps.abs().sum() / (samples * classes))


def kolmogorov_smirnov_calibration_error(
    confidence: Float[Tensor, "samples"], correct: Shaped[Tensor, "samples"]
) -> float:
    """KS error: the largest gap between cumulative confidence and cumulative correctness, over N; no bins.

    Samples are sorted by ascending confidence. The sort is stable: the figure depends on the given order among equal
    confidences.

    Args:
        confidence: The probability that each prediction is right, in [0, 1].
        correct: Whether it is: booleans, or numbers 0 and 1.

    Returns:
        A fraction in [0, 1]; 0 is best.

    Raises:
        ValueError: Lengths differ, there are no samples, or a confidence is outside [0, 1].

    Source: Gupta et al., "Calibration of Neural Networks using Splines", ICLR 2021.

    >>> round(kolmogorov_smirnov_calibration_error(torch.full((5,), 0.8), torch.tensor([0, 0, 1, 1, 1])), 6)
    0.32
    """
    confidence, correct = _checked(confidence, correct)
    order = confidence.argsort(stable=True)
    return float((confidence - correct)[order].cumsum(dim=0).abs().max() / len(confidence))


def brier_score(probs: Float[Tensor, "samples classes"], target: Int[Tensor, "samples"]) -> float:
    """The mean over samples of Σ_c (p_c − 1[c = target])², between 0 (best) and 2.

    Args:
        probs: Probabilities by class.
        target: The true class of each sample.

    Raises:
        ValueError: Shapes do not match, rows are no probabilities, a target is no class, or there are no samples.

    Source: G. W. Brier, "Verification of forecasts expressed in terms of probability", 1950.

    >>> round(brier_score(torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([0])), 6)
    0.14
    """
    _check_probs(probs, target)
    gap = probs.double() - _one_hot(target, probs.shape[1])
    return float(gap.square().sum(dim=1).mean())


def top_label_brier_score(confidence: Float[Tensor, "samples"], correct: Shaped[Tensor, "samples"]) -> float:
    """The mean of (confidence − correct)², between 0 (best) and 1: the Brier score of "my prediction is right".

    Args:
        confidence: The probability that each prediction is right, in [0, 1].
        correct: Whether it is: booleans, or numbers 0 and 1.

    Raises:
        ValueError: Lengths differ, there are no samples, or a confidence is outside [0, 1].

    >>> round(top_label_brier_score(torch.tensor([0.7, 0.6]), torch.tensor([True, False])), 6)
    0.225
    """
    confidence, correct = _checked(confidence, correct)
    return float((confidence - correct).square().mean())


def confidence_auroc(confidence: Float[Tensor, "samples"], correct: Shaped[Tensor, "samples"]) -> float:
    """How well confidence tells right predictions from wrong ones: the chance that a right one has more (ties count ½).

    Args:
        confidence: Any score of certainty.
        correct: Whether each prediction is right: booleans, or numbers 0 and 1.

    Raises:
        ValueError: Lengths differ, or all predictions are right, or all are wrong.

    >>> confidence_auroc(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 0, 1, 0]))
    0.75
    """
    check_same_length(confidence, correct, "confidence", "correct")
    _, group, sizes = torch.unique(confidence.double(), return_inverse=True, return_counts=True)
    rank = (sizes.cumsum(dim=0) - (sizes - 1) / 2)[group]  # ranks from 1, tied samples share their mean
    right = correct.bool()
    num_right, num_wrong = int(right.sum()), int((~right).sum())
    if not num_right or not num_wrong:
        raise ValueError("Expected argument `correct` to hold right and wrong predictions, but got one kind only.")
    return float((rank[right].sum() - num_right * (num_right + 1) / 2) / (num_right * num_wrong))


def narrow_misclassification_mask(
    probs: Float[Tensor, "samples classes"], target: Int[Tensor, "samples"], *, low: float = 0.3
) -> Bool[Tensor, "samples"]:
    """Which samples are only just wrong: another class is predicted, but the true one has at least probability `low`.

    Args:
        probs: Probabilities by class.
        target: The true class of each sample.
        low: The least probability of the true class, in [0, 1]; for a wrong prediction it is at most 0.5.

    Raises:
        ValueError: Shapes do not match, rows are no probabilities, a target is no class, or `low` is outside [0, 1].

    >>> probs = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.4, 0.6]])
    >>> narrow_misclassification_mask(probs, torch.tensor([1, 1, 1])).tolist()
    [True, False, False]
    """
    check_in_range(low, "low", 0.0, 1.0)
    _check_probs(probs, target)
    own = probs.gather(1, target.long()[:, None]).squeeze(1)
    return (probs.argmax(dim=1) != target) & (own >= low)


def _checked(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    check_same_shape(confidence, correct, "confidence", "correct")
    check_same_length(confidence, correct, "confidence", "correct")
    check_unit_interval(confidence, "confidence")
    return confidence.detach().double(), correct.detach().double()


def _binned(confidence: Tensor, correct: Tensor, num_bins: int, binning: str) -> tuple[Tensor, Tensor, Tensor]:
    """Checked float64 confidence and correctness, and the bin of each sample."""
    check_at_least(num_bins, "num_bins", 1)
    check_option(binning, "binning", ("width", "mass"))
    values, right = _checked(confidence, correct)
    if binning == "width":
        return values, right, _width_bins(confidence.detach(), num_bins)
    bins = torch.empty(len(values), dtype=torch.int64, device=values.device)
    place = torch.arange(len(values), device=values.device)
    bins[values.argsort(stable=True)] = place * num_bins // len(values)
    return values, right, bins


def _width_bins(values: Tensor, num_bins: int) -> Tensor:
    """Bins (lo, hi] of equal width. Edges are rounded as the values are: 0.2f lies on the edge 3/15, not past it."""
    edges = (torch.arange(1, num_bins, dtype=torch.float64, device=values.device) / num_bins).to(values.dtype)
    return torch.bucketize(values.double().contiguous(), edges.double())


def _check_probs(probs: Tensor, target: Tensor) -> None:
    check_probabilities(probs, "probs", tolerance=1e-2 if probs.dtype in (torch.float16, torch.bfloat16) else 1e-4)
    check_target(target, probs.shape[1], shape=probs.shape[:1])
    check_same_length(probs, target, "probs", "target")


def _one_hot(target: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(target.long(), classes).double()
