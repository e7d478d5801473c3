"""Scaling laws: power laws with and without a constant, and the fitter that stands behind them."""

from tutelage.scaling.fitting import FitResult, fit_power_law, fit_scaling_law
from tutelage.scaling.power_laws import PowerLawPlusConstant

__all__ = ["FitResult", "PowerLawPlusConstant", "fit_power_law", "fit_scaling_law"]
