"""Ctrl-C and SIGTERM: the step ends, a checkpoint is written, and the text says how to go on."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch.distributed as dist


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a person or by the system, after a checkpoint was written.

    Attributes:
        folder: The run's folder, or None when it had none.
    """

    def __init__(self, step: int, total_steps: int, checkpoint: Path | None, folder: Path | None) -> None:
        self.folder = folder
        kept = (
            "Nothing was kept, since the run has no folder."
            if checkpoint is None
            else f"A checkpoint is in {checkpoint}."
        )
        super().__init__(f"Stopped after step {step} of {total_steps}. {kept}")


class LostProcess(ConnectionError):  # noqa: N818 - named after what happened
    """Another process of a run on several ended (killed, out of memory, an error), so this one cannot go on."""

    def __init__(self, step: int, total_steps: int, kept: str) -> None:
        super().__init__(
            f"Another process of this run ended, or is out of reach, after step {step} of {total_steps}; if it could, "
            f"it said why. To go on, start all of them again and resume: {kept}."
        )

    @staticmethod
    def caused(error: BaseException) -> bool:
        """Whether an error says that another process is gone (Gloo's errors are of no kind of their own)."""
        return isinstance(error, dist.DistError) or "gloo" in str(error) or "closed by peer" in str(error)


class StopRequest:
    """While the block is open, Ctrl-C and SIGTERM only ask; a second one of them acts at once.

    Outside the main thread signals cannot be caught, and the block does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) == signal.SIG_IGN:
                    continue  # who started this process handles it
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
