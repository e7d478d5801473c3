"""Entropic optimal transport, and the distillation loss on it (SinKD, arXiv 2402.17110)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage._checks import check_at_least, check_option, check_positive, check_same_logits, check_same_shape
from tutelage.objectives.objective import Objective
from tutelage.objectives.pairwise_l1 import pairwise_l1_distance
from tutelage.objectives.positions import counted
from tutelage.objectives.precision import at_least_float32, log_probabilities
from tutelage.objectives.sinkhorn_iteration import iterated_plan

Metric = Literal["l1", "l2", "sqeuclidean"] | Callable[[Tensor, Tensor], Tensor]


def sinkhorn_plan(
    cost: Float[Tensor, "*batch rows columns"],
    *,
    epsilon: float = 0.1,
    n_iters: int = 20,
    a: Tensor | None = None,
    b: Tensor | None = None,
    log_domain: bool = True,
) -> Float[Tensor, "*batch rows columns"]:
    """The transport plan of entropic optimal transport by Sinkhorn's iteration (Cuturi, 2013).

    The plan minimises Σ P_ij cost_ij + ε Σ P_ij (log P_ij − 1) among those with row sums `a` and column sums `b`. From
    exp(−cost / ε), `n_iters` times: scale every row to its mass, then every column to its own. So column sums are
    exact and row sums are as exact as the iteration has converged. A row or column of mass 0 takes no part; that is
    how problems of unlike sizes share a batch.

    The gradient is that of these iterations, unrolled, and reaches the cost and the masses. It is computed from the
    scalings alone: memory is that of a few costs and `n_iters` vectors, not of `n_iters` plans.

    Args:
        cost: `[..., rows, columns]`; leading sizes are problems of their own.
        epsilon: ε, in units of the cost; smaller is closer to an assignment, and needs more iterations.
        n_iters: How often rows and columns are scaled.
        a: Masses of the rows `[rows]` or `[..., rows]`, not negative; by default all 1.
        b: Masses of the columns, with the same sum; by default all 1.
        log_domain: Stay finite for any ε: where exp(−cost / ε) spans more than the precision can hold, go on in float64
            and, beyond that, with logarithms. False: scale exp(−cost / ε) itself, whatever happens.

    Returns:
        `[..., rows, columns]`, not negative, in float32 or wider. By default its total mass is `rows`.

    Raises:
        ValueError: ε is not positive, fewer than one iteration, no rows or columns, as many rows as columns are not
            given and neither are masses, or masses that are negative, of another shape or of unlike sums.

    >>> sinkhorn_plan(torch.tensor([[0.4, 1.0], [1.0, 0.4]]))
    tensor([[0.9975, 0.0025],
            [0.0025, 0.9975]])
    """
    check_positive(epsilon, "epsilon")
    check_at_least(n_iters, "n_iters", 1)
    num_rows, num_columns = cost.shape[-2:]
    check_at_least(num_rows, "cost.shape[-2]", 1)
    check_at_least(num_columns, "cost.shape[-1]", 1)
    if num_rows != num_columns and (a is None or b is None):
        raise ValueError(
            f"Expected arguments `a` and `b` to be given for a cost of {num_rows} × {num_columns}, since masses of 1 "
            "have unlike sums, but got None."
        )
    cost = at_least_float32(cost)
    given = a is not None or b is not None
    a, b = _masses(a, "a", cost, num_rows), _masses(b, "b", cost, num_columns)
    if given:
        _check_masses(a, b)
    return iterated_plan(cost, a, b, epsilon=epsilon, n_iters=n_iters, log_domain=log_domain)


def sinkhorn_distance(
    x: Float[Tensor, "rows features"],
    y: Float[Tensor, "columns features"],
    *,
    metric: Metric = "l1",
    epsilon: float = 0.1,
    n_iters: int = 20,
    a: Tensor | None = None,
    b: Tensor | None = None,
    plan_gradient: bool = True,
) -> Float[Tensor, ""]:
    """What it costs to move the rows of `x` to those of `y`: Σ P_ij W_ij with P = `sinkhorn_plan(W)`.

    No entropy is added to the sum. With the default masses it is the cost of moving `rows` units, not 1. The gradient
    reaches `x` and `y`.

    Args:
        x: `[rows, features]`.
        y: `[columns, features]`.
        metric: The cost W_ij of moving row i to column j: `"l1"` (`pairwise_l1_distance`), `"l2"` (square root
            of the sum of squares), `"sqeuclidean"` (the sum of squares), or a function from
            `(x, y)` to `[rows, columns]`.
        epsilon: ε of `sinkhorn_plan`, in units of the cost.
        n_iters: Iterations of `sinkhorn_plan`.
        a: Masses of the rows, `[rows]`; by default all 1.
        b: Masses of the columns, `[columns]`; by default all 1.
        plan_gradient: Whether the gradient goes through the plan too. False takes the plan as given: cheaper, and the
            exact gradient of the converged Σ P (W + ε (log P − 1)) rather than of the sum itself.

    Returns:
        A scalar, in float32 or wider.

    Raises:
        ValueError: As `sinkhorn_plan`, an unknown metric, or a cost of another shape than `[rows, columns]`.

    >>> sinkhorn_distance(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[0.7, 0.3], [0.4, 0.6]]))
    tensor(0.8030)
    """
    if not callable(metric):
        check_option(metric, "metric", ("l1", "l2", "sqeuclidean"))
    x, y = at_least_float32(x), at_least_float32(y)
    cost = _cost(x, y, metric)
    if cost.shape != (len(x), len(y)):
        raise ValueError(
            f"Expected argument `metric` to give a cost of shape {(len(x), len(y))}, but got {tuple(cost.shape)}."
        )
    plan = sinkhorn_plan(cost if plan_gradient else cost.detach(), epsilon=epsilon, n_iters=n_iters, a=a, b=b)
    return (plan * cost).sum()


def sinkhorn_distillation(
    student_logits: Float[Tensor, "*positions classes"],
    teacher_logits: Float[Tensor, "..."],
    *,
    temperature: float = 2.0,
    epsilon: float = 0.1,
    n_iters: int = 20,
    plan_gradient: bool = True,
    reduction: Literal["sum", "mean"] = "sum",
    mask: Tensor | None = None,
) -> Float[Tensor, ""]:
    """SinKD (section 3): move the student's predictions of a batch to the teacher's, whichever sample they are of.

    Σ_ij P_ij W_ij with W_ij = Σ_c |p^S_ic − p^T_jc|, p = softmax(logits / temperature), and P = `sinkhorn_plan(W)` with
    masses of 1. No gradient reaches the teacher, and there is no factor T². It holds no cross-entropy, and it does not
    see which sample a prediction is of: alone it can teach right answers to wrong samples, so add a loss that compares
    samples one by one. For a batch of 1 it is the L1 distance of the two predictions, twice `total_variation`.

    The sum grows with the batch, and the plan is that of the batch: a batch in parts gives another loss. Memory is that
    of some tables of rows × rows; time grows with rows² × classes.

    Args:
        student_logits: `[batch, classes]`, or `[batch, time, classes]` with a mask.
        teacher_logits: As the student's.
        temperature: Softens both predictions. The official code always takes the default, 2.
        epsilon: ε of `sinkhorn_plan`; costs are in [0, 2].
        n_iters: Iterations of `sinkhorn_plan`.
        plan_gradient: Whether the gradient goes through the plan too (the official code: yes).
        reduction: `"sum"` as published, or `"mean"`: divided by the number of rows.
        mask: `[batch]` or `[batch, time]`, true (or non-zero) for the rows that take part.

    Returns:
        A scalar in [0, 2 · rows] (`"sum"`) or [0, 2], in float32 or wider.

    Raises:
        ValueError: Logits of unlike shapes, neither two-dimensional nor masked, no row that takes part, a mask of
            another shape; a temperature or ε that is not positive, fewer than one iteration, an unknown reduction.

    >>> student, teacher = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log(), torch.tensor([[0.7, 0.3], [0.4, 0.6]]).log()
    >>> sinkhorn_distillation(student, teacher, temperature=1.0)
    tensor(0.8030)
    """
    check_option(reduction, "reduction", ("sum", "mean"))
    check_positive(temperature, "temperature")
    check_same_logits(student_logits, teacher_logits)
    if mask is not None:
        check_same_shape(student_logits[..., 0], mask, "student_logits[..., 0]", "mask")
        student_logits, teacher_logits = student_logits[mask.bool()], teacher_logits[mask.bool()]
    if student_logits.ndim != 2:
        raise ValueError(
            "Expected argument `student_logits` to have shape [batch, classes], or a mask that makes rows of it, "
            f"but got {tuple(student_logits.shape)}."
        )
    check_at_least(len(student_logits), "student_logits.shape[0]", 1)
    total = sinkhorn_distance(
        log_probabilities(student_logits, temperature).exp(),
        log_probabilities(teacher_logits.detach(), temperature).exp(),
        epsilon=epsilon,
        n_iters=n_iters,
        plan_gradient=plan_gradient,
    )
    return total if reduction == "sum" else total / len(student_logits)


class SinkhornDistillation(Objective, name="sinkd"):
    """`sinkhorn_distillation` of a batch; weigh it against a loss that compares samples one by one.

    The paper's total on GLUE is (1 − α) · `CrossEntropy` + α · `SoftCrossEntropy` + 0.0008 · this, as a sum.

    Logits are `[batch, classes]`, or `[batch, time, vocabulary]` of which the positions whose label is not -100 take
    part (all of them where the batch has no target).

    Args:
        temperature: Softens both predictions.
        epsilon: ε of `sinkhorn_plan`.
        n_iters: Iterations of `sinkhorn_plan`.
        plan_gradient: Whether the gradient goes through the plan too.
        reduction: `"sum"` as published, or `"mean"`, which does not grow with the batch.
        max_rows: Draw so many rows of a larger batch at random, from PyTorch's global generator: time grows with the
            square of the rows, and sequences have many.

    >>> student, teacher = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log(), torch.tensor([[0.7, 0.3], [0.4, 0.6]]).log()
    >>> SinkhornDistillation(temperature=1.0, reduction="mean")(student, teacher)
    tensor(0.4015)
    """

    reads = ("student.logits", "teacher.logits", "batch.target?")

    def __init__(
        self,
        *,
        temperature: float = 2.0,
        epsilon: float = 0.1,
        n_iters: int = 20,
        plan_gradient: bool = True,
        reduction: Literal["sum", "mean"] = "sum",
        max_rows: int | None = None,
    ) -> None:
        super().__init__()
        check_positive(temperature, "temperature")
        check_positive(epsilon, "epsilon")
        check_at_least(n_iters, "n_iters", 1)
        check_option(reduction, "reduction", ("sum", "mean"))
        if max_rows is not None:
            check_at_least(max_rows, "max_rows", 1)
        self.temperature = temperature
        self.epsilon = epsilon
        self.n_iters = n_iters
        self.plan_gradient = plan_gradient
        self.reduction: Literal["sum", "mean"] = reduction
        self.max_rows = max_rows

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """The loss of the batch; 0 when no position takes part."""
        check_same_logits(student_logits, teacher_logits)
        student, teacher = counted(target, student_logits, teacher_logits)
        if not len(student):
            return at_least_float32(student).sum()
        if self.max_rows is not None and len(student) > self.max_rows:
            drawn = torch.randperm(len(student))[: self.max_rows].to(student.device)
            student, teacher = student[drawn], teacher[drawn]
        return sinkhorn_distillation(
            student,
            teacher,
            temperature=self.temperature,
            epsilon=self.epsilon,
            n_iters=self.n_iters,
            plan_gradient=self.plan_gradient,
            reduction=self.reduction,
        )


def _cost(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    if callable(metric):
        return at_least_float32(metric(x, y))
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"Expected arguments `x` and `y` to have as many columns, but got {x.shape[-1]} and {y.shape[-1]}."
        )
    if metric == "l1":
        return pairwise_l1_distance(x, y)
    if metric == "l2":
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    origin = y.detach().mean(dim=0)  # distances do not see it, and near it their squares cancel less
    x, y = x - origin, y - origin
    return (x.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * x @ y.T).clamp_min(0)


def _masses(masses: Tensor | None, name: str, cost: Tensor, size: int) -> Tensor:
    shape = (*cost.shape[:-2], size)
    if masses is None:
        return cost.new_ones(()).expand(shape)
    if tuple(masses.shape) not in ((size,), shape):
        raise ValueError(f"Expected argument `{name}` to have shape {shape}, but got {tuple(masses.shape)}.")
    return masses.to(cost).expand(shape)


def _check_masses(a: Tensor, b: Tensor) -> None:
    of_a, of_b = a.sum(dim=-1), b.sum(dim=-1)
    for name, masses, total in (("a", a, of_a), ("b", b, of_b)):
        if not (masses.amin() >= 0 and total.amin() > 0):  # so written, it is true of NaN
            raise ValueError(
                f"Expected argument `{name}` to hold masses of at least 0, not all of them 0, but it does not."
            )
    unlike = (of_a - of_b).abs() > 1e-4 * of_a
    if unlike.any():
        raise ValueError(
            "Expected arguments `a` and `b` to have the same sum, "
            f"but got {float(of_a[unlike].flatten()[0]):.6g} and {float(of_b[unlike].flatten()[0]):.6g}."
        )
