"""Judge of programs: from source to evaluation.

gate -> sandbox -> decision table -> canonical launches -> latencies -> score. Only the gate reads
the code of a candidate and only the sandbox runs it; later stages see decisions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.data.contract import Gpu, Setting
from evaluators.data.evaluation import CONSTANT_BITS, OVERFIT, Evaluation, Measuring
from evaluators.data.launches import AnyDecision
from evaluators.data.questions import Question
from evaluators.data.status import Status
from evaluators.data.sums import total
from evaluators.data.workloads import Case, Split, Weighting, cases_for, weights
from evaluators.judge.opportunities import features_of, feedback_of
from evaluators.judge.recheck import Recheck
from evaluators.language.gate import Program, ProgramRefused, parse_program
from evaluators.latencies.latency import LatencySource, TableSource
from evaluators.latencies.table import Table, read_table, restrict
from evaluators.sandbox.sandbox import HIDDEN, Limits, Sandbox
from evaluators.scoring.invariance import batch_variance
from evaluators.scoring.outcomes import DecisionOutcome, Outcomes
from evaluators.scoring.overfit import constant_bits, is_table, overfit_gain, penalised
from evaluators.scoring.regressions import Regression, regression_of
from evaluators.scoring.score import CHARGE, split_score
from evaluators.targets.registry import with_live_lengths

if TYPE_CHECKING:
    from evaluators.measure.live import LiveSource

WORKSPACE_CAP_MB = 256
"""Default cap on the fp32 workspace of one decision: partial outputs cause out-of-memory in servers."""

JUDGE_VERSION = 3
"""Version of the scoring rules, stored in the journals of runs.

Version 1 (journals without a version): one shape without a recorded latency refused the program, other combine kernels
were not looked up, tables of constants were not marked, and the holdout selected programs for the recheck.
Version 2: the same splits under another combine kernel were looked up only without neighbouring splits.
"""

OLDEST_VERSION = 2
"""Oldest version of the rules that a judge can still apply."""


def readable_version(kept: str) -> int:
    """Supported version of the rules nearest to a journal's; journals of version 1 have none."""
    return min(max(OLDEST_VERSION, int(kept or 1)), JUDGE_VERSION)


def kernels_last(version: int) -> bool:
    """True if a version of the rules looks up other combine kernels last; see `Target.latencies`."""
    return version < 3


Weigh = Callable[[Sequence[Case]], Mapping[str, float]]
"""Function from the cases of one split to weights by case id, with sum 1; cases of weight 0 can still regress."""

SEARCH_SPLITS = (Split.TRAIN, Split.HOLDOUT)
DEFAULT_LIMITS = Limits()


