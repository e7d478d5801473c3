"""What a process does with memory that it no longer needs; imports nothing but the standard library."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back, where glibc is (elsewhere nothing happens).

    Otherwise every large tensor is handed out as fresh pages, which the system clears one by one, or not, by what the
    calls before it left. On losses of 16 MB tensors that made ratios of one subject differ threefold between turns.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(_MMAP_THRESHOLD, 2**30)
            library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
