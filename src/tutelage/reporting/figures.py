"""The figures of a report: from report cards and histories to charts with their numbers as a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tutelage.assessment.report_card import ReportCard
from tutelage.reporting import charts
from tutelage.reporting.headline import SIGNIFICANCE, is_significant, main_metric, ranked
from tutelage.reporting.metrics import Metric, Spread, metric
from tutelage.reporting.report import ArmResult, Report

COLOURS = 8
"""Arms that get a colour of their own; with more arms, the best ones."""

_CURVES = 6
_POINTS = 150
_TABLE_ROWS = 24
_BINS = 15
_STRAY = 5  # a call that takes this many medians was interrupted: it is told of, and not drawn


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart, its caption, and the numbers behind it as a table (head and rows; empty for none)."""

    caption: str
    chart: Markup
    note: str = ""
    tone: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def arm_tones(report: Report) -> list[str]:
    """The colour of every arm, the same in all charts: by position, or by rank when arms outnumber colours."""
    if len(report.arms) <= COLOURS:
        return [f"s{position}" for position in range(len(report.arms))]
    coloured = {position: f"s{rank}" for rank, position in enumerate(ranked(report)[:COLOURS])}
    return [coloured.get(position, "other") for position in range(len(report.arms))]


def _drawn(report: Report, tones: Sequence[str]) -> list[tuple[str, ArmResult]]:
    return [(tone, arm) for tone, arm in zip(tones, report.arms, strict=True) if tone != "other"]


def _limited(report: Report) -> str:
    return (
        "" if len(report.arms) <= COLOURS else f"The best {COLOURS} of {len(report.arms)} arms; the table has them all."
    )


def metric_figures(report: Report, tones: Sequence[str]) -> list[Figure]:
    """The main metric of every arm, a dot a seed, with the teacher's."""
    main = main_metric(report)
    if main is None:
        return []
    strips = []
    if report.teacher and math.isfinite(report.teacher.metrics.get(main.name, math.nan)):
        value = report.teacher.metrics[main.name]
        strips.append(charts.Strip(report.teacher.name, "teacher", [value], value, main.format(value)))
    for tone, arm in _drawn(report, tones):
        spread = Spread.of(arm.values(main.name))
        if spread.count:
            strips.append(charts.Strip(arm.name, tone, arm.values(main.name), spread.mean, spread.format(main)))
    chart = charts.strip_chart(
        strips,
        description=f"{main.label} by arm: " + "; ".join(f"{strip.name} {strip.text}" for strip in strips),
        x_format=_axis_format(main),
    )
    several = any(len(strip.values) > 1 for strip in strips)
    note = (
        "A ring is one seed, the tick is their mean."
        if several
        else "One seed each: how far seeds differ is not known."
    )
    return [Figure(main.label, chart, " ".join(filter(None, [note, _limited(report)])))]


def _axis_format(shown: Metric) -> charts.Format:
    return charts.percent if shown.unit == "fraction" else charts.number


def comparison_figures(report: Report) -> list[Figure]:
    """The differences that were tested, a figure a metric."""
    made = []
    for name in dict.fromkeys(str(comparison.get("metric", "")) for comparison in report.comparisons):
        shown = metric(name)
        rows, table = [], []
        for comparison in report.comparisons:
            difference = _number(comparison.get("difference"))
            if str(comparison.get("metric", "")) != name or difference is None:
                continue
            low, high, p_value = (_number(comparison.get(key)) for key in ("ci_low", "ci_high", "p_value"))
            verdict = is_significant(comparison)
            said = {True: "", False: ", not significant", None: ", not tested"}[verdict]
            pair = f"{comparison.get('arm', '')} − {comparison.get('baseline', '')}"
            text = shown.format_difference(difference) + said
            rows.append(charts.Interval(pair, difference, low, high, text, verdict))
            span = (
                ""
                if low is None or high is None
                else f"{shown.format_difference(low)} to {shown.format_difference(high)}"
            )
            table.append([pair, shown.format_difference(difference), span, "" if p_value is None else f"{p_value:.3g}"])
        if not rows:
            continue
        unit = {"fraction": ", percentage points", "milliseconds": ", ms"}.get(shown.unit, "")
        chart = charts.interval_chart(
            rows,
            description=f"Differences in {shown.label}: " + "; ".join(f"{row.name} {row.text}" for row in rows),
            x_format=(lambda value: charts.number(100 * value)) if shown.unit == "fraction" else charts.number,
        )
        better = f" {shown.better.capitalize()} is better." if shown.better else ""
        methods = dict.fromkeys(
            str(c["method"]) for c in report.comparisons if c.get("method") and c.get("metric") == name
        )
        note = f"A filled mark is a significant difference (p < {SIGNIFICANCE}); a hollow one may be chance.{better}"
        note += f" Test: {', '.join(methods)}." if methods else ""
        head = ("Difference of", "Estimate", "Interval", "p")
        made.append(Figure(f"Tested differences in {shown.sentence_label}{unit}", chart, note, head=head, rows=table))
    return made


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def learning_figures(report: Report, tones: Sequence[str]) -> list[Figure]:
    """One figure a quantity that was followed during training: the mean over seeds, and their range."""
    found = dict.fromkeys(
        key
        for arm in report.arms
        for run in arm.history
        for record in run
        for key in record
        if _number(record[key]) is not None
    )
    first = ("validation_accuracy", "train_loss", "validation_loss")
    names = [name for name in first if name in found] + [n for n in found if n not in (*first, "step", "epoch")]
    made = []
    for name in names[:_CURVES]:
        shown = metric(name)
        along = "epoch" if _everywhere(report, name, "epoch") else "step"
        series = [
            curve for tone, arm in _drawn(report, tones) if (curve := _curve(arm, tone, name, along, shown)) is not None
        ]
        if not series:
            continue
        values = [value for one in series for value in (*one.low, *one.high)]
        log = shown.unit == "number" and min(values) > 0 and max(values) / min(values) > 50
        ends = "; ".join(f"{one.name} ends at {shown.format(one.y[-1])}" for one in series)
        chart = charts.line_chart(
            series,
            description=f"{shown.label} by {along}: {ends}",
            x_label=along,
            y_format=_axis_format(shown),
            floor=0.0 if min(values) >= 0 else None,
            ceiling=1.0 if shown.unit == "fraction" else None,
            log_y=log,
        )
        several = any(len(arm.history) > 1 for arm in report.arms)
        note = "Line: mean over seeds; band: their range." if several else ""
        head, rows = _table(series, along, shown.format)
        caption = shown.heading + (" (logarithmic)" if log else "")
        made.append(Figure(caption, chart, " ".join(filter(None, [note, _limited(report)])), head=head, rows=rows))
    return made