class Judge:
    """Judge of programs on cases whose latencies a source knows or measures. Thread-safe."""

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
            cases: cases to judge; those that the weighting leaves out are dropped.
            setting: provider, mode and cache of the calls.
            gpu: properties that heuristics may read.
            source: source of latencies.
            description: origin of the latencies, for reports and for the journal of a run.
            weighting: weights of the cases.
            limits: sandbox limits for one candidate.
            workspace_cap_mb: decisions that need more are unsafe.
            batch_invariant: programs whose splits of a sequence depend on its batch are unsafe, too, by the training
                shapes.
            weigh: computes weights for the cases that the weighting counts, instead of the weighting's own.
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
        """Cases of the judge."""
        return tuple(f.case for f in self._facts.values())

    @property
    def questions(self) -> tuple[Question, ...]:
        """Inputs of candidates, in the order of `cases`."""
        return tuple(f.question for f in self._facts.values())

    def outcome(self, case_id: str, decision: AnyDecision) -> DecisionOutcome:
        """See `Outcomes.of`."""
        return self._outcomes.of(case_id, decision)

    def most_blocks(self, case_id: str) -> int:
        """See `Outcomes.most_blocks`."""
        return self._outcomes.most_blocks(case_id)

    def recorded_cells(self, split: Split) -> int:
        """Number of launches recorded for the cases of a split."""
        return sum(len(self.source.cells(self._facts[i].case)) for i in self.weights[split])

    @property
    def oracle_log_gain(self) -> dict[Split, float]:
        """Weighted log speed-up of the best known launches, by split."""
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
        """Log speed-ups of decisions on cases; None for a decision without a latency."""
        self._prepare(decided, measured)
        results = [self._outcomes.of(case_id, decision).result for case_id, decision in decided]
        return [r.log_speedup if r else None for r in results]

    def _prepare(self, decided: Iterable[tuple[str, AnyDecision]], measured: list[Measuring]) -> None:
        """Measure unknown launches; appends the time spent to `measured`."""
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
        """Evaluate a program by known decisions, without running it."""
        measured: list[Measuring] = []
        return _paid(self._score(parse_program(source), _hash(source), decisions, measured), measured)

    def regressions(self, evaluation: Evaluation) -> tuple[Regression, ...]:
        """Regressions of an evaluation by this judge, worst first, each with its class."""
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
        """Description of how decisions depend on the rest of a batch, on shapes of these splits; empty if they do not.

        See `evaluators.scoring.invariance`.
        """
        launches = {
            i: self._outcomes.launch(f.case, self._outcomes.spelled(f.case, decision))
            for (i, f), decision in zip(self._facts.items(), decisions, strict=True)
            if f.case.split in splits
        }
        return batch_variance([self._facts[i].case for i in launches], launches)

    def recheck(self, source: str, evaluation: Evaluation) -> Evaluation:
        """Recheck a program that would become best; `evaluation` is the result of `evaluate`, with status `OK`.

        See `Recheck.run`.
        """
        measured: list[Measuring] = []
        return _paid(self._rechecked(source, evaluation, measured), measured, first=evaluation)

    def _rechecked(self, source: str, evaluation: Evaluation, measured: list[Measuring]) -> Evaluation:
        program = parse_program(source)
        seen = self._recheck.run(program, evaluation, partial(self._gains, measured=measured))
        if seen.status is not Status.OK or not self.grows:
            return seen
        # The recheck may have measured more launches. Scoring again gives the same result after an interruption here.
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
            # On the training shapes alone: a verdict that depended on the holdout would leak information about it.
            varies = self.batch_variance(decisions, (Split.TRAIN,))
            if varies:
                return Evaluation(Status.UNSAFE, f"not batch-invariant: {varies}", source_hash, program.normal_form)
        oracle = self.oracle_log_gain
        scores = {s: split_score(results, w, oracle[s]) for s, w in self.weights.items()}
        features, message = features_of(program, self._outcomes, outcomes, self.weights[Split.TRAIN]), ""
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
            feedback=feedback_of(self._outcomes, outcomes, self.weights[Split.TRAIN]),
        )

    def _refused(self, outcomes: Mapping[str, DecisionOutcome]) -> tuple[Status, str] | None:
        """Status and message of a program with a launch that cannot be scored; None if all can.

        On recorded tables a launch without a latency is charged instead (see `split_score`). The message names
        only training shapes.
        """
        charged = Status.OK if self.grows else Status.UNRECORDED
        failed = [(i, o) for i, o in outcomes.items() if o.result is None and o.status is not charged]
        if not failed:
            return None
        shown = next((o for i, o in failed if i in self._shown), None)
        if shown is not None:
            return shown.status, shown.message
        return failed[0][1].status, f"a launch that cannot be scored ({failed[0][1].status.value}) at {HIDDEN}"


def _weights(cases: Sequence[Case], weighting: Weighting, weigh: Weigh | None) -> dict[str, float]:
    counted = weights(cases, weighting)
    if weigh is None:
        return counted
    given = weigh([c for c in cases if c.id in counted])
    return {case_id: given.get(case_id, 0.0) for case_id in counted}


def _paid(evaluation: Evaluation, measured: Sequence[Measuring], *, first: Evaluation | None = None) -> Evaluation:
    """Add measurements and GPU time to an evaluation, after those of the first evaluation."""
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
    """Open a judge on a recorded table; the test split stays sealed unless `splits` names it.

    `weigh` computes weights from the table's latencies, and `about` describes them. `version` is the version of the
    rules, at least `OLDEST_VERSION`. With `live_lengths` programs are told them in `schedule`.

    Raises:
        TableError: the table cannot be read.
        UserError: live lengths in a setting without them.
        SandboxUnavailable: this system cannot confine candidates.

    Example:
        >>> judge = evaluators.open_judge(Path("results/tables/bsc-160/fa3_fwd-metadata-cold"))
        >>> judge.evaluate("def schedule(shape, gpu): return 0, None, 0").train.score
        1.0
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
    """Open a judge that measures; the test split stays sealed unless `splits` names it.

    `cases` default to those of the workload; `weigh` computes weights, and `about` describes them.

    The description has the GPU's UUID only if one GPU measures all: on a pool a run may resume on other GPUs of the
    same model, since every speed-up is a ratio on one GPU.

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
