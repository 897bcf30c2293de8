"""The journal: one SQLite file per run that holds every proposal, also the failed ones.

Tables: `meta` (run-wide values), `proposals` (what was asked), `answers` (what the proposer said, stored
before it is used), `results` (what the judge said, committed in index order), `spans` (what took how long, for the
timeline; absent in journals of before it was kept).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluators.contract import Decision
from evaluators.evaluation import Evaluation, SplitScore
from evaluators.status import Status
from evolve.errors import EXIT_MISSING, UserError
from evolve.proposers.base import Answer

SCHEMA_VERSION = 2
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

_DEFAULTS = ", '' AS asked_model, 0 AS gpu_s, 0 AS look_ups"

_SPANS = """CREATE TABLE IF NOT EXISTS spans (
    id INTEGER NOT NULL, lane TEXT NOT NULL, name TEXT NOT NULL, started_at REAL NOT NULL, seconds REAL NOT NULL)"""

CLOCK_COLUMNS = {"asked_at", "elapsed_s", "committed_at", "created_at", "gpu_s"}
"""Readings of a clock: columns that differ between two equal runs."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One proposal with all that is known of it; fields of stages not reached are None or empty.

    `spent` holds what the answer cost, also where the proposer gave up and `answer` is None.
    """

    id: int
    kind: str
    island: int
    parent: int | None
    inspirations: tuple[int, ...]
    diff: bool
    seed: int
    system: str
    user: str
    answer: Answer | None
    error: str
    status: Status | None
    message: str
    source: str
    source_hash: str
    normal_form: str
    decisions_hash: str
    decisions: tuple[Decision, ...]
    train: SplitScore | None
    holdout: SplitScore | None
    features: dict[str, float]
    feedback: str
    duplicate_of: int | None
    displaced: tuple[int, ...]
    elapsed_s: float
    asked_model: str
    spent: Answer
    gpu_s: float

    @property
    def memorised(self) -> bool:
        """Whether the second look lowered the scores."""
        return "memorised" in self.features


@dataclass(frozen=True, slots=True)
class Spending:
    """What a run has cost so far; failed calls that were billed count as well.

    `gpu_s` are seconds of measuring on a GPU; on recorded tables there are none.
    """

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    gpu_s: float = 0.0

    @property
    def tokens(self) -> int:
        """Prompts and answers together."""
        return self.tokens_in + self.tokens_out


def storable(text: str) -> str:
    """Text without lone surrogates, which JSON may carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _score(text: str | None) -> SplitScore | None:
    return SplitScore(**json.loads(text)) if text else None


def _score_text(score: SplitScore | None) -> str | None:
    return None if score is None else json.dumps(asdict(score))


def _decisions_text(decisions: tuple[Decision, ...]) -> str:
    rows = [[d.num_splits, d.pack_gqa, d.sm_margin, d.blocks_per_split] for d in decisions]
    return json.dumps(rows, separators=(",", ":"))


