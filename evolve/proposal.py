"""A request for one program, its response, and the endpoint calls in between."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from evaluators.data.evaluation import Evaluation


@dataclass(frozen=True, slots=True)
class Response:
    """Response to a request.

    Attributes:
        text: SEARCH/REPLACE blocks, or one fenced program.
        model: name of the model; `offline` where there is none.
        note: remark of the proposer, e.g. the name of the edit.
        look_ups: latencies looked up in the recorded table to make it.
    """

    text: str
    model: str
    note: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    elapsed_s: float = 0.0
    look_ups: int = 0


CUT_OFF = "cut off at max_tokens"
"""Note of an answer that was truncated at the token limit."""


@dataclass(frozen=True, slots=True)
class EndpointCall:
    """Result of one call to an endpoint.

    Attributes:
        text: answer; empty if there was none.
        note: remark on the answer, e.g. `CUT_OFF`.
        error: reason for a missing text.
        tokens_in: tokens of the prompt, by the endpoint's count or an estimate.
        tokens_out: tokens of the answer, likewise.
        cost_usd: US dollars, where the endpoint names them.
        answered: True if the endpoint answered finally, with text or a refusal.
    """

    model: str
    text: str = ""
    note: str = ""
    error: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float | None = None
    answered: bool = True


class Calls(Protocol):
    """Account of the calls of one request, of which at most one runs at a time.

    Attributes:
        step: purpose of the next calls; an expedition counts its answers here.
    """

    step: int

    async def begin(self, model: str, *, tokens_in: int, tokens_out: int) -> str:
        """Reserve a call that may take so many tokens; returns its idempotency key.

        Raises:
            Exception: no further call may be made; it ends the request.
        """
        ...

    def end(self, call: EndpointCall) -> None:
        """Store the result of the call before it is used."""
        ...


class UncountedCalls:
    """Calls without an account, for requests outside a run."""

    step = 0

    async def begin(self, model: str, *, tokens_in: int, tokens_out: int) -> str:
        """See `Calls.begin`."""
        return uuid.uuid4().hex

    def end(self, call: EndpointCall) -> None:
        """See `Calls.end`."""


@dataclass(frozen=True, slots=True)
class Correction:
    """An answer that could not be parsed, with the reason; a request has one further try."""

    text: str
    problem: str


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """A program of the population, as a proposer sees it."""

    id: int
    source: str
    evaluation: Evaluation


def _opens_none(features: Mapping[str, float]) -> bool:
    """Default of requests outside a population: no cell is opened."""
    return False


@dataclass(frozen=True, slots=True)
class Request:
    """One request for a proposal.

    Attributes:
        island: part of the population that the parent comes from.
        parent: the program to improve.
        inspirations: other programs worth borrowing from.
        system: system message of the prompt.
        user: user message of the prompt.
        diff: True for SEARCH/REPLACE blocks, False for a complete program.
        seed: seed of everything random in the answer.
        run_dir: folder of the run, for proposers that write files there.
        model: one of several models; empty where there is no choice.
        correction: error of the previous answer, if this is the second try.
        calls: account of endpoint calls.
        settled: proposals below this number had results when this one was sampled.
        opens_cell: tells whether a program with these features would open a cell of its island's grid at sampling.
    """

    index: int
    island: int
    parent: ProgramRecord
    inspirations: tuple[ProgramRecord, ...]
    system: str
    user: str
    diff: bool
    seed: int
    run_dir: Path = Path()
    model: str = ""
    correction: Correction | None = None
    calls: Calls = field(default_factory=UncountedCalls, compare=False)
    settled: int = field(default=0, compare=False)
    opens_cell: Callable[[Mapping[str, float]], bool] = field(default=_opens_none, compare=False)
