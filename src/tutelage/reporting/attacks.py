"""Accuracy under named attacks as a table: a row a model, a column an attack, and what there is to say about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.assessment.report_card import ReportCard
from tutelage.reporting.metrics import Spread, metric
from tutelage.reporting.report import Report

COLUMNS = {"clean": "Clean", "fgsm": "FGSM", "pgd20": "PGD-20", "auto_attack": "AutoAttack"}


@dataclass(frozen=True, slots=True)
class AttackTable:
    """What attacks left of the accuracy of each model.

    Attributes:
        lead: The radius and the samples, as a sentence.
        columns: The attacks that were measured.
        rows: Tone, name and a cell a column (`mean ± deviation` over seeds, %), the teacher first.
        notes: Why an attack, or all of them, were not measured.
    """

    lead: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]
    notes: tuple[str, ...]


def attack_table(report: Report, tones: Sequence[str]) -> AttackTable | None:
    """The table of a report; without rows where attacks made no sense, None where nobody asked for them.

    >>> from tutelage.reporting.report import ArmResult
    >>> card = ReportCard("kd", "causal_lm", 9, robustness={"absent": "Attacks are made on classifiers."})
    >>> table = attack_table(Report("Words", arms=[ArmResult("kd", cards=[card])]), ["s0"])
    >>> table.rows, table.notes
    ((), ('Not measured. Attacks are made on classifiers.',))
    """
    groups = [("teacher", report.teacher.name, [report.teacher])] if report.teacher else []
    groups += [(tone, arm.name, arm.cards) for tone, arm in zip(tones, report.arms, strict=True)]
    attacked = [(tone, name, found) for tone, name, cards in groups if (found := _attacks(cards))]
    everything = [attacks for *_, found in attacked for attacks in found]
    columns = [key for key in COLUMNS if any(_figure(attacks, key) is not None for attacks in everything)]
    shown = metric("accuracy")
    rows = [
        (
            tone,
            name,
            tuple(
                Spread.of(values).format(shown)
                if (values := [value for attacks in found if (value := _figure(attacks, key)) is not None])
                else ""
                for key in columns
            ),
        )
        for tone, name, found in attacked
    ]
    notes = [str(attacks["note"]) for attacks in everything if attacks.get("note")]
    notes += [
        f"Not measured. {why}"
        for *_, cards in groups
        for card in cards
        if (why := (card.robustness or {}).get("absent"))
    ]
    if not rows and not notes:
        return None
    names = tuple(COLUMNS[key] for key in columns)
    return AttackTable(_lead(groups, everything), names, tuple(rows), tuple(dict.fromkeys(notes)))


def _attacks(cards: Sequence[ReportCard]) -> list[dict[str, Any]]:
    return [attacks for card in cards if (attacks := (card.robustness or {}).get("attacks"))]


def _figure(attacks: dict[str, Any], key: str) -> float | None:
    value = attacks.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _lead(groups: Sequence[tuple[str, str, list[ReportCard]]], attacked: Sequence[dict[str, Any]]) -> str:
    """The radius, in the units of the inputs and as a share of their range, and how many samples."""
    if not attacked:
        return ""
    radii = sorted({float(attacks["radius"]) for attacks in attacked})
    counts = sorted({int(attacks["num_samples"]) for attacks in attacked})
    ranges = {tuple(card.robustness["range"]) for *_, cards in groups for card in cards if "range" in card.robustness}
    within = (
        "".join(f" (inputs lie between {low:.3g} and {high:.3g})" for low, high in ranges) if len(ranges) == 1 else ""
    )
    return (
        f"Accuracy where every entry of an input may change by at most {' or '.join(f'{r:.3g}' for r in radii)}"
        f"{within}, on {' or '.join(map(str, counts))} samples. Each attack is on its own; a sample counts that is "
        "right when clean and stays right."
    )
