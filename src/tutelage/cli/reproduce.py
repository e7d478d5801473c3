"""`tutelage reproduce`."""

from __future__ import annotations


def reproduce() -> None:
    """Not there yet."""
    raise ValueError("`tutelage reproduce` is not there yet.")
