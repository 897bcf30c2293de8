"""The judge: source in, evaluation out.

gate -> sandbox -> decision table -> canonical launches -> latencies -> score. The code of a candidate is
seen by the gate and run by the sandbox alone; everything after that sees decisions.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from evaluators.contract import Decision, DecodeShape, Gpu, Mode, Setting, baseline_decision
from evaluators.dispatch import num_splits_heuristic, shape_view, stock_blocks_per_split, work_view
from evaluators.evaluation import Evaluation, Feedback, Opportunity, SplitScore
from evaluators.gate import Program, ProgramRefused, parse_program
from evaluators.latency import LatencySource, TableSource, UnrecordedError
from evaluators.launch import canonical_launch, spelled_out, workspace_bytes
from evaluators.oracle import OracleShape, log_speedups, oracle_of
from evaluators.recheck import SecondLook
from evaluators.regressions import Regression, regression_of
from evaluators.sandbox import Answers, Limits, Question, Sandbox
from evaluators.score import ShapeResult, shape_result, split_score
from evaluators.status import Status
from evaluators.table import Cell, read_table, restrict
from evaluators.workloads import Case, Split, Weighting, weights

WORKSPACE_CAP_MB = 256
"""Default cap on the fp32 workspace of one decision: partial outputs cause out-of-memory in servers."""

OUTCOMES_KEPT = 20_000
"""Outcomes remembered; a search of any length must not fill the memory."""

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
    baseline: Decision
    baseline_launch: str


@dataclass(frozen=True, slots=True)
class Known:
    """What the latencies known so far say of one case: the oracle, and every launch with its log speed-up."""

    cells: Sequence[Cell]
    oracle: OracleShape
    curve: tuple[tuple[Decision, float], ...]


class Judge:
    """Judges programs on cases whose latencies a source knows or measures. Thread-safe."""

    def __init__(
        self,
        cases: Sequence[Case],
        setting: Setting,
        gpu: Gpu,
        source: LatencySource,
        *,
        description: Mapping[str, str],
        weighting: Weighting,
        limits: Limits,
        workspace_cap_mb: int = WORKSPACE_CAP_MB,
        vectorised: bool = False,
    ) -> None:
        """Prepare questions and weights.

        Args:
            cases: what is judged, less what the weighting leaves out.
            setting: how decode calls reach the kernel.
            gpu: what heuristics may know of it.
            source: where latencies come from.
            description: what the latencies are, for reports and for the journal of a run.
            weighting: how much each case counts.
            limits: of the sandbox, for one candidate.
            workspace_cap_mb: decisions that need more are unsafe.
            vectorised: ask numpy first and the sandbox only where that cannot answer; the decisions are the same.
        """
        self.setting, self.gpu = setting, gpu
        self.source = source
        self._cap_bytes = workspace_cap_mb * 2**20
        self._outcomes: dict[tuple[str, Decision], Outcome] = {}
        self._known: dict[str, Known] = {}
        self._looked = threading.local()
        by_split = {s: [c for c in cases if c.split is s] for s in Split}
        self.weights: dict[Split, dict[str, float]] = {
            s: weights(found, weighting) for s, found in by_split.items() if found
        }
        counted = {i for w in self.weights.values() for i in w}
        self._facts = {c.id: self._case_facts(c) for c in cases if c.id in counted}
        self._limits = limits
        self._sandbox = Sandbox(self.gpu, [f.question for f in self._facts.values()], limits)
        self._vectoriser = None
        if vectorised:
            from evaluators.vectorised import Vectoriser

            self._vectoriser = Vectoriser(self.gpu, self.questions)
        self.description = {
            "setting": self.setting.name,
            "weighting": weighting.value,
            "workspace_cap_mb": str(workspace_cap_mb),
            **description,
        }

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases that are judged."""
        return tuple(f.case for f in self._facts.values())

    @property
    def questions(self) -> tuple[Question, ...]:
        """What candidates are asked, in the order of `cases`."""
        return tuple(f.question for f in self._facts.values())

    def most_blocks(self, case_id: str) -> int:
        """Largest blocks per split that makes a difference on a case: recorded, or that of the longest sequence."""
        facts = self._facts[case_id]
        known = (self._spelled(facts.case, c.decision).blocks_per_split for c in self.source.cells(facts.case))
        return max(facts.question.work.max_n_blocks, *known)

    def recorded_cells(self, split: Split) -> int:
        """Launches recorded for the cases of a split."""
        return sum(len(self.source.cells(self._facts[i].case)) for i in self.weights[split])

    def _spelled(self, case: Case, decision: Decision) -> Decision:
        """The decision with FA3's own choices filled in."""
        return spelled_out(case.shape, self.setting, decision, self.gpu)

    def _case_facts(self, case: Case) -> CaseFacts:
        baseline = self._spelled(case, baseline_decision(self.setting))
        question = self._question(case.shape)
        work = asdict(question.work) if self.setting.mode is not Mode.STATIC else {}
        for name in ("n_blocks", "num_splits"):
            work.pop(name, None)
        launch = canonical_launch(case.shape, self.setting, baseline, self.gpu)
        return CaseFacts(case, question, asdict(question.shape), work, baseline, launch.key)

    def _knowledge(self, facts: CaseFacts) -> Known:
        """Oracle and curve of one case, kept until the source knows more."""
        case = facts.case
        cells = self.source.cells(case)
        known = self._known.get(case.id)
        if known is None or known.cells is not cells:
            if cells[0].launch != facts.baseline_launch:
                raise ValueError(
                    f"{case.id}: the first known launch is {cells[0].launch}, the baseline {facts.baseline_launch}"
                )
            logs = [log_speedups(cells[0].latencies_us, c.latencies_us) for c in cells]
            curve = tuple(
                (self._spelled(case, c.decision), sorted(row)[len(row) // 2])
                for c, row in zip(cells, logs, strict=True)
            )
            known = self._known[case.id] = Known(cells, oracle_of(cells), curve)
        return known

    @property
    def oracle_log_gain(self) -> dict[Split, float]:
        """Weighted log speed-up of the best launches known, by split."""
        return {
            s: sum(share * self._knowledge(self._facts[i]).oracle.log_gain for i, share in w.items())
            for s, w in self.weights.items()
        }

    def _question(self, shape: DecodeShape) -> Question:
        view = shape_view(shape, self.setting)
        stock = num_splits_heuristic(view, self.gpu.num_sms)
        return Question(view, stock, work_view(shape, self.setting, stock))

    @cached_property
    def _second_look(self) -> SecondLook:
        return SecondLook(
            {i: (f.case.shape, f.question) for i, f in self._facts.items()},
            question=self._question,
            gains=self._gains,
            weights=self.weights,
            gpu=self.gpu,
            limits=self._limits,
        )

    def _gains(self, decided: Sequence[tuple[str, Decision]]) -> list[float | None]:
        """Log speed-up of decisions on cases; None where one has no latency."""
        self._looked.gpu_s += self.source.prepare(self._unseen(decided))
        results = [self.outcome(case_id, decision).result for case_id, decision in decided]
        return [r.log_speedup if r else None for r in results]

    def evaluate(self, source: str) -> Evaluation:
        """Judge a program. Every failure is an evaluation with a status and a message, never an exception."""
        source_hash = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        try:
            program = parse_program(source)
        except ProgramRefused as refused:
            message = "\n".join(str(r) for r in refused.refusals)
            return Evaluation(refused.status, message, source_hash)
        answers = self._answers(program)
        if answers.status is not Status.OK:
            return Evaluation(answers.status, answers.message, source_hash, program.normal_form)
        return self._score(program, source_hash, answers.decisions)

    def regressions(self, evaluation: Evaluation) -> tuple[Regression, ...]:
        """The regressions of an evaluation of this judge, worst first, each with its class."""
        decided = dict(zip(self._facts, evaluation.decisions, strict=True))
        found = []
        for case_id in evaluation.regressed:
            case = self._facts[case_id].case
            ours, theirs = (
                canonical_launch(case.shape, self.setting, d, self.gpu)
                for d in (self._spelled(case, decided[case_id]), self._facts[case_id].baseline)
            )
            found.append(
                regression_of(case, self.setting, evaluation.speedups[case_id], ours, theirs, self.gpu.num_sms)
            )
        return tuple(sorted(found, key=lambda r: r.speedup))

    def recheck(self, source: str, evaluation: Evaluation) -> Evaluation:
        """Look again at a program that would become best; `evaluation` is what `evaluate` said of it, `OK`.

        See `SecondLook.look`.
        """
        self._looked.gpu_s = 0.0
        again = self._second_look.look(parse_program(source), evaluation)
        return replace(again, gpu_s=evaluation.gpu_s + self._looked.gpu_s)

    def _answers(self, program: Program) -> Answers:
        if self._vectoriser is not None:
            from evaluators.lanes import NotVectorisable

            started = time.monotonic()
            try:
                decisions = self._vectoriser.ask(program).decisions()
                return Answers(Status.OK, "", decisions, time.monotonic() - started)
            except NotVectorisable:
                pass
        return self._sandbox.ask(program)

    def outcome(self, case_id: str, decision: Decision) -> Outcome:
        """What a decision comes to on one case; remembered, since candidates repeat each other's decisions."""
        known = self._outcomes.get((case_id, decision))
        if known is None:
            known = self._fresh_outcome(self._facts[case_id], decision)
            # A launch that a growing source does not know yet may be measured later.
            if known.status is not Status.UNRECORDED or not self.source.grows:
                if len(self._outcomes) >= OUTCOMES_KEPT:
                    self._outcomes.clear()
                self._outcomes[case_id, decision] = known
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
            candidate = self.source.latency(case, chosen)
            baseline = self.source.latency(case, facts.baseline)
        except UnrecordedError as error:
            return Outcome(chosen, shown, launch.key, mean, None, error.status, str(error))
        result = shape_result(baseline, candidate, workspace_bytes=needed)
        return Outcome(chosen, shown, launch.key, mean, result, Status.OK, "")

    def _unseen(self, decided: Iterable[tuple[str, Decision]]) -> list[tuple[Case, Decision]]:
        """Decisions on cases not judged before that fit the workspace, the baselines of their cases among them."""
        wanted = []
        for case_id, decision in decided:
            if (case_id, decision) in self._outcomes:
                continue
            facts = self._facts[case_id]
            chosen = self._spelled(facts.case, decision)
            if workspace_bytes(facts.case.shape, chosen.num_splits) <= self._cap_bytes:
                wanted += [(facts.case, facts.baseline), (facts.case, chosen)]
        return wanted

    def _score(self, program: Program, source_hash: str, decisions: Sequence[Decision]) -> Evaluation:
        outcomes: dict[str, Outcome] = {}
        results: dict[str, ShapeResult] = {}
        gpu_s = self.source.prepare(self._unseen(zip(self._facts, decisions, strict=True)))
        for case_id, decision in zip(self._facts, decisions, strict=True):
            outcome = outcomes[case_id] = self.outcome(case_id, decision)
            if outcome.result is None:
                return Evaluation(outcome.status, outcome.message, source_hash, program.normal_form, gpu_s=gpu_s)
            results[case_id] = outcome.result
        oracle = self.oracle_log_gain
        scores = {s: split_score(results, w, oracle[s]) for s, w in self.weights.items()}
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
            gpu_s=gpu_s,
        )

    def _features(self, program: Program, outcomes: Mapping[str, Outcome]) -> dict[str, float]:
        """MAP-Elites dimensions over the training shapes."""
        shares = self.weights[Split.TRAIN]
        # At least 1 on every shape; shares add up to 1 but for rounding.
        splits = max(1.0, sum(w * outcomes[i].mean_live_splits for i, w in shares.items()))
        changed = sum(outcomes[i].launch != self._facts[i].baseline_launch for i in shares) / len(shares)
        return {"complexity": float(program.complexity), "mean_splits": splits, "share_changed": changed}

    def _feedback(self, outcomes: Mapping[str, Outcome]) -> Feedback:
        rows: list[tuple[bool, Opportunity]] = []
        for case_id, weight in self.weights[Split.TRAIN].items():
            facts, outcome = self._facts[case_id], outcomes[case_id]
            result = outcome.result
            assert result is not None
            known = self._knowledge(facts)
            best, best_log = known.curve[known.oracle.cell]
            opportunity = Opportunity(
                name=case_id,
                shape=facts.case.shape,
                view=facts.view,
                work=facts.work,
                decided=outcome.shown,
                best=best,
                speedup=math.exp(result.log_speedup),
                gain=max(0.0, best_log - result.log_speedup),
                weight=weight,
                curve=known.curve,
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
    vectorised: bool = False,
) -> Judge:
    """A judge on a recorded table; the test split stays sealed unless `splits` names it.

    Raises:
        TableError: the table cannot be read.
        SandboxUnavailable: this system cannot confine candidates.
    """
    table = restrict(read_table(table_folder), splits)
    return Judge(
        table.cases,
        table.setting,
        table.gpu,
        TableSource(table),
        description={
            "workload": str(table.card["workload"]),
            "table_sha256": table.digest,
            "gpu": str(table.card["device"]["name"]),
            "build": str(table.card["build"]),
        },
        weighting=weighting,
        limits=limits,
        workspace_cap_mb=workspace_cap_mb,
        vectorised=vectorised,
    )
