"""Report cards that people read: one HTML file, a table in the terminal, and the same as JSON."""

from tutelage.reporting.html import render_report, write_report
from tutelage.reporting.report import ArmResult, Report, read_report
from tutelage.reporting.summary import summary_sentence

__all__ = ["ArmResult", "Report", "read_report", "render_report", "summary_sentence", "write_report"]
