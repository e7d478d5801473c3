"""Label-distributionally robust losses: the worst case over a distribution on labels, with a price for leaving uniform.

ψ_λ = max_p Σ_k p_k (s_k − s_y + c·1[k≠y]) − λ KL(p ‖ uniform): cross-entropy (less log K) at λ = 1 and c = 0, the
Crammer–Singer loss as λ → 0, and linear in the scores, so symmetric for bounded ones, as λ → ∞. The adaptive form keeps
one λ for each training example: an undecided one stays near λ0, a confidently scored one gets a smaller, sharper λ.

Source: Zhu, Ying and Yang, "Label Distributionally Robust Losses for Multi-class Classification: Consistency,
Robustness and Adaptivity", ICML 2023, arXiv 2112.14869; code Optimization-AI/ICML2023_LDR.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.distributed
import torch.nn.functional as F
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
from tutelage.objectives.label_loss import _LabelLoss
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import IGNORE_INDEX
from tutelage.objectives.precision import at_least_float32

ScoreTransform = Literal["softplus_l1", "l1"] | None
"""How logits become scores of bounded size; None takes them as they are."""

SMALLEST_MEAN = 1e-12
CODE_FLOOR = 1e-5
"""What the authors' code adds to every probability before it takes the divergence."""


def normalize_scores(
    scores: Float[Tensor, "... classes"], *, transform: ScoreTransform = "softplus_l1"
) -> Float[Tensor, "... classes"]:
    """Scores of bounded size, which consistency together with robustness asks for: s / mean_k |s_k|, so that Σ|s| = K.

    Without it a temperature only rescales logits. The gradient flows through the normalisation. A mean below 1e-12
    counts as that.

    Args:
        scores: `[..., classes]` logits.
        transform: `"softplus_l1"`: softplus first, so scores are not negative. `"l1"`: signed. None: nothing.

    Returns:
        Of the same shape, in float32 or wider.

    Raises:
        ValueError: An unknown transform.

    >>> normalize_scores(torch.tensor([[1.0, -3.0]]), transform="l1")
    tensor([[ 0.5000, -1.5000]])
    """
    check_option(transform, "transform", ("softplus_l1", "l1", None))
    scores = at_least_float32(scores)
    if transform is None:
        return scores
    if transform == "softplus_l1":
        scores = F.softplus(scores)
    size = scores if transform == "softplus_l1" else scores.abs()
    return scores * size.mean(dim=-1, keepdim=True).clamp_min(SMALLEST_MEAN).reciprocal()


