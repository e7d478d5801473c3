"""Whether two raters, or a student and its teacher, say the same: shares, chance-corrected coefficients, fidelity."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from tutelage._checks import (
    check_at_least,
    check_in_range,
    check_option,
    check_same_length,
    check_same_logits,
    check_target,
)

Weights = Literal["linear", "quadratic"]
Level = Literal["nominal", "ordinal", "interval"]
NUM_RESAMPLES = 1000  # bootstrap resamples behind the interval of `cohen_kappa`
Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How closely a student follows its teacher.

    Attributes:
        agreement: Share of samples on which both predict the same class.
        kl: Mean KL(teacher ‖ student) at temperature 1, in nats.
        agreement_on_teacher_errors: The same share on samples that the teacher gets wrong, where being right does not
            help to agree; None without a target, or if the teacher makes no error.
    """

    agreement: float
    kl: float
    agreement_on_teacher_errors: float | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Cohen's κ of two raters, with what it is made of; `float(·)` gives κ.

    Attributes:
        kappa: (observed − expected) / (1 − expected); NaN where expected is 1.
        n: Items that both raters labelled.
        observed: Observed agreement, 1 minus the mean (weighted) disagreement.
        expected: What two independent raters with the same label frequencies would reach.
        ci: 95 % percentile interval from 1000 bootstrap resamples of the items (fixed seed). It collapses to (1, 1) at
            perfect agreement, and is (NaN, NaN) where κ is undefined.
    """

    kappa: float
    n: int
    observed: float
    expected: float
    ci: tuple[float, float]

    def __float__(self) -> float:
        return self.kappa


def prediction_fidelity(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    target: Int[Tensor, "samples"] | None = None,
) -> Fidelity:
    """How closely a classifier follows its teacher: equal predictions and KL(teacher ‖ student).

    Args:
        student_logits: Unnormalised log-probabilities.
        teacher_logits: The same, from the teacher.
        target: True classes; with them, agreement is also given on the teacher's errors.

    Raises:
        ValueError: Shapes do not match, there are no samples, or a target is no class.

    Source: arXiv 2505.15442 (agreement); Stanton et al., "Does Knowledge Distillation Really Work?", NeurIPS 2021.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> prediction_fidelity(logits, logits, torch.tensor([0, 0]))
    Fidelity(agreement=1.0, kl=0.0, agreement_on_teacher_errors=1.0)
    """
    check_same_logits(student_logits, teacher_logits)
    check_same_length(student_logits, teacher_logits, "student_logits", "teacher_logits")
    student, teacher = student_logits.detach().float(), teacher_logits.detach().float()
    predicted, followed = teacher.argmax(dim=1), student.argmax(dim=1)
    same = (predicted == followed).double()
    kl = kl_from_teacher(student, teacher)
    on_errors = None
    if target is not None:
        check_target(target, student.shape[1], shape=student.shape[:1])
        wrong = predicted != target
        on_errors = float(same[wrong].mean()) if wrong.any() else None
    return Fidelity(float(same.mean()), max(0.0, float(kl.double().mean())), on_errors)


def kl_from_teacher(
    student_logits: Float[Tensor, "samples classes"], teacher_logits: Float[Tensor, "samples classes"]
) -> Float[Tensor, "samples"]:
    """KL(teacher ‖ student) of each sample at temperature 1, in nats; classes that the teacher masks with −inf count 0.

    >>> kl_from_teacher(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, -torch.inf]]))
    tensor([0.6931])
    """
    student, teacher = student_logits.log_softmax(dim=1), teacher_logits.log_softmax(dim=1)
    return torch.where(teacher == -torch.inf, 0.0, teacher.exp() * (teacher - student)).sum(dim=1)


def answer_agreement(
    a: Sequence[Any], b: Sequence[Any], *, equal: Callable[[Any, Any], bool] | None = None
) -> tuple[float, tuple[float, float]]:
    """The share of items to which two models give the same answer, with its Wilson 95 % interval.

    Args:
        a: The answers of one model.
        b: The answers of the other to the same items.
        equal: When two answers are the same; `==` by default.

    Returns:
        `(rate, (low, high))`.

    Raises:
        ValueError: Lengths differ, or there are no items.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    >>> rate, (low, high) = answer_agreement(["7", "12", "3"], ["7", "12", "4"])
    >>> round(rate, 4), round(low, 4), round(high, 4)
    (0.6667, 0.2077, 0.9385)
    """
    check_same_length(a, b, "a", "b")
    n = len(a)
    same = sum(bool(equal(x, y) if equal else x == y) for x, y in zip(a, b, strict=True))
    return same / n, wilson_interval(same, n)


def wilson_interval(count: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, `count` of `n`.

    Raises:
        ValueError: `n` below 1, or a count outside [0, n].

    >>> tuple(round(end, 4) for end in wilson_interval(2, 3))
    (0.2077, 0.9385)
    """
    check_at_least(n, "n", 1)
    check_in_range(count, "count", 0, n)
    rate = count / n
    centre = (rate + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * math.sqrt(rate * (1 - rate) / n + Z_95**2 / (4 * n * n))
    return 0.0 if count == 0 else centre - half, 1.0 if count == n else centre + half


def disagreement_breakdown(student: Sequence[Any], teacher: Sequence[Any], gold: Sequence[Any]) -> dict[str, float]:
    """Where student and teacher part, as shares of all items that sum to 1.

    Args:
        student: The student's answers.
        teacher: The teacher's answers to the same items.
        gold: The right answers.

    Returns:
        Shares `both_right`, `both_wrong_same`, `both_wrong_different`, `only_student_right`, `only_teacher_right`.

    Raises:
        ValueError: Lengths differ, or there are no items.

    >>> disagreement_breakdown([1, 2, 3, 4], [1, 2, 5, 6], [1, 9, 3, 9])["only_student_right"]
    0.25
    """
    check_same_length(student, gold, "student", "gold")
    check_same_length(teacher, gold, "teacher", "gold")
    counts: Counter[str] = Counter()
    for said, taught, truth in zip(student, teacher, gold, strict=True):
        if said == truth:
            counts["both_right" if taught == truth else "only_student_right"] += 1
        elif taught == truth:
            counts["only_teacher_right"] += 1
        else:
            counts["both_wrong_same" if said == taught else "both_wrong_different"] += 1
    kinds = ("both_right", "both_wrong_same", "both_wrong_different", "only_student_right", "only_teacher_right")
    return {kind: counts[kind] / len(gold) for kind in kinds}


def cohen_kappa(
    a: Iterable[Any],
    b: Iterable[Any],
    *,
    weights: Weights | None = None,
    labels: Sequence[Hashable] | None = None,
    missing: Literal["pairwise", "raise"] = "pairwise",
) -> Agreement:
    """Cohen's κ: how far two raters agree beyond chance.

    Disagreement of labels i and j counts 1, |i − j|/(K − 1) (`"linear"`) or its square (`"quadratic"`), in steps along
    `labels`; then observed = 1 − mean disagreement, and expected the same under independent raters.

    Args:
        a: One label an item; None and NaN mean missing. Lists, arrays, tensors and data-frame columns all do.
        b: The other rater's labels of the same items.
        weights: How far apart two labels are: all alike, or by steps.
        labels: All labels in order; by default those that occur, sorted.
        missing: `"pairwise"` leaves out items that either rater did not label; `"raise"` refuses them.

    Returns:
        κ with the number of items, its parts and a bootstrap interval. κ is NaN, with a warning, when both raters give
        one and the same label throughout (0/0).

    Raises:
        ValueError: Lengths differ, no item has both labels, a label is not among `labels`, or one is missing and may
            not be.

    Source: J. Cohen, Educational and Psychological Measurement 20 (1960); Psychological Bulletin 70 (1968) for weights.

    >>> agreement = cohen_kappa([1, 1, 0, 0], [1, 0, 0, 0])
    >>> agreement.kappa, agreement.observed, agreement.expected
    (0.5, 0.75, 0.5)
    """
    check_option(weights, "weights", (None, "linear", "quadratic"))
    check_option(missing, "missing", ("pairwise", "raise"))
    first, second, known = _paired_labels(a, b, labels, missing)
    size, n = len(known), len(first)
    steps = np.abs(np.subtract.outer(np.arange(size), np.arange(size))) / max(1, size - 1)
    distance = {None: (steps > 0).astype(float), "linear": steps, "quadratic": steps**2}[weights]
    cells, counts = np.unique(first * size + second, return_counts=True)
    observed, expected = _disagreements(counts[None], cells, distance)
    if expected[0] == 0:
        warnings.warn("Cohen's kappa is undefined: both raters give the same label throughout.", stacklevel=2)
        return Agreement(math.nan, n, 1.0, 1.0, (math.nan, math.nan))
    draws = np.random.default_rng(0).multinomial(n, counts / n, size=NUM_RESAMPLES)
    drawn_observed, drawn_expected = _disagreements(draws, cells, distance)
    defined = drawn_expected > 0
    low, high = np.quantile(1 - drawn_observed[defined] / drawn_expected[defined], (0.025, 0.975))
    kappa = 1 - observed[0] / expected[0]
    return Agreement(float(kappa), n, float(1 - observed[0]), float(1 - expected[0]), (float(low), float(high)))


def quadratic_weighted_kappa(a: Iterable[Any], b: Iterable[Any], *, labels: Sequence[Hashable] | None = None) -> float:
    """Cohen's κ with quadratic weights, as a number; `cohen_kappa(…, weights="quadratic")` also gives its interval.

    Args:
        a: One label an item; None and NaN mean missing, and such items are left out.
        b: The other rater's labels of the same items.
        labels: All labels in order; by default those that occur, sorted.

    Raises:
        ValueError: As `cohen_kappa`.

    >>> quadratic_weighted_kappa([0, 1, 2, 3, 4], [4, 3, 2, 1, 0])
    -1.0
    """
    return cohen_kappa(a, b, weights="quadratic", labels=labels).kappa


def pabak(a: Iterable[Any], b: Iterable[Any], *, labels: Sequence[Hashable] | None = None) -> float:
    """Prevalence- and bias-adjusted κ: (K·observed − 1)/(K − 1), which for two labels is 2·observed − 1.

    Args:
        a: One label an item; None and NaN mean missing, and such items are left out.
        b: The other rater's labels of the same items.
        labels: All labels; by default those that occur, and at least two.

    Raises:
        ValueError: As `cohen_kappa`.

    Source: Byrt, Bishop and Carlin, "Bias, prevalence and kappa", Journal of Clinical Epidemiology 46 (1993).

    >>> pabak([1, 1, 0, 0], [1, 0, 0, 0])
    0.5
    """
    first, second, known = _paired_labels(a, b, labels, "pairwise")
    size = max(2, len(known))
    return float((size * np.mean(first == second) - 1) / (size - 1))


def fleiss_kappa(counts: Num[Tensor, "items categories"]) -> float:
    """Fleiss' κ: how far several raters agree beyond chance; with two raters it is Scott's π, not Cohen's κ.

    Args:
        counts: How many raters put each item into each category; the same number of raters, at least 2, for every item.

    Returns:
        κ; NaN, with a warning, when all ratings are of one category (0/0).

    Raises:
        ValueError: There are no items, a count is no whole number, or rows do not have the same sum of at least 2.

    Source: J. L. Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76 (1971).

    >>> fleiss_kappa(torch.tensor([[3, 0], [0, 3]]))
    1.0
    """
    table = counts.double()
    raters = table.sum(dim=1)
    if not len(table) or (table < 0).any() or (table != table.round()).any():
        raise ValueError("Expected argument `counts` to hold whole numbers of raters, at least one item.")
    if raters[0] < 2 or (raters != raters[0]).any():
        raise ValueError(
            "Expected argument `counts` to have the same number of raters (at least 2) for every item, "
            f"but got {int(raters.min())} to {int(raters.max())}."
        )
    n = float(raters[0])
    observed = float(((table.square().sum(dim=1) - n) / (n * (n - 1))).mean())
    share = table.sum(dim=0) / table.sum()
    if (share == 1).any():
        warnings.warn("Fleiss' kappa is undefined: all ratings are of one category.", stacklevel=2)
        return math.nan
    expected = float(share.square().sum())
    return (observed - expected) / (1 - expected)


def krippendorff_alpha(ratings: Num[Tensor, "items raters"], level: Level = "nominal") -> float:
    """Krippendorff's α: 1 − observed disagreement / expected disagreement, for any number of raters, some missing.

    Args:
        ratings: One rating an item and rater, NaN where there is none. Items with fewer than two ratings are left out.
        level: What a difference means: `"nominal"` (same or not), `"ordinal"` (ratings passed over, by their frequency)
            or `"interval"` (squared difference).

    Returns:
        α; NaN, with a warning, when all ratings are equal (0/0).

    Raises:
        ValueError: No item has two ratings, or `level` is unknown.

    Source: K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011).

    >>> round(krippendorff_alpha(torch.tensor([[1.0, 1.0], [2.0, 2.0], [1.0, 2.0]])), 4)
    0.4444
    """
    check_option(level, "level", ("nominal", "ordinal", "interval"))
    table = ratings.double().cpu().numpy()
    table = table[(~np.isnan(table)).sum(axis=1) >= 2]
    if not len(table):
        raise ValueError("Expected argument `ratings` to have an item with at least two ratings, but there is none.")
    values, codes = np.unique(table[~np.isnan(table)], return_inverse=True)
    if len(values) == 1:
        warnings.warn("Krippendorff's alpha is undefined: all ratings are equal.", stacklevel=2)
        return math.nan
    items = np.nonzero(~np.isnan(table))[0]
    counts = np.zeros((len(table), len(values)))
    np.add.at(counts, (items, codes), 1)
    totals = counts.sum(axis=0)
    if level == "nominal":
        distance = 1 - np.eye(len(values))
    elif level == "interval":
        distance = np.subtract.outer(values, values) ** 2
    else:
        middle = totals.cumsum() - totals / 2  # the rank of each value, ties sharing theirs
        distance = np.subtract.outer(middle, middle) ** 2
    # Within an item of m ratings each ordered pair of different raters weighs 1/(m − 1); distance[i, i] = 0.
    within = ((counts @ distance) * counts).sum(axis=1) / (counts.sum(axis=1) - 1)
    n = totals.sum()
    return float(1 - within.sum() / n / (totals @ distance @ totals / (n * (n - 1))))


def _disagreements(counts: np.ndarray, cells: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Observed and expected disagreement of contingency tables, from counts [tables, cells] of their filled cells."""
    size = len(distance)
    first, second = np.divmod(cells, size)
    share = counts / counts.sum(axis=1, keepdims=True)
    rows, columns = (share @ np.eye(size)[side] for side in (first, second))
    return share @ distance[first, second], ((rows @ distance) * columns).sum(axis=1)


def _paired_labels(
    a: Iterable[Any], b: Iterable[Any], labels: Sequence[Hashable] | None, missing: str
) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """The positions of both raters' labels in the list of labels, for the items that both labelled; and the list."""
    first, second = _as_list(a), _as_list(b)
    check_same_length(first, second, "a", "b")
    pairs = [(x, y) for x, y in zip(first, second, strict=True) if not (_is_missing(x) or _is_missing(y))]
    if missing == "raise" and len(pairs) < len(first):
        raise ValueError(f"Expected every item to be labelled by both raters, but {len(first) - len(pairs)} are not.")
    if not pairs:
        raise ValueError("Expected at least one item that both raters labelled, but there is none.")
    found = {label for pair in pairs for label in pair}
    known = sorted(found) if labels is None else _as_list(labels)
    place = {label: position for position, label in enumerate(known)}
    if len(place) < len(known):
        raise ValueError(f"Expected argument `labels` to hold each label once, but got {known}.")
    if outside := sorted(repr(label) for label in found if label not in place):
        raise ValueError(f"Expected every label to be one of {known}, but got {outside[0]}.")
    return np.array([place[x] for x, _ in pairs]), np.array([place[y] for _, y in pairs]), known


def _as_list(values: Iterable[Any]) -> list[Any]:
    return list(values.tolist()) if hasattr(values, "tolist") else list(values)


def _is_missing(label: Any) -> bool:
    return label is None or type(label).__name__ == "NAType" or (isinstance(label, float) and math.isnan(label))
