"""Every file that the toolkit reads, cut off, altered or replaced: a clear error, or what the file still says."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reliability.children import ROOT
from tests.reliability.faults import Faults
from tests.reliability.readers import Reader, damaged, readers

READERS = readers()
OTHERS = (
    b"",
    b"\0" * 64,
    b"[]",
    b"{}",
    b"null",
    b'{"a": [1, 2]}',
    b"- a\n- b\n",
    b"\x80\x04N.",
    b"\xff\xfe\x00",
    b"PK\x03\x04",
)


def damage(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """A way of damage and what comes of it: a cut, flipped bits, a piece twice, or something else altogether."""
    kind = draw.choice(["cut off", "flipped bits", "flipped bits", "a piece twice", "replaced"])
    if kind == "cut off":
        return kind, content[: draw.randrange(max(1, len(content)))]
    if kind == "flipped bits":
        altered = bytearray(content)
        for _ in range(draw.choice([1, 1, 2, 8])):
            place = draw.randrange(len(altered))
            place = min(place, draw.randrange(len(altered)))  # rather in the front, where headers are
            altered[place] ^= 1 << draw.randrange(8)
        return kind, bytes(altered)
    if kind == "a piece twice":
        start, stop = sorted(draw.randrange(len(content) + 1) for _ in range(2))
        return kind, content[:stop] + content[start:]
    return kind, draw.choice(OTHERS)


def check(reader: Reader, folder: Path, good: object, what: str) -> None:
    """Reading gives what was there, something of the same form, or one line that names the file."""
    try:
        found = reader.read(folder)
    except (ValueError, OSError) as error:
        text = str(error)
        assert "\n" not in text, f"{what}: more than one line: {text}"
        assert len(text) < 2000, f"{what}: too long: {text[:300]}"
        named = str(folder) in text or text.startswith("Config")  # of a config, the key is named
        assert named, f"{what}: {text} does not name the file"
        return
    assert type(found) is type(good), what
    assert not reader.sealed or found == good, f"{what}: not noticed"


def run(reader: Reader, folder: Path, faults: Faults, count: int) -> None:
    reader.make(folder)
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size}
    good = reader.read(folder)

    @settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=HealthCheck)
    @given(path=st.sampled_from(list(files)), draw=st.randoms(use_true_random=True))
    def one(path: Path, draw: random.Random) -> None:
        kind, content = damage(files[path], draw)
        with damaged(files, path, content), faults.inject(f"{reader.name}: {kind}"):
            check(reader, folder, good, f"{path.name}, {kind}")

    one()
    assert reader.read(folder) == good


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if not reader.slow])
def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, faults: Faults, name: str) -> None:
    run(READERS[name], tmp_path, faults, 10)


@pytest.mark.reliability
@pytest.mark.parametrize("name", READERS)
def test_a_file_damaged_in_many_ways_is_told_in_one_line(tmp_path: Path, faults: Faults, name: str) -> None:
    run(READERS[name], tmp_path, faults, 60 if READERS[name].slow else 400)


@pytest.mark.reliability
@pytest.mark.parametrize("what", ["config", "teacher cache"])
def test_fuzzed_by_coverage_it_is_told_in_one_line(faults: Faults, what: str) -> None:
    pytest.importorskip("atheris", reason="Coverage-guided fuzzing needs Atheris: pip install atheris")
    command = [sys.executable, "-m", "tests.reliability.fuzz", what, "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"Done (\d+) runs", done.stderr)
    assert found is not None, done.stderr[-3000:]
    faults.survived(f"{what}: fuzzed by coverage", int(found[1]))
