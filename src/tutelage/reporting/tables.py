"""The headline table for a terminal, and as plain text off it."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tutelage.reporting.headline import Cell, headline_table
from tutelage.reporting.metrics import QUALITY
from tutelage.reporting.report import Report
from tutelage.reporting.summary import summary_sentence

_COLUMNS = (
    *QUALITY[:-1],
    "expected_calibration_error",
    "teacher_agreement",
    "parameters",
    "latency_ms",
)


def report_table(report: Report) -> Table:
    """The teacher's row and a row an arm: quality, calibration, agreement with the teacher, parameters, latency.

    A star marks the best arm of a column, `≈` an arm that is not told apart from the best, `!` an arm with seeds
    whose value is not finite.

    >>> from tutelage.reporting.report import ArmResult
    >>> report_table(Report("Digits", arms=[ArmResult("kd")])).row_count
    1
    """
    headline = headline_table(report, _COLUMNS)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Model", overflow="fold")
    for column in headline.columns:
        table.add_column(column.heading, justify="right")
    for row in headline.rows:
        style = "dim" if row.position is None else ""
        about = ""
        if row.position is None and row.name != "teacher":
            about = " (teacher)"
        elif row.seeds > 1:
            about = f" ({row.seeds} seeds)"
        cells = [Text(_cell(cell), style="bold" if cell.mark == "best" else style) for cell in row.cells]
        table.add_row(Text(_printable(row.name) + about, style=style), *cells)
    return table


def print_report(report: Report, console: Console | None = None, *, page: Path | str | None = None) -> None:
    """Print the table, then what was learned and where the page is; off a terminal as plain text of any width.

    Args:
        report: What to print.
        console: Where; standard output by default.
        page: The page that shows more.
    """
    console = console or Console()
    table = report_table(report)
    if not console.is_terminal:
        console = Console(file=console.file, width=max(console.measure(table).maximum, 10_000), color_system=None)
        table.box = None
        table.expand = False
    if table.row_count:
        console.print(table)
    marks = {cell.mark for row in headline_table(report, _COLUMNS).rows for cell in row.cells}
    said = {"best": "* best of the arms", "level": "≈ not told apart from the best by a test or by its timings"}
    if legend := [text for mark, text in said.items() if mark in marks]:
        console.print(Text("; ".join(legend)), style="dim")
    console.print(Text(_printable(report.summary or summary_sentence(report))))
    if page is not None:
        console.print(Text(_printable(f"Report: {page}")), soft_wrap=True)


def _cell(cell: Cell) -> str:
    lost = "!" if cell.lost else ""
    return (cell.text or "–") + {"best": " *", "level": " ≈", "": ""}[cell.mark] + lost


def _printable(text: str) -> str:
    """The text without control characters, which could drive the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
