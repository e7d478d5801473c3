"""The page of a stream: how confidence, answers and embeddings moved from batch to batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tutelage.files import write_text
from tutelage.reporting.charts import Series, line_chart, number, percent
from tutelage.reporting.html import content_hash

_PAGE = Path(__file__).parent / "page"
_CHARTS = (
    ("Error", {"adapted": "error", "as deployed": "source error"}, percent),
    ("Confidence", {"adapted": "confidence", "as deployed": "source confidence"}, percent),
    ("Answers that adaptation changed", {"changed": "changed answers"}, percent),
    ("Drift of the embeddings, in deviations of the source", {"drift": "drift"}, number),
)


def write_drift_page(
    path: Path | str, title: str, curves: Mapping[str, Sequence[float]], summary: Mapping[str, float]
) -> Path:
    """Write the page; it loads nothing, and every text in it is escaped.

    Args:
        path: The HTML file.
        title: Heading of the page.
        curves: One value a batch by name, see `tutelage.adapting.Adaptation`.
        summary: Means over the samples by name.

    Returns:
        The path.

    >>> import tempfile
    >>> page = write_drift_page(Path(tempfile.mkdtemp()) / "drift.html", "<b>", {"confidence": [0.5, 0.7]}, {})
    >>> "&lt;b&gt;" in page.read_text()
    True
    """
    style = (_PAGE / "report.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    charts = []
    for caption, names, shown in _CHARTS:
        series = [
            Series(label, f"s{place}", range(1, len(curves[name]) + 1), curves[name])
            for place, (label, name) in enumerate(names.items())
            if curves.get(name)
        ]
        if series:
            chart = line_chart(series, description=caption, x_label="batch", y_format=shown, floor=0.0)
            charts.append((caption, chart))
    page = environment.get_template("drift.html.jinja").render(
        title=title,
        charts=charts,
        rows=[(name, f"{value:.4g}") for name, value in summary.items()],
        style=Markup(style),
        style_hash=content_hash(style),
    )
    path = Path(path)
    write_text(path, page)
    return path
