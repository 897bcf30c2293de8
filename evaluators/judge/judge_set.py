"""Several judges as one, for a heuristic that must do well on several recorded tables, e.g. of several GPUs."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import islice

from evaluators.data.evaluation import OVERFIT, Evaluation, SplitScore
from evaluators.data.launches import AnyDecision
from evaluators.data.status import Status
from evaluators.data.sums import total
from evaluators.data.workloads import Case
from evaluators.judge.judge import Judge
from evaluators.scoring.regressions import Regression


class Objective(StrEnum):
    """Definition of the score, and its combination over several tables.

    `WORST`: the lowest score, so that a gain on one table cannot make up for a loss on another.
    `MEAN`: their geometric mean.
    `TOKENS`: on one table, with shapes weighted by the time of attention in a model's decode steps.
    """

    WORST = "worst"
    MEAN = "mean"
    TOKENS = "tokens"


def combined_score(scores: Sequence[SplitScore], objective: Objective) -> SplitScore:
    """One split's score over several tables.

    Score, speed-up and share of the oracle are those of the table with the lowest score, or means; regressions,
    shapes and interpolations are added up; the worst shape and the largest workspace are those of all tables.
    """
    weakest = min(scores, key=lambda s: s.score)
    worst = objective is Objective.WORST
    return SplitScore(
        score=weakest.score if worst else _geomean([s.score for s in scores]),
        geomean_speedup=weakest.geomean_speedup if worst else _geomean([s.geomean_speedup for s in scores]),
        oracle_share=weakest.oracle_share if worst else statistics.fmean(s.oracle_share for s in scores),
        regressions=sum(s.regressions for s in scores),
        worst_speedup=min(s.worst_speedup for s in scores),
        shapes=sum(s.shapes for s in scores),
        workspace_bytes=max(s.workspace_bytes for s in scores),
        interpolated=sum(s.interpolated for s in scores),
        missing=sum(s.missing for s in scores),
    )


def _geomean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(v) for v in values))


def _combined(scores: Sequence[SplitScore | None], objective: Objective) -> SplitScore | None:
    """Combined score of a split; None unless every table has the split."""
    known = [s for s in scores if s is not None]
    return combined_score(known, objective) if len(known) == len(scores) else None


def _features(every: Sequence[Evaluation]) -> dict[str, float]:
    """Mean features over the tables; overfit if one table's evaluation is."""
    shared = [key for key in every[0].features if all(key in e.features for e in every)]
    marked = {OVERFIT: 1.0} if any(e.overfit for e in every) else {}
    return {key: statistics.fmean(e.features[key] for e in every) for key in shared} | marked


def table_labels(descriptions: Sequence[Mapping[str, str]]) -> list[str]:
    """Short distinct names of tables, from the parts of their descriptions that differ."""
    named = [f"{d['workload']}/{d['setting']}" for d in descriptions]
    devices = [f"{name}/{d['gpu']}" for name, d in zip(named, descriptions, strict=True)]
    for names in (named, devices):
        if len(set(names)) == len(names):
            return names
    return [f"{name}/{i}" for i, name in enumerate(devices, start=1)]


