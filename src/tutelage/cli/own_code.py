"""Code of the user's own, which a config names as `module:attribute`."""

from __future__ import annotations

import sys
from pathlib import Path


def import_from_here() -> None:
    """Let modules in the current folder be named, after all that is installed; for commands that carry out a config."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
