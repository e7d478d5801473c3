"""What the whole reliability suite shares: the counter of faults, and children to kill."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.children import Children
from tests.reliability.faults import Faults

collect_ignore = ["fuzz.py"]  # a script, which needs a package that only the long part asks for


@pytest.fixture(scope="session")
def children() -> Iterator[Children]:
    """Starts real processes quickly, to be killed or given little."""
    with Children() as started:
        yield started


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """Counts each fault that a test injects, under the test file's name; `make reliability` makes a table of them.

    `with faults.inject("kill -9 in a search"):` around the fault and what must hold after it, or
    `faults.survived("kill -9 in a search", times=20)` after both.
    """
    folder = os.environ.get("TUTELAGE_FAULTS")
    return Faults(request.path.stem.removeprefix("test_"), Path(folder) if folder else None)
