"""Losses after the F1 score, for labels of which few are positive (arXiv 1911.02855): Dice, its muted form, Tversky.

All compare a prediction p in [0, 1] with a label y in {0, 1}, for every item (binary) or for every item and class
(multi-class, one class against the rest), through three amounts: the overlap Σ p y, the predicted Σ p and the actual
Σ y. With `aggregation="set"` these sums go over the batch, and the loss is a smooth 1 − F1; with `"example"` each item
has its own, and the losses are averaged.

Which of the two matters. In expectation the per-example forms decide as accuracy does (plain denominator: p = 1 exactly
where P(y = 1) > ½); only the set-level form moves the threshold below ½ and follows F1. A set-level loss depends on
what is in the batch: accumulating gradients is not a larger batch, and a batch without positives teaches little. Use
large or stratified batches, and compare F1 at ½ only together with F1 at a tuned threshold (`best_f1_threshold`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from tutelage._checks import (
    Reduction,
    check_floating,
    check_non_negative,
    check_option,
    check_positive,
    check_same_shape,
    check_target,
    check_unit_interval,
)
from tutelage.objectives.hard_examples import check_binary, online_hard_example_mask
from tutelage.objectives.muted_probabilities import Transform, muted_binary, muted_sums
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import IGNORE_INDEX, mean_over_positions
from tutelage.objectives.precision import log_probabilities

Aggregation = Literal["set", "example"]
ClassReduction = Literal["sum", "mean"]


def dice_loss(
    input: Float[Tensor, "..."],
    target: Shaped[Tensor, "..."],
    *,
    from_logits: bool = True,
    smooth: float = 1.0,
    square_denominator: bool = True,
    aggregation: Aggregation = "set",
    mask: Shaped[Tensor, "..."] | None = None,
    ignore_index: int | None = None,
    class_reduction: ClassReduction = "sum",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Dice loss 1 − (2 Σ p y + γ) / (Σ p + Σ y + γ), between 0 and 1 for each class; squared: p² and y² below.

    Equal shapes of input and target mean binary; else the last dimension of the input holds classes.

    Args:
        input: Logits, or probabilities: any shape (binary), or `[..., classes]` with at least 2 classes.
        target: Labels 0 and 1 in the input's shape, or classes `[...]`.
        from_logits: Whether a sigmoid or softmax is still to be taken.
        smooth: γ, above 0. Beside the number of positives of a batch it decides how much empty batches matter.
        square_denominator: Square p (and y) in the denominator.
        aggregation: `"set"`: one loss for the batch; `"example"`: one for each item.
        mask: In the target's shape: items where it is 0 are left out.
        ignore_index: Items with this label are left out as well (padding must be).
        class_reduction: `"sum"` (as published code does) or `"mean"` over classes.
        reduction: By item: `"mean"` over the items that are kept (0 without any), `"sum"`, or `"none"`, in the target's
            shape (binary: flat) with 0 where items are left out. For a set `"mean"` and `"sum"` both reduce the classes
            alone, and `"none"` gives `[classes]` (binary: a scalar).

    Returns:
        In float32 or wider.

    Raises:
        ValueError: γ that is not positive, binary labels other than 0 and 1, classes outside the input's, shapes that
            do not match, or an unknown option.

    Source: arXiv 1911.02855, section 3.2; the set-level form as published code has it.

    >>> logits, target = torch.zeros(2), torch.tensor([1, 0])
    >>> dice_loss(logits, target, square_denominator=False)
    tensor(0.3333)
    """
    check_positive(smooth, "smooth")
    options = _Options(from_logits, aggregation, class_reduction, reduction)
    return _loss(_Score(1.0, 1.0, 2.0, smooth, square_denominator), options, input, target, mask, ignore_index)


