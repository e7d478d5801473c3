"""Monitors: assessments that watch a run while it goes on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tutelage.data.samples import Samples
from tutelage.objectives.schedules import Progress

Record = dict[str, Any]
"""One line of `metrics.jsonl`: `step`, `epoch`, `loss`, `loss/TERM`, `learning_rate`, and metrics by name."""


class Monitor:
    """Watches a run; every hook does nothing until it is overridden. Only the main process calls monitors."""

    def on_data(self, held_out: Samples) -> None:
        """Before the run, where it has held-out samples."""

    def on_start(self, trainer: Any) -> None:
        """Before the first step (of a resumed run, too)."""

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        """After every optimiser step, with the values of its losses."""

    def on_record(self, record: Record) -> None:
        """Before a record is written; entries that are added here are logged with it."""

    def on_end(self, history: list[Record]) -> None:
        """After the last step, or when the run stops early or by an error."""


class ProgressMonitor(Monitor):
    """A progress bar on a terminal; one plain line a record elsewhere.

    Args:
        label: What is being taught, in front of the bar.
        every: Off a terminal, print only every so many records.
    """

    def __init__(self, label: str = "distilling", *, every: int = 1) -> None:
        self.label = label
        self.every = every
        self._records = 0
        self._bar: Any = None
        self._task: Any = None

    def on_start(self, trainer: Any) -> None:
        """Draw the bar, at the place where the run begins."""
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(self.label, total=trainer.total_steps, completed=trainer.step, shown="")

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def on_record(self, record: Record) -> None:
        """Show the newest figures."""
        shown = "  ".join(
            f"{name} {value:.4f}" for name, value in record.items() if name in ("loss", "validation_accuracy")
        )
        if self._bar is not None:
            self._bar.update(self._task, shown=shown)
        elif self._records % self.every == 0:
            print(f"{self.label}: step {record['step']}, epoch {record['epoch']:g}  {shown}", file=sys.stderr)
        self._records += 1

    def on_end(self, history: list[Record]) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
