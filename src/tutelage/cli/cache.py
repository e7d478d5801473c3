"""`tutelage cache`."""

from __future__ import annotations


def cache() -> None:
    """Not there yet."""
    raise ValueError("`tutelage cache` is not there yet.")
