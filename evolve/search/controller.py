"""The controller: samples, prompts, evaluates and commits, in an order that does not depend on timing.

Proposal k samples from the population after commit k - window; results are committed in index order. Proposals and
evaluations overlap, but the journal does not depend on which ends first.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.sandbox.process import SandboxUnavailable
from evaluators.scoring.feedback import VERSION, render
from evaluators.targets.registry import kernel_hint
from evolve.config import RunConfig
from evolve.errors import EXIT_MISSING, InterruptedRun, UserError
from evolve.journal.entry import Commit, evaluation_of
from evolve.journal.journal import Entry, Journal, open_journal
from evolve.journal.run_folder import (
    BEST_FILE,
    CONFIG_FILE,
    INTERRUPTED,
    RunSummary,
    locked,
    pick_best,
    summarise,
    write_whole,
)
from evolve.journal.versions import versions_text
from evolve.prompts.lessons import PROMPT_RULES, LessonBook, lesson_of
from evolve.prompts.prompts import Prompts
from evolve.prompts.templates import Templates, load_templates
from evolve.proposer_config import AgentConfig, EndpointConfig, OpenAIConfig, ReplayConfig
from evolve.proposers.base import EndpointStopped, Proposer
from evolve.search.bandit import open_choice
from evolve.search.budget import Budget, BudgetSpent, Spend
from evolve.search.ledger import Ledger, SearchProgress
from evolve.search.pipeline import Attached, CallResult, JudgeLike, Pipeline, ProposalOutcome
from evolve.search.population import Population
from evolve.search.requests import Origin, RequestBuilder

UNREAD_TOKENS = 6000
"""Longest prompt of a proposer that reads feedback as data; keeps journals of long searches small."""

AGENT_TOKENS = 9000
"""Longest brief of an agent: it is sent again with every turn, and tools give the rest."""

FORGET_EVERY = 256
"""Commits between two clean-ups of lessons of displaced programs and of free memory."""


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's malloc_trim; None with another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None


def return_free_memory() -> None:
    """Return free pages of the heap to the system, if the C library can.

    Every parsed program adds names to CPython's table of interned strings and removes them again, so that the
    interpreter rebuilds the table from time to time. That frees some MiB, which glibc keeps with other free parts of
    the heap. See results/soak.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


