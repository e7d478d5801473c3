"""Report cards that people read: one HTML file, a table in the terminal, and the same as JSON."""

from tutelage.reporting.calibration import calibrate_saved_model
from tutelage.reporting.comparisons import compare_arms
from tutelage.reporting.html import render_report, write_report
from tutelage.reporting.report import ArmResult, Report, read_report
from tutelage.reporting.saved_models import mcnemar_comparison, report_on_models, report_on_saved_models
from tutelage.reporting.summary import summary_sentence
from tutelage.reporting.tables import print_report, report_table

__all__ = [
    "ArmResult",
    "Report",
    "calibrate_saved_model",
    "compare_arms",
    "mcnemar_comparison",
    "print_report",
    "read_report",
    "render_report",
    "report_on_models",
    "report_on_saved_models",
    "report_table",
    "summary_sentence",
    "write_report",
]
