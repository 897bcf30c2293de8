"""One short call to each model of a configuration: for `doctor --endpoint` and `config validate --endpoint`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from evolve.config import RunConfig
from evolve.errors import UserError
from evolve.proposal import EndpointCall, UncountedCalls
from evolve.proposer_config import EndpointConfig


@dataclass(slots=True)
class _SummedCalls(UncountedCalls):
    """Calls with summed tokens."""

    made: list[EndpointCall] = field(default_factory=list)

    def end(self, call: EndpointCall) -> None:
        """Remember it."""
        self.made.append(call)


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """Result of a test call to a model.

    Attributes:
        changes: adaptations of requests after refusals.
        reason: reason why it cannot be used; empty if it can.
        hint: remedy.
    """

    model: str
    base_url: str
    changes: tuple[str, ...]
    reason: str
    hint: str
    tokens: int
    elapsed_s: float

    def line(self) -> str:
        """Report as one line of text."""
        if self.reason:
            return f"{self.model}: no: {self.reason}" + (f" ({self.hint})" if self.hint else "")
        changes = f"; sent differently: {', '.join(self.changes)}" if self.changes else ""
        return f"{self.model}: ok, {self.tokens} tokens, {self.elapsed_s:.1f} s{changes}"


def endpoint_reports(config: RunConfig) -> list[EndpointReport]:
    """Make one test call to each model of a configuration.

    Raises:
        UserError: its proposer has no endpoint, or a key is missing.
    """
    proposer = config.proposer
    if not isinstance(proposer, EndpointConfig):
        raise UserError(
            f"proposer.kind is {proposer.kind}, which asks no endpoint",
            hint="a configuration with kind openai or agent, such as configs/openai.yaml",
        )
    return asyncio.run(_reports(proposer))


async def _reports(config: EndpointConfig) -> list[EndpointReport]:
    from evolve.proposers.openai import OpenAIProposer

    asked = OpenAIProposer(config)
    reports = []
    try:
        for model in config.all_models():
            calls, started, reason, hint, changes = _SummedCalls(), time.monotonic(), "", "", []
            try:
                changes = await asked.check(model.name, calls)
            except UserError as error:
                reason, hint = str(error), error.hint
            tokens = sum(call.tokens_in + call.tokens_out for call in calls.made)
            elapsed_s = time.monotonic() - started
            reports.append(EndpointReport(model.name, model.base_url, tuple(changes), reason, hint, tokens, elapsed_s))
    finally:
        await asked.aclose()
    return reports
