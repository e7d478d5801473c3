"""Sinkhorn's iteration and its reverse pass.

With K = exp(−cost / ε) the plan is u K v, u = a w, v = b z, where every step makes w = 1 / (K v) and z = 1 / (Kᵀ u).
There are two representations of the same steps: numbers, which takes products of a matrix and a vector, and logarithms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# K holds numbers in [e^−s, 1] for a spread s (each row's largest is 1); u and v then stay within e^±2s. That is inside
# float32's range (e^±87) and float64's (e^±708).
_WIDEST_SPREAD = {torch.float32: 30.0, torch.float64: 300.0}
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

    With σ = ∂L/∂a and ρ = ∂L/∂b as seen by one step (so ∂L/∂log u = a σ and ∂L/∂log v = b ρ), from the last step to the
    first: σ −= w K (v ρ), then ρ = −z Kᵀ(u σ) for the step before, and ∂L/∂K −= u (v ρ)ᵀ + (u σ) vᵀ with that step's v.
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
            of_exponents, of_a, of_b = reverse(matrix, a.to(matrix), b.to(matrix), rows, columns, grad.to(matrix))
            of_cost = of_exponents.div_(-epsilon).to(cost.dtype)
            of_a, of_b = of_a.to(cost.dtype), of_b.to(cost.dtype)
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
    kernel: Tensor, a: Tensor, b: Tensor, rows: Tensor, columns: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the exponents of the kernel and of both masses."""
    us, vs = a * rows, torch.cat([_start(b)[None], b * columns])
    w, z, u, v = rows.unbind(), columns.unbind(), us.unbind(), vs.unbind()
    transposed = kernel.mT
    slope = grad * kernel
    sigma = w[-1] * _times(slope, v[-1])
    rho = z[-1] * _times(slope.mT, u[-1])
    sigmas: list[Tensor] = []  # these four from the last step to the first
    rhos: list[Tensor] = []
    v_rho: list[Tensor] = []
    u_sigma: list[Tensor] = []
    for step in range(len(w) - 1, -1, -1):
        rhos.append(rho)
        v_rho.append(v[step + 1] * rho)
        back = w[step] * _times(kernel, v_rho[-1])
        sigma = sigma - back if not sigmas else back.neg_()
        sigmas.append(sigma)
        u_sigma.append(u[step] * sigma)
        if step:
            rho = _times(transposed, u_sigma[-1]).mul_(z[step - 1]).neg_()
    # All steps' outer products at once: one product of matrices.
    left = torch.cat([us.flip(0), torch.stack(u_sigma)]).movedim(0, -1)
    right = torch.cat([torch.stack(v_rho), vs[:-1].flip(0)]).movedim(0, -2)
    slope *= u[-1][..., None]
    slope *= v[-1][..., None, :]
    slope -= (left @ right).mul_(kernel)
    return slope, torch.stack(sigmas).sum(dim=0), torch.stack(rhos).sum(dim=0)


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
    exponents: Tensor, a: Tensor, b: Tensor, rows: Tensor, columns: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_reverse_numbers`."""

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
