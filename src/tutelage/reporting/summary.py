"""What a report says first: its closing sentence and a few key figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tutelage.reporting.headline import best_arms, is_significant, main_metric, ranked
from tutelage.reporting.metrics import Metric, Spread, metric
from tutelage.reporting.report import ArmResult, Report


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """One figure with what it is and what it stands beside."""

    label: str
    value: str
    note: str


def summary_sentence(report: Report) -> str:
    """What was learned, in a sentence or two made from the figures; says so when nothing was measured.

    >>> from tutelage.assessment.report_card import ReportCard
    >>> card = ReportCard("kd", "classification", 9, {"accuracy": 0.9})
    >>> teacher = ReportCard("teacher", "classification", 9, {"accuracy": 0.96})
    >>> summary_sentence(Report("Digits", arms=[ArmResult("kd", cards=[card])], teacher=teacher))
    'kd reaches an accuracy of 90.00 %; its teacher has 96.00 %.'
    """
    main = main_metric(report)
    if main is None:
        return "Nothing was measured that says how well a student does its task."
    order = ranked(report)
    best = report.arms[order[0]]
    text = f"{best.name} reaches {_article(main)} of {main.format_unit(Spread.of(best.values(main.name)).mean)}"
    taught = report.teacher.metrics.get(main.name, math.nan) if report.teacher else math.nan
    if math.isfinite(taught):
        text += f"; its teacher has {main.format_unit(taught)}"
    text += "."
    if best_arms(report.arms, main):
        text += " " + _distinction(report, best, main)
    return text


def _article(main: Metric) -> str:
    label = main.sentence_label
    return ("an " if label[0] in "aeiouR" else "a ") + label


def _distinction(report: Report, best: ArmResult, main: Metric) -> str:
    """Which of the other arms a test tells from the best one."""
    verdicts: dict[str, bool | None] = {arm.name: None for arm in report.arms if arm.name != best.name}
    for comparison in report.comparisons:
        pair = {comparison.get("arm"), comparison.get("baseline")}
        if comparison.get("metric") == main.name and best.name in pair:
            verdicts.update({str(name): is_significant(comparison) for name in pair if name in verdicts})
    level = [name for name, verdict in verdicts.items() if verdict is False]
    untested = [name for name, verdict in verdicts.items() if verdict is None]
    if len(untested) == len(verdicts):
        return "No test says whether its lead over the other arms is more than chance."
    if level:
        return f"Its lead over {_listed(level)} is not significant."
    if untested:
        return f"It was not tested against {_listed(untested)}."
    return f"Its lead over {_listed(list(verdicts))} is significant."


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more arms"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def key_figures(report: Report) -> list[KeyFigure]:
    """The best arm's main metric, and how it stands to the teacher: share kept, size, speed, agreement."""
    main = main_metric(report)
    if main is None:
        return []
    best = report.arms[ranked(report)[0]]
    spread = Spread.of(best.values(main.name))
    seeds = f"{best.name}, {spread.count} seed{'s' if spread.count > 1 else ''}"
    figures = [KeyFigure(main.label, main.format_unit(spread.mean), seeds)]
    if report.teacher is None:
        return figures
    taught = report.teacher.metrics
    if main.unit == "fraction" and taught.get(main.name, 0) > 0:
        share = f"{100 * spread.mean / taught[main.name]:.1f} %"
        figures.append(
            KeyFigure(
                f"Of the teacher’s {main.sentence_label}", share, f"teacher {main.format_unit(taught[main.name])}"
            )
        )
    for name, smaller, larger in (
        ("parameters", "Fewer parameters", "More parameters"),
        ("latency_ms", "Quicker", "Slower"),
    ):
        own, other = Spread.of(best.values(name)).mean, taught.get(name, math.nan)
        if own > 0 and other > 0 and max(own, other) / min(own, other) >= 1.05:
            shown = metric(name)
            label, ratio = (smaller, other / own) if other >= own else (larger, own / other)
            note = f"{shown.format_unit(own)}, teacher {shown.format_unit(other)}"
            figures.append(KeyFigure(label, f"{ratio:.1f} ×" if ratio < 100 else f"{ratio:,.0f} ×", note))
    agreement = Spread.of(best.values("teacher_agreement"))
    if agreement.count:
        figures.append(
            KeyFigure(
                "Agreement", metric("teacher_agreement").format_unit(agreement.mean), "same answer as the teacher"
            )
        )
    return figures
