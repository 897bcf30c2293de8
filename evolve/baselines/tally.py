"""Spending of a method, its score after each evaluation, and the end of its budget."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.data.workloads import Split
from evaluators.judge.judge import Judge


class ComparisonBudgetSpent(Exception):
    """One of the budgets has run out; the message names it."""


@dataclass(frozen=True, slots=True)
class ComparisonBudget:
    """Budget of every method.

    Attributes:
        model_calls: answers asked of the proposer.
        decision_tables: distinct decision tables that are scored.
        look_ups: latencies looked up: training shapes times scored tables, and the proposer's own.
    """

    model_calls: int
    decision_tables: int
    look_ups: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A method after an evaluation: its spending, and its leader on the training shapes.

    Attributes:
        evaluations: programs or tables scored so far, repeated ones included.
        model_calls: answers asked of the proposer.
        train_score: the leader's score.
        train_share: its share of the oracle's gain on the training shapes.
        holdout_share: its share on the holdout.
        regressions: its regressions on training shapes and holdout together.
    """

    evaluations: int
    model_calls: int
    decision_tables: int
    look_ups: int
    train_score: float
    train_share: float
    holdout_share: float
    regressions: int


class Tally:
    """Counts one run of one method. Thread-safe."""

    def __init__(self, judge: Judge, budget: ComparisonBudget) -> None:
        """Start with nothing spent."""
        self._judge, self.budget = judge, budget
        self.train_shapes = len(judge.weights[Split.TRAIN])
        self.standings: list[Standing] = []
        self.stopped_by = ""
        self._lock = threading.RLock()
        self._calls = self._look_ups = 0
        self._tables: set[str] = set()
        self._leader = (0.0, 0.0, 0.0, 0)

    def check(self) -> None:
        """Raise an error if a budget has run out.

        Raises:
            ComparisonBudgetSpent: a budget has run out; the message names it.
        """
        spent = (
            ("model calls", self._calls, self.budget.model_calls),
            ("decision tables", len(self._tables), self.budget.decision_tables),
            ("look-ups", self._look_ups, self.budget.look_ups),
        )
        for name, used, most in spent:
            if used >= most:
                self.stopped_by = name
                raise ComparisonBudgetSpent(f"{name}: {used} of {most} spent")

    def call(self) -> None:
        """Count a model call, if the budgets allow one.

        Raises:
            ComparisonBudgetSpent: the budgets allow none.
        """
        with self._lock:
            self.check()
            self._calls += 1

    def look_up(self, count: int) -> None:
        """Count look-ups made outside the judge."""
        with self._lock:
            self._look_ups += count

    def scored(self, digest: str, train_score: float, shares: tuple[float, float], regressions: int) -> None:
        """Count a scored decision table; `shares` of the oracle's gain are on train and holdout."""
        with self._lock:
            self._look_ups += self.train_shapes
            self._tables.add(digest)
            if train_score > self._leader[0]:
                self._leader = (train_score, *shares, regressions)
            self._stand()

    def failed(self) -> None:
        """Count an evaluation without a score, which may have looked up as much."""
        with self._lock:
            self._look_ups += self.train_shapes
            self._stand()

    def _stand(self) -> None:
        spent = (len(self.standings) + 1, self._calls, len(self._tables), self._look_ups)
        self.standings.append(Standing(*spent, *self._leader))

    def judge(self, source: str) -> Evaluation:
        """Judge a program and count it."""
        found = self._judge.evaluate(source)
        self.count(found)
        return found

    def count(self, found: Evaluation) -> None:
        """Count an evaluation made by the judge."""
        if found.status is not Status.OK or found.train is None or found.holdout is None:
            self.failed()
            return
        shares = (found.train.oracle_share, found.holdout.oracle_share)
        lost = found.train.regressions + found.holdout.regressions
        self.scored(found.decisions_hash, found.train.score, shares, lost)
