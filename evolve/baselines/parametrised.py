"""A parametrised policy: its form is given, a numeric search finds the numbers. No model is asked."""

from __future__ import annotations

from evaluators.data.workloads import Split
from evaluators.judge.fast_score import Scorer
from evaluators.language.gate import parse_program
from evaluators.language.literals import Number
from evaluators.sandbox.tables import Tables
from evolve.baselines.problem import Problem
from evolve.baselines.tally import ComparisonBudgetSpent, Tally
from evolve.errors import UserError
from evolve.tuning.constants import Method, search_of
from evolve.tuning.tunables import tunables


def policy_optuna(problem: Problem, tally: Tally, seed: int) -> None:
    """Optuna's TPE on the policy's numbers."""
    _fit(problem, tally, seed, "tpe")


def policy_coordinate(problem: Problem, tally: Tally, seed: int) -> None:
    """Our own coordinate search on the policy's numbers."""
    _fit(problem, tally, seed, "coordinate")


def _fit(problem: Problem, tally: Tally, seed: int, method: Method) -> None:
    import random

    program = parse_program(problem.policy)
    known = tunables(program, problem.judge.target)
    if not known:
        raise UserError("the policy holds no number that may move", hint="mark lines with # tune LOW..HIGH")
    judge = problem.judge
    tables = Tables(judge.gpu, judge.questions, judge.limits, target=judge.target)
    scorer = Scorer(problem.judge)
    whole = problem.judge.oracle_log_gain

    def objective(numbers: list[Number]) -> float:
        tally.check()
        decisions = opened.run(numbers)
        fits = None if decisions is None else scorer.fits(decisions)
        if decisions is None or fits is None:
            tally.failed()
            return 0.0
        train, holdout = fits[Split.TRAIN], fits[Split.HOLDOUT]
        shares = (train.log_gain / whole[Split.TRAIN], holdout.log_gain / whole[Split.HOLDOUT])
        digest = decisions.digest().hex()
        tally.scored(digest, train.score, shares, train.regressions + holdout.regressions)
        return train.score

    own = [t.value for t in known]
    with tables.open(program, {t.position: (t.low, t.high) for t in known}) as opened:
        try:
            most = tally.budget.look_ups // tally.train_shapes + 1
            search_of(method)(objective, known, objective(own), most, random.Random(seed))
        except ComparisonBudgetSpent:
            pass