def _everywhere(report: Report, name: str, along: str) -> bool:
    return all(
        _number(record.get(along)) is not None
        for arm in report.arms
        for run in arm.history
        for record in run
        if _number(record.get(name)) is not None
    )


def _curve(arm: ArmResult, tone: str, name: str, along: str, shown: Metric) -> charts.Series | None:
    """Mean and range over seeds at each position, averaged over neighbours where there are very many."""
    points: dict[float, list[float]] = {}
    for run in arm.history:
        for count, record in enumerate(run):
            value = _number(record.get(name))
            place = _number(record.get(along))
            if value is not None:
                points.setdefault(float(count) if place is None else place, []).append(value)
    if not points:
        return None
    xs = sorted(points)
    size = math.ceil(len(xs) / _POINTS)
    groups = [xs[start : start + size] for start in range(0, len(xs), size)]

    def fold(summarise: Callable[[list[float]], float]) -> list[float]:
        return [statistics.fmean(summarise(points[x]) for x in group) for group in groups]

    return charts.Series(arm.name, tone, [group[-1] for group in groups], fold(statistics.fmean), fold(min), fold(max))


def _table(
    series: Sequence[charts.Series], along: str, text: Callable[[float], str], place: charts.Format = charts.number
) -> tuple[list[str], list[list[str]]]:
    """The numbers of lines as a table: a row a position, thinned, the last one kept."""
    xs = sorted({x for one in series for x in one.x})
    step = math.ceil(len(xs) / _TABLE_ROWS)
    xs = sorted({*xs[::step], xs[-1]})
    found = [dict(zip(one.x, one.y, strict=True)) for one in series]
    rows = [[place(x), *(text(values[x]) if x in values else "" for values in found)] for x in xs]
    return [along.capitalize(), *(one.name for one in series)], rows


def reliability_figures(report: Report, tones: Sequence[str]) -> list[Figure]:
    """Confidence against accuracy, a figure a model; seeds are pooled bin by bin."""
    groups = [(report.teacher.name, "teacher", [report.teacher])] if report.teacher else []
    groups += [(arm.name, tone, arm.cards) for tone, arm in _drawn(report, tones)]
    made = []
    for name, tone, cards in groups:
        confidence, accuracy, count = _pooled([card.reliability for card in cards if card.reliability])
        if not count:
            continue
        spread = Spread.of([c.metrics[key] for c in cards if (key := "expected_calibration_error") in c.metrics])
        note = f"Calibration error {spread.format(metric(key))} %" if spread.count else ""
        bins = zip(confidence, accuracy, count, strict=True)
        rows = [[f"{100 * a:.1f} %", f"{100 * b:.1f} %", f"{n:,.0f}"] for a, b, n in bins]
        chart = charts.reliability_chart(
            confidence, accuracy, count, tone=tone, description=f"Accuracy against confidence of {name}. {note}"
        )
        made.append(Figure(name, chart, note, tone, ("Confidence", "Accuracy", "Samples"), rows))
    return made


