"""A request for one program, and the response to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """A program of the population, as a proposer sees it."""

    id: int
    source: str
    evaluation: Evaluation


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
