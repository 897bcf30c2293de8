"""How far a search is, for whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass

from evaluators.data.evaluation import SplitScore
from evolve.search.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a run after a commit, for a live display."""

    done: int
    total: int
    best_id: int
    best: SplitScore
    failures: int
    duplicates: int
    seconds: float
    seconds_left: float


def progress_of(ledger: Ledger, done: int, total: int, seconds: float) -> Progress:
    """What the ledger says after `done` of `total` proposals, at least one; the time left is that of the past pace."""
    leader = ledger.leader
    assert leader is not None
    left_s = seconds / done * (total - done)
    return Progress(done, total, leader.id, leader.train, ledger.failed, ledger.duplicates, seconds, left_s)
