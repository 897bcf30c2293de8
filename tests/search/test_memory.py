"""Memory that a search no longer uses."""

from __future__ import annotations

import platform
import resource
import sys
from pathlib import Path

import pytest

from evolve.search.controller import return_free_memory

PIECE = 100_000
"""Bytes: too many for Python's own arenas, too few for a mapping of their own."""


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="other C libraries have no malloc_trim"
)
def test_holes_between_what_is_still_used_go_back_to_the_system() -> None:
    pieces = [b"x" * PIECE for _ in range(400)]
    kept = pieces[::2]
    del pieces
    before = resident_bytes()
    return_free_memory()
    assert before - resident_bytes() > 100 * PIECE
    assert all(piece == b"x" * PIECE for piece in kept)
