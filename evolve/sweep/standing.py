"""State of a run, read from its journal while another process writes it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path

from evaluators.data.evaluation import SplitScore
from evaluators.data.status import Status
from evolve.config import RunConfig
from evolve.errors import UserError
from evolve.journal.entry import WinnerOrder, winner_order
from evolve.journal.journal import FILE_NAME, Spending, open_journal

_ROWS = """SELECT r.id, p.kind, r.status, r.train, r.holdout, r.features FROM results r JOIN proposals p ON p.id = r.id
    WHERE r.id > ? ORDER BY r.id"""


NOTHING = Spending()


@dataclass(frozen=True, slots=True)
class RunStanding:
    """Progress of a run.

    Attributes:
        seeds: initial programs that have been judged.
        done: finished proposals, without seeds.
        failed: proposals among them without a score, except duplicates.
        train: best score on the training shapes so far.
        winner: proposal that the holdout picks so far.
        winner_train: its scores on the training shapes.
        winner_holdout: its scores on the holdout; None without one.
        spending: cost of the run.
    """

    seeds: int = 0
    done: int = 0
    failed: int = 0
    train: SplitScore | None = None
    winner: int | None = None
    winner_train: SplitScore | None = None
    winner_holdout: SplitScore | None = None
    spending: Spending = NOTHING

    def finished(self, config: RunConfig) -> bool:
        """True if the run is complete."""
        return self.seeds >= len(config.seeds) and self.done >= config.search.proposals


class Follower:
    """Reads new results of a journal since the last look; results are committed in order and never change."""

    def __init__(self, folder: Path) -> None:
        """Follow a run folder, which may not exist yet."""
        self._folder = folder
        self._last = -1
        self._order: WinnerOrder | None = None
        self._standing = RunStanding()

    def look(self) -> RunStanding:
        """The state of the run; the last known one while the journal cannot be read."""
        if not (self._folder / FILE_NAME).exists():
            return self._standing
        try:
            with open_journal(self._folder, read_only=True) as journal:
                rows = journal.select(_ROWS, (self._last,))
                spending = journal.spending()
        except (UserError, sqlite3.Error):  # its last writer is closing it
            return self._standing
        for row in rows:
            self._take(row["id"], row["kind"], row["status"], row["train"], row["holdout"], row["features"])
        self._standing = replace(self._standing, spending=spending)
        return self._standing

    def _take(self, index: int, kind: str, status: str, train: str | None, holdout: str | None, features: str) -> None:
        self._last = index
        s = self._standing
        if kind == "proposal":
            failed = status not in (Status.OK.value, Status.DUPLICATE.value)
            s = replace(s, done=s.done + 1, failed=s.failed + failed)
        else:
            s = replace(s, seeds=s.seeds + 1)
        if status == Status.OK.value and train is not None:
            scores = SplitScore(**json.loads(train))
            held = SplitScore(**json.loads(holdout)) if holdout else None
            if s.train is None or scores.score > s.train.score:
                s = replace(s, train=scores)
            # The same order as in `run_folder.pick_best`.
            order = winner_order(json.loads(features), (held or scores).score, index)
            if self._order is None or order < self._order:
                self._order = order
                s = replace(s, winner=index, winner_train=scores, winner_holdout=held)
        self._standing = s
