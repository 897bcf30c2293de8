"""State of a running search, read incrementally from its journal."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from evaluators.data.evaluation import SplitScore
from evaluators.data.status import Status
from evolve.config import RunConfig
from evolve.errors import UserError
from evolve.journal.entry import WinnerOrder, score_of, winner_order
from evolve.journal.journal import FILE_NAME, Spending, open_journal

PACE_OVER = 20
"""Number of last commits for the estimate of the remaining time."""

MESSAGE_CHARS = 200

NOTHING = Spending()

_COMMITS = f"""SELECT r.id, p.kind, r.status, r.train, r.holdout, r.features, r.committed_at,
    substr(r.message, 1, {MESSAGE_CHARS}) AS message
    FROM results r JOIN proposals p ON p.id = r.id WHERE r.id > ? ORDER BY r.id"""


@dataclass(frozen=True, slots=True)
class BestSoFar:
    """Best program so far."""

    id: int
    train: SplitScore
    holdout: SplitScore | None


@dataclass(slots=True)
class RunWatch:
    """State of a run at the last look. Results are committed in order, so that each look reads only new ones.

    Attributes:
        folder: run folder, which may not exist yet.
        seeds: initial programs that have been judged.
        done: finished proposals, without seeds.
        under_way: number of requested proposals that are not committed.
        leader: best on the training shapes.
        winner: best by the rules of `run_folder.pick_best`.
        curve: best training score after each commit.
        statuses: number of proposals by status.
        causes: failures by status and first line of the message, with numbers masked.
        last_at: time of the last commit, in seconds since the epoch; None before the first.
    """

    folder: Path
    seeds: int = 0
    done: int = 0
    under_way: int = 0
    leader: BestSoFar | None = None
    winner: BestSoFar | None = None
    curve: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    causes: Counter[tuple[str, str]] = field(default_factory=Counter)
    spending: Spending = NOTHING
    last_at: float | None = None
    _seen: int = -1
    _order: WinnerOrder | None = None
    _times: list[float] = field(default_factory=list)

    def finished(self, config: RunConfig) -> bool:
        """True if the run is complete."""
        return self.seeds >= len(config.seeds) and self.done >= config.search.proposals

    def look(self) -> None:
        """Read new commits; changes nothing while the journal cannot be read, such as before there is one."""
        if not (self.folder / FILE_NAME).exists():
            return
        try:
            with open_journal(self.folder, read_only=True) as journal:
                rows = journal.select(_COMMITS, (self._seen,))
                asked = journal.select("SELECT count(*) FROM proposals")[0][0]
                committed = journal.select("SELECT count(*) FROM results")[0][0]
                spending = journal.spending()
        except (UserError, sqlite3.Error, OSError):  # it is being created or closed, or was moved
            return
        for row in rows:
            self._take(dict(row))
        self.under_way, self.spending = asked - committed, spending

    def _take(self, row: dict[str, object]) -> None:
        self._seen = int(str(row["id"]))
        self.last_at = float(str(row["committed_at"]))
        if row["kind"] == "seed":
            self.seeds += 1
        else:
            self.done += 1
            self.statuses[str(row["status"])] += 1
            self._times = [*self._times[-PACE_OVER:], self.last_at]
        if row["status"] == Status.OK.value:
            self._take_scores(str(row["train"] or ""), str(row["holdout"] or ""), json.loads(str(row["features"])))
        elif row["status"] != Status.DUPLICATE.value:
            self.causes[str(row["status"]), masked(str(row["message"]))] += 1
        if self.leader is not None:
            self.curve.append(self.leader.train.score)

    def _take_scores(self, train_text: str, holdout_text: str, features: dict[str, float]) -> None:
        train, holdout = score_of(train_text), score_of(holdout_text)
        if train is None:
            return
        found = BestSoFar(self._seen, train, holdout)
        if self.leader is None or train.score > self.leader.train.score:
            self.leader = found
        order = winner_order(features, (holdout or train).score, self._seen)
        if self._order is None or order < self._order:
            self._order, self.winner = order, found

    def seconds_left(self, wanted: int) -> float | None:
        """Estimated time for the rest at the pace of the last commits; None before the first."""
        if len(self._times) < 3 or self.done >= wanted:
            return None
        pace = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        return max(0.0, pace * (wanted - self.done) - (time.time() - self._times[-1]))


def masked(message: str) -> str:
    """First line of a message without numbers and shapes, to group similar failures."""
    line = message.strip().split("\n")[0]
    line = re.sub(r"\b[ur]-b\d+-h\d+x\d+-\w+", "a shape", line)
    return re.sub(r"(?<![A-Za-z_])\d[\d.,]*", "#", line)


BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int) -> str:
    """Sparkline of values in at most `width` characters, scaled from the least to the greatest."""
    if not values or width < 1:
        return ""
    count = min(width, len(values))
    picked = [values[max(0, (k + 1) * len(values) // count - 1)] for k in range(count)]
    low, high = min(picked), max(picked)
    if high <= low:
        return BARS[0] * count
    return "".join(BARS[round((v - low) / (high - low) * (len(BARS) - 1))] for v in picked)
