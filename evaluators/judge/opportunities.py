"""Feedback and features of an evaluation, from the training shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

from evaluators.data.evaluation import Feedback, Opportunity
from evaluators.data.sums import total
from evaluators.language.gate import Program
from evaluators.scoring.outcomes import DecisionOutcome, Outcomes
from evaluators.scoring.score import MISSING_LOG_SPEEDUP


def features_of(
    program: Program, known: Outcomes, outcomes: Mapping[str, DecisionOutcome], weights: Mapping[str, float]
) -> dict[str, float]:
    """MAP-Elites dimensions of a program.

    `outcomes` of its decisions and `weights` of the training cases, which add up to 1, are by case id.
    """
    # At least 1 on every shape; weights add up to 1 but for rounding.
    splits = max(1.0, total(w * outcomes[i].mean_live_splits for i, w in weights.items()))
    changed = sum(outcomes[i].launch != known.facts[i].baseline_launch for i in weights) / len(weights)
    return {"complexity": float(program.complexity), "mean_splits": splits, "share_changed": changed}


def feedback_of(known: Outcomes, outcomes: Mapping[str, DecisionOutcome], weights: Mapping[str, float]) -> Feedback:
    """Training cases by remaining gain, and regressed ones by cost, both in descending order.

    `outcomes` of the program's decisions and `weights` of the training cases are by case id.
    """
    rows: list[tuple[bool, Opportunity]] = []
    for case_id, weight in weights.items():
        facts, outcome = known.facts[case_id], outcomes[case_id]
        result, of_case = outcome.result, known.known(case_id)
        log_speedup = result.log_speedup if result else MISSING_LOG_SPEEDUP
        opportunity = Opportunity(
            name=case_id,
            shape=facts.case.shape,
            view=facts.view,
            work=facts.works[known.target.work_at(outcome.shown)],
            decided=outcome.shown,
            cap=outcome.cap,
            best=of_case.best,
            speedup=math.exp(log_speedup),
            gain=max(0.0, of_case.gains[of_case.oracle.cell].log_speedup - log_speedup),
            weight=weight,
            look_up=of_case.gain,
            known=of_case.known_launches,
            missing=result is None,
        )
        rows.append((result is not None and result.regression, opportunity))
    rows.sort(key=lambda row: -row[1].weight * row[1].gain)
    lost = sorted((o for bad, o in rows if bad), key=lambda o: o.weight * math.log(o.speedup))
    return Feedback(tuple(o for _, o in rows), tuple(lost), known.setting, known.gpu)
