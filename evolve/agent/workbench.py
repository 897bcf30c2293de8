"""Implementation of an expedition's tools. None reaches files, a shell, a GPU, the holdout or the sealed shapes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.judge.judge import Judge
from evaluators.language.gate import ProgramRefused, parse_program
from evaluators.sandbox.process import SandboxUnavailable
from evolve.agent import shapes, tools
from evolve.agent.drafts import Draft, draft_of, gate
from evolve.agent.knowledge import read_topic
from evolve.agent.lineage import EarlierPrograms
from evolve.errors import EXIT_MISSING, UserError
from evolve.journal.journal import storable
from evolve.proposal import Request
from evolve.proposer_config import AgentConfig
from evolve.search.pipeline import JudgeLike
from evolve.search.responses import FrozenCodeChanged, UnreadableAnswer, program_from
from evolve.tuning.constants import ConstantFitter, Unfit

MESSAGE_CHARS = 600

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ToolResult:
    """Result of a tool, as text and as data; see `Turn.content` and `Turn.facts`."""

    content: str
    facts: dict[str, Any]


class Workbench:
    """The drafts of one expedition and the tools that work on them.

    Its state follows from the facts of the turns so far: calling `apply` with each of them restores it.
    """

    def __init__(
        self,
        request: Request,
        config: AgentConfig,
        judge: JudgeLike,
        lineage: EarlierPrograms,
        judging: asyncio.Semaphore,
    ) -> None:
        """Start without drafts; `judging` limits concurrent evaluations."""
        self._request, self._config, self._judge = request, config, judge
        self._lineage, self._judging = lineage, judging
        parent = request.parent
        self.parent = draft_of(0, parent.source, parent.evaluation, charged=False)
        self.drafts: list[Draft] = []
        self.charged = self.fit_tables = 0
        self._evaluations: dict[int, Evaluation] = {0: parent.evaluation}
        self._rechecked: dict[int, Evaluation] = {}
        self.names = tools.offered(fit=config.fit_tables > 0)

    def apply(self, facts: Mapping[str, Any]) -> None:
        """Update the state by a tool's facts."""
        if "draft" in facts and isinstance(facts["draft"], dict):
            draft = Draft.from_json(facts["draft"])
            self.drafts.append(draft)
            self.charged += draft.charged
        self.fit_tables += int(facts.get("fit_tables", 0))

    async def call(self, name: str, arguments: str) -> ToolResult:
        """Make a call; a refusal is a result too."""
        try:
            asked: Any = tools.parse_call(name, arguments, self.names)
        except tools.BadArguments as error:
            return ToolResult(storable(str(error)), {"refused": True})
        handler: Callable[[Any], Awaitable[ToolResult]] = getattr(self, f"_{name}")
        for field in ("draft", "base"):
            number = getattr(asked, field, 0)
            if isinstance(number, int) and number > len(self.drafts):
                known = f"drafts 1..{len(self.drafts)}" if self.drafts else "no draft yet"
                return ToolResult(f"there is no draft {number}: {known}", {"refused": True})
        return await handler(asked)

    def draft(self, number: int) -> Draft:
        """A draft, or the parent."""
        return self.drafts[number - 1] if number else self.parent

    async def _seen(self, number: int) -> Evaluation:
        """Evaluation of a draft, repeated free of charge if another process made it."""
        if number not in self._evaluations:
            self._evaluations[number] = await self._judged(self.draft(number).source)
        return self._evaluations[number]

    async def _judged(self, source: str) -> Evaluation:
        return await self._in_thread(partial(self._judge.evaluate, source))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run the judge or a fit, within the limit of concurrent evaluations.

        Raises:
            UserError: this system cannot confine a draft.
        """
        async with self._judging:
            try:
                return await asyncio.to_thread(work)
            except SandboxUnavailable as error:
                raise UserError(str(error), hint="evosplit doctor says more", exit_code=EXIT_MISSING) from error

    async def _evaluate(self, asked: tools.EvaluateArguments) -> ToolResult:
        try:
            source = storable(program_from(asked.draft, self.draft(asked.base).source))
        except (UnreadableAnswer, FrozenCodeChanged) as error:
            return ToolResult(f"no draft: {error}", {"refused": True})
        known = next((d for d in (self.parent, *self.drafts) if d.source == source), None)
        if known is not None:
            return ToolResult(f"this is draft {known.number} word for word: {self._score(known)}", {"refused": True})
        try:
            parse_program(source)
        except ProgramRefused as refused:
            reasons = "\n".join(map(str, refused.refusals[:5]))
            return ToolResult(f"not of the language, which costs nothing:\n{reasons}", {"refused": True})
        if self.charged >= self._config.evaluations:
            return ToolResult("no evaluation is left: submit a draft, or give_up", {"refused": True})
        return await self._kept(source, await self._judged(source))

    async def _kept(self, source: str, evaluation: Evaluation, facts: Mapping[str, Any] | None = None) -> ToolResult:
        """Number a judged draft and describe it."""
        number = len(self.drafts) + 1
        draft = draft_of(number, source, evaluation, charged=True)
        same = next((d for d in (self.parent, *self.drafts) if d.decisions and d.decisions == draft.decisions), None)
        if same is not None or facts is not None:
            draft = replace(draft, charged=False)
        self._evaluations[number] = evaluation
        lines = [f"draft {number}: {self._score(draft)}"]
        if same is not None:
            lines.append(f"the same decisions as draft {same.number} on all training shapes: costs nothing")
        elif draft.status is Status.OK:
            lines.append(shapes.compared(evaluation.feedback, self._evaluations[0].feedback))
        return ToolResult("\n".join(filter(None, lines)), {**(facts or {}), "draft": draft.as_json()})

    def _score(self, draft: Draft) -> str:
        if draft.status is not Status.OK:
            return f"{draft.status.value}: {draft.message[:MESSAGE_CHARS]}"
        against = "" if draft.number == 0 else f" ({draft.score - self.parent.score:+.4f} against the parent)"
        missing = f", {draft.missing} shapes not recorded" if draft.missing else ""
        more = f"; {draft.message[:MESSAGE_CHARS]}" if draft.message else ""
        return f"score {draft.score:.4f}{against}, {draft.regressions} regressions{missing}{more}"

    async def _decide(self, asked: tools.DecideArguments) -> ToolResult:
        seen = await self._seen(asked.draft)
        return ToolResult(shapes.decided(asked.shapes, seen.feedback, self._evaluations[0].feedback), {})

    async def _curve(self, asked: tools.CurveArguments) -> ToolResult:
        return ToolResult(shapes.curve(asked.shape, (await self._seen(asked.draft)).feedback), {})

    async def _regions_left(self, asked: tools.RegionsLeftArguments) -> ToolResult:
        return ToolResult(shapes.regions_left((await self._seen(asked.draft)).feedback), {})

    async def _lineage_list(self, asked: tools.LineageListArguments) -> ToolResult:
        return ToolResult(self._lineage.listed(relatives=asked.relatives), {})

    async def _lineage_show(self, asked: tools.LineageShowArguments) -> ToolResult:
        return ToolResult(self._lineage.show(asked.program), {})

    async def _lineage_diff(self, asked: tools.LineageDiffArguments) -> ToolResult:
        return ToolResult(self._lineage.diff(asked.before, asked.after), {})

    async def _fit(self, asked: tools.FitArguments) -> ToolResult:
        left = self._config.fit_tables - self.fit_tables
        if min(asked.tables, left) < 2:
            return ToolResult("no table is left for fitting", {"refused": True})
        assert isinstance(self._judge, Judge)  # the configuration refuses fits on several tables
        draft, seed = self.draft(asked.draft), self._request.seed + len(self.drafts)
        fitter = ConstantFitter(self._judge)
        try:
            program = parse_program(draft.source)
            found = await self._in_thread(partial(fitter.fit, program, evaluations=min(asked.tables, left), seed=seed))
        except (Unfit, ProgramRefused) as error:
            return ToolResult(f"cannot be fitted: {error}", {"refused": True})
        facts = {"fit_tables": found.evaluations, "look_ups": found.look_ups}
        if found.after <= found.before:
            return ToolResult(f"{found.evaluations} tables, {found.tunables} numbers: nothing better", facts)
        told = await self._kept(found.source, await self._judged(found.source), facts)
        return replace(told, content=f"{told.content}\n```python\n{found.source}```")

    async def _read(self, asked: tools.ReadArguments) -> ToolResult:
        if asked.topic == "notes":
            return ToolResult("\n".join(self._lineage.notes()) or "no expedition left a note yet", {})
        return ToolResult(read_topic(asked.topic), {})

    async def _note(self, asked: tools.NoteArguments) -> ToolResult:
        draft = self.draft(asked.draft)
        if draft.number == 0:
            return ToolResult("a note needs a draft that was evaluated as its evidence", {"refused": True})
        text = " ".join(storable(asked.text).split())
        return ToolResult("kept for later expeditions", {"note": text, "evidence": f"draft: {self._score(draft)}"})

    async def _submit(self, asked: tools.SubmitArguments) -> ToolResult:
        draft = self.draft(asked.draft)
        reasons = await self.refusals(draft)
        if reasons:
            return ToolResult("\n".join(["refused:", *(f"- {r}" for r in reasons)]), {"refused": True})
        hypothesis = " ".join(storable(asked.hypothesis).split())
        return ToolResult(f"accepted: draft {draft.number}", {"accepted": draft.number, "hypothesis": hypothesis})

    async def _give_up(self, asked: tools.GiveUpArguments) -> ToolResult:
        return ToolResult("ended without a child", {"gave_up": " ".join(storable(asked.reason).split())})

    async def refusals(self, draft: Draft) -> list[str]:
        """Reasons why the gate refuses a draft; empty if it passes."""
        if draft.number not in self._rechecked:
            seen = await self._seen(draft.number)
            if seen.status is Status.OK:
                seen = await self._in_thread(partial(self._judge.recheck, draft.source, seen))
            self._rechecked[draft.number] = seen
        rechecked, more = self._rechecked[draft.number], self._config.more_regressions
        return gate(self.parent, draft, rechecked, self._request.opens_cell, more_regressions=more)

    async def best_passing(self) -> Draft | None:
        """The best draft over its parent's score that passes the gate, or none."""
        better = [d for d in self.drafts if d.status is Status.OK and d.score > self.parent.score]
        for draft in sorted(better, key=lambda d: (-d.score, d.number)):
            if not await self.refusals(draft):
                return draft
        return None
