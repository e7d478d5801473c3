"""What the docs and the README show runs: Python after `<!-- runs -->`, YAML after `<!-- config -->`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"<!-- (runs|config)(?:: ([\w.]+))? -->\n+```(\w+)[^\n]*\n(.*?)```", re.DOTALL)


def samples(page: Path) -> list[tuple[str, str, str, int]]:
    """(mark, name, code, line) for every marked block of a page."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        assert match[3] == {"runs": "python", "config": "yaml"}[match[1]], f"{page.name}: {match[1]} before {match[3]}"
        found.append((match[1], match[2] or "", match[4], text[: match.start(4)].count("\n")))
    return found


def pages_with(mark: str) -> list[Any]:
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in PAGES
        if any(sample[0] == mark for sample in samples(page))
    ]


@pytest.mark.parametrize("page", pages_with("runs"))
def test_python_samples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run in order, in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for mark, _, code, line in samples(page):
        if mark == "runs":
            exec(compile("\n" * line + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", pages_with("config"))
def test_config_samples_are_valid(page: Path, tmp_path: Path) -> None:
    from tutelage.config import DistillConfig, parse_config, read_config

    for number, (mark, _, code, _line) in enumerate(samples(page)):
        if mark == "config":
            path = tmp_path / f"{number}.yaml"
            path.write_text(code)
            parse_config(read_config(path), DistillConfig)


def test_commands_in_the_docs_exist() -> None:
    """Every `tutelage COMMAND` in a shell block is a command of the program."""
    import typer

    from tutelage.cli import app

    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    used = {}
    for page in PAGES:
        for block in re.findall(r"```(?:bash|shell|console)\n(.*?)```", page.read_text(), re.DOTALL):
            used |= dict.fromkeys(re.findall(r"^(?:\$ )?tutelage ([a-z]+)", block, re.MULTILINE), page.name)
    assert used, "no shell block shows a command"
    unknown = {name: page for name, page in used.items() if name not in commands}
    assert not unknown
