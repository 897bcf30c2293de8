"""A run whose expeditions an external operator makes: each call is one step, stored before it is answered.

This module enforces the budget, not the operator. Between two calls only the opened judge is kept, so that processes
with one call each and a server with many do the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.data.evaluation import SplitScore
from evolve.agent import tools
from evolve.agent.expedition import Expedition, Reported
from evolve.agent.proposer import AgentProposer
from evolve.config import RunConfig
from evolve.errors import UserError
from evolve.journal.journal import open_journal
from evolve.journal.run_folder import locked, summarise
from evolve.proposer_config import AgentConfig
from evolve.run import OpenedRun, held_config, resume_run, run_search, start_run


@dataclass(frozen=True, slots=True)
class Told:
    """Result of a call.

    Attributes:
        text: text of the tool, with the remaining budget.
        ended: outcome of the expedition that this call ended; empty where it goes on.
        committed: result of an ended expedition: status and scores on the training shapes.
    """

    text: str
    ended: str = ""
    committed: dict[str, Any] | None = None


class OperatorSession:
    """One run, opened for an external operator."""

    def __init__(self, opened: OpenedRun) -> None:
        """Advance to the expedition that waits.

        Raises:
            UserError: its operator is a model, or another process uses the folder.
        """
        if not isinstance(opened.proposer, AgentProposer) or opened.proposer.speaker is not None:
            raise UserError(f"{opened.folder} has no external operator", hint=WANTED)
        self._opened, self._proposer = opened, opened.proposer
        self.folder = opened.folder
        self._advance()

    @staticmethod
    def start(config: RunConfig, *, on_event: Callable[[str], None]) -> OperatorSession:
        """Begin a run.

        Raises:
            UserError: the configuration names no external operator, or a seed or table is wrong.
        """
        _require_external(config)
        return OperatorSession(start_run(config, on_event=on_event))

    @staticmethod
    def take_up(folder: Path, *, on_event: Callable[[str], None]) -> OperatorSession:
        """Resume a run.

        Raises:
            UserError: it has no external operator, or cannot be opened.
        """
        config = held_config(folder)
        _require_external(config)
        return OperatorSession(resume_run(config, folder, on_event=on_event))

    def _advance(self) -> None:
        """Commit an ended expedition and sample the next."""
        self._proposer.awaited = None
        run_search(self._opened)

    def _awaited(self) -> bool:
        """True if an expedition waits; reads the journal again if another process has continued."""
        request = self._proposer.awaited
        with open_journal(self.folder, read_only=True) as journal:
            at = journal.committed()
        if request is None or request.index != at:
            self._advance()
        return self._proposer.awaited is not None

    @property
    def tool_names(self) -> list[str]:
        """Tools of this run."""
        agent = self._opened.config.proposer
        return tools.offered(fit=isinstance(agent, AgentConfig) and agent.fit_tables > 0)

    def brief(self) -> str:
        """Task of the operator, with the messages so far if the expedition has begun."""
        if not self._awaited():
            return f"{self.folder} has ended: no expedition waits"
        return str(asyncio.run(self._with_expedition(_brief)))

    def call(self, name: str, arguments: str, reported: Reported | None = None) -> Told:
        """Call a tool of the expedition that waits.

        `reported` is the operator's statement about itself, with a call that ends the expedition.
        """
        if not self._awaited():
            return Told(f"refused: {self.folder} has ended: no expedition waits", ended="finished")
        request = self._proposer.awaited
        assert request is not None

        async def work(expedition: Expedition) -> tuple[str, str]:
            text = await expedition.call(name, arguments, reported)
            return text, expedition.end.outcome.value if expedition.end else ""

        text, ended = asyncio.run(self._with_expedition(work))
        if not ended:
            return Told(text)
        self._advance()
        return Told(text, ended, self._committed(request.index))

    async def _with_expedition(self, work: Callable[[Expedition], Any]) -> Any:
        request = self._proposer.awaited
        assert request is not None
        with locked(self.folder), open_journal(self.folder, read_only=False) as journal:
            return await work(self._proposer.expedition(request, journal))

    def _committed(self, index: int) -> dict[str, Any] | None:
        with open_journal(self.folder, read_only=True) as journal:
            entry = journal.entry(index)
        if entry.status is None:
            return None
        return {"proposal": index, "status": entry.status.value, "message": entry.message, **_train(entry.train)}

    def status(self) -> dict[str, Any]:
        """Progress of the run, with training scores only, since the operator must not optimise the holdout."""
        waits = self._awaited()
        request, summary = self._proposer.awaited, summarise(self.folder)
        leader = summary.leader
        return {
            "run": self.folder.name,
            "path": str(self.folder),
            "waits": waits,
            "proposal": request.index if request else None,
            "parent": request.parent.id if request else None,
            "left": asyncio.run(self._with_expedition(_left)) if waits else "",
            "expeditions": {"done": summary.proposals, "wanted": summary.wanted},
            "leader": None if leader is None else {"proposal": leader.id, **_train(leader.train)},
        }


WANTED = "proposer: {kind: agent, operator: external}, search: {window: 1}; see configs/agent-external.yaml"


def _require_external(config: RunConfig) -> None:
    if not isinstance(config.proposer, AgentConfig) or config.proposer.operator != "external":
        raise UserError("this run has no external operator", hint=WANTED)


async def _brief(expedition: Expedition) -> str:
    await expedition.take_up()
    told = [expedition.system, expedition.brief(), *expedition.said]
    return "\n\n".join(told)


async def _left(expedition: Expedition) -> str:
    await expedition.take_up()
    return expedition.left()


def _train(score: SplitScore | None) -> dict[str, Any]:
    return {} if score is None else {"score": score.score, "regressions": score.regressions}


def arguments_of(text: str) -> str:
    """Arguments of a call as JSON text.

    Raises:
        UserError: not a JSON object.
    """
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise UserError(f"the arguments are not JSON ({error})", hint="""--args '{"draft": 1}'""") from error
    if not isinstance(found, dict):
        raise UserError("the arguments are not a JSON object", hint="""--args '{"draft": 1}'""")
    return json.dumps(found)
