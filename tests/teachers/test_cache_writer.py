from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tutelage.batch import Batch
from tutelage.outputs import Outputs
from tutelage.teachers import TeacherCache, build_cache
from tutelage.teachers.folder_lock import LOCK_NAME, folder_lock

PROGRAM = """
import sys, time, torch
from tutelage.batch import Batch
from tutelage.outputs import Outputs
from tutelage.teachers import build_cache

class Counted:
    def __len__(self): return 1000
    def batch(self, rows): return Batch(rows.float().unsqueeze(1), None, rows)
    def fingerprint(self): return "counted"

class Slow:
    def __call__(self, batch):
        time.sleep(float(sys.argv[2]))
        return Outputs(logits=(batch.inputs * torch.arange(1.0, 9.0)).sin())
    def fingerprint(self): return "slow"

build_cache(Slow(), Counted(), sys.argv[1], shard_size=64, batch_size=16)
"""


class Counted:
    def __len__(self) -> int:
        return 1000

    def batch(self, rows: Tensor) -> Batch:
        return Batch(rows.float().unsqueeze(1), None, rows)

    def fingerprint(self) -> str:
        return "counted"


class Slow:
    """The same teacher as in `PROGRAM`, which counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, batch: Batch) -> Outputs:
        self.asked += len(batch)
        assert isinstance(batch.inputs, Tensor)
        return Outputs(logits=(batch.inputs * torch.arange(1.0, 9.0)).sin())

    def fingerprint(self) -> str:
        return "slow"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != LOCK_NAME}


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


def test_a_killed_writer_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    build_cache(Slow(), Counted(), whole, shard_size=64, batch_size=16)
    writer = subprocess.Popen([sys.executable, "-c", PROGRAM, str(killed), "0.01"])
    try:
        wait_for(killed / "00003.npy")
        with pytest.raises(ValueError, match=f"no other writer in .*, but process {writer.pid} is writing there"):
            build_cache(Slow(), Counted(), killed, shard_size=64, batch_size=16)
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait(timeout=60)
    with pytest.raises(ValueError, match=r"to be finished, but \d+ of 16 shards are"):
        TeacherCache(killed)
    (killed / ".00009.npy.x.part").write_bytes(b"half of a shard")
    teacher = Slow()
    build_cache(teacher, Counted(), killed, shard_size=64, batch_size=16)
    assert teacher.asked <= 1000 - 3 * 64
    assert files(killed) == files(whole)


def test_an_unlisted_shard_is_not_trusted(tmp_path: Path) -> None:
    """A writer may die between moving a shard into its place and writing the manifest."""

    class Stops(Slow):
        def __call__(self, batch: Batch) -> Outputs:
            if self.asked >= 200:
                raise KeyboardInterrupt
            return super().__call__(batch)

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    build_cache(Slow(), Counted(), whole, shard_size=64, batch_size=16)
    with pytest.raises(KeyboardInterrupt):
        build_cache(Stops(), Counted(), stopped, shard_size=64, batch_size=16)
    (stopped / "00009.npy").write_bytes(b"whatever it was")
    build_cache(Slow(), Counted(), stopped, shard_size=64, batch_size=16)
    assert files(stopped) == files(whole)


def test_a_finished_cache_is_kept_and_the_teacher_not_asked(tmp_path: Path) -> None:
    build_cache(Slow(), Counted(), tmp_path)
    before = files(tmp_path)
    teacher = Slow()
    seen: list[tuple[int, int]] = []
    build_cache(teacher, Counted(), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert teacher.asked == 0
    assert files(tmp_path) == before
    assert seen == [(1, 1)]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"empty or to hold a teacher cache, but it holds 'thesis\.txt'"):
        build_cache(Slow(), Counted(), tmp_path)


def test_the_lock_is_exclusive_and_free_again_afterwards(tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()} "), folder_lock(tmp_path):
        pass
    with pytest.raises(KeyError), folder_lock(tmp_path):
        raise KeyError
    (tmp_path / LOCK_NAME).write_text("999999\n")  # left behind by a process that is gone
    with folder_lock(tmp_path):
        assert (tmp_path / LOCK_NAME).read_text() == f"{os.getpid()}\n"
