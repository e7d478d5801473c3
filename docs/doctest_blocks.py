"""A griffe extension: doctests that stand alone in a docstring are shown as code, without an `Examples:` heading."""

from __future__ import annotations

import re
from typing import Any

import griffe


def fence_doctests(text: str) -> str:
    """Put every run of `>>>` lines and their output between code fences; an empty line ends a run."""
    lines: list[str] = []
    indent: str | None = None
    for line in text.split("\n"):
        if indent is None and (start := re.match(r"( *)>>> ", line)):
            indent = start[1]
            lines.append(f"{indent}```pycon")
        elif indent is not None and not line.strip():
            lines.append(f"{indent}```")
            indent = None
        lines.append(line)
    if indent is not None:
        lines.append(f"{indent}```")
    return "\n".join(lines)


class DoctestBlocks(griffe.Extension):
    """Fences the doctests of every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring as it is read."""
        if obj.docstring is not None:
            obj.docstring.value = fence_doctests(obj.docstring.value)
