"""What each metric is called, how its values read, and which way is better."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["fraction", "count", "milliseconds", "number"]


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is shown.

    Attributes:
        name: Its key in `ReportCard.metrics`.
        label: What a reader sees.
        better: Which way is better; None where neither is.
        unit: What a value is; fractions are shown per cent.
    """

    name: str
    label: str
    better: Literal["higher", "lower"] | None = None
    unit: Unit = "number"

    @property
    def heading(self) -> str:
        """The label with its unit, for the head of a column."""
        return self.label + {"fraction": ", %", "milliseconds": ", ms"}.get(self.unit, "")

    @property
    def sentence_label(self) -> str:
        """The label as it stands inside a sentence: `accuracy`, but `R²` and `KL from teacher`."""
        return (
            self.label if self.label[1:2].isupper() or self.label == "R²" else self.label[:1].lower() + self.label[1:]
        )

    def format(self, value: float, *, like: float | None = None) -> str:
        """A value as text, without its unit; rounded as `like` would be, where that is given.

        >>> metric("accuracy").format(0.98765), metric("parameters").format(1_234_567)
        ('98.77', '1.23 M')
        >>> metric("latency_ms").format(0.01234), metric("latency_ms").format(0.01234, like=2.5)
        ('0.0123', '0.01')
        """
        if not math.isfinite(value):
            return "not a number" if math.isnan(value) else ("infinite" if value > 0 else "−infinite")
        size = abs(value if like is None else like)
        if self.unit == "count":
            return _count(value, size)
        if self.unit == "fraction":
            text = f"{100 * value:.2f}"
        elif self.unit == "milliseconds" or size >= 100:
            text = _significant(value, 3, size)
        else:
            text = f"{value:.3f}" if size >= 0.01 or value == 0 else f"{value:.2e}"
        return text.replace("-", "−")

    def format_unit(self, value: float) -> str:
        """A value as text with its unit: `98.77 %`, `2.31 ms`, `1.23 M`."""
        return self.format(value) + {"fraction": " %", "milliseconds": " ms"}.get(self.unit, "")

    def format_difference(self, value: float) -> str:
        """A difference with its sign and, for fractions, in percentage points.

        >>> metric("accuracy").format_difference(-0.0123)
        '−1.23 points'
        """
        text = self.format(value)
        sign = "+" if value > 0 else ""
        return sign + text + {"fraction": " points", "milliseconds": " ms"}.get(self.unit, "")


@dataclass(frozen=True, slots=True)
class Spread:
    """A metric over seeds: mean and sample standard deviation of the finite values.

    Attributes:
        mean: NaN when no value is finite.
        deviation: None with fewer than two finite values.
        count: Finite values.
        lost: Values that are NaN or infinite.
    """

    mean: float
    deviation: float | None
    count: int
    lost: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one value a seed.

        >>> Spread.of([1.0, 3.0, float("nan")])
        Spread(mean=2.0, deviation=1.4142135623730951, count=2, lost=1)
        """
        finite = [value for value in values if math.isfinite(value)]
        mean = statistics.fmean(finite) if finite else math.nan
        deviation = statistics.stdev(finite) if len(finite) > 1 else None
        return cls(mean, deviation, len(finite), len(values) - len(finite))

    def format(self, metric: Metric) -> str:
        """`mean ± deviation`, or the mean alone where there is no spread to tell of."""
        text = metric.format(self.mean)
        return f"{text} ± {metric.format(self.deviation, like=self.mean)}" if self.deviation else text


def _significant(value: float, digits: int, size: float) -> str:
    """Fixed-point text with as many decimals as a number of that size needs for the significant digits."""
    if size == 0:
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:,.{decimals}f}"


def _count(value: float, size: float) -> str:
    for scale, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if size >= scale:
            return _significant(value / scale, 3, size / scale) + suffix
    return f"{value:.0f}" if value == round(value) else _significant(value, 3, size)


_KNOWN = (
    Metric("accuracy", "Accuracy", "higher", "fraction"),
    Metric("top5_accuracy", "Top-5 accuracy", "higher", "fraction"),
    Metric("token_accuracy", "Token accuracy", "higher", "fraction"),
    Metric("mean_iou", "Mean IoU", "higher", "fraction"),
    Metric("pixel_accuracy", "Pixel accuracy", "higher", "fraction"),
    Metric("robust_accuracy", "Robust accuracy", "higher", "fraction"),
    Metric("fgsm_accuracy", "Accuracy under FGSM", "higher", "fraction"),
    Metric("pgd20_accuracy", "Accuracy under PGD-20", "higher", "fraction"),
    Metric("auto_attack_accuracy", "Accuracy under AutoAttack", "higher", "fraction"),
    Metric("mean_confidence", "Mean confidence", None, "fraction"),
    Metric("mean_squared_error", "Mean squared error", "lower"),
    Metric("mean_absolute_error", "Mean absolute error", "lower"),
    Metric("r2", "R²", "higher"),
    Metric("perplexity", "Perplexity", "lower"),
    Metric("expected_calibration_error", "Calibration error (ECE)", "lower", "fraction"),
    Metric("maximum_calibration_error", "Largest calibration error", "lower", "fraction"),
    Metric("classwise_calibration_error", "Classwise calibration error", "lower", "fraction"),
    Metric("kolmogorov_smirnov_calibration_error", "KS calibration error", "lower", "fraction"),
    Metric("confidence_auroc", "AUROC of confidence against correctness", "higher"),
    Metric("brier_score", "Brier score", "lower"),
    Metric("teacher_agreement", "Agreement with teacher", "higher", "fraction"),
    Metric("teacher_error_agreement", "Agreement where the teacher errs", None, "fraction"),
    Metric("teacher_kappa", "Agreement beyond chance (κ)", "higher"),
    Metric("teacher_mean_squared_error", "Mean squared distance to teacher", "lower"),
    Metric("teacher_kl", "KL from teacher", "lower"),
    Metric("negative_log_likelihood", "Log loss (NLL)", "lower"),
    Metric("parameters", "Parameters", "lower", "count"),
    Metric("multiply_adds", "Multiply-adds", "lower", "count"),
    Metric("latency_ms", "Latency", "lower", "milliseconds"),
    Metric("latency_p95_ms", "Latency, 95th percentile", "lower", "milliseconds"),
    Metric("train_loss", "Training loss", "lower"),
    Metric("validation_loss", "Validation loss", "lower"),
    Metric("validation_accuracy", "Validation accuracy", "higher", "fraction"),
)
METRICS = {known.name: known for known in _KNOWN}
"""The metrics that reports know by name."""

QUALITY = (
    "accuracy",
    "token_accuracy",
    "mean_iou",
    "pixel_accuracy",
    "r2",
    "mean_squared_error",
    "mean_absolute_error",
    "perplexity",
    "negative_log_likelihood",
)
"""What says how well a model does its task; the first that an arm has is the report's main metric."""

HEADLINE = (
    *QUALITY[:-1],
    "expected_calibration_error",
    "teacher_agreement",
    "negative_log_likelihood",
    "parameters",
    "multiply_adds",
    "latency_ms",
)
"""The columns of the headline table, in order; those that nobody measured are left out."""


def metric(name: str) -> Metric:
    """How a metric is shown; one without an entry is shown by its name, without a better way.

    >>> metric("brier_score").label, metric("my_own_score").label, metric("my_own_score").better
    ('Brier score', 'My own score', None)
    """
    if name in METRICS:
        return METRICS[name]
    label = name.replace("_", " ").strip() or name
    return Metric(name, label[:1].upper() + label[1:], unit="fraction" if name.endswith("accuracy") else "number")
