"""Memory: what a long search no longer uses goes back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    """Glibc's malloc_trim; None with another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None


def give_back() -> None:
    """Return free pages of the heap, where the C library can.

    Every parsed program adds names to CPython's table of interned strings and takes them away again, so that the
    interpreter builds the table anew from time to time: some MiB, which glibc keeps with the holes of everything else
    that came and went. See results/soak.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
