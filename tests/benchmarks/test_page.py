"""The docs' page of benchmarks: tables and drawings from records, and from none."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import page
from benchmarks.records import RATIOS

MACHINE = {
    "processor": "a chip", "cores": 2, "threads": 1, "load": 0.5, "accelerator": None, "system": "Linux", "python": "3",
    "torch": "2",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    head = {"measured": "2026-01-02T03:04:05+00:00", "machine": MACHINE}
    ratio = {"median": 0.9, "low": 0.8, "high": 1.1}
    peers = {"skipped": {"TRL": "not here"}, "tasks": {"DIST": {"ours_over": {"torchdistill": ratio}}}}
    slope = {"exponent": 1.5, "error": 0.01, "expected": 1.0, "holds": False}
    path = {"axis": "batch", "sizes": [1, 2, 4], "seconds": [1, 3, 8], "time": slope}
    (tmp_path / "peers.json").write_text(json.dumps({**head, **peers}))
    (tmp_path / "growth.json").write_text(json.dumps({**head, "paths": {"a loss, batch": path}}))
    return tmp_path


def test_ratio_tables(folder: Path) -> None:
    text = page.ratio_tables(folder)
    assert "| dist_distillation | torchdistill | **0.9** | 0.8 to 1.1 | yes |" in text
    assert "TRL was skipped: not here." in text
    assert "2026-01-02, 2 cores of a chip, one thread, load 0.5" in text


def test_growth_table_names_a_miss(folder: Path) -> None:
    assert "| a loss | batch 1 to 4 | 1.50 ± 0.01 **missed** | 1 | – | – |" in page.growth_table(folder)


def test_drawings_are_whole_and_the_same_every_time(folder: Path) -> None:
    for draw in (page.growth_plot, page.ratio_plot):
        drawn = draw(folder)
        assert ElementTree.fromstring(drawn).tag.endswith("svg")
        assert drawn == draw(folder)
    assert "dist_distillation / torchdistill" in page.ratio_plot(folder)


def test_nothing_recorded(tmp_path: Path) -> None:
    assert page.ratio_tables(tmp_path) == ""
    assert "Nothing is recorded" in page.growth_table(tmp_path)
    assert ElementTree.fromstring(page.growth_plot(tmp_path)).tag.endswith("svg")
    assert ElementTree.fromstring(page.ratio_plot(tmp_path)).tag.endswith("svg")


def test_page_shows_every_hot_path_of_the_project() -> None:
    text = page.ratio_tables()
    for title, _ in RATIOS.values():
        assert f"### {title}" in text
