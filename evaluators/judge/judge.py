"""The judge: source in, evaluation out.

gate -> sandbox -> decision table -> canonical launches -> latencies -> score. The code of a candidate is
seen by the gate and run by the sandbox alone; everything after that sees decisions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.data.contract import Gpu, Setting
from evaluators.data.evaluation import CONSTANT_BITS, OVERFIT, Evaluation, Feedback, Measuring, Opportunity
from evaluators.data.launches import AnyDecision
from evaluators.data.questions import Question
from evaluators.data.status import Status
from evaluators.data.sums import total
from evaluators.data.workloads import Case, Split, Weighting, cases_for, weights
from evaluators.judge.recheck import Recheck
from evaluators.language.gate import Program, ProgramRefused, parse_program
from evaluators.latencies.latency import LatencySource, TableSource
from evaluators.latencies.table import Table, read_table, restrict
from evaluators.sandbox.sandbox import HIDDEN, Limits, Sandbox
from evaluators.scoring.invariance import batch_variance
from evaluators.scoring.outcomes import DecisionOutcome, Outcomes
from evaluators.scoring.overfit import constant_bits, is_table, overfit_gain, penalised
from evaluators.scoring.regressions import Regression, regression_of
from evaluators.scoring.score import CHARGE, MISSING_LOG_SPEEDUP, split_score
from evaluators.targets.registry import with_live_lengths

if TYPE_CHECKING:
    from evaluators.measure.live import LiveSource

WORKSPACE_CAP_MB = 256
"""Default cap on the fp32 workspace of one decision: partial outputs cause out-of-memory in servers."""

JUDGE_VERSION = 3
"""Of the rules by which programs are scored, in the journals of runs.

