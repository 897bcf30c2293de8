"""Outcomes of the arms: each run's leader on the training shapes, its holdout score, its cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evaluators.data.status import Status
from evaluators.data.workloads import Split
from evolve.baselines.methods import policy_coordinate
from evolve.baselines.problem import Problem
from evolve.baselines.tally import ComparisonBudget, Tally
from evolve.compare.arms import PLENTY, Equal, Operator, budget_of
from evolve.errors import UserError
from evolve.journal.journal import open_journal
from evolve.journal.run_folder import summarise
from evolve.journal.turns import ExpeditionOutcome
from evolve.run import held_config

UNJUDGED = (Status.NO_ANSWER, Status.FROZEN_CODE, Status.PROPOSER_FAILED, Status.LANGUAGE, Status.DUPLICATE)
"""Outcomes of a proposal that cost no evaluation, or hardly any."""


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One run of one arm.

    Shares of the oracle's gain are those of the leader on the training shapes: the holdout picks nothing here, so its
    share is not biased.

    Attributes:
        seed: random seed, by which runs of the arms are paired.
        who: models that answered, as the journal names them.
        budget: what its own configuration grants of the quantity that is compared; None if it does not limit it.
        train_share: share on the training shapes.
        holdout_share: share on the holdout.
        train_score: score on the training shapes, with the penalty for regressions.
        regressions: regressions on training shapes and holdout.
        evaluations: drafts judged, or tables scored.
        calls: answers of models.
        tokens: tokens of prompts and answers; 0 if they were not counted.
        usd: US dollars; 0 if they were not counted.
        submitted: expeditions with a child.
        dead: expeditions without a child.
        blind: expeditions that never evaluated anything.
    """

    arm: str
    seed: int
    who: str
    budget: float | None
    train_share: float
    holdout_share: float
    train_score: float
    regressions: int
    evaluations: int
    calls: int = 0
    tokens: int = 0
    usd: float = 0.0
    submitted: int = 0
    dead: int = 0
    blind: int = 0


def read_arm(arm: str, folder: Path, equal: Equal) -> tuple[ArmRun, dict[str, str]]:
    """A run as part of an arm, with its own budget of the quantity, and the description of its judge.

    Raises:
        UserError: it cannot be read, or has no leader.
    """
    summary, config = summarise(folder), held_config(folder)
    leader = summary.leader
    if leader is None or leader.holdout is None:
        raise UserError(f"{folder} holds no program with a score on the holdout")
    with open_journal(folder, read_only=True) as journal:
        ends = [turn.facts for turn in journal.turns("kind = 'end'")]
        drafts = [t.facts["draft"] for t in journal.turns("kind = 'tool'") if isinstance(t.facts.get("draft"), dict)]
        tables = sum(int(t.facts.get("fit_tables", 0)) for t in journal.turns("kind = 'tool'"))
        (models,) = journal.select(
            "SELECT group_concat(DISTINCT model) AS names, count(*) AS answers FROM answers WHERE model <> ''"
        )
        answers = len(journal.turns("kind = 'model'")) or models["answers"]
        about = {key: journal.meta(key) for key in ("workload", "setting", "weighting", "table_sha256")}
    statuses = {Status(name): count for name, count in summary.statuses.items()}
    judged = sum(count for status, count in statuses.items() if status not in UNJUDGED)
    if ends or drafts:
        judged = sum(bool(draft["charged"]) for draft in drafts) + tables
    outcomes = [ExpeditionOutcome(end["outcome"]) for end in ends]
    spent = summary.spending
    run = ArmRun(
        arm=arm,
        seed=config.random_seed,
        who=models["names"] or "",
        budget=budget_of(config, equal),
        train_share=leader.train.oracle_share,
        holdout_share=leader.holdout.oracle_share,
        train_score=leader.train.score,
        regressions=leader.train.regressions + leader.holdout.regressions,
        evaluations=judged,
        calls=answers,
        tokens=spent.tokens,
        usd=spent.cost_usd,
        submitted=outcomes.count(ExpeditionOutcome.SUBMITTED),
        dead=outcomes.count(ExpeditionOutcome.DEAD),
        blind=outcomes.count(ExpeditionOutcome.BLIND),
    )
    return run, about


def run_parametrised(problem: Problem, seed: int, tables: int) -> ArmRun:
    """Run the numeric search, with a limit of scored tables."""
    shapes = len(problem.judge.weights[Split.TRAIN])
    tally = Tally(problem.judge, ComparisonBudget(PLENTY, PLENTY, tables * shapes))
    policy_coordinate(problem, tally, seed)
    end = tally.standings[-1]
    return ArmRun(
        arm=Operator.PARAMETRISED.value,
        seed=seed,
        who="none",
        budget=tables,
        train_share=end.train_share,
        holdout_share=end.holdout_share,
        train_score=end.train_score,
        regressions=end.regressions,
        evaluations=end.evaluations,
    )
