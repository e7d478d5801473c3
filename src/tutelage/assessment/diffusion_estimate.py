"""Diffusion spectral entropy of many samples: the leading spectrum by block Lanczos, the rest by its exact moments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tutelage._checks import check_at_least, check_option, check_positive
from tutelage.assessment.diffusion_entropy import diffusion_spectral_entropy, log_of
from tutelage.assessment.diffusion_spectrum import (
    Bandwidth,
    Normalization,
    checked_representations,
    resolve_bandwidth,
)

Array = NDArray[Any]

TINY = 1e-100
FEWEST_STEPS = 3  # before the likely bounds are believed
ROUNDING = 1e-7  # of float32 products, in the sum of squares
CANDIDATES = 64  # numbers of leading values that are tried


class EntropyEstimate(NamedTuple):
    """An entropy, and where it lies.

    Attributes:
        value: The likely value.
        low: It is not below this.
        high: It is not above this.
        rank: Eigenvalues that were found one by one; all others are known by their sums.
    """

    value: float
    low: float
    high: float
    rank: int

    @property
    def error_bound(self) -> float:
        """The largest error that `value` can have.

        >>> EntropyEstimate(2.0, 1.5, 2.5, 8).error_bound
        0.5
        """
        return max(self.high - self.value, self.value - self.low)


@torch.no_grad()
def estimate_diffusion_spectral_entropy(
    x: Float[Tensor, "samples width"],
    *,
    bandwidth: Bandwidth = 10.0,
    time: float = 1,
    normalization: Normalization = "random_walk",
    base: float = 2.0,
    tolerance: float = 1e-3,
    max_rank: int = 512,
    block_size: int = 32,
    store_matrix: bool = True,
    chunk_size: int = 512,
    generator: torch.Generator | None = None,
) -> EntropyEstimate:
    """`diffusion_spectral_entropy` of all samples without an eigen-decomposition, with bounds.

    Block Lanczos from a random block finds the leading eigenvalues. Of the other N − k three things are known exactly,
    from the matrix's trace and Frobenius norm: how many they are, their sum and their sum of squares. The least and the
    largest entropy of such numbers are known in closed form (the two principal representations of a moment problem, of
    two atoms each). What the leading vectors still couple to the rest widens the bounds, by perturbation theory.

    `low` and `high` hold whatever the start (G is kept in float32, for which they leave room). `value`
    takes for granted that Lanczos missed no eigenvalue above the last one that it found, as every Lanczos method does;
    it is far closer than the bounds say. At times above 1 and bandwidths near the median distance the rest hardly
    matters, and few steps suffice. At time 1, or far below the median distance, the spectrum is flat: expect errors of
    some 1e-3, and look at `error_bound`.

    Args:
        x: `[samples, width]`, computed in float64; no gradient.
        bandwidth: σ of the kernel. `"median"` needs the memory of N² / 2 distances: for many samples, give a number.
        time: t, at least 1.
        normalization: Which random walk.
        base: Of the logarithm.
        tolerance: Stop when the bounds without missed eigenvalues are within this share of the value.
        max_rank: Stop at this many Lanczos vectors in any case.
        block_size: Vectors a step.
        store_matrix: Keep the N × N matrix between the steps; else its rows are computed anew in each, `chunk_size` at
            a time: about half as fast, in memory O(N (chunk_size + max_rank)) in place of 4 N² bytes.
        chunk_size: Rows at once.
        generator: The random state (CPU) of the first block.

    Returns:
        The estimate. Time O(N² (D + max_rank)).

    Raises:
        ValueError: As `diffusion_spectral_entropy`; or a time below 1, or a size that is not positive.

    Source: diffusion spectral entropy: Liao et al., arXiv 2312.04823. Principal representations: Krein and Nudelman,
    "The Markov Moment Problem and Extremal Problems", 1977, chapter 3. The combination is ours.

    >>> x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    >>> estimate = estimate_diffusion_spectral_entropy(x, bandwidth=1.5, time=2, max_rank=256)
    >>> exact = diffusion_spectral_entropy(x.double(), bandwidth=1.5, time=2).item()
    >>> estimate.low <= exact <= estimate.high, abs(estimate.value - exact) < 1e-3 * exact
    (True, True)
    """
    for size, name in ((max_rank, "max_rank"), (block_size, "block_size"), (chunk_size, "chunk_size")):
        check_at_least(size, name, 1)
    check_positive(tolerance, "tolerance")
    if not (math.isfinite(time) and time >= 1):
        raise ValueError(f"Expected argument `time` to be at least 1, but got {time}.")
    nats = log_of(base)
    if len(x) <= max_rank:
        exact = diffusion_spectral_entropy(
            x.double(), bandwidth=bandwidth, time=time, normalization=normalization, base=base, max_samples=len(x)
        ).item()
        return EntropyEstimate(exact, exact, exact, len(x))
    points = checked_representations(x)
    diffusion = _Diffusion(points, resolve_bandwidth(points, bandwidth), normalization, chunk_size, store_matrix)
    steps = _block_lanczos(diffusion, max_rank, min(block_size, max_rank), generator)
    for step, (ritz_values, residuals) in enumerate(steps, start=1):
        likely = _bounds(ritz_values, residuals, diffusion, time, certain=False)
        if step >= FEWEST_STEPS and likely.high - likely.low <= tolerance * (likely.high + likely.low):
            break
    certain = _bounds(ritz_values, residuals, diffusion, time, certain=True)
    low, high = sorted((max(certain.low, 0.0), min(certain.high, math.log(len(x)))))  # up to rounding, where they meet
    value = min(max((likely.low + likely.high) / 2, low), high)
    return EntropyEstimate(value / nats, low / nats, high / nats, likely.rank)


class _Diffusion:
    """The symmetric matrix s_i G_ij s_j of a diffusion; G is kept, or computed by rows whenever it is needed."""

    def __init__(
        self, points: Tensor, bandwidth: float, normalization: Normalization, chunk_size: int, store: bool
    ) -> None:
        check_option(normalization, "normalization", ("random_walk", "anisotropic"))
        self.points, self.bandwidth = points, bandwidth
        self._squares = points.square().sum(dim=1)
        self._chunks = [
            slice(start, min(start + chunk_size, len(points))) for start in range(0, len(points), chunk_size)
        ]
        self._affinity: Tensor | None = None
        if store:
            affinity = points.new_empty(len(points), len(points), dtype=torch.float32)
            for rows in self._chunks:
                affinity[rows] = self._rows(rows)
            self._affinity = affinity
        self.scale = torch.ones_like(self._squares)
        for _ in range(1 if normalization == "random_walk" else 2):
            sums = torch.cat([self._rows(rows).double() @ self.scale for rows in self._chunks])
            self.scale = self.scale * (self.scale * sums).rsqrt()
        weights = self.scale.square()
        self.trace = weights.sum().item()
        sums = torch.cat([self._rows(rows).double().square_() @ weights for rows in self._chunks])
        self.square_sum = (weights @ sums).item()

    def __len__(self) -> int:
        return len(self.points)

    def __call__(self, block: Tensor) -> Tensor:
        """The product with vectors `[samples, block]`."""
        scaled = (self.scale[:, None] * block).float()
        return self.scale[:, None] * torch.cat([self._rows(rows) @ scaled for rows in self._chunks]).double()

    def _rows(self, rows: slice) -> Tensor:
        """Rows of G in float32, from distances in float64."""
        if self._affinity is not None:
            return self._affinity[rows]
        distances = torch.addmm(self._squares, self.points[rows], self.points.T, alpha=-2)
        distances.add_(self._squares[rows, None]).clamp_min_(0).diagonal(rows.start).zero_()
        return distances.mul_(-0.5 / self.bandwidth**2).float().exp_()


def _block_lanczos(
    diffusion: _Diffusion, max_rank: int, block_size: int, generator: torch.Generator | None
) -> Iterator[tuple[Array, Array]]:
    """Ritz values, largest first, and the norms of their residuals, after every block; fully orthogonalised."""
    points = diffusion.points
    start = torch.randn(len(points), block_size, generator=generator, dtype=points.dtype).to(points.device)
    basis, rest = start[:, :0], start
    projected = points.new_zeros(0, 0)
    for _ in range(max_rank // block_size):
        rest = torch.linalg.qr(rest).Q
        rest = torch.linalg.qr(rest - basis @ (basis.T @ rest)).Q  # for blocks that had less than full rank
        basis = torch.cat([basis, rest], dim=1)
        product = diffusion(basis[:, -block_size:])
        coupling = basis.T @ product
        old = len(projected)
        grown = points.new_zeros(old + block_size, old + block_size)
        grown[:old, :old] = projected
        grown[:, old:] = coupling
        grown[old:] = coupling.T
        projected = (grown + grown.T) / 2
        rest = product - basis @ coupling
        ritz_values, vectors = torch.linalg.eigh(projected)
        residuals = (rest @ vectors[-block_size:]).norm(dim=0)
        yield ritz_values.flip(0).cpu().numpy(), residuals.flip(0).cpu().numpy()


class _Interval(NamedTuple):
    """Bounds in nats, and how many leading values gave them."""

    low: float
    high: float
    rank: int


def _bounds(ritz_values: Array, residuals: Array, diffusion: _Diffusion, time: float, *, certain: bool) -> _Interval:
    """Bounds from the k leading Ritz values and the moments of the rest, for the best k.

    In the basis of the k leading Ritz vectors and their complement the matrix has two diagonal blocks and what couples
    them. `_tail` bounds the second block, `_coupling` what taking the coupling for 0 does. The second block's largest
    eigenvalue is at most its Frobenius norm, and unless one was missed (not `certain`) about the last one found.
    """
    samples = len(diffusion)
    found = np.unique(np.linspace(1, len(ritz_values), CANDIDATES).astype(np.int64))
    leading = ritz_values.clip(TINY, 1.0)

    def up_to(terms: Array) -> Array:
        return np.asarray(terms.cumsum()[found - 1])

    error = np.sqrt(up_to(residuals**2))  # Frobenius norm of the coupling
    count = samples - found
    first = (diffusion.trace - up_to(leading)).clip(TINY)
    second = (diffusion.square_sum - up_to(leading**2) - 2 * error**2).clip(TINY)
    largest = np.sqrt(second) if certain else np.minimum(leading[found - 1] + error, np.sqrt(second))
    largest = largest.clip(first / count, 1.0)
    rounding = ROUNDING * diffusion.square_sum
    ends = [
        _tail(count, first, near.clip(first**2 / count, first * largest), largest, time)
        for near in (second - rounding, second + rounding)
    ]
    powers, entropies = (
        (np.minimum(less[0], more[0]), np.maximum(less[1], more[1])) for less, more in zip(*ends, strict=True)
    )
    power_error, entropy_error = _coupling(error, leading, found, count, first, largest, time)
    power_low, power_high = (up_to(leading**time) + rest for rest in powers)
    power_low, power_high = (power_low - power_error).clip(TINY), power_high + power_error
    if time in (1, 2):
        power_low = power_high = np.full(len(found), diffusion.trace if time == 1 else diffusion.square_sum)
    entropy_low, entropy_high = (up_to(_entropy(leading, time)) + rest for rest in entropies)
    entropy_low, entropy_high = (entropy_low - entropy_error).clip(0), entropy_high + entropy_error
    lowest = entropy_low.clip(power_low, power_high)  # log S + E / S falls in S up to S = E and then rises
    low = np.log(lowest) + entropy_low / lowest
    high = np.maximum(*(np.log(power) + entropy_high / power for power in (power_low, power_high)))
    return _Interval(float(low.max()), float(high.min()), int(found[(high - low).argmin()]))


def _coupling(
    error: Array, leading: Array, found: Array, count: Array, first: Array, largest: Array, time: float
) -> tuple[Array, Array]:
    """Bounds of what a coupling of Frobenius norm ε changes in Σ λ^t and in Σ −λ^t log λ^t.

    Eigenvalues move by d_i, where Σ d_i² ≤ 2 ε² (Hoffman and Wielandt); so a sum of f(λ_i) moves by at most
    (2 ε² Σ f'²)^½, with f' at its largest within ε. Below time 2 the derivatives at 0 are too large for that: there
    Σ |d_i| ≤ 2 √k ε (Mirsky), and the entropy is that of mixing in so much of anything (Fannes).
    """
    samples = count + found
    if time < 2:
        moved = (2 * time * np.sqrt(found) * error).clip(TINY)
        return moved, moved * np.log(samples) + np.where(moved < 1 / math.e, -moved * np.log(moved), 1.0)
    norm = np.sqrt((leading**2).cumsum()[found - 1] + first * largest) + np.sqrt(samples) * error
    # The slope rises up to exp(-1 / (t (t - 1))); its square over x, up to exp(-3 / (t (2 t - 3))).
    steepest, peak = math.exp(-1 / (time * (time - 1))), math.exp(-3 / (time * (2 * time - 3)))
    slopes = [
        (_slope((leading[:k] + near).clip(TINY, steepest), time) ** 2).sum()
        for k, near in zip(found, error, strict=True)
    ]
    at = (largest + error).clip(TINY, peak)
    rest = _slope(at, time) ** 2 / at * (first + count * error)
    return time * math.sqrt(2) * error * norm, math.sqrt(2) * error * np.sqrt(slopes + rest)


def _slope(x: Array, time: float) -> Array:
    """What the derivative of −x^t log x^t is at most, by its size."""
    return np.asarray(time * x ** (time - 1) * (1 - time * np.log(x)))


def _tail(
    count: Array, first: Array, second: Array, largest: Array, time: float
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Least and largest Σ x^t, and Σ −x^t log x^t, of `count` numbers in [0, `largest`] with the given two moments.

    A function whose third derivative has one sign takes its extremes on two atoms: at 0 and inside (positive sign: the
    least; negative: the largest), or inside and at `largest`.
    """
    inside, mass = second / first, first**2 / second
    room = (count * largest - first).clip(TINY)
    other = ((largest * first - second) / room).clip(TINY, largest)
    other_mass = (room**2 / (count * largest**2 - 2 * first * largest + second).clip(TINY)).clip(0, count)
    powers, entropies = (
        (mass * of(inside, time), other_mass * of(other, time) + (count - other_mass) * of(largest, time))
        for of in (_power, _entropy)
    )
    if 1 < time < 2:  # the third derivative of x^t is t (t - 1) (t - 2) x^(t - 3)
        powers = powers[::-1]
    # The third derivative of -t x^t log x is -t x^(t - 3) (slope log x + constant).
    slope, constant = time * (time - 1) * (time - 2), 3 * time**2 - 6 * time + 2
    at_zero = constant if slope == 0 else -slope
    one_sign = (slope * np.log(largest) + constant) * at_zero > 0
    entropies = entropies if at_zero < 0 else entropies[::-1]
    # Otherwise: log x is at most log `largest`; and x^t log x is x^p, whose sum is known, times a bounded function.
    known, excess = (first, time - 1) if time < 2 else (second, time - 2)
    peak = np.minimum(largest, math.exp(-1 / excess)) if excess > 0 else largest
    crude = (-time * powers[0] * np.log(largest), -time * known * peak**excess * np.log(peak))
    low, high = (np.where(one_sign, sharp, other) for sharp, other in zip(entropies, crude, strict=True))
    return powers, (low, high)


def _power(x: Array, time: float) -> Array:
    return np.asarray(x**time)


def _entropy(x: Array, time: float) -> Array:
    return np.asarray(-time * x**time * np.log(x))
