"""Folders for results: a new or an empty one, so that nothing is overwritten."""

from __future__ import annotations

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
