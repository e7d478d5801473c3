"""The published accuracies of DisWOT's 64 residual networks: see `published/README.md`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

_TABLE = Path(__file__).parent / "published" / "diswot_depths.csv"


class PublishedDepths(NamedTuple):
    """Rows of the table.

    Attributes:
        depths: Residual layers of the three stages.
        distilled: CIFAR-100 top-1 accuracy with a teacher, in percent.
        plain: Without.
    """

    depths: list[tuple[int, ...]]
    distilled: list[float]
    plain: list[float]


def published_depths(count: int = 64) -> PublishedDepths:
    """The table, or as many of its rows, evenly spread.

    >>> table = published_depths()
    >>> max(zip(table.distilled, table.depths, strict=True))
    (74.86, (5, 5, 7))
    """
    with _TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [rows[place * len(rows) // count] for place in range(count)]
    depths = [tuple(int(row[f"depth_{stage}"]) for stage in (1, 2, 3)) for row in rows]
    return PublishedDepths(depths, [float(row["distilled"]) for row in rows], [float(row["plain"]) for row in rows])
