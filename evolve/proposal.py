"""A request for one program, the response to it, and the calls of an endpoint that the answer took."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from evaluators.data.evaluation import Evaluation


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request.

    Attributes:
        text: SEARCH/REPLACE blocks, or one fenced program.
        model: name of the model; `offline` where there is none.
        note: what the proposer says of it, e.g. the name of the edit.
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
"""Note of an answer that ended at the limit of its length."""


@dataclass(frozen=True, slots=True)
class EndpointCall:
    """What came of one call to an endpoint.

    Attributes:
        model: name of the model.
        text: its answer; empty where there was none.
        note: what is to be known of the answer, e.g. `CUT_OFF`.
        error: why there is no text.
        tokens_in: tokens of the prompt, by the endpoint's count or an estimate.
        tokens_out: tokens of the answer, likewise.
        cost_usd: US dollars, where the endpoint names them.
        answered: whether the endpoint answered this call for good: with text, or by refusing it.
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
    """Account of the calls of one request; at most one is under way.

    Attributes:
        step: what the next calls are for; an expedition counts its answers there.
    """

    step: int

    async def begin(self, model: str, *, tokens_in: int, tokens_out: int) -> str:
        """Reserve a call that may take so many tokens; returns its idempotency key.

        Raises:
            Exception: no further call may be made; it ends the request.
        """
        ...

    def end(self, call: EndpointCall) -> None:
        """Store what came of the call, before anybody reads it."""
        ...


class UncountedCalls:
    """No account: for requests outside a run."""

    step = 0

    async def begin(self, model: str, *, tokens_in: int, tokens_out: int) -> str:
        """See `Calls.begin`."""
        return uuid.uuid4().hex

    def end(self, call: EndpointCall) -> None:
        """See `Calls.end`."""


@dataclass(frozen=True, slots=True)
class Correction:
    """An answer that could not be read, and why: for the one further try that a request has."""

    text: str
    problem: str


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """A program of the population, as a proposer sees it."""

    id: int
    source: str
    evaluation: Evaluation


def _opens_none(features: Mapping[str, float]) -> bool:
    """No population, no cell."""
    return False


@dataclass(frozen=True, slots=True)
class Request:
    """One request for a proposal.

    Attributes:
        index: number of the proposal.
        island: part of the population that the parent comes from.
        parent: the program to improve.
        inspirations: other programs worth borrowing from.
        system: system message of the prompt.
        user: user message of the prompt.
        diff: whether SEARCH/REPLACE blocks are wanted, rather than the whole program.
        seed: seed of everything random in the answer.
        run_dir: folder of the run, for proposers that leave files there.
        model: which of several models is asked; empty where there is no choice.
        correction: what was wrong with the answer before, where this is another try.
        calls: where the calls of an endpoint are accounted for.
        settled: proposals whose results were known when this one was sampled: all below this number.
        opens_cell: whether a program of these features would open a cell of its island's grid, as it stood then.
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
