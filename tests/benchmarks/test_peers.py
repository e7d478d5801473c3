"""Peers: what is skipped says why, all subjects do the same arithmetic, and a process that fails is heard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import peers
from benchmarks.peer_runs import by_hand, tasks, with_tutelage

SMALL = {
    "classes": tasks.Classes((6, 5, 4), (6, 8, 4), 8, 24, 2),
    "texts": tasks.Texts(8, 16, 1, 2, 4, 1, vocabulary=32, length=12, prompt=4),
    "classic": tasks.Losses("classic", 16, 7, 1),
    "dist": tasks.Losses("dist", 16, 7, 1),
    "jensen_shannon": tasks.Losses("jensen_shannon", 16, 7, 1),
}


@pytest.mark.parametrize("name", list(SMALL))
def test_ours_and_the_loop_end_with_the_same_loss(name: str) -> None:
    losses = []
    for subject in (by_hand, with_tutelage):
        prepared = subject.prepare(SMALL[name])
        prepared.run()
        losses.append(prepared.loss())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_run_teaches() -> None:
    task = SMALL["classes"]
    assert isinstance(task, tasks.Classes)
    teacher, student = task.networks()
    with torch.no_grad():
        before = float(task.loss(student, teacher, *task.data()))
    prepared = by_hand.prepare(task)
    prepared.run()
    assert prepared.loss() < before


def test_peer_that_pip_cannot_install_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real environment and a real pip, with an index at which nothing listens and no other source."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    nowhere = ["--index-url", "http://127.0.0.1:9/simple", "--retries", "0", "--timeout", "1"]
    with pytest.raises(peers.PeerMissing, match=r"pip cannot install torch==\S+ torchdistill==1\.1\.5: .+") as caught:
        peers.peer_python("torchdistill", folder=tmp_path, pip_options=nowhere)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "torchdistill").exists()


def test_peer_is_not_installed_by_the_gate(tmp_path: Path) -> None:
    with pytest.raises(peers.PeerMissing, match="not made yet"):
        peers.peer_python("torchdistill", folder=tmp_path, install=False)


def test_skipped_peers_are_a_line_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "VENVS", tmp_path)
    monkeypatch.setattr(peers, "TURNS", {})

    def missing(name: str, *, install: bool) -> str:
        raise peers.PeerMissing("pip cannot reach it")

    monkeypatch.setattr(peers, "peer_python", missing)
    measured = peers.measure()
    assert measured == {
        "versions": {},
        "skipped": {"torchdistill": "pip cannot reach it", "TRL": "pip cannot reach it"},
        "tasks": {},
    }
    assert "torchdistill is skipped: pip cannot reach it." in capsys.readouterr().out


def test_subjects_that_differ_are_not_recorded() -> None:
    class Fake:
        def __init__(self, loss: float) -> None:
            self.loss = loss

        def run(self, task: str) -> dict[str, float]:
            return {"seconds": 1.0, "seconds_before": 0.1, "loss": self.loss}

    subjects: dict[str, Any] = {"ours": Fake(0.5), "by hand": Fake(0.51)}
    with pytest.raises(AssertionError, match="end with one loss"):
        peers.measure_task("classes, small", subjects, 2)
    subjects["ours"].loss = 0.5100001
    assert peers.measure_task("classes, small", subjects, 2)["ours_over"] == {
        "by hand": {"median": 1.0, "low": 1.0, "high": 1.0}
    }


def test_a_subject_that_fails_is_heard() -> None:
    worker = peers.Worker(sys.executable, "no_such_module")
    with pytest.raises(RuntimeError, match=r"(?s)'DIST' by no_such_module ended early.*No module named"):
        worker.run("DIST")
    worker.close()
