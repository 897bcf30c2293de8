"""Versions of libraries that affect a search, as stored in its journal."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("openevolve", "numpy")
"""Libraries that draw random numbers or sum: another version may sample other parents or fit other constants."""


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
    """Serialise `versions` for the journal."""
    return json.dumps(versions())


def other_versions(kept: str) -> list[str]:
    """Differences to the versions in a journal, as text; patch releases of Python do not count.

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
