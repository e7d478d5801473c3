"""The page of a comparison: who won and how surely, what each method costs, who dropped out where, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tutelage.files import write_text
from tutelage.reporting.charts import Interval, interval_chart, percent
from tutelage.reporting.html import content_hash
from tutelage.reporting.metrics import metric

_PAGE = Path(__file__).parent / "page"

COLUMNS = (
    "accuracy",
    "mean_squared_error",
    "mean_absolute_error",
    "r2",
    "expected_calibration_error",
    "negative_log_likelihood",
    "teacher_agreement",
    "teacher_kl",
    "teacher_mean_squared_error",
)
"""Test metrics that the table shows, in order; those that nobody has are left out."""

FEW_COLUMNS = ("accuracy", "mean_squared_error", "expected_calibration_error", "teacher_agreement")
"""Those that a terminal has room for."""


def write_comparison_page(path: Path | str, result: Mapping[str, Any], winner: str) -> Path:
    """Write the page; it loads nothing, and every text in it is escaped.

    Args:
        path: The HTML file.
        result: What `comparison.json` holds.
        winner: The config of the chosen method, as YAML.

    Returns:
        The path.
    """
    style = (_PAGE / "report.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    head, rows = comparison_table(result)
    page = environment.get_template("comparison.html.jinja").render(
        title=f"Methods compared: {result['name']}",
        summary=result["summary"],
        data=result["data"],
        seeds=result["seeds"],
        main=metric(result["metric"]).sentence_label,
        baseline=result["baseline"],
        plan=_plan(result),
        head=head,
        rows=rows,
        charts=_charts(result),
        rounds=_rounds(result),
        inapplicable=sorted(result["inapplicable"].items()),
        environment=sorted(result["environment"].items()),
        config=winner,
        style=Markup(style),
        style_hash=content_hash(style),
    )
    path = Path(path)
    write_text(path, page)
    return path


def comparison_table(result: Mapping[str, Any], names: Sequence[str] = COLUMNS) -> tuple[list[str], list[list[str]]]:
    """The ranked table as text: its head, and a row for the teacher and for each finalist.

    A mark follows the main metric of a method: `*` the chosen one, `≈` not told apart from it by a test.

    Args:
        result: What `comparison.json` holds.
        names: The test metrics to show.
    """
    finished = [row for row in result["rows"] if not row["failure"]]
    columns = [metric(name) for name in names if any(name in row["test"] for row in finished)]
    baseline = metric(result["metric"])
    regression = result["task"] == "regression"
    head = ["Method", "Setting", "Validation" if regression else "Validation, %"]
    head += [column.heading for column in columns]
    head += [f"p against {result['baseline']}", "Step, ms", "Cost", "Memory, MiB"]
    rows = []
    if result["teacher"]:
        shown = [
            column.format(result["teacher"][column.name]) if column.name in result["teacher"] else "–"
            for column in columns
        ]
        rows.append(["teacher", "", "–", *shown, "–", "–", "–", "–"])
    for row in result["rows"]:
        if row["failure"]:
            rows.append([row["method"], row["setting"], f"failed: {row['failure']}", *["–"] * (len(columns) + 4)])
            continue
        cells = [
            _interval(row["test"][column.name], column) if column.name in row["test"] else "–" for column in columns
        ]
        place = [column.name for column in columns].index(baseline.name)
        cells[place] += _mark(result, row["method"])
        validation = baseline.format(-row["validation"] if regression else row["validation"])
        tested = _test(result, row["method"], result["baseline"])
        rows.append(
            [
                row["method"],
                row["setting"],
                validation,
                *cells,
                "–" if tested is None else f"{tested['p_value']:.2g}",
                f"{1000 * row['step_seconds']:.3g}",
                "–" if row["cost"] is None else f"× {row['cost']:.2f}",
                f"{row['memory_mb']:.0f}",
            ]
        )
    return head, rows


def _interval(spread: Mapping[str, Any], shown: Any) -> str:
    text: str = shown.format(spread["mean"])
    if spread["low"] is None:
        return text
    low, high = (shown.format(spread[end], like=spread["mean"]) for end in ("low", "high"))
    return f"{text} [{low}, {high}]"


def _mark(result: Mapping[str, Any], method: str) -> str:
    if method == result["winner"]:
        return " *"
    tested = _test(result, result["winner"], method)
    return " ≈" if tested is not None and tested["p_value"] >= 0.05 else ""


def _test(result: Mapping[str, Any], first: str, second: str) -> Mapping[str, Any] | None:
    return next((one for one in result["tests"] if {one["arm"], one["baseline"]} == {first, second}), None)


def _plan(result: Mapping[str, Any]) -> list[str]:
    lines = []
    for number, one in enumerate(result["rounds"]):
        name = "Final: up to" if number == len(result["rounds"]) - 1 else f"Round {number + 1}:"
        settings = f", {one['settings']} settings each" if one["settings"] > 1 else ""
        seeds = f", {one['seeds']} seeds" if one["seeds"] > 1 else ""
        lines.append(f"{name} {one['methods']} methods{settings}{seeds}, {one['steps']} steps")
    if result["rounds"][-1]["steps"] < result["whole_steps"]:
        lines.append(f"The budget had no room for the {result['whole_steps']} steps of `training`.")
    return lines


def _charts(result: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Differences to the baseline and to the winner, with their intervals."""
    shown = metric(result["metric"])
    form = percent if shown.unit == "fraction" else lambda value: shown.format(value)
    charts = []
    for reference in dict.fromkeys([result["baseline"], result["winner"]]):
        rows = []
        for one in result["tests"]:
            if reference not in (one["arm"], one["baseline"]):
                continue
            sign, other = (1, one["arm"]) if one["baseline"] == reference else (-1, one["baseline"])
            low, high = sorted(sign * one[end] for end in ("ci_low", "ci_high"))
            text = f"{shown.format_difference(sign * one['difference'])}, p = {one['p_value']:.2g}"
            rows.append(Interval(other, sign * one["difference"], low, high, text, one["p_value"] < 0.05))
        if rows:
            title = f"{shown.label} on test, less that of {reference}"
            charts.append((title, interval_chart(rows, description=title, x_format=form)))
    return charts


def _rounds(result: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """What each round before the final saw, best first."""
    shown = metric(result["metric"])
    tables = []
    for number in range(len(result["rounds"]) - 1):
        found = [one for one in result["candidates"] if one["round"] == number]
        found.sort(key=lambda one: -float("inf") if one["score"] is None else one["score"], reverse=True)
        sign = -1 if result["task"] == "regression" else 1
        rows = [
            (
                one["method"],
                one["setting"],
                f"failed: {one['failure']}" if one["score"] is None else shown.format_unit(sign * one["score"]),
            )
            for one in found
        ]
        tables.append((f"Round {number + 1}: {len(found)} candidates, {result['rounds'][number]['steps']} steps", rows))
    return tables


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal, its columns aligned.

    >>> print(text_table(["Method", "Cost"], [["a", "× 1.00"]]))
    Method  Cost
    a       × 1.00
    """
    widths = [max(len(line[place]) for line in (head, *rows)) for place in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *rows)]
    return "\n".join(line.rstrip() for line in lines)
