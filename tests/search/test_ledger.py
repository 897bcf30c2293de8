"""The ledger: who may win."""

from __future__ import annotations

from pathlib import Path

from evaluators.data.evaluation import Evaluation, SplitScore
from evaluators.data.status import Status
from evolve.journal.journal import FILE_NAME, Journal
from evolve.search.ledger import Ledger


def scored(train: float, holdout: float) -> Evaluation:
    known = [SplitScore(score, score, 0.5, 0, 1.0, 5, 0, 0) for score in (train, holdout)]
    return Evaluation(Status.OK, train=known[0], holdout=known[1])


def test_the_best_two_of_each_island_may_win_whatever_the_holdout_says(tmp_path: Path) -> None:
    ledger = Ledger(Journal(tmp_path / FILE_NAME))
    assert ledger.may_win(scored(1.0, 1.0))
    ledger.commit(0, scored(1.0, 1.0))
    for index, (island, train) in enumerate(((0, 1.3), (0, 1.2), (1, 1.1)), start=1):
        assert ledger.may_win(scored(train, 0.5), island)
        ledger.commit(index, scored(train, 0.5), island)
    assert ledger.may_win(scored(1.2, 0.1), 0) and not ledger.may_win(scored(1.19, 9.0), 0)
    assert ledger.may_win(scored(1.05, 0.1), 1) and not ledger.may_win(scored(0.9, 9.0), 1)
    assert not ledger.may_win(Evaluation(Status.RAISED), 1)
    assert ledger.leader and ledger.leader.id == 1
