"""Count the faults that the suite injects, over all of its processes, and sum them up for the documentation.

Every process adds lines to a file of its own in the folder that `TUTELAGE_FAULTS` names; `python -m
tests.reliability.faults FOLDER FILE` sums them up when the suite has ended, whatever the outcome.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tutelage.files import write_json
from tutelage.reproduction.environment import environment


class Faults:
    """The counter of one area of the suite (one test file); without a folder it counts nothing.

    Args:
        area: What the faults are listed under.
        folder: Where the lines go.
    """

    def __init__(self, area: str, folder: Path | None) -> None:
        self._area = area
        self._folder = folder

    @contextlib.contextmanager
    def inject(self, fault: str, times: int = 1) -> Iterator[None]:
        """What the block does and checks is one fault (or `times` of them): survived when it ends without an error."""
        try:
            yield
        except BaseException:
            self.lost(fault, times)
            raise
        self.survived(fault, times)

    def survived(self, fault: str, times: int = 1) -> None:
        """`fault` was injected `times` times, and what must hold held each time."""
        self._write(fault, "survived", times)

    def lost(self, fault: str, times: int = 1) -> None:
        """`fault` was injected `times` times, and something was lost that must not be."""
        self._write(fault, "lost", times)

    def _write(self, fault: str, outcome: str, times: int) -> None:
        if self._folder is None:
            return
        line = json.dumps({"area": self._area, "fault": fault, "outcome": outcome, "times": int(times)})
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{os.getpid()}.jsonl").open("a") as stream:
            stream.write(line + "\n")


def collate(folder: Path) -> list[dict[str, str | int]]:
    """One row a fault, by area and name: how often it was injected, survived and lost."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for file in folder.glob("*.jsonl"):
        for line in file.read_text().splitlines():
            told = json.loads(line)
            counts[told["area"], told["fault"], told["outcome"]] += told["times"]
    rows: list[dict[str, str | int]] = []
    for area, fault in sorted({key[:2] for key in counts}):
        survived, lost = counts[area, fault, "survived"], counts[area, fault, "lost"]
        rows.append({"area": area, "fault": fault, "injected": survived + lost, "survived": survived, "lost": lost})
    return rows


def main() -> None:
    """Sum up the lines in a folder into a JSON file."""
    folder, place = map(Path, sys.argv[1:])
    rows = collate(folder)
    write_json(place, {"date": f"{datetime.date.today()}", "environment": environment(), "faults": rows})
    injected, lost = (sum(int(row[key]) for row in rows) for key in ("injected", "lost"))
    print(f"{injected} faults injected, {lost} lost; the table is in {place}.")


if __name__ == "__main__":
    main()
