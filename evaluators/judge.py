"""The judge: source in, evaluation out.

gate -> sandbox -> decision table -> canonical launches -> latencies -> score. The code of a candidate is
seen by the gate and run by the sandbox alone; everything after that sees decisions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from evaluators.contract import Decision, Mode, baseline_decision
from evaluators.dispatch import num_splits_heuristic, shape_view, stock_blocks_per_split, work_view
from evaluators.evaluation import Evaluation, Feedback, Opportunity, SplitScore
from evaluators.gate import Program, ProgramRefused, parse_program
from evaluators.latency import LatencySource, TableSource, UnrecordedError
from evaluators.launch import canonical_launch, spelled_decision, workspace_bytes
from evaluators.oracle import OracleShape, log_speedups, oracle_of
from evaluators.sandbox import Limits, Question, Sandbox
from evaluators.score import ShapeResult, shape_result, split_score
from evaluators.status import Status
from evaluators.table import Table, read_table, restrict
from evaluators.workloads import Case, Split, Weighting, weights

WORKSPACE_CAP_MB = 256
"""Default cap on the fp32 workspace of one decision: partial outputs cause out-of-memory in servers."""

SEARCH_SPLITS = (Split.TRAIN, Split.HOLDOUT)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decision on one case, carried through to its result.

    Attributes:
        spelled: the decision with FA3's own choices filled in; blocks_per_split 0 where nothing is split.
        shown: the same with blocks_per_split also where nothing is split, for feedback.
        launch: key of its canonical launch.
        mean_live_splits: mean over the sequences.
        result: None where `status` says why there is none.
    """

    spelled: Decision
    shown: Decision
    launch: str
    mean_live_splits: float
    result: ShapeResult | None
    status: Status
    message: str


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """What never changes between candidates on one case."""

    case: Case
    question: Question
    view: dict[str, int | bool]
    work: dict[str, int]
    oracle: OracleShape
    baseline_launch: str
    curve: tuple[tuple[Decision, float], ...]


