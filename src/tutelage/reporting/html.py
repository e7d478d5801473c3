"""The report card as one HTML file that needs no network, with `report.json` beside it."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tutelage.files import write_json, write_text
from tutelage.reporting import figures
from tutelage.reporting.attacks import attack_table
from tutelage.reporting.headline import headline_table, ranked
from tutelage.reporting.metrics import Spread, metric
from tutelage.reporting.report import ArmResult, Report
from tutelage.reporting.summary import key_figures, summary_sentence

_PAGE = Path(__file__).parent / "page"
_IMAGE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
_IMAGE_BUDGET = 600_000  # characters of pictures in a page; with the rest it stays well under a megabyte
_PARTINGS = 10
_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Parting:
    """A pair of classes that teacher and student answer, with how often, and who was right."""

    teacher: str
    student: str
    count: int
    student_right: int
    teacher_right: int
    bar: Markup


@dataclass(frozen=True, slots=True)
class Example:
    """A sample that only the student or only the teacher gets right."""

    index: str
    target: str
    student: str
    teacher: str
    student_confidence: str
    teacher_confidence: str
    right: str
    image: str
    text: str


def write_report(path: Path | str, report: Report) -> Path:
    """Write the report as one HTML file, and its data as JSON beside it (`report.json`); both atomically.

    The page loads nothing: its style, script, charts and pictures are inside, and its content security policy forbids
    the rest. Every name and text is escaped. An example's picture is shown when it is a data URI of a PNG, JPEG, GIF or
    WebP image, and left out otherwise, or when the page would grow too large; the JSON keeps all.

    Args:
        path: The HTML file.
        report: What to show.

    Returns:
        The path of the HTML file.

    Raises:
        ValueError: `path` ends in `.json`, where the data goes.

    >>> import tempfile
    >>> page = write_report(Path(tempfile.mkdtemp()) / "report.html", Report("Digits"))
    >>> page.name, page.with_suffix(".json").exists()
    ('report.html', True)
    """
    path = Path(path)
    if path.suffix == ".json":
        raise ValueError(f"Expected argument `path` to name an HTML file, but got {str(path)!r}.")
    write_json(path.with_suffix(".json"), report.to_dict())
    write_text(path, render_report(report))
    return path


def render_report(report: Report) -> str:
    """The HTML of a report."""
    style, script = ((_PAGE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["unbroken"] = lambda text: str(text).replace(" %", "\N{NO-BREAK SPACE}%")
    tones = figures.arm_tones(report)
    pictures = _PictureBudget(_IMAGE_BUDGET)
    order = ranked(report)
    return environment.get_template("report.html.jinja").render(
        report=report,
        summary=report.summary or summary_sentence(report),
        key_figures=key_figures(report),
        headline=headline_table(report),
        tones=tones,
        several_seeds=any(len(arm.cards) > 1 for arm in report.arms),
        metric_figures=figures.metric_figures(report, tones),
        comparison_figures=figures.comparison_figures(report),
        learning_figures=figures.learning_figures(report, tones),
        reliability_figures=figures.reliability_figures(report, tones),
        attacks=attack_table(report, tones),
        robustness_figure=figures.robustness_figure(report, tones),
        latency_figure=figures.latency_figure(report, tones),
        fidelity=[(tones[i], report.arms[i], cells) for i in order if (cells := _fidelity(report.arms[i]))],
        partings=[(tones[i], report.arms[i], rows) for i in order if (rows := _partings(report.arms[i]))],
        examples=[(tones[i], report.arms[i], groups) for i in order if (groups := _examples(report.arms[i], pictures))],
        fidelity_columns=[label for _, label in _FIDELITY],
        all_metrics=list(_all_metrics(report)),
        settings=list(_flat(report.environment)),
        style=Markup(style),
        script=Markup(script),
        style_hash=content_hash(style),
        script_hash=content_hash(script),
    )


def content_hash(text: str) -> str:
    """The source that a content security policy allows a piece of inline style or script by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _class_name(names: list[str], value: Any) -> str:
    """The name of a class given by position; what is no position is its own name."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_FIDELITY = (
    ("agreement", "Agreement"),
    ("kappa", "Beyond chance (κ)"),
    ("agreement_where_teacher_wrong", "Where the teacher errs"),
    ("both_right", "Both right"),
    ("both_wrong_same", "Same error"),
    ("both_wrong_different", "Different errors"),
    ("only_student_right", "Only student right"),
    ("only_teacher_right", "Only teacher right"),
)


def _fidelity(arm: ArmResult) -> list[str]:
    """How an arm's students answer compared with their teacher, in the order of `_FIDELITY`, as means over seeds."""
    sections = [card.fidelity for card in arm.cards if card.fidelity]
    if not sections:
        return []

    def mean(name: str) -> float | None:
        known = [section[name] for section in sections if name in section]
        return sum(known) / len(known) if known else None

    cells = []
    for name, _ in _FIDELITY:
        value = mean(name)
        shown = "–" if value is None else f"{value:.2f}" if name == "kappa" else f"{100 * value:.1f} %"
        if name == "agreement" and value is not None:
            shown += f" [{100 * (mean('agreement_low') or 0):.1f}, {100 * (mean('agreement_high') or 0):.1f}]"
        cells.append(shown)
    return cells


