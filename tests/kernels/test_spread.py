"""Several processes, really started with torchrun on gloo, against one."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tutelage.kernels import VocabParallel

PROGRAM = Path(__file__).parent / "spread.py"


@pytest.mark.parametrize(("what", "processes"), [("vocabulary", 2), ("vocabulary", 3), ("data", 2)])
def test_several_processes_give_what_one_gives(what: str, processes: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
    command = [sys.executable, *launcher, "--master-addr=127.0.0.1", str(PROGRAM), what]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("the same") == processes


def test_a_shard_knows_its_length() -> None:
    with pytest.raises(ValueError, match="the 5 rows of the shard"):
        VocabParallel(0, 5).check_shard(6)
