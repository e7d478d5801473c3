"""`tutelage distill`."""

from __future__ import annotations


def distill() -> None:
    """Not there yet."""
    raise ValueError("`tutelage distill` is not there yet.")
