"""Edits of a journal's rows, for tests of what reads them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from evolve.journal.checksums import seal_all
from evolve.journal.journal import FILE_NAME


def edit(folder: Path, *statements: str) -> None:
    """Run statements on a run's journal behind its back: its checksums tell."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as db, db:
        for statement in statements:
            db.execute(statement)


def rewrite(folder: Path, *statements: str) -> None:
    """A journal in which other things had been written in the first place."""
    edit(folder, *statements, "DELETE FROM checksums")
    with closing(sqlite3.connect(folder / FILE_NAME)) as db, db:
        db.row_factory = sqlite3.Row
        seal_all(db)
