"""Speakers in an expedition: a model at an endpoint, or the answers of a recorded run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.journal.journal import Journal
from evolve.journal.turns import Turn, TurnKind
from evolve.proposal import CUT_OFF, Request
from evolve.proposers.base import EndpointError, ProposerError
from evolve.proposers.openai import OpenAIProposer
from evolve.search.budget import BudgetSpent

FIRST_STEP = 2
"""Purpose of an expedition's calls in the journal, see `CallLog.step`: those of other proposals come before."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages to a model.

    Attributes:
        messages: further messages, in the form of chat completions.
        tools: tools that may be called.
    """

    system: str
    messages: list[dict[str, Any]]
    tools: Sequence[dict[str, Any]] = ()

    @property
    def digest(self) -> str:
        """Digest of all messages, for comparison in replays."""
        text = json.dumps([self.system, self.messages, list(self.tools)], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True, slots=True)
class Spoken:
    """An answer.

    Attributes:
        text: with tools, JSON with `content` and `tool_calls`.
        facts: tokens and US dollars.
    """

    text: str
    model: str
    facts: dict[str, Any]


class Speaker(Protocol):
    """Source of answers in a conversation."""

    async def answer(self, request: Request, step: int, conversation: Conversation) -> Spoken:
        """The answer at a step of an expedition.

        Raises:
            BudgetSpent: the run's budget does not allow it.
            ProposerError: there was no answer.
        """
        ...


class EndpointSpeaker:
    """Asks the models of the configuration; answers from before an interruption are not asked for again."""

    def __init__(self, endpoints: OpenAIProposer, journal: Journal) -> None:
        """Store the endpoints, and the journal that keeps every call."""
        self._endpoints, self._journal = endpoints, journal

    async def answer(self, request: Request, step: int, conversation: Conversation) -> Spoken:
        """See `Speaker.answer`."""
        purpose = FIRST_STEP + step
        if not any(at == purpose and call.text for at, call in self._journal.calls(request.index)):
            request.calls.step = purpose
            await self._endpoints.converse(request, conversation.system, conversation.messages, conversation.tools)
        made = [call for at, call in self._journal.calls(request.index) if at == purpose]
        said = next(call for call in made if call.text)
        facts = {
            "tokens_in": sum(call.tokens_in for call in made),
            "tokens_out": sum(call.tokens_out for call in made),
            "usd": sum(call.cost_usd or 0.0 for call in made),
            **({"cut_off": True} if CUT_OFF in said.note else {}),
        }
        return Spoken(said.text, said.model, facts)


class RecordedSpeaker:
    """Gives the answers of a recorded expedition, as long as the conversation is the same."""

    def __init__(self, turns: Mapping[int, Sequence[Turn]], errors: Mapping[int, str], *, any_prompt: bool) -> None:
        """Store the recorded turns, and the errors of expeditions that were cut off, by proposal.

        With `any_prompt` the conversation may differ.
        """
        self._turns, self._errors, self._any_prompt = turns, errors, any_prompt

    async def answer(self, request: Request, step: int, conversation: Conversation) -> Spoken:
        """See `Speaker.answer`.

        Raises:
            UserError: the recorded conversation was another one.
        """
        turns = self._turns.get(request.index, ())
        turn = next((t for t in turns if t.step == step), None)
        if turn is None:
            raise ProposerError(self._errors.get(request.index, "") or "the recorded expedition was broken off here")
        if turn.kind is TurnKind.END and turn.facts.get("endpoint_failed"):
            raise EndpointError(str(turn.facts["reason"]))
        if turn.kind is TurnKind.END:
            raise BudgetSpent(str(turn.facts["reason"]))
        spoken = turn.kind in (TurnKind.MODEL, TurnKind.SUPERVISOR)
        if not spoken or (turn.asked != conversation.digest and not self._any_prompt):
            raise UserError(
                f"turn {step} of expedition {request.index} is not the recorded one: its conversation differs",
                hint="the judge, the table, the configuration or the texts have changed since; "
                "evosplit replay --any-prompt lets texts differ",
                exit_code=EXIT_NEGATIVE,
            )
        return Spoken(turn.content, turn.name, turn.facts)
