"""Checksums of a journal's rows, to detect damage.

SQLite detects a damaged page only if its structure is affected. A changed digit, a lost row or a page of an older copy
would go unnoticed, so every row has a checksum, and `meta` has their number.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

TABLE = """CREATE TABLE IF NOT EXISTS checksums (
    part TEXT NOT NULL, key NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (part, key)) WITHOUT ROWID"""

COUNT = "checksums"
"""Key of `meta` for the number of rows with a checksum; it has no checksum itself."""

KEYS = {
    "meta": "key",
    "proposals": "id",
    "answers": "id",
    "results": "id",
    "calls": "number",
    "spans": "rowid",
    "turns": "number",
}
"""Tables with checksums, each with the column that identifies a row."""

DIGEST_CHARS = 32
"""Hexadecimal digits kept of SHA-256: 128 bits detect any damage."""

_Known = tuple[tuple[object, ...], int, int]
_seen: dict[Path, _Known] = {}
"""Cache of undamaged journals: state of the files, last result, last span; views read growing journals often."""


class JournalDamaged(Exception):
    """A row differs from its checksum; the message names it."""


def digest_of(row: sqlite3.Row, columns: int) -> str:
    """Checksum of the first `columns` columns of a row, by their names and values."""
    names = row.keys()[:columns]
    try:
        text = json.dumps({name: row[index] for index, name in enumerate(names)}, sort_keys=True)
    except TypeError:  # bytes, which no column has
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARS]


def seal(db: sqlite3.Connection, part: str, key: object) -> None:
    """Write the checksum of a new row, in the same transaction."""
    row = db.execute(f"SELECT * FROM {part} WHERE {KEYS[part]} = ?", (key,)).fetchone()
    new = db.execute("SELECT 1 FROM checksums WHERE part = ? AND key = ?", (part, key)).fetchone() is None
    db.execute("INSERT OR REPLACE INTO checksums VALUES (?, ?, ?)", (part, key, digest_of(row, len(row))))
    if new:
        db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = ?", (COUNT,))


def _parts(db: sqlite3.Connection) -> dict[str, str]:
    """Tables of `KEYS` in this journal: older ones without expeditions lack `turns`."""
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {part: key for part, key in KEYS.items() if part in tables or part != "turns"}


def seal_all(db: sqlite3.Connection) -> None:
    """Add checksums to all rows of a journal without them, in a transaction."""
    db.execute(TABLE)
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, '0')", (COUNT,))
    for part, key in _parts(db).items():
        for (value,) in db.execute(f"SELECT {key} FROM {part}").fetchall():
            if (part, value) != ("meta", COUNT):
                seal(db, part, value)


def verify(db: sqlite3.Connection, path: Path) -> None:
    """Compare every row with its checksum; if this process has verified the journal before, only the new rows.

    `db` has `sqlite3.Row` as its row factory.

    Raises:
        JournalDamaged: a row was changed, lost or inserted.
        sqlite3.Error: SQLite itself cannot read it.
    """
    state = tuple(_state(p) for p in (path, path.with_name(f"{path.name}-wal")))
    before, settled, timed = _seen.get(path.absolute(), ((), -1, -1))
    if before == state:
        return
    db.execute("BEGIN")  # one snapshot of the file, also during writes
    try:
        last = int(db.execute("SELECT ifnull(max(id), -1) FROM results").fetchone()[0])
        last_span = int(db.execute("SELECT ifnull(max(rowid), -1) FROM spans").fetchone()[0])
        if last <= settled:  # it did not grow, so the file was changed otherwise
            settled = timed = -1
        if settled < 0:
            problem = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if problem != "ok":
                raise JournalDamaged(f"SQLite says: {problem}")
        rows = 0
        for part, key in _parts(db).items():
            rows += int(db.execute(f"SELECT count(*) FROM {part}").fetchone()[0])
            after = {"meta": "''", "calls": -1, "turns": -1, "spans": timed}.get(part, settled)
            found = db.execute(
                f"SELECT t.*, t.{key} AS row_key, c.digest AS row_digest FROM {part} t LEFT JOIN checksums c "
                f"ON c.part = '{part}' AND c.key = t.{key} WHERE t.{key} > {after}"
            )
            for row in found:
                if row["row_digest"] != digest_of(row, len(row) - 2) and (part, row["row_key"]) != ("meta", COUNT):
                    raise JournalDamaged(f"the row {str(row['row_key'])!r} of `{part}` is not what was written")
        sealed = int(db.execute("SELECT count(*) FROM checksums").fetchone()[0])
        promised = db.execute("SELECT value FROM meta WHERE key = ?", (COUNT,)).fetchone()
        if promised is None or not rows - 1 == sealed == int(promised[0]):
            wanted = promised[0] if promised else "no number"
            raise JournalDamaged(f"it holds {rows - 1} rows and {sealed} checksums, {wanted} were written")
    except ValueError as error:
        raise JournalDamaged(str(error)) from error
    finally:
        db.execute("ROLLBACK")
    _seen[path.absolute()] = (state, last, last_span)


def _state(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
