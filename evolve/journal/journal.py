"""The journal: one SQLite file per run with every proposal, also the failed ones.

Tables: `meta` (run-wide values), `proposals` (requests), `answers` (of the proposer, stored before use), `results` (of
the judge, committed in index order), `calls` (start and end of every call to an endpoint), `turns` (of expeditions, see
`evolve.journal.turns`), `spans` (durations, for the timeline) and `checksums` (of every row). Older journals lack some
of the last four.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluators.data.evaluation import Evaluation, SplitScore
from evaluators.targets.registry import target_of_name
from evaluators.targets.target import AnyTarget
from evolve.errors import EXIT_MISSING, UserError
from evolve.journal.checksums import COUNT, JournalDamaged, seal, verify
from evolve.journal.entry import (
    COMMIT_QUERY,
    Commit,
    Entry,
    Spending,
    commit_of,
    decisions_text,
    entry_of,
    score_of,
    score_text,
    storable,
)
from evolve.journal.packed import has_journal, is_packed, refuse_packed, unpacked
from evolve.journal.schema import (
    CHECKED_SINCE,
    CLOCK_COLUMNS,
    DEFAULTS,
    FILE_NAME,
    INDEXES,
    SCHEMA_VERSION,
    create,
    fill,
    upgrade,
)
from evolve.journal.turns import TURN_COLUMNS, Turn, turn_of, turn_row
from evolve.proposal import EndpointCall, Response

__all__ = ["CLOCK_COLUMNS", "FILE_NAME", "SCHEMA_VERSION", "Entry", "Journal", "Spending", "open_journal", "storable"]


class Journal:
    """Reader and writer of one journal. Each step is committed in a separate transaction."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open a journal, creating it if necessary unless `read_only`.

        Raises:
            UserError: not a journal, of a newer version, or unreadable.
        """
        self.path = path
        self._read_only = read_only
        try:
            if read_only:
                self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            else:
                if path.name == FILE_NAME and not path.exists():
                    create(path)
                self._db = sqlite3.connect(path)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.row_factory = sqlite3.Row
            found = self._db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]
            if not found and not read_only:
                fill(self._db)
            version = int(self.meta("schema_version"))
        except (sqlite3.Error, OSError, ValueError) as error:
            raise UserError(f"{path} is not a journal that can be opened ({error})") from error
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {version}, this evosplit knows {SCHEMA_VERSION}",
                hint="upgrade evosplit",
            )
        self._version = version
        if read_only:
            return
        if version < SCHEMA_VERSION:
            with self._writing():
                upgrade(self._db, version)
            self._version = SCHEMA_VERSION
        with self._writing():
            for index in INDEXES:
                self._db.execute(index)

    @property
    def checked(self) -> bool:
        """True if rows have checksums; journals of earlier versions get them when their run is resumed."""
        return self._version >= CHECKED_SINCE and not self.meta("sealed_later")

    def verify(self) -> None:
        """Compare every row with its checksum, or read it if there is none.

        Raises:
            UserError: the file is damaged; the message names the row.
        """
        try:
            with self.reading():
                if self._version >= CHECKED_SINCE:
                    verify(self._db, self.path)
                else:
                    for _ in self.entries():
                        pass
        except JournalDamaged as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self.path} is damaged: {error}", hint="restore the file from a copy")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Convert errors from a damaged file to a `UserError`.

        Raises:
            UserError: the file cannot be read, or a row is malformed.
        """
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, KeyError, OverflowError) as error:
            raise self._damaged(error) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Run the body in one transaction.

        Raises:
            UserError: the disk is full, broken or read-only, or another program has locked the file; nothing was
                written.
        """
        try:
            with self._db:
                yield
        except sqlite3.IntegrityError as error:
            raise UserError(
                f"{self.path} holds that row already ({error}): another process works in this folder",
                hint="end one of the two",
            ) from error
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path} cannot be written: {error}",
                hint=f"see to the disk, or to who holds the file; then: evosplit run --resume {self.path.parent}",
                exit_code=EXIT_MISSING,
            ) from error

    @contextmanager
    def _durably(self) -> Iterator[None]:
        """Run the body in one transaction that is synced to disk, so that paid answers survive a power cut."""
        self._db.execute("PRAGMA synchronous=FULL")
        try:
            with self._writing():
                yield
        finally:
            self._db.execute("PRAGMA synchronous=NORMAL")

    def close(self) -> None:
        """Close the file. A writer removes the write-ahead log, so that the file can be copied and read anywhere."""
        if not self._read_only:
            with suppress(sqlite3.OperationalError):  # another process is reading: the log stays, which is harmless
                self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.close()

    def meta(self, key: str) -> str:
        """A run-wide value; empty when absent."""
        with self.reading():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return "" if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Write a run-wide value."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
            seal(self._db, "meta", key)

    def ask(self, entry: dict[str, Any]) -> None:
        """Write a request: keys are the columns of `proposals` without `asked_at`."""
        row = {**entry, "inspirations": json.dumps(list(entry["inspirations"])), "asked_at": time.time()}
        with self._writing():
            self._insert("proposals", row)

    def answer(self, index: int, answer: Response | None, error: str = "") -> None:
        """Write a proposer's answer, or its error, before it is used.

        With an error, `answer` has the cost of the failed tries, and no text.
        """
        said = answer or Response("", "")
        paid = said.tokens_in or said.tokens_out or said.cost_usd
        with self._durably() if paid else self._writing():
            self._insert("answers", {"id": index, "error": error, **asdict(said)})

    def call_begun(self, index: int, step: int, model: str, key: str) -> int:
        """Write the start of a call; returns its number.

        A call without an end was interrupted: its endpoint can tell by the idempotency key whether it was billed.
        """
        with self._durably():
            row = self._db.execute(
                "INSERT INTO calls (id, step, model, key, begun_at) VALUES (?, ?, ?, ?, ?)",
                (index, step, model, key, time.time()),
            )
            seal(self._db, "calls", row.lastrowid)
        return int(row.lastrowid or 0)

    def call_ended(self, number: int, call: EndpointCall) -> None:
        """Write the result of a call, before it is used."""
        row = {**asdict(call), "number": number, "ended_at": time.time()}
        values = {name: storable(value) if isinstance(value, str) else value for name, value in row.items()}
        with self._durably():
            self._db.execute(
                "UPDATE calls SET ended_at = :ended_at, answered = :answered, text = :text, note = :note, "
                "error = :error, tokens_in = :tokens_in, tokens_out = :tokens_out, cost_usd = :cost_usd "
                "WHERE number = :number",
                values,
            )
            seal(self._db, "calls", number)

    def calls(self, index: int) -> list[tuple[int, EndpointCall]]:
        """Finished calls of a proposal, in order, with their purpose (`step`) and result."""
        if not self._has_calls:
            return []
        columns = "step, model, text, note, error, tokens_in, tokens_out, cost_usd, answered"
        rows = self.select(
            f"SELECT {columns} FROM calls WHERE id = ? AND ended_at IS NOT NULL ORDER BY number", (index,)
        )
        made = []
        for step, model, text, note, error, tokens_in, tokens_out, cost_usd, answered in map(tuple, rows):
            call = EndpointCall(model, text, note, error, tokens_in, tokens_out, cost_usd, bool(answered))
            made.append((int(step), call))
        return made

    @property
    def _has_calls(self) -> bool:
        return self._has("calls")

    def _has(self, table: str) -> bool:
        return bool(self._db.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0])

    def turn(self, turn: Turn) -> None:
        """Write a turn of an expedition, before it is used."""
        with self._durably():
            self._insert("turns", {**turn_row(turn), "asked_at": time.time() - turn.elapsed_s})

    @property
    def turn_count(self) -> int:
        """Number of turns of all expeditions so far."""
        return int(self._db.execute("SELECT count(*) FROM turns").fetchone()[0]) if self._has("turns") else 0

    def turns(self, where: str = "1", parameters: tuple[object, ...] = ()) -> list[Turn]:
        """Turns of expeditions by proposal and step; empty in journals of earlier versions.

        `where` is an SQL condition on the columns of `turns`, `parameters` are the values for its question marks.
        """
        if not self._has("turns"):
            return []
        query = f"SELECT {TURN_COLUMNS} FROM turns WHERE {where} ORDER BY id, step"
        with self.reading():
            return [turn_of(row) for row in self._db.execute(query, parameters)]

    def result(
        self,
        index: int,
        source: str,
        evaluation: Evaluation,
        *,
        feedback: str = "",
        duplicate_of: int | None = None,
        displaced: tuple[int, ...] = (),
        elapsed_s: float = 0.0,
    ) -> None:
        """Commit one result."""
        row = {
            "id": index,
            "status": evaluation.status.value,
            "message": evaluation.message,
            "source": source,
            "source_hash": evaluation.source_hash,
            "normal_form": evaluation.normal_form,
            "decisions_hash": evaluation.decisions_hash,
            "decisions": decisions_text(evaluation.decisions),
            "train": score_text(evaluation.train),
            "holdout": score_text(evaluation.holdout),
            "features": json.dumps(evaluation.features),
            "feedback": feedback,
            "duplicate_of": duplicate_of,
            "displaced": json.dumps(list(displaced)),
            "elapsed_s": elapsed_s,
            "committed_at": time.time(),
            "gpu_s": evaluation.gpu_s,
        }
        with self._writing():
            self._insert("results", row)

    def span(self, index: int, lane: str, name: str, started_at: float, seconds: float | None = None) -> None:
        """Write a span of work on a proposal, from `started_at` (seconds since the epoch), by default until now.

        `lane` is a track of the timeline: `proposer`, `sandbox` or `gpu`. Clock readings do not enter comparisons of
        runs.
        """
        took = max(0.0, time.time() - started_at) if seconds is None else seconds
        row = {"id": index, "lane": lane, "name": name, "started_at": started_at, "seconds": took}
        with self._writing():
            self._insert("spans", row)

    def _insert(self, table: str, row: dict[str, Any]) -> None:
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        values = {name: storable(value) if isinstance(value, str) else value for name, value in row.items()}
        made = self._db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)
        seal(self._db, table, made.lastrowid)

    def spending(self) -> Spending:
        """Cost of all answers and evaluations, and of calls without an answer yet."""
        sums = "count(*), total(tokens_in), total(tokens_out), total(cost_usd)"
        with self.reading():
            row = list(self._db.execute(f"SELECT {sums} FROM answers").fetchone())
            if self._has_calls:
                others = "FROM calls WHERE ended_at IS NOT NULL AND id NOT IN (SELECT id FROM answers)"
                found = self._db.execute(f"SELECT {sums} {others}").fetchone()
                row = [mine + theirs for mine, theirs in zip(row, found, strict=True)]
            gpu_s, look_ups = 0.0, 0
            if self._version >= 2:
                gpu_s = float(self._db.execute("SELECT total(gpu_s) FROM results").fetchone()[0])
                look_ups = int(self._db.execute("SELECT total(look_ups) FROM answers").fetchone()[0])
            return Spending(int(row[0]), int(row[1]), int(row[2]), float(row[3]), gpu_s, look_ups)

    _QUERY = """SELECT p.*, a.text, a.model, a.note, a.error, a.tokens_in, a.tokens_out, a.cost_usd,
            a.elapsed_s AS answer_s, r.status, r.message, r.source, r.source_hash, r.normal_form, r.decisions_hash,
            r.decisions, r.train, r.holdout, r.features, r.feedback, r.duplicate_of, r.displaced, r.elapsed_s{extra}
            FROM proposals p LEFT JOIN answers a ON a.id = p.id LEFT JOIN results r ON r.id = p.id"""

    @cached_property
    def _target(self) -> AnyTarget:
        """Target of the run."""
        return target_of_name(self.meta("setting"))

    @property
    def _query(self) -> str:
        return self._QUERY.format(extra=", r.gpu_s, a.look_ups" if self._version >= 2 else DEFAULTS)

    def entries(self) -> Iterator[Entry]:
        """All proposals in order."""
        rows = iter(self._db.execute(f"{self._query} ORDER BY p.id"))
        while True:
            with self.reading():  # not around the yield, to leave errors of the caller alone
                row = next(rows, None)
                if row is None:
                    return
                entry = entry_of(row, self._target)
            yield entry

    def committed(self) -> int:
        """Number of results; they are those of the first proposals."""
        return int(self._db.execute("SELECT count(*) FROM results").fetchone()[0])

    def commits(self) -> Iterator[Commit]:
        """Commits after the seeds, in order; much cheaper than their entries."""
        for row in self._db.execute(COMMIT_QUERY):
            with self.reading():
                commit = commit_of(row)
            yield commit

    def find(self, index: int) -> Entry | None:
        """Read one proposal; None if there is none."""
        if abs(index) >= 2**63:  # beyond SQLite's integers
            return None
        with self.reading():
            row = self._db.execute(f"{self._query} WHERE p.id = ?", (index,)).fetchone()
            return None if row is None else entry_of(row, self._target)

    def entry(self, index: int) -> Entry:
        """Read one proposal.

        Raises:
            UserError: no such proposal.
        """
        found = self.find(index)
        if found is None:
            raise UserError(f"{self.path.parent.name} holds no proposal {index}", hint="evosplit show RUN lists them")
        return found

    def source(self, index: int) -> str:
        """Source of a proposal that has a result; cheaper than its entry."""
        return str(self._db.execute("SELECT source FROM results WHERE id = ?", (index,)).fetchone()[0])

    def train(self, index: int) -> SplitScore | None:
        """Training score of a proposal that has a result; cheaper than its entry."""
        with self.reading():
            return score_of(self._db.execute("SELECT train FROM results WHERE id = ?", (index,)).fetchone()[0])

    def select(self, query: str, parameters: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        """Rows of a query, for readers that need few columns of many proposals.

        Raises:
            UserError: the file is damaged.
        """
        try:
            return self._db.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise UserError(f"{self.path} cannot be read ({error})") from error

    def content(self) -> dict[str, list[dict[str, Any]]]:
        """Content without clock readings, to compare runs."""
        tables = {}
        for table in ("meta", "proposals", "answers", "results"):
            rows = [dict(r) for r in self._db.execute(f"SELECT * FROM {table} ORDER BY 1")]
            tables[table] = [
                {k: v for k, v in row.items() if k not in CLOCK_COLUMNS}
                for row in rows
                if row.get("key") not in (*CLOCK_COLUMNS, "run", COUNT)
            ]
        turns = [turn_row(turn) for turn in self.turns()]
        tables["turns"] = [{k: v for k, v in row.items() if k not in CLOCK_COLUMNS} for row in turns]
        return tables


@contextmanager
def open_journal(folder: Path, *, read_only: bool) -> Iterator[Journal]:
    """Open the journal of a run folder, and verify its checksums.

    Raises:
        UserError: there is none (when reading), it cannot be opened, it is damaged, or packed (when writing).
    """
    if read_only and not has_journal(folder):
        raise UserError(f"{folder} holds no {FILE_NAME}", hint="evosplit ls lists runs")
    if not read_only:
        refuse_packed(folder)
    with unpacked(folder) if is_packed(folder) else nullcontext(folder / FILE_NAME) as path:
        journal = Journal(path, read_only=read_only)
        try:
            journal.verify()
            yield journal
        finally:
            journal.close()
