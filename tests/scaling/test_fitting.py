import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.scaling import fit_power_law, fit_scaling_law

X = np.geomspace(10, 10_000, 12)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.05, 1.5), st.floats(-2, 3), st.floats(0, 2))
def test_exact_laws_are_recovered(alpha, amplitude, floor):
    values = floor + np.exp(amplitude) * (X / 300) ** -alpha
    fit = fit_power_law(X, values)
    np.testing.assert_allclose(fit.law.predict(X), values, rtol=1e-6)
    assert fit.params["L_inf"] == pytest.approx(floor, abs=1e-3)
    assert fit.r2 == pytest.approx(1, abs=1e-6)


def test_a_pure_law_gives_coefficient_and_exponent():
    fit = fit_power_law(X, 3.0 * X**-0.4, constant=False)
    assert fit.params["L_inf"] == 0
    assert fit.params["alpha"] == pytest.approx(0.4, abs=1e-9)
    assert fit.params["x0"] ** fit.params["alpha"] == pytest.approx(3.0, rel=1e-6)


def test_without_a_constant_it_is_the_line_in_logarithms():
    values = 2.0 * X**-0.3 * np.exp(np.random.default_rng(0).normal(0, 0.1, len(X)))
    slope, intercept = np.polyfit(np.log(X), np.log(values), 1)
    fit = fit_power_law(X, values, constant=False)
    assert fit.params["alpha"] == pytest.approx(-slope, rel=1e-6)
    assert fit.params["alpha"] * math.log(fit.params["x0"]) == pytest.approx(intercept, rel=1e-6)
    residuals = np.log(values) - intercept - slope * np.log(X)
    assert fit.r2 == pytest.approx(1 - residuals.var() / np.log(values).var())
    assert fit.objective == pytest.approx(0.5 * (residuals**2).sum())
    n, k = len(X), 3
    assert fit.aicc == pytest.approx(n * math.log((residuals**2).mean()) + 2 * k + 2 * k * (k + 1) / (n - k - 1))
    slope_variance = (residuals**2).sum() / (n - 2) / ((np.log(X) - np.log(X).mean()) ** 2).sum()
    assert fit.covariance[2, 2] == pytest.approx(slope_variance, rel=1e-5)


def test_scaling_x_scales_x0_and_nothing_else():
    values = 0.4 + (50 / X) ** 0.5 * np.exp(np.random.default_rng(1).normal(0, 0.02, len(X)))
    first, second = fit_power_law(X, values), fit_power_law(1e9 * X[::-1], values[::-1])
    assert second.params["alpha"] == pytest.approx(first.params["alpha"], rel=1e-6)
    assert second.params["L_inf"] == pytest.approx(first.params["L_inf"], rel=1e-6)
    assert second.params["x0"] == pytest.approx(1e9 * first.params["x0"], rel=1e-6)


def test_a_constant_on_top_shifts_the_floor_alone():
    first, second = (fit_power_law(X, 1.0 + add + (50 / X) ** 0.5).params for add in (0.0, 2.0))
    assert second["L_inf"] - first["L_inf"] == pytest.approx(2.0, abs=1e-6)
    assert second["alpha"] == pytest.approx(first["alpha"], rel=1e-5)


def test_aicc_prefers_the_constant_where_there_is_one():
    noise = np.exp(np.random.default_rng(2).normal(0, 0.01, len(X)))
    flat, pure = (1.0 + (50 / X) ** 0.5) * noise, (50 / X) ** 0.5 * noise
    assert fit_power_law(X, flat).aicc < fit_power_law(X, flat, constant=False).aicc
    assert fit_power_law(X, pure).aicc > fit_power_law(X, pure, constant=False).aicc


def test_huber_leaves_an_outlier_aside():
    values = (50 / X) ** 0.5
    values[3] *= 2
    assert fit_power_law(X, values, loss_fn="log_huber").params["alpha"] == pytest.approx(0.5, abs=2e-3)
    assert abs(fit_power_law(X, values, constant=False).params["alpha"] - 0.5) > 0.01


def test_a_point_without_weight_hardly_counts():
    values = (50 / X) ** 0.5
    values[3] *= 2
    weights = np.where(np.arange(len(X)) == 3, 1e-9, 1.0)
    assert fit_power_law(X, values, constant=False, weights=weights).params["alpha"] == pytest.approx(0.5, abs=1e-6)


def test_bootstrap_intervals_hold_the_truth_and_repeat():
    values = (0.5 + (50 / X) ** 0.5) * np.exp(np.random.default_rng(3).normal(0, 0.01, len(X)))
    fit = fit_power_law(X, values, bootstrap=20)
    low, high = fit.intervals["alpha"]
    assert low < 0.5 < high
    assert high - low < 0.5
    assert fit_power_law(X, values, bootstrap=20).intervals == fit.intervals
    assert fit_power_law(X, values).intervals is None


def test_a_law_of_two_variables_from_far_starts():
    generator = np.random.default_rng(4)
    inputs = generator.uniform(1, 100, (30, 2))

    def law(at, a, b, c):
        return a * at[:, 0] ** -b + c * at[:, 1] ** -b

    values = law(inputs, 2.0, 0.5, 3.0)
    options = {"names": ("a", "b", "c"), "bounds": ([0, 0, 0], [10, 10, 10])}
    fit = fit_scaling_law(law, inputs, values, starts=[[1, 1, 1], [9, 0.1, 9]], bootstrap=3, **options)
    np.testing.assert_allclose(list(fit.params.values()), [2.0, 0.5, 3.0], rtol=1e-6)
    np.testing.assert_allclose(fit.law.predict(inputs[:2]), values[:2], rtol=1e-6)
    assert set(fit.intervals) == {"a", "b", "c"}


def test_bounds_hold():
    fit = fit_scaling_law(
        lambda x, slope: slope * x, X, 3 * X, names=("slope",), starts=[[5.0]], bounds=([0.0], [2.0]), space="linear"
    )
    assert fit.params["slope"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("x", "loss", "message"),
    [
        ([1, 2, 3], [3, 2, 1], "number of points"),
        ([1, 2, 3, 4], [3, 2, 1, 0], "positive"),
        ([0, 2, 3, 4], [4, 3, 2, 1], "positive"),
        ([1, 2, 3, 4], [4, 3, 2, math.nan], "finite"),
        ([1, 2, 3, 4], [1, 2, 3, 4], "fall with"),
        ([1, 2, 3, 4], [4, 3, 2], "hold 4|4 and 3|same|3"),
    ],
)
def test_bad_input(x, loss, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(x, loss)
