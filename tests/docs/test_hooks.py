"""What mkdocs generates: small forms, and that pages ask only for what there is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("mkdocs", reason="the docs extra is not installed")
pytest.importorskip("griffe", reason="the docs extra is not installed")

DOCS = Path(__file__).parents[2] / "docs"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return load("hooks")


@pytest.fixture(scope="module")
def doctest_blocks() -> ModuleType:
    return load("doctest_blocks")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Adds.\n\n>>> 1 + 1\n2\n\nMore.", "Adds.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nMore."),
        (">>> 1\n1", "```pycon\n>>> 1\n1\n```"),
        ("No doctest.", "No doctest."),
        ("A:\n    >>> [1]\n    [1]\n\nB", "A:\n    ```pycon\n    >>> [1]\n    [1]\n    ```\n\nB"),
    ],
)
def test_doctests_become_code(doctest_blocks: ModuleType, text: str, expected: str) -> None:
    assert doctest_blocks.fence_doctests(text) == expected


def test_table_escapes_what_would_break_it(hooks: ModuleType) -> None:
    assert hooks.table(["a", "b"], [["x | y", "two\nlines"]]) == "| a | b |\n| --- | --- |\n| x \\| y | two lines |"


def test_brackets_become_links_in_code_only(hooks: ModuleType) -> None:
    assert hooks.code_spans("a [b] and `[batch]`") == "a \\[b] and `[batch]`"


def test_figures_are_short(hooks: ModuleType) -> None:
    assert hooks.number(0.123456) == "0.1235"
    assert hooks.number(None) == ""
    assert hooks.spread([0.5]) == "0.5"
    assert hooks.spread([0.4, 0.6]) == "0.5 ± 0.14"
    assert hooks.spread([]) == ""


def test_every_registered_objective_is_in_the_table(hooks: ModuleType) -> None:
    from tutelage.objectives import registered_objectives

    table = hooks.objectives_table()
    missing = [name for name in registered_objectives() if f"`{name}`" not in table]
    assert not missing


def test_every_system_is_in_the_table(hooks: ModuleType) -> None:
    assert len(hooks.systems_table().splitlines()) == 57 + 2


def test_every_command_is_in_the_reference(hooks: ModuleType) -> None:
    reference = hooks.command_reference()
    for name in ("distill", "cache", "assess", "calibrate", "export", "systems", "reproduce"):
        assert f"## `tutelage {name}`" in reference


def test_every_room_has_a_page(hooks: ModuleType) -> None:
    from tutelage import _ROOMS

    assert {f"tutelage.{room}" for room in _ROOMS} <= set(hooks.ROOMS)


def test_pages_ask_only_for_parts_that_exist(hooks: ModuleType) -> None:
    source = (DOCS / "hooks.py").read_text()
    for page in DOCS.rglob("*.md"):
        for name in hooks.MARKER.findall(page.read_text()):
            assert f'"{name}":' in source, f"{page.name} asks for {name}"


def test_pages_load_nothing_from_elsewhere() -> None:
    for page in DOCS.rglob("*.md"):
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(script|link|iframe)\b", page.read_text()), page.name


def test_demo_output_replaces_what_stood_between_the_marks() -> None:
    refresh = load("refresh_demo")
    page = f"a\n{refresh.BEGIN}\nold\n{refresh.END}\nz\n"
    once = refresh.with_output(page, "new")
    assert once == f"a\n{refresh.BEGIN}\n\n```text\nnew\n```\n\n{refresh.END}\nz\n"
    assert refresh.with_output(once, "new") == once
    with pytest.raises(ValueError, match="demo output: end"):
        refresh.with_output("nothing", "new")


def test_readme_has_the_marks_for_the_demo() -> None:
    refresh = load("refresh_demo")
    readme = (DOCS.parent / "README.md").read_text()
    assert readme.count(refresh.BEGIN) == readme.count(refresh.END) == 1