class Judge:
    """Judges programs on the cases of a table. Thread-safe."""

    def __init__(
        self,
        table: Table,
        source: LatencySource,
        *,
        weighting: Weighting,
        limits: Limits,
        workspace_cap_mb: int = WORKSPACE_CAP_MB,
    ) -> None:
        """Prepare questions, oracle and weights.

        Args:
            table: the recorded table; only its cases are judged.
            source: where latencies come from.
            weighting: how much each case counts.
            limits: of the sandbox, for one candidate.
            workspace_cap_mb: decisions that need more are unsafe.
        """
        self.setting, self.gpu = table.setting, table.gpu
        self._source = source
        self._cap_bytes = workspace_cap_mb * 2**20
        self._outcomes: dict[tuple[str, Decision], Outcome] = {}
        by_split = {s: [c for c in table.cases if c.split is s] for s in Split}
        self.weights: dict[Split, dict[str, float]] = {
            s: weights(cases, weighting) for s, cases in by_split.items() if cases
        }
        counted = {i for w in self.weights.values() for i in w}
        self._facts = {c.id: self._case_facts(c, table) for c in table.cases if c.id in counted}
        self.oracle_log_gain = {
            s: sum(share * self._facts[i].oracle.log_gain for i, share in w.items()) for s, w in self.weights.items()
        }
        self._sandbox = Sandbox(self.gpu, [f.question for f in self._facts.values()], limits)
        self.description = {
            "workload": str(table.card["workload"]),
            "setting": self.setting.name,
            "weighting": weighting.value,
            "table_sha256": table.digest,
            "gpu": str(table.card["device"]["name"]),
            "build": str(table.card["build"]),
            "workspace_cap_mb": str(workspace_cap_mb),
        }

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases that are judged."""
        return tuple(f.case for f in self._facts.values())

    def _spelled(self, case: Case, decision: Decision) -> Decision:
        """The decision with FA3's own choices filled in."""
        return spelled_decision(case.shape, self.setting, decision, self.gpu)

    def _case_facts(self, case: Case, table: Table) -> CaseFacts:
        view = shape_view(case.shape, self.setting)
        stock = num_splits_heuristic(view, self.gpu.num_sms)
        cells = table.cells[case.id]
        baseline = canonical_launch(case.shape, self.setting, baseline_decision(self.setting), self.gpu)
        if cells[0].launch != baseline.key:
            raise ValueError(f"{case.id}: the first recorded launch is {cells[0].launch}, the baseline {baseline.key}")
        logs = [log_speedups(cells[0].latencies_us, c.latencies_us) for c in cells]
        curve = tuple(
            (self._spelled(case, c.decision), sorted(row)[len(row) // 2]) for c, row in zip(cells, logs, strict=True)
        )
        question = Question(view, stock, work_view(case.shape, self.setting, stock))
        work = asdict(question.work) if self.setting.mode is not Mode.STATIC else {}
        for name in ("n_blocks", "num_splits"):
            work.pop(name, None)
        return CaseFacts(
            case=case,
            question=question,
            view=asdict(view),
            work=work,
            oracle=oracle_of(cells),
            baseline_launch=baseline.key,
            curve=curve,
        )

    def evaluate(self, source: str) -> Evaluation:
        """Judge a program. Every failure is an evaluation with a status and a message, never an exception."""
        source_hash = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        try:
            program = parse_program(source)
        except ProgramRefused as refused:
            message = "\n".join(str(r) for r in refused.refusals)
            return Evaluation(refused.status, message, source_hash)
        answers = self._sandbox.ask(program)
        if answers.status is not Status.OK:
            return Evaluation(answers.status, answers.message, source_hash, program.normal_form)
        return self._score(program, source_hash, answers.decisions)

    def _outcome(self, case_id: str, decision: Decision) -> Outcome:
        """What a decision comes to on one case; remembered, since candidates repeat each other's decisions."""
        known = self._outcomes.get((case_id, decision))
        if known is None:
            known = self._outcomes[case_id, decision] = self._fresh_outcome(self._facts[case_id], decision)
        return known

    def _fresh_outcome(self, facts: CaseFacts, decision: Decision) -> Outcome:
        case = facts.case
        chosen = self._spelled(case, decision)
        shown = chosen
        if self.setting.mode is not Mode.STATIC and chosen.num_splits == 1:
            work = facts.question.work
            blocks = decision.blocks_per_split or stock_blocks_per_split(work, self.gpu.num_sms - chosen.sm_margin)
            shown = replace(chosen, blocks_per_split=blocks)
        launch = canonical_launch(case.shape, self.setting, chosen, self.gpu)
        mean = sum(launch.live_splits) / len(launch.live_splits)
        needed = workspace_bytes(case.shape, chosen.num_splits)
        if needed > self._cap_bytes:
            message = (
                f"{case.id}: num_splits {chosen.num_splits} needs {needed / 2**20:.0f} MiB of fp32 workspace, the cap "
                f"is {self._cap_bytes // 2**20} MiB: use fewer splits at large batch * num_heads_q"
            )
            return Outcome(chosen, shown, launch.key, mean, None, Status.UNSAFE, message)
        try:
            candidate = self._source.latency(case, chosen)
            baseline = self._source.latency(case, self._spelled(case, baseline_decision(self.setting)))
        except UnrecordedError as error:
            return Outcome(chosen, shown, launch.key, mean, None, Status.UNRECORDED, str(error))
        result = shape_result(baseline, candidate, workspace_bytes=needed)
        return Outcome(chosen, shown, launch.key, mean, result, Status.OK, "")

    def _score(self, program: Program, source_hash: str, decisions: Sequence[Decision]) -> Evaluation:
        outcomes: dict[str, Outcome] = {}
        results: dict[str, ShapeResult] = {}
        for case_id, decision in zip(self._facts, decisions, strict=True):
            outcome = outcomes[case_id] = self._outcome(case_id, decision)
            if outcome.result is None:
                return Evaluation(outcome.status, outcome.message, source_hash, program.normal_form)
            results[case_id] = outcome.result
        scores = {s: split_score(results, w, self.oracle_log_gain[s]) for s, w in self.weights.items()}
        keys = "\n".join(f"{i} {outcome.launch}" for i, outcome in outcomes.items())
        return Evaluation(
            status=Status.OK,
            source_hash=source_hash,
            normal_form=program.normal_form,
            decisions_hash=hashlib.sha256(keys.encode()).hexdigest(),
            decisions=tuple(decisions),
            train=scores.get(Split.TRAIN),
            holdout=scores.get(Split.HOLDOUT),
            test=scores.get(Split.TEST),
            features=self._features(program, outcomes),
            speedups={i: r.speedup for i, r in results.items()},
            regressed=tuple(i for i, r in results.items() if r.regression),
            feedback=self._feedback(outcomes),
        )

    def _features(self, program: Program, outcomes: Mapping[str, Outcome]) -> dict[str, float]:
        """MAP-Elites dimensions over the training shapes."""
        shares = self.weights[Split.TRAIN]
        splits = sum(w * outcomes[i].mean_live_splits for i, w in shares.items())
        changed = sum(outcomes[i].launch != self._facts[i].baseline_launch for i in shares) / len(shares)
        return {"complexity": float(program.complexity), "mean_splits": splits, "share_changed": changed}

    def _feedback(self, outcomes: Mapping[str, Outcome]) -> Feedback:
        rows: list[tuple[bool, Opportunity]] = []
        for case_id, weight in self.weights[Split.TRAIN].items():
            facts, outcome = self._facts[case_id], outcomes[case_id]
            result = outcome.result
            assert result is not None
            best, best_log = facts.curve[facts.oracle.cell]
            opportunity = Opportunity(
                shape=facts.case.shape,
                view=facts.view,
                work=facts.work,
                decided=outcome.shown,
                best=best,
                speedup=math.exp(result.log_speedup),
                gain=max(0.0, best_log - result.log_speedup),
                weight=weight,
                curve=facts.curve,
            )
            rows.append((result.regression, opportunity))
        rows.sort(key=lambda row: -row[1].weight * row[1].gain)
        lost = sorted((o for bad, o in rows if bad), key=lambda o: o.weight * math.log(o.speedup))
        return Feedback(tuple(o for _, o in rows), tuple(lost), self.setting, self.gpu)


def scores_of(evaluation: Evaluation) -> dict[str, SplitScore]:
    """Scores by split name, those that were asked for."""
    named = {"train": evaluation.train, "holdout": evaluation.holdout, "test": evaluation.test}
    return {name: score for name, score in named.items() if score is not None}


def open_judge(
    table_folder: Path,
    *,
    weighting: Weighting,
    limits: Limits,
    workspace_cap_mb: int = WORKSPACE_CAP_MB,
    splits: Sequence[Split] = SEARCH_SPLITS,
) -> Judge:
    """A judge on a recorded table; the test split stays sealed unless `splits` names it.

    Raises:
        TableError: the table cannot be read.
        SandboxUnavailable: this system cannot confine candidates.
    """
    table = restrict(read_table(table_folder), splits)
    return Judge(table, TableSource(table), weighting=weighting, limits=limits, workspace_cap_mb=workspace_cap_mb)
