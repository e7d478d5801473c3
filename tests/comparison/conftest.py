"""A small comparison on irises, and a runner that stays in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tutelage.comparison import ComparisonConfig, tournament
from tutelage.comparison.engine import TrialRunner
from tutelage.comparison.trial import run_candidate
from tutelage.config import parse_config
from tutelage.reproduction.recipe import Context
from tutelage.reproduction.trial import Outcome, Trial, run_trial

SMALL: dict[str, Any] = {
    "name": "small",
    "data": "iris",
    "teacher": {"name": "mlp", "arguments": {"hidden": [16]}, "train": {"epochs": 15, "learning_rate": 0.02}},
    "student": {"name": "mlp", "arguments": {"hidden": [4]}},
    "training": {"epochs": 6, "learning_rate": 0.02, "batch_size": 16},
    "methods": {"include": ["pld", "focal_loss"]},
    "finalists": 1,
    "seeds": 2,
    "jobs": 1,
    "budget": 600,
}


@pytest.fixture(scope="session")
def small() -> Callable[..., ComparisonConfig]:
    def make(**changes: object) -> ComparisonConfig:
        return parse_config({**SMALL, **changes}, ComparisonConfig)

    return make


class InlineRunner(TrialRunner):
    """Runs trials here, one after the other, and remembers them."""

    ran: list[tuple[str, int]] = []  # noqa: RUF012 - emptied by the fixture

    def run(self, context: Context, trials: Sequence[Trial]) -> Iterator[Outcome]:
        for trial in trials:
            self.ran.append((trial.arm.name, trial.seed))
            yield run_trial(run_candidate, context, trial)


@pytest.fixture(scope="session")
def inline_runner() -> type[TrialRunner]:
    return InlineRunner


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    monkeypatch.setattr(tournament, "TrialRunner", InlineRunner)
    InlineRunner.ran.clear()
    return InlineRunner.ran


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Write a module of the user's own, and give its name."""

    def write(name: str, text: str) -> str:
        folder = tmp_path / "modules"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", str(folder))
        sys.modules.pop(name, None)
        return name

    return write


@pytest.fixture
def unmeasured() -> Callable[[Path], dict[str, Any]]:
    """What `comparison.json` holds, without what is measured by a clock or of the machine's memory."""

    def read(folder: Path) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((folder / "comparison.json").read_text())
        for row in result["rows"]:
            for name in ("step_seconds", "cost", "memory_mb"):
                row.pop(name, None)
        return result

    return read
