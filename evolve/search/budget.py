"""Budgets of a run: US dollars, tokens, GPU seconds. Running calls are reserved at what they may cost at most.

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
    """The next step would overrun a budget; the message says which, and by how much."""


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
    """A place held for one step, until it is settled."""

    reserved: Spend


class Budget:
    """Amounts spent and reserved, and whether the next step still fits. Runs inside one event loop."""

    def __init__(self, config: RunConfig, spent: Spending) -> None:
        """Begin where the journal left off."""
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
        """The answer with its price by the table of the configuration, where its model has one."""
        price = self._prices.get(answer.model)
        if price is None or answer.cost_usd:
            return answer
        return replace(answer, cost_usd=price.of(answer.tokens_in, answer.tokens_out))

    def call_priced(self, call: EndpointCall) -> EndpointCall:
        """A call with its price: the endpoint's own, or that of the configuration's table."""
        price = self._prices.get(call.model)
        if price is None or call.cost_usd is not None:
            return call
        return replace(call, cost_usd=price.of(call.tokens_in, call.tokens_out))

    def call(self, request: Request) -> Spend:
        """Upper bound of a call: the prompt as estimated, and the longest answer."""
        tokens_in = estimate_tokens(request.system) + estimate_tokens(request.user)
        model = request.model or self._only_model
        return self.most(model, tokens_in, self._answer_tokens.get(model, 0))

    def most(self, model: str, tokens_in: int, tokens_out: int) -> Spend:
        """What a call of so many tokens may cost at most."""
        price = self._prices.get(model)
        usd = price.of(tokens_in, tokens_out) if price else 0.0
        return Spend(usd, tokens_in + tokens_out)

    def evaluation(self) -> Spend:
        """Estimate of an evaluation: as much as the longest so far."""
        return Spend(gpu_s=self._longest_gpu_s)

    async def reserve(self, cost: Spend) -> Ticket:
        """Wait until a step fits beside running ones, which mostly cost less than reserved; then hold its place.

        Raises:
            BudgetSpent: it does not fit, and no running step could leave room.
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
        """Replace a reservation by what the step cost."""
        self._tickets.remove(ticket)
        self._spent += actual
        self._longest_gpu_s = max(self._longest_gpu_s, actual.gpu_s)
        self._settled.set()

    def charge(self, actual: Spend) -> None:
        """Count what a step cost that could not be refused."""
        self._spent += actual

    def _over(self, cost: Spend) -> str:
        """The limit that the step would break; empty when none. Calls take no GPU time, evaluations no tokens."""
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
