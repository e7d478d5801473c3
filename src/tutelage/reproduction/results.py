"""What the trials measured, in the form that judges read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tutelage._checks import nearest
from tutelage.assessment.statistics import Alternative, PairedComparison, paired_t_test


@dataclass(frozen=True)
class Judgement:
    """What a judge found.

    Attributes:
        value: The figure that the criterion is about.
        holds: Whether the claim holds.
        p_value: Of the test that the criterion names, if it names one.
        detail: The figures behind it (which arms were picked, an interval).
    """

    value: float
    holds: bool
    p_value: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Results:
    """The metrics of every arm, one value a seed.

    Attributes:
        arms: `arms[arm][metric]` has one value a seed, in the order of the seeds.
        groups: The arms of every group, in the order of the recipe.
        facts: Figures about what `prepare` made.

    >>> results = Results({"a": {"accuracy": [0.5, 0.7]}, "b": {"accuracy": [0.8, 0.8]}}, {"both": ("a", "b")})
    >>> results.mean("a", "accuracy"), results.select("both", metric="accuracy")
    (0.6, 'b')
    """

    arms: Mapping[str, Mapping[str, Sequence[Any]]]
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)

    def values(self, arm: str, metric: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """One value a seed: `[seeds]`, or `[seeds, length]` for a metric that is a list.

        Raises:
            KeyError: There is no such arm or metric.
        """
        metrics = _get(self.arms, arm, "arm")
        return np.asarray(_get(metrics, metric, f"metric of {arm!r}"), dtype=np.float64)

    def mean(self, arm: str, metric: str) -> float:
        """The mean over the seeds."""
        return float(self.values(arm, metric).mean())

    def difference(self, arm: str, other: str, metric: str) -> float:
        """The mean of `arm` minus the mean of `other`."""
        return float((self.values(arm, metric) - self.values(other, metric)).mean())

    def paired(
        self, arm: str, other: str, metric: str, *, alternative: Alternative = "greater", level: float = 0.9
    ) -> PairedComparison:
        """Student's paired t-test over the seeds that `arm` differs from `other`, with the interval of the difference.

        With one seed the p-value is 1: nothing is known of the spread.
        """
        return paired_t_test(self.values(arm, metric), self.values(other, metric), alternative=alternative, level=level)

    def select(self, group: str, metric: str = "validation_accuracy", *, lower_is_better: bool = False) -> str:
        """The arm of a group with the best mean of a validation metric; of equals, the first."""
        sign = -1.0 if lower_is_better else 1.0
        candidates: Sequence[str] = _get(self.groups, group, "group")
        return max(candidates, key=lambda arm: sign * self.mean(arm, metric))


def _get(mapping: Mapping[str, Any], key: str, kind: str) -> Any:
    if key not in mapping:
        raise KeyError(f"There is no {kind} {key!r}{nearest(key, mapping)}; there are {', '.join(mapping)}.")
    return mapping[key]