REFUSING_RULES, RESTORING_RULES = "1", "2"
"""Rules for answers that change frozen text: refuse them (runs begun before version 0.2), or restore the text."""


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
        on_progress: Callable[[SearchProgress], None] = lambda _: None,
    ) -> None:
        """Prepare a run in a folder that exists, new or interrupted; `on_progress` is called after each commit."""
        self._config, self._search = config, config.search
        self._judge, self._proposer = judge, proposer
        self._run_dir, self._seeds = run_dir, seeds
        self._on_progress = on_progress
        self._population = Population(config.search, config.random_seed)
        self._choice = open_choice(config.proposer)
        self._origins: dict[int, Origin] = {}
        self.stopped = ""
        """Limit that ended `run` before all proposals were made, with the amount used."""
        self.reached = ""
        """Key of `search.stop` that ended `run`, with the reason."""
        self._total = len(seeds) + config.search.proposals

    def run(self) -> RunSummary:
        """Run to the budget; continues an earlier run in this folder.

        Raises:
            InterruptedRun: Ctrl-C; the journal is complete.
            UserError: a seed fails, or another process works in the folder.
        """
        with locked(self._run_dir):
            # Created first: a folder with a journal is a run that can be resumed.
            write_whole(self._run_dir / CONFIG_FILE, self._config.dump_yaml())
            self._run()
        return summarise(self._run_dir)

    def _run(self) -> None:
        with open_journal(self._run_dir, read_only=False) as journal:
            self._journal = journal
            prompts = self._write_meta()
            self._journal.set_meta("ended", "")
            try:
                asyncio.run(self._main(prompts))
            except BaseException as error:
                with suppress(UserError, sqlite3.Error):  # the error that ended the run matters more
                    self._journal.set_meta("ended", _ended_by(error))
                    self._write_best()
                if isinstance(error, KeyboardInterrupt):
                    raise InterruptedRun(f"stopped; go on with: evosplit run --resume {self._run_dir}") from None
                if isinstance(error, EndpointStopped):
                    error.hint = f"{error.hint}; then: evosplit run --resume {self._run_dir}"
                raise
            self._journal.set_meta("ended", self.stopped or self.reached or "finished")
            self._write_best()

    def _write_best(self) -> None:
        best = pick_best(self._journal, self._run_dir)
        if best is not None:
            write_whole(self._run_dir / BEST_FILE, best.source)

    def _write_meta(self) -> Prompts:
        """Write the run's metadata, and return its prompts: those from its start."""
        begun = bool(self._journal.meta("config"))
        for key, value in self._judge.description.items():
            known = self._journal.meta(key) or ("1" if begun and key == "judge_version" else "")
            if known and known != value:
                raise UserError(
                    f"{self._run_dir.name} was judged with {key} = {known}, now it is {value}",
                    hint="start a new run; with another table, restore it",
                )
            self._journal.set_meta(key, value)
        self._journal.set_meta("run", self._run_dir.name)
        self._journal.set_meta("proposer", self._proposer.name)
        self._journal.set_meta("proposals", str(self._search.proposals))
        if not begun:  # a resumed run keeps the version of its start
            self._journal.set_meta("feedback_version", str(VERSION))
            self._journal.set_meta("versions", versions_text())
        kept = self._journal.meta("templates")
        setting, agent = self._judge.description.get("setting", ""), isinstance(self._config.proposer, AgentConfig)
        templates = Templates.from_json(kept) if kept else load_templates(self._config.prompts, setting, agent=agent)
        self._journal.set_meta("templates", templates.to_json())
        self._journal.set_meta("config", self._config.dump_yaml())
        if not self._journal.meta("prices"):
            prices = {model: price.model_dump() for model, price in self._config.budget.prices.items()}
            self._journal.set_meta("prices", json.dumps(prices))
        self._journal.set_meta("answer_rules", self._answer_rules())
        self._journal.set_meta("prompt_rules", self._prompt_rules())
        most = self._prompt_tokens()
        self._journal.set_meta("prompt_tokens", str(most))
        rules, sandbox = int(self._journal.meta("prompt_rules")), self._config.sandbox
        return Prompts(templates, self._judge.description, max_tokens=most, sandbox=sandbox, rules=rules)

    def _prompt_tokens(self) -> int:
        """Longest prompt, as at the start of the run or of the replayed run."""
        known, config = self._journal.meta("prompt_tokens"), self._config
        if not known and isinstance(config.proposer, ReplayConfig):
            with open_journal(Path(config.proposer.run), read_only=True) as recorded:
                known = recorded.meta("prompt_tokens")
        if known:
            return int(known)
        most = config.prompts.max_tokens
        if isinstance(config.proposer, AgentConfig):
            return min(most, AGENT_TOKENS)
        return min(most, UNREAD_TOKENS) if config.proposer.kind == "offline" else most

    def _answer_rules(self) -> str:
        """Rules for parsing answers, as at the start of the run or of the replayed run."""
        if isinstance(self._config.proposer, ReplayConfig):
            with open_journal(Path(self._config.proposer.run), read_only=True) as recorded:
                return recorded.meta("answer_rules") or REFUSING_RULES
        began_before = self._journal.spending().calls > 0 and not self._journal.meta("answer_rules")
        return REFUSING_RULES if began_before else self._journal.meta("answer_rules") or RESTORING_RULES

    def _prompt_rules(self) -> str:
        """Rules for building prompts, as at the start of the run or of the replayed run."""
        if isinstance(self._config.proposer, ReplayConfig):
            with open_journal(Path(self._config.proposer.run), read_only=True) as recorded:
                return recorded.meta("prompt_rules") or "1"
        began_before = self._journal.spending().calls > 0 and not self._journal.meta("prompt_rules")
        return "1" if began_before else self._journal.meta("prompt_rules") or str(PROMPT_RULES)

    async def _prepare(self) -> None:
        """Let the proposer probe its endpoints, unless all proposals have answers."""
        (answered,) = self._journal.select("SELECT count(*) AS count FROM answers")
        if answered["count"] < self._search.proposals:
            found = await self._pipeline.prepare(self._journal.meta("endpoints"))
            self._journal.set_meta("endpoints", found)

    async def _main(self, prompts: Prompts) -> None:
        self._started = time.monotonic()
        journal = self._journal
        self._ledger = Ledger(journal)
        self._lessons = LessonBook(partial(lesson_of, journal), rules=int(journal.meta("prompt_rules")))
        budget = Budget(self._config, journal.spending())
        self._pipeline = Pipeline(
            self._judge,
            self._proposer,
            journal,
            self._ledger,
            search=self._search,
            budget=budget,
            correct=isinstance(self._config.proposer, OpenAIConfig) and self._config.proposer.correct,
            restore=journal.meta("answer_rules") == RESTORING_RULES,
        )
        self._request_builder = RequestBuilder(
            self._config.random_seed,
            self._run_dir,
            journal,
            self._population,
            self._pipeline,
            self._lessons,
            prompts,
            self._choice,
        )
        tasks: dict[int, asyncio.Task[ProposalOutcome]] = {}
        try:
            if isinstance(self._proposer, Attached):
                self._proposer.attach(journal, self._judge)
            await self._prepare()
            for index, source in enumerate(self._seeds):
                await self._seed(index, source, journal.find(index))
            known, commits = journal.committed(), journal.commits()
            asked = committed = len(self._seeds)
            while committed < self._total:
                # The same order in every run and replay: k is sampled right after commit k - window.
                while asked < min(self._total, committed + self._search.window):
                    if asked >= known:
                        await self._begin(asked, journal.find(asked), tasks, settled=committed)
                    asked += 1
                if committed < known:
                    self._recommit(next(commits))
                else:
                    left = self._seconds_left()
                    if left == 0 or not (await asyncio.wait([tasks[committed]], timeout=left))[0]:
                        self.stopped = f"search.wall_s: {self._search.wall_s:g} seconds have passed"
                        await self._pipeline.finish_calls(tasks.values(), within_s=self._longest_call_s())
                        return
                    await self._commit(committed, tasks.pop(committed).result())
                committed += 1
                # Includes commits before an interruption: a search that has reached its end stays ended.
                self.reached = self._ledger.reached(self._search.stop, committed - 1)
                if self.reached:
                    await self._pipeline.finish_calls(tasks.values(), within_s=self._longest_call_s())
                    return
        except SandboxUnavailable as error:
            hint = f"once it is fixed: evosplit run --resume {self._run_dir}"
            raise UserError(str(error), hint=hint, exit_code=EXIT_MISSING) from error
        except BudgetSpent as spent:
            self.stopped = str(spent)
            await self._pipeline.finish_calls(tasks.values(), within_s=self._longest_call_s())
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            await self._pipeline.aclose()

    def _seconds_left(self) -> float | None:
        """Wall time left; None without a limit."""
        wall = self._search.wall_s
        return None if wall is None else max(0.0, self._started + wall - time.monotonic())

    def _longest_call_s(self) -> float:
        """Longest duration of a call that costs money; 0 if calls are free."""
        return self._config.proposer.timeout_s if isinstance(self._config.proposer, EndpointConfig) else 0.0

    async def _begin(
        self, index: int, entry: Entry | None, tasks: dict[int, asyncio.Task[ProposalOutcome]], *, settled: int
    ) -> None:
        """Start a proposal, or continue it from the point of an interruption."""
        if entry is None:
            stored = None
            request, self._origins[index] = await self._request_builder.new(index, settled=settled)
        else:
            stored = CallResult(entry.spent, entry.error) if entry.answer or entry.error else None
            request, self._origins[index] = await self._request_builder.again(entry, settled=settled)
        tasks[index] = asyncio.create_task(self._pipeline.work(request, stored))

    async def _seed(self, index: int, source: str, known: Entry | None) -> None:
        name = self._config.seeds[index]
        if known is not None and known.status is not None:
            if known.source != source:
                raise UserError(f"seed {name} has changed since this run began", hint="start a new run")
            evaluation = evaluation_of(known)
        else:
            evaluation = await self._pipeline.evaluate(source)
            if self._ledger.may_win(evaluation):
                evaluation = await self._pipeline.recheck(source, evaluation)
            _refuse_failing(f"seed {name}", evaluation, self._judge.description["setting"])
            if known is None:
                self._request_builder.write_seed(index)
            self._journal.result(index, source, evaluation, feedback=render(evaluation.feedback))
            self._pipeline.note_measured(index, evaluation.measured)
            self._pipeline.keep(index, source, evaluation)
        self._ledger.commit(index, evaluation)
        self._population.add_seed(index, evaluation.source_hash, evaluation)

    async def _commit(self, index: int, outcome: ProposalOutcome) -> None:
        """Detect duplicates, recheck a would-be best program, update the population, write the result."""
        evaluation, original = outcome.evaluation, self._ledger.original(outcome.evaluation)
        if original is not None:
            evaluation = Evaluation(
                Status.DUPLICATE,
                f"same {original.same} as proposal {original.id}",
                evaluation.source_hash,
                evaluation.normal_form,
                evaluation.decisions_hash if original.same == "decisions" else "",
                gpu_s=evaluation.gpu_s,
            )
        if self._ledger.may_win(evaluation, self._origins[index].island):
            again = await self._pipeline.recheck(outcome.source, evaluation)
            self._pipeline.note_measured(index, again.measured[len(evaluation.measured) :])
            evaluation = again
        displaced = self._enter(self._origins.pop(index), index, evaluation, outcome.spend)
        self._journal.result(
            index,
            outcome.source,
            evaluation,
            feedback=render(evaluation.feedback),
            duplicate_of=original.id if original else None,
            displaced=displaced,
            elapsed_s=outcome.elapsed_s,
        )
        if evaluation.status is Status.OK:
            self._pipeline.keep(index, outcome.source, evaluation)
        self._report(index)

    def _recommit(self, made: Commit) -> None:
        """Apply a journalled commit again after an interruption."""
        origin = Origin(made.island, made.parent, made.asked_model)
        self._enter(origin, made.id, made.evaluation, Spend(made.usd, made.tokens))

    def _enter(self, origin: Origin, index: int, evaluation: Evaluation, spend: Spend) -> tuple[int, ...]:
        """Update ledger, model choice, population and lessons; returns the displaced programs."""
        scored = evaluation if evaluation.status is Status.OK else None
        gain = 0.0
        if scored is not None and scored.train is not None:
            before = self._pipeline.train(origin.parent)
            gain = max(0.0, scored.train.score - before.score) if before else 0.0
        self._ledger.commit(index, evaluation, origin.island)
        self._choice.commit(origin.model, gain=gain, usd=spend.usd, tokens=spend.tokens)
        displaced = self._population.commit(index, origin.island, evaluation.source_hash, scored)
        self._lessons.commit(index, origin.island, evaluation.status, parent=origin.parent)
        if index % FORGET_EVERY == 0:
            self._lessons.keep_only(self._population.members())
            self._population.migrations.clear()
            return_free_memory()
        return displaced

    def _report(self, index: int) -> None:
        seconds = time.monotonic() - self._started
        done = index + 1 - len(self._seeds)
        self._on_progress(self._ledger.progress(done, self._search.proposals, seconds))


def try_programs(names: Sequence[str], sources: Sequence[str], judge: JudgeLike) -> None:
    """Judge the programs that a search begins with before it begins, where that costs no time on a GPU.

    Raises:
        UserError: one of them fails; the message begins with its name.
    """
    for name, source in zip(names, sources, strict=True):
        _refuse_failing(name, judge.evaluate(source), judge.description["setting"])


def _refuse_failing(name: str, evaluation: Evaluation, setting: str) -> None:
    if evaluation.status is not Status.OK:
        raise UserError(
            f"{name} fails: {evaluation.status.value}: {evaluation.message}",
            hint=kernel_hint(evaluation.status, setting, "--set judge.setting="),
        )


def _ended_by(error: BaseException) -> str:
    """Description of a run's end by an error."""
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"[:300]


def read_journal(folder: Path) -> list[Entry]:
    """Read all proposals of a run."""
    with open_journal(folder, read_only=True) as journal:
        return list(journal.entries())


__all__ = ["Controller", "Journal", "JudgeLike", "SearchProgress", "read_journal"]