def label_distributionally_robust_loss(
    scores: Float[Tensor, "batch classes"],
    target: Int[Tensor, "..."],
    *,
    temperature: float | Float[Tensor, "..."] = 1.0,
    margin: float = 0.1,
    score_transform: ScoreTransform = "softplus_l1",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """LDR-KL: ψ_λ = λ log((1/K) Σ_k exp((s_k − s_y + c·1[k≠y]) / λ)).

    Convex in the scores; its gradient with respect to them is p − onehot(y), p ∝ exp((s + c·1[k≠y]) / λ), of a size
    that does not depend on λ. It never rises with λ: dψ/dλ = −KL(p ‖ uniform); a temperature that requires a gradient
    gets it. With normalised scores (near 1) and λ = 10 it is almost linear, and wants a larger learning rate than
    cross-entropy. The value is exact to about 1e-7 · λ log K in float32, its gradient independently of λ.

    Args:
        scores: `[batch, classes]` logits.
        target: `[batch]` classes.
        temperature: λ, a number or one for each sample (`[batch]`).
        margin: c.
        score_transform: See `normalize_scores`.
        reduction: `"mean"`, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider.

    Raises:
        ValueError: A temperature that is not positive or of another shape, a negative margin, an unknown transform or
            reduction, or a target of another shape or outside the classes.

    Source: arXiv 2112.14869, the closed form of the LDR-KL loss.

    >>> scores, target = torch.tensor([[1.0, 0.0]]), torch.tensor([1])
    >>> label_distributionally_robust_loss(scores, target, temperature=2.0, margin=0.0, score_transform=None)
    tensor(0.5619)
    """
    _check(scores, target, temperature, margin)
    scores = normalize_scores(scores, transform=score_transform)
    return reduce(_robust_loss(scores, target.long(), temperature, margin), reduction)


def adaptive_ldr_temperature(
    scores: Float[Tensor, "batch classes"],
    target: Int[Tensor, "..."],
    *,
    initial_temperature: float,
    current_temperature: Float[Tensor, "..."],
    alpha: float = 2.0,
    margin: float = 0.1,
    margin_in_weights: bool = True,
) -> Float[Tensor, "batch"]:
    """One half-step of the adaptive loss: λ ← λ0 (1 − KL(p ‖ uniform) / (α log K)) with p at the current λ.

    It is the exact maximiser over λ for fixed p, so a half-step never lowers the objective. No gradient passes.

    Args:
        scores: `[batch, classes]`, already transformed.
        target: `[batch]` classes.
        initial_temperature: λ0.
        current_temperature: `[batch]`: the λ of each sample that p is taken at.
        alpha: α > 1 keeps λ in [λ0 (1 − 1/α), λ0]; ∞ would keep λ0.
        margin: c.
        margin_in_weights: p ∝ exp((s + c·1[k≠y]) / λ), as derived. False: p ∝ exp(s / λ), plus 1e-5 each and
            normalised, as the authors' code has it.

    Returns:
        `[batch]`, detached.

    Raises:
        ValueError: A temperature that is not positive or of another shape, α ≤ 1, a negative margin, fewer than two
            classes, or a target of another shape or outside the classes.

    Source: arXiv 2112.14869, the ALDR-KL loss and its alternating optimisation.

    >>> adaptive_ldr_temperature(
    ...     torch.tensor([[9.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 0]), margin=0.0,
    ...     initial_temperature=1.0, current_temperature=torch.ones(2))
    tensor([0.5009, 1.0000])
    """
    check_positive(initial_temperature, "initial_temperature")
    _check_alpha(alpha)
    _check(scores, target, current_temperature, margin, name="current_temperature")
    check_at_least(scores.shape[1], "scores.shape[1]", 2)
    with torch.no_grad():
        return _half_step(
            at_least_float32(scores),
            target.long(),
            current_temperature,
            initial_temperature,
            alpha,
            margin,
            margin_in_weights,
        )


def adaptive_label_distributionally_robust_loss(
    scores: Float[Tensor, "batch classes"],
    target: Int[Tensor, "..."],
    *,
    initial_temperature: float = 1.0,
    alpha: float = 2.0,
    margin: float = 0.1,
    current_temperature: Float[Tensor, "..."] | None = None,
    num_inner_steps: int = 1,
    margin_in_weights: bool = True,
    score_transform: ScoreTransform = "softplus_l1",
    reduction: Reduction = "mean",
) -> tuple[Float[Tensor, "..."], Float[Tensor, "batch"]]:
    """ALDR-KL: the loss maximised over the temperature too, at a price: ψ_λ − (α log K / 2λ0) (λ − λ0)².

    First `num_inner_steps` half-steps (`adaptive_ldr_temperature`) from the current temperatures, then the loss at the
    new ones, taken as constants: the gradient with respect to the scores is that of LDR-KL at λ. As α → ∞ it becomes
    LDR-KL at λ0.

    Args:
        scores: `[batch, classes]` logits.
        target: `[batch]` classes.
        initial_temperature: λ0.
        alpha: α > 1.
        margin: c.
        current_temperature: `[batch]`: each sample's λ from before; None: λ0.
        num_inner_steps: Half-steps, at least 1.
        margin_in_weights: See `adaptive_ldr_temperature`.
        score_transform: See `normalize_scores`.
        reduction: `"mean"`, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        The loss, in float32 or wider, and the new temperatures `[batch]`, detached.

    Raises:
        ValueError: What `adaptive_ldr_temperature` and `label_distributionally_robust_loss` raise, or fewer than one
            inner step.

    Source: arXiv 2112.14869, the ALDR-KL loss; the scale α log K / λ0 of the price is that of the authors' code.

    >>> scores, target = torch.zeros(1, 3), torch.tensor([0])
    >>> loss, temperature = adaptive_label_distributionally_robust_loss(scores, target, margin=0.0)
    >>> bool(loss.abs() < 1e-6), temperature
    (True, tensor([1.]))
    """
    check_positive(initial_temperature, "initial_temperature")
    _check_alpha(alpha)
    check_at_least(num_inner_steps, "num_inner_steps", 1)
    check_at_least(scores.shape[1], "scores.shape[1]", 2)
    scores = normalize_scores(scores, transform=score_transform)
    if current_temperature is None:
        current_temperature = scores.new_full((len(scores),), initial_temperature)
    _check(scores, target, current_temperature, margin, name="current_temperature")
    label, temperature = target.long(), current_temperature
    with torch.no_grad():
        for _ in range(num_inner_steps):
            temperature = _half_step(scores, label, temperature, initial_temperature, alpha, margin, margin_in_weights)
    price = alpha * math.log(scores.shape[1]) / (2 * initial_temperature)
    values = _robust_loss(scores, label, temperature, margin) - price * (temperature - initial_temperature).square()
    return reduce(values, reduction), temperature


class LabelDistributionallyRobustLoss(_LabelLoss, name="ldr"):
    """Mean `label_distributionally_robust_loss` over the labelled positions of a batch.

    Args:
        temperature: λ.
        margin: c.
        score_transform: `"softplus_l1"`, `"l1"` or None.

    >>> LabelDistributionallyRobustLoss(temperature=2.0, margin=0.0, score_transform=None)(
    ...     torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([1, -100]))
    tensor(0.5619)
    """

    function = staticmethod(label_distributionally_robust_loss)

    def __init__(
        self, *, temperature: float = 1.0, margin: float = 0.1, score_transform: ScoreTransform = "softplus_l1"
    ) -> None:
        super().__init__(temperature=temperature, margin=margin, score_transform=score_transform)


class AdaptiveLDRLoss(Objective, name="aldr"):
    """`adaptive_label_distributionally_robust_loss` with a table of one temperature for each training example.

    The table is a buffer, so it is in checkpoints and moves with the module. Its rows are stable sample indices
    (`batch.index`), whatever order or part of the data a loader gives. In training mode each call renews the rows of
    its batch; in evaluation mode it computes the same and leaves the table as it is. Where several processes share a
    batch (`torch.distributed`), every process writes the rows of all of them, so all tables stay alike.

    Args:
        num_examples: Rows of the table: one more than the largest index.
        initial_temperature: λ0, which every row starts with.
        alpha: α > 1.
        margin: c.
        num_inner_steps: Half-steps a call.
        margin_in_weights: See `adaptive_ldr_temperature`.
        score_transform: See `normalize_scores`.
        reduction: `"mean"` (a batch without labels gives 0), `"sum"`, or `"none"`: one value for each labelled sample.

    Raises:
        ValueError: A setting out of range. When called: an index outside the table or repeated within a batch, or what
            the function raises.

    Attributes:
        temperature: `[num_examples]` float32, the table.

    >>> loss = AdaptiveLDRLoss(4, score_transform=None, margin=0.0)
    >>> _ = loss(torch.tensor([[9.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 0]), torch.tensor([3, 1]))
    >>> loss.temperature
    tensor([1.0000, 1.0000, 1.0000, 0.5009])
    """

    reads = ("student.logits", "batch.target", "batch.index")
    temperature: Tensor

    def __init__(
        self,
        num_examples: int,
        *,
        initial_temperature: float = 1.0,
        alpha: float = 2.0,
        margin: float = 0.1,
        num_inner_steps: int = 1,
        margin_in_weights: bool = True,
        score_transform: ScoreTransform = "softplus_l1",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_at_least(num_examples, "num_examples", 1)
        check_positive(initial_temperature, "initial_temperature")
        _check_alpha(alpha)
        check_non_negative(margin, "margin")
        check_at_least(num_inner_steps, "num_inner_steps", 1)
        check_option(score_transform, "score_transform", ("softplus_l1", "l1", None))
        check_option(reduction, "reduction", ("mean", "sum", "none"))
        self.initial_temperature = initial_temperature
        self.alpha = alpha
        self.margin = margin
        self.num_inner_steps = num_inner_steps
        self.margin_in_weights = margin_in_weights
        self.score_transform: ScoreTransform = score_transform
        self.reduction: Reduction = reduction
        self.register_buffer("temperature", torch.full((num_examples,), float(initial_temperature)))

    def loss(self, student_logits: Tensor, target: Tensor, index: Tensor) -> Tensor:
        """The loss of a batch; in training mode its rows of the table are renewed."""
        check_target(target, student_logits.shape[1], shape=student_logits.shape[:1], ignore_index=IGNORE_INDEX)
        self._check_index(index, len(target))
        kept, index = target != IGNORE_INDEX, index.long()
        if not kept.all():
            student_logits, target, index = student_logits[kept], target[kept], index[kept]
        values, temperature = adaptive_label_distributionally_robust_loss(
            student_logits,
            target,
            initial_temperature=self.initial_temperature,
            alpha=self.alpha,
            margin=self.margin,
            current_temperature=self.temperature[index],
            num_inner_steps=self.num_inner_steps,
            margin_in_weights=self.margin_in_weights,
            score_transform=self.score_transform,
            reduction="none",
        )
        if self.training:
            rows, renewed = _of_all_processes(index, temperature)
            self.temperature[rows] = renewed.to(self.temperature.dtype)
        return reduce(values, self.reduction) if len(values) or self.reduction == "none" else values.sum()

    def _check_index(self, index: Tensor, batch: int) -> None:
        if tuple(index.shape) != (batch,):
            raise ValueError(f"Expected argument `index` to have shape {(batch,)}, but got {tuple(index.shape)}.")
        if not batch:
            return
        rows = index.sort().values
        low, high, known = int(rows[0]), int(rows[-1]), len(self.temperature)
        if low < 0 or high >= known:
            raise ValueError(
                f"Expected argument `index` to hold rows in [0, {known}) of the table, "
                f"but got {low if low < 0 else high}."
            )
        again = rows[1:][rows[1:] == rows[:-1]]
        if len(again):
            raise ValueError(
                f"Expected argument `index` to hold each example once a batch, but {int(again[0])} is repeated."
            )


def _robust_loss(scores: Tensor, label: Tensor, temperature: float | Tensor, margin: float) -> Tensor:
    """ψ_λ of each sample: λ · (cross-entropy of the tilted scores − log K)."""
    values = F.cross_entropy(_tilted(scores, label, temperature, margin), label, reduction="none")
    return temperature * (values - math.log(scores.shape[1]))


def _tilted(scores: Tensor, label: Tensor, temperature: float | Tensor, margin: float) -> Tensor:
    """(s + c·1[k≠y]) / λ up to a constant a row: the margin is taken from the label instead."""
    inverse = torch.as_tensor(temperature, dtype=scores.dtype, device=scores.device).reciprocal()
    scaled = scores * inverse[..., None]  # a product, whose gradient is cheaper than a quotient's
    if margin == 0:
        return scaled
    return scaled.scatter_add_(1, label[:, None], (-margin * inverse).expand(len(label))[:, None])


def _half_step(
    scores: Tensor,
    label: Tensor,
    temperature: Tensor,
    initial_temperature: float,
    alpha: float,
    margin: float,
    margin_in_weights: bool,
) -> Tensor:
    most = math.log(scores.shape[1])
    if margin_in_weights:
        log_probs = _tilted(scores, label, temperature, margin).log_softmax(dim=1)
        divergence: Tensor = most + torch.linalg.vecdot(log_probs.exp(), log_probs)
    else:
        probs = _tilted(scores, label, temperature, 0.0).softmax(dim=1) + CODE_FLOOR
        divergence = most - torch.special.entr(probs / probs.sum(dim=1, keepdim=True)).sum(dim=1)
    return initial_temperature * (1 - divergence.clamp(0, most) / (alpha * most))


def _of_all_processes(index: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Index and value of every process's samples, however many each has; one's own where there is one process."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return index, values
    count = torch.tensor([len(index)], device=index.device)
    counts = [torch.empty_like(count) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, count)
    sizes = [int(size) for size in counts]
    packed = values.new_zeros(max(sizes), 2, dtype=torch.float64)  # holds an index as exactly as a temperature
    packed[: len(index)] = torch.stack([index.double(), values.double()], dim=1)
    parts = [torch.empty_like(packed) for _ in sizes]
    distributed.all_gather(parts, packed)
    everyone = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return everyone[:, 0].long(), everyone[:, 1].to(values.dtype)


def _check(
    scores: Tensor, target: Tensor, temperature: float | Tensor, margin: float, *, name: str = "temperature"
) -> None:
    check_non_negative(margin, "margin")
    check_target(target, scores.shape[1], shape=scores.shape[:1])
    if not isinstance(temperature, Tensor):
        check_positive(temperature, name)
        return
    if temperature.shape != scores.shape[:1]:
        raise ValueError(
            f"Expected argument `{name}` to have shape {tuple(scores.shape[:1])}, but got {tuple(temperature.shape)}."
        )
    if len(temperature):
        check_positive(float(temperature.detach().min()), name)


def _check_alpha(alpha: float) -> None:
    if not (math.isfinite(alpha) and alpha > 1):
        raise ValueError(f"Expected argument `alpha` to be above 1, but got {alpha}.")