class Journal:
    """Reads and writes one journal. Writers commit each step in a transaction of its own."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open a journal, creating it if it may be written.

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
                    _create(path)
                self._db = sqlite3.connect(path)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.row_factory = sqlite3.Row
            found = self._db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]
            if not found and not read_only:
                _fill(self._db)
            if not read_only:
                self._db.execute(_SPANS)
            version = int(self.meta("schema_version"))
        except (sqlite3.Error, OSError, ValueError) as error:
            raise UserError(f"{path} is not a journal that can be opened ({error})") from error
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {version}, this evosplit knows {SCHEMA_VERSION}",
                hint="upgrade evosplit",
            )
        self._version = version
        if version < SCHEMA_VERSION and not read_only:
            self._upgrade()

    def _upgrade(self) -> None:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for table, column, kind in _SINCE_2:
                self._db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
            self._db.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (str(SCHEMA_VERSION),))
        self._version = SCHEMA_VERSION

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction.

        Raises:
            UserError: the disk is full, broken or read-only, or another program holds the file; nothing was written.
        """
        try:
            with self._db:
                yield
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{self.path} cannot be written: {error}",
                hint=f"see to the disk, or to who holds the file; then: evosplit run --resume {self.path.parent}",
                exit_code=EXIT_MISSING,
            ) from error

    def close(self) -> None:
        """Close the file. A writer leaves it without a write-ahead log, so that it can be copied and read anywhere."""
        if not self._read_only:
            with suppress(sqlite3.OperationalError):  # somebody is reading: the log stays, which costs nothing
                self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.close()

    def meta(self, key: str) -> str:
        """A run-wide value; empty when absent."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return "" if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Write a run-wide value."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def ask(self, entry: dict[str, Any]) -> None:
        """Write what is asked: keys are the columns of `proposals` but `asked_at`."""
        row = {**entry, "inspirations": json.dumps(list(entry["inspirations"])), "asked_at": time.time()}
        with self._writing():
            self._insert("proposals", row)

    def answer(self, index: int, answer: Answer | None, error: str = "") -> None:
        """Write a proposer's answer, or why there is none, before anything is done with it.

        With an error, `answer` holds what the failed tries cost, and no text.
        """
        said = answer or Answer("", "")
        with self._writing():
            self._insert("answers", {"id": index, "error": error, **asdict(said)})

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
            "decisions": _decisions_text(evaluation.decisions),
            "train": _score_text(evaluation.train),
            "holdout": _score_text(evaluation.holdout),
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
        """Write that work on a proposal took from `started_at` (seconds since the epoch) for `seconds`, or until now.

        Lanes are `proposer`, `sandbox` and `gpu`. Clock readings: no part of what a run is.
        """
        took = max(0.0, time.time() - started_at) if seconds is None else seconds
        row = {"id": index, "lane": lane, "name": name, "started_at": started_at, "seconds": took}
        with self._writing():
            self._insert("spans", row)

    def _insert(self, table: str, row: dict[str, Any]) -> None:
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        values = {name: storable(value) if isinstance(value, str) else value for name, value in row.items()}
        self._db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)

    def spending(self) -> Spending:
        """What all answers and evaluations cost."""
        row = self._db.execute(
            "SELECT count(*), total(tokens_in), total(tokens_out), total(cost_usd) FROM answers"
        ).fetchone()
        gpu_s = 0.0
        if self._version >= 2:
            gpu_s = self._db.execute("SELECT total(gpu_s) FROM results").fetchone()[0]
        return Spending(int(row[0]), int(row[1]), int(row[2]), float(row[3]), float(gpu_s))

    _QUERY = """SELECT p.*, a.text, a.model, a.note, a.error, a.tokens_in, a.tokens_out, a.cost_usd,
            a.elapsed_s AS answer_s, r.status, r.message, r.source, r.source_hash, r.normal_form, r.decisions_hash,
            r.decisions, r.train, r.holdout, r.features, r.feedback, r.duplicate_of, r.displaced, r.elapsed_s{extra}
            FROM proposals p LEFT JOIN answers a ON a.id = p.id LEFT JOIN results r ON r.id = p.id"""

    @property
    def _query(self) -> str:
        return self._QUERY.format(extra=", r.gpu_s, a.look_ups" if self._version >= 2 else _DEFAULTS)

    def entries(self) -> Iterator[Entry]:
        """All proposals in order."""
        for row in self._db.execute(f"{self._query} ORDER BY p.id"):
            yield _entry(row)

    def source(self, index: int) -> str:
        """Source of a proposal that has a result; cheaper than its entry."""
        return str(self._db.execute("SELECT source FROM results WHERE id = ?", (index,)).fetchone()[0])

    def entry(self, index: int) -> Entry:
        """One proposal.

        Raises:
            UserError: no such proposal.
        """
        row = self._db.execute(f"{self._query} WHERE p.id = ?", (index,)).fetchone()
        if row is None:
            raise UserError(f"{self.path.parent.name} holds no proposal {index}", hint="evosplit show RUN lists them")
        return _entry(row)

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
        """Everything but clock readings, for comparing two runs."""
        tables = {}
        for table in ("meta", "proposals", "answers", "results"):
            rows = [dict(r) for r in self._db.execute(f"SELECT * FROM {table} ORDER BY 1")]
            tables[table] = [
                {k: v for k, v in row.items() if k not in CLOCK_COLUMNS}
                for row in rows
                if row.get("key") not in (*CLOCK_COLUMNS, "run")
            ]
        return tables


def _fill(db: sqlite3.Connection) -> None:
    """Tables and version in one transaction."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        for key, value in (("schema_version", str(SCHEMA_VERSION)), ("created_at", str(time.time()))):
            db.execute("INSERT INTO meta VALUES (?, ?)", (key, value))


def _create(path: Path) -> None:
    """An empty journal. It gets its name when it is whole: a process killed here leaves a draft that nobody opens."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    db = sqlite3.connect(draft)
    _fill(db)
    db.close()
    draft.replace(path)


def _entry(row: sqlite3.Row) -> Entry:
    spent = Answer("", "")
    if row["text"] is not None:
        names = ("text", "model", "note", "tokens_in", "tokens_out", "cost_usd", "answer_s", "look_ups")
        spent = Answer(*(row[name] for name in names))
    answer = None if row["text"] is None or row["error"] else spent
    done = row["status"] is not None
    return Entry(
        id=row["id"],
        kind=row["kind"],
        island=row["island"],
        parent=row["parent"],
        inspirations=tuple(json.loads(row["inspirations"])),
        diff=bool(row["diff"]),
        seed=row["seed"],
        system=row["system"],
        user=row["user"],
        answer=answer,
        error=row["error"] or "",
        status=Status(row["status"]) if done else None,
        message=row["message"] or "",
        source=row["source"] or "",
        source_hash=row["source_hash"] or "",
        normal_form=row["normal_form"] or "",
        decisions_hash=row["decisions_hash"] or "",
        decisions=tuple(Decision(*d) for d in json.loads(row["decisions"] or "[]")),
        train=_score(row["train"]),
        holdout=_score(row["holdout"]),
        features=json.loads(row["features"] or "{}"),
        feedback=row["feedback"] or "",
        duplicate_of=row["duplicate_of"],
        displaced=tuple(json.loads(row["displaced"] or "[]")),
        elapsed_s=row["elapsed_s"] or 0.0,
        asked_model=row["asked_model"],
        spent=spent,
        gpu_s=row["gpu_s"] or 0.0,
    )


@contextmanager
def open_journal(folder: Path, *, read_only: bool) -> Iterator[Journal]:
    """The journal of a run folder.

    Raises:
        UserError: the folder holds none (when reading), or it cannot be opened.
    """
    path = folder / FILE_NAME
    if read_only and not path.exists():
        raise UserError(f"{folder} holds no {FILE_NAME}", hint="evosplit ls lists runs")
    journal = Journal(path, read_only=read_only)
    try:
        yield journal
    finally:
        journal.close()
