"""Accounts of calls to endpoints: each is reserved before it is sent, and its result journalled before it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from evolve.journal.journal import Journal
from evolve.proposal import EndpointCall, Response
from evolve.search.budget import Budget, Spend, Ticket

PREPARING = -1
"""Index of calls that prepare a run, in place of a proposal's number."""

FIRST, CORRECTING = 0, 1
"""Purpose of a call: the answer, or the second try after an answer that could not be parsed."""


class CallLog:
    """Calls of one proposal, including those before an interruption. See `evolve.proposal.Calls`."""

    def __init__(self, journal: Journal, budget: Budget, index: int, ticket: Ticket | None = None) -> None:
        """Read the calls that an interrupted run journalled.

        `index` is a proposal's number, or `PREPARING`; `ticket` is a reservation for the first call.
        """
        self._journal, self._budget, self._index, self._ticket = journal, budget, index, ticket
        self._row = 0
        self.step = FIRST
        self._known = journal.calls(index)

    @property
    def used(self) -> bool:
        """True if there was any call."""
        return bool(self._known)

    def recalled(self, step: int) -> EndpointCall | None:
        """Result of a step from before an interruption, so that it is not repeated; None without one."""
        return next((call for at, call in self._known if at == step and call.text), None)

    async def begin(self, model: str, *, tokens_in: int, tokens_out: int) -> str:
        """See `Calls.begin`.

        Raises:
            BudgetSpent: the call could exceed a budget.
        """
        if self._ticket is None:
            self._ticket = await self._budget.reserve(self._budget.most(model, tokens_in, tokens_out))
        # An unanswered call keeps its key, so that an endpoint that supports such keys does not bill it again.
        answered = sum(call.answered for at, call in self._known if at == self.step)
        text = f"{self._journal.meta('created_at')}:{self._index}:{self.step}:{answered}"
        key = f"evosplit-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        self._row = self._journal.call_begun(self._index, self.step, model, key)
        return key

    def end(self, call: EndpointCall) -> None:
        """See `Calls.end`."""
        call = self._budget.call_priced(call)
        try:
            self._journal.call_ended(self._row, call)
        finally:
            self.settle(Spend(call.cost_usd or 0.0, call.tokens_in + call.tokens_out))
            self._row = 0
        self._known.append((self.step, call))

    def settle(self, spend: Spend) -> None:
        """Settle the reservation of the running call, if any."""
        if self._ticket is not None:
            self._budget.settle(self._ticket, spend)
            self._ticket = None

    def total(self, response: Response) -> Response:
        """Response with the cost of all calls, including those before an interruption."""
        return with_spend_of([call for _, call in self._known], response) if self._known else response


def with_spend_of(calls: Sequence[EndpointCall], response: Response) -> Response:
    """Response with the cost of its calls."""
    return replace(
        response,
        tokens_in=sum(call.tokens_in for call in calls),
        tokens_out=sum(call.tokens_out for call in calls),
        cost_usd=sum(call.cost_usd or 0.0 for call in calls),
    )
