"""First difference of two journals, for runs that should be the same."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from evolve.journal.journal import open_journal

Rows = list[dict[str, Any]]
SHOWN_CHARS = 120


def first_difference(one: Path, other: Path, *, ids: Collection[int], without: Collection[str] = ()) -> str:
    """First proposal and column in which two runs differ; empty if they agree.

    Requests, answers and results of the proposals `ids` are compared, without clock readings and the columns `without`.
    """
    with open_journal(one, read_only=True) as a, open_journal(other, read_only=True) as b:
        first, second = a.content(), b.content()
    for index in sorted(ids):
        for table in ("proposals", "answers", "results"):
            found = _row_difference(_row(first[table], index), _row(second[table], index), without)
            if found:
                return f"proposal {index}, {table}.{found}"
        turns = [[row for row in content["turns"] if row["id"] == index] for content in (first, second)]
        for step in range(max(map(len, turns))):
            before, after = (rows[step] if step < len(rows) else {} for rows in turns)
            found = _row_difference(before, after, without)
            if found:
                return f"proposal {index}, turns {step}.{found}"
    return ""


def _row(rows: Rows, index: int) -> dict[str, Any]:
    return next((row for row in rows if row["id"] == index), {})


def _row_difference(one: dict[str, Any], other: dict[str, Any], without: Collection[str]) -> str:
    # Journals of an older version lack columns.
    for column in [c for c in one if c in other or not other]:
        if column not in without and one[column] != other.get(column):
            return f"{column}: {_shown(one[column])} against {_shown(other.get(column))}"
    return "id: only one run has it" if bool(one) != bool(other) else ""


def _shown(value: object) -> str:
    return repr(value)[:SHOWN_CHARS]
