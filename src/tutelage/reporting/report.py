"""A whole report as plain data: arms, teacher, comparisons, config and environment."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tutelage.assessment.report_card import ReportCard
from tutelage.files import read_json


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(slots=True)
class ArmResult:
    """One arm: the report card of every seed, and how each seed learned.

    Attributes:
        name: The arm's name in tables and charts.
        description: One line that says what the arm does.
        cards: One report card a seed.
        history: One list a seed of records `{"step", "epoch", "train_loss", "validation_accuracy", …}`; a record holds
            whichever of them were measured at that step.
    """

    name: str
    description: str = ""
    cards: list[ReportCard] = field(default_factory=list)
    history: list[list[dict[str, Any]]] = field(default_factory=list)

    def values(self, metric: str) -> list[float]:
        """One value of a metric a seed, for the seeds that have it; NaN where a seed measured NaN.

        >>> cards = [ReportCard("a", "classification", 8, metrics={"accuracy": value}) for value in (0.5, 0.75)]
        >>> ArmResult("a", cards=cards).values("accuracy")
        [0.5, 0.75]
        """
        return [float(card.metrics[metric]) for card in self.cards if metric in card.metrics]


@dataclass(slots=True)
class Report:
    """What a report page, a terminal table and `report.json` are made from.

    Attributes:
        title: The page's title.
        summary: What was learned, in a sentence or two; it is the first thing that a reader sees.
        arms: The arms that are compared.
        teacher: The teacher's report card on the same samples, if there is a teacher.
        config_text: The resolved config as YAML.
        environment: Versions, device and the like; nested mappings are allowed.
        comparisons: `{"arm", "baseline", "metric", "difference", "ci_low", "ci_high", "p_value"}`: `difference` is arm
            minus baseline, in the metric's unit; a bound or p-value that was not computed is None or absent. An
            optional `"method"` names the test.
        created: When the report was made, ISO 8601.

    >>> report = Report("Digits", arms=[ArmResult("kd")], created="2025-01-01T00:00:00+00:00")
    >>> Report.from_dict(report.to_dict()) == report
    True
    """

    title: str
    summary: str = ""
    arms: list[ArmResult] = field(default_factory=list)
    teacher: ReportCard | None = None
    config_text: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    created: str = field(default_factory=_now)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold: NaN and infinity become None, and what JSON has no type for its text."""
        plain = _plain(asdict(self))
        assert isinstance(plain, dict)
        return plain

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Report:
        """The report that `to_dict` wrote; a metric that was NaN or infinite comes back as NaN.

        Raises:
            ValueError: A key is not one that `to_dict` writes, or one that is needed is missing.
        """
        try:
            known = dict(data)
            arms = [
                ArmResult(**{**arm, "cards": [card_from_dict(card) for card in arm.get("cards", [])]})
                for arm in known.pop("arms", [])
            ]
            for arm in arms:
                _check_types(arm, {"name": str, "description": str, "history": list})
                _check_entries(arm.history, list, "history")
                _check_entries([record for records in arm.history for record in records], dict, "history")
            teacher = known.pop("teacher", None)
            report = cls(arms=arms, teacher=None if teacher is None else card_from_dict(teacher), **known)
            texts = dict.fromkeys(("title", "summary", "config_text", "created"), str)
            _check_types(report, {**texts, "environment": dict, "comparisons": list})
            _check_entries(report.comparisons, dict, "comparisons")
            return report
        except (TypeError, AttributeError, ValueError) as error:
            expected = ", ".join(f"`{part.name}`" for part in fields(cls))
            raise ValueError(f"Expected a report with the keys {expected}, but got: {error}.") from error


def read_report(path: Path | str) -> Report:
    """Read a `report.json`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a report.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"Expected {path} to hold a report, but got a JSON {type(data).__name__}.")
    try:
        return Report.from_dict(data)
    except ValueError as error:
        raise ValueError(f"Expected {path} to be a report that was written here. {error}") from error


def card_from_dict(data: Any) -> ReportCard:
    """The report card that `ReportCard.to_dict` wrote; a metric that is None comes back as NaN.

    Raises:
        TypeError: Something in it has another type.

    >>> card_from_dict({"name": "a", "task": "classification", "num_samples": 8, "metrics": {"accuracy": None}}).metrics
    {'accuracy': nan}
    """
    metrics = {name: math.nan if value is None else value for name, value in data.get("metrics", {}).items()}
    card = ReportCard(**{**data, "metrics": metrics})
    simple: dict[str, Any] = {"name": str, "task": str, "num_samples": int}
    _check_types(card, {part.name: simple.get(part.name) or part.default_factory for part in fields(card)})
    _check_entries(card.metrics.values(), int | float, "metrics")
    _check_entries([*card.partings, *card.examples], dict, "partings and examples")
    return card


def _check_types(found: Any, kinds: dict[str, Any]) -> None:
    for name, kind in kinds.items():
        if not isinstance(getattr(found, name), kind):
            raise TypeError(f"`{name}` is a {type(getattr(found, name)).__name__} and not a {kind.__name__}")


def _check_entries(entries: Any, kind: Any, where: str) -> None:
    wrong = next((entry for entry in entries if not isinstance(entry, kind)), None)
    if wrong is not None:
        raise TypeError(f"an entry of `{where}` is a {type(wrong).__name__}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:  # a NumPy scalar
        return _plain(value.item())
    return str(value)
