"""The methods that are compared under one budget.

Best of N asks the proposer N times to improve a seed, without its own earlier results; evosplit's own search asks as
its configuration says. The others ask no model: programs written at random, none derived from another; a policy whose
form is given and whose numbers a search finds; the best recorded launch of every shape, an upper bound for all rules.
"""

from __future__ import annotations

import asyncio
import math
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from evaluators.data.contract import Mode
from evaluators.data.evaluation import Evaluation
from evaluators.data.launches import AnyDecision
from evaluators.data.workloads import Split
from evaluators.judge.fast_score import Scorer
from evaluators.language.gate import parse_program
from evaluators.language.literals import Number
from evaluators.sandbox.tables import Tables
from evolve.baselines.problem import Counted, Problem
from evolve.baselines.tally import ComparisonBudgetSpent, Tally
from evolve.errors import UserError
from evolve.prompts.lessons import Lessons
from evolve.prompts.prompts import Prompts
from evolve.prompts.templates import load_templates
from evolve.proposal import ProgramRecord, Request
from evolve.proposers import open_proposer
from evolve.proposers.base import Proposer, ProposerError
from evolve.search.controller import Controller
from evolve.search.responses import FrozenCodeChanged, UnreadableAnswer, program_from
from evolve.tuning.constants import Method, search_of
from evolve.tuning.tunables import tunables

SHAPE = ("batch", "seqlen_k", "num_heads_kv", "num_n_blocks", "total_mblocks")
WORK = ("batch", "num_heads_kv", "num_splits", "total_n_blocks", "max_n_blocks", "min_n_blocks")
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 132, 264)
DEPTH, RULES = 3, 3


def best_of_n(problem: Problem, tally: Tally, seed: int) -> None:
    """Spend the budget on independent improvements of the seeds."""
    asyncio.run(_best_of_n(problem, tally, seed))


async def _best_of_n(problem: Problem, tally: Tally, seed: int) -> None:
    parents = [ProgramRecord(i, source, tally.judge(source)) for i, source in enumerate(problem.seeds)]
    proposer = Counted(open_proposer(problem.config.proposer), tally)
    prompts = Prompts(
        load_templates(problem.config.prompts, problem.judge.description["setting"]), problem.judge.description
    )
    index = len(parents)
    try:
        while not tally.stopped_by:
            parent = parents[index % len(parents)]
            diff = index % 2 == 0
            request = Request(
                index=index,
                island=index % problem.config.search.islands,
                parent=parent,
                inspirations=(),
                system=prompts.system,
                user=prompts.user(parent, (), Lessons(), diff=diff),
                diff=diff,
                seed=seed * 1_000_003 + index,
            )
            index += 1
            try:
                answer = await proposer.propose(request)
                source = program_from(answer.text, parent.source)
            except ProposerError:
                continue
            except (UnreadableAnswer, FrozenCodeChanged):
                tally.failed()
                continue
            tally.judge(source)
    finally:
        await proposer.aclose()


class _Counting:
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
    _own_search(problem, tally, seed, fit=0)


def evosplit_fitted(problem: Problem, tally: Tally, seed: int) -> None:
    """Run the same search with constant fitting: as configured, or every third proposal."""
    _own_search(problem, tally, seed, fit=problem.config.constants.every or 3)


def _own_search(problem: Problem, tally: Tally, seed: int, *, fit: int) -> None:
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
        controller = Controller(config, _Counting(problem, tally), proposer, Path(folder), seeds=list(problem.seeds))
        controller.run()


def random_search(problem: Problem, tally: Tally, seed: int) -> None:
    """Spend the budget of tables and look-ups; nothing calls a model."""
    rng = random.Random(seed)
    metadata = problem.judge.setting.mode is not Mode.STATIC
    try:
        while True:
            tally.check()
            tally.judge(random_program(rng, metadata=metadata))
    except ComparisonBudgetSpent:
        pass


def random_program(rng: random.Random, *, metadata: bool) -> str:
    """Write a program of rules whose conditions and results are random expressions over the fields."""
    lines = ["import math", "", "", "def schedule(shape, gpu):"]
    lines += _rules(rng, SHAPE, "shape", "max(1, min(64, int({}))), None, 0", "0, None, 0")
    if metadata:
        lines += ["", "", "def blocks_per_split(work, gpu):"]
        lines += _rules(rng, WORK, "work", "max(1, int({}))", "0")
    return "\n".join(lines) + "\n"


def _rules(rng: random.Random, fields: tuple[str, ...], view: str, result: str, stock: str) -> list[str]:
    lines = []
    for _ in range(rng.randint(0, RULES)):
        left, right = _expression(rng, fields, view, 1), _expression(rng, fields, view, 1)
        lines.append(f"    if {left} {rng.choice(('<', '<=', '>', '>='))} {right}:")
        lines.append(f"        return {result.format(_expression(rng, fields, view, DEPTH))}")
    # FA3's own choice elsewhere, half of the time: it is best for most shapes.
    last = stock if rng.random() < 0.5 else result.format(_expression(rng, fields, view, DEPTH))
    return [*lines, f"    return {last}"]


def _expression(rng: random.Random, fields: tuple[str, ...], view: str, depth: int) -> str:
    kind = (
        rng.choice(("field", "number", "operator", "operator", "function"))
        if depth
        else rng.choice(("field", "number"))
    )
    if kind == "field":
        return f"{view}.{rng.choice(fields)}"
    if kind == "number":
        return str(rng.choice(SIZES))
    one, other = (_expression(rng, fields, view, depth - 1) for _ in range(2))
    if kind == "operator":
        op = rng.choice(("+", "-", "*", "/", "//"))
        return f"({one} {op} max(1, {other}))" if "/" in op else f"({one} {op} {other})"
    return rng.choice((f"min({one}, {other})", f"max({one}, {other})", f"math.ceil({one})"))


def policy_optuna(problem: Problem, tally: Tally, seed: int) -> None:
    """Optuna's TPE on the policy's numbers."""
    _fit_policy(problem, tally, seed, "tpe")


def policy_coordinate(problem: Problem, tally: Tally, seed: int) -> None:
    """Our own coordinate search on the policy's numbers."""
    _fit_policy(problem, tally, seed, "coordinate")


def _fit_policy(problem: Problem, tally: Tally, seed: int, method: Method) -> None:
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


def table_oracle(problem: Problem, tally: Tally, seed: int) -> None:
    """Look at all cells once; the shares are 1 by definition, and there are no regressions.

    The oracle's gain is cross-fitted (chosen on half of the rounds, scored on the other half), so that picking among
    noisy readings adds nothing to it.
    """
    del seed
    tally.look_up(problem.judge.recorded_cells(Split.TRAIN) - tally.train_shapes)
    gain = problem.judge.oracle_log_gain[Split.TRAIN]
    tally.scored("oracle", math.exp(gain), (1.0, 1.0), 0)
