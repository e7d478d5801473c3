"""What teaching costs by our trainer and losses, by hand, and by those of torchdistill and TRL.

Everybody teaches the same student from the same data with the same losses and optimiser (`benchmarks.peer_runs.tasks`)
on one thread, and must end with the same loss, or nothing is recorded. Each subject is a process of its own, warmed up
by a whole run of a task; then they take turns. Compared is the time of the run alone, from its first batch to its last
step: what comes before (making networks, data and trainer) is recorded beside it. Data are tensors in memory.
torchdistill reads them through the `DataLoader` that it makes of its configuration, sample by sample, as in its own
examples: part of what a step with it costs, and most of it where networks are small.

A peer that this project does not depend on gets an environment of its own in `build/peer-venvs/`, made by pip with the
versions of `constraints.txt` the first time. Where that fails, it is skipped.

Run `python -m benchmarks.peers`; `--clean` removes the environments.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Timings, record
from benchmarks.peer_runs.tasks import TASKS
from benchmarks.records import RATIOS, find

ROOT = Path(__file__).parents[1]
VENVS = ROOT / "build" / "peer-venvs"
TOLERANCE = 1e-3
"""Final losses of one task may differ by this share; float32 sums in other orders do by some 1e-5."""


@dataclass(frozen=True)
class Peer:
    """A trainer to compare with.

    Attributes:
        module: The module of `benchmarks.peer_runs` that teaches with it.
        package: What must be importable.
        requirements: What pip installs into an environment of its own; none where the project's own has it.
    """

    module: str
    package: str
    requirements: tuple[str, ...] = ()


PEERS = {
    "torchdistill": Peer("with_torchdistill", "torchdistill", ("torchdistill==1.1.5",)),
    "TRL": Peer("with_trl", "trl"),
}
TURNS = {"classes, small": 15, "classes, large": 7, "texts, small": 5, "texts, large": 3}
TURNS |= dict.fromkeys(("classic loss", "DIST", "Jensen–Shannon"), 9)


COMPARED = {(ratio.at.split("/")[1], ratio.peer) for ratio in RATIOS["peers"][1]}
"""Tasks with whom ours is compared in them."""

GATED = {ratio.at.split("/")[1] for ratio in RATIOS["peers"][1] if ratio.gated}
"""Tasks that `make bench-check` runs."""


class PeerMissing(Exception):  # noqa: N818 - named after what happened
    """A peer cannot be had here; the text is one line that says why."""


def peer_python(name: str, *, folder: Path = VENVS, install: bool = True, pip_options: Sequence[str] = ()) -> str:
    """The Python that has a peer.

    Args:
        name: The peer.
        folder: Where environments are made.
        install: Make the environment where there is none yet.
        pip_options: Passed to `pip install`.

    Raises:
        PeerMissing: It is not installed, and could not be.
    """
    peer = PEERS[name]
    if not peer.requirements:
        if importlib.util.find_spec(peer.package) is None:
            raise PeerMissing(f"{peer.package} is not installed; it comes with the extra `language`")
        return sys.executable
    wanted = [f"torch=={torch.__version__.partition('+')[0]}", *peer.requirements]
    home = folder / name
    python, ready = home / "bin" / "python", home / "installed.json"
    if ready.exists() and json.loads(ready.read_text()) == wanted:
        return str(python)
    if not install:
        raise PeerMissing("its environment is not made yet; `python -m benchmarks.peers` makes it")
    print(f"Installing {name} into {home} (some minutes the first time) …", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    done = subprocess.run([*command, *constraints, *pip_options, *wanted], capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(home, ignore_errors=True)
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise PeerMissing(f"pip cannot install {' '.join(wanted)}: {errors[-1].removeprefix('ERROR: ')}")
    ready.write_text(json.dumps(wanted))
    return str(python)


class Worker:
    """A process that does a task each time that it is asked."""

    def __init__(self, python: str, module: str) -> None:
        self.module = module
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would fill up and stall
        self.process = subprocess.Popen(
            [python, "-m", f"benchmarks.peer_runs.{module}"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def run(self, task: str) -> dict[str, float]:
        """One run: its seconds, those before it, and the final loss.

        Raises:
            RuntimeError: The process has ended; what it said is in the text.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(task, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"The run of {task!r} by {self.module} ended early:\n{self.errors.read()}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


def measure_task(task: str, subjects: Mapping[str, Worker], turns: int) -> dict[str, Any]:
    """Runs of one task in turns, after one of each to warm up: seconds a step, ratios, and that all did the same."""
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in subjects}
    order = list(subjects)
    for turn in range(turns + 1):
        for name in order:
            answer = subjects[name].run(task)
            if turn:
                answers[name].append(answer)
        order.reverse()
    losses = {name: found[-1]["loss"] for name, found in answers.items()}
    if any(not math.isclose(loss, losses["by hand"], rel_tol=TOLERANCE) for loss in losses.values()):
        raise AssertionError(f"Expected all subjects of {task!r} to end with one loss, but they end with {losses}.")
    timings = Timings({name: [one["seconds"] for one in found] for name, found in answers.items()})
    before = Timings({name: [one["seconds_before"] for one in found] for name, found in answers.items()})
    steps = TASKS[task].steps
    ratios = {name: timings.ratio("ours", name) for name in subjects if name != "ours"}
    shown = ", ".join(f"{ratio} × {name}" for name, ratio in ratios.items())
    print(f"{task}: ours takes {shown} ({1e3 * timings.of('ours').median / steps:.3g} ms a step)", flush=True)
    return {
        "steps": steps,
        "batch_size": TASKS[task].batch_size,
        "milliseconds_a_step": {name: float(f"{1e3 * timings.of(name).median / steps:.4g}") for name in subjects},
        "milliseconds_before": {name: float(f"{1e3 * before.of(name).median:.3g}") for name in subjects},
        "final_loss": {name: float(f"{loss:.6g}") for name, loss in losses.items()},
        "ours_over": {name: ratio.record() for name, ratio in ratios.items()},
    }


