"""Proposer `agent`: every proposal is an expedition of a model with tools, or of an external operator."""

from __future__ import annotations

import asyncio

from evolve.agent.expedition import Expedition
from evolve.agent.models import EndpointSpeaker, Speaker
from evolve.config import RunConfig
from evolve.journal.journal import Journal
from evolve.proposal import Calls, Request, Response
from evolve.proposer_config import AgentConfig
from evolve.proposers.openai import OpenAIProposer
from evolve.search.budget import BudgetSpent
from evolve.search.pipeline import JudgeLike

AWAITED = "proposer.operator: an external operator is awaited; evosplit agent says how"


class OperatorAwaited(BudgetSpent):
    """An expedition waits for the calls of an external operator; the run stops, and can be resumed."""


class AgentProposer:
    """Proposer by expeditions."""

    name = "agent"

    def __init__(self, config: RunConfig) -> None:
        """Open the endpoints.

        Raises:
            UserError: a key is missing, as for the proposer `openai`.
        """
        assert isinstance(config.proposer, AgentConfig)
        self._config = config
        external = config.proposer.operator == "external"
        self._endpoints = None if external else OpenAIProposer(config.proposer)
        self._journal: Journal | None = None
        self._judge: JudgeLike | None = None
        self.speaker: Speaker | None = None
        self._judging = asyncio.Semaphore(config.search.parallel_evaluations)
        self.awaited: Request | None = None
        """Request that waits for an external operator."""

    def attach(self, journal: Journal, judge: JudgeLike) -> None:
        """See `Attached.attach`."""
        self._journal, self._judge = journal, judge
        if self._endpoints is not None:
            self.speaker = EndpointSpeaker(self._endpoints, journal)

    async def prepare(self, kept: str, calls: Calls) -> str:
        """See `Prepares.prepare`."""
        return await self._endpoints.prepare(kept, calls) if self._endpoints else ""

    async def propose(self, request: Request) -> Response:
        """See `Proposer.propose`.

        Raises:
            ProposerError: the expedition ended without a child.
            OperatorAwaited: an external operator has not ended it yet.
        """
        assert self._journal is not None
        expedition = self.expedition(request, self._journal)
        if self.speaker is not None:
            return await expedition.run()
        await expedition.take_up()
        if expedition.end is None:
            self.awaited = request
            raise OperatorAwaited(AWAITED)
        return expedition.response()

    def expedition(self, request: Request, journal: Journal) -> Expedition:
        """The expedition that makes a proposal."""
        assert self._judge is not None
        return Expedition(request, self._config, journal, self._judge, self._judging, self.speaker)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._endpoints is not None:
            await self._endpoints.aclose()
