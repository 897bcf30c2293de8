"""What a proposer is: asked for one program, it answers as a model would, with text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evaluators.data.evaluation import Evaluation


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


class ProposerError(Exception):
    """The proposer gave up on one proposal; the message says why. The search goes on.

    `spent` holds what its tries cost, where any was billed.
    """

    def __init__(self, message: str, *, spent: Answer | None = None) -> None:
        """Keep the reason and the cost."""
        super().__init__(message)
        self.spent = spent


class EndpointError(ProposerError):
    """An endpoint could not be reached, or gave nothing that could be read: the next request may fare likewise."""


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
        run_dir: folder of the run, for proposers that leave files there.
        model: which of several models is asked; empty where there is no choice.
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
