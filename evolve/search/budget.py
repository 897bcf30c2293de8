"""Budgets of a run: US dollars, tokens, GPU seconds. Calls under way are reserved at what they may cost at most.

Wall time and proposals are limits of the search itself (`search.wall_s`, `search.proposals`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from evolve.config import OpenAIConfig, RunConfig
from evolve.journal.journal import Spending
from evolve.prompts.tokens import estimate_tokens
from evolve.proposal import Answer, Ask


class BudgetSpent(Exception):
    """The next step would overrun a budget; the message says which, and by how much."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one step costs, or may cost at most."""

    usd: float = 0.0
    tokens: int = 0
    gpu_s: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.usd + other.usd, self.tokens + other.tokens, self.gpu_s + other.gpu_s)


def cost_of(answer: Answer) -> Cost:
    """What an answer cost."""
    return Cost(answer.cost_usd, answer.tokens_in + answer.tokens_out)


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A place held for one step, until it is settled."""

    reserved: Cost


class Budget:
    """What was spent, what is under way, and whether the next step still fits. Lives inside one event loop."""

    def __init__(self, config: RunConfig, spent: Spending) -> None:
        """Begin where the journal left off."""
        self._limits, self._prices = config.budget, config.budget.prices
        self._answer_tokens, self._only_model = 0, ""
        if isinstance(config.proposer, OpenAIConfig):
            self._answer_tokens, self._only_model = config.proposer.max_tokens, config.proposer.model or ""
        self._spent = Cost(spent.cost_usd, spent.tokens, spent.gpu_s)
        self._tickets: list[Ticket] = []
        self._longest_gpu_s = 0.0
        self._settled = asyncio.Event()

    def priced(self, answer: Answer) -> Answer:
        """The answer with its price by the table of the configuration, where its model has one."""
        price = self._prices.get(answer.model)
        if price is None or answer.cost_usd:
            return answer
        return replace(answer, cost_usd=price.of(answer.tokens_in, answer.tokens_out))

    def call(self, ask: Ask) -> Cost:
        """What a call may cost at most: the prompt as estimated, and the longest answer."""
        tokens_in = estimate_tokens(ask.system) + estimate_tokens(ask.user)
        price = self._prices.get(ask.model or self._only_model)
        usd = price.of(tokens_in, self._answer_tokens) if price else 0.0
        return Cost(usd, tokens_in + self._answer_tokens)

    def evaluation(self) -> Cost:
        """What an evaluation may cost: as much as the longest so far."""
        return Cost(gpu_s=self._longest_gpu_s)

    async def reserve(self, cost: Cost) -> Ticket:
        """Wait until a step fits beside those under way, which mostly cost less than reserved; then hold its place.

        Raises:
            BudgetSpent: it does not fit, and nothing is under way that could leave room.
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

    def settle(self, ticket: Ticket, actual: Cost) -> None:
        """Replace a reservation by what the step cost."""
        self._tickets.remove(ticket)
        self._spent += actual
        self._longest_gpu_s = max(self._longest_gpu_s, actual.gpu_s)
        self._settled.set()

    def charge(self, actual: Cost) -> None:
        """Count what a step cost that could not be refused."""
        self._spent += actual

    def _over(self, cost: Cost) -> str:
        """Which limit the step would break; empty when none. Calls take no GPU time, evaluations no tokens."""
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
