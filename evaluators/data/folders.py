"""Folders for results: a new or an empty one, so that nothing is overwritten."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from evaluators.data.errors import UserError

NAMED = 3
"""Names that a refusal lists of what a folder holds."""


def require_new_folder(folder: Path, *, or_else: str = "") -> None:
    """Check that a folder is new or empty, and could be made.

    Args:
        folder: the folder to write to.
        or_else: what else the user may do, for the hint.

    Raises:
        UserError: it holds something, or it or a folder above it is something else than a folder.
    """
    found = _found(folder)
    if found:
        hint = "name another folder, or move this one away; nothing is overwritten"
        raise UserError(
            f"{folder}: expected a new or empty folder, found {found}", hint=f"{hint}; {or_else}" if or_else else hint
        )


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Write a new or empty folder whole or not at all.

    Args:
        folder: the folder to write; folders above it are made.

    Yields:
        The folder to write to meanwhile, beside it or, if it exists, in it; an error or Ctrl-C removes that.

    Raises:
        UserError: it is neither new nor empty.
    """
    require_new_folder(folder)
    there = folder.exists()
    if not there:
        folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder if there else folder.parent, prefix=".writing-") as name:
        made = Path(name) / "whole"  # the temporary folder itself is closed to others
        made.mkdir()
        yield made
        if not there:
            made.rename(folder)
            return
        for path in made.iterdir():
            path.rename(folder / path.name)


def _found(folder: Path) -> str:
    """What is in the way; empty if nothing is."""
    if folder.is_dir():
        names = sorted(p.name for p in folder.iterdir())
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"{', '.join(names[:NAMED])}{more} in it" if names else ""
    if folder.is_symlink() and not folder.exists():
        return "a link to nothing"
    if folder.exists():
        return "a file"
    above = next((p for p in folder.absolute().parents if p.exists()), None)
    return f"{above} above it, a file" if above is not None and not above.is_dir() else ""
