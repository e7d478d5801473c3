"""Fitting scaling laws: many starts, bounds, robust losses, bootstrap intervals, and AICc to compare laws by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage._checks import check_at_least, check_option, check_positive, check_same_length
from tutelage.scaling.power_laws import PowerLawPlusConstant

Array = NDArray[np.float64]
Predict = Callable[..., Any]

_FLOORS = 25  # starts of the constant, from 0 to just below the smallest loss
_SEARCHES = 5  # of them, the best ones that are searched from
_LARGEST_LOG = 690.0  # e to this power still is a float64


@runtime_checkable
class Law(Protocol):
    """What a fit gives: something that predicts."""

    def predict(self, x: Any) -> Array:
        """Values at the given inputs."""
        ...


@dataclass(frozen=True)
class FitResult:
    """A fitted law, and how well it fits.

    Attributes:
        law: The law, with `.predict`.
        params: Its parameters by name.
        covariance: `[parameters, parameters]` in the order of `params`, from the curvature at the solution; None where
            there are no more points than parameters.
        r2: Explained share of the variance, in the space of the fit (`fit_power_law`: of the logarithm of what is above
            the constant).
        aicc: Akaike's criterion with its small-sample correction, under normal errors; smaller is better, and only fits
            to the same values in the same space compare. None with too few points.
        objective: ½ Σ s²·ρ((r / s)²) at the solution.
        heldout_error: Relative error on points that were kept out; None where there were none.
        intervals: 95 % bootstrap interval (low, high) by parameter; None without bootstrap.
    """

    law: Law
    params: Mapping[str, float]
    covariance: Array | None
    r2: float
    aicc: float | None
    objective: float
    heldout_error: float | None = None
    intervals: Mapping[str, tuple[float, float]] | None = None


@dataclass(frozen=True)
class _FittedLaw:
    """Any function with its parameters bound."""

    function: Predict
    params: Mapping[str, float] = field(default_factory=dict)

    def predict(self, x: Any) -> Array:
        """Values at the given inputs."""
        return np.asarray(self.function(_inputs(x), *self.params.values()), dtype=np.float64)


def fit_scaling_law(
    predict: Predict,
    inputs: ArrayLike,
    values: ArrayLike,
    *,
    names: Sequence[str],
    starts: ArrayLike,
    bounds: tuple[ArrayLike, ArrayLike],
    loss: Literal["linear", "huber", "soft_l1"] = "linear",
    scale: float = 1.0,
    space: Literal["log", "linear"] = "log",
    weights: ArrayLike | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> FitResult:
    """Fit any law by a bounded trust-region search from many starts; the best end counts.

    Args:
        predict: The law: called with the inputs and then every parameter, gives one value a point.
        inputs: `[points]`, or `[points, variables]` for a law of several variables.
        values: `[points]` what was measured; positive when `space` is `"log"`.
        names: One name a parameter, in the order in which `predict` takes them.
        starts: `[starts, parameters]`; moved into the bounds.
        bounds: Lowest and highest value of every parameter.
        loss: ρ of SciPy's `least_squares`: squares, Huber's or its smooth relative.
        scale: s, the residual from which a robust loss grows slower.
        space: Whether residuals are differences of logarithms or of values.
        weights: `[points]`, factors of the squared residuals; positive.
        bootstrap: Resamples of the points for the intervals; 0 gives none.
        seed: Of the bootstrap.

    Returns:
        The fit; its order of parameters is that of `names`.

    Raises:
        ValueError: Lengths that differ, values that are not finite (or, in log space, not positive), fewer points than
            parameters, or no start from which the law is finite.

    >>> line = fit_scaling_law(
    ...     lambda x, a, b: a + b * x, [0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 5.0, 7.0],
    ...     names=("a", "b"), starts=[[0.0, 0.0]], bounds=([-9, -9], [9, 9]), space="linear",
    ... )
    >>> {name: round(value, 6) for name, value in line.params.items()}
    {'a': 1.0, 'b': 2.0}
    """
    check_option(loss, "loss", ("linear", "huber", "soft_l1"))
    check_option(space, "space", ("log", "linear"))
    check_positive(scale, "scale")
    check_at_least(bootstrap, "bootstrap", 0)
    points, measured = _inputs(inputs), _measured(values, "values", positive=space == "log")
    check_same_length(points, measured, "inputs", "values")
    check_at_least(len(measured), "number of points", len(names))
    factors = np.ones_like(measured) if weights is None else _measured(weights, "weights", positive=True)
    check_same_length(factors, measured, "weights", "values")
    transform: Callable[[Array], Array] = np.log if space == "log" else np.asarray
    search = _Search(predict, transform, loss, scale, bounds)
    candidates = np.atleast_2d(np.asarray(starts, dtype=np.float64))
    best = search.best(points, measured, factors, candidates)
    params = dict(zip(names, best.x.tolist(), strict=True))
    law = _FittedLaw(predict, params)
    with np.errstate(divide="ignore"):
        residuals = transform(law.predict(points)) - transform(measured)
    intervals = None
    if bootstrap:
        draws = np.random.default_rng(seed).integers(0, len(measured), size=(bootstrap, len(measured)))
        ends = [search.best(points[rows], measured[rows], factors[rows], best.x[None]).x for rows in draws]
        low, high = np.percentile(ends, (2.5, 97.5), axis=0)
        intervals = {name: (float(low[k]), float(high[k])) for k, name in enumerate(names)}
    return FitResult(
        law=law,
        params=params,
        covariance=_covariance(best.jac, residuals * np.sqrt(factors)),
        r2=_explained(transform(measured), residuals, factors),
        aicc=_aicc(residuals * np.sqrt(factors), len(names)),
        objective=float(best.cost),
        intervals=intervals,
    )


def fit_power_law(
    x: ArrayLike,
    loss: ArrayLike,
    *,
    constant: bool = True,
    weights: ArrayLike | None = None,
    loss_fn: Literal["log_l2", "log_huber"] = "log_l2",
    bootstrap: int = 0,
) -> FitResult:
    """Fit L(x) = L_inf + (x0 / x)^alpha to a loss that falls with x, on its logarithm.

    Where the constant is fixed, the search starts from the line through (log x, log(L − L_inf)); 25 constants from 0 to
    just below the smallest loss are tried, and the five that fit best are searched from.

    Args:
        x: `[points]`, positive: parameters, compute, data, or steps.
        loss: `[points]`, positive.
        constant: Whether there is a floor; without it L_inf = 0, and L = a·x^(−b) with a = x0^alpha, b = alpha.
        weights: `[points]`, factors of the squared residuals.
        loss_fn: `"log_l2"`: least squares; `"log_huber"`: Huber's loss with δ = 1e−3, for points that lie off.
        bootstrap: Resamples of the points for the intervals; 0 gives none.

    Returns:
        A fit with a `PowerLawPlusConstant`, parameters `L_inf`, `x0` and `alpha`. Its covariance is that of
        (L_inf, log x0, alpha); r2 is that of log(L − L_inf).

    Raises:
        ValueError: Values that are not positive, too few points (four with a constant, else two), or a loss that does
            not fall with x.

    Source: Henighan et al. 2020, Eq. 1.1 and Section 2; the fitting procedure is ours.

    >>> steps = [10, 20, 40, 80, 160]
    >>> fit = fit_power_law(steps, [2.0 * step**-0.5 + 0.3 for step in steps])
    >>> round(fit.params["L_inf"], 6), round(fit.params["alpha"], 6), round(fit.params["x0"], 5)
    (0.3, 0.5, 4.0)
    """
    check_option(loss_fn, "loss_fn", ("log_l2", "log_huber"))
    places, losses = _measured(x, "x", positive=True), _measured(loss, "loss", positive=True)
    check_same_length(places, losses, "x", "loss")
    check_at_least(len(losses), "number of points", 4 if constant else 2)
    # Around the middle of log x, so that amplitude and exponent hardly depend on each other.
    middle = float(np.log(places).mean())
    logs, floors = np.log(places) - middle, np.linspace(0, 0.999, _FLOORS) * losses.min()
    lines = [np.polyfit(logs, np.log(losses - floor), 1) for floor in (floors if constant else floors[:1])]

    def predict(at: Array, *parameters: float) -> Array:
        floor, amplitude, alpha = parameters if constant else (0.0, *parameters)
        return np.asarray(floor + np.exp(amplitude - alpha * at))

    off = [
        np.square(np.log(floor + np.exp(np.polyval(line, logs))) - np.log(losses)).sum()
        for floor, line in zip(floors, lines, strict=False)
    ]
    promising = sorted(range(len(lines)), key=off.__getitem__)[:_SEARCHES]
    starts = [[floors[k], lines[k][1], -lines[k][0]] for k in promising]
    lowest, highest = [0.0, -_LARGEST_LOG, 1e-9], [float(losses.min()) * (1 - 1e-9), _LARGEST_LOG, 1e3]
    first = 0 if constant else 1
    fit = fit_scaling_law(
        predict,
        logs,
        losses,
        names=("L_inf", "amplitude", "alpha")[first:],
        starts=[start[first:] for start in starts],
        bounds=(lowest[first:], highest[first:]),
        loss="huber" if loss_fn == "log_huber" else "linear",
        scale=1e-3 if loss_fn == "log_huber" else 1.0,
        weights=weights,
        bootstrap=0,
    )
    floor, alpha = fit.params.get("L_inf", 0.0), fit.params["alpha"]
    log_x0 = middle + fit.params["amplitude"] / alpha
    if not (alpha > 1e-6 and abs(log_x0) < _LARGEST_LOG):
        raise ValueError("Expected argument `loss` to fall with `x`, but it does not.")
    law = PowerLawPlusConstant(floor, math.exp(log_x0), alpha)
    factors = np.ones_like(losses) if weights is None else np.asarray(weights, dtype=np.float64)
    above = np.log(losses - floor)
    intervals = None
    if bootstrap:
        draws = np.random.default_rng(0).integers(0, len(losses), size=(bootstrap, len(losses)))
        intervals = _intervals(places, losses, factors, draws, constant, loss_fn)
    return replace(
        fit,
        law=law,
        params={"L_inf": law.L_inf, "x0": law.x0, "alpha": law.alpha},
        covariance=_in_log_scale(fit.covariance, fit.params["amplitude"], alpha),
        r2=_explained(above, above - np.log(law.reducible(places)), factors),
        intervals=intervals,
    )


def _intervals(
    places: Array, losses: Array, factors: Array, draws: NDArray[np.int64], constant: bool, loss_fn: Any
) -> dict[str, tuple[float, float]]:
    """Percentiles over resamples; one without enough distinct points, or that does not fall, is left out."""
    ends = []
    for rows in draws:
        try:
            again = fit_power_law(places[rows], losses[rows], constant=constant, weights=factors[rows], loss_fn=loss_fn)
        except ValueError:
            continue
        ends.append(list(again.params.values()))
    if not ends:
        raise ValueError("Expected some bootstrap resamples to follow a power law, but none does.")
    low, high = np.percentile(ends, (2.5, 97.5), axis=0)
    return {name: (float(low[k]), float(high[k])) for k, name in enumerate(("L_inf", "x0", "alpha"))}


class _Search:
    """SciPy's bounded least squares from several starts."""

    def __init__(
        self,
        predict: Predict,
        transform: Callable[[Array], Array],
        loss: str,
        scale: float,
        bounds: tuple[ArrayLike, ArrayLike],
    ) -> None:
        self.predict, self.transform, self.loss, self.scale = predict, transform, loss, scale
        self.low, self.high = (np.asarray(bound, dtype=np.float64) for bound in bounds)

    def best(self, inputs: Array, values: Array, weights: Array, starts: Array) -> Any:
        """The end with the lowest cost."""
        from scipy.optimize import least_squares

        aim, roots = self.transform(values), np.sqrt(weights)

        def residuals(parameters: Array) -> Array:
            with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
                said = self.transform(np.asarray(self.predict(inputs, *parameters), dtype=np.float64))
            # A law that leaves its domain is far off, rather than an error.
            return np.nan_to_num((said - aim) * roots, nan=1e6, posinf=1e6, neginf=-1e6)

        ends = [
            least_squares(
                residuals,
                np.clip(start, self.low, self.high),
                bounds=(self.low, self.high),
                loss=self.loss,
                f_scale=self.scale,
                x_scale="jac",
                xtol=1e-13,
                ftol=1e-13,
                gtol=1e-13,
            )
            for start in starts
            if np.isfinite(start).all()
        ]
        if not ends:
            raise ValueError("Expected at least one finite start, but there is none.")
        return min(ends, key=lambda end: float(end.cost))


