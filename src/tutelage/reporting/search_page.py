"""The page of a search: the finalists, which of them no other beats, and why each was looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tutelage.files import write_text
from tutelage.reporting.html import content_hash

_PAGE = Path(__file__).parent / "page"


def write_search_page(path: Path | str, title: str, candidates: Sequence[Mapping[str, Any]]) -> Path:
    """Write the page; it loads nothing, and every text in it is escaped.

    Args:
        path: The HTML file.
        title: Heading of the page.
        candidates: The finalists as `tutelage.searching.Candidate` has them, the best first.

    Returns:
        The path.

    >>> import tempfile
    >>> one = {"arch": "<i>", "reasons": ["rank 1"], "parameters": 10, "score": None, "accuracy": 0.5,
    ...        "accuracies": [0.5], "milliseconds": 1.0, "student": {"name": "mlp"}, "on_front": True}
    >>> page = write_search_page(Path(tempfile.mkdtemp()) / "search.html", "Students", [one])
    >>> "&lt;i&gt;" in page.read_text()
    True
    """
    style = (_PAGE / "report.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    rows = [
        {
            "arch": one["arch"],
            "front": "yes" if one["on_front"] else "",
            "accuracy": f"{100 * one['accuracy']:.2f} %",
            "seeds": ", ".join(f"{100 * value:.1f}" for value in one["accuracies"]),
            "parameters": f"{one['parameters']:,}",
            "milliseconds": f"{one['milliseconds']:.3g}",
            "score": "–" if one["score"] is None else f"{one['score']:.4g}",
            "why": "; ".join(one["reasons"]),
        }
        for one in candidates
    ]
    best = candidates[0]["student"] if candidates else {}
    page = environment.get_template("search.html.jinja").render(
        title=title,
        rows=rows,
        config=yaml.safe_dump({"student": dict(best)}, sort_keys=False),
        style=Markup(style),
        style_hash=content_hash(style),
    )
    path = Path(path)
    write_text(path, page)
    return path
