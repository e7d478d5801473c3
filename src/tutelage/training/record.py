"""What a run writes down while it goes on: means of its losses, and one JSON line a record."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tutelage.files import write_text


class RunningMean:
    """Means of named values over samples, since the last time they were taken.

    >>> running = RunningMean()
    >>> running.add({"a": 1.0}, 3)
    >>> running.add({"a": 5.0}, 1)
    >>> running.take()
    {'a': 2.0}
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._samples = 0.0

    def add(self, values: Mapping[str, float], samples: int) -> None:
        """Take in the means of a batch of so many samples."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * samples
        self._samples += samples

    def take(self, accelerator: Any = None) -> dict[str, float]:
        """The means so far, over all processes when an `Accelerator` is given; then start anew."""
        *sums, samples = self._over_all(accelerator)
        means = {name: total / max(1.0, samples) for name, total in zip(self._sums, sums, strict=True)}
        self._sums, self._samples = {}, 0.0
        return means

    def state_dict(self, accelerator: Any = None) -> dict[str, Any]:
        """What a checkpoint holds of this, over all processes; the main process of a resumed run takes it up."""
        *sums, samples = self._over_all(accelerator)
        return {"sums": dict(zip(self._sums, sums, strict=True)), "samples": samples}

    def _over_all(self, accelerator: Any) -> list[float]:
        """The sums and the number of samples, over all processes; they ask together."""
        sums = [*self._sums.values(), float(self._samples)]
        if accelerator is None or accelerator.num_processes == 1:
            return sums
        totals = torch.tensor(sums, dtype=torch.float64, device=accelerator.device)
        added: list[float] = accelerator.reduce(totals, "sum").tolist()
        return added

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put `state_dict` back."""
        self._sums, self._samples = dict(state["sums"]), float(state["samples"])


class MetricsFile:
    """`metrics.jsonl` of a run folder: one JSON object a line, in order of steps; None writes nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / "metrics.jsonl"

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record; NaN and infinity, which JSON lacks, become null."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        clean = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(clean) + "\n")

    def keep_until(self, step: int) -> None:
        """Drop records after `step`, and lines that are damaged: a kill may cut off the last one."""
        if self._path is None or not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
        write_text(self._path, "".join(f"{line}\n" for line in kept))
