"""evosplit's own search, under the baselines' budget."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from evaluators.data.evaluation import Evaluation
from evaluators.data.launches import AnyDecision
from evolve.baselines.problem import Counted, Problem
from evolve.baselines.tally import Tally
from evolve.proposers import open_proposer
from evolve.proposers.base import Proposer
from evolve.search.controller import Controller


class _Judge:
    """Counts the controller's evaluations; repeated ones of known programs, for feedback, are free."""

    def __init__(self, problem: Problem, tally: Tally) -> None:
        self.description, self.grows = problem.judge.description, problem.judge.grows
        self._problem, self._tally = problem, tally
        self._known: set[str] = set()

    def evaluate(self, source: str) -> Evaluation:
        if source in self._known:
            return self._problem.judge.evaluate(source)
        self._known.add(source)
        return self._tally.judge(source)

    def score(self, source: str, decisions: Sequence[AnyDecision]) -> Evaluation:
        return self._problem.judge.score(source, decisions)

    def recheck(self, source: str, evaluation: Evaluation) -> Evaluation:
        return self._problem.judge.recheck(source, evaluation)


def evosplit_search(problem: Problem, tally: Tally, seed: int) -> None:
    """Run the search that the configuration describes, without constant fitting."""
    _run(problem, tally, seed, fit=0)


def evosplit_fitted(problem: Problem, tally: Tally, seed: int) -> None:
    """Run the same search with constant fitting: as configured, or every third proposal."""
    _run(problem, tally, seed, fit=problem.config.constants.every or 3)


def _run(problem: Problem, tally: Tally, seed: int, *, fit: int) -> None:
    calls = tally.budget.model_calls
    # Fits are proposals without a model call.
    proposals = calls if not fit else calls + calls // max(1, fit - 1)
    # One at a time: several running proposals could exceed a budget.
    update = {"proposals": proposals, "window": 1, "parallel_proposals": 1, "parallel_evaluations": 1}
    search = problem.config.search.model_copy(update=update)
    config = problem.config.model_copy(update={"random_seed": seed, "search": search})
    proposer: Proposer = Counted(open_proposer(config.proposer), tally)
    if fit:
        from evolve.proposers.fitting import FittingProposer

        constants = config.constants.model_copy(update={"every": fit})
        inner = Counted(open_proposer(config.proposer), tally, look_ups=False)
        fitting = FittingProposer(inner, problem.judge, constants, islands=search.islands)
        proposer = Counted(fitting, tally, calls=False)
    with tempfile.TemporaryDirectory(prefix="evosplit-baseline-") as folder:
        controller = Controller(config, _Judge(problem, tally), proposer, Path(folder), seeds=list(problem.seeds))
        controller.run()
