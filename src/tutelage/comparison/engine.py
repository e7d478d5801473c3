"""Where trials run: worker processes of this machine, or a Ray cluster. A worker that dies takes one trial with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from tutelage.comparison.trial import Failure, run_candidate
from tutelage.reproduction.engines import Engine, check_engine, run_trials
from tutelage.reproduction.recipe import Context
from tutelage.reproduction.trial import Outcome, Trial, TrialError, run_trial
from tutelage.workers import begin_worker

ATTEMPTS = 2
"""How often a trial is run whose process was killed, before it counts as failed."""

_LOST = "its process was killed each time, perhaps for want of memory"


class TrialRunner:
    """Runs trials and gives every outcome as soon as it is there; one that failed has `Failure` as its metrics.

    Each job has a process of its own for as long as the runner is open, so that starting one is paid once, and one
    that is killed loses one trial, which is run again.

    Args:
        engine: `processes` or `ray`.
        jobs: How many trials run at once.
    """

    def __init__(self, engine: Engine, jobs: int) -> None:
        check_engine(engine, jobs)
        self.engine, self.jobs = engine, jobs
        self._pools: dict[int, ProcessPoolExecutor] = {}
        self._closed = threading.Event()

    def __enter__(self) -> TrialRunner:
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()  # before children are ended, so that nobody takes that for an accident
        for child in multiprocessing.active_children() if any(error) else ():
            child.terminate()
        for pool in list(self._pools.values()):
            pool.shutdown(wait=True, cancel_futures=True)

    def run(self, context: Context, trials: Sequence[Trial]) -> Iterator[Outcome]:
        """The outcomes of trials, in no particular order."""
        if not trials:
            return iter(())
        return self._on_ray(context, trials) if self.engine == "ray" else self._in_processes(context, trials)

    def _in_processes(self, context: Context, trials: Sequence[Trial]) -> Iterator[Outcome]:
        waiting: queue.SimpleQueue[Trial | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        for trial in trials:
            waiting.put(trial)
        slots = min(self.jobs, len(trials))

        def work(slot: int) -> None:
            try:
                while not self._closed.is_set() and (trial := waiting.get()) is not None:
                    done.put(self._one(slot, context, trial))
            except BaseException as error:  # given to the thread that asks
                done.put(error)

        for _ in range(slots):
            waiting.put(None)
        threads = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in range(slots)]
        for thread in threads:
            thread.start()
        for _ in trials:
            outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome

    def _one(self, slot: int, context: Context, trial: Trial) -> Outcome:
        for _ in range(ATTEMPTS):
            pool = self._pools.get(slot)
            if pool is None:
                spawn = multiprocessing.get_context("spawn")
                pool = self._pools[slot] = ProcessPoolExecutor(1, mp_context=spawn, initializer=begin_worker)
            try:
                return pool.submit(run_trial, run_candidate, context, trial).result()
            except BrokenProcessPool:
                self._pools.pop(slot).shutdown(wait=False)
                if self._closed.is_set():
                    break
        return _failed(trial, _LOST)

    def _on_ray(self, context: Context, trials: Sequence[Trial]) -> Iterator[Outcome]:
        waiting = {(trial.arm.name, trial.seed): trial for trial in trials}
        while waiting:
            outcomes = run_trials(run_candidate, context, list(waiting.values()), engine="ray", jobs=self.jobs)
            try:
                with contextlib.closing(outcomes):  # type: ignore[type-var]  # it is a generator
                    for outcome in outcomes:
                        del waiting[outcome.arm, outcome.seed]
                        yield outcome
            except TrialError as error:
                lost = [key for key, trial in waiting.items() if f"Trial {trial.name!r} failed" in str(error)]
                if not lost:
                    raise
                yield _failed(waiting.pop(lost[0]), _LOST)


def _failed(trial: Trial, reason: str) -> Outcome:
    return Outcome(trial.arm.name, trial.seed, Failure(reason), 0.0, 0.0)
