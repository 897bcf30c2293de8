"""Files that ship with evosplit: configurations, seeds, the quickstart's recorded table."""

from __future__ import annotations

from pathlib import Path

from evolve.errors import UserError

PACKAGE = Path(__file__).resolve().parent
WHEEL_ASSETS = PACKAGE / "_assets"
"""Exists in an installed wheel only; a checkout has the folders themselves beside the package."""


def shipped_root() -> Path:
    """The folder that holds configs/, seeds/ and results/: of the installed wheel, or of the checkout."""
    return WHEEL_ASSETS if WHEEL_ASSETS.is_dir() else PACKAGE.parent


def asset(path: str | Path) -> Path:
    """Find a file or folder: as given (from the current folder), else among those that ship.

    Raises:
        UserError: neither place has it.
    """
    given = Path(path).expanduser()
    if given.exists():
        return given
    shipped = shipped_root() / given
    if not given.is_absolute() and ".." not in given.parts and shipped.exists():
        return shipped
    raise UserError(f"{path} does not exist", hint=_nearby(given))


def _nearby(given: Path) -> str:
    """What there is instead, where the parent folder exists in one of the two places."""
    for folder in (given.parent, shipped_root() / given.parent):
        if given.name and folder.is_dir() and folder not in (Path(), shipped_root()):
            names = sorted(p.name for p in folder.iterdir() if not p.name.startswith(("_", ".")))
            if names:
                return f"{given.parent} holds {', '.join(names[:12])}"
    if given.parts[:2] == ("results", "tables") and WHEEL_ASSETS.is_dir():
        return "the wheel carries the quickstart's table only; the others are in the repository, under results/tables"
    return "give a path from the current folder, or one that ships, such as configs/quickstart.yaml"
