"""Concurrent execution of proposals: call the proposer, journal its response, evaluate the program."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

from evaluators.data.evaluation import Evaluation, Measuring, SplitScore
from evaluators.data.launches import AnyDecision
from evaluators.data.status import Status
from evaluators.language.gate import ProgramRefused, parse_program
from evolve.config import SearchConfig
from evolve.errors import EXIT_BUDGET, UserError
from evolve.journal.journal import Journal, storable
from evolve.proposal import CUT_OFF, Correction, ProgramRecord, Request, Response
from evolve.proposers.base import EndpointError, Prepares, Proposer, ProposerError, RequestRefused
from evolve.search.budget import Budget, BudgetSpent, Spend, spend_of
from evolve.search.calls import CORRECTING, FIRST, PREPARING, CallLog
from evolve.search.ledger import Ledger
from evolve.search.responses import FrozenCodeChanged, UnreadableAnswer, program_from

KEPT_PROGRAMS = 128
"""Evaluations kept in memory with their feedback; others are scored again when sampled."""


GIVE_UP_AFTER = 5
"""Failed proposals in a row, each after its own retries, before the run stops."""


class ProposerDown(UserError):
    """Repeated failure of the proposer: the run stops before it uses up its proposals, and can be resumed."""


class JudgeLike(Protocol):
    """Interface of judges for the controller."""

    description: dict[str, str]

    @property
    def grows(self) -> bool:
        """True if evaluations of known programs gain detail as others are judged: live, not on recorded tables."""
        ...

    def evaluate(self, source: str) -> Evaluation:
        """Judge a program; blocking, thread-safe, never raises for a candidate's fault."""
        ...

    def score(self, source: str, decisions: Sequence[AnyDecision]) -> Evaluation:
        """Evaluate a program by its known decisions; as `evaluate`."""
        ...

    def recheck(self, source: str, evaluation: Evaluation) -> Evaluation:
        """Run a would-be best program again; as `evaluate`."""
        ...


@runtime_checkable
class Attached(Protocol):
    """Proposer that uses the judge, and journals its steps."""

    def attach(self, journal: Journal, judge: JudgeLike) -> None:
        """Set journal and judge before the first request; only the event loop's thread uses the journal."""
        ...


@dataclass(frozen=True, slots=True)
class ProposalOutcome:
    """Result of one proposal before commit, and the cost of the call."""

    source: str
    evaluation: Evaluation
    elapsed_s: float
    spend: Spend


@dataclass(frozen=True, slots=True)
class CallResult:
    """Result of a call: a response, or an error with an empty response that carries the cost."""

    response: Response
    error: str


