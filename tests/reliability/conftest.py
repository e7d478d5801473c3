"""What the whole reliability suite shares: the counter of faults."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.reliability.faults import Faults


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """Counts each fault that a test injects, under the test file's name; `make reliability` makes a table of them.

    `with faults.inject("kill -9 in a search"):` around the fault and what must hold after it, or
    `faults.survived("kill -9 in a search", times=20)` after both.
    """
    folder = os.environ.get("TUTELAGE_FAULTS")
    return Faults(request.path.stem.removeprefix("test_"), Path(folder) if folder else None)
