"""Attempts: from a request to an evaluation, several at once. Whatever they cost is journalled before it is used."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from evaluators.evaluation import Evaluation
from evaluators.gate import ProgramRefused, parse_program
from evaluators.status import Status
from evolve.config import SearchConfig
from evolve.journal import Journal, storable
from evolve.ledger import Ledger
from evolve.proposers.base import Answer, Ask, ProgramRecord, Proposer, ProposerError
from evolve.responses import FrozenCodeChanged, UnreadableAnswer, program_from

KEPT_EVALUATIONS = 128
"""Evaluations held in memory with their feedback; others are asked of the judge again when sampled."""


class JudgeLike(Protocol):
    """What the controller needs of a judge."""

    description: dict[str, str]

    def evaluate(self, source: str) -> Evaluation:
        """Judge a program; blocking, thread-safe, never raises for a candidate's fault."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one proposal before commit."""

    source: str
    evaluation: Evaluation
    elapsed_s: float


class Attempts:
    """Asks the proposer and the judge, each within its own limit. Lives inside one event loop."""

    def __init__(
        self, judge: JudgeLike, proposer: Proposer, journal: Journal, ledger: Ledger, *, search: SearchConfig
    ) -> None:
        """Open the judge's threads."""
        self._judge, self._proposer, self._journal, self._ledger = judge, proposer, journal, ledger
        self._proposing = asyncio.Semaphore(search.parallel_proposals)
        self._pool = ThreadPoolExecutor(search.parallel_evaluations, thread_name_prefix="judge")
        self._evaluations: OrderedDict[int, Evaluation] = OrderedDict()
        self._sources: dict[int, str] = {}

    async def aclose(self) -> None:
        """Wait for evaluations under way (the sandbox bounds them) and release connections."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        await self._proposer.aclose()

    async def evaluate(self, source: str) -> Evaluation:
        """Judge a program in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._judge.evaluate, source)

    def keep(self, index: int, source: str, evaluation: Evaluation | None) -> None:
        """Keep a program of the population; its evaluation is None when only the journal knows it."""
        self._sources[index] = source
        if evaluation is not None:
            self._evaluations[index] = evaluation
            while len(self._evaluations) > KEPT_EVALUATIONS:
                self._evaluations.popitem(last=False)

    async def record(self, index: int) -> ProgramRecord:
        """A program with its full evaluation; asks the judge again when it is no longer in memory."""
        source = self._sources[index]
        evaluation = self._evaluations.get(index)
        if evaluation is None:
            evaluation = await self.evaluate(source)
            self.keep(index, source, evaluation)
        self._evaluations.move_to_end(index)
        return ProgramRecord(index, source, evaluation)

    async def work(self, ask: Ask, answer: Answer | None = None, error: str = "") -> Outcome:
        """From request to evaluation; an answer or error that an interrupted run stored is not asked for again."""
        started = time.monotonic()
        if answer is None and not error:
            async with self._proposing:
                asked_at = time.time()
                try:
                    answer = _storable(await self._proposer.propose(ask))
                except ProposerError as failure:
                    error = storable(str(failure)) or "the proposer gave up without a reason"
            self._journal.answer(ask.index, answer, error)
            self._journal.span(ask.index, "proposer", answer.note if answer else "failed", asked_at)
        source, evaluation = "", Evaluation(Status.PROPOSER_FAILED, error)
        if answer is not None:
            judged_at = time.time()
            source, evaluation = await self._judged(answer, ask.parent.source)
            self._journal.span(ask.index, "sandbox", evaluation.status.value, judged_at)
        return Outcome(source, evaluation, time.monotonic() - started)

    async def _judged(self, answer: Answer, parent: str) -> tuple[str, Evaluation]:
        try:
            source = program_from(answer.text, parent)
        except UnreadableAnswer as error:
            return "", Evaluation(Status.NO_ANSWER, str(error))
        except FrozenCodeChanged as error:
            return "", Evaluation(Status.FROZEN_CODE, str(error))
        digest = hashlib.sha256(source.encode()).hexdigest()
        try:
            program = parse_program(source)
        except ProgramRefused as refused:
            return source, Evaluation(refused.status, "\n".join(map(str, refused.refusals)), digest)
        if self._ledger.knows(digest, program.normal_form):
            # Settled at commit, where the original is looked up; here it only saves a sandbox.
            return source, Evaluation(Status.DUPLICATE, "", digest, program.normal_form)
        return source, await self.evaluate(source)


def _storable(answer: Answer) -> Answer:
    return replace(answer, text=storable(answer.text), model=storable(answer.model), note=storable(answer.note))
