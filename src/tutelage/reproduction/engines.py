"""Where trials run: processes of this machine (joblib), or a Ray cluster. The outcomes are the same bits."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tutelage._checks import check_at_least, check_option
from tutelage.files import atomic_path
from tutelage.reproduction.recipe import Context
from tutelage.reproduction.trial import Outcome, RunArm, Trial, TrialError, run_trial

Engine = Literal["processes", "ray"]

_RETRIES = 3
"""How often Ray starts a trial again whose worker was killed (a lost node, no memory)."""


def run_trials(
    run_arm: RunArm, context: Context, trials: Sequence[Trial], *, engine: Engine = "processes", jobs: int = 2
) -> Iterator[Outcome]:
    """Run trials in parallel and give every outcome as soon as it is there, in no particular order.

    Args:
        run_arm: The recipe's function; importable, or anything that cloudpickle can send.
        context: Scale and folder; with Ray the folder's files travel to the workers and new ones back, so no disk need
            be shared.
        trials: What to run.
        engine: `processes` of this machine, or a `ray` cluster: the one that `RAY_ADDRESS` or this machine has, or a
            local one that is started and stopped again.
        jobs: How many trials run at once (of a cluster that is already there, all CPUs are used).

    Raises:
        TrialError: A trial failed, or its worker was killed.
    """
    check_engine(engine, jobs)
    if not trials:
        return iter(())
    return (_processes if engine == "processes" else _ray)(run_arm, context, trials, jobs)


def check_engine(engine: Engine, jobs: int) -> None:
    """Raise unless trials can run in this way; called before a teacher is trained for nothing.

    Raises:
        ValueError: Another engine, or fewer than one job.
        ImportError: Ray is asked for and is not installed.
    """
    check_option(engine, "engine", ("processes", "ray"))
    check_at_least(jobs, "jobs", 1)
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise ImportError("Ray is not installed: pip install 'tutelage[cluster]', or use processes.")


def _processes(run_arm: RunArm, context: Context, trials: Sequence[Trial], jobs: int) -> Iterator[Outcome]:
    from concurrent.futures.process import BrokenProcessPool

    import joblib

    tasks = (joblib.delayed(run_trial)(run_arm, context, trial) for trial in trials)
    with joblib.parallel_config("loky", n_jobs=min(jobs, len(trials)), inner_max_num_threads=1):
        try:
            yield from joblib.Parallel(return_as="generator_unordered", pre_dispatch="all")(tasks)
        except BrokenProcessPool as error:
            raise TrialError("A worker process was killed, perhaps for want of memory; try `--jobs 1`.") from error


def _ray(run_arm: RunArm, context: Context, trials: Sequence[Trial], jobs: int) -> Iterator[Outcome]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # trials may use an accelerator if there is one
    import ray

    ours = not ray.is_initialized()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if ours:
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError:
            ray.init(address="local", num_cpus=jobs, include_dashboard=False, **quiet)
    try:
        files = ray.put({str(path.relative_to(context.folder)): path.read_bytes() for path in _files(context.folder)})
        remote = ray.remote(num_cpus=1, max_retries=_RETRIES)(_remote_trial)
        running = {remote.remote(run_arm, context, files, trial): trial for trial in trials}
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            trial = running.pop(ready)
            try:
                outcome, written = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise TrialError(str(error.cause)) from None
            except ray.exceptions.RayError as error:
                raise TrialError(f"Trial {trial.name!r} failed: its worker was lost {_RETRIES + 1} times.") from error
            _write(context.folder, written)
            yield outcome
    finally:
        if ours:
            ray.shutdown()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for relative, content in files.items():
        with atomic_path(folder / relative) as part:
            part.write_bytes(content)


def _remote_trial(
    run_arm: RunArm, context: Context, files: dict[str, bytes], trial: Trial
) -> tuple[Outcome, dict[str, bytes]]:
    """The outcome, and what the trial wrote into the folder."""
    with tempfile.TemporaryDirectory(prefix="tutelage-") as name:
        folder = Path(name)
        _write(folder, files)
        outcome = run_trial(run_arm, replace(context, folder=folder), trial)
        after = {str(path.relative_to(folder)): path for path in _files(folder)}
        return outcome, {relative: path.read_bytes() for relative, path in after.items() if relative not in files}
