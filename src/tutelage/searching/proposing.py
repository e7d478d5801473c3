"""What every search for a student shares: what it proposes to distil, and scores that outlive a killed process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Proposal:
    """A student that is worth a distillation.

    Attributes:
        name: Its choices, as text that a file can be called by.
        reasons: Why it is distilled.
        score: What the search gave it, where it scored it.
        settings: What the worker that distils it builds it from, as plain data.
        student: The student's part of a config; empty where nothing is known about how it is built.
    """

    name: str
    reasons: tuple[str, ...]
    score: float | None
    settings: Mapping[str, Any]
    student: Mapping[str, Any] = field(default_factory=dict)


class RememberedScores:
    """A score that remembers by name what it has given, also after the process was killed.

    Args:
        path: A file of JSON lines, which grows.
        score: What an architecture is worth.
        name: What an architecture is called in the file.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "scores.jsonl"
    >>> RememberedScores(path, lambda arch: 0.5)((8, 8)), RememberedScores(path, lambda arch: 0.0)((8, 8))
    (0.5, 0.5)
    """

    def __init__(self, path: Path, score: Callable[[Any], float], *, name: Callable[[Any], str] = str) -> None:
        self._path, self._score, self._name = path, score, name
        self._known: dict[str, float] = {}
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for line in text.splitlines():
            try:
                known, value = json.loads(line)
                self._known[str(known)] = float(value)
            except (ValueError, TypeError, RecursionError):  # a line that was cut off by a kill
                continue
        self._start = "\n" if text and not text.endswith("\n") else ""

    def __call__(self, arch: Any) -> float:
        """The score of an architecture, asked once."""
        name = self._name(arch)
        if name not in self._known:
            self._known[name] = float(self._score(arch))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{self._start}{json.dumps([name, self._known[name]])}\n")
            self._start = ""
        return self._known[name]
