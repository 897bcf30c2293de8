"""What a proposer is: asked for one program, it answers as a model would, with text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from evaluators.evaluation import Evaluation


class ProposerError(Exception):
    """The proposer gave up on one proposal; the message says why. The search goes on."""


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """A program of the population, as a proposer sees it."""

    id: int
    source: str
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Ask:
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
    """

    index: int
    island: int
    parent: ProgramRecord
    inspirations: tuple[ProgramRecord, ...]
    system: str
    user: str
    diff: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A proposer's answer.

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


class Proposer(Protocol):
    """Makes proposals. Must be deterministic in `Ask.seed` where the method allows it."""

    name: str

    async def propose(self, ask: Ask) -> Answer:
        """Answer one request.

        Raises:
            ProposerError: after the proposer's own retries.
        """
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...
