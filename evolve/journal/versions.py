"""Versions that decide what a search does, as its journal keeps them."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("openevolve", "numpy")
"""Both draw and sum: another version may sample other parents or fit other numbers."""


def versions() -> dict[str, str]:
    """Version of the interpreter and of each library, by name."""
    found = {platform.python_implementation(): platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def versions_text() -> str:
    """`versions` as the journal holds them."""
    return json.dumps(versions())


def other_versions(kept: str) -> list[str]:
    """What differs from the versions that a journal names, in words; patch releases of Python do not count.

    Raises:
        ValueError: not what `versions_text` wrote.
    """
    if not kept:
        return []
    now, found = versions(), []
    for name, was in json.loads(kept).items():
        here = now.get(name, "none")
        same = was.split(".")[:2] == here.split(".")[:2] if name not in LIBRARIES else was == here
        if not same:
            found.append(f"{name} {was}, not {here}")
    return found
