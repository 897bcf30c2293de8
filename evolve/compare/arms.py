"""Arms of a comparison: the same search with another variation operator, and an equal budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from evolve.config import RunConfig, parse_config
from evolve.errors import UserError
from evolve.proposer_config import AgentConfig

PLENTY = 10**6
"""Limit that no arm reaches, for quantities that do not end it."""


class Operator(StrEnum):
    """Variation operator: the way in which new programs are made of old ones."""

    ONESHOT = "oneshot"
    """One answer of the model per proposal."""
    AGENT = "agent"
    """One expedition per proposal, of the configured evaluations each."""
    SESSION = "session"
    """One expedition with the whole budget, and no population."""
    PARAMETRISED = "parametrised"
    """No model: a numeric search over the constants of a given policy."""


class Equal(StrEnum):
    """Quantity that is equal in all arms."""

    EVALUATIONS = "evaluations"
    """Drafts judged; scored tables of the parametrised arm."""
    DOLLARS = "dollars"
    """US dollars, by `budget.prices`."""

    @property
    def unit(self) -> str:
        """Its unit, in words."""
        return "drafts judged" if self is Equal.EVALUATIONS else "US dollars"


def budget_of(config: RunConfig, equal: Equal) -> float | None:
    """Budget of a run, by its configuration; None if it does not limit the quantity."""
    if equal is Equal.DOLLARS:
        return config.budget.usd
    proposer = config.proposer
    return config.search.proposals * (proposer.evaluations if isinstance(proposer, AgentConfig) else 1)


def arm_config(base: RunConfig, operator: Operator, seed: int, *, equal: Equal, amount: float) -> RunConfig:
    """Configuration of one run of an arm.

    Args:
        base: its proposer is an agent that asks a model.
        operator: an operator other than the parametrised, which is not a search.
        seed: random seed, by which runs of the arms are paired.
        equal: quantity that is equal in all arms.
        amount: amount of it per run.

    Raises:
        UserError: the configuration's agent asks no model, or dollars lack prices.
    """
    agent = base.proposer
    if not isinstance(agent, AgentConfig) or agent.operator != "model":
        raise UserError(
            "evosplit compare takes the configuration of an agent that asks a model",
            hint="configs/agent.yaml; runs of external operators join by --add ARM=RUN",
        )
    data = base.model_dump(mode="json")
    data |= {"name": f"{operator.value}-{seed}", "random_seed": seed}
    _ARMS[operator](data, agent, equal, amount)
    data["budget"]["usd"] = amount if equal is Equal.DOLLARS else data["budget"]["usd"]
    return parse_config(data)


def _oneshot(data: dict[str, Any], agent: AgentConfig, equal: Equal, amount: float) -> None:
    own = set(AgentConfig.model_fields) & set(data["proposer"])
    kept = {key: data["proposer"][key] for key in own - _AGENTS_OWN}
    data["proposer"] = {**kept, "kind": "openai"}
    data["search"]["proposals"] = int(amount) if equal is Equal.EVALUATIONS else PLENTY


def _agent(data: dict[str, Any], agent: AgentConfig, equal: Equal, amount: float) -> None:
    if equal is Equal.DOLLARS:
        data["search"]["proposals"] = PLENTY
        return
    if int(amount) % agent.evaluations:
        raise UserError(
            f"{amount:g} evaluations are not a whole number of expeditions of {agent.evaluations}",
            hint="--amount, or --set proposer.evaluations",
        )
    data["search"]["proposals"] = int(amount) // agent.evaluations


def _session(data: dict[str, Any], agent: AgentConfig, equal: Equal, amount: float) -> None:
    evaluations = int(amount) if equal is Equal.EVALUATIONS else PLENTY
    times = -(-evaluations // agent.evaluations)
    data["proposer"] |= {
        "evaluations": evaluations,
        "turns": agent.turns * times,
        "fit_tables": agent.fit_tables * times,
        "tokens": agent.tokens and agent.tokens * times,
        "usd": amount if equal is Equal.DOLLARS else agent.usd and agent.usd * times,
    }
    data["search"] |= {"proposals": 1, "islands": 1, "window": 1}


_ARMS: Mapping[Operator, Callable[[dict[str, Any], AgentConfig, Equal, float], None]] = {
    Operator.ONESHOT: _oneshot,
    Operator.AGENT: _agent,
    Operator.SESSION: _session,
}

_AGENTS_OWN = {
    "context_tokens",
    "kind",
    "operator",
    "evaluations",
    "fit_tables",
    "turns",
    "tokens",
    "usd",
    "stall",
    "supervisor",
    "more_regressions",
}
