"""`evosplit run`: search, with a live display on stderr."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from evaluators.data.evaluation import Evaluation
from evaluators.judge.judge_set import JudgeSet
from evolve.assets import asset
from evolve.cli.common import (
    AnyJudge,
    SharedPool,
    emit,
    gap_line,
    judge_of,
    live_lines,
    measured_how,
    overfit_line,
    read_seeds,
    regression_lines,
    say,
    score_json,
    score_lines,
)
from evolve.config import RunConfig, load_config
from evolve.errors import EXIT_BUDGET, UserError
from evolve.journal.journal import Spending
from evolve.journal.run_folder import (
    CONFIG_FILE,
    Best,
    RunSummary,
    find_run,
    keep_tables,
    kept_seeds,
    kept_tables,
    new_run_folder,
)
from evolve.prompts.templates import load_templates
from evolve.proposers import Proposer, open_proposer
from evolve.proposers.prompt_queue import QUEUE_FOLDER
from evolve.reports.speedups import draw_speedups
from evolve.search.controller import Controller, SearchProgress

PICTURE = "speedup.png"
REPORT = "report.html"
PLAIN_EVERY_S = 5.0
RESUMABLE = (
    "search.proposals", "search.wall_s", "search.parallel_proposals", "search.parallel_evaluations",
    "budget.usd", "budget.tokens", "budget.gpu_s", "measure", "measure.executor", "measure.gpus",
)  # fmt: skip
"""What may change between a run and its continuation: budgets, parallelism, and who measures: they decide nothing."""


class Display:
    """Progress on stderr: one line that rewrites itself on a terminal, a line every few seconds elsewhere."""

    def __init__(self, wall_s: float | None) -> None:
        """Look at what stderr is; `wall_s` bounds the time left."""
        self._wall_s = wall_s
        self._terminal = sys.stderr.isatty()
        self._last = 0.0

    def update(self, p: SearchProgress) -> None:
        """Show a commit."""
        now = time.monotonic()
        last = p.done == p.total
        if not last and now - self._last < (0.1 if self._terminal else PLAIN_EVERY_S):
            return
        self._last = now
        left = p.seconds_left if self._wall_s is None else min(p.seconds_left, max(0.0, self._wall_s - p.seconds))
        missing = f", MISSING {p.best.missing} shapes" if p.best.missing else ""
        text = (
            f"{p.done}/{p.total}  best #{p.best_id} score {p.best.score:.4f}, {100 * p.best.oracle_share:.1f}% of "
            f"oracle on train{missing}  failed {p.failures}, repeated {p.duplicates}  {p.seconds:.0f} s, "
            f"{left:.0f} s left"
        )
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}" + ("\n" if last else ""))
            sys.stderr.flush()
        else:
            say(text)


@dataclass(frozen=True, slots=True)
class Opened:
    """A run that can begin or go on."""

    config: RunConfig
    judge: AnyJudge
    proposer: Proposer
    seeds: list[str]
    folder: Path


def run_command(config_path: Path | None, sets: list[str], resume: str | None, runs_dir: Path, *, as_json: bool) -> int:
    """Start or resume a run; returns the exit code."""
    if resume is not None:
        if config_path is not None:
            raise UserError("--resume takes the run's own configuration", hint="leave CONFIG out")
        check_resumable(sets)
        folder = find_run(resume, runs_dir)
        return search(go_on(load_config(folder / CONFIG_FILE, sets), folder), as_json=as_json)
    if config_path is None:
        raise UserError("which configuration?", hint="evosplit run configs/quickstart.yaml")
    return search(begin(load_config(asset(str(config_path)), sets)), as_json=as_json)


def check_resumable(sets: list[str]) -> None:
    """Refuse overrides that would make another run of it."""
    for text in sets:
        if text.partition("=")[0] not in RESUMABLE:
            raise UserError(f"--set {text}: cannot change within a run", hint=f"these can: {', '.join(RESUMABLE)}")


def begin(config: RunConfig, folder: Path | None = None, pool: SharedPool | None = None) -> Opened:
    """Open a new run, in a folder of its own or in an empty one."""
    tables = [] if config.judge.measure == "live" else [asset(p) for p in config.table_paths()]
    seeds, proposer = read_seeds(config), open_configured(config)
    load_templates(config.prompts)  # its mistakes are told before a folder is made
    judge = judge_of(config, tables=tables, pool=pool)
    folder = folder or new_run_folder(Path(config.runs_dir), config.name)
    if tables:
        keep_tables(tables, folder)
    return Opened(config, judge, proposer, seeds, folder)


def go_on(config: RunConfig, folder: Path, pool: SharedPool | None = None) -> Opened:
    """Open a run that has a journal."""
    proposer = open_configured(config)
    judge = judge_of(config, tables=kept_tables(folder), pool=pool)
    # From the journal: the files may have changed since, or lie elsewhere.
    kept = kept_seeds(folder)
    seeds = kept if len(kept) == len(config.seeds) else read_seeds(config)
    return Opened(config, judge, proposer, seeds, folder)


def search(opened: Opened, *, as_json: bool) -> int:
    """Search to the end or to a budget; returns the exit code."""
    config, judge, proposer, folder = opened.config, opened.judge, opened.proposer, opened.folder
    if config.constants.every:
        from evolve.proposers.fitting import FittingProposer

        if isinstance(judge, JudgeSet):
            raise UserError("constants.every: constants are fitted on one table", hint="leave it out with judge.tables")

        proposer = FittingProposer(proposer, judge, config.constants, islands=config.search.islands)
    _announce(config, judge, folder)
    controller = Controller(
        config,
        judge,
        proposer,
        folder,
        seeds=opened.seeds,
        on_progress=Display(config.search.wall_s).update,
    )
    summary = controller.run()
    _finish(summary, judge, config, as_json=as_json)
    unfinished = summary.proposals < summary.wanted
    if unfinished:
        say(f"\nstopped after {summary.proposals} of {summary.wanted} proposals by {controller.stopped}")
        say(f"evosplit run --resume {folder} goes on; a larger budget: --set KEY=VALUE")
    return EXIT_BUDGET if unfinished else 0


def open_configured(config: RunConfig) -> Proposer:
    """The proposer, opened before a run folder is made for it."""
    try:
        return open_proposer(config.proposer)
    except ValueError as error:
        raise UserError(f"proposer: {error}") from error


def _announce(config: RunConfig, judge: AnyJudge, folder: Path) -> None:
    d = judge.description
    say(f"{folder}: {config.search.proposals} proposals by {config.proposer.kind} on {d['workload']}, {d['setting']}, "
        f"{d['weighting']} ({measured_how(judge)})")  # fmt: skip
    if config.proposer.kind == "manual":
        say(f"prompts wait in {folder / QUEUE_FOLDER}; evosplit queue list --run {folder}")


def _finish(summary: RunSummary, judge: AnyJudge, config: RunConfig, *, as_json: bool) -> None:
    best = summary.best
    picture = summary.path / PICTURE
    if best is not None:
        evaluation = judge.evaluate(best.source)
        pictures = _draw(judge, evaluation, picture, f"#{best.id} of {summary.run}, {config.proposer.kind} proposer")
        say(f"\nwinner, picked by the holdout: proposal {best.id}")
        _show(best, judge, evaluation)
        _show_leader(summary, judge)
        found = ", ".join(f"{k} {v}" for k, v in sorted(summary.statuses.items()))
        say(f"\nproposals  {summary.proposals} ({found}), proposer {config.proposer.kind}")
        say(f"spent      {spent_text(summary.spending)}")
        say(f"winner     {best.path} (proposal {best.id}, {best.complexity} syntax nodes)")
        for path in pictures:
            say(f"picture    {path}")
        say(f"report     {_write_report(summary.path)}")
        for line in live_lines(judge):
            say(line)
    if as_json:
        emit(summary_json(summary))


def say_trust(best: Best) -> None:
    """How far the winner's score carries beyond the shapes of the search."""
    for line in (gap_line(best.train, best.holdout), overfit_line(best.features, best.overfit)):
        if line:
            say(line)


