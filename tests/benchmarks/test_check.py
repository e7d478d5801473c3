"""The gate on ratios: its rule on synthetic records, and what it says and returns."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.check import check, compare, run
from benchmarks.records import RATIOS, Ratio, find, read_record

MACHINE = {"processor": "a", "cores": 2, "accelerator": None, "system": "Linux", "python": "3.11", "torch": "2.13"}


def spread(median: float, *, width: float = 0.01) -> dict[str, float]:
    return {"median": median, "low": median * (1 - width), "high": median * (1 + width)}


@pytest.fixture(autouse=True)
def two_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    """One benchmark: a ratio of ours over a peer's, and one the other way round."""
    rows = [
        Ratio("a", "b", "fast"),
        Ratio("c", "d", "rows/n=2/times", inverted=True),
        Ratio("e", "f", "g", gated=False),
    ]
    monkeypatch.setattr("benchmarks.check.RATIOS", {"demo": ("Demo", rows)})


def figures(fast: float = 1.0, times: float = 4.0, **more: Any) -> dict[str, Any]:
    return {"fast": spread(fast), "rows": [{"n": 1, "times": spread(9)}, {"n": 2, "times": spread(times)}], **more}


def verdicts(now: Mapping[str, Any], then: Mapping[str, Any] | None = None) -> list[str]:
    return [row.verdict for row in compare("demo", figures() if then is None else then, now)]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (figures(), ["ok", "ok"]),
        (figures(fast=1.14), ["ok", "ok"]),
        (figures(fast=1.16), ["worse", "ok"]),
        (figures(times=3.0), ["ok", "worse"]),  # the peer takes 3 times as long as ours, no longer 4 times
        (figures(fast=0.8, times=5.0), ["better", "better"]),
        ({"fast": spread(1.3, width=0.3)} | {"rows": figures()["rows"]}, ["ok", "ok"]),  # the quartiles overlap
        ({"fast": spread(1.0)}, ["ok", "not measured"]),
    ],
)
def test_verdict(now: Mapping[str, Any], expected: list[str]) -> None:
    assert verdicts(now) == expected


def test_ratio_without_a_record() -> None:
    assert verdicts(figures(), {"fast": spread(1.0)}) == ["ok", "no record"]


def test_worse_counts_only_when_it_is_worse_every_time() -> None:
    runs = iter([figures(fast=1.5), figures(fast=1.4, times=1.0), figures(fast=1.0)])
    rows = check("demo", figures(), lambda name: next(runs))
    assert [row.verdict for row in rows] == ["ok", "ok"]  # what was well the first time is not judged again
    assert next(runs, None) is None
    asked = []
    rows = check("demo", figures(), lambda name: asked.append(name) or figures(fast=1.5))
    assert [row.verdict for row in rows] == ["worse", "ok"]
    assert len(asked) == 3


def gate(now: Mapping[str, Any], folder: Path, *, machine: Mapping[str, Any] = MACHINE, strict: bool = False) -> int:
    return run(["demo"], lambda name: now, machine, strict=strict, folder=folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "demo.json").write_text(json.dumps({"machine": MACHINE, **figures()}))
    return tmp_path


def test_gate_passes_and_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(figures(), folder) == 0
    assert "Nothing has become slower" in capsys.readouterr().out
    assert gate(figures(fast=1.5), folder) == 1
    said = capsys.readouterr().out
    assert "+50%" in said
    assert "Failed: a / b (demo)." in said


def test_gate_fails_without_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(figures(), tmp_path) == 1
    assert "record it: python -m benchmarks.demo" in capsys.readouterr().out


def test_gate_excuses_another_machine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {**MACHINE, "cores": 64}
    assert gate(figures(fast=1.5), folder, machine=other) == 0
    said = capsys.readouterr().out
    assert "another machine (cores: 2 then, 64 now)" in said
    assert "Worse, but on another machine than recorded: a / b (demo)" in said
    assert gate(figures(fast=1.5), folder, machine=other, strict=True) == 1


def test_gate_does_not_excuse_other_versions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(figures(fast=1.5), folder, machine={**MACHINE, "torch": "2.14"}) == 1
    assert "other versions (torch: 2.13 then, 2.14 now)" in capsys.readouterr().out


def test_gate_goes_on_after_a_benchmark_that_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(name: str) -> Mapping[str, Any]:
        raise subprocess.CalledProcessError(1, name)

    assert run(["demo"], fails, MACHINE, strict=False, folder=folder) == 1
    assert "Failed: demo." in capsys.readouterr().out


@pytest.mark.parametrize("benchmark", list(RATIOS))
def test_every_ratio_is_in_the_records(benchmark: str) -> None:
    record = read_record(benchmark)
    assert record is not None
    skipped = record.get("skipped", {})
    missing = [
        str(ratio) for ratio in RATIOS[benchmark][1] if find(record, ratio) is None and ratio.peer not in skipped
    ]
    assert not missing
