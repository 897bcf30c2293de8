"""`evosplit run`: search, with a live display on stderr."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from evaluators.judge import Judge, scores_of
from evolve.assets import asset
from evolve.cli.common import emit, judge_of, read_seeds, regression_lines, say, score_json, score_lines
from evolve.config import RunConfig, load_config
from evolve.controller import Controller, Progress, read_journal
from evolve.errors import EXIT_BUDGET, UserError
from evolve.picture import draw_speedups
from evolve.proposers import Proposer, open_proposer
from evolve.run_folder import CONFIG_FILE, TABLE_FOLDER, RunSummary, find_run, keep_table, new_run_folder

PICTURE = "speedup.png"
REPORT = "report.html"
PLAIN_EVERY_S = 5.0
RESUMABLE = ("search.proposals", "search.wall_s", "search.parallel_proposals", "search.parallel_evaluations")
"""What may change between a run and its continuation: budgets and parallelism, which decide nothing."""


class Display:
    """Progress on stderr: one line that rewrites itself on a terminal, a line every few seconds elsewhere."""

    def __init__(self, wall_s: float | None) -> None:
        """Look at what stderr is; `wall_s` bounds the time left."""
        self._wall_s = wall_s
        self._terminal = sys.stderr.isatty()
        self._last = 0.0

    def update(self, p: Progress) -> None:
        """Show a commit."""
        now = time.monotonic()
        last = p.done == p.total
        if not last and now - self._last < (0.1 if self._terminal else PLAIN_EVERY_S):
            return
        self._last = now
        left = p.seconds_left if self._wall_s is None else min(p.seconds_left, max(0.0, self._wall_s - p.seconds))
        text = (
            f"{p.done}/{p.total}  best #{p.best_id} score {p.best.score:.4f}, {100 * p.best.oracle_share:.1f}% of "
            f"oracle on train  failed {p.failures}, repeated {p.duplicates}  {p.seconds:.0f} s, "
            f"{left:.0f} s left"
        )
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}" + ("\n" if last else ""))
            sys.stderr.flush()
        else:
            say(text)


def run_command(config_path: Path | None, sets: list[str], resume: str | None, runs_dir: Path, *, as_json: bool) -> int:
    """Start or resume a run; returns the exit code."""
    if resume is not None:
        if config_path is not None:
            raise UserError("--resume takes the run's own configuration", hint="leave CONFIG out")
        for text in sets:
            if text.partition("=")[0] not in RESUMABLE:
                raise UserError(f"--set {text}: cannot change within a run", hint=f"these can: {', '.join(RESUMABLE)}")
        folder = find_run(resume, runs_dir)
        config = load_config(folder / CONFIG_FILE, sets)
        proposer = _proposer(config)
        judge = judge_of(config, table=folder / TABLE_FOLDER)
        # From the journal: the files may have changed since, or lie elsewhere.
        kept = [e.source for e in read_journal(folder) if e.kind == "seed" and e.source]
        seeds = kept if len(kept) == len(config.seeds) else read_seeds(config)
    else:
        if config_path is None:
            raise UserError("which configuration?", hint="evosplit run configs/quickstart.yaml")
        config = load_config(asset(str(config_path)), sets)
        table = asset(config.table_path())
        seeds, proposer = read_seeds(config), _proposer(config)
        judge = judge_of(config, table=table)
        folder = new_run_folder(Path(config.runs_dir), config.name)
        keep_table(table, folder)
    _announce(config, judge, folder)
    controller = Controller(
        config,
        judge,
        proposer,
        folder,
        seeds=seeds,
        on_progress=Display(config.search.wall_s).update,
    )
    summary = controller.run()
    _finish(summary, judge, config, as_json=as_json)
    unfinished = summary.proposals < summary.wanted
    if unfinished:
        say(f"\nstopped by wall_s after {summary.proposals} of {summary.wanted} proposals; evosplit run --resume "
            f"{folder} goes on")  # fmt: skip
    return EXIT_BUDGET if unfinished else 0


def _proposer(config: RunConfig) -> Proposer:
    """The proposer, opened before a run folder is made for it."""
    try:
        return open_proposer(config.proposer)
    except ValueError as error:
        raise UserError(f"proposer: {error}") from error


def _announce(config: RunConfig, judge: Judge, folder: Path) -> None:
    d = judge.description
    say(f"{folder}: {config.search.proposals} proposals by {config.proposer.kind} on {d['workload']}, {d['setting']}, "
        f"{d['weighting']} (recorded: {d['build']}, {d['gpu']})")  # fmt: skip


def _finish(summary: RunSummary, judge: Judge, config: RunConfig, *, as_json: bool) -> None:
    best = summary.best
    picture = summary.path / PICTURE
    if best is not None:
        evaluation = judge.evaluate(best.source)
        d = judge.description
        by = f"{summary.run}, {config.proposer.kind} proposer\n{d['workload']}, {d['setting']}, {d['gpu']}"
        draw_speedups(picture, judge.cases, evaluation.speedups, title=f"#{best.id} of {by}")
        say()
        for line in score_lines(scores_of(evaluation)):
            say(line)
        _compare_leader(summary)
        for line in regression_lines(judge, evaluation):
            say(line)
        found = ", ".join(f"{k} {v}" for k, v in sorted(summary.statuses.items()))
        say(f"\nproposals  {summary.proposals} ({found}), proposer {config.proposer.kind}")
        say(f"winner     {best.path} (proposal {best.id}, {best.complexity} syntax nodes)")
        say(f"picture    {picture}")
        say(f"report     {_write_report(summary.path)}")
    if as_json:
        emit(summary_json(summary))


def _write_report(folder: Path) -> Path:
    """The run's page, written anew when a run goes on."""
    from evolve.dashboard.reader import RunReader
    from evolve.dashboard.report import report

    path = folder / REPORT
    path.write_text(report([RunReader(folder)]), encoding="utf-8")
    return path


def _compare_leader(summary: RunSummary) -> None:
    """Show the program that leads on the training shapes beside the winner, which the holdout picked."""
    leader = summary.leader
    if leader is None or summary.best is None or leader.id == summary.best.id or leader.holdout is None:
        return
    train, holdout = leader.train, leader.holdout
    say(
        f"\nleader on the training shapes: proposal {leader.id}, {100 * train.oracle_share:.1f}% of the oracle on "
        f"train ({train.regressions} regressions), {100 * holdout.oracle_share:.1f}% on holdout ({holdout.regressions})"
    )


def summary_json(summary: RunSummary) -> dict[str, object]:
    """A run as JSON."""
    best, leader = summary.best, summary.leader
    return {
        "run": summary.run,
        "path": str(summary.path),
        "proposals": summary.proposals,
        "statuses": summary.statuses,
        "cost_usd": summary.cost_usd,
        "tokens": summary.tokens,
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