def _partings(arm: ArmResult) -> list[Parting]:
    """Where the arm's students and their teacher part, summed over seeds, most frequent first."""
    sums: dict[tuple[str, str], list[int]] = {}
    for card in arm.cards:
        for parting in card.partings:
            pair = (
                _class_name(card.class_names, parting["teacher"]),
                _class_name(card.class_names, parting["student"]),
            )
            total = sums.setdefault(pair, [0, 0, 0])
            for place, key in enumerate(("count", "student_right", "teacher_right")):
                total[place] += int(parting.get(key) or 0)
    top = sorted(sums.items(), key=lambda item: -item[1][0])[:_PARTINGS]
    most = top[0][1][0] if top else 1
    return [
        Parting(*pair, count, student, teacher, figures.shares_bar(student, teacher, count, most))
        for pair, (count, student, teacher) in top
    ]


class _PictureBudget:
    """Lets pictures through until together they are as large as a page should be."""

    def __init__(self, characters: int) -> None:
        self._left = characters

    def admit(self, image: Any) -> str:
        if not isinstance(image, str) or len(image) > self._left or not _IMAGE.fullmatch(image):
            return ""
        self._left -= len(image)
        return image


def _examples(arm: ArmResult, pictures: _PictureBudget) -> list[tuple[str, list[Example]]]:
    """Samples that only the student, and only the teacher, gets right, of the first seed that has any."""
    card = next((card for card in arm.cards if card.examples), None)
    if card is None:
        return []
    groups = []
    for right in ("student", "teacher"):
        chosen = [example for example in card.examples if example.get("right") == right][:_EXAMPLES]
        shown = [
            Example(
                index=str(example.get("index", "")),
                target=_class_name(card.class_names, example.get("target", "")),
                student=_class_name(card.class_names, example.get("student", "")),
                teacher=_class_name(card.class_names, example.get("teacher", "")),
                student_confidence=_confidence(example.get("student_confidence")),
                teacher_confidence=_confidence(example.get("teacher_confidence")),
                right=right,
                image=pictures.admit(example.get("image")),
                text=str(example.get("text") or ""),
            )
            for example in chosen
        ]
        if shown:
            groups.append((right, shown))
    return groups


def _confidence(value: Any) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, int | float) and math.isfinite(value) else ""


def _all_metrics(report: Report) -> Iterator[tuple[str, str, list[str], str]]:
    """Every figure of every model: its name, metric, one text a seed, and their spread."""
    groups = [(report.teacher.name, [report.teacher])] if report.teacher else []
    groups += [(arm.name, arm.cards) for arm in report.arms]
    for name, cards in groups:
        for key in dict.fromkeys(key for card in cards for key in card.metrics):
            shown = metric(key)
            values = [card.metrics.get(key) for card in cards]
            texts = ["" if value is None else shown.format(value) for value in values]
            spread = Spread.of([value for value in values if value is not None])
            yield name, shown.heading, texts, spread.format(shown)


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as rows with dotted names."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
