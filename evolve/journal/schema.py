"""The journal's file: its tables, their version, and what journals of an older version lack."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from evolve.journal.checksums import seal, seal_all
from evolve.journal.turns import TURN_INDEX, TURNS

SCHEMA_VERSION = 4
CHECKED_SINCE = 3
"""Journals of earlier versions have no checksums."""

FILE_NAME = "journal.sqlite"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE proposals (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, island INTEGER, parent INTEGER, inspirations TEXT NOT NULL,
    diff INTEGER NOT NULL, seed INTEGER NOT NULL, system TEXT NOT NULL, user TEXT NOT NULL, asked_at REAL NOT NULL,
    asked_model TEXT NOT NULL DEFAULT '');
CREATE TABLE answers (
    id INTEGER PRIMARY KEY REFERENCES proposals(id), text TEXT NOT NULL, model TEXT NOT NULL, note TEXT NOT NULL,
    error TEXT NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, cost_usd REAL NOT NULL,
    elapsed_s REAL NOT NULL, look_ups INTEGER NOT NULL DEFAULT 0);
CREATE TABLE results (
    id INTEGER PRIMARY KEY REFERENCES proposals(id), status TEXT NOT NULL, message TEXT NOT NULL,
    source TEXT NOT NULL, source_hash TEXT NOT NULL, normal_form TEXT NOT NULL, decisions_hash TEXT NOT NULL,
    decisions TEXT NOT NULL, train TEXT, holdout TEXT, features TEXT NOT NULL, feedback TEXT NOT NULL,
    duplicate_of INTEGER, displaced TEXT NOT NULL, elapsed_s REAL NOT NULL, committed_at REAL NOT NULL,
    gpu_s REAL NOT NULL DEFAULT 0);
"""

_SINCE_2 = (
    ("proposals", "asked_model", "TEXT NOT NULL DEFAULT ''"),
    ("answers", "look_ups", "INTEGER NOT NULL DEFAULT 0"),
    ("results", "gpu_s", "REAL NOT NULL DEFAULT 0"),
)
"""Columns that journals of version 1 lack: they are added before such a journal is written, and read as defaults."""

DEFAULTS = ", '' AS asked_model, 0 AS gpu_s, 0 AS look_ups"

SPANS = """CREATE TABLE IF NOT EXISTS spans (
    id INTEGER NOT NULL, lane TEXT NOT NULL, name TEXT NOT NULL, started_at REAL NOT NULL, seconds REAL NOT NULL)"""

CALLS = """CREATE TABLE IF NOT EXISTS calls (
    number INTEGER PRIMARY KEY, id INTEGER NOT NULL, step INTEGER NOT NULL, model TEXT NOT NULL, key TEXT NOT NULL,
    begun_at REAL NOT NULL, ended_at REAL, answered INTEGER NOT NULL DEFAULT 0, text TEXT NOT NULL DEFAULT '',
    note TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT '', tokens_in INTEGER NOT NULL DEFAULT 0,
    tokens_out INTEGER NOT NULL DEFAULT 0, cost_usd REAL)"""

INDEXES = (
    "CREATE INDEX IF NOT EXISTS by_proposal ON calls (id)",
    "CREATE INDEX IF NOT EXISTS by_source ON results (source_hash)",
    "CREATE INDEX IF NOT EXISTS by_syntax ON results (normal_form)",
    "CREATE INDEX IF NOT EXISTS by_decisions ON results (decisions_hash)",
    TURN_INDEX,
)
"""For looking up whether a program is known, calls and turns; made when a journal is opened for writing."""

CLOCK_COLUMNS = {"asked_at", "elapsed_s", "committed_at", "created_at", "gpu_s"}
"""Readings of a clock: columns that differ between two equal runs."""


def fill(db: sqlite3.Connection) -> None:
    """Tables and version in one transaction."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        for statement in (*_SCHEMA.split(";"), SPANS, CALLS, TURNS):
            db.execute(statement)
        for key, value in (("schema_version", str(SCHEMA_VERSION)), ("created_at", str(time.time()))):
            db.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
        seal_all(db)


def create(path: Path) -> None:
    """An empty journal. It gets its name when it is whole: a process killed here leaves an unused draft."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    db = sqlite3.connect(draft)
    db.row_factory = sqlite3.Row
    fill(db)
    db.close()
    settle(draft)
    draft.replace(path)


def settle(path: Path) -> None:
    """Have the disk hold a file's content, so that after a power cut a rename never leads to an empty file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def upgrade(db: sqlite3.Connection, version: int) -> None:
    """Bring a journal of an older version to this one, within the caller's transaction."""
    db.execute("BEGIN IMMEDIATE")
    if version < 2:
        for table, column, kind in _SINCE_2:
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    db.execute(SPANS)
    db.execute(CALLS)
    db.execute(TURNS)
    db.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (str(SCHEMA_VERSION),))
    if version >= CHECKED_SINCE:
        seal(db, "meta", "schema_version")
        return
    # What was written so far could have been damaged before.
    db.execute("INSERT OR REPLACE INTO meta SELECT 'sealed_later', count(*) FROM proposals")
    seal_all(db)
