"""Several processes of torchrun: the losses and weights of one; a process that dies ends all, and loses nothing."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

from tests.reliability.faults import Faults
from tests.reliability.shared_work import carry_out, check_alike, launch
from tutelage.files import read_json
from tutelage.training.checkpoints import checkpoint_folders, load_latest

PARTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "features": {"kind": "features", "gradient_accumulation": 2, "clip_norm": 0.5},
    "moving": {"kind": "moving", "keep_best": "validation_loss"},
}
NORM = {"kind": "norm", "batch_size": 16, "early_stopping": {"patience": 1}, "log_every": 2, "evaluate_every": 2}


def alone(folder: Path, **options: Any) -> Path:
    folder.mkdir(parents=True)
    carry_out(folder, **options)
    return folder


def begin_from(checkpoint: Path, folder: Path) -> Path:
    """A run's folder as it was just after it had written a checkpoint."""
    folder.mkdir(parents=True)
    shutil.copytree(checkpoint, folder / "checkpoints" / checkpoint.name)
    shutil.copy(checkpoint.parents[1] / "metrics.jsonl", folder)
    return folder


def test_two_processes_do_what_one_does_and_outlive_a_killed_one(tmp_path: Path, faults: Faults) -> None:
    """One start of torchrun for all, since a start is what costs: whole on each process, sharded, and one that dies."""
    jobs: list[dict[str, Any]] = [{"name": name, **options} for name, options in PARTS.items()]
    jobs += [{"name": f"{name}-sharded", "sharding": "full", **options} for name, options in PARTS.items()]
    jobs += [
        {"name": "accelerate-sharded", "environment": {"ACCELERATE_USE_FSDP": "true"}, "max_steps": 4},
        {"name": "norm-sharded", "sharding": "full", **NORM},
        {"name": "refused", "sharding": "full", "kind": "mutual", "refused": True},
        {"name": "stopped", "ends": 4, "rank": 1, "number": 15, "sharding": "full"},
        {"name": "killed", "ends": 8, "rank": 1, "sharding": "full"},
    ]
    done = launch(tmp_path, jobs, processes=2)
    ended = time.time()
    for name, options in PARTS.items():
        one = alone(tmp_path / "alone" / name, **options)
        check_alike(one, tmp_path / name)
        check_alike(one, tmp_path / f"{name}-sharded")
    for name, most in (("plain", 1.0), ("plain-sharded", 0.55), ("accelerate-sharded", 0.55)):
        held = read_json(tmp_path / name / "held.json")
        assert held["values"] <= most * held["of"], name
    assert "MutualDistillation" in (tmp_path / "refused" / "refused.txt").read_text()

    with faults.inject("SIGTERM to one process of two", times=1):
        assert "Stopped after step 4" in (tmp_path / "stopped" / "stopped.txt").read_text()
        assert load_latest(tmp_path / "stopped" / "checkpoints").step == 4  # type: ignore[union-attr]

    with faults.inject("kill -9 of one process of two", times=1):
        assert done.returncode != 0
        assert "Another process of this run ended" in done.stderr, done.stderr[-3000:]
        assert "exitcode  : -9" in done.stderr
        begun = float(re.findall(r"stopped: .* at ([\d.]+)", done.stdout)[0])
        assert ended - begun < 60
        carry_out(tmp_path / "killed", resume=True)  # by one process: a checkpoint is whole, whoever wrote it
        check_alike(tmp_path / "plain", tmp_path / "killed")

    middle = begin_from(checkpoint_folders(tmp_path / "plain-sharded" / "checkpoints")[0], tmp_path / "alone-goes-on")
    carry_out(middle, resume=True)
    check_alike(tmp_path / "plain", middle)