def self_adjusting_dice_loss(
    input: Float[Tensor, "..."],
    target: Shaped[Tensor, "..."],
    *,
    alpha: float = 0.01,
    ohem_ratio: float | None = None,
    from_logits: bool = True,
    smooth: float = 1.0,
    square_denominator: bool = True,
    aggregation: Aggregation = "set",
    mask: Shaped[Tensor, "..."] | None = None,
    ignore_index: int | None = None,
    class_reduction: ClassReduction = "sum",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Self-adjusting Dice (DSC): `dice_loss` of g = (1 − p)^α p, which mutes items that are already well classified.

    g is largest at p = 1 / (1 + α). Beyond it positives are pushed back and the gradient of negatives has the wrong
    sign, so that α must be small: 0.01 caps confidence at 0.99, α = 1 at ½. A warning is given for α > 0.2.

    Args:
        input: As `dice_loss`.
        target: As `dice_loss`.
        alpha: α; 0 is `dice_loss`.
        ohem_ratio: Online hard example mining: keep all positives and this number of negatives a positive, those with
            the largest p; the others count as p = 0 (`online_hard_example_mask`; by class where there are several).
            None is off, 0 keeps positives only.
        from_logits: As `dice_loss`, like all arguments below.
        smooth: γ.
        square_denominator: Square g (and y) in the denominator.
        aggregation: `"set"` or `"example"`; what mining dropped counts as an item with loss 0.
        mask: Items to keep.
        ignore_index: The label of items to leave out.
        class_reduction: `"sum"` or `"mean"`.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        In float32 or wider. From logits (1 − p)^α is taken from log(1 − p), which stays exact where 1 − p rounds to 0.
        From probabilities the factor's infinite slope at p = 1 counts as 0.

    Raises:
        ValueError: As `dice_loss`; α or `ohem_ratio` below 0.

    Source: arXiv 1911.02855, section 3.3.

    >>> p = torch.tensor([[0.9, 0.03, 0.03, 0.03], [0.03, 0.9, 0.03, 0.03]])
    >>> self_adjusting_dice_loss(p, torch.tensor([0, 1]), from_logits=False, aggregation="example", reduction="none")
    tensor([0.0079, 0.0079])
    """
    check_positive(smooth, "smooth")
    check_non_negative(alpha, "alpha")
    if ohem_ratio is not None:
        check_non_negative(ohem_ratio, "ohem_ratio")
    if alpha > 0.2:
        warnings.warn(
            f"`alpha` of {alpha} pushes confident positives back to probability {1 / (1 + alpha):.2g}; "
            "the method is made for values around 0.01.",
            stacklevel=2,
        )
    options = _Options(from_logits, aggregation, class_reduction, reduction, alpha, ohem_ratio)
    return _loss(_Score(1.0, 1.0, 2.0, smooth, square_denominator), options, input, target, mask, ignore_index)


def tversky_loss(
    input: Float[Tensor, "..."],
    target: Shaped[Tensor, "..."],
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 1.0,
    aggregation: Aggregation = "set",
    from_logits: bool = True,
    mask: Shaped[Tensor, "..."] | None = None,
    ignore_index: int | None = None,
    class_reduction: ClassReduction = "sum",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Tversky loss 1 − (Σ p y + γ) / (Σ p y + α Σ p (1−y) + β Σ (1−p) y + γ).

    α weighs false positives, β false negatives. α = β = ½ is `dice_loss` (plain denominator) with 2γ.

    Args:
        input: As `dice_loss`.
        target: As `dice_loss`.
        alpha: α, at least 0.
        beta: β, at least 0.
        smooth: γ, above 0.
        aggregation: As `dice_loss`, like all arguments below.
        from_logits: Whether a sigmoid or softmax is still to be taken.
        mask: Items to keep.
        ignore_index: The label of items to leave out.
        class_reduction: `"sum"` or `"mean"`.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        In float32 or wider.

    Raises:
        ValueError: As `dice_loss`; α or β below 0.

    Source: arXiv 1911.02855, section 3.2, after Salehi et al., "Tversky loss function for image segmentation", 2017.

    >>> tversky_loss(torch.zeros(2), torch.tensor([1, 0]), smooth=0.5)
    tensor(0.3333)
    """
    check_positive(smooth, "smooth")
    check_non_negative(alpha, "alpha")
    check_non_negative(beta, "beta")
    options = _Options(from_logits, aggregation, class_reduction, reduction)
    return _loss(_Score(alpha, beta, 1.0, smooth, False), options, input, target, mask, ignore_index)


class _OverlapLoss(Objective):
    reads = ("student.logits", "batch.target")

    def __init__(self, function: Callable[..., Tensor], **options: Any) -> None:
        super().__init__()
        self.function = function
        self.options = options
        function(torch.zeros(1), torch.zeros(1), **options)  # checks them now

    def loss(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The loss of the batch; a single logit a position is binary."""
        if student_logits.ndim == target.ndim + 1 and student_logits.shape[-1] == 1:
            student_logits = student_logits[..., 0]
        return self.function(student_logits, target, **self.options)


class DiceLoss(_OverlapLoss):
    """`dice_loss` of a batch, with the set-level form by default; it takes the place of cross-entropy.

    Logits are `[..., classes]` and targets classes `[...]`; or `[...]` or `[..., 1]` for labels 0 and 1.

    Args:
        smooth: γ, above 0.
        square_denominator: Square p in the denominator.
        aggregation: `"set"` or `"example"`.
        ignore_index: The label of positions to skip.
        class_reduction: `"sum"` or `"mean"` over classes.

    >>> DiceLoss(square_denominator=False)(torch.zeros(2, 1), torch.tensor([1, 0]))
    tensor(0.3333)
    """

    def __init__(
        self,
        *,
        smooth: float = 1.0,
        square_denominator: bool = True,
        aggregation: Aggregation = "set",
        ignore_index: int | None = IGNORE_INDEX,
        class_reduction: ClassReduction = "sum",
    ) -> None:
        super().__init__(
            dice_loss,
            smooth=smooth,
            square_denominator=square_denominator,
            aggregation=aggregation,
            ignore_index=ignore_index,
            class_reduction=class_reduction,
        )


class SelfAdjustingDiceLoss(_OverlapLoss):
    """`self_adjusting_dice_loss` of a batch, with the set-level form by default; it takes the place of cross-entropy.

    Args:
        alpha: Mutes what is well classified; much smaller than 1.
        ohem_ratio: Negatives kept for each positive; None keeps all.
        smooth: γ, above 0.
        square_denominator: Square g in the denominator.
        aggregation: `"set"` or `"example"`.
        ignore_index: The label of positions to skip.
        class_reduction: `"sum"` or `"mean"` over classes.

    >>> SelfAdjustingDiceLoss(alpha=0.0, square_denominator=False)(torch.zeros(2, 1), torch.tensor([1, 0]))
    tensor(0.3333)
    """

    def __init__(
        self,
        *,
        alpha: float = 0.01,
        ohem_ratio: float | None = None,
        smooth: float = 1.0,
        square_denominator: bool = True,
        aggregation: Aggregation = "set",
        ignore_index: int | None = IGNORE_INDEX,
        class_reduction: ClassReduction = "sum",
    ) -> None:
        super().__init__(
            self_adjusting_dice_loss,
            alpha=alpha,
            ohem_ratio=ohem_ratio,
            smooth=smooth,
            square_denominator=square_denominator,
            aggregation=aggregation,
            ignore_index=ignore_index,
            class_reduction=class_reduction,
        )


class TverskyLoss(_OverlapLoss):
    """`tversky_loss` of a batch, with the set-level form by default; it takes the place of cross-entropy.

    Args:
        alpha: Weight of false positives.
        beta: Weight of false negatives.
        smooth: γ, above 0.
        aggregation: `"set"` or `"example"`.
        ignore_index: The label of positions to skip.
        class_reduction: `"sum"` or `"mean"` over classes.

    >>> TverskyLoss(smooth=0.5)(torch.zeros(2, 1), torch.tensor([1, 0]))
    tensor(0.3333)
    """

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        smooth: float = 1.0,
        aggregation: Aggregation = "set",
        ignore_index: int | None = IGNORE_INDEX,
        class_reduction: ClassReduction = "sum",
    ) -> None:
        super().__init__(
            tversky_loss,
            alpha=alpha,
            beta=beta,
            smooth=smooth,
            aggregation=aggregation,
            ignore_index=ignore_index,
            class_reduction=class_reduction,
        )


# ---- The common path: kept items → amounts → score → reduction -------------------------------------------------------


@dataclass(frozen=True)
class _Score:
    """From overlap, predicted and actual amounts: (α (predicted − overlap) + β (actual − overlap)) / (that + rest).

    Dice is 1 − (2 o + γ) / (p + a + γ) = (p + a − 2 o) / (p + a + γ): α = β = 1, rest = 2 o + γ. Tversky's rest is
    o + γ.
    """

    alpha: float
    beta: float
    overlaps: float  # 2 or 1
    smooth: float
    square: bool

    def __call__(self, overlap: Tensor, predicted: Tensor, actual: Tensor) -> Tensor:
        wrong = self.alpha * (predicted - overlap) + self.beta * (actual - overlap)
        return wrong / (wrong + self.overlaps * overlap + self.smooth)

    @property
    def of_negatives(self) -> Transform:
        """The loss of a class that is not the label: overlap and actual are 0."""
        return Transform(self.square, self.alpha, self.smooth)


@dataclass(frozen=True)
class _Options:
    """What all three losses share."""

    from_logits: bool
    aggregation: str
    class_reduction: str
    reduction: str
    muting: float = 0.0
    ohem_ratio: float | None = None


def _loss(
    score: _Score, options: _Options, input: Tensor, target: Tensor, mask: Tensor | None, ignore_index: int | None
) -> Tensor:
    check_option(options.aggregation, "aggregation", ("set", "example"))
    check_option(options.class_reduction, "class_reduction", ("sum", "mean"))
    check_option(options.reduction, "reduction", ("mean", "sum", "none"))
    check_floating(input, "input")
    binary = input.shape == target.shape
    if not binary and (input.ndim < 2 or input.shape[-1] < 2 or input.shape[:-1] != target.shape):
        raise ValueError(
            "Expected arguments `input` and `target` to have the same shape (binary), or `input` one more dimension "
            f"of at least 2 classes, but got {tuple(input.shape)} and {tuple(target.shape)}."
        )
    kept = _kept(target, mask, ignore_index)
    rows, labels = (input.flatten() if binary else input.flatten(0, -2)), target.flatten()
    if kept is not None:
        rows, labels = rows[kept], labels[kept]
    if not options.from_logits:
        check_unit_interval(rows, "input")
    values = (_binary if binary else _by_class)(score, options, rows, labels)
    if options.aggregation == "set":
        return values
    if options.reduction != "none":
        return values.sum() if options.reduction == "sum" else mean_over_positions(values)
    if kept is not None:
        values = torch.zeros(kept.shape, dtype=values.dtype, device=values.device).masked_scatter(kept, values)
    return values if binary else values.reshape(target.shape)


def _kept(target: Tensor, mask: Tensor | None, ignore_index: int | None) -> Tensor | None:
    """Which items count, flat; None when all do."""
    kept = None
    if mask is not None:
        check_same_shape(mask, target, "mask", "target")
        kept = mask.flatten() != 0
    if ignore_index is not None:
        labelled = target.flatten() != ignore_index
        kept = labelled if kept is None else kept & labelled
    return None if kept is None or kept.all() else kept


def _binary(score: _Score, options: _Options, input: Tensor, labels: Tensor) -> Tensor:
    check_binary(labels)
    muted = muted_binary(input, options.muting, from_logits=options.from_logits)
    if options.ohem_ratio is not None:
        muted = muted * online_hard_example_mask(input, labels, ratio=options.ohem_ratio)
    y = labels.to(muted.dtype)
    amounts = muted * y, muted.square() if score.square else muted, y
    return score(*(amount.sum() for amount in amounts)) if options.aggregation == "set" else score(*amounts)


def _by_class(score: _Score, options: _Options, input: Tensor, labels: Tensor) -> Tensor:
    classes = input.shape[1]
    check_target(labels, classes, shape=labels.shape)
    labels, keep = labels.long(), None
    if options.ohem_ratio is not None:
        ranked = log_probabilities(input.detach()) if options.from_logits else input
        keep = online_hard_example_mask(ranked, F.one_hot(labels, classes), ratio=options.ohem_ratio)

    def sums(transform: Transform, dim: int) -> tuple[Tensor, Tensor]:
        return muted_sums(
            input, labels, options.muting, from_logits=options.from_logits, transform=transform, dim=dim, keep=keep
        )

    if options.aggregation == "set":
        predicted, own = sums(Transform(score.square), 0)
        overlap = torch.zeros_like(predicted).index_add(0, labels, own)
        values = score(overlap, predicted, torch.bincount(labels, minlength=classes).to(own.dtype))
        if options.reduction == "none":
            return values
        return values.sum() if options.class_reduction == "sum" else values.mean()
    others, own = sums(score.of_negatives, 1)
    predicted = own.square() if score.square else own
    values = others - score.of_negatives.value(own) + score(own, predicted, torch.ones_like(own))
    return values if options.class_reduction == "sum" else values / classes
