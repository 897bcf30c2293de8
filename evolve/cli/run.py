"""`evosplit run`: search, with a live display on stderr."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from evaluators.judge import Judge, scores_of
from evolve.assets import asset
from evolve.cli.common import emit, judge_of, read_program, say, score_json, score_lines
from evolve.config import RunConfig, load_config
from evolve.controller import Controller, Progress
from evolve.errors import EXIT_BUDGET, UserError
from evolve.picture import draw_speedups
from evolve.proposers import Proposer, open_proposer
from evolve.run_folder import CONFIG_FILE, TABLE_FOLDER, RunSummary, find_run, keep_table, new_run_folder

PICTURE = "speedup.png"
PLAIN_EVERY_S = 5.0
MAX_EXPLAINED = 8


class Display:
    """Progress on stderr: one line that rewrites itself on a terminal, a line every few seconds elsewhere."""

    def __init__(self) -> None:
        """Look at what stderr is."""
        self._terminal = sys.stderr.isatty()
        self._last = 0.0

    def update(self, p: Progress) -> None:
        """Show a commit."""
        now = time.monotonic()
        last = p.done == p.total
        if not last and now - self._last < (0.1 if self._terminal else PLAIN_EVERY_S):
            return
        self._last = now
        text = (
            f"{p.done}/{p.total}  best #{p.best_id} score {p.best.score:.4f}, {100 * p.best.oracle_share:.1f}% of "
            f"oracle on train  failed {p.failures}, repeated {p.duplicates}  {p.seconds:.0f} s, "
            f"{p.seconds_left:.0f} s left"
        )
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}" + ("\n" if last else ""))
            sys.stderr.flush()
        else:
            say(text)


def run_command(config_path: Path | None, sets: list[str], resume: str | None, runs_dir: Path, *, as_json: bool) -> int:
    """Start or resume a run; returns the exit code."""
    if resume is not None:
        if config_path is not None or sets:
            raise UserError("--resume takes the run's own configuration", hint="leave CONFIG and --set out")
        folder = find_run(resume, runs_dir)
        config = load_config(folder / CONFIG_FILE, [])
        proposer = _proposer(config)
        judge = judge_of(config, table=folder / TABLE_FOLDER)
        seeds = [read_program(asset(name)) for name in config.seeds]
    else:
        if config_path is None:
            raise UserError("which configuration?", hint="evosplit run configs/quickstart.yaml")
        config = load_config(asset(str(config_path)), sets)
        table = asset(config.table_path())
        seeds = [read_program(asset(name)) for name in config.seeds]
        proposer = _proposer(config)
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
        on_progress=Display().update,
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
        _explain_regressions(judge, evaluation.speedups, evaluation.regressed)
        found = ", ".join(f"{k} {v}" for k, v in sorted(summary.statuses.items()))
        say(f"\nproposals  {summary.proposals} ({found}), proposer {config.proposer.kind}")
        say(f"winner     {best.path} (proposal {best.id}, {best.complexity} syntax nodes)")
        say(f"picture    {picture}")
    if as_json:
        emit(summary_json(summary))


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


def _explain_regressions(judge: Judge, speedups: dict[str, float], regressed: tuple[str, ...]) -> None:
    """Name the shapes that became slower, worst first; none goes unmentioned in number."""
    if not regressed:
        return
    cases = {c.id: c for c in judge.cases}
    worst = sorted(regressed, key=lambda i: speedups[i])
    say(f"\n{len(worst)} shapes became slower by more than max(1%, 3 standard errors):")
    for case_id in worst[:MAX_EXPLAINED]:
        say(f"  {case_id} ({cases[case_id].split.value}) {speedups[case_id]:.3f}x")
    if len(worst) > MAX_EXPLAINED:
        say(f"  and {len(worst) - MAX_EXPLAINED} more, each {speedups[worst[MAX_EXPLAINED]]:.3f}x or better")


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
