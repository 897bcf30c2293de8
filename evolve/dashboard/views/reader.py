"""Reader of one run folder, also while another process writes its journal.

Reads only the columns that the views need, and only rows that may have changed since the last read.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from evaluators.data.status import Status
from evolve.config import RunConfig, parse_config
from evolve.dashboard.views.documents import Node, Score
from evolve.errors import UserError
from evolve.journal.entry import WinnerOrder, winner_order
from evolve.journal.journal import FILE_NAME, Journal, open_journal
from evolve.journal.run_folder import is_running, run_state
from evolve.journal.turns import Turn
from evolve.reports.plain_text import rationale_of

MESSAGE_CHARS = 300
RATIONALE_CHARS = 240
ASKED, ANSWERED = "asked", "answered"
"""Status of a proposal without a result."""

_NODES = f"""SELECT p.id, p.kind, p.island, p.parent, p.inspirations, p.asked_at,
    a.model, a.note, a.error, substr(a.text, 1, {RATIONALE_CHARS}) AS begins,
    a.tokens_in, a.tokens_out, a.cost_usd, a.elapsed_s AS answer_s,
    r.status, substr(r.message, 1, {MESSAGE_CHARS}) AS message, r.source_hash, r.train, r.holdout, r.features,
    r.duplicate_of, r.displaced, r.elapsed_s, r.committed_at
    FROM proposals p LEFT JOIN answers a ON a.id = p.id LEFT JOIN results r ON r.id = p.id
    WHERE p.id >= ? ORDER BY p.id"""


@contextmanager
def any_journal(folder: Path) -> Iterator[Journal]:
    """Open the journal of a run folder for reading, also in a read-only folder.

    SQLite must write to the folder to read a journal whose writer was killed; if it cannot, a copy is read instead.
    """
    writable = os.access(folder, os.W_OK)
    log = folder / f"{FILE_NAME}-wal"
    if writable or not log.exists():
        with open_journal(folder, read_only=True) as journal:
            yield journal
        return
    with tempfile.TemporaryDirectory(prefix="evosplit-") as copy:
        try:
            for path in (folder / FILE_NAME, log):
                shutil.copy(path, copy)
        except OSError as error:
            raise UserError(f"{folder} cannot be read: {error}") from error
        with open_journal(Path(copy), read_only=True) as journal:
            yield journal


class RunReader:
    """One run: its proposals as nodes, its configuration, its folder. Thread-safe."""

    def __init__(self, folder: Path, name: str = "") -> None:
        """Read the journal; without a name the run has its folder's.

        Raises:
            UserError: no readable journal.
        """
        self.folder = folder
        self.name = name or folder.resolve().name
        self.meta: dict[str, str] = {}
        self.nodes: list[Node] = []
        self.digests: list[str] = []
        """Source hash per node; empty before its result."""
        self.gpu_s = 0.0
        """Seconds of measurements on GPUs."""
        self.settled = 0
        """All proposals below this one are committed, and will not change."""
        self._guard = threading.RLock()
        self._look: tuple[object, ...] = ()
        self.refresh()

    def refresh(self) -> bool:
        """Read changes; returns True if there were any."""
        with self._guard, any_journal(self.folder) as journal:
            look = (*journal.select(_LOOK)[0], journal.turn_count, self.running)
            if look == self._look:
                return False
            self.meta = {str(row["key"]): str(row["value"]) for row in journal.select("SELECT * FROM meta")}
            started = self.created_at
            self.gpu_s = journal.spending().gpu_s
            rows = journal.select(_NODES, (self.settled,))
            self.nodes[self.settled :] = [_node(row, started) for row in rows]
            self.digests[self.settled :] = [row["source_hash"] or "" for row in rows]
            while self.settled < len(self.nodes) and self.nodes[self.settled]["committed_at_s"] is not None:
                self.settled += 1
            self._look = look
            return True

    @property
    def created_at(self) -> float:
        """Start of the run, in seconds since the epoch."""
        return float(self.meta.get("created_at") or 0.0)

    @property
    def last_event_s(self) -> float:
        """Time of the last event in the journal, in seconds since the start."""
        return max(
            (max(n["committed_at_s"] or 0.0, n["asked_at_s"] + (n["answer_s"] or 0.0)) for n in self.nodes), default=0.0
        )

    @property
    def state(self) -> str:
        """State of the run; see `Overview`."""
        done = sum(n["kind"] != "seed" and n["committed_at_s"] is not None for n in self.nodes)
        finished = done >= int(self.meta.get("proposals") or 0)
        return run_state(self.folder, finished=finished, ended=self.meta.get("ended"))

    @property
    def config(self) -> RunConfig | None:
        """Configuration of the run; None if this version cannot read it."""
        import yaml

        try:
            return parse_config(yaml.safe_load(self.meta.get("config", "")) or {})
        except (UserError, yaml.YAMLError):
            return None

    @property
    def running(self) -> bool:
        """True if another process has locked the run."""
        return is_running(self.folder)

    def full(self, index: int) -> dict[str, str]:
        """Large columns of one proposal, by name.

        Raises:
            UserError: no such proposal.
        """
        with any_journal(self.folder) as journal:
            rows = journal.select(f"{_FULL} WHERE p.id = ?", (index,))
        if not rows:
            raise UserError(f"{self.name} holds no proposal {index}", hint="evosplit show RUN lists them")
        return {name: value or "" for name, value in dict(rows[0]).items()}

    def full_all(self) -> list[dict[str, str]]:
        """Large columns of every proposal, in order."""
        with any_journal(self.folder) as journal:
            rows = journal.select(f"{_FULL} ORDER BY p.id")
        return [{name: value or "" for name, value in dict(row).items()} for row in rows]

    def search(self, text: str) -> list[int]:
        """Proposals whose program, answer or message contains a text, ignoring case."""
        where = " OR ".join(f"instr(lower({column}), ?)" for column in ("r.source", "a.text", "r.message", "a.error"))
        query = f"""SELECT p.id FROM proposals p LEFT JOIN answers a ON a.id = p.id LEFT JOIN results r ON r.id = p.id
            WHERE {where} ORDER BY p.id"""
        with any_journal(self.folder) as journal:
            return [row["id"] for row in journal.select(query, (text.lower(),) * 4)]

    def turns(self, index: int | None = None) -> list[Turn]:
        """Turns of one expedition, or of all."""
        with any_journal(self.folder) as journal:
            return journal.turns() if index is None else journal.turns("id = ?", (index,))

    def spans(self) -> list[tuple[int, str, str, float, float]]:
        """Timed work as (proposal, track, name, start, seconds); empty for journals without it."""
        with any_journal(self.folder) as journal:
            if not journal.select("SELECT 1 FROM sqlite_master WHERE name = 'spans'"):
                return []
            rows = journal.select("SELECT id, lane, name, started_at, seconds FROM spans")
            if journal.turn_count:
                rows += journal.select("SELECT id, 'turns', kind || ' ' || name, asked_at, elapsed_s FROM turns")
            return [tuple(row) for row in rows]


_LOOK = """SELECT (SELECT count(*) FROM proposals), (SELECT count(*) FROM answers), (SELECT count(*) FROM results),
    (SELECT group_concat(key || value) FROM meta)"""
_FULL = """SELECT p.system, p.user, a.text AS answer, a.error, r.message, r.source, r.feedback, r.decisions
    FROM proposals p LEFT JOIN answers a ON a.id = p.id LEFT JOIN results r ON r.id = p.id"""


def _score(text: str | None) -> Score | None:
    return cast(Score, json.loads(text)) if text else None


def _node(row: sqlite3.Row, started: float) -> Node:
    done, said = row["status"] is not None, row["model"] is not None
    seed = row["kind"] == "seed"
    return Node(
        id=row["id"],
        kind=row["kind"],
        island=row["island"],
        parent=row["parent"],
        inspirations=json.loads(row["inspirations"]),
        status=row["status"] if done else ANSWERED if said else ASKED,
        message=(row["message"] if done else row["error"]) or "",
        note=row["note"] or "",
        rationale="" if row["note"] else rationale_of(row["begins"] or ""),
        model=row["model"] or ("seed" if seed else ""),
        train=_score(row["train"]),
        holdout=_score(row["holdout"]),
        features=json.loads(row["features"] or "{}"),
        duplicate_of=row["duplicate_of"],
        displaced=json.loads(row["displaced"] or "[]"),
        tokens_in=row["tokens_in"] or 0,
        tokens_out=row["tokens_out"] or 0,
        cost_usd=row["cost_usd"] or 0.0,
        answer_s=row["answer_s"],
        elapsed_s=row["elapsed_s"],
        asked_at_s=round(row["asked_at"] - started, 4),
        committed_at_s=round(row["committed_at"] - started, 4) if done else None,
    )


def scored(nodes: list[Node]) -> list[Node]:
    """Nodes with scores."""
    return [n for n in nodes if n["status"] == Status.OK.value and n["train"] is not None]


def winner_of(nodes: list[Node]) -> Node | None:
    """Winner, by the rules of `run_folder.pick_best`."""

    def order(node: Node) -> WinnerOrder:
        score = node["holdout"] or node["train"]
        assert score is not None
        return winner_order(node["features"], score["score"], node["id"])

    return min(scored(nodes), key=order, default=None)


def leader_of(nodes: list[Node]) -> Node | None:
    """Leader on the training shapes, by the rules of `run_folder.pick_leader`."""

    def order(node: Node) -> tuple[float, float, int]:
        assert node["train"] is not None
        return (-node["train"]["score"], node["features"].get("complexity", 0.0), node["id"])

    return min(scored(nodes), key=order, default=None)
