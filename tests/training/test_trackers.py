"""A real tracker: Trackio keeps runs in files of this machine, with no network."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from example import trainer
trainer(None, epochs=2, trackers=["trackio"], project="lessons").run()
"""


def test_records_reach_the_tracker(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)]
    environment = {"TRACKIO_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    (database,) = tmp_path.rglob("lessons*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in rows] == [5, 10]
    assert all("validation_accuracy" in str(metrics) and "loss/teacher" in str(metrics) for _, metrics in rows)
