"""Evaluation of a decision on a case: launch, latency and gain over the baseline, cached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evaluators.data.contract import DecodeShape, Gpu, Setting
from evaluators.data.launches import AnyDecision, AnyLaunch
from evaluators.data.questions import Question
from evaluators.data.status import Status
from evaluators.data.workloads import Case
from evaluators.latencies.latency import LatencySource, UnrecordedError
from evaluators.latencies.oracle import ShapeGains
from evaluators.scoring.score import ShapeResult, shape_result
from evaluators.targets.registry import target_of

OUTCOMES_KEPT = 20
"""Cached outcomes per case, on average; a long search must not fill the memory."""


@dataclass(frozen=True, slots=True)
class DecisionOutcome:
    """Launch, latency and result of a decision on one case.

    Attributes:
        spelled: the decision with the kernel's own choices filled in; blocks_per_split 0 where nothing is split.
        shown: the same, but with blocks_per_split kept where nothing is split; for feedback.
        cap: upper bound on splits for any blocks_per_split.
        launch: key of its canonical launch.
        mean_live_splits: splits that have keys, mean over the sequences.
        result: None if there is none, with the reason in `status`.
    """

    spelled: AnyDecision
    shown: AnyDecision
    cap: int
    launch: str
    mean_live_splits: float
    result: ShapeResult | None
    status: Status
    message: str


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """Facts of one case, independent of candidates."""

    case: Case
    question: Question
    view: dict[str, int | bool]
    works: tuple[dict[str, int], ...]
    baseline: AnyDecision
    baseline_launch: str


class Outcomes:
    """Cached outcomes of decisions on a fixed set of cases of one setting. Thread-safe."""

    def __init__(
        self, cases: Iterable[Case], setting: Setting, gpu: Gpu, source: LatencySource, *, cap_bytes: int
    ) -> None:
        """Compute the facts of the cases; decisions whose fp32 workspace is larger than `cap_bytes` are unsafe."""
        self.setting, self.gpu, self.source = setting, gpu, source
        self.target = target_of(setting)
        self._cap_bytes = cap_bytes
        self._outcomes: dict[tuple[str, AnyDecision], DecisionOutcome] = {}
        self._known: dict[str, ShapeGains] = {}
        self.facts: Mapping[str, CaseFacts] = {c.id: self._case_facts(c) for c in cases}
        """By case id, in the order of the cases."""

    def spelled(self, case: Case, decision: AnyDecision) -> AnyDecision:
        """Decision with the kernel's own choices filled in."""
        spelled: AnyDecision = self.target.spelled_out(case.shape, self.setting, decision, self.gpu)
        return spelled

    def launch(self, case: Case, decision: AnyDecision) -> AnyLaunch:
        """Canonical launch of a decision."""
        launch: AnyLaunch = self.target.launch(case.shape, self.setting, decision, self.gpu)
        return launch

    def question(self, shape: DecodeShape) -> Question:
        """Input of candidates for a shape."""
        return self.target.question(shape, self.setting, self.gpu)

    def _case_facts(self, case: Case) -> CaseFacts:
        target = self.target
        baseline = self.spelled(case, target.baseline(self.setting))
        question = self.question(case.shape)
        asks_work = target.asks_work(self.setting)
        works = question.works if asks_work else ()
        fields = tuple({n: getattr(work, n) for n in target.work_fields} for work in works) or ({},)
        launch = self.launch(case, baseline)
        view = {n: getattr(question.shape, n) for n in target.shape_fields}
        return CaseFacts(case, question, view, fields, baseline, launch.key)

    def known(self, case_id: str) -> ShapeGains:
        """Gains of all known launches of one case; the same object until the source knows more."""
        facts = self.facts[case_id]
        case = facts.case
        cells = self.source.cells(case)
        known = self._known.get(case.id)
        if known is None or known.cells is not cells:
            if cells[0].launch != facts.baseline_launch:
                raise ValueError(
                    f"{case.id}: the first known launch is {cells[0].launch}, the baseline {facts.baseline_launch}"
                )
            last = self.source.kernels_last
            known = ShapeGains(case.shape, cells, self.setting, self.gpu, kernels_last=last)
            self._known[case.id] = known
        return known

    def most_blocks(self, case_id: str) -> int:
        """Largest blocks per split that changes the launch of a case: recorded, or that of the longest sequence."""
        facts = self.facts[case_id]
        known = (self.spelled(facts.case, c.decision).blocks_per_split for c in self.source.cells(facts.case))
        longest: list[int] = [work.max_n_blocks for work in facts.question.works]
        return max(*longest, *known)

    def of(self, case_id: str, decision: AnyDecision) -> DecisionOutcome:
        """Outcome of a decision on one case; cached, since candidates repeat each other's decisions."""
        known = self._outcomes.get((case_id, decision))
        if known is None:
            known = self._fresh_outcome(self.facts[case_id], decision)
            # A launch that a growing source does not know yet may be measured later.
            if known.status is not Status.UNRECORDED or not self.source.grows:
                if len(self._outcomes) >= OUTCOMES_KEPT * len(self.facts):
                    self._outcomes.clear()
                self._outcomes[case_id, decision] = known
        return known

    def _fresh_outcome(self, facts: CaseFacts, decision: AnyDecision) -> DecisionOutcome:
        case = facts.case
        chosen = self.spelled(case, decision)
        shown = self.target.shown(decision, chosen, facts.question, self.setting, self.gpu)
        cap = self.target.cap(decision, chosen)
        launch = self.launch(case, chosen)
        mean = sum(launch.live_splits) / len(launch.live_splits)
        needed = self.target.workspace_bytes(case.shape, chosen)
        if needed > self._cap_bytes:
            message = (
                f"{case.id}: num_splits {chosen.num_splits} needs {needed / 2**20:.0f} MiB of fp32 workspace, the cap "
                f"is {self._cap_bytes // 2**20} MiB: use fewer splits at large batch * num_heads_q"
            )
            return DecisionOutcome(chosen, shown, cap, launch.key, mean, None, Status.UNSAFE, message)
        try:
            candidate = self.source.latency(case, chosen)
            baseline = self.source.latency(case, facts.baseline)
        except UnrecordedError as error:
            return DecisionOutcome(chosen, shown, cap, launch.key, mean, None, error.status, str(error))
        result = shape_result(baseline, candidate, workspace_bytes=needed)
        return DecisionOutcome(chosen, shown, cap, launch.key, mean, result, Status.OK, "")

    def unseen(self, decided: Iterable[tuple[str, AnyDecision]]) -> list[tuple[Case, AnyDecision]]:
        """Decisions without a cached outcome that fit the workspace, and the baselines of their cases."""
        wanted = []
        for case_id, decision in decided:
            if (case_id, decision) in self._outcomes:
                continue
            facts = self.facts[case_id]
            chosen = self.spelled(facts.case, decision)
            if self.target.workspace_bytes(facts.case.shape, chosen) <= self._cap_bytes:
                wanted += [(facts.case, facts.baseline), (facts.case, chosen)]
        return wanted
