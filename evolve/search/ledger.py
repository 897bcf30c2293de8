"""The ledger: leader, counts and duplicates of the commits so far.

The leader and the counts are rebuilt by replaying the commits. Known programs are looked up in the journal, so that a
long search needs no more memory than a short one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from evaluators.data.evaluation import Evaluation, SplitScore
from evaluators.data.status import Status
from evolve.config import StopConfig
from evolve.journal.journal import Journal

RECHECKED = 2
"""Number of an island's best programs on the training shapes that are rechecked; a recheck costs seven evaluations."""


@dataclass(frozen=True, slots=True)
class Original:
    """Earlier proposal that a duplicate repeats, and the kind of match: source, syntax tree or decisions."""

    id: int
    same: str


@dataclass(frozen=True, slots=True)
class Leader:
    """Best program on the training shapes so far."""

    id: int
    train: SplitScore


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """State of a run after a commit, for a live display.

    Attributes:
        done: proposals committed.
        best_id: number of the leader on the training shapes.
        failures: programs refused or failed.
        duplicates: programs that repeat an earlier one.
        seconds_left: estimated wall time of the rest.
    """

    done: int
    total: int
    best_id: int
    best: SplitScore
    failures: int
    duplicates: int
    seconds: float
    seconds_left: float


class Ledger:
    """Known programs, the leader, counts."""

    def __init__(self, journal: Journal) -> None:
        """Start before the first seed; `journal` has the results committed so far."""
        self._journal = journal
        self.leader: Leader | None = None
        self._best_of: dict[int | None, list[float]] = {}
        self.failed = 0
        self.duplicates = 0

    def knows(self, source_hash: str, normal_form: str) -> bool:
        """True if a source or a syntax tree was committed before."""
        return any(
            self._first(column, digest) is not None
            for column, digest in (("source_hash", source_hash), ("normal_form", normal_form))
        )

    def original(self, evaluation: Evaluation) -> Original | None:
        """Earlier proposal that this one repeats, if any.

        A strictly simpler program with the same decisions is not a duplicate.
        """
        for same, column in (("source", "source_hash"), ("syntax tree", "normal_form")):
            found = self._first(column, getattr(evaluation, column))
            if found is not None:
                return Original(found, same)
        rows = []
        if evaluation.decisions_hash:
            rows = self._journal.select(
                "SELECT id, features FROM results WHERE decisions_hash = ? AND status = ? ORDER BY id",
                (evaluation.decisions_hash, Status.OK.value),
            )
        simplest = min((json.loads(row["features"])["complexity"] for row in rows), default=float("inf"))
        return Original(rows[0]["id"], "decisions") if evaluation.features.get("complexity", 0) >= simplest else None

    def _first(self, column: str, digest: str) -> int | None:
        """First proposal with a digest that is not itself a duplicate."""
        if not digest:
            return None
        rows = self._journal.select(
            f"SELECT id FROM results WHERE {column} = ? AND status <> ? ORDER BY id LIMIT 1",
            (digest, Status.DUPLICATE.value),
        )
        return rows[0]["id"] if rows else None

    def may_win(self, evaluation: Evaluation, island: int | None = None) -> bool:
        """True if this would be among the `RECHECKED` best of its island on the training shapes, or tie with them.

        Such programs are rechecked, and the holdout picks the winner among them. The holdout does not decide on
        rechecks: proposers see their findings, and must learn nothing about the holdout. Seeds belong to all islands.
        """
        train = evaluation.train
        if evaluation.status is not Status.OK or train is None:
            return False
        known = sorted(self._best_of.get(None, []) + (self._best_of.get(island, []) if island is not None else []))
        return len(known) < RECHECKED or train.score >= known[-RECHECKED]

    def commit(self, index: int, evaluation: Evaluation, island: int | None = None) -> None:
        """Record a result, in index order; without an island, that of a seed."""
        if evaluation.status is Status.DUPLICATE:
            self.duplicates += 1
        elif evaluation.status is not Status.OK:
            self.failed += 1
        elif (train := evaluation.train) is not None:
            self._best_of[island] = sorted([*self._best_of.get(island, []), train.score])[-RECHECKED:]
            if self.leader is None or train.score > self.leader.train.score:
                self.leader = Leader(index, train)

    def reached(self, stop: StopConfig, index: int) -> str:
        """Stop condition that holds at commit `index`, with the reason; empty if none holds."""
        leader = self.leader
        if leader is None:
            return ""
        train = leader.train
        if stop.score is not None and train.score >= stop.score:
            return f"search.stop.score: proposal {leader.id} scores {train.score:.4f}"
        if stop.oracle_share is not None and train.oracle_share >= stop.oracle_share:
            return f"search.stop.oracle_share: proposal {leader.id} has {100 * train.oracle_share:.1f}%"
        if stop.stall is not None and index - leader.id >= stop.stall:
            return f"search.stop.stall: {index - leader.id} proposals without gain over proposal {leader.id}"
        return ""

    def progress(self, done: int, total: int, seconds: float) -> SearchProgress:
        """State after `done` of `total` proposals, at least one, in `seconds`."""
        assert self.leader is not None
        left_s = seconds / done * (total - done)
        best = self.leader
        return SearchProgress(done, total, best.id, best.train, self.failed, self.duplicates, seconds, left_s)
