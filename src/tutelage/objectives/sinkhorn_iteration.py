"""Sinkhorn's iteration and its reverse pass.

With K = exp(−cost / ε) the plan is u K v, u = a w, v = b z, where every step makes w = 1 / (K v) and z = 1 / (Kᵀ u).
There are two representations of the same steps: numbers, which takes products of a matrix and a vector, and logarithms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# K holds numbers in [e^−s, 1] for a spread s (each row's largest is 1); u, v, w and z then stay within e^±2s, and
# products of two within e^±4s: inside float32's range (e^±87) and float64's (e^±708). Costs in [0, 2] with ε = 0.1 fit.
_WIDEST_SPREAD = {torch.float32: 21.0, torch.float64: 175.0}
_MOST_DENSE = 60.0  # a logarithm; only rows and columns without mass reach it, whose density is multiplied by 0


def _exponents(cost: Tensor, epsilon: float) -> Tensor:
    """−cost / ε, shifted so that each row's largest is 0; the first scaling of the rows undoes the shift."""
    return (cost.amin(dim=-1, keepdim=True) - cost) / epsilon


def _scaling_dtype(exponents: Tensor, log_domain: bool) -> torch.dtype | None:
    """The precision in which exp(exponents) can be scaled; None where it takes logarithms."""
    if not log_domain:
        return exponents.dtype
    spread = -float(exponents.amin())
    wider = (exponents.dtype,) if exponents.device.type == "mps" else (exponents.dtype, torch.float64)
    return next((dtype for dtype in wider if spread <= _WIDEST_SPREAD[dtype]), None)


def _start(b: Tensor) -> Tensor:
    """The first scaling of the columns: 1, and 0 for those that have no mass and shall take no part."""
    return (b > 0).to(b)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return matrix @ vector if matrix.ndim == 2 else (matrix @ vector[..., None])[..., 0]


def iterated_plan(cost: Tensor, a: Tensor, b: Tensor, *, epsilon: float, n_iters: int, log_domain: bool) -> Tensor:
    """The plan after `n_iters` scalings of rows and columns; see `sinkhorn_plan`.

    Args:
        cost: `[..., rows, columns]`.
        a: `[..., rows]`, of the cost's type.
        b: `[..., columns]`, of the cost's type.
        epsilon: ε.
        n_iters: Iterations.
        log_domain: Whether to take another representation than numbers of the cost's type where they do not suffice.

    Returns:
        `[..., rows, columns]`; the gradient reaches the cost and both masses, twice if asked.

    >>> iterated_plan(torch.zeros(2, 2), torch.ones(2), torch.ones(2), epsilon=0.1, n_iters=1, log_domain=True)
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    plan: Tensor = _Plan.apply(cost, a, b, epsilon, n_iters, log_domain)  # type: ignore[no-untyped-call]
    return plan


class _Plan(torch.autograd.Function):
    """The plan, and its reverse pass from the scalings of every step.

    With σ = ∂L/∂a and ρ = ∂L/∂b as seen by one step, and x = v ρ, y = u σ: from the last step to the first
    y = −u w (K x) and, for the step before, x = −v z (Kᵀ y), while ∂L/∂K −= u xᵀ + y vᵀ with that step's v. The last
    step's x and y also hold what comes from the plan itself.
    """

    @staticmethod
    def forward(ctx: Any, cost: Tensor, a: Tensor, b: Tensor, epsilon: float, n_iters: int, log_domain: bool) -> Tensor:
        exponents = _exponents(cost, epsilon)
        dtype = _scaling_dtype(exponents, log_domain)
        if dtype is None:
            matrix = exponents
            plan, rows, columns = _iterate_logarithms(exponents, a, b, n_iters)
        else:
            matrix = exponents.to(dtype).exp_()
            plan, rows, columns = _iterate_numbers(matrix, a.to(dtype), b.to(dtype), n_iters)
        ctx.options = (epsilon, n_iters, dtype is None)
        ctx.save_for_backward(cost, a, b, matrix, rows, columns)
        return plan.to(cost.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        cost, a, b, matrix, rows, columns = ctx.saved_tensors
        epsilon, n_iters, logarithms = ctx.options
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for: operations that autograd knows
            with torch.enable_grad():
                inputs = [value for value in (cost, a, b) if value.requires_grad]
                plan = _unrolled(cost, a, b, epsilon, n_iters)
                slopes = iter(torch.autograd.grad(plan, inputs, grad, create_graph=True))
            of_cost, of_a, of_b = (next(slopes) if value.requires_grad else None for value in (cost, a, b))
        else:
            reverse = _reverse_logarithms if logarithms else _reverse_numbers
            of_masses = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
            found = reverse(matrix, a.to(matrix), b.to(matrix), rows, columns, grad.to(matrix), of_masses=of_masses)
            found[0].div_(-epsilon)
            of_cost, of_a, of_b = (None if value is None else value.to(cost.dtype) for value in found)
        return of_cost, of_a, of_b, None, None, None


def _iterate_numbers(kernel: Tensor, a: Tensor, b: Tensor, n_iters: int) -> tuple[Tensor, Tensor, Tensor]:
    """The plan, and w and z of every step: `[n_iters, ..., rows]` and `[n_iters, ..., columns]`."""
    transposed = kernel.mT
    v = _start(b)
    rows, columns = [], []
    for _ in range(n_iters):
        w = _times(kernel, v).reciprocal_()
        u = a * w
        z = _times(transposed, u).reciprocal_()
        v = b * z
        rows.append(w)
        columns.append(z)
    plan = kernel * u[..., None]
    plan *= v[..., None, :]
    return plan, torch.stack(rows), torch.stack(columns)


def _reverse_numbers(
    kernel: Tensor, a: Tensor, b: Tensor, rows: Tensor, columns: Tensor, grad: Tensor, *, of_masses: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of the exponents of the kernel and, if asked, of both masses."""
    transposed = kernel.mT
    us, vs = a * rows, torch.cat([_start(b)[None], b * columns])
    ys, xs = (us * rows).neg_(), (vs[1:] * columns).neg_()  # as yet without what they are multiplied by
    of_y, of_x = ys.unbind(), xs.unbind()
    of_rows: list[Tensor] = []  # from the last step to the first
    of_columns: list[Tensor] = []
    slope = grad * kernel
    received = _times(slope.mT, us[-1]).neg_()
    for step in range(len(rows) - 1, -1, -1):
        of_columns.append(received)
        received = _times(kernel, of_x[step].mul_(received))
        if not of_rows:
            received -= _times(slope, vs[-1])
        of_rows.append(received)
        of_y[step].mul_(received)
        if step:
            received = _times(transposed, of_y[step])
    slope *= us[-1][..., None]
    slope *= vs[-1][..., None, :]
    # All steps' outer products at once: one product of matrices.
    left, right = torch.cat([us, ys]).movedim(0, -1), torch.cat([xs, vs[:-1]]).movedim(0, -2)
    slope -= (left @ right).mul_(kernel)
    if not of_masses:
        return slope, None, None
    of_a = (torch.stack(of_rows).flip(0) * rows).sum(dim=0).neg_()
    of_b = (torch.stack(of_columns).flip(0) * columns).sum(dim=0).neg_()
    return slope, of_a, of_b