class Pipeline:
    """Bounded concurrent calls of proposer and judge. Runs inside one event loop."""

    def __init__(
        self,
        judge: JudgeLike,
        proposer: Proposer,
        journal: Journal,
        ledger: Ledger,
        *,
        search: SearchConfig,
        budget: Budget,
        correct: bool = False,
        restore: bool = True,
    ) -> None:
        """Start the judge's threads.

        `correct` requests a second answer if the first cannot be parsed; `restore` restores frozen text that an answer
        changed, see `program_from`.
        """
        self._judge, self._proposer, self._journal, self._ledger = judge, proposer, journal, ledger
        self._budget, self._correct, self._restore = budget, correct, restore
        self._proposing = asyncio.Semaphore(search.parallel_proposals)
        self._pool = ThreadPoolExecutor(search.parallel_evaluations, thread_name_prefix="judge")
        self._programs: OrderedDict[int, ProgramRecord] = OrderedDict()
        self._failed_in_a_row = 0
        self._asking = True

    async def finish_calls(self, tasks: Collection[asyncio.Task[ProposalOutcome]], *, within_s: float) -> None:
        """Start no further call, and wait for running ones, which are billed in any case."""
        self._asking = False
        if tasks and within_s:
            await asyncio.wait(tasks, timeout=within_s)

    async def aclose(self) -> None:
        """Wait for running evaluations (the sandbox bounds them) and release connections."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        await self._proposer.aclose()

    async def evaluate(self, source: str) -> Evaluation:
        """Judge a program in a thread.

        Raises:
            BudgetSpent: not enough GPU time is left.
        """
        return await self._in_thread(partial(self._judge.evaluate, source))

    async def _in_thread(self, judged: Callable[[], Evaluation]) -> Evaluation:
        ticket = await self._budget.reserve(self._budget.evaluation())
        gpu_s = 0.0
        try:
            evaluation = await asyncio.get_running_loop().run_in_executor(self._pool, judged)
            gpu_s = evaluation.gpu_s
            return evaluation
        finally:
            self._budget.settle(ticket, Spend(gpu_s=gpu_s))

    async def recheck(self, source: str, evaluation: Evaluation) -> Evaluation:
        """Recheck a program that would become best, in a thread. GPU time is charged even beyond the budget."""
        loop = asyncio.get_running_loop()
        again = await loop.run_in_executor(self._pool, self._judge.recheck, source, evaluation)
        self._budget.charge(Spend(gpu_s=again.gpu_s - evaluation.gpu_s))
        return again

    def note_measured(self, index: int, measured: Sequence[Measuring]) -> None:
        """Add a proposal's GPU measurements to the timeline."""
        for m in measured:
            self._journal.span(index, "gpu", f"{m.launches} launches", m.started_at, m.seconds)

    def keep(self, index: int, source: str, evaluation: Evaluation) -> None:
        """Cache a program of the population and its committed evaluation."""
        self._programs[index] = ProgramRecord(index, source, evaluation)
        while len(self._programs) > KEPT_PROGRAMS:
            self._programs.popitem(last=False)

    def train(self, index: int) -> SplitScore | None:
        """Training score of a program of the population."""
        known = self._programs.get(index)
        return known.evaluation.train if known else self._journal.train(index)

    async def record(self, index: int) -> ProgramRecord:
        """Committed program with its full evaluation by the judge's present knowledge.

        The judge scores its decisions again if the evaluation is not cached, or more may be known by now. The scores
        stay as committed.
        """
        if index not in self._programs or self._judge.grows:
            entry = self._journal.entry(index)
            seen = await self._in_thread(partial(self._judge.score, entry.source, entry.decisions))
            evaluation = replace(seen, train=entry.train, holdout=entry.holdout, features=entry.features)
            self.keep(index, entry.source, evaluation)
        self._programs.move_to_end(index)
        return self._programs[index]

    async def work(self, request: Request, stored: CallResult | None = None) -> ProposalOutcome:
        """Get and evaluate the response to a request; a stored response of an interrupted run is used again.

        Raises:
            BudgetSpent: the next call or evaluation would exceed a budget.
            UserError: no further proposal can succeed either.
        """
        started = time.monotonic()
        if stored is None:
            async with self._proposing:
                stored = await self._ask(request)
        source, evaluation = "", Evaluation(Status.PROPOSER_FAILED, stored.error)
        if not stored.error:
            judged_at = time.time()
            source, evaluation = await self._judged(stored.response, request.parent.source)
            # Measurements have a track of their own in the timeline.
            judged_s = evaluation.measured[0].started_at - judged_at if evaluation.measured else None
            self._journal.span(request.index, "sandbox", evaluation.status.value, judged_at, judged_s)
            self.note_measured(request.index, evaluation.measured)
        return ProposalOutcome(source, evaluation, time.monotonic() - started, spend_of(stored.response))

    async def prepare(self, kept: str) -> str:
        """Prepare the proposer; returns data to store with the run. See `Prepares`."""
        if not isinstance(self._proposer, Prepares):
            return ""
        log = CallLog(self._journal, self._budget, PREPARING)
        try:
            return await self._proposer.prepare(kept, log)
        finally:
            log.settle(Spend())

    async def _ask(self, request: Request) -> CallResult:
        """Call the proposer, twice if its answer cannot be parsed, and journal the response before it is used."""
        ticket = await self._budget.reserve(self._budget.call(request))
        if not self._asking:
            self._budget.settle(ticket, Spend())
            raise BudgetSpent("the run is ending")
        log = CallLog(self._journal, self._budget, request.index, ticket)
        asked_at = time.time()
        try:
            result = await self._call(replace(request, calls=log), log, FIRST)
            problem = self._correctable(result, request)
            if problem:
                result = await self._corrected(request, log, result, problem)
            total = log.total(result.response)
            self._journal.answer(request.index, total, result.error)
            self._journal.span(request.index, "proposer", "failed" if result.error else total.note, asked_at)
            if not log.used:
                log.settle(spend_of(total))
        finally:
            log.settle(Spend())
        return CallResult(total, result.error)

    def _correctable(self, result: CallResult, request: Request) -> str:
        """Reason for a second try; empty if there is none."""
        if result.error or not self._correct or CUT_OFF in result.response.note:
            return ""
        try:
            self._program(result.response, request.parent.source)
        except (UnreadableAnswer, FrozenCodeChanged) as error:
            return str(error)
        return ""

    async def _corrected(self, request: Request, log: CallLog, first: CallResult, problem: str) -> CallResult:
        """Result of the second try, or the first result if the second fails."""
        log.step = CORRECTING
        again = replace(request, correction=Correction(first.response.text, problem), calls=log)
        try:
            second = await self._call(again, log, CORRECTING)
        except BudgetSpent:
            if not self._asking:
                raise
            return first  # it is paid for; the next proposal stops the run
        if second.error:
            return first
        note = "; ".join(filter(None, (second.response.note, f"second try, after: {problem}")))
        return CallResult(replace(second.response, note=storable(note)), "")

    async def _call(self, request: Request, log: CallLog, step: int) -> CallResult:
        """Call the proposer, unless the journal has an answer from before an interruption."""
        known = log.recalled(step)
        if known is not None:
            return CallResult(Response(known.text, known.model, known.note), "")
        if not self._asking:
            raise BudgetSpent("the run is ending")
        call = asyncio.ensure_future(self._proposer.propose(request))
        try:
            await asyncio.wait([call])
        except asyncio.CancelledError:
            if not call.done():
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
                raise
            # The response arrived while the run was stopping: it is stored, and the next await ends this task.
            asyncio.current_task().cancel()  # type: ignore[union-attr]
        return self._result_of(call, request)

    def _result_of(self, call: asyncio.Future[Response], request: Request) -> CallResult:
        """Response with its price; after a failure, the cost and the error."""
        try:
            result = CallResult(self._budget.priced(_storable(call.result())), "")
            self._failed_in_a_row = 0
        except ProposerError as failure:
            spent = self._budget.priced(_storable(failure.spent or Response("", "")))
            result = CallResult(spent, storable(str(failure)) or "the proposer gave up without a reason")
            self._count(isinstance(failure, EndpointError | RequestRefused), result.error, request)
        except (UserError, BudgetSpent):
            raise
        except Exception as failure:  # a fault in a proposer costs its proposal, not the run
            result = CallResult(Response("", ""), storable(f"unexpected {type(failure).__name__}: {failure}"))
            self._count(True, result.error, request)
        return result

    def _count(self, failing: bool, error: str, request: Request) -> None:
        """Stop the run after several consecutive failures that further requests are likely to share."""
        self._failed_in_a_row = self._failed_in_a_row + 1 if failing else 0
        if self._failed_in_a_row >= GIVE_UP_AFTER:
            raise ProposerDown(
                f"the proposer failed {self._failed_in_a_row} times in a row; the last: {error}",
                hint=f"once it works again: evosplit run --resume {request.run_dir}",
                exit_code=EXIT_BUDGET,
            )

    def _program(self, response: Response, parent: str) -> str:
        return program_from(response.text, parent, cut_off=CUT_OFF in response.note, restore=self._restore)

    async def _judged(self, response: Response, parent: str) -> tuple[str, Evaluation]:
        try:
            source = self._program(response, parent)
        except UnreadableAnswer as error:
            return "", Evaluation(Status.NO_ANSWER, _with_cause(str(error), response))
        except FrozenCodeChanged as error:
            return "", Evaluation(Status.FROZEN_CODE, str(error))
        digest = hashlib.sha256(source.encode()).hexdigest()
        try:
            program = parse_program(source)
        except ProgramRefused as refused:
            return source, Evaluation(refused.status, "\n".join(map(str, refused.refusals)), digest)
        if self._ledger.knows(digest, program.normal_form):
            # The original is looked up at commit; here this only saves a sandbox run.
            return source, Evaluation(Status.DUPLICATE, "", digest, program.normal_form)
        return source, await self.evaluate(source)


def _with_cause(problem: str, response: Response) -> str:
    """Reason for a missing program, with the endpoint's remark on the answer."""
    if CUT_OFF not in response.note:
        return problem
    return f"the answer was cut off at max_tokens, after {response.tokens_out} tokens: {problem}"


def _storable(response: Response) -> Response:
    text, model, note = storable(response.text), storable(response.model), storable(response.note)
    return replace(response, text=text, model=model, note=note)