def measure(*, quick: bool = False) -> dict[str, Any]:
    """The record; quickly, only what `make bench-check` compares, in fewer turns, with peers that are there already."""
    torch.set_num_threads(1)  # as every subject does: the record says so
    pythons, skipped = {}, {}
    for name in PEERS:
        try:
            pythons[name] = peer_python(name, install=not quick)
        except PeerMissing as reason:
            skipped[name] = str(reason)
            print(f"{name} is skipped: {reason}.", flush=True)
    commands = {"ours": (sys.executable, "with_tutelage"), "by hand": (sys.executable, "by_hand")}
    commands |= {name: (python, PEERS[name].module) for name, python in pythons.items()}
    tasks = {}
    with contextlib.ExitStack() as stack:
        workers = {name: Worker(*command) for name, command in commands.items()}
        for worker in workers.values():
            stack.callback(worker.close)
        for task, turns in TURNS.items():
            if quick and task not in GATED:
                continue
            subjects = {name: one for name, one in workers.items() if name == "ours" or (task, name) in COMPARED}
            tasks[task] = measure_task(task, subjects, max(3, turns // 3) if quick else turns)
    versions = {name: installed_version(python, PEERS[name].package) for name, python in pythons.items()}
    return {"versions": versions, "skipped": skipped, "tasks": tasks}


def installed_version(python: str, package: str) -> str:
    """The version of a package in an environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clean", action="store_true", help="remove the environments of peers and end")
    if parser.parse_args().clean:
        shutil.rmtree(VENVS, ignore_errors=True)
        return
    results = measure()
    missing = [str(ratio) for ratio in RATIOS["peers"][1] if find(results, ratio) is None]
    print(f"Not measured: {', '.join(missing) or 'nothing'}.")
    print(record("peers", results))


if __name__ == "__main__":
    main()
