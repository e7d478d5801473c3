"""Where recorded results are: `reproductions/SLUG.SCALE.json`, written by `tutelage reproduce --record` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tutelage.files import read_json, write_json


def checkout() -> Path | None:
    """The source checkout that this package is run from, or `None` when it is an installed copy."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "pyproject.toml").exists() and (root / "reproductions").is_dir() else None


def recorded_folder() -> Path:
    """The folder of recorded results: the checkout's `reproductions/`, or the copy that the wheel carries."""
    root = checkout()
    return Path(__file__).parent / "recorded" if root is None else root / "reproductions"


def recorded_path(slug: str, scale: str) -> Path:
    """The file of one recorded result, whether or not it is there.

    >>> recorded_path("pld", "quick").name
    'pld.quick.json'
    """
    return recorded_folder() / f"{slug}.{scale}.json"


def recorded_result(slug: str, scale: str) -> dict[str, Any] | None:
    """One recorded result, or `None` when there is none.

    Raises:
        ValueError: The file is damaged.
    """
    path = recorded_path(slug, scale)
    if not path.exists():
        return None
    result = read_json(path)
    if not isinstance(result, dict) or not {"slug", "scale", "arms", "claims"} <= result.keys():
        raise ValueError(f"Expected {path} to be a recorded result, but it lacks slug, scale, arms or claims.")
    return result


def check_recordable(breakage: str | None) -> Path:
    """The checkout's folder of results; called before a long run rather than after it.

    Raises:
        ValueError: The method is broken on purpose, or the package is not run from a checkout.
    """
    if breakage is not None:
        raise ValueError("A result of a method that is broken on purpose is not recorded.")
    root = checkout()
    if root is None:
        raise ValueError(
            "Results are recorded in a checkout of the source, but this is an installed package; use `--json`."
        )
    return root / "reproductions"


def record(result: dict[str, Any]) -> Path:
    """Write a result to the checkout's `reproductions/`, atomically.

    Raises:
        ValueError: See `check_recordable`.
    """
    path = check_recordable(result.get("breakage")) / f"{result['slug']}.{result['scale']}.json"
    write_json(path, result)
    return path
