"""Replays of expeditions: recorded answers of the model, tools called again, every turn compared."""

from __future__ import annotations

import asyncio
from pathlib import Path

from evolve.agent.expedition import Expedition, Reported
from evolve.agent.models import RecordedSpeaker
from evolve.config import RunConfig
from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.journal.journal import Journal, open_journal
from evolve.journal.turns import Turn, TurnKind
from evolve.proposal import Request, Response
from evolve.proposer_config import AgentConfig, ReplayConfig
from evolve.proposers.base import ProposerError
from evolve.proposers.replay import ReplayProposer, recorded_entries
from evolve.search.budget import BudgetSpent
from evolve.search.pipeline import JudgeLike


class ReplayedAgent:
    """Repeats the expeditions of a recorded run with its recorded answers."""

    name = "replay"

    def __init__(self, replay: ReplayConfig, recorded: RunConfig) -> None:
        """Read the recorded run.

        Raises:
            UserError: the folder holds no journal.
        """
        assert isinstance(recorded.proposer, AgentConfig)
        self._inner, self._config = ReplayProposer(replay), recorded
        with open_journal(Path(replay.run), read_only=True) as journal:
            turns = journal.turns()
        self._turns: dict[int, list[Turn]] = {}
        for turn in turns:
            self._turns.setdefault(turn.id, []).append(turn)
        errors = {index: entry.error for index, entry in recorded_entries(replay).items()}
        self._speaker = None
        if recorded.proposer.operator == "model":
            self._speaker = RecordedSpeaker(self._turns, errors, any_prompt=replay.prompts == "any")
        self._judging = asyncio.Semaphore(recorded.search.parallel_evaluations)
        self._journal: Journal | None = None
        self._judge: JudgeLike | None = None

    def attach(self, journal: Journal, judge: JudgeLike) -> None:
        """See `Attached.attach`."""
        self._journal, self._judge = journal, judge

    async def propose(self, request: Request) -> Response:
        """See `Proposer.propose`.

        Raises:
            ProposerError: the recorded expedition ended without a child.
            UserError: the expedition differs from the recorded one; the message says where.
        """
        found, failed = None, None
        try:
            found = await self._inner.propose(request)
        except ProposerError as error:
            failed = error
        now = await self._made_again(request)
        recorded = str(failed) if failed else found.text if found else ""
        if now != recorded:
            raise UserError(
                f"expedition {request.index} ended otherwise: {now[:120]!r}, recorded {recorded[:120]!r}",
                exit_code=EXIT_NEGATIVE,
            )
        if failed is not None:
            raise failed
        assert found is not None
        return found

    async def _made_again(self, request: Request) -> str:
        """Text of the repeated expedition's answer, or of its error."""
        assert self._journal is not None and self._judge is not None
        expedition = Expedition(request, self._config, self._journal, self._judge, self._judging, self._speaker)
        try:
            if self._speaker is not None:
                return (await expedition.run()).text
            await self._operate(request.index, expedition)
            return expedition.response().text
        except (ProposerError, BudgetSpent) as error:
            return str(error)

    async def _operate(self, index: int, expedition: Expedition) -> None:
        """Make the calls that an external operator made."""
        turns = self._turns.get(index, [])
        reported = next((Reported(**t.facts.get("reported", {})) for t in turns if t.kind is TurnKind.END), None)
        for turn in turns:
            if turn.kind is TurnKind.TOOL:
                await expedition.call(turn.name, turn.asked, reported)

    async def aclose(self) -> None:
        """Nothing to release."""
