"""One expedition: tool calls from a parent and a brief to at most one child. Every turn is stored before it is used."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from evolve.agent import tools
from evolve.agent.compaction import compact
from evolve.agent.drafts import Draft, stagnation
from evolve.agent.lineage import EarlierPrograms
from evolve.agent.models import Conversation, Speaker, Spoken
from evolve.agent.supervision import prompt, stalled_text, supervision
from evolve.agent.workbench import ToolResult, Workbench
from evolve.config import RunConfig
from evolve.journal.journal import Journal, storable
from evolve.journal.turns import ExpeditionOutcome, Turn, TurnKind
from evolve.prompts.tokens import estimate_tokens
from evolve.proposal import Request, Response
from evolve.proposer_config import AgentConfig
from evolve.proposers.base import EndpointError, ProposerError, RequestRefused
from evolve.search.budget import BudgetSpent
from evolve.search.pipeline import JudgeLike

MOST_CALLS = 8
"""Most tool calls in one answer of a model."""
MOST_SUPERVISIONS = 2


@dataclass(frozen=True, slots=True)
class Reported:
    """Unverified statement of an external operator about itself and its usage."""

    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, slots=True)
class ExpeditionEnd:
    """End of an expedition; `draft` is the child, or None."""

    outcome: ExpeditionOutcome
    reason: str
    draft: Draft | None
    hypothesis: str


class Expedition:
    """The turns of one expedition, including those before an interruption."""

    def __init__(
        self,
        request: Request,
        config: RunConfig,
        journal: Journal,
        judge: JudgeLike,
        judging: asyncio.Semaphore,
        speaker: Speaker | None,
    ) -> None:
        """Resume an expedition from its journal; without a speaker an external operator calls the tools."""
        assert isinstance(config.proposer, AgentConfig)
        self._request, self._config, self._agent = request, config, config.proposer
        self._journal, self._speaker = journal, speaker
        self._lineage = EarlierPrograms(journal, request.settled, request.parent.id)
        self.bench = Workbench(request, config.proposer, judge, self._lineage, judging)
        self._known = deque(journal.turns("id = ?", (request.index,)))
        self._step = self.turn = self._supervised = self._supervisions = 0
        self.tokens, self.usd = 0, 0.0
        self.end: ExpeditionEnd | None = None
        self._endpoint_failed = False
        self.reported = Reported()
        self.system = request.system
        self.said: list[str] = []
        """Messages to an external operator besides the brief."""
        self._messages: list[dict[str, Any]] = []
        self._shortened = 0

    # Operation by a model

    async def run(self) -> Response:
        """Run the expedition to its end.

        Raises:
            ProposerError: it ended without a child; the message begins with `dead` or `blind`.
            BudgetSpent: the run's budget is spent, and no draft passes; more budget resumes the expedition.
        """
        assert self._speaker is not None
        self._messages = [{"role": "user", "content": self.brief()}]
        await self._supervise(self._without_gain())
        while self.end is None:
            if self._known and self._known[0].kind is TurnKind.END:
                self._apply(self._known.popleft())
                break
            self._compact()
            spent = self._spent()
            if spent:
                await self._rescue(spent)
                break
            try:
                turn = await self._row(TurnKind.MODEL, self._conversation.digest, self._speak)
            except BudgetSpent as error:
                child = await self.bench.best_passing()
                if child is None:
                    raise
                await self._harness_ends(str(error), child)
                break
            except (EndpointError, RequestRefused) as error:
                await self._harness_ends(str(error), await self.bench.best_passing(), endpoint_failed=True)
                if self._childless():
                    raise type(error)(self._without_text(), spent=error.spent) from error
                break
            await self._act(json.loads(turn.content))
        return self.response()

    async def _act(self, said: dict[str, Any]) -> None:
        """Call the tools of an answer."""
        calls = said["tool_calls"]
        message: dict[str, Any] = {"role": "assistant", "content": said["content"]}
        if not calls:
            self._messages += [message, {"role": "user", "content": f"{prompt('nudge')}\n{self.left()}"}]
            return
        functions = [{"name": c["name"], "arguments": c["arguments"]} for c in calls]
        message["tool_calls"] = [
            {"id": c["id"], "type": "function", "function": f} for c, f in zip(calls, functions, strict=True)
        ]
        self._messages.append(message)
        for number, call in enumerate(calls):
            if number < MOST_CALLS and self.end is None:
                content = (await self._tool(call["name"], call["arguments"])).content
            else:
                content = f"not done: at most {MOST_CALLS} tools are called by one answer"
            self._messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
        if self.end is None:
            await self._supervise(self._stalled())

    def _compact(self) -> None:
        """Keep the conversation within the model's context."""
        most, conversation = self._agent.context_tokens, self._conversation
        if most is not None:
            apart = estimate_tokens(conversation.system + json.dumps(list(conversation.tools)))
            self._shortened += compact(self._messages, most, apart=apart)

    @property
    def _conversation(self) -> Conversation:
        functions = [tools.function(name) for name in self.bench.names]
        return Conversation(self._request.system, self._messages, functions)

    async def _speak(self) -> tuple[str, str, dict[str, Any]]:
        assert self._speaker is not None
        spoken = await self._speaker.answer(self._request, self._step, self._conversation)
        shortened = {"shortened_results": self._shortened} if self._shortened else {}
        return _readable(spoken), spoken.model, {**spoken.facts, **shortened}

    # Operation by an external operator

    async def call(self, name: str, arguments: str, reported: Reported | None = None) -> str:
        """Call one tool; returns its text, with the remaining budget.

        `reported` is the operator's statement about itself, with a call that ends the expedition.
        """
        await self.take_up()
        self.reported = reported or self.reported
        if self.end is not None:
            return f"the expedition has ended: {self.end.reason}"
        ending = name in ("submit", "give_up", "note")
        if self._spent() and not ending:
            return f"refused: {self._spent()}: submit a draft, or give_up\n{self.left()}"
        turn = await self._tool(name, arguments)
        told = [turn.content]
        if self.end is None:
            stalled = await self._supervise(self._stalled())
            told += [stalled] if stalled else []
        return "\n\n".join(told)

    async def take_up(self) -> None:
        """Restore an external operator's expedition from its journal."""
        turn = None
        while self._known:
            turn = self._known.popleft()
            self._apply(turn)
        if turn is not None:
            await self._settle(turn)
        if self._step == 0:
            await self._supervise(self._without_gain())

    # Either way

    def brief(self) -> str:
        """Task, notes of earlier expeditions and budgets, as the first message."""
        notes = self._lineage.notes()
        told = ["Notes of earlier expeditions:", *notes, ""] if notes else []
        return "\n".join([self._request.user, "", *told, self.left()])

    def left(self) -> str:
        """Remaining budgets of the expedition."""
        agent, bench = self._agent, self.bench
        parts = [f"evaluations {agent.evaluations - bench.charged} of {agent.evaluations}"]
        if agent.fit_tables:
            parts.append(f"fit tables {agent.fit_tables - bench.fit_tables} of {agent.fit_tables}")
        parts.append(f"turns {max(0, agent.turns - self.turn)} of {agent.turns}")
        if self._speaker is not None:
            tokens = f"tokens {self.tokens} used"
            parts.append(tokens if agent.tokens is None else f"tokens {agent.tokens - self.tokens} of {agent.tokens}")
            usd = f"${self.usd:.4f} used"
            parts.append(usd if agent.usd is None else f"${agent.usd - self.usd:.4f} of ${agent.usd:.2f}")
        return f"Left: {', '.join(parts)}."

    async def _tool(self, name: str, arguments: str) -> Turn:
        """Call a tool, store its result, and end the expedition if the tool does."""

        async def work() -> tuple[str, str, dict[str, Any]]:
            result = await self.bench.call(name, arguments)
            return f"{result.content}\n{self._left_after(result)}", name, result.facts

        turn = await self._row(TurnKind.TOOL, arguments, work)
        await self._settle(turn)
        return turn

    async def _settle(self, turn: Turn) -> None:
        """End the expedition if a tool ended it."""
        if turn.kind is not TurnKind.TOOL:
            return
        if "accepted" in turn.facts:
            draft = self.bench.draft(turn.facts["accepted"])
            await self._ends(
                ExpeditionEnd(ExpeditionOutcome.SUBMITTED, "submitted", draft, turn.facts["hypothesis"]), by="agent"
            )
        elif "gave_up" in turn.facts:
            await self._ends(ExpeditionEnd(self._without_child(), turn.facts["gave_up"], None, ""), by="agent")

    def _left_after(self, result: ToolResult) -> str:
        """`left` after a result has been counted."""
        charged = bool(isinstance(result.facts.get("draft"), dict) and result.facts["draft"]["charged"])
        tables, turns = int(result.facts.get("fit_tables", 0)), int(self._speaker is None)
        self.bench.charged += charged
        self.bench.fit_tables += tables
        self.turn += turns
        try:
            return self.left()
        finally:
            self.bench.charged -= charged
            self.bench.fit_tables -= tables
            self.turn -= turns

    async def _row(
        self, kind: TurnKind, asked: str, work: Callable[[], Awaitable[tuple[str, str, dict[str, Any]]]]
    ) -> Turn:
        """The next turn: one from before an interruption, or a new one, which is stored."""
        if self._known:
            turn = self._known.popleft()
            assert turn.kind is kind, f"step {turn.step} is {turn.kind}, not {kind}"
        else:
            started, index = time.monotonic(), self._request.index
            content, name, facts = await work()
            elapsed_s, asked = time.monotonic() - started, storable(asked)
            number = self.turn + (kind is (TurnKind.TOOL if self._speaker is None else TurnKind.MODEL))
            turn = Turn(index, self._step, number, kind, storable(name), asked, storable(content), facts, elapsed_s)
            self._journal.turn(turn)
        self._apply(turn)
        return turn

    def _apply(self, turn: Turn) -> None:
        facts = turn.facts
        self._step, self.turn = turn.step + 1, turn.turn
        self.tokens += facts.get("tokens_in", 0) + facts.get("tokens_out", 0)
        self.usd += facts.get("usd", 0.0) if turn.kind is not TurnKind.END else 0.0
        if turn.kind is TurnKind.TOOL:
            self.bench.apply(facts)
            self.said.append(turn.content)
        elif turn.kind is TurnKind.SUPERVISOR:
            self.said.append(stalled_text(turn))
            self._supervised, self._supervisions = len(self.bench.drafts), self._supervisions + 1
        elif turn.kind is TurnKind.END:
            draft = self.bench.draft(facts["child"]) if facts["child"] else None
            self.reported = Reported(**facts.get("reported", {}))
            self.end = ExpeditionEnd(ExpeditionOutcome(facts["outcome"]), facts["reason"], draft, facts["hypothesis"])

    def _spent(self) -> str:
        """Message on a budget that is used up, or would be by the next answer; empty if there is none."""
        agent = self._agent
        if self.turn >= agent.turns:
            return f"its {agent.turns} turns are used up"
        if self._speaker is None or (agent.tokens is None and agent.usd is None):
            return ""
        conversation = self._conversation
        sent = json.dumps([conversation.system, conversation.messages, list(conversation.tools)])
        tokens_in = estimate_tokens(sent)
        model = next((m for m in agent.all_models() if m.name == self._request.model), agent.all_models()[0])
        if agent.tokens is not None and self.tokens + tokens_in + model.answer_tokens > agent.tokens:
            return f"{self.tokens} of its {agent.tokens} tokens are used, the next answer might take more than is left"
        price = self._config.budget.prices.get(model.name)
        most = price.of(tokens_in, model.answer_tokens) if price else 0.0
        if agent.usd is not None and self.usd + most > agent.usd:
            return f"${self.usd:.4f} of its ${agent.usd:.2f} are spent, the next answer might cost ${most:.4f}"
        return ""

    async def _rescue(self, why: str) -> None:
        """End an expedition whose budget is used up, with its best draft if that passes the gate."""
        await self._harness_ends(why, await self.bench.best_passing())

    async def _harness_ends(self, why: str, child: Draft | None, *, endpoint_failed: bool = False) -> None:
        self._endpoint_failed = endpoint_failed
        if child is None:
            await self._ends(ExpeditionEnd(self._without_child(), why, None, ""), by="harness")
            return
        hypothesis = f"None was stated: the best draft, submitted by the harness since {why}"
        await self._ends(ExpeditionEnd(ExpeditionOutcome.SUBMITTED, why, child, hypothesis), by="harness")

    def _without_child(self) -> ExpeditionOutcome:
        return ExpeditionOutcome.DEAD if self.bench.drafts else ExpeditionOutcome.BLIND

    async def _ends(self, end: ExpeditionEnd, *, by: str) -> None:
        facts = {
            "outcome": end.outcome.value,
            "reason": storable(end.reason),
            "by": by,
            "child": end.draft.number if end.draft else 0,
            "hypothesis": end.hypothesis,
            "evaluations": self.bench.charged,
            "drafts": len(self.bench.drafts),
            "fit_tables": self.bench.fit_tables,
            "usd": self.usd,
            **({"endpoint_failed": True} if self._endpoint_failed else {}),
            **({"reported": asdict(self.reported)} if self.reported != Reported() else {}),
        }

        async def told() -> tuple[str, str, dict[str, Any]]:
            return end.hypothesis or end.reason, end.outcome.value, facts

        await self._row(TurnKind.END, "", told)

    def response(self) -> Response:
        """The answer to the request, once the expedition has ended.

        Raises:
            ProposerError: without a child.
        """
        assert self.end is not None
        own = self.reported
        model = own.model or next((t.name for t in self._rows(TurnKind.MODEL)), "external")
        if self.end.draft is None:
            spent = Response("", model, "", own.tokens_in, own.tokens_out)
            raise ProposerError(self._without_text(), spent=spent)
        source = self.end.draft.source
        fence = "`" * (4 if "```" in source else 3)
        said = self.end.hypothesis.replace("<<<", "").replace("```", "").replace("def schedule", "schedule")
        text = f"{said}\n\n{fence}python\n{source}{fence}"
        return Response(text, model, "", own.tokens_in, own.tokens_out)

    def _childless(self) -> bool:
        return self.end is not None and self.end.draft is None

    def _without_text(self) -> str:
        assert self.end is not None
        return f"{self.end.outcome.value} expedition: {self.end.reason}"

    def _rows(self, kind: TurnKind) -> list[Turn]:
        return self._journal.turns("id = ? AND kind = ?", (self._request.index, kind.value))

    # Stagnation

    def _stalled(self) -> str:
        return stagnation(self.bench.parent, self.bench.drafts, self._supervised, stall=self._agent.stall)

    def _without_gain(self) -> str:
        count = self._lineage.without_gain(self._request.island, most=self._agent.stall)
        return f"the last {count} expeditions of this island brought no gain" if count >= self._agent.stall else ""

    async def _supervise(self, why: str) -> str:
        """Ask for a diagnosis if there is a reason; returns the message to the agent."""
        if not why or self._supervisions >= MOST_SUPERVISIONS:
            return ""
        turn = await self._row(
            TurnKind.SUPERVISOR,
            supervision(why, self._request, self.bench, self._lineage).digest,
            lambda: self._diagnose(why),
        )
        told = f"{stalled_text(turn)}\n{self.left()}"
        if self._speaker is not None:
            if self._messages[-1]["role"] == "user":  # some endpoints refuse two of them in a row
                self._messages[-1]["content"] += f"\n\n{told}"
            else:
                self._messages.append({"role": "user", "content": told})
        return told

    async def _diagnose(self, why: str) -> tuple[str, str, dict[str, Any]]:
        if self._speaker is None or not self._agent.supervisor:
            return "", "detector", {"why": why}
        try:
            spoken = await self._speaker.answer(
                self._request, self._step, supervision(why, self._request, self.bench, self._lineage)
            )
        except (BudgetSpent, EndpointError, RequestRefused) as error:
            return "", "detector", {"why": why, "error": storable(str(error))}
        return spoken.text, spoken.model, {**spoken.facts, "why": why}


def _readable(spoken: Spoken) -> str:
    """An answer as JSON with `content` and `tool_calls`, whatever its form."""
    try:
        found = json.loads(spoken.text)
        calls = [{key: str(call[key]) for key in ("id", "name", "arguments")} for call in found["tool_calls"]]
        return json.dumps({"content": str(found["content"]), "tool_calls": calls}, ensure_ascii=False)
    except (ValueError, KeyError, TypeError):
        return json.dumps({"content": spoken.text, "tool_calls": []}, ensure_ascii=False)
