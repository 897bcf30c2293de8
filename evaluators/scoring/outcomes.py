"""Look-up of a decision on a case: launch, latency and gain over the baseline, remembered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from evaluators.data.contract import Decision, DecodeShape, Gpu, Mode, Setting, baseline_decision
from evaluators.data.questions import Question
from evaluators.data.status import Status
from evaluators.data.workloads import Case
from evaluators.fa3.dispatch import num_splits_heuristic, shape_view, stock_blocks_per_split, work_view
from evaluators.fa3.launch import Launch, canonical_launch, spelled_out, workspace_bytes
from evaluators.latencies.latency import LatencySource, UnrecordedError
from evaluators.latencies.oracle import ShapeGains
from evaluators.sandbox.sandbox import SHAPE_FIELDS, WORK_FIELDS
from evaluators.scoring.score import ShapeResult, shape_result

OUTCOMES_KEPT = 20
"""Outcomes remembered per case, on average; a search of any length must not fill the memory."""


@dataclass(frozen=True, slots=True)
class DecisionOutcome:
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


class Outcomes:
    """Decisions on a fixed set of cases of one setting. Thread-safe."""

    def __init__(
        self, cases: Iterable[Case], setting: Setting, gpu: Gpu, source: LatencySource, *, cap_bytes: int
    ) -> None:
        """Work out what never changes.

        Args:
            cases: those that may be asked for.
            setting: how decode calls reach the kernel.
            gpu: what heuristics may know of it.
            source: where latencies come from.
            cap_bytes: decisions whose fp32 workspace is larger are unsafe.
        """
        self.setting, self.gpu, self.source = setting, gpu, source
        self._cap_bytes = cap_bytes
        self._outcomes: dict[tuple[str, Decision], DecisionOutcome] = {}
        self._known: dict[str, ShapeGains] = {}
        self.facts: Mapping[str, CaseFacts] = {c.id: self._case_facts(c) for c in cases}
        """By case id, in the order of the cases."""

    def spelled(self, case: Case, decision: Decision) -> Decision:
        """The decision with FA3's own choices filled in."""
        return spelled_out(case.shape, self.setting, decision, self.gpu)

    def launch(self, case: Case, decision: Decision) -> Launch:
        """The canonical launch of a decision."""
        return canonical_launch(case.shape, self.setting, decision, self.gpu)

    def question(self, shape: DecodeShape) -> Question:
        """What candidates are asked about a shape."""
        view = shape_view(shape, self.setting)
        stock = num_splits_heuristic(view, self.gpu.num_sms)
        return Question(view, stock, work_view(shape, self.setting, stock))

    def _case_facts(self, case: Case) -> CaseFacts:
        baseline = self.spelled(case, baseline_decision(self.setting))
        question = self.question(case.shape)
        work = {n: getattr(question.work, n) for n in WORK_FIELDS} if self.setting.mode is not Mode.STATIC else {}
        launch = self.launch(case, baseline)
        view = {n: getattr(question.shape, n) for n in SHAPE_FIELDS}
        return CaseFacts(case, question, view, work, baseline, launch.key)

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
            known = self._known[case.id] = ShapeGains(case.shape, cells, self.setting, self.gpu)
        return known

    def most_blocks(self, case_id: str) -> int:
        """Largest blocks per split that makes a difference on a case: recorded, or that of the longest sequence."""
        facts = self.facts[case_id]
        known = (self.spelled(facts.case, c.decision).blocks_per_split for c in self.source.cells(facts.case))
        return max(facts.question.work.max_n_blocks, *known)

    def of(self, case_id: str, decision: Decision) -> DecisionOutcome:
        """What a decision comes to on one case; remembered, since candidates repeat each other's decisions."""
        known = self._outcomes.get((case_id, decision))
        if known is None:
            known = self._fresh_outcome(self.facts[case_id], decision)
            # A launch that a growing source does not know yet may be measured later.
            if known.status is not Status.UNRECORDED or not self.source.grows:
                if len(self._outcomes) >= OUTCOMES_KEPT * len(self.facts):
                    self._outcomes.clear()
                self._outcomes[case_id, decision] = known
        return known

    def _fresh_outcome(self, facts: CaseFacts, decision: Decision) -> DecisionOutcome:
        case = facts.case
        chosen = self.spelled(case, decision)
        shown = chosen
        if self.setting.mode is not Mode.STATIC and chosen.num_splits == 1:
            work = facts.question.work
            blocks = decision.blocks_per_split or stock_blocks_per_split(work, self.gpu.num_sms - chosen.sm_margin)
            shown = replace(chosen, blocks_per_split=blocks)
        launch = self.launch(case, chosen)
        mean = sum(launch.live_splits) / len(launch.live_splits)
        needed = workspace_bytes(case.shape, chosen.num_splits)
        if needed > self._cap_bytes:
            message = (
                f"{case.id}: num_splits {chosen.num_splits} needs {needed / 2**20:.0f} MiB of fp32 workspace, the cap "
                f"is {self._cap_bytes // 2**20} MiB: use fewer splits at large batch * num_heads_q"
            )
            return DecisionOutcome(chosen, shown, launch.key, mean, None, Status.UNSAFE, message)
        try:
            candidate = self.source.latency(case, chosen)
            baseline = self.source.latency(case, facts.baseline)
        except UnrecordedError as error:
            return DecisionOutcome(chosen, shown, launch.key, mean, None, error.status, str(error))
        result = shape_result(baseline, candidate, workspace_bytes=needed)
        return DecisionOutcome(chosen, shown, launch.key, mean, result, Status.OK, "")

    def unseen(self, decided: Iterable[tuple[str, Decision]]) -> list[tuple[Case, Decision]]:
        """Decisions on cases not judged before that fit the workspace, the baselines of their cases among them."""
        wanted = []
        for case_id, decision in decided:
            if (case_id, decision) in self._outcomes:
                continue
            facts = self.facts[case_id]
            chosen = self.spelled(facts.case, decision)
            if workspace_bytes(facts.case.shape, chosen.num_splits) <= self._cap_bytes:
                wanted += [(facts.case, facts.baseline), (facts.case, chosen)]
        return wanted
