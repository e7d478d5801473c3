"""`kill -9` at any moment: what is begun again ends with the bits of a job that was never stopped."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from tests.reliability.children import Children
from tests.reliability.faults import Faults
from tests.reliability.outcomes import differences, outcome
from tests.reliability.work import checkpoint
from tutelage.models import mlp, save_model
from tutelage.training.checkpoints import checkpoint_folders, load_checkpoint, load_latest

RUN = {
    "name": "tiny",
    "data": "iris",
    "teacher": {
        "name": "mlp",
        "arguments": {"hidden": [16]},
        "train": {"epochs": 3, "learning_rate": 0.01, "checkpoint_every": 2},
    },
    "student": {"name": "mlp", "arguments": {"hidden": [8], "dropout": 0.2}},
    "arms": {"label": ["cross_entropy"], "teacher": ["forward_kl"]},
    "cache": True,
    "training": {"epochs": 4, "learning_rate": 0.01, "checkpoint_every": 3, "log_every": 2, "batch_size": 16},
    "seeds": [0],
    "jobs": 1,
}


COMPARISON = {
    "name": "tiny",
    "data": "iris",
    "teacher": RUN["teacher"],
    "student": {"name": "mlp", "arguments": {"hidden": [4]}},
    "training": {"epochs": 6, "learning_rate": 0.02, "batch_size": 16},
    "methods": {"include": ["pld", "focal_loss"]},
    "finalists": 1,
    "seeds": 2,
    "jobs": 1,
    "budget": 600,
}


@dataclass(frozen=True)
class Job:
    """A job that goes on where it was: what is called, and what before the folder."""

    call: str
    arguments: tuple[Path, ...] = ()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "config.yaml").write_text(yaml.safe_dump(RUN))
    (folder / "comparison.yaml").write_text(yaml.safe_dump(COMPARISON))
    torch.manual_seed(0)
    save_model(folder / "teacher.safetensors", mlp(4, 3, hidden=(64, 64)))
    return {
        "distillation": Job("tests.reliability.work:distill", (folder / "config.yaml",)),
        "cache build": Job("tests.reliability.work:cache"),
        "comparison": Job("tests.reliability.work:compare", (folder / "comparison.yaml",)),
        "search": Job("tests.reliability.work:search", (folder / "teacher.safetensors",)),
    }


@dataclass(frozen=True)
class Whole:
    """A job that was never stopped: its outcome, and its operations on files."""

    outcome: dict[str, object]
    operations: int


class Jobs:
    """Runs jobs in folders, and remembers how each ends when nothing happens."""

    def __init__(self, children: Children, jobs: dict[str, Job], folder: Path) -> None:
        self._children, self._jobs, self._folder = children, jobs, folder
        self._whole: dict[str, Whole] = {}

    def whole(self, name: str) -> Whole:
        if name not in self._whole:
            job, place = self._jobs[name], self._folder / name / "whole"
            place.parent.mkdir()
            count = self._children.finish(job.call, *job.arguments, place, log=place.with_suffix(".log"), watched=place)
            self._whole[name] = Whole(outcome(place), count)
        return self._whole[name]

    def seconds(self, name: str) -> float:
        """How long the job takes when what it imports is there already."""
        self.whole(name)
        begun = time.monotonic()
        assert self.finish(name, self._folder / name / "again") == []
        return time.monotonic() - begun

    def kill_at_operation(self, name: str, place: Path, operation: int) -> bool:
        """Whether the job died; it ends by itself when it has fewer operations."""
        job = self._jobs[name]
        child = self._children.start(
            job.call, *job.arguments, place, log=place.with_suffix(".log"), watched=place, die_at=operation
        )
        status = self._children.wait(child)
        assert status in (0, -9), child.log.read_text()
        return status == -9

    def kill_after(self, name: str, place: Path, seconds: float) -> bool:
        job = self._jobs[name]
        return self._children.kill_after(seconds, job.call, *job.arguments, place, log=place.with_suffix(".log"))

    def finish(self, name: str, place: Path) -> list[str]:
        """Run a job to its end, and give what differs from one that was never stopped."""
        job = self._jobs[name]
        self._children.finish(job.call, *job.arguments, place, log=place.with_suffix(".log"))
        return differences(outcome(place), self.whole(name).outcome)


@pytest.fixture(scope="module")
def running(children: Children, jobs: dict[str, Job], tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(children, jobs, tmp_path_factory.mktemp("running"))


@pytest.mark.parametrize(
    ("name", "kills"),
    [
        ("distillation", 3),
        ("cache build", 2),
        *(
            pytest.param(name, kills, marks=pytest.mark.reliability, id=f"{name}, the long part")
            for name, kills in (("distillation", 10), ("cache build", 10), ("search", 10), ("comparison", 10))
        ),
    ],
)
def test_killed_again_and_again_it_ends_as_if_never_stopped(
    running: Jobs, faults: Faults, tmp_path: Path, name: str, kills: int
) -> None:
    """Killed before an operation on a file that is drawn at random, each time further on."""
    draw = random.Random(f"{name} {kills}")
    left = running.whole(name).operations
    place, survived = tmp_path / "job", 0
    for kill in range(kills):
        operation = draw.randint(1, max(1, 2 * left // (kills - kill + 1)))
        survived += running.kill_at_operation(name, place, operation)
        left = max(1, left - operation)
    with faults.inject(f"kill -9 before a file operation of a {name}", survived):
        assert survived == kills
        assert running.finish(name, place) == []


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("name", "once", "again"),
    [(name, 5, 5) for name in ("distillation", "cache build", "search", "comparison")],
)
def test_killed_at_any_time_it_ends_as_if_never_stopped(
    running: Jobs, faults: Faults, tmp_path: Path, name: str, once: int, again: int
) -> None:
    """So many times killed once and gone on with; then so many times one after another."""
    seconds = running.seconds(name)
    draw = random.Random(name)
    for part in range(once):
        place, killed = tmp_path / f"once {part}", False
        for attempt in range(4):  # it may have ended before the moment came
            place = tmp_path / f"once {part}.{attempt}"
            killed = running.kill_after(name, place, seconds * (part + draw.random()) / (once + 0.5) / 2**attempt)
            if killed:
                break
        with faults.inject(f"kill -9 at a moment of a {name}", killed):
            assert running.finish(name, place) == []
    place, survived = tmp_path / "again", 0
    for _ in range(again):
        survived += running.kill_after(name, place, seconds * draw.uniform(0.1, 0.25))
    with faults.inject(f"kill -9 at a moment of a {name}", survived):
        assert running.finish(name, place) == []


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(4, id="the same step again"),
        pytest.param(5, id="the next step", marks=pytest.mark.reliability),
    ],
)
def test_killed_anywhere_in_a_checkpoint_write_a_whole_one_stands(
    children: Children, faults: Faults, tmp_path: Path, second: int
) -> None:
    """Before every single operation on a file; then the same is written again, and once more."""
    call, log, before = "tests.reliability.work:checkpoint", tmp_path / "child.log", tmp_path / "before"
    for step in (3, 4):
        checkpoint(str(before), step, float(step))
    counted = shutil.copytree(before, tmp_path / "counted")
    operations = children.finish(call, counted, second, 9.0, log=log, watched=counted)
    assert operations > 20
    for operation in range(1, operations + 1):
        folder = shutil.copytree(before, tmp_path / str(operation))
        child = children.start(call, folder, second, 9.0, log=log, watched=folder, die_at=operation)
        with faults.inject("kill -9 before each file operation of a checkpoint write"):
            assert children.wait(child) == -9
            stands = load_latest(folder)
            assert stands is not None
            values = {float(value) for tensor in stands.modules.values() for value in tensor.unique()}
            assert (stands.step, values) in ((4, {4.0}), (second, {9.0}))
            for step in (second, second, second + 1):
                checkpoint(str(folder), step, 9.0)
            left = [path.name for path in sorted(folder.iterdir())]
            assert left == [path.name for path in checkpoint_folders(folder)], "nothing half-written is left"
            assert load_checkpoint(folder / left[-1]).step == second + 1
