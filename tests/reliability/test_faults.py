"""The counter itself: a fault is counted once, by its outcome, and over processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.faults import Faults, collate


def test_survived_and_lost_are_summed_by_area_and_fault(tmp_path: Path) -> None:
    first, second = Faults("processes", tmp_path), Faults("files", tmp_path)
    first.survived("kill -9", times=3)
    with first.inject("kill -9"):
        pass
    with pytest.raises(AssertionError, match="gone"), first.inject("kill -9", times=2):
        raise AssertionError("gone")
    second.lost("a cut")
    (tmp_path / "another process.jsonl").write_text(next(tmp_path.glob("*.jsonl")).read_text())

    assert collate(tmp_path) == [
        {"area": "files", "fault": "a cut", "injected": 2, "survived": 0, "lost": 2},
        {"area": "processes", "fault": "kill -9", "injected": 12, "survived": 8, "lost": 4},
    ]


def test_without_a_folder_nothing_is_counted() -> None:
    Faults("files", None).survived("a cut")
