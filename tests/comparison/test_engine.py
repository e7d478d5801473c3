"""Real workers: what is killed is run again, and the result is the same wherever trials run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutelage.comparison import ComparisonConfig, resume_comparison, start_comparison, tournament
from tutelage.comparison.engine import TrialRunner
from tutelage.comparison.lessons import Setting
from tutelage.reproduction.recipe import Arm, Context, Scale
from tutelage.reproduction.trial import Trial

Make = Callable[..., ComparisonConfig]
Read = Callable[[Path], dict[str, Any]]

KILLED = """
import os, pathlib, signal
from tutelage.objectives import CrossEntropy

class Once(CrossEntropy):
    def loss(self, student_logits, target):
        mark = pathlib.Path({mark!r})
        if os.environ.get("KILL_WORKERS") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(student_logits, target)

class Always(CrossEntropy):
    def loss(self, student_logits, target):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def silent(line: str) -> None:
    pass


@pytest.fixture
def alone(small: Make, inline_runner: type[TrialRunner], own_module: Any, tmp_path: Path) -> Path:
    """A comparison in this process, in which nobody is killed."""
    name = own_module("killed", KILLED.format(mark=str(tmp_path / "mark")))
    config = small(methods={"include": ["cross_entropy"], "own": [f"{name}:Once"]}, settings=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tournament, "TrialRunner", inline_runner)
        start_comparison(config, tmp_path / "alone", announce=silent)
    return tmp_path / "alone"


def again(alone: Path, folder: Path) -> Path:
    """The same plan in another folder, with nothing done yet."""
    folder.mkdir()
    for name in ("config.yaml", "plan.json"):
        shutil.copy(alone / name, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_killed_worker_loses_one_trial_which_is_run_again(
    alone: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch, unmeasured: Read
) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    monkeypatch.setenv("KILL_WORKERS", "1")
    folder = again(alone, tmp_path / "other")
    resume_comparison(folder, jobs=2, engine=engine, announce=silent)
    assert (tmp_path / "mark").exists()
    assert unmeasured(folder) == unmeasured(alone)


@pytest.mark.slow
def test_a_trial_that_is_killed_again_and_again_fails_and_others_go_on(
    small: Make, own_module: Any, tmp_path: Path
) -> None:
    name = own_module("fatal", KILLED.format(mark=str(tmp_path / "mark")))
    config = small(teacher=None)
    context = Context(Scale("comparison", 1, {"config": config.to_yaml()}), tmp_path)
    trials = [
        Trial(Arm(text, {"setting": Setting("", ({"name": text},)).to_dict(), "steps": 3, "test": False}), 0)
        for text in (f"{name}:Always", "cross_entropy", "focal_loss")
    ]
    with TrialRunner("processes", 2) as runner:
        outcomes = {outcome.arm: outcome.metrics for outcome in runner.run(context, trials)}
    assert "killed each time" in outcomes[f"{name}:Always"].reason  # type: ignore[attr-defined]
    assert all(outcomes[text]["validation_accuracy"] >= 0 for text in ("cross_entropy", "focal_loss"))  # type: ignore[operator]


@pytest.mark.slow
def test_a_comparison_that_was_killed_goes_on_to_the_same_result(alone: Path, tmp_path: Path, unmeasured: Read) -> None:
    folder = again(alone, tmp_path / "other")
    command = [sys.executable, "-m", "tutelage", "compare", "--resume", str(folder), "--jobs", "2"]
    for wanted in (2, 7):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
        deadline = time.monotonic() + 120
        while len(list(folder.glob("trials/*/*.json"))) < wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert unmeasured(folder) == unmeasured(alone)
    assert not list(folder.rglob("*.part"))
