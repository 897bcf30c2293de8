"""A search whose judge scores the number in the program, so that whole searches take a second."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.data.contract import Decision
from evaluators.data.evaluation import Evaluation, SplitScore
from evaluators.data.status import Status
from evaluators.language.gate import parse_program
from evolve.config import RunConfig, parse_config
from evolve.journal.journal import FILE_NAME, Entry, Journal
from evolve.proposal import Request, Response
from evolve.proposers.base import ProposerError
from evolve.search.controller import Controller, SearchProgress

SEED = "# EVOLVE-BLOCK-START\ndef schedule(shape, gpu):\n    x = 10\n    return x, None, 0\n# EVOLVE-BLOCK-END\n"


class SmallJudge:
    """Scores the number in the program; ends at a random time, so that order would show."""

    def __init__(self) -> None:
        self.calls = 0
        self.grows = False
        self.description = {"workload": "numbers", "setting": "fa3_fwd-static-cold", "table_sha256": "0"}

    def evaluate(self, source: str) -> Evaluation:
        self.calls += 1
        time.sleep(random.Random().random() * 0.004)
        program = parse_program(source)
        found = re.search(r"x = (\d+)", source)
        assert found
        value = int(found.group(1))
        if value % 7 == 0:
            return Evaluation(Status.RAISED, f"{value} is unlucky", source, program.normal_form)
        score = SplitScore(1 + value / 1000, 1.0, 0.5, 0, 1.0, 5, 0, 0)
        return Evaluation(
            Status.OK,
            source_hash=source,
            normal_form=program.normal_form,
            decisions_hash=f"d{value // 2}",
            train=score,
            holdout=replace(score, score=1 + (value % 10) / 100),
            features={"complexity": float(program.complexity), "mean_splits": value % 5, "share_changed": value % 3},
        )

    def score(self, source: str, decisions: Sequence[Decision]) -> Evaluation:
        return self.evaluate(source)

    def recheck(self, source: str, evaluation: Evaluation) -> Evaluation:
        """Lowers every third number's score, and finds some numbers unstable."""
        value = int(evaluation.decisions_hash[1:])
        if value % 5 == 2:
            return Evaluation(Status.UNSTABLE, "decided differently", source, evaluation.normal_form)
        if value % 3 == 0 and evaluation.train:
            return replace(evaluation, train=replace(evaluation.train, score=evaluation.train.score - 0.05))
        return evaluation


class SmallProposer:
    """Changes the number; sometimes fails, answers nonsense, or changes frozen code."""

    name = "small"

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def propose(self, request: Request) -> Response:
        self.asked.append(request.index)
        rng = random.Random(request.seed)
        await asyncio.sleep(random.Random().random() * 0.004)
        kind = rng.random()
        if kind < 0.1:
            raise ProposerError("no idea")
        if kind < 0.2:
            return Response("I would rather not.", "small")
        value = rng.randint(1, 400)
        source = re.sub(r"x = \d+", f"x = {value}", request.parent.source)
        if kind < 0.3:
            source = "y = 1\n" + request.parent.source
        return Response(f"```python\n{source}```", "small", f"to {value}", 5, 6, 0.01)

    async def aclose(self) -> None:
        pass


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def killed_at(write: int) -> Iterator[None]:
    """The process ends at a write to the journal, counted from 1."""
    insert, left = Journal._insert, [write]

    def fail(self: Journal, table: str, row: dict[str, object]) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Killed
        insert(self, table, row)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Journal, "_insert", fail)
        yield


class Stop(Exception):
    """Stands for a crash at a commit."""


def config(**search: object) -> RunConfig:
    return parse_config(
        {"name": "t", "search": {"proposals": 60, "window": 4, "islands": 3, "migration_interval": 5, **search}}
    )


def run(folder: Path, *, stop_at: int | None = None, **search: object) -> tuple[SmallJudge, SmallProposer]:
    judge, proposer = SmallJudge(), SmallProposer()

    def watch(p: SearchProgress) -> None:
        if p.done == stop_at:
            raise Stop

    Controller(config(**search), judge, proposer, folder, seeds=[SEED], on_progress=watch).run()
    return judge, proposer


def fenced(value: int) -> str:
    """An answer: the seed with another number."""
    return f"```python\n{SEED.replace('10', str(value))}```"


def entries(folder: Path) -> list[Entry]:
    """Seed and proposals of a run."""
    return list(Journal(folder / FILE_NAME, read_only=True).entries())


def content(folder: Path) -> object:
    return Journal(folder / FILE_NAME, read_only=True).content()