Version 1, in journals that do not say: one shape whose launch has no recorded latency refused the whole program, other
combine kernels were not looked up, tables of constants were not marked, and the holdout decided what is rechecked.
Version 2: the same splits under another combine kernel were looked up only where nothing lay between.
"""

OLDEST_VERSION = 2
"""Rules by which a judge can still score."""


def readable_version(kept: str) -> int:
    """The rules nearest to those that a journal names by which a judge can score; journals of version 1 name none."""
    return min(max(OLDEST_VERSION, int(kept or 1)), JUDGE_VERSION)


def kernels_last(version: int) -> bool:
    """Whether these rules look for other combine kernels last: see `Target.latencies`."""
    return version < 3


Weigh = Callable[[Sequence[Case]], Mapping[str, float]]
"""Weights by case id, adding up to 1, of the cases of one split that count: those of 0 can still regress."""

SEARCH_SPLITS = (Split.TRAIN, Split.HOLDOUT)
DEFAULT_LIMITS = Limits()


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
        batch_invariant: bool = False,
        weigh: Weigh | None = None,
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
            batch_invariant: so are programs that cut a sequence by what shares its batch, on the training shapes.
            weigh: weights of its own, instead of those of the weighting, for the cases that the weighting counts.
        """
        self.setting, self.gpu = setting, gpu
        self.source = source
        by_split = {s: [c for c in cases if c.split is s] for s in Split}
        self.weights: dict[Split, dict[str, float]] = {
            s: _weights(found, weighting, weigh) for s, found in by_split.items() if found
        }
        counted = {i for w in self.weights.values() for i in w}
        self._outcomes = Outcomes(
            [c for c in cases if c.id in counted], setting, gpu, source, cap_bytes=workspace_cap_mb * 2**20
        )
        self._facts = self._outcomes.facts
        self.limits = limits
        self._shown = self.weights.get(Split.TRAIN, {})
        hidden = [at for at, i in enumerate(self._facts) if i not in self._shown]
        self.target = self._outcomes.target
        self._sandbox = Sandbox(
            self.gpu, [f.question for f in self._facts.values()], limits, target=self.target, hidden=hidden
        )
        self.description = {
            "setting": self.setting.name,
            "weighting": weighting.value,
            "workspace_cap_mb": str(workspace_cap_mb),
            "judge_version": str(JUDGE_VERSION),
            **({"batch_invariant": "true"} if batch_invariant else {}),
            **({"live_lengths": "true"} if setting.live_lengths else {}),
            **description,
        }
        self._batch_invariant = batch_invariant

    @property
    def grows(self) -> bool:
        """See `LatencySource.grows`."""
        return self.source.grows

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases that are judged."""
        return tuple(f.case for f in self._facts.values())

    @property
    def questions(self) -> tuple[Question, ...]:
        """What candidates are asked, in the order of `cases`."""
        return tuple(f.question for f in self._facts.values())

    def outcome(self, case_id: str, decision: AnyDecision) -> DecisionOutcome:
        """See `Outcomes.of`."""
        return self._outcomes.of(case_id, decision)

    def most_blocks(self, case_id: str) -> int:
        """See `Outcomes.most_blocks`."""
        return self._outcomes.most_blocks(case_id)

    def recorded_cells(self, split: Split) -> int:
        """Launches recorded for the cases of a split."""
        return sum(len(self.source.cells(self._facts[i].case)) for i in self.weights[split])

    @property
    def oracle_log_gain(self) -> dict[Split, float]:
        """Weighted log speed-up of the best launches known, by split."""
        return self._oracle_now() if self.grows else self._oracle_for_good

    @cached_property
    def _oracle_for_good(self) -> dict[Split, float]:
        return self._oracle_now()

    def _oracle_now(self) -> dict[Split, float]:
        return {
            s: total(share * self._outcomes.known(i).oracle.log_gain for i, share in w.items())
            for s, w in self.weights.items()
        }

    @cached_property
    def _recheck(self) -> Recheck:
        return Recheck(
            {i: (f.case.shape, f.question) for i, f in self._facts.items()},
            setting=self.setting,
            weights=self.weights,
            gpu=self.gpu,
            limits=self.limits,
        )

    def _gains(self, decided: Sequence[tuple[str, AnyDecision]], *, measured: list[Measuring]) -> list[float | None]:
        """Log speed-up of decisions on cases; None where one has no latency."""
        self._prepare(decided, measured)
        results = [self._outcomes.of(case_id, decision).result for case_id, decision in decided]
        return [r.log_speedup if r else None for r in results]

    def _prepare(self, decided: Iterable[tuple[str, AnyDecision]], measured: list[Measuring]) -> None:
        """Have measured what is not known; adds when that was to `measured`."""
        stretch = self.source.prepare(self._outcomes.unseen(decided))
        if stretch is not None:
            measured.append(stretch)

    def evaluate(self, source: str) -> Evaluation:
        """Judge a program. Every failure is an evaluation with a status and a message, never an exception."""
        source_hash = _hash(source)
        try:
            program = parse_program(source)
        except ProgramRefused as refused:
            message = "\n".join(str(r) for r in refused.refusals)
            return Evaluation(refused.status, message, source_hash)
        answers = self._sandbox.ask(program)
        if answers.status is not Status.OK:
            return Evaluation(answers.status, answers.message, source_hash, program.normal_form)
        measured: list[Measuring] = []
        return _paid(self._score(program, source_hash, answers.decisions, measured), measured)

    def score(self, source: str, decisions: Sequence[AnyDecision]) -> Evaluation:
        """The evaluation of a program that passed the gate and decided so, without asking it."""
        measured: list[Measuring] = []
        return _paid(self._score(parse_program(source), _hash(source), decisions, measured), measured)

    def regressions(self, evaluation: Evaluation) -> tuple[Regression, ...]:
        """The regressions of an evaluation of this judge, worst first, each with its class."""
        decided = dict(zip(self._facts, evaluation.decisions, strict=True))
        found = []
        for case_id in evaluation.regressed:
            case = self._facts[case_id].case
            ours, theirs = (
                self._outcomes.launch(case, d)
                for d in (self._outcomes.spelled(case, decided[case_id]), self._facts[case_id].baseline)
            )
            result = self._outcomes.of(case_id, decided[case_id]).result
            error = result.gain.standard_error if result else 0.0
            gain = evaluation.speedups[case_id], error
            found.append(regression_of(case, self.setting, gain, ours, theirs, self.gpu.num_sms))
        return tuple(sorted(found, key=lambda r: r.speedup))

    def batch_variance(self, decisions: Sequence[AnyDecision], splits: Sequence[Split] = tuple(Split)) -> str:
        """How decisions on all cases depend on what shares a batch, on shapes of these splits; empty if not at all.

        See `evaluators.scoring.invariance`.
        """
        launches = {
            i: self._outcomes.launch(f.case, self._outcomes.spelled(f.case, decision))
            for (i, f), decision in zip(self._facts.items(), decisions, strict=True)
            if f.case.split in splits
        }
        return batch_variance([self._facts[i].case for i in launches], launches)

    def recheck(self, source: str, evaluation: Evaluation) -> Evaluation:
        """Recheck a program that would become best; `evaluation` is what `evaluate` said of it, `OK`.

        See `Recheck.run`.
        """
        measured: list[Measuring] = []
        return _paid(self._rechecked(source, evaluation, measured), measured, first=evaluation)

    def _rechecked(self, source: str, evaluation: Evaluation, measured: list[Measuring]) -> Evaluation:
        program = parse_program(source)
        seen = self._recheck.run(program, evaluation, partial(self._gains, measured=measured))
        if seen.status is not Status.OK or not self.grows:
            return seen
        # It may have measured more: what is said of the program is the same whether a search was interrupted here.
        now = self._score(program, evaluation.source_hash, evaluation.decisions, measured)
        scores = [
            before and after and replace(before, oracle_share=after.oracle_share)
            for before, after in ((seen.train, now.train), (seen.holdout, now.holdout), (seen.test, now.test))
        ]
        return replace(seen, train=scores[0], holdout=scores[1], test=scores[2], feedback=now.feedback)

    def _score(
        self, program: Program, source_hash: str, decisions: Sequence[AnyDecision], measured: list[Measuring]
    ) -> Evaluation:
        self._prepare(zip(self._facts, decisions, strict=True), measured)
        outcomes = {i: self._outcomes.of(i, d) for i, d in zip(self._facts, decisions, strict=True)}
        refused = self._refused(outcomes)
        if refused is not None:
            return Evaluation(refused[0], refused[1], source_hash, program.normal_form)
        results = {i: outcome.result for i, outcome in outcomes.items()}
        if self._batch_invariant:
            # By the training shapes alone: a verdict that hung on the holdout would tell of it.
            varies = self.batch_variance(decisions, (Split.TRAIN,))
            if varies:
                return Evaluation(Status.UNSAFE, f"not batch-invariant: {varies}", source_hash, program.normal_form)
        oracle = self.oracle_log_gain
        scores = {s: split_score(results, w, oracle[s]) for s, w in self.weights.items()}
        features, message = self._features(program, outcomes), ""
        missing = sum(results[i] is None for i in self._shown)
        if missing:
            message = f"{missing} of {len(self._shown)} training shapes have no recorded latency: {CHARGE}"
        bits = constant_bits(program.tree)
        if is_table(bits, len(self._shown)):
            parts = {i: (r.log_speedup, max(0.0, r.log_speedup)) if r else (0.0, 0.0) for i, r in results.items()}
            scores = {s: penalised(scores[s], overfit_gain(parts, w)) for s, w in self.weights.items()}
            features |= {CONSTANT_BITS: round(bits), OVERFIT: 1.0}
            message = (
                f"memorised: {bits:.0f} bits of constants are a table, not a rule; its gain is taken off the score"
            )
        keys = "\n".join(f"{i} {outcome.launch}" for i, outcome in outcomes.items())
        return Evaluation(
            status=Status.OK,
            message=message,
            source_hash=source_hash,
            normal_form=program.normal_form,
            decisions_hash=hashlib.sha256(keys.encode()).hexdigest(),
            decisions=tuple(decisions),
            train=scores.get(Split.TRAIN),
            holdout=scores.get(Split.HOLDOUT),
            test=scores.get(Split.TEST),
            features=features,
            speedups={i: r.speedup for i, r in results.items() if r},
            regressed=tuple(i for i, r in results.items() if r and r.regression),
            missing=tuple(i for i, r in results.items() if r is None),
            feedback=self._feedback(outcomes),
        )

    def _refused(self, outcomes: Mapping[str, DecisionOutcome]) -> tuple[Status, str] | None:
        """Status and message of a program with a launch that cannot be scored; None where all can.

        On recorded tables a launch without a latency is charged instead (see `split_score`). The message names
        training shapes alone.
        """
        charged = Status.OK if self.grows else Status.UNRECORDED
        failed = [(i, o) for i, o in outcomes.items() if o.result is None and o.status is not charged]
        if not failed:
            return None
        shown = next((o for i, o in failed if i in self._shown), None)
        if shown is not None:
            return shown.status, shown.message
        return failed[0][1].status, f"a launch that cannot be scored ({failed[0][1].status.value}) at {HIDDEN}"

    def _features(self, program: Program, outcomes: Mapping[str, DecisionOutcome]) -> dict[str, float]:
        """MAP-Elites dimensions over the training shapes."""
        shares = self.weights[Split.TRAIN]
        # At least 1 on every shape; shares add up to 1 but for rounding.
        splits = max(1.0, total(w * outcomes[i].mean_live_splits for i, w in shares.items()))
        changed = sum(outcomes[i].launch != self._facts[i].baseline_launch for i in shares) / len(shares)
        return {"complexity": float(program.complexity), "mean_splits": splits, "share_changed": changed}

    def _feedback(self, outcomes: Mapping[str, DecisionOutcome]) -> Feedback:
        rows: list[tuple[bool, Opportunity]] = []
        for case_id, weight in self.weights[Split.TRAIN].items():
            facts, outcome = self._facts[case_id], outcomes[case_id]
            result = outcome.result
            known = self._outcomes.known(case_id)
            log_speedup = result.log_speedup if result else MISSING_LOG_SPEEDUP
            opportunity = Opportunity(
                name=case_id,
                shape=facts.case.shape,
                view=facts.view,
                work=facts.works[self.target.work_at(outcome.shown)],
                decided=outcome.shown,
                cap=outcome.cap,
                best=known.best,
                speedup=math.exp(log_speedup),
                gain=max(0.0, known.gains[known.oracle.cell].log_speedup - log_speedup),
                weight=weight,
                look_up=known.gain,
                known=known.known_launches,
                missing=result is None,
            )
            rows.append((result is not None and result.regression, opportunity))
        rows.sort(key=lambda row: -row[1].weight * row[1].gain)
        lost = sorted((o for bad, o in rows if bad), key=lambda o: o.weight * math.log(o.speedup))
        return Feedback(tuple(o for _, o in rows), tuple(lost), self.setting, self.gpu)


def _weights(cases: Sequence[Case], weighting: Weighting, weigh: Weigh | None) -> dict[str, float]:
    counted = weights(cases, weighting)
    if weigh is None:
        return counted
    given = weigh([c for c in cases if c.id in counted])
    return {case_id: given.get(case_id, 0.0) for case_id in counted}


def _paid(evaluation: Evaluation, measured: Sequence[Measuring], *, first: Evaluation | None = None) -> Evaluation:
    """The evaluation with what was measured for it, after what the first look had measured."""
    before, spent = (first.measured, first.gpu_s) if first else ((), 0.0)
    return replace(evaluation, gpu_s=spent + total(m.busy_s for m in measured), measured=(*before, *measured))


def _hash(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()


def open_judge(
    table_folder: Path,
    *,
    weighting: Weighting = Weighting.SERVING,
    limits: Limits = DEFAULT_LIMITS,
    workspace_cap_mb: int = WORKSPACE_CAP_MB,
    batch_invariant: bool = False,
    live_lengths: bool = False,
    splits: Sequence[Split] = SEARCH_SPLITS,
    weigh: Callable[[Table], Weigh] | None = None,
    about: Mapping[str, str] | None = None,
    version: int = JUDGE_VERSION,
) -> Judge:
    """A judge on a recorded table; the test split stays sealed unless `splits` names it.

    `weigh` makes weights from the table's latencies, and `about` describes them. `version` is that of the rules, from
    `OLDEST_VERSION` on. With `live_lengths` programs are told them in `schedule`.

    Raises:
        TableError: the table cannot be read.
        UserError: live lengths in a setting that has none to tell.
        SandboxUnavailable: this system cannot confine candidates.
    """
    table = restrict(read_table(table_folder), splits)
    return Judge(
        table.cases,
        with_live_lengths(table.setting) if live_lengths else table.setting,
        table.gpu,
        TableSource(table, kernels_last=kernels_last(version)),
        description={
            "judge_version": str(version),
            "workload": str(table.card["workload"]),
            "table_sha256": table.digest,
            "gpu": str(table.card["device"]["name"]),
            "build": str(table.card["build"]),
            **(about or {}),
        },
        weighting=weighting,
        limits=limits,
        workspace_cap_mb=workspace_cap_mb,
        batch_invariant=batch_invariant,
        weigh=weigh(table) if weigh else None,
    )


def open_live_judge(
    source: LiveSource,
    workload: str,
    *,
    weighting: Weighting,
    limits: Limits,
    workspace_cap_mb: int = WORKSPACE_CAP_MB,
    batch_invariant: bool = False,
    live_lengths: bool = False,
    splits: Sequence[Split] = SEARCH_SPLITS,
    cases: Sequence[Case] | None = None,
    weigh: Weigh | None = None,
    about: Mapping[str, str] | None = None,
) -> Judge:
    """A judge of measurements; the test split stays sealed unless `splits` names it.

    `cases` are those of the workload, unless they are given; `weigh` gives weights of its own, `about` describes them.

    Its description names the GPU by UUID only where one GPU measures all: on a pool a run may go on with others of the
    same kind, since every speed-up is a ratio on one GPU.

    Raises:
        SandboxUnavailable: this system cannot confine candidates.
    """
    description = {
        "workload": workload,
        "measure": "live",
        "gpu": source.device.name,
        "driver": source.device.driver,
        "num_sms": str(source.gpu.num_sms),
        "l2_bytes": str(source.gpu.l2_bytes),
        "build": source.bench.build,
    }
    if source.one_gpu:
        description["gpu_uuid"] = source.device.uuid
    known = cases_for(workload, source.setting) if cases is None else cases
    return Judge(
        [c for c in known if c.split in splits],
        with_live_lengths(source.setting) if live_lengths else source.setting,
        source.gpu,
        source,
        description={**description, **(about or {})},
        weighting=weighting,
        limits=limits,
        workspace_cap_mb=workspace_cap_mb,
        batch_invariant=batch_invariant,
        weigh=weigh,
    )
