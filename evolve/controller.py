"""The controller: samples, asks, judges and commits, in an order that does not depend on timing.

Proposal k samples from the population as it stood after commit k - window; results are committed in index
order. Proposals and evaluations overlap, but nothing that is written depends on which ends first.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from evaluators.evaluation import Evaluation, SplitScore
from evaluators.feedback import render
from evaluators.gate import ProgramRefused, parse_program
from evaluators.status import Status
from evolve.config import RunConfig
from evolve.errors import InterruptedRun, UserError
from evolve.journal import Entry, Journal, open_journal
from evolve.population import Population
from evolve.prompts import system_prompt, user_prompt
from evolve.proposers.base import Answer, Ask, ProgramRecord, Proposer, ProposerError
from evolve.responses import FrozenCodeChanged, UnreadableAnswer, program_from
from evolve.run_folder import BEST_FILE, CONFIG_FILE, RunSummary, locked, pick_best, summarise

KEPT_EVALUATIONS = 128
"""Evaluations held in memory with their feedback; others are asked of the judge again when sampled."""

FAILURES_KEPT = 6


class JudgeLike(Protocol):
    """What the controller needs of a judge."""

    description: dict[str, str]

    def evaluate(self, source: str) -> Evaluation:
        """Judge a program; blocking, thread-safe, never raises for a candidate's fault."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a run after a commit, for a live display."""

    done: int
    total: int
    best_id: int
    best: SplitScore
    failures: int
    duplicates: int
    seconds: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one proposal before commit."""

    source: str
    evaluation: Evaluation
    elapsed_s: float


class Controller:
    """One run."""

    def __init__(
        self,
        config: RunConfig,
        judge: JudgeLike,
        proposer: Proposer,
        run_dir: Path,
        *,
        seeds: list[str],
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        """Prepare a run in a folder, new or interrupted.

        Args:
            config: the run's configuration.
            judge: judges candidates.
            proposer: makes them.
            run_dir: existing folder.
            seeds: sources of the programs to start from.
            on_progress: called after each commit.
        """
        self._config, self._search = config, config.search
        self._judge, self._proposer = judge, proposer
        self._run_dir, self._seeds = run_dir, seeds
        self._on_progress = on_progress
        self._population = Population(config.search, config.random_seed)
        self._evaluations: OrderedDict[int, Evaluation] = OrderedDict()
        self._sources: dict[int, str] = {}
        self._islands: dict[int, int] = {}
        self._first: dict[str, int] = {}
        self._simplest: dict[str, float] = {}
        self._failures: dict[int, deque[str]] = defaultdict(lambda: deque(maxlen=FAILURES_KEPT))
        self._best: tuple[float, int, SplitScore] | None = None
        self._counts = {"failed": 0, "duplicate": 0}
        self._total = len(seeds) + config.search.proposals

    def run(self) -> RunSummary:
        """Run to the budget; continues where an earlier run in this folder stopped.

        Raises:
            InterruptedRun: Ctrl-C; the journal is whole.
            UserError: a seed fails, or another process works in the folder.
        """
        with locked(self._run_dir), open_journal(self._run_dir, read_only=False) as journal:
            self._journal = journal
            self._write_meta()
            try:
                asyncio.run(self._main())
            except KeyboardInterrupt:
                raise InterruptedRun(f"stopped; go on with: evosplit run --resume {self._run_dir}") from None
            finally:
                best = pick_best(list(journal.entries()), self._run_dir)
                if best is not None:
                    (self._run_dir / BEST_FILE).write_text(best.source, encoding="utf-8")
        return summarise(self._run_dir)

    def _write_meta(self) -> None:
        for key, value in self._judge.description.items():
            known = self._journal.meta(key)
            if known and known != value:
                raise UserError(
                    f"{self._run_dir.name} was judged with {key} = {known}, now it is {value}",
                    hint="start a new run, or restore the table",
                )
            self._journal.set_meta(key, value)
        self._journal.set_meta("run", self._run_dir.name)
        self._journal.set_meta("proposer", self._proposer.name)
        self._journal.set_meta("proposals", str(self._search.proposals))
        text = self._config.dump_yaml()
        self._journal.set_meta("config", text)
        (self._run_dir / CONFIG_FILE).write_text(text, encoding="utf-8")

    async def _main(self) -> None:
        self._started = time.monotonic()
        self._proposing = asyncio.Semaphore(self._search.parallel_proposals)
        self._pool = ThreadPoolExecutor(self._search.parallel_evaluations, thread_name_prefix="judge")
        known = {e.id: e for e in self._journal.entries()}
        tasks: dict[int, asyncio.Task[_Outcome]] = {}
        try:
            for index, source in enumerate(self._seeds):
                await self._seed(index, source, known.get(index))
            asked = committed = len(self._seeds)
            while committed < self._total:
                # The order of the first run, also when it is replayed: k is sampled right after k - window.
                while asked < min(self._total, committed + self._search.window):
                    entry = known.get(asked)
                    if entry is None:
                        tasks[asked] = asyncio.create_task(self._work(await self._ask(asked), None))
                    elif entry.status is None:
                        tasks[asked] = asyncio.create_task(self._work(await self._asked(entry), entry))
                    asked += 1
                done = known.get(committed)
                if done is not None and done.status is not None:
                    self._recommit(done)
                elif self._out_of_time():
                    return
                else:
                    self._commit(committed, await tasks.pop(committed))
                committed += 1
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            self._pool.shutdown(wait=True, cancel_futures=True)
            await self._proposer.aclose()

    def _out_of_time(self) -> bool:
        wall = self._search.wall_s
        return wall is not None and time.monotonic() - self._started > wall

    async def _evaluate(self, source: str) -> Evaluation:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._judge.evaluate, source)

    async def _record(self, index: int) -> ProgramRecord:
        """A program with its full evaluation; asks the judge again when it is no longer in memory."""
        evaluation = self._evaluations.get(index)
        if evaluation is None:
            evaluation = await self._evaluate(self._sources[index])
            self._remember(index, evaluation)
        self._evaluations.move_to_end(index)
        return ProgramRecord(index, self._sources[index], evaluation)

    def _remember(self, index: int, evaluation: Evaluation) -> None:
        self._evaluations[index] = evaluation
        while len(self._evaluations) > KEPT_EVALUATIONS:
            self._evaluations.popitem(last=False)

    async def _seed(self, index: int, source: str, known: Entry | None) -> None:
        evaluation = await self._evaluate(source)
        if evaluation.status is not Status.OK:
            raise UserError(f"seed {self._config.seeds[index]} fails: {evaluation.status.value}: {evaluation.message}")
        if known is not None and known.source != source:
            raise UserError(
                f"seed {self._config.seeds[index]} has changed since this run began", hint="start a new run"
            )
        if known is None:
            self._journal.ask(self._row(index, "seed", 0, None, (), False, "", ""))
        if known is None or known.status is None:
            self._journal.result(index, source, evaluation, feedback=render(evaluation.feedback))
        self._sources[index] = source
        self._remember(index, evaluation)
        self._note(index, evaluation)
        self._population.add_seed(index, source, evaluation)

    def _row(
        self,
        index: int,
        kind: str,
        island: int,
        parent: int | None,
        inspirations: tuple[int, ...],
        diff: bool,
        system: str,
        user: str,
    ) -> dict[str, object]:
        digest = hashlib.sha256(f"{self._config.random_seed}:{index}".encode()).digest()
        return {
            "id": index,
            "kind": kind,
            "island": island,
            "parent": parent,
            "inspirations": inspirations,
            "diff": diff,
            "seed": int.from_bytes(digest[:6]),
            "system": system,
            "user": user,
        }

    async def _ask(self, index: int) -> Ask:
        """Sample a parent, build the prompt and write both down."""
        sample = self._population.sample(index)
        parent = await self._record(sample.parent)
        inspirations = tuple([await self._record(i) for i in sample.inspirations])
        user = user_prompt(parent, inspirations, list(self._failures[sample.island]), diff=sample.diff)
        row = self._row(
            index, "proposal", sample.island, sample.parent, sample.inspirations, sample.diff, system_prompt(), user
        )
        self._journal.ask(row)
        self._islands[index] = sample.island
        return Ask(
            index, sample.island, parent, inspirations, str(row["system"]), user, sample.diff, int(str(row["seed"]))
        )

    async def _asked(self, entry: Entry) -> Ask:
        """The request that an interrupted run had written down."""
        assert entry.parent is not None
        parent = await self._record(entry.parent)
        inspirations = tuple([await self._record(i) for i in entry.inspirations])
        self._islands[entry.id] = entry.island
        return Ask(entry.id, entry.island, parent, inspirations, entry.system, entry.user, entry.diff, entry.seed)

    async def _work(self, ask: Ask, known: Entry | None) -> _Outcome:
        """From request to evaluation. The answer is stored before anything is done with it."""
        started = time.monotonic()
        answer, error = (known.answer, known.error) if known else (None, "")
        if answer is None and not error:
            async with self._proposing:
                try:
                    answer = await self._proposer.propose(ask)
                except ProposerError as failure:
                    error = str(failure)
            self._journal.answer(ask.index, answer, error)
        source, evaluation = "", Evaluation(Status.PROPOSER_FAILED, error)
        if answer is not None:
            source, evaluation = await self._judged(answer, ask.parent.source)
        return _Outcome(source, evaluation, time.monotonic() - started)

    async def _judged(self, answer: Answer, parent: str) -> tuple[str, Evaluation]:
        try:
            source = program_from(answer.text, parent)
        except UnreadableAnswer as error:
            return "", Evaluation(Status.NO_ANSWER, str(error))
        except FrozenCodeChanged as error:
            return "", Evaluation(Status.FROZEN_CODE, str(error))
        digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        try:
            program = parse_program(source)
        except ProgramRefused as refused:
            return source, Evaluation(refused.status, "\n".join(map(str, refused.refusals)), digest)
        if digest in self._first or program.normal_form in self._first:
            # Settled at commit, where the original is looked up; here it only saves a sandbox.
            return source, Evaluation(Status.DUPLICATE, "", digest, program.normal_form)
        return source, await self._evaluate(source)

    def _original(self, evaluation: Evaluation) -> tuple[str, int] | None:
        """(in what way, id) of the earlier proposal that this one repeats.

        The same decisions by a strictly simpler program are not a repetition: ties go to the simpler.
        """
        for what, key in (("source", evaluation.source_hash), ("syntax tree", evaluation.normal_form)):
            if key and key in self._first:
                return what, self._first[key]
        key = evaluation.decisions_hash
        if key and key in self._first and evaluation.features["complexity"] >= self._simplest[key]:
            return "decisions", self._first[key]
        return None

    def _note(self, index: int, evaluation: Evaluation) -> None:
        """Remember what later proposals may repeat, and the best."""
        for key in (evaluation.source_hash, evaluation.normal_form, evaluation.decisions_hash):
            if key:
                self._first.setdefault(key, index)
        if evaluation.train is None:
            return
        key = evaluation.decisions_hash
        self._simplest[key] = min(self._simplest.get(key, float("inf")), evaluation.features["complexity"])
        if self._best is None or evaluation.train.score > self._best[0]:
            self._best = (evaluation.train.score, index, evaluation.train)

    def _commit(self, index: int, outcome: _Outcome) -> None:
        """Settle duplicates, enter the population, write the result."""
        evaluation, original = outcome.evaluation, self._original(outcome.evaluation)
        if original is not None:
            what, first = original
            evaluation = Evaluation(
                Status.DUPLICATE,
                f"same {what} as proposal {first}",
                evaluation.source_hash,
                evaluation.normal_form,
                evaluation.decisions_hash if what == "decisions" else "",
            )
        displaced = self._enter(self._islands.pop(index), index, outcome.source, evaluation)
        self._journal.result(
            index,
            outcome.source,
            evaluation,
            feedback=render(evaluation.feedback),
            duplicate_of=original[1] if original else None,
            displaced=displaced,
            elapsed_s=outcome.elapsed_s,
        )
        if evaluation.status is Status.OK:
            self._remember(index, evaluation)
        self._report(index)

    def _recommit(self, entry: Entry) -> None:
        """Replay a commit of the interrupted run."""
        evaluation = Evaluation(
            entry.status or Status.CRASHED,
            entry.message,
            entry.source_hash,
            entry.normal_form,
            entry.decisions_hash,
            entry.decisions,
            entry.train,
            entry.holdout,
            features=entry.features,
        )
        self._enter(entry.island, entry.id, entry.source, evaluation)

    def _enter(self, island: int, index: int, source: str, evaluation: Evaluation) -> tuple[int, ...]:
        valid = evaluation.status is Status.OK
        if valid:
            self._sources[index] = source
            self._note(index, evaluation)
        elif evaluation.status is Status.DUPLICATE:
            self._counts["duplicate"] += 1
        else:
            self._counts["failed"] += 1
            self._failures[island].append(f"{evaluation.status.value}: {evaluation.message[:300]}")
            self._note(index, replace(evaluation, decisions_hash=""))
        return self._population.commit(index, island, source, evaluation if valid else None)

    def _report(self, index: int) -> None:
        assert self._best is not None
        done = index + 1 - len(self._seeds)
        seconds = time.monotonic() - self._started
        total = self._search.proposals
        self._on_progress(
            Progress(
                done,
                total,
                self._best[1],
                self._best[2],
                self._counts["failed"],
                self._counts["duplicate"],
                seconds,
                seconds / done * (total - done),
            )
        )


def read_journal(folder: Path) -> list[Entry]:
    """All proposals of a run."""
    with open_journal(folder, read_only=True) as journal:
        return list(journal.entries())


__all__ = ["Controller", "Journal", "JudgeLike", "Progress", "read_journal"]