class JudgeSet:
    """Judge of programs on several tables. Thread-safe."""

    def __init__(self, judges: Mapping[str, Judge], objective: Objective) -> None:
        """Combine judges, named by the prefix of their case ids.

        Raises:
            ValueError: fewer than two judges, or an objective for one table.
        """
        if objective is Objective.TOKENS:
            raise ValueError("the objective tokens weighs the shapes of one table")
        if len(judges) < 2:
            raise ValueError(f"a set needs at least two judges, got {len(judges)}")
        self.judges, self.objective = dict(judges), objective
        every = [j.description for j in judges.values()]
        self.description = {key: " + ".join(dict.fromkeys(d[key] for d in every)) for key in every[0]}
        self.description["table_sha256"] = hashlib.sha256(
            "".join(sorted(d["table_sha256"] for d in every)).encode()
        ).hexdigest()
        self.description["objective"] = objective.value

    @property
    def cases(self) -> tuple[Case, ...]:
        """Cases of all tables, with ids prefixed by the table's name."""
        return tuple(replace(c, id=f"{name}/{c.id}") for name, j in self.judges.items() for c in j.cases)

    @property
    def grows(self) -> bool:
        """See `LatencySource.grows`."""
        return any(judge.grows for judge in self.judges.values())

    def evaluate_each(self, source: str) -> dict[str, Evaluation]:
        """Judge a program on table after table, up to the first on which it fails."""
        found: dict[str, Evaluation] = {}
        for name, judge in self.judges.items():
            found[name] = judge.evaluate(source)
            if found[name].status is not Status.OK:
                break
        return found

    def evaluate(self, source: str) -> Evaluation:
        """Evaluate as `Judge.evaluate`; a program that fails on one table fails."""
        return self.combine(self.evaluate_each(source))

    def score(self, source: str, decisions: Sequence[AnyDecision]) -> Evaluation:
        """Score as `Judge.score`; the decisions cover all tables, in the order of `cases`."""
        return self.combine(self._score_each(source, decisions))

    def _score_each(self, source: str, decisions: Sequence[AnyDecision]) -> dict[str, Evaluation]:
        left = iter(decisions)
        return {name: j.score(source, list(islice(left, len(j.cases)))) for name, j in self.judges.items()}

    def recheck(self, source: str, evaluation: Evaluation) -> Evaluation:
        """Recheck as `Judge.recheck` on every table; `evaluation` is the result of `evaluate`."""
        scored = self._score_each(source, evaluation.decisions)
        again = {name: self.judges[name].recheck(source, e) for name, e in scored.items()}
        combined = self.combine(again)
        return replace(
            combined,
            gpu_s=evaluation.gpu_s + combined.gpu_s,
            measured=(*evaluation.measured, *combined.measured),
        )

    def regressions(self, evaluation: Evaluation) -> tuple[Regression, ...]:
        """List regressions as `Judge.regressions`, with ids prefixed by the table's name."""
        found = [
            replace(regression, case=replace(regression.case, id=f"{name}/{regression.case.id}"))
            for name, own in self._parts(evaluation)
            for regression in self.judges[name].regressions(own)
        ]
        return tuple(sorted(found, key=lambda r: r.speedup))

    def _parts(self, evaluation: Evaluation) -> Iterator[tuple[str, Evaluation]]:
        """Decisions and speed-ups by table, under the table's own case ids."""
        start = 0
        for name, judge in self.judges.items():
            end, prefix = start + len(judge.cases), f"{name}/"
            yield (
                name,
                replace(
                    evaluation,
                    decisions=evaluation.decisions[start:end],
                    speedups={
                        i.removeprefix(prefix): s for i, s in evaluation.speedups.items() if i.startswith(prefix)
                    },
                    regressed=tuple(i.removeprefix(prefix) for i in evaluation.regressed if i.startswith(prefix)),
                    missing=tuple(i.removeprefix(prefix) for i in evaluation.missing if i.startswith(prefix)),
                ),
            )
            start = end

    def combine(self, found: Mapping[str, Evaluation]) -> Evaluation:
        """Combine evaluations by table into one, with the feedback of the table with the lowest training score."""
        gpu_s = total(e.gpu_s for e in found.values())
        measured = tuple(m for e in found.values() for m in e.measured)
        for name, e in found.items():
            if e.status is not Status.OK:
                return replace(e, message=f"{name}: {e.message}", gpu_s=gpu_s, measured=measured)
        every = list(found.values())
        weakest = min(every, key=lambda e: e.train.score if e.train else math.inf)
        return Evaluation(
            status=Status.OK,
            message="; ".join(f"{name}: {e.message}" for name, e in found.items() if e.message),
            source_hash=every[0].source_hash,
            normal_form=every[0].normal_form,
            decisions_hash=hashlib.sha256("".join(e.decisions_hash for e in every).encode()).hexdigest(),
            decisions=tuple(d for e in every for d in e.decisions),
            train=_combined([e.train for e in every], self.objective),
            holdout=_combined([e.holdout for e in every], self.objective),
            test=_combined([e.test for e in every], self.objective),
            features=_features(every),
            speedups={f"{name}/{i}": s for name, e in found.items() for i, s in e.speedups.items()},
            regressed=tuple(f"{name}/{i}" for name, e in found.items() for i in e.regressed),
            missing=tuple(f"{name}/{i}" for name, e in found.items() for i in e.missing),
            feedback=weakest.feedback,
            gpu_s=gpu_s,
            measured=measured,
        )
