"""Plackett–Luce rankings of classes, and the distillation loss on them (PLD, arXiv 2506.12542)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tutelage._checks import (
    Reduction,
    check_at_least,
    check_finite,
    check_option,
    check_positive,
    check_same_logits,
    check_target,
)
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import IGNORE_INDEX, reduce_over_labels
from tutelage.objectives.precision import at_least_float32

RankWeights = Literal["teacher", "uniform", "position"]
RankedRows = Callable[[slice], tuple[Tensor, Tensor]]
"""For some rows: their permutations `[rows, classes]`, best first, and weights by rank (that shape or `[classes]`)."""


def teacher_optimal_permutation(
    teacher_logits: Float[Tensor, "batch classes"], target: Tensor
) -> Int64[Tensor, "batch classes"]:
    """The ranking that PLD asks for: the label first, the other classes by descending teacher logit (section 4.1).

    Ties keep the order of the classes, so that the result is reproducible.

    Args:
        teacher_logits: `[batch, classes]`.
        target: `[batch]` classes.

    Returns:
        `[batch, classes]`: the class at each rank.

    Raises:
        ValueError: Non-finite teacher logits, or a target of another shape or outside the classes.

    >>> teacher_optimal_permutation(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([2]))
    tensor([[2, 0, 1]])
    """
    check_finite(teacher_logits, "teacher_logits")
    check_target(target, teacher_logits.shape[-1], shape=teacher_logits.shape[:-1])
    return _teacher_order(teacher_logits, target.long())[0]


def plackett_luce_log_likelihood(
    scores: Float[Tensor, "batch items"], permutation: Int64[Tensor, "batch items"], *, per_rank: bool = False
) -> Float[Tensor, "..."]:
    """Log-probability of a ranking under the Plackett–Luce model with worths exp(scores).

    log P(π) = Σ_k (s_{π_k} − logsumexp_{l ≥ k} s_{π_l}): each rank draws one of the items that are left, in proportion
    to their worth. The gradient reaches `scores`.

    Args:
        scores: `[batch, items]`.
        permutation: `[batch, items]`, the item at each rank, best first.
        per_rank: Return the terms of the sum, by rank, instead of the sum. The last one is 0.

    Returns:
        `[batch]` or `[batch, items]`, not positive, in float32 or wider.

    >>> plackett_luce_log_likelihood(torch.zeros(1, 3), torch.tensor([[2, 0, 1]])).exp()
    tensor([0.1667])
    """
    ranked = at_least_float32(scores).gather(-1, permutation)
    terms = ranked - ranked.flip(-1).logcumsumexp(dim=-1).flip(-1)
    return terms if per_rank else terms.sum(dim=-1)


def plackett_luce_distillation(
    student_logits: Float[Tensor, "... classes"],
    teacher_logits: Float[Tensor, "..."],
    target: Tensor,
    *,
    temperature: float = 1.0,
    weights: RankWeights = "teacher",
    ignore_index: int = IGNORE_INDEX,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """PLD (section 4.2): the likelihood of the teacher-optimal ranking, each rank weighted by the teacher's confidence.

    ℓ = Σ_k α_k (logsumexp_{l ≥ k} s_{π_l} − s_{π_k}), where π puts the label first and the other classes in the
    teacher's order, and α_k = softmax(t / temperature)_{π_k}. It replaces cross-entropy and distillation together: its
    first term is α_1 times the cross-entropy. The student's logits are not softened, there is no factor T², and no
    gradient reaches the teacher. When a confident teacher is wrong, α_1 and with it the label's weight is small.

    Time is that of one sort and a few passes; extra memory is one gradient of the size of the logits.

    Args:
        student_logits: `[..., classes]`.
        teacher_logits: `[..., classes]`.
        target: `[...]` classes, or `ignore_index` at positions to skip.
        temperature: Softens the weights, and nothing else.
        weights: `"teacher"`; or, for comparison, `"uniform"` (1 / classes, ListMLE up to that factor) or `"position"`
            (α_k ∝ 2^(classes − k) − 1, position-aware ListMLE); these sum to 1 as well.
        ignore_index: The label of positions to skip.
        reduction: `"mean"` over the labelled positions, `"sum"`, or `"none"` (the shape of `target`, 0 where skipped).

    Returns:
        In float32 or wider: a scalar, or `[...]`.

    Raises:
        ValueError: Logits of different shapes, fewer than two classes, a target outside the classes, a temperature that
            is not positive, non-finite teacher logits, or an unknown option.

    >>> student, teacher = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 2.0, 1.0]])
    >>> plackett_luce_distillation(student, teacher, torch.tensor([0]))
    tensor(0.3478)
    """
    check_same_logits(student_logits, teacher_logits)
    check_at_least(student_logits.shape[-1], "student_logits.shape[-1]", 2)
    check_positive(temperature, "temperature")
    check_option(weights, "weights", ("teacher", "uniform", "position"))
    check_finite(teacher_logits, "teacher_logits")

    def loss(labels: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        return _ranked_by_teacher(student, teacher.detach(), labels, temperature, weights)

    return reduce_over_labels(
        loss, target, student_logits, teacher_logits, ignore_index=ignore_index, reduction=reduction
    )


def list_wise_retrieval_distillation(
    student_scores: Float[Tensor, "queries documents"],
    teacher_scores: Float[Tensor, "..."],
    positive_index: int | Tensor = 0,
    *,
    temperature: float = 1.0,
    weights: RankWeights = "teacher",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """`plackett_luce_distillation` for lists of documents: the relevant one plays the part of the label.

    Args:
        student_scores: `[queries, documents]`.
        teacher_scores: `[queries, documents]`.
        positive_index: The place of the relevant document, the same in every list or `[queries]`.
        temperature: Softens the weights, and nothing else.
        weights: `"teacher"`, `"uniform"` or `"position"`.
        reduction: `"mean"` over queries, `"sum"`, or `"none"` (`[queries]`).

    Returns:
        In float32 or wider: a scalar, or `[queries]`.

    Raises:
        ValueError: As `plackett_luce_distillation`.

    >>> list_wise_retrieval_distillation(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 2.0, 1.0]]))
    tensor(0.3478)
    """
    if isinstance(positive_index, int):
        positive_index = torch.full(student_scores.shape[:1], positive_index, device=student_scores.device)
    return plackett_luce_distillation(
        student_scores, teacher_scores, positive_index, temperature=temperature, weights=weights, reduction=reduction
    )


def position_weights(num_ranks: int, like: Tensor) -> Tensor:
    """α_k ∝ 2^(n − k) − 1 for the ranks k = 1 … n, summing to 1; computed as 2^−k − 2^−n, which does not overflow.

    >>> position_weights(3, torch.zeros(0))
    tensor([0.7500, 0.2500, 0.0000])
    """
    ranks = torch.arange(1, num_ranks + 1, dtype=torch.float64, device=like.device)
    weights = torch.exp2(-ranks) - 2.0**-num_ranks
    return (weights / weights.sum()).to(at_least_float32(like[:0]).dtype)


def weighted_ranking_loss(scores: Tensor, ranked: RankedRows) -> Tensor:
    """Σ_k α_k (logsumexp_{l ≥ k} s_{π_l} − s_{π_k}) of each row: the core of PLD and ListMLE.

    Args:
        scores: `[rows, items]`. The gradient reaches them, twice if asked.
        ranked: Gives the permutations and weights of some rows. It is called for one block of rows after the other, so
            that memory stays small and near. Weights get no gradient and must not be negative.

    Returns:
        `[rows]`, in float32 or wider.

    >>> weighted_ranking_loss(torch.zeros(1, 3), lambda rows: (torch.tensor([[2, 0, 1]]), torch.ones(3))).neg().exp()
    tensor([0.1667])
    """
    result: Tensor = _WeightedRankingLoss.apply(scores, ranked)  # type: ignore[no-untyped-call]
    return result


class PlackettLuceDistillation(Objective, name="pld"):
    """Mean `plackett_luce_distillation` over the labelled positions of a batch; it stands alone, without cross-entropy.

    Args:
        temperature: Softens the weights, and nothing else.
        weights: `"teacher"`, `"uniform"` or `"position"`.
        ignore_index: The label of positions to skip.

    >>> objective = PlackettLuceDistillation(temperature=4.0)
    >>> objective(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([0]))
    tensor(0.2732)
    """

    needs_many_classes = True

    def __init__(
        self, *, temperature: float = 1.0, weights: RankWeights = "teacher", ignore_index: int = IGNORE_INDEX
    ) -> None:
        super().__init__()
        check_positive(temperature, "temperature")
        check_option(weights, "weights", ("teacher", "uniform", "position"))
        self.temperature = temperature
        self.weights: RankWeights = weights
        self.ignore_index = ignore_index

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over labelled positions."""
        return plackett_luce_distillation(
            student_logits,
            teacher_logits,
            target,
            temperature=self.temperature,
            weights=self.weights,
            ignore_index=self.ignore_index,
        )


