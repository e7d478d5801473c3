"""ND (KD++): pull a student's feature to the direction of its class, and its norm up to the teacher's.

Source: "Improving Knowledge Distillation via Regularizing Feature Norm and Direction", arXiv 2305.17007.

The feature is the embedding, what the classifier reads. The class is represented by the mean of the teacher's features
over the training samples of the class, not by the teacher's feature of the sample: that is what sets ND apart from
feature matching. The loss is an add-on: weigh it against cross-entropy and any distillation loss (KD++, DKD++, …).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import (
    Reduction,
    check_finite,
    check_floating,
    check_in_range,
    check_positive,
    check_target,
    reduce,
)
from tutelage.batch import Batch
from tutelage.features.class_means import ClassConditionalMean
from tutelage.features.projectors import FeatureProjector
from tutelage.objectives.objective import Objective
from tutelage.objectives.precision import at_least_float32
from tutelage.outputs import Outputs

_FEW_SAMPLES = 5  # a mean of fewer is noise; it is used all the same, with a warning


def norm_direction_loss(
    student_features: Float[Tensor, "batch width"],
    teacher_features: Float[Tensor, "..."],
    class_means: Float[Tensor, "classes mean_width"],
    target: Int[Tensor, "batch"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """The ND loss: ℓ = 1 − ⟨f_s, e_y⟩ / max(‖f_s‖, ‖f_t‖), where e_y is the direction of the class mean.

    While the student's norm is below the teacher's, the gradient −e_y / ‖f_t‖ is constant and raises norm and alignment
    together. From there on ℓ = 1 − cos(f_s, e_y): its gradient is orthogonal to f_s, turns the feature and no longer
    lengthens it. At equal norms the student's branch counts, as in the official code. Only `student_features` get a
    gradient. Where both norms are 0, ℓ is 1 and has no gradient.

    Args:
        student_features: `[batch, width]`, brought to the teacher's width by a `FeatureProjector` if need be.
        teacher_features: `[batch, width]` of the same inputs, or their norms `[batch]`.
        class_means: `[classes, width]` of the teacher, see `class_conditional_mean`. Their lengths do not matter.
        target: `[batch]` classes.
        reduction: `"mean"` over the batch, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In [0, 2], in float32 or wider: a scalar, or `[batch]`. It is 0 where the feature points along the class mean
        and is at least as long as the teacher's.

    Raises:
        ValueError: Widths or lengths that differ, a target without a class mean, a class mean of length 0, features
            that are not finite, or an unknown reduction.

    >>> student, class_means, target = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    >>> norm_direction_loss(student, torch.tensor([10.0]), class_means, target)
    tensor(0.7000)
    >>> norm_direction_loss(student, torch.tensor([2.0]), class_means, target)
    tensor(0.4000)
    """
    projection = _projection(student_features, class_means, target)
    teacher_norm = _teacher_norm(teacher_features, student_features)
    student_norm = at_least_float32(student_features).norm(dim=1)
    longer = torch.where(student_norm >= teacher_norm, student_norm, teacher_norm)
    return reduce(1 - _ratio(projection, longer), reduction)


def direction_loss(
    student_features: Float[Tensor, "batch width"],
    class_means: Float[Tensor, "classes mean_width"],
    target: Int[Tensor, "batch"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """ND's direction alone: ℓ = 1 − cos(f_s, c_y), whatever the norms.

    Only `student_features` get a gradient, orthogonal to them. Where a feature is 0, ℓ is 1 and has no gradient.

    Args:
        student_features: `[batch, width]`.
        class_means: `[classes, width]` of the teacher, see `class_conditional_mean`.
        target: `[batch]` classes.
        reduction: `"mean"` over the batch, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In [0, 2], in float32 or wider: a scalar, or `[batch]`.

    Raises:
        ValueError: As `norm_direction_loss`.

    >>> direction_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.4000)
    """
    projection = _projection(student_features, class_means, target)
    return reduce(1 - _ratio(projection, at_least_float32(student_features).norm(dim=1)), reduction)


def feature_norm_loss(
    student_features: Float[Tensor, "batch width"],
    target_norm: float | Float[Tensor, "batch"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """ND's norm alone: ℓ = max(0, 1 − ‖f_s‖ / target), whatever the direction.

    Our form of the baseline; the paper raises norms in the manner of stepwise adaptive feature norms. The gradient
    reaches `student_features` only; where they are 0 it is 0.

    Args:
        student_features: `[batch, width]`.
        target_norm: The norm to reach: a number, or one a sample `[batch]` (the teacher's).
        reduction: `"mean"` over the batch, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In [0, 1], in float32 or wider: a scalar, or `[batch]`.

    Raises:
        ValueError: A number that is not positive, a negative norm, norms of another length, features that are not
            finite, or an unknown reduction.

    >>> feature_norm_loss(torch.tensor([[3.0, 4.0]]), 10.0)
    tensor(0.5000)
    """
    check_finite(student_features, "student_features")
    norm = at_least_float32(student_features).norm(dim=1)
    if isinstance(target_norm, Tensor):
        goal = _norms(target_norm, "target_norm", len(student_features)).to(norm.dtype)
    else:
        check_positive(target_norm, "target_norm")
        goal = norm.new_full((), target_norm)
    # Relative shortfall without dividing by a goal of 0, which any norm reaches.
    shortfall = torch.where(goal > 0, 1 - norm / torch.where(goal > 0, goal, 1), 0)
    return reduce(shortfall.clamp_min(0), reduction)


class _FeatureObjective(Objective):
    """Reads both embeddings; where their widths differ, the student's goes through a projector that learns with it."""

    reads: tuple[str, ...] = ("student.embedding", "teacher.embedding", "batch.target")

    def __init__(self, dropout: float) -> None:
        super().__init__()
        check_in_range(dropout, "dropout", 0.0, 1.0)
        self.dropout = dropout
        self.projector: FeatureProjector | None = None

    def build(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> None:
        """Make the projector if the two widths differ."""
        student_features = _embedding(student, "student", self)
        teacher_features = _embedding(teacher, "teacher", self)
        widths = student_features.shape[1], teacher_features.shape[1]
        if widths[0] != widths[1] and self.projector is None:
            self.projector = FeatureProjector(*widths, dropout=self.dropout).to(student_features.device)

    def projected(self, student_features: Tensor) -> Tensor:
        """The student's features at the teacher's width."""
        if self.projector is None:
            return student_features
        projected: Tensor = self.projector(student_features)
        return projected


class _ClassMeanObjective(_FeatureObjective):
    """Also holds the teacher's class means, a buffer; those that are not given come from the training data."""

    class_means: Tensor | None

    def __init__(self, class_means: Tensor | None, dropout: float) -> None:
        super().__init__(dropout)
        self._given = class_means is not None
        self.register_buffer("class_means", None if class_means is None else class_means.detach().clone())

    def build(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> None:
        """Make the projector, and room for the class means."""
        super().build(student, teacher, batch)
        features = _embedding(teacher, "teacher", self)
        if self.class_means is None:
            if student.logits is None:
                raise ValueError(
                    f"{type(self).__name__} counts classes by `student.logits`, but the student gives none."
                )
            self.class_means = features.new_full(
                (student.logits.shape[-1], features.shape[1]), torch.nan, dtype=at_least_float32(features[:0]).dtype
            )
        _check_width(features, self.class_means, "teacher.embedding")

    def prepare(self, lessons: Iterable[tuple[Outputs | None, Batch]]) -> None:
        """Take the class means from what the teacher says about the training data."""
        if self._given:
            return
        assert self.class_means is not None
        means = ClassConditionalMean(len(self.class_means))
        for teacher, batch in lessons:
            if batch.target is None:
                raise ValueError(f"{type(self).__name__} reads `batch.target`, but the batch gives none.")
            means.update(_embedding(teacher, "teacher", self), batch.target)
        few = ((means.counts > 0) & (means.counts < _FEW_SAMPLES)).nonzero().flatten().tolist()
        if few:
            warnings.warn(
                f"The class means of {len(few)} classes ({', '.join(map(str, few[:8]))}{', …' if few[8:] else ''}) "
                f"come from fewer than {_FEW_SAMPLES} samples each.",
                stacklevel=2,
            )
        # A class without training samples is never asked for in training, so its row may stay NaN.
        self.class_means.copy_(means.compute(missing="nan"))

    def known_class_means(self) -> Tensor:
        """The class means, when there are any."""
        if self.class_means is None:
            raise ValueError(
                f"{type(self).__name__} needs class means: give `class_means`, or let a run take them from the teacher."
            )
        return self.class_means


class NormDirectionLoss(_ClassMeanObjective, name="nd"):
    """Mean `norm_direction_loss` of a batch; an add-on to cross-entropy and a distillation loss (KD++, DKD++, …).

    In a run nothing need be given: before the first step the teacher is asked about all training samples, the class
    means become a buffer, and with a student of another width a `FeatureProjector` learns beside it.

    Args:
        class_means: `[classes, width]` of the teacher; None takes them from the run's teacher and training data.
        dropout: Of the projector, if there is one.

    >>> objective = NormDirectionLoss(torch.tensor([[2.0, 0.0]]))
    >>> objective(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]]), torch.tensor([0]))
    tensor(0.7000)
    """

    def __init__(self, class_means: Tensor | None = None, *, dropout: float = 0.5) -> None:
        super().__init__(class_means, dropout)

    def loss(self, student_features: Tensor, teacher_features: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch."""
        return norm_direction_loss(self.projected(student_features), teacher_features, self.known_class_means(), target)


class DirectionLoss(_ClassMeanObjective):
    """Mean `direction_loss` of a batch: `NormDirectionLoss` without the norm.

    Args:
        class_means: `[classes, width]` of the teacher; None takes them from the run's teacher and training data.
        dropout: Of the projector, if there is one.

    >>> objective = DirectionLoss(torch.tensor([[2.0, 0.0]]))
    >>> objective(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]]), torch.tensor([0]))
    tensor(0.4000)
    """

    def __init__(self, class_means: Tensor | None = None, *, dropout: float = 0.5) -> None:
        super().__init__(class_means, dropout)

    def loss(self, student_features: Tensor, teacher_features: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch."""
        return direction_loss(self.projected(student_features), self.known_class_means(), target)


class FeatureNormLoss(_FeatureObjective):
    """Mean `feature_norm_loss` of a batch against the teacher's norms: `NormDirectionLoss` without the direction.

    Args:
        dropout: Of the projector, if there is one.

    >>> FeatureNormLoss()(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]]))
    tensor(0.5000)
    """

    reads = ("student.embedding", "teacher.embedding")

    def __init__(self, *, dropout: float = 0.5) -> None:
        super().__init__(dropout)

    def loss(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        """The mean over the batch."""
        student = self.projected(student_features)
        return feature_norm_loss(student, _teacher_norm(teacher_features, student))


def _projection(student_features: Tensor, class_means: Tensor, target: Tensor) -> Tensor:
    """⟨f_s, e_y⟩ of every sample, `[batch]`, after all checks."""
    check_floating(student_features, "student_features")
    check_finite(student_features, "student_features")
    _check_width(student_features, class_means, "student_features")
    check_target(target, len(class_means), shape=student_features.shape[:1])
    student = at_least_float32(student_features)
    own = at_least_float32(class_means.detach())[target].to(student.dtype)
    length = own.norm(dim=1)
    usable = (length > 0) & length.isfinite()
    if not usable.all():
        label = int(target[~usable][0])
        raise ValueError(
            f"Expected argument `class_means` to hold a finite mean of positive length for class {label}, "
            f"but its length is {float(length[~usable][0])}."
        )
    projection: Tensor = (student * own).sum(dim=1) / length
    return projection


def _ratio(projection: Tensor, norm: Tensor) -> Tensor:
    """Projection over norm; where the norm is 0, so that there is no direction, a 0 without a gradient."""
    known = norm > 0
    return torch.where(known, projection, 0) / torch.where(known, norm, 1)


def _teacher_norm(teacher_features: Tensor, student_features: Tensor) -> Tensor:
    """The teacher's norms `[batch]`, from its features or as they are."""
    if teacher_features.ndim == 1:
        norms = _norms(teacher_features, "teacher_features", len(student_features))
    elif teacher_features.shape != student_features.shape:
        raise ValueError(
            f"Expected argument `teacher_features` to have shape {tuple(student_features.shape)} like "
            f"`student_features`, or [{len(student_features)}] for norms, but got {tuple(teacher_features.shape)}."
        )
    else:
        check_finite(teacher_features, "teacher_features")
        norms = at_least_float32(teacher_features.detach()).norm(dim=1)
    return norms.to(at_least_float32(student_features[:0]).dtype)


def _norms(norms: Tensor, name: str, count: int) -> Tensor:
    check_finite(norms, name)
    if norms.shape != (count,):
        raise ValueError(f"Expected argument `{name}` to have shape ({count},), but got {tuple(norms.shape)}.")
    if (norms < 0).any():
        raise ValueError(f"Expected argument `{name}` to hold norms of at least 0, but got {float(norms.min()):.6g}.")
    return norms.detach()


def _check_width(features: Tensor, class_means: Tensor, name: str) -> None:
    if features.shape[1] != class_means.shape[1]:
        raise ValueError(
            f"Expected arguments `{name}` and `class_means` to have the same width, but got {features.shape[1]} and "
            f"{class_means.shape[1]}; a `FeatureProjector` brings features to another width."
        )


def _embedding(outputs: Outputs | None, side: str, objective: Objective) -> Tensor:
    embedding = None if outputs is None else outputs.embedding
    if embedding is None:
        raise ValueError(f"{type(objective).__name__} reads `{side}.embedding`, but the {side} gives none.")
    if embedding.ndim != 2:
        raise ValueError(
            f"{type(objective).__name__} expects `{side}.embedding` to have shape [batch, width], "
            f"but got {tuple(embedding.shape)}."
        )
    return embedding
