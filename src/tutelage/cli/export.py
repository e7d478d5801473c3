"""`tutelage export`."""

from __future__ import annotations


def export() -> None:
    """Not there yet."""
    raise ValueError("`tutelage export` is not there yet.")