def _ranked_by_teacher(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, weights: RankWeights
) -> Tensor:
    fixed = None
    if weights == "uniform":
        fixed = torch.full_like(at_least_float32(student[:1, 0]), 1 / student.shape[1])
    elif weights == "position":
        fixed = position_weights(student.shape[1], like=student)

    def ranked(rows: slice) -> tuple[Tensor, Tensor]:
        permutation, ordered = _teacher_order(teacher[rows], labels[rows])
        return permutation, (at_least_float32(ordered) / temperature).softmax(dim=1) if fixed is None else fixed

    return weighted_ranking_loss(student, ranked)


def _teacher_order(teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The permutation, and the teacher's logits in its order: sorting yields these anyway, which saves a gather."""
    labels = labels[:, None]
    keys = _integers_in_the_same_order(at_least_float32(teacher) + 0.0)  # + 0.0: minus zero ties with zero
    of_labels = keys.gather(1, labels)
    keys.scatter_(1, labels, torch.iinfo(keys.dtype).max)
    ordered, permutation = keys.sort(dim=1, descending=True, stable=True)
    ordered[:, :1] = of_labels
    return permutation, _integers_in_the_same_order(ordered)


def _integers_in_the_same_order(value: Tensor) -> Tensor:
    """Map floating-point numbers to integers that sort alike, or such integers back; a CPU sorts them 1.4 times faster.

    The bits of positive numbers grow with them; those of negative numbers shrink, so all but the sign are inverted.
    """
    floating = value.is_floating_point()
    integer, real = (torch.int64, torch.float64) if value.element_size() == 8 else (torch.int32, torch.float32)
    bits = value.view(integer) if floating else value
    bits = bits ^ ((bits >> (torch.iinfo(integer).bits - 1)) & torch.iinfo(integer).max)
    return bits if floating else bits.view(real)


# Suffix sums of exp(s − max s) stay far inside float32's range (e^±87) while scores spread less than this. It leaves
# e^27 for weights. Rows that spread wider are summed in the log domain, which is 20 times slower on a CPU.
_WIDEST_SPREAD = 60.0
_BLOCK = 2**20  # numbers: a few MiB at a time; smaller blocks gain nothing and pay for starting threads more often
_BLOCK_ON_ACCELERATOR = 2**26


def _blocks(scores: Tensor) -> Iterator[slice]:
    size = max(1, (_BLOCK if scores.device.type == "cpu" else _BLOCK_ON_ACCELERATOR) // max(1, scores.shape[1]))
    return (slice(start, start + size) for start in range(0, len(scores), size))


class _WeightedRankingLoss(torch.autograd.Function):
    """Loss and gradient (paper, appendix A) in one go, block by block.

    With S_k = Σ_{l ≥ k} exp s_{π_l}, what is left to rank k, ∂ℓ/∂s_{π_j} = exp(s_{π_j}) Σ_{k ≤ j} α_k / S_k − α_j.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, ranked: RankedRows) -> Tensor:
        loss = scores.new_empty(len(scores), dtype=at_least_float32(scores[:0]).dtype)
        gradient = torch.empty_like(scores) if ctx.needs_input_grad[0] else None
        for rows in _blocks(scores):
            permutation, weights = ranked(rows)
            shifted = at_least_float32(scores[rows].gather(1, permutation))
            shifted -= shifted.amax(dim=1, keepdim=True)
            if shifted.amin() >= -_WIDEST_SPREAD:
                worth = shifted.exp()
                left = worth.flip(1).cumsum(dim=1).flip(1)
                loss[rows] = (weights * (left.log() - shifted)).sum(dim=1)
                if gradient is not None:
                    slope = (weights / left).cumsum(dim=1).mul_(worth).sub_(weights)
            else:
                log_left = shifted.flip(1).logcumsumexp(dim=1).flip(1)
                loss[rows] = (weights * (log_left - shifted)).sum(dim=1)
                if gradient is not None:
                    slope = ((weights.log() - log_left).logcumsumexp(dim=1) + shifted).exp().sub_(weights)
            if gradient is not None:
                gradient[rows].scatter_(1, permutation, slope.to(gradient.dtype))
        ctx.ranked = ranked
        ctx.save_for_backward(scores, gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        scores, gradient = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return (gradient * grad_loss[:, None]).to(scores.dtype), None
        # A gradient of the gradient is asked for (bilevel methods): go through operations that autograd knows.
        permutation, weights = ctx.ranked(slice(None))
        loss = -(weights * plackett_luce_log_likelihood(scores, permutation, per_rank=True)).sum(dim=1)
        (slope,) = torch.autograd.grad(loss, scores, grad_loss, create_graph=True)
        return slope, None
