"""Budgets of a run: US dollars, tokens, GPU seconds. Running calls reserve an upper bound of their cost.

Wall time and proposals are limits of the search itself (`search.wall_s`, `search.proposals`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from evolve.config import RunConfig
from evolve.journal.journal import Spending
from evolve.prompts.tokens import estimate_tokens
from evolve.proposal import EndpointCall, Request, Response
from evolve.proposer_config import EndpointConfig


class BudgetSpent(Exception):
    """The next step would exceed a budget; the message names it with the amounts."""


@dataclass(frozen=True, slots=True)
class Spend:
    """Cost of one step, or its upper bound."""

    usd: float = 0.0
    tokens: int = 0
    gpu_s: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(self.usd + other.usd, self.tokens + other.tokens, self.gpu_s + other.gpu_s)


def spend_of(response: Response) -> Spend:
    """Cost of a response."""
    return Spend(response.cost_usd, response.tokens_in + response.tokens_out)


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """Reservation for one step, until it is settled."""

    reserved: Spend


class Budget:
    """Amounts spent and reserved, and admission of further steps. Runs inside one event loop."""

    def __init__(self, config: RunConfig, spent: Spending) -> None:
        """Start from the spending in the journal."""
        self._limits, self._prices = config.budget, config.budget.prices
        self._answer_tokens, self._only_model = {"": 0}, ""
        if isinstance(config.proposer, EndpointConfig):
            self._only_model = config.proposer.model or ""
            self._answer_tokens |= {m.name: m.answer_tokens for m in config.proposer.all_models()}
        self._spent = Spend(spent.cost_usd, spent.tokens, spent.gpu_s)
        self._tickets: list[Ticket] = []
        self._longest_gpu_s = 0.0
        self._settled = asyncio.Event()

    def priced(self, answer: Response) -> Response:
        """Answer with its price by the configured price table, if its model is listed."""
        price = self._prices.get(answer.model)
        if price is None or answer.cost_usd:
            return answer
        return replace(answer, cost_usd=price.of(answer.tokens_in, answer.tokens_out))

    def call_priced(self, call: EndpointCall) -> EndpointCall:
        """Call with its price: the endpoint's own, or by the configured price table."""
        price = self._prices.get(call.model)
        if price is None or call.cost_usd is not None:
            return call
        return replace(call, cost_usd=price.of(call.tokens_in, call.tokens_out))

    def call(self, request: Request) -> Spend:
        """Upper bound of a call's cost: the estimated prompt and the longest answer."""
        tokens_in = estimate_tokens(request.system) + estimate_tokens(request.user)
        model = request.model or self._only_model
        return self.most(model, tokens_in, self._answer_tokens.get(model, 0))

    def most(self, model: str, tokens_in: int, tokens_out: int) -> Spend:
        """Upper bound of the cost of a call, given its tokens."""
        price = self._prices.get(model)
        usd = price.of(tokens_in, tokens_out) if price else 0.0
        return Spend(usd, tokens_in + tokens_out)

    def evaluation(self) -> Spend:
        """Estimated cost of an evaluation: that of the longest so far."""
        return Spend(gpu_s=self._longest_gpu_s)

    async def reserve(self, cost: Spend) -> Ticket:
        """Wait until a step fits beside running ones, which mostly cost less than reserved; then reserve it.

        Raises:
            BudgetSpent: it does not fit, and no running step could free enough.
        """
        while True:
            over = self._over(cost)
            if not over:
                ticket = Ticket(cost)
                self._tickets.append(ticket)
                return ticket
            if not self._tickets:
                raise BudgetSpent(over)
            self._settled.clear()
            await self._settled.wait()

    def settle(self, ticket: Ticket, actual: Spend) -> None:
        """Replace a reservation by the actual cost."""
        self._tickets.remove(ticket)
        self._spent += actual
        self._longest_gpu_s = max(self._longest_gpu_s, actual.gpu_s)
        self._settled.set()

    def charge(self, actual: Spend) -> None:
        """Add the cost of a step that needs no reservation."""
        self._spent += actual

    def _over(self, cost: Spend) -> str:
        """Message about the limit that a step would exceed; empty if none. Calls use no GPU, evaluations no tokens."""
        total = self._spent + cost
        for ticket in self._tickets:
            total += ticket.reserved
        limits, spent = self._limits, self._spent
        if not cost.tokens:
            if limits.gpu_s is not None and (total.gpu_s > limits.gpu_s or spent.gpu_s >= limits.gpu_s):
                return f"budget.gpu_s: {spent.gpu_s:.1f} of {limits.gpu_s:.1f} seconds are spent"
            return ""
        if limits.usd is not None and total.usd > limits.usd:
            return (
                f"budget.usd: ${spent.usd:.4f} of ${limits.usd:.2f} are spent, the next call may cost ${cost.usd:.4f}"
            )
        if limits.tokens is not None and total.tokens > limits.tokens:
            return f"budget.tokens: {spent.tokens} of {limits.tokens} are spent, the next call may take {cost.tokens}"
        return ""
