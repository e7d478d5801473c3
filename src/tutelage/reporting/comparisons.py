"""Arms against each other, over seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from tutelage.assessment.statistics import holm_correction, paired_t_test
from tutelage.reporting.report import ArmResult

COMPARED = ("accuracy", "expected_calibration_error", "mean_absolute_error", "token_accuracy", "perplexity")
"""The metrics that arms are compared by, where they have them."""


def compare_arms(arms: Sequence[ArmResult], metrics: Sequence[str] = COMPARED) -> list[dict[str, Any]]:
    """Compare every pair of arms by paired t-tests over seeds, their p-values corrected together (Holm).

    Args:
        arms: What is compared; cards of the same position are of the same seed.
        metrics: By which metrics. One that an arm lacks for a seed, or has as NaN, is left out for that pair.

    Returns:
        The entries of `Report.comparisons`: the later arm minus the earlier one.

    >>> from tutelage.assessment.report_card import ReportCard
    >>> arm = lambda name, *values: ArmResult(name, cards=[ReportCard("", "", 9, {"accuracy": v}) for v in values])
    >>> found = compare_arms([arm("a", 0.5, 0.6, 0.7), arm("b", 0.6, 0.7, 0.9)])
    >>> found[0]["arm"], round(found[0]["difference"], 4), round(found[0]["p_value"], 4)
    ('b', 0.1333, 0.0572)
    """
    found: list[dict[str, Any]] = []
    for metric, (baseline, arm) in itertools.product(metrics, itertools.combinations(arms, 2)):
        ours, theirs = arm.values(metric), baseline.values(metric)
        if len(ours) != len(theirs) or len(ours) < 2 or not all(map(math.isfinite, ours + theirs)):
            continue
        test = paired_t_test(ours, theirs)
        found.append(
            {
                "arm": arm.name,
                "baseline": baseline.name,
                "metric": metric,
                "difference": test.difference,
                "ci_low": test.ci_low,
                "ci_high": test.ci_high,
                "p_value": test.p_value,
                "method": "paired t-test over seeds, Holm-corrected",
            }
        )
    for entry, corrected in zip(found, holm_correction([entry["p_value"] for entry in found]), strict=True):
        entry["p_value"] = corrected
    return found
