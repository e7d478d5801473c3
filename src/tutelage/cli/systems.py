"""`tutelage systems`."""

from __future__ import annotations


def systems() -> None:
    """Not there yet."""
    raise ValueError("`tutelage systems` is not there yet.")
