"""Several processes, really started with torchrun on gloo, against one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tutelage.files import read_tensors

PROGRAM = Path(__file__).parent / "example.py"


def run(folder: Path, processes: int, *options: str) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={processes}",
        "--master-addr=127.0.0.1",
        f"--master-port={port}",
    ]
    command = [
        sys.executable,
        *(launcher if processes > 1 else []),
        str(PROGRAM),
        str(folder),
        "0",
        "dropout=0",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return records, read_tensors(folder / "final.safetensors")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="plain"),
        pytest.param(("gradient_accumulation=2", "clip_norm=0.5"), id="accumulated"),
        pytest.param(("features=0.5",), id="features", marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_losses_of_one(tmp_path: Path, options: tuple[str, ...]) -> None:
    alone, weights = run(tmp_path / "one", 1, *options)
    together, shared = run(tmp_path / "two", 2, *options)
    assert len(alone) == len(together) == 4
    for mine, theirs in zip(alone, together, strict=True):
        for name in ("loss", "loss/label", "loss/teacher", "validation_loss"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6)
    assert any("projectors" in name for name in weights) == ("features=0.5" in options)
    for name, value in weights.items():
        torch.testing.assert_close(value, shared[name], rtol=1e-4, atol=1e-5)
