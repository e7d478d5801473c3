"""Files made to do harm: no code of theirs runs, memory and time stay bounded, and one line says what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.reliability.attacks import ATTACKS, LONG, REASONS
from tests.reliability.children import Children
from tests.reliability.faults import Faults

SHORT = ("npy", "JSON", "YAML", "model", "checkpoint")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name.startswith(SHORT) and name not in LONG else pytest.mark.reliability)
        for name in ATTACKS
    ],
)
def test_a_file_that_was_made_to_harm_does_none(children: Children, faults: Faults, tmp_path: Path, name: str) -> None:
    reader, write = ATTACKS[name]
    folder, canary, log = tmp_path / "given", tmp_path / "canary", tmp_path / "child.log"
    folder.mkdir()
    write(folder, canary)
    before = sorted(tmp_path.rglob("*"))
    with faults.inject(name):
        status = children.wait(children.start("tests.reliability.limited:read", reader, folder, log=log))
        said = log.read_text()
        assert not canary.exists(), "the file ran code"
        assert sorted(path for path in tmp_path.rglob("*") if path.stem != "child") == before, "something was written"
        assert status == 3, said[-3000:]
        assert len(said) < 2000, said[:2000]
        assert len(said.splitlines()) == 1, said
        assert str(folder) in said or said.startswith("Config"), said
        reason = next((text for start, text in REASONS.items() if name.startswith(start)), "")
        assert re.search(reason, said), said
