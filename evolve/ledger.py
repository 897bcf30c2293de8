"""The ledger: what the commits so far add up to. Rebuilt by replaying them, never written down itself."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, replace

from evaluators.evaluation import Evaluation, SplitScore
from evaluators.status import Status

FAILURES_KEPT = 6
FAILURE_CHARS = 300


@dataclass(frozen=True, slots=True)
class Original:
    """The earlier proposal that a duplicate repeats, and in what: source, syntax tree or decisions."""

    id: int
    same: str


@dataclass(frozen=True, slots=True)
class Leader:
    """The best on the training shapes so far."""

    id: int
    train: SplitScore


class Ledger:
    """Which programs are known, recent failures by island, the leader, counts."""

    def __init__(self) -> None:
        """Before the first seed."""
        self.leader: Leader | None = None
        self._best_holdout = float("-inf")
        self.failed = 0
        self.duplicates = 0
        self._first: dict[str, int] = {}
        self._simplest: dict[str, float] = {}
        self._failures: dict[int, deque[str]] = defaultdict(lambda: deque(maxlen=FAILURES_KEPT))

    def knows(self, *digests: str) -> bool:
        """Whether a source hash or normal form was committed before. What is known stays known."""
        return any(digest in self._first for digest in digests)

    def failures(self, island: int) -> list[str]:
        """Recent failures on an island, oldest first."""
        return list(self._failures[island])

    def original(self, evaluation: Evaluation) -> Original | None:
        """What this repeats, if anything.

        The same decisions by a strictly simpler program are not a repetition: ties go to the simpler.
        """
        for same, digest in (("source", evaluation.source_hash), ("syntax tree", evaluation.normal_form)):
            if digest and digest in self._first:
                return Original(self._first[digest], same)
        digest = evaluation.decisions_hash
        if digest and digest in self._first and evaluation.features["complexity"] >= self._simplest[digest]:
            return Original(self._first[digest], "decisions")
        return None

    def would_lead(self, evaluation: Evaluation) -> bool:
        """Whether this would be the best so far, on the training shapes or on the holdout, or tie with it."""
        train, holdout = evaluation.train, evaluation.holdout
        if evaluation.status is not Status.OK or train is None:
            return False
        ahead = self.leader is None or train.score >= self.leader.train.score
        return ahead or (holdout is not None and holdout.score >= self._best_holdout)

    def commit(self, index: int, island: int, evaluation: Evaluation) -> None:
        """Take note of a result, in index order."""
        if evaluation.status is Status.DUPLICATE:
            self.duplicates += 1
        elif evaluation.status is Status.OK:
            self._remember(index, evaluation)
        else:
            self.failed += 1
            self._failures[island].append(f"{evaluation.status.value}: {evaluation.message[:FAILURE_CHARS]}")
            self._remember(index, replace(evaluation, decisions_hash=""))

    def _remember(self, index: int, evaluation: Evaluation) -> None:
        for digest in (evaluation.source_hash, evaluation.normal_form, evaluation.decisions_hash):
            if digest:
                self._first.setdefault(digest, index)
        if evaluation.train is None:
            return
        digest = evaluation.decisions_hash
        self._simplest[digest] = min(self._simplest.get(digest, float("inf")), evaluation.features["complexity"])
        if evaluation.holdout is not None:
            self._best_holdout = max(self._best_holdout, evaluation.holdout.score)
        if self.leader is None or evaluation.train.score > self.leader.train.score:
            self.leader = Leader(index, evaluation.train)
