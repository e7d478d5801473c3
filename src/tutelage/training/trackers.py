"""Accelerate's trackers, asked in a thread of their own, so that one which hangs does not hold up the run."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from tutelage.training.settings import TrainingSettings

PATIENCE = 30.0
"""Seconds that a run waits for its trackers before it goes on without them."""


class Trackers:
    """Tells trackers what happens in a run, each time waiting until they are done or patience ends.

    What a tracker raises is raised here, in the run. After a tracker has hung once, no tracker is asked again.

    Args:
        accelerator: An `Accelerator` with `log_with`; on other processes than the main one nothing is told.
        settings: The run's, which name the project and are kept with it.
    """

    def __init__(self, accelerator: Any, settings: TrainingSettings) -> None:
        self._accelerator = accelerator
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._hang = False
        if accelerator.is_main_process:
            threading.Thread(target=self._work, name="trackers", daemon=True).start()
        self._ask(lambda: accelerator.init_trackers(settings.project, settings.model_dump(mode="json")))

    def log(self, record: Mapping[str, Any]) -> None:
        """Tell of a record."""
        numbers = {name: value for name, value in record.items() if name != "step"}
        self._ask(lambda: self._accelerator.log(numbers, step=record["step"]))

    def finish(self) -> None:
        """Tell that the run has ended."""
        self._ask(lambda: [tracker.finish() for tracker in self._accelerator.trackers])
        self._jobs.put(None)

    def _ask(self, job: Callable[[], Any]) -> None:
        if self._hang or not self._accelerator.is_main_process:
            return
        done = threading.Event()
        errors: list[BaseException] = []

        def told() -> None:
            try:
                job()
            except BaseException as error:
                errors.append(error)
            finally:
                done.set()

        self._jobs.put(told)
        if not done.wait(PATIENCE):
            self._hang = True
            warnings.warn(
                f"The trackers have not answered for {PATIENCE:g} s; the run goes on without them, and its records "
                "are in its folder.",
                RuntimeWarning,
                stacklevel=3,
            )
        if errors:
            raise errors[0]

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
