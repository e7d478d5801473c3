"""The gate: the recorded ratios measured again, in a short form of each benchmark; `make bench-check`.

A ratio has become worse when its median is more than 15 % above the recorded one *and* the quartiles lie apart: its
lower quartile above the recorded upper one. What has become worse is measured up to twice again, and counts only when
it is worse every time. Ratios are of two subjects that took turns in one process, so that a slow machine slows both,
but how much memory, caches and threads matter differs among machines: where the processor, the cores or the system are
not those of the record, a worse ratio is shown and does not fail the gate (`--strict`: it does).

Exit status: 0 when nothing is worse, 1 when a ratio is, or a gated ratio has no record, or a benchmark fails. A peer
that is not installed is skipped.

Run `python -m benchmarks.check [NAME …]`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records import RATIOS, Ratio, Spread, find, read_record

MOST, REPEATS = 1.15, 2
HARDWARE = ("processor", "cores", "accelerator", "system")
VERSIONS = ("python", "torch")

Measure = Callable[[str], Mapping[str, Any]]
"""From the name of a benchmark to what it measures now."""


@dataclass(frozen=True)
class Row:
    """One gated ratio, then and now."""

    benchmark: str
    ratio: Ratio
    recorded: Spread | None
    now: Spread | None

    @property
    def verdict(self) -> str:
        """`ok`, `better`, `worse`, `not measured` or `no record`."""
        if self.recorded is None:
            return "no record"
        if self.now is None:
            return "not measured"
        if self.now.median > MOST * self.recorded.median and self.now.low > self.recorded.high:
            return "worse"
        better = self.recorded.median > MOST * self.now.median and self.recorded.low > self.now.high
        return "better" if better else "ok"

    def __str__(self) -> str:
        change = f"{self.now.median / self.recorded.median - 1:+.0%}" if self.now and self.recorded else ""
        cells = (f"{self.ratio}", str(self.recorded or "–"), str(self.now or "–"), change, self.verdict)
        return f"  {cells[0]:<86}{cells[1]:>24}{cells[2]:>24}{cells[3]:>7}  {cells[4]}"


def compare(benchmark: str, record: Mapping[str, Any] | None, measured: Mapping[str, Any]) -> list[Row]:
    """Every gated ratio of a benchmark, then and now."""
    gated = [ratio for ratio in RATIOS[benchmark][1] if ratio.gated]
    return [Row(benchmark, ratio, find(record, ratio), find(measured, ratio)) for ratio in gated]


def check(benchmark: str, record: Mapping[str, Any] | None, measure: Measure) -> list[Row]:
    """Compare a benchmark with its record; what is worse is measured again, and the best of its measurements stays."""
    rows = compare(benchmark, record, measure(benchmark))
    for _ in range(REPEATS):
        if not any(row.verdict == "worse" for row in rows):
            break
        again = compare(benchmark, record, measure(benchmark))
        rows = [new if old.verdict == "worse" and new.now else old for old, new in zip(rows, again, strict=True)]
    return rows


def differences(then: Mapping[str, Any], now: Mapping[str, Any], what: Sequence[str]) -> list[str]:
    """In what two machines differ."""
    return [f"{key}: {then.get(key)} then, {now.get(key)} now" for key in what if then.get(key) != now.get(key)]


def explain(record: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Whether the record is of this machine, and what a reader of the table should know."""
    then = record["machine"]
    hardware, versions = differences(then, now, HARDWARE), differences(then, now, VERSIONS)
    lines = []
    if hardware:
        lines.append(f"Recorded on another machine ({'; '.join(hardware)}): what is worse may be the machine's doing.")
    if versions:
        lines.append(f"Recorded with other versions ({'; '.join(versions)}), which may be why something changed.")
    return not hardware, lines


def measure_now(benchmark: str) -> dict[str, Any]:
    """A short run of a benchmark, in a process of its own that it can set up as it needs.

    Raises:
        subprocess.CalledProcessError: It failed; what it said is on standard error.
    """
    code = (
        "import importlib, json, sys; module = importlib.import_module(f'benchmarks.{sys.argv[1]}');"
        " print(json.dumps(module.measure(quick=True)))"
    )
    command = [sys.executable, "-c", code, benchmark]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=root)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for name, reason in measured.get("skipped", {}).items():
        print(f"  {name} is skipped: {reason}.")
    return measured


def run(names: Sequence[str], measure: Measure, now: Mapping[str, Any], *, strict: bool, folder: Path | None) -> int:
    """Check benchmarks, print a table for each, and give the exit status."""
    failed: list[str] = []
    excused: list[str] = []
    for benchmark in names:
        record = read_record(benchmark) if folder is None else read_record(benchmark, folder)
        started = time.monotonic()
        print(f"\n{RATIOS[benchmark][0]} ({benchmark})", flush=True)
        same, remarks = (True, []) if record is None else explain(record, now)
        for remark in remarks:
            print(f"  {remark}")
        try:
            rows = check(benchmark, record, measure)
        except subprocess.CalledProcessError:
            print("  The benchmark failed.")
            failed.append(benchmark)
            continue
        for row in rows:
            print(row)
            if row.verdict == "no record":
                failed.append(f"{row.ratio} ({benchmark}; record it: python -m benchmarks.{benchmark})")
            elif row.verdict == "worse":
                (failed if same or strict else excused).append(f"{row.ratio} ({benchmark})")
        print(f"  {time.monotonic() - started:.0f} s", flush=True)
    if excused:
        print(f"\nWorse, but on another machine than recorded: {'; '.join(excused)}.")
    print(f"\nFailed: {'; '.join(failed)}." if failed else "\nNothing has become slower than recorded.")
    return 1 if failed else 0


def main() -> None:
    """Check the named benchmarks, or all."""
    parser = argparse.ArgumentParser(description="Compare ratios of times with those recorded.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(RATIOS)}")
    parser.add_argument("--strict", action="store_true", help="fail on a worse ratio on another machine, too")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in RATIOS]:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(RATIOS)}")
    from benchmarks.harness import machine  # imports PyTorch

    os.chdir(Path(__file__).parents[1])
    print("Ratios of times, ours / peer: median [quartiles], recorded and now.")
    sys.exit(run(arguments.names or list(RATIOS), measure_now, machine(), strict=arguments.strict, folder=None))


if __name__ == "__main__":
    main()
