"""MaKD: a classifier that answers questions about the input beside its class, taught by soft answers.

Source: "Multi-aspect Knowledge Distillation with Large Language Model", arXiv 2501.13341.

The last layer gets Q outputs after its C classes, one a yes/no question ("aspect"). Their targets are the probabilities
of "yes" that a multimodal language model gave for the training images. A last layer of C + Q outputs is the same as two
layers side by side on one embedding, and that is how `AspectDistillation` teaches: the student stays a classifier of C
classes, which is evaluated, saved and exported as ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tutelage._checks import (
    Reduction,
    check_at_least,
    check_non_negative,
    check_option,
    check_same_shape,
    check_target,
    check_unit_interval,
    reduce,
)
from tutelage.batch import Batch
from tutelage.features.heads import expand_classifier
from tutelage.objectives.objective import Objective
from tutelage.objectives.precision import at_least_float32
from tutelage.outputs import Outputs


def aspect_distillation(
    outputs: Float[Tensor, "batch outputs"],
    labels: Int[Tensor, "..."],
    aspect_targets: Float[Tensor, "..."],
    *,
    num_classes: int,
    aspect_weight: float = 4.0,
    class_weight: float = 1.0,
    mask: Bool[Tensor, "..."] | None = None,
    reduction: Reduction = "mean",
) -> dict[str, Tensor]:
    """Cross-entropy of the classes, and binary cross-entropy of the answers to the questions.

    total = class_weight · CE(z_cls, y) + aspect_weight · BCE(z_asp, a), where z = (z_cls, z_asp), classes first. The
    BCE is a mean over questions, so that a question counts less the more there are. Its smallest value is not 0 but the
    entropy of the answers: ln 2 for answers of 0.5. Only `outputs` get a gradient.

    Args:
        outputs: `[batch, num_classes + questions]`, classes first.
        labels: `[batch]` classes.
        aspect_targets: `[batch, questions]` probabilities of "yes", in [0, 1]; not rounded to yes or no.
        num_classes: C, which tells classes from questions.
        aspect_weight: Weight of the answers (the paper's α; 4 in the released configuration).
        class_weight: Weight of the classes.
        mask: `[batch, questions]`, true where a question was answered; other targets are not looked at and may be NaN.
        reduction: `"mean"`: of the cross-entropy over the batch, and of the answers over all that there are;
            `"none"`: `[batch]` each, the answers as the mean over a sample's own; `"sum"`: the sum of these.

    Returns:
        `total`, and `classification` and `aspect` without their weights, in float32 or wider. Without any answer
        `aspect` is 0.

    Raises:
        ValueError: Another number of outputs than classes and questions, no question, an answer outside [0, 1] or NaN
            where there should be one, a label outside the classes, a negative weight, or an unknown reduction.

    >>> losses = aspect_distillation(torch.zeros(1, 3), torch.tensor([0]), torch.ones(1, 1), num_classes=2)
    >>> {name: round(value.item(), 6) for name, value in losses.items()}
    {'total': 3.465736, 'classification': 0.693147, 'aspect': 0.693147}
    """
    check_at_least(num_classes, "num_classes", 1)
    check_non_negative(aspect_weight, "aspect_weight")
    check_non_negative(class_weight, "class_weight")
    check_option(reduction, "reduction", ("mean", "sum", "none"))
    targets, answered = _answers(aspect_targets, mask)
    batch, questions = targets.shape
    if outputs.shape != (batch, num_classes + questions):
        raise ValueError(
            f"Expected argument `outputs` to have shape ({batch}, {num_classes + questions}) for {num_classes} classes "
            f"and {questions} questions, but got {tuple(outputs.shape)}."
        )
    check_target(labels, num_classes, shape=(batch,), name="labels")
    outputs = at_least_float32(outputs)
    classes, aspects = outputs[:, :num_classes], outputs[:, num_classes:]
    classification = F.cross_entropy(classes, labels.long(), reduction=reduction)
    entropies = F.binary_cross_entropy_with_logits(aspects, targets.to(aspects.dtype), reduction="none")
    if answered is None:
        aspect = reduce(entropies.mean(dim=1), reduction)
    elif reduction == "mean":
        aspect = entropies.where(answered, 0).sum() / answered.sum().clamp_min(1)
    else:
        aspect = reduce(entropies.where(answered, 0).sum(dim=1) / answered.sum(dim=1).clamp_min(1), reduction)
    total = class_weight * classification + aspect_weight * aspect
    return {"total": total, "classification": classification, "aspect": aspect}


def _answers(aspect_targets: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Checked answers, with a harmless number where there is none: a NaN times 0 would still be NaN in gradients."""
    if aspect_targets.ndim != 2 or aspect_targets.shape[1] == 0:
        raise ValueError(
            "Expected argument `aspect_targets` to have shape [batch, questions] with at least 1 question, "
            f"but got {tuple(aspect_targets.shape)}."
        )
    targets = aspect_targets.detach()
    if mask is not None:
        check_same_shape(mask, aspect_targets, "mask", "aspect_targets")
        targets = targets.where(mask, 0.5)
    check_unit_interval(targets, "aspect_targets")
    return targets.clamp(0, 1), mask


def yes_no_probability(
    logits: Float[Tensor, "... vocabulary"], yes_id: int | Sequence[int], no_id: int | Sequence[int]
) -> Float[Tensor, "..."]:
    """The probability of "yes" against "no" alone, from the logits of the first token of an answer.

    p = Σ_yes exp(ℓ) / (Σ_yes exp(ℓ) + Σ_no exp(ℓ)) = σ(logsumexp(ℓ_yes) − logsumexp(ℓ_no)): a softmax over two answers,
    each the sum of its spellings. All other tokens are left out.

    Args:
        logits: `[…, vocabulary]`, in any precision.
        yes_id: The token of "yes", or one for each of its spellings.
        no_id: The same for "no".

    Returns:
        `[…]` in [0, 1], in float32 or wider.

    Raises:
        ValueError: No token, one outside the vocabulary, or one that stands for both answers.

    >>> yes_no_probability(torch.tensor([2.0, 0.0, 9.0]), yes_id=0, no_id=1)
    tensor(0.8808)
    """
    yes, no = _token_ids(yes_id, "yes_id", logits), _token_ids(no_id, "no_id", logits)
    if set(yes) & set(no):
        raise ValueError(f"Expected arguments `yes_id` and `no_id` to be different tokens, but got {yes} and {no}.")
    agree, deny = (at_least_float32(logits[..., ids]).logsumexp(dim=-1) for ids in (yes, no))
    return torch.sigmoid(agree - deny)


def _token_ids(ids: int | Sequence[int], name: str, logits: Tensor) -> list[int]:
    listed = [ids] if isinstance(ids, int) else list(ids)
    vocabulary = logits.shape[-1]
    if not listed or not all(0 <= token < vocabulary for token in listed):
        raise ValueError(f"Expected argument `{name}` to hold tokens in [0, {vocabulary}), but got {ids}.")
    return listed


class AspectDistillation(Objective):
    """`aspect_distillation` for a student of any kind, which stays a classifier of its C classes.

    The Q further outputs are a layer of their own on the embedding that the student's last layer reads. Together the
    two layers are one of C + Q outputs: they give the same outputs, gradients and training. The layer learns beside the
    student, lies in its checkpoints, and is left out where the student is evaluated or saved; `widened` puts the two
    into one layer, when the answers are wanted too.

    The loss holds the cross-entropy of the labels. Answers come with the samples, in `extras["aspects"]`
    `[batch, questions]`; NaN is a question without an answer (see `tutelage.teachers.AnsweredSamples`).

    Args:
        aspect_weight: Weight of the answers.
        class_weight: Weight of the labels; 0 leaves them to another objective.

    >>> objective = AspectDistillation(aspect_weight=4.0)
    >>> student = Outputs(logits=torch.zeros(1, 2), embedding=torch.zeros(1, 5))
    >>> batch = Batch(torch.zeros(1, 3), torch.tensor([0]), torch.arange(1), {"aspects": torch.ones(1, 1)})
    >>> objective.build(student, None, batch)
    >>> _ = nn.init.zeros_(objective.aspect_head.bias)
    >>> round(objective(student, None, batch).item(), 6)
    3.465736
    """

    reads = ("student.logits", "student.embedding", "batch.target", "batch.extras.aspects")

    def __init__(self, *, aspect_weight: float = 4.0, class_weight: float = 1.0) -> None:
        super().__init__()
        check_non_negative(aspect_weight, "aspect_weight")
        check_non_negative(class_weight, "class_weight")
        self.aspect_weight = aspect_weight
        self.class_weight = class_weight
        self.aspect_head: nn.Linear | None = None

    def build(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> None:
        """Make the layer that answers, with a width for each side."""
        embedding, answers = student.embedding, batch.extras.get("aspects")
        if embedding is None or answers is None:
            missing = "batch.extras.aspects" if answers is None else "student.embedding"
            raise ValueError(f"{type(self).__name__} reads `{missing}`, but there is none.")
        if embedding.ndim != 2 or answers.ndim != 2 or answers.shape[1] == 0:
            raise ValueError(
                f"{type(self).__name__} expects an embedding [batch, width] and answers [batch, questions], "
                f"but got {tuple(embedding.shape)} and {tuple(answers.shape)}."
            )
        if self.aspect_head is None:
            self.aspect_head = nn.Linear(embedding.shape[1], answers.shape[1]).to(embedding.device)

    def loss(self, logits: Tensor, embedding: Tensor, labels: Tensor, aspects: Tensor) -> Tensor:
        """The mean over the batch."""
        outputs = torch.cat([logits, self._head()(embedding)], dim=1)
        unanswered = aspects.isnan()
        losses = aspect_distillation(
            outputs,
            labels,
            aspects,
            num_classes=logits.shape[1],
            aspect_weight=self.aspect_weight,
            class_weight=self.class_weight,
            mask=~unanswered if unanswered.any() else None,
        )
        return losses["total"]

    def answers(self, embedding: Float[Tensor, "batch width"]) -> Float[Tensor, "batch questions"]:
        """What the student says, `[batch, questions]` probabilities of "yes", from its embedding `[batch, width]`."""
        answered: Tensor = torch.sigmoid(at_least_float32(self._head()(embedding)))
        return answered

    def widened(self, classifier: nn.Linear) -> nn.Linear:
        """The student's last layer with the answers after its classes: `[…, width]` → `[…, C + Q]`.

        Args:
            classifier: The student's last layer; it is left as it is.

        Raises:
            ValueError: A layer of another width, or one without a bias.
        """
        head = self._head()
        if classifier.in_features != head.in_features or classifier.bias is None:
            raise ValueError(
                f"Expected argument `classifier` to read {head.in_features} features and to have a bias, "
                f"but got {classifier}."
            )
        wider = expand_classifier(classifier, head.out_features)
        with torch.no_grad():
            wider.weight[classifier.out_features :] = head.weight
            wider.bias[classifier.out_features :] = head.bias
        return wider

    def _head(self) -> nn.Linear:
        if self.aspect_head is None:
            raise ValueError(f"{type(self).__name__} has no layer yet: call `build`, or let a run do it.")
        return self.aspect_head