def _pooled(curves: Sequence[dict[str, list[Any]]]) -> tuple[list[float], list[float], list[float]]:
    """Confidence, accuracy and count by bin; seeds are pooled in equal bins of confidence, weighted by samples."""
    points = [
        (float(confidence), float(accuracy), float(count))
        for curve in curves
        for confidence, accuracy, count in zip(curve["confidence"], curve["accuracy"], curve["count"], strict=True)
        if count and _number(confidence) is not None and _number(accuracy) is not None
    ]
    groups: dict[int, list[tuple[float, float, float]]] = {}
    for place, point in enumerate(points):
        groups.setdefault(place if len(curves) == 1 else math.ceil(point[0] * _BINS), []).append(point)
    pooled = []
    for _, group in sorted(groups.items()):
        total = sum(count for *_, count in group)
        pooled.append((sum(c * n for c, _, n in group) / total, sum(a * n for _, a, n in group) / total, total))
    return [row[0] for row in pooled], [row[1] for row in pooled], [row[2] for row in pooled]


def robustness_figure(report: Report, tones: Sequence[str]) -> Figure | None:
    """Accuracy by attack radius."""
    groups = [(report.teacher.name, "teacher", [report.teacher])] if report.teacher else []
    groups += [(arm.name, tone, arm.cards) for tone, arm in _drawn(report, tones)]
    series = [one for name, tone, cards in groups if (one := _robustness(name, tone, cards)) is not None]
    if not series:
        return None
    chart = charts.line_chart(
        series,
        description="Accuracy by attack radius: "
        + "; ".join(f"{s.name} {s.y[0]:.0%} to {s.y[-1]:.0%}" for s in series),
        x_label="attack radius ε",
        y_format=charts.percent,
        floor=0.0,
        ceiling=1.0,
    )
    head, rows = _table(series, "radius", metric("accuracy").format)
    return Figure("Accuracy under attack, %", chart, _limited(report), head=head, rows=rows)


def _robustness(name: str, tone: str, cards: Sequence[ReportCard]) -> charts.Series | None:
    points: dict[float, list[float]] = {}
    for card in cards:
        for radius, value in zip(card.robustness.get("epsilon", []), card.robustness.get("accuracy", []), strict=False):
            if _number(radius) is not None and _number(value) is not None:
                points.setdefault(float(radius), []).append(float(value))
    if not points:
        return None
    xs = sorted(points)
    return charts.Series(
        name,
        tone,
        xs,
        [statistics.fmean(points[x]) for x in xs],
        [min(points[x]) for x in xs],
        [max(points[x]) for x in xs],
    )


def latency_figure(report: Report, tones: Sequence[str]) -> Figure | None:
    """Single latency measurements, all seeds together, with their median."""
    groups = [(report.teacher.name, "teacher", [report.teacher])] if report.teacher else []
    groups += [(arm.name, tone, arm.cards) for tone, arm in _drawn(report, tones)]
    shown = metric("latency_ms")
    strips: list[charts.Strip] = []
    sizes: dict[Any, None] = {}
    notes = ["A dot is one call, the tick the median."]
    for name, tone, cards in groups:
        values = [v for card in cards for x in card.latency.get("milliseconds", []) if (v := _number(x)) is not None]
        sizes |= {card.latency["batch_size"]: None for card in cards if card.latency.get("batch_size")}
        if not values:
            continue
        median = statistics.median(values)
        drawn = [value for value in values if value <= _STRAY * median] or values
        if len(drawn) < len(values):
            slow = len(values) - len(drawn)
            notes.append(
                f"{name}: {slow} of {len(values)} calls took up to {shown.format(max(values))} ms (not drawn)."
            )
        strips.append(charts.Strip(name, tone, drawn, median, f"{shown.format(median)} ms"))
    if not strips:
        return None
    chart = charts.strip_chart(
        strips,
        description="Median latency: " + "; ".join(f"{strip.name} {strip.text}" for strip in strips),
        from_zero=True,
    )
    if sizes:
        notes.insert(1, f"Batch of {', '.join(map(str, sizes))}.")
    return Figure("Milliseconds a batch", chart, " ".join(filter(None, [*notes, _limited(report)])))


def shares_bar(student_right: int, teacher_right: int, count: int, most: int) -> Markup:
    """A bar as long as `count` to `most`, split by who was right: student, teacher, neither."""
    neither = max(count - student_right - teacher_right, 0)
    parts, start = [], 0.0
    for kind, size in (("student", student_right), ("teacher", teacher_right), ("neither", neither)):
        width = 120.0 * size / max(most, 1)
        if size:
            parts.append(
                Markup('<rect x="{}" y="0" width="{}" height="12" class="{}"/>').format(
                    round(start, 2), round(width, 2), kind
                )
            )
        start += width
    said = f"student right {student_right}, teacher right {teacher_right}, neither {neither}"
    return Markup(
        '<svg viewBox="0 0 120 12" class="shares" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(said, Markup("").join(parts))
