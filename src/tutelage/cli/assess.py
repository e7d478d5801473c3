"""`tutelage assess`."""

from __future__ import annotations


def assess() -> None:
    """Not there yet."""
    raise ValueError("`tutelage assess` is not there yet.")
