"""Processes that are really killed, stopped and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tutelage.files import read_tensors

PROGRAM = Path(__file__).parent / "example.py"
STEPS = 20


def start(folder: Path, pause: float, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(folder), str(pause), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)


def hear_ctrl_c() -> None:
    """A shell starts what runs in its background with Ctrl-C ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_step(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            return
    raise AssertionError(process.stderr.read() if process.stderr else "")


def finish(folder: Path, *options: str) -> dict[str, torch.Tensor]:
    process = start(folder, 0.0, *options)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return read_tensors(folder / "final.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    finish(folder)
    return folder


@pytest.fixture
def uninterrupted(whole: Path) -> dict[str, torch.Tensor]:
    return read_tensors(whole / "final.safetensors")


@pytest.fixture
def uninterrupted_losses(whole: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (whole / "metrics.jsonl").read_text().splitlines()]


def same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_killed_again_and_again_it_ends_with_the_same_bits_and_records(
    tmp_path: Path, uninterrupted: dict[str, torch.Tensor], uninterrupted_losses: list[float]
) -> None:
    for step in (1, 7, 12):  # before the first checkpoint, in the middle of an epoch, between checkpoints
        process = start(tmp_path, 0.02)
        wait_for_step(process, step)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert same_bits(finish(tmp_path), uninterrupted)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [5, 10, 15, 20], "each record stands once"
    assert [record["loss"] for record in records] == pytest.approx(uninterrupted_losses)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_writes_a_checkpoint_first(
    tmp_path: Path, uninterrupted: dict[str, torch.Tensor], number: signal.Signals
) -> None:
    process = start(tmp_path, 0.05, "checkpoint_every=1000")
    wait_for_step(process, 3)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Interrupted: Stopped after step" in error
    assert "A checkpoint is in" in error
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    assert same_bits(finish(tmp_path, "checkpoint_every=1000"), uninterrupted)
