"""Records of a search of tests/faults/kill_searches.py, and their invariants after every kill."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from kill_processes import Violation

from evolve.journal.journal import FILE_NAME, Journal

STORE = "latencies.db"
Rows = dict[str, dict[int, tuple[object, ...]]]


def folder_of(runs: Path) -> Path | None:
    """The one run folder that holds a journal."""
    return next((p.parent for p in runs.glob(f"*/{FILE_NAME}")), None)


def rows(folder: Path) -> Rows:
    """All rows of the journal by table and id; the journal must be sound.

    Raises:
        Violation: it is not.
    """
    with sqlite3.connect(folder / FILE_NAME) as db:
        verdict = db.execute("PRAGMA integrity_check").fetchone()
        if verdict != ("ok",):
            raise Violation(f"integrity_check: {verdict}")
        found: Rows = {}
        for table in ("proposals", "answers", "results"):
            try:
                found[table] = {row[0]: row for row in db.execute(f"SELECT * FROM {table}")}
            except sqlite3.OperationalError:  # killed before the tables were there
                found[table] = {}
    db.close()
    return found


def proposals(folder: Path | None) -> int:
    """Number of requested proposals; 0 while there is no journal."""
    if folder is None:
        return 0
    try:
        db = sqlite3.connect(f"file:{folder / FILE_NAME}?mode=ro", uri=True)
        try:
            return int(db.execute("SELECT count(*) FROM proposals").fetchone()[0])
        finally:
            db.close()
    except sqlite3.Error:
        return 0


def checked(folder: Path, before: Rows, *, at_most: int) -> Rows:
    """Content of the journal.

    Raises:
        Violation: something that it held `before` is lost or changed, or there are more than `at_most` proposals.
    """
    now = rows(folder)
    for table, known in before.items():
        for index, row in known.items():
            if now[table].get(index) != row:
                raise Violation(f"{table} {index} was lost or changed")
    if set(now["results"]) - set(now["proposals"]) or len(now["proposals"]) > at_most:
        raise Violation("results without proposals, or too many")
    return now


def launches(runs: Path) -> list[tuple[object, ...]]:
    """Content of the latency store of a folder of runs, without times; the store must be sound.

    Raises:
        Violation: it is not.
    """
    path = runs / STORE
    if not path.exists():
        return []
    with sqlite3.connect(path) as db:
        verdict = db.execute("PRAGMA integrity_check").fetchone()
        if verdict != ("ok",):
            raise Violation(f"integrity_check of the store: {verdict}")
        columns = "shape, launch, num_splits, blocks_per_split, pack_gqa, sm_margin, latencies_us, baseline_us, error"
        try:
            found = db.execute(f"SELECT {columns} FROM launch ORDER BY shape, launch").fetchall()
        except sqlite3.OperationalError:
            found = []
    db.close()
    return found


def content(runs: Path) -> object:
    """Journal and store of a search that has ended, free of clocks and paths."""
    folder = folder_of(runs)
    assert folder is not None
    journal = Journal(folder / FILE_NAME, read_only=True)
    text = json.dumps([journal.content(), launches(runs)])
    journal.close()
    return json.loads(text.replace(str(runs), "RUNS"))


def difference(wanted: object, found: object, where: str = "") -> str:
    """First difference of two contents; empty if they are equal."""
    if isinstance(wanted, dict) and isinstance(found, dict) and wanted.keys() == found.keys():
        pairs = [(f"{where}.{key}", value, found[key]) for key, value in wanted.items()]
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = [(f"{where}[{i}]", *both) for i, both in enumerate(zip(wanted, found, strict=True))]
    else:
        return "" if wanted == found else f"{where}: {str(found)[:300]!r}, not {str(wanted)[:300]!r}"
    return next((parted for name, a, b in pairs if (parted := difference(a, b, name))), "")
