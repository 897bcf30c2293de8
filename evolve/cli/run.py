"""`evosplit run`: search, with a live display on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from evaluators.data.evaluation import Evaluation
from evaluators.judge.judge_set import JudgeSet
from evolve.assets import asset
from evolve.cli.common import (
    emit,
    gap_line,
    live_lines,
    lone_line,
    measured_how,
    regression_lines,
    result_printer,
    say,
    score_json,
    score_lines,
)
from evolve.config import load_config
from evolve.errors import EXIT_BUDGET, UserError
from evolve.journal.journal import Spending
from evolve.journal.run_folder import CONFIG_FILE, Best, RunSummary, find_run
from evolve.proposers.prompt_queue import QUEUE_FOLDER
from evolve.reports.speedups import draw_speedups
from evolve.run import AnyJudge, OpenedRun, check_resumable, resume_run, run_search, start_run
from evolve.search.ledger import SearchProgress

PICTURE = "speedup.png"
REPORT = "report.html"
PLAIN_EVERY_S = 5.0


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
        check_resumable(sets)
        folder = find_run(resume, runs_dir)
        return search(resume_run(load_config(folder / CONFIG_FILE, sets), folder, on_event=say), as_json=as_json)
    if config_path is None:
        raise UserError("missing argument CONFIG", hint="evosplit run configs/quickstart.yaml")
    return search(start_run(load_config(asset(str(config_path)), sets), on_event=say), as_json=as_json)


def search(opened: OpenedRun, *, as_json: bool) -> int:
    """Search to the end or to a budget, with progress and a report; returns the exit code."""
    _announce(opened)
    found = run_search(opened, on_progress=Display(opened.config.search.wall_s).update)
    summary = found.summary
    _finish(summary, opened, as_json=as_json)
    if found.stopped_by:
        say(f"\nstopped after {summary.proposals} of {summary.wanted} proposals by {found.stopped_by}")
        say(f"evosplit run --resume {opened.folder} goes on; a larger budget: --set KEY=VALUE")
    return EXIT_BUDGET if found.stopped_by else 0


def _announce(opened: OpenedRun) -> None:
    config, judge, folder = opened.config, opened.judge, opened.folder
    d = judge.description
    say(f"{folder}: {config.search.proposals} proposals by {config.proposer.kind} on {d['workload']}, {d['setting']}, "
        f"{d['weighting']} ({measured_how(judge)})")  # fmt: skip
    if config.proposer.kind == "manual":
        say(f"prompts wait in {folder / QUEUE_FOLDER}; evosplit queue list --run {folder}")


def _finish(summary: RunSummary, opened: OpenedRun, *, as_json: bool) -> None:
    judge, proposer = opened.judge, opened.config.proposer.kind
    best, picture = summary.best, summary.path / PICTURE
    tell = result_printer(as_json=as_json)
    if best is not None:
        evaluation = judge.evaluate(best.source)
        pictures = _draw(judge, evaluation, picture, f"#{best.id} of {summary.run}, {proposer} proposer")
        tell(f"\nwinner, picked by the holdout: proposal {best.id}")
        _show(best, judge, evaluation, tell)
        _show_leader(summary, judge, tell)
        found = ", ".join(f"{k} {v}" for k, v in sorted(summary.statuses.items()))
        tell(f"\nproposals  {summary.proposals} ({found}), proposer {proposer}")
        tell(f"spent      {spent_text(summary.spending)}")
        tell(f"winner     {best.path} (proposal {best.id}, {best.complexity} syntax nodes)")
        for path in pictures:
            tell(f"picture    {path}")
        tell(f"report     {_write_report(summary.path)}")
        for line in live_lines(judge):
            tell(line)
    if as_json:
        emit(summary_json(summary))


def trust_lines(best: Best) -> list[str]:
    """How far the winner's score carries beyond the shapes of the search."""
    return [line for line in (gap_line(best.train, best.holdout), lone_line(best.features, best.memorised)) if line]


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


def _show_leader(summary: RunSummary, judge: AnyJudge, tell: Callable[[str], None]) -> None:
    """Show the program that leads on the training shapes, where the holdout picked another one."""
    leader = summary.leader
    if leader is None or summary.best is None or leader.id == summary.best.id:
        return
    tell(f"\nleader on the training shapes, worse on the holdout: proposal {leader.id}")
    _show(leader, judge, judge.evaluate(leader.source), tell)


def _show(program: Best, judge: AnyJudge, evaluation: Evaluation, tell: Callable[[str], None]) -> None:
    """Scores of the journal, which the recheck may have lowered, and the shapes that became slower."""
    scores = {"train": program.train} | ({"holdout": program.holdout} if program.holdout else {})
    for line in (*score_lines(scores), *trust_lines(program), *regression_lines(judge, evaluation)):
        tell(line)


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