def _draw(judge: AnyJudge, evaluation: Evaluation, picture: Path, title: str) -> list[Path]:
    """One picture per table; the first keeps the name that everybody looks for."""
    drawn = []
    judges = judge.judges if isinstance(judge, JudgeSet) else {"": judge}
    for number, (name, one) in enumerate(judges.items(), start=1):
        prefix = f"{name}/" if name else ""
        found = {i.removeprefix(prefix): s for i, s in evaluation.speedups.items() if i.startswith(prefix)}
        d = one.description
        drawn.append(picture if number == 1 else picture.with_stem(f"{picture.stem}-{number}"))
        draw_speedups(drawn[-1], one.cases, found, title=f"{title}\n{d['workload']}, {d['setting']}, {d['gpu']}")
    return drawn


def _write_report(folder: Path) -> Path:
    """The run's page, written anew when a run goes on."""
    from evolve.dashboard.report import report
    from evolve.dashboard.views.reader import RunReader

    path = folder / REPORT
    path.write_text(report([RunReader(folder)]), encoding="utf-8")
    return path


def _show_leader(summary: RunSummary, judge: AnyJudge) -> None:
    """Show the program that leads on the training shapes beside the winner, which the holdout picked."""
    leader = summary.leader
    if leader is None or summary.best is None or leader.id == summary.best.id:
        return
    say(f"\nleader on the training shapes, of which the holdout says less good: proposal {leader.id}")
    _show(leader, judge, judge.evaluate(leader.source))


def _show(program: Best, judge: AnyJudge, evaluation: Evaluation) -> None:
    """Scores of the journal, which the recheck may have lowered, and what became slower."""
    for line in score_lines({"train": program.train} | ({"holdout": program.holdout} if program.holdout else {})):
        say(line)
    say_trust(program)
    for line in regression_lines(judge, evaluation):
        say(line)


def spent_text(spending: Spending) -> str:
    """What a run cost, in a line."""
    parts = [f"${spending.cost_usd:.2f}", f"{spending.tokens} tokens", f"{spending.calls} calls"]
    if spending.look_ups:
        parts.append(f"{spending.look_ups:,} look-ups by proposers")
    if spending.gpu_s:
        parts.append(f"{spending.gpu_s:.0f} s of GPU")
    return ", ".join(parts)


def summary_json(summary: RunSummary) -> dict[str, object]:
    """A run as JSON."""
    best, leader = summary.best, summary.leader
    return {
        "run": summary.run,
        "path": str(summary.path),
        "proposals": summary.proposals,
        "statuses": summary.statuses,
        "cost_usd": summary.spending.cost_usd,
        "tokens": summary.spending.tokens,
        "calls": summary.spending.calls,
        "gpu_s": summary.spending.gpu_s,
        "best": None
        if best is None
        else {
            "id": best.id,
            "path": str(best.path),
            "train": score_json(best.train),
            "holdout": score_json(best.holdout),
        },
        "leader": None
        if leader is None
        else {"id": leader.id, "train": score_json(leader.train), "holdout": score_json(leader.holdout)},
    }