def _inputs(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0:
        array = array[None]
    if not np.isfinite(array).all():
        raise ValueError("Expected argument `inputs` to hold finite numbers, but it holds NaN or infinity.")
    return array


def _measured(values: ArrayLike, name: str, *, positive: bool) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"Expected argument `{name}` to be a sequence of numbers, but got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"Expected argument `{name}` to hold finite numbers, but it holds NaN or infinity.")
    if positive and array.min() <= 0:
        raise ValueError(f"Expected argument `{name}` to hold positive numbers, but got {array.min()}.")
    return array


def _covariance(jacobian: Array, residuals: Array) -> Array | None:
    """s²·(JᵀJ)⁻¹ with s² the residual variance."""
    points, parameters = jacobian.shape
    if points <= parameters:
        return None
    return np.asarray(np.linalg.pinv(jacobian.T @ jacobian) * float(residuals @ residuals) / (points - parameters))


def _in_log_scale(covariance: Array | None, amplitude: float, alpha: float) -> Array | None:
    """From (L_inf, amplitude, alpha) to (L_inf, log x0, alpha), with log x0 = middle + amplitude / alpha."""
    if covariance is None:
        return None
    full = np.zeros((3, 3))
    start = 3 - len(covariance)
    full[start:, start:] = covariance
    change = np.array([[1.0, 0.0, 0.0], [0.0, 1 / alpha, -amplitude / alpha**2], [0.0, 0.0, 1.0]])
    return np.asarray(change @ full @ change.T)


def _explained(values: Array, residuals: Array, weights: Array) -> float:
    centred = values - np.average(values, weights=weights)
    total = float(weights @ centred**2)
    return 1 - float(weights @ residuals**2) / total if total > 0 else math.nan


def _aicc(residuals: Array, parameters: int) -> float | None:
    points, count = len(residuals), parameters + 1  # the variance is estimated too
    if points - count - 1 <= 0:
        return None
    variance = max(float(residuals @ residuals) / points, 1e-300)
    return points * math.log(variance) + 2 * count + 2 * count * (count + 1) / (points - count - 1)
