"""The headline table: arms by metrics, with what is best and what chance explains."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any, Literal

from tutelage.reporting.metrics import HEADLINE, QUALITY, Metric, Spread, metric
from tutelage.reporting.report import ArmResult, Report

SIGNIFICANCE = 0.05
"""A p-value below this is called significant."""

Mark = Literal["", "best", "level"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of the table.

    Attributes:
        text: The figure, `mean ± deviation` over seeds; empty where it was not measured.
        mark: `"best"` for the best arm of the column, `"level"` for an arm that is not told apart from the best.
        note: Why an arm is level with the best.
        lost: Seeds whose value is NaN or infinite.
    """

    text: str
    mark: Mark = ""
    note: str = ""
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of the teacher or of an arm; `position` is the arm's place in the report, None for the teacher."""

    name: str
    description: str
    position: int | None
    seeds: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Headline:
    """The table: a metric a column, the teacher's row first, then a row an arm."""

    columns: tuple[Metric, ...]
    rows: tuple[Row, ...]


def headline_table(report: Report, names: tuple[str, ...] = HEADLINE) -> Headline:
    """The headline table of a report.

    The best mean of a column is marked when at least two arms have the metric and their means differ; an arm with a
    lost seed is never best. An arm is marked level with the best when `report.comparisons` holds a test between the two
    on that metric which is not significant, or when its latency is within the quartiles of the best arm's timings.

    Args:
        report: The report.
        names: Metrics to show, in order; those that neither the teacher nor an arm has are left out.

    >>> from tutelage.assessment.report_card import ReportCard
    >>> cards = [ReportCard(name, "classification", 9, {"accuracy": value}) for name, value in (("a", 0.8), ("b", 0.9))]
    >>> arms = [ArmResult(card.name, cards=[card]) for card in cards]
    >>> [[cell.text + cell.mark for cell in row.cells] for row in headline_table(Report("t", arms=arms)).rows]
    [['80.00'], ['90.00best']]
    """
    teacher = report.teacher
    present = {name for arm in report.arms for card in arm.cards for name in card.metrics}
    present |= set(teacher.metrics) if teacher else set()
    columns = tuple(metric(name) for name in names if name in present)
    marks = {column.name: _marks(report, column) for column in columns}
    rows = []
    if teacher:
        cells = tuple(
            _cell([teacher.metrics[column.name]] if column.name in teacher.metrics else [], column, ("", ""))
            for column in columns
        )
        rows.append(Row(teacher.name, "teacher", None, 1, cells))
    for position, arm in enumerate(report.arms):
        cells = tuple(_cell(arm.values(column.name), column, marks[column.name][position]) for column in columns)
        rows.append(Row(arm.name, arm.description, position, len(arm.cards), cells))
    return Headline(columns, tuple(rows))


def _cell(values: list[float], column: Metric, marked: tuple[Mark, str]) -> Cell:
    spread = Spread.of(values)
    return Cell(spread.format(column) if values else "", *marked, spread.lost)


def _marks(report: Report, column: Metric) -> list[tuple[Mark, str]]:
    """The mark of every arm in one column, and why it is level."""
    best = best_arms(report.arms, column)
    marks: list[tuple[Mark, str]] = []
    for position, arm in enumerate(report.arms):
        rivals = [report.arms[place] for place in best]
        if position in best:
            marks.append(("best", ""))
        elif any(_untold(report, arm.name, rival.name, column.name) for rival in rivals):
            marks.append(("level", "not significantly different from the best"))
        elif column.name == "latency_ms" and any(_same_speed(arm, rival) for rival in rivals):
            marks.append(("level", "within the spread of the best’s timings"))
        else:
            marks.append(("", ""))
    return marks


def _untold(report: Report, arm: str, rival: str, name: str) -> bool:
    """Whether a test between two arms found no significant difference in a metric."""
    return any(
        is_significant(comparison) is False
        for comparison in report.comparisons
        if comparison.get("metric") == name and {comparison.get("arm"), comparison.get("baseline")} == {arm, rival}
    )


def _same_speed(arm: ArmResult, rival: ArmResult) -> bool:
    """Whether an arm's median latency is within the quartiles of a quicker one's timings."""
    own, other = (
        [value for card in one.cards for value in card.latency.get("milliseconds", [])] for one in (arm, rival)
    )
    return len(own) > 1 and len(other) > 1 and bool(statistics.median(own) <= statistics.quantiles(other)[2])


def best_arms(arms: list[ArmResult], column: Metric) -> list[int]:
    """The positions of the arms with the best mean; none when a column has no better way or all arms are alike."""
    means: dict[int, float] = {}
    for position, arm in enumerate(arms):
        spread = Spread.of(arm.values(column.name))
        if spread.count and not spread.lost:
            means[position] = spread.mean
    if column.better is None or len(means) < 2 or len(set(means.values())) == 1:
        return []
    best = (max if column.better == "higher" else min)(means.values())
    return [position for position, mean in means.items() if mean == best]


def is_significant(comparison: dict[str, Any]) -> bool | None:
    """Whether a comparison's difference is more than chance explains; None when nothing in it says.

    The p-value decides where there is one; otherwise whether the interval leaves zero out.

    >>> is_significant({"p_value": 0.2}), is_significant({"ci_low": 0.1, "ci_high": 0.3}), is_significant({})
    (False, True, None)
    """
    p_value = comparison.get("p_value")
    if p_value is not None and math.isfinite(p_value):
        return bool(p_value < SIGNIFICANCE)
    low, high = comparison.get("ci_low"), comparison.get("ci_high")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return None
    return bool(low > 0 or high < 0)


def main_metric(report: Report) -> Metric | None:
    """The metric that ranks arms: the first of `QUALITY` that any arm has a finite value of."""
    for name in QUALITY:
        if any(Spread.of(arm.values(name)).count for arm in report.arms):
            return metric(name)
    return None


def ranked(report: Report) -> list[int]:
    """The positions of the arms, best first by the main metric; arms without it come last, in their order."""
    main = main_metric(report)
    if main is None:
        return list(range(len(report.arms)))

    def key(position: int) -> float:
        mean = Spread.of(report.arms[position].values(main.name)).mean
        if math.isnan(mean):
            return math.inf
        return -mean if main.better == "higher" else mean

    return sorted(range(len(report.arms)), key=key)