def _iterate_logarithms(exponents: Tensor, a: Tensor, b: Tensor, n_iters: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `_iterate_numbers`, with the logarithms of w and z."""
    log_a, log_b = a.log(), b.log()
    log_v = _start(b).log()
    rows, columns = [], []
    for _ in range(n_iters):
        rows.append(-(exponents + log_v[..., None, :]).logsumexp(dim=-1))
        log_u = log_a + rows[-1]
        columns.append(-(exponents + log_u[..., None]).logsumexp(dim=-2))
        log_v = log_b + columns[-1]
    plan = (exponents + log_u[..., None] + log_v[..., None, :]).exp_()
    return plan, torch.stack(rows), torch.stack(columns)


def _reverse_logarithms(
    exponents: Tensor, a: Tensor, b: Tensor, rows: Tensor, columns: Tensor, grad: Tensor, *, of_masses: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As `_reverse_numbers`; the gradients of the masses cost nothing here."""

    def density(step: int, before: int) -> Tensor:
        """W K z of a step and of one before it: the plan over a bᵀ, which is at most 1 / mass where there is mass."""
        logarithms = exponents + rows[step][..., None] + columns[before][..., None, :]
        return logarithms.clamp_max_(_MOST_DENSE).exp_()

    last = len(rows) - 1
    dense = density(last, last)
    weighted = grad * dense
    sigma = _times(weighted, b)
    rho = _times(weighted.mT, a)
    slope = weighted * a[..., None] * b[..., None, :]
    of_a, of_b = torch.zeros_like(sigma), torch.zeros_like(rho)
    for step in range(last, -1, -1):
        of_b += rho
        moved = b * rho
        slope -= dense * a[..., None] * moved[..., None, :]
        sigma = sigma - _times(dense, moved)
        of_a += sigma
        moved = a * sigma
        if not step:  # the first step scales the rows of K itself
            dense = (exponents + rows[0][..., None]).clamp_max_(_MOST_DENSE).exp_()
            slope -= dense * moved[..., None] * _start(b)[..., None, :]
            break
        dense = density(step, step - 1)
        slope -= dense * moved[..., None] * b[..., None, :]
        rho = -_times(dense.mT, moved)
        sigma = torch.zeros_like(sigma)
        dense = density(step - 1, step - 1)
    return slope, of_a, of_b


def _unrolled(cost: Tensor, a: Tensor, b: Tensor, epsilon: float, n_iters: int) -> Tensor:
    """The same plan from operations that autograd differentiates any number of times."""
    exponents = _exponents(cost, epsilon)
    log_a, log_b = a.log(), b.log()
    log_v = _start(b).log()
    for _ in range(n_iters):
        log_u = log_a - (exponents + log_v[..., None, :]).logsumexp(dim=-1)
        log_v = log_b - (exponents + log_u[..., None]).logsumexp(dim=-2)
    return (exponents + log_u[..., None] + log_v[..., None, :]).exp()
