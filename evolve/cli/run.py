"""`evosplit run` and `evosplit replay`: search, with a live display on stderr."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.judge.judge import JUDGE_VERSION, Judge, readable_version
from evaluators.judge.judge_set import JudgeSet
from evaluators.measure.errors import MeasureError
from evaluators.measure.live import PoolSource
from evaluators.scoring.feedback import VERSION
from evolve.assets import asset
from evolve.cli.common import (
    emit,
    gap_line,
    live_lines,
    measured_how,
    overfit_line,
    regression_lines,
    result_printer,
    say,
    score_json,
    score_lines,
)
from evolve.cli.failures import kept_at_stop
from evolve.cli.tokens.predicted import predictions, token_lines, tokens_text
from evolve.config import BudgetConfig, RunConfig, load_config
from evolve.errors import EXIT_BUDGET, EXIT_MISSING, EXIT_NEGATIVE, UserError
from evolve.journal.diff import first_difference
from evolve.journal.journal import Entry, Spending, open_journal
from evolve.journal.packed import refuse_packed
from evolve.journal.run_folder import CONFIG_FILE, Best, RunSummary, find_run, keep_tables, kept_tables, new_run_folder
from evolve.proposer_config import AgentConfig, ReplayConfig
from evolve.proposers import Proposer, open_proposer
from evolve.proposers.prompt_queue import QUEUE_FOLDER
from evolve.reports.run_display import RunDisplay
from evolve.reports.speedups import draw_speedups
from evolve.reports.trust import Reach, optimism_line, reach_lines, reaches
from evolve.run import (
    AnyJudge,
    OpenedRun,
    check_resumable,
    held_config,
    open_configured_judge,
    resume_run,
    run_search,
    start_run,
)
from evolve.search.rejudge import rejudge

PICTURE = "speedup.png"
REPORT = "report.html"
PROMPT_COLUMNS = ("system", "user")
TURN_TEXTS = ("asked", "content")
"""Columns of the turns of expeditions that differ where texts do."""


def run_command(config_path: Path | None, sets: list[str], resume: str | None, runs_dir: Path, *, as_json: bool) -> int:
    """Start or resume a run; returns the exit code."""
    if resume is not None:
        if config_path is not None:
            raise UserError("--resume takes the run's own configuration", hint="leave CONFIG out")
        check_resumable(sets)
        folder = find_run(resume, runs_dir)
        refuse_packed(folder)
        return search(resume_run(held_config(folder, sets), folder, on_event=say), as_json=as_json)
    if config_path is None:
        raise UserError("Missing argument 'CONFIG'.", hint="evosplit run configs/quickstart.yaml")
    return search(start_run(load_config(asset(str(config_path)), sets), on_event=say), as_json=as_json)


def search(opened: OpenedRun, *, as_json: bool) -> int:
    """Search to the end or to a budget, with progress and a report; returns the exit code."""
    kept_at_stop(f"go on with: evosplit run --resume {opened.folder}")
    _announce(opened)
    limits = opened.config.search
    shown = opened.config.proposer.kind != "manual"  # the person who answers prompts may watch the terminal
    with RunDisplay(opened.folder, wanted=limits.proposals, wall_s=limits.wall_s, holdout=shown) as display:
        found = run_search(opened, on_progress=display.update)
    say("scoring the winner shape by shape, drawing it and writing the report ...")
    summary = found.summary
    _finish(summary, opened, as_json=as_json)
    if found.reached:
        say(f"\nended after {summary.proposals} of {summary.wanted} proposals by {found.reached}")
    if found.stopped_by:
        say(f"\nstopped after {summary.proposals} of {summary.wanted} proposals by {found.stopped_by}")
        say(f"evosplit run --resume {opened.folder} goes on; a larger budget: --set KEY=VALUE")
        return EXIT_BUDGET
    return _exit_of(summary)


def _exit_of(summary: RunSummary) -> int:
    """Exit code of a finished search: negative if no proposal produced a program."""
    failed = summary.statuses.get(Status.PROPOSER_FAILED, 0)
    empty = failed + sum(summary.statuses.get(s, 0) for s in (Status.NO_ANSWER, Status.FROZEN_CODE))
    if not summary.proposals or empty < summary.proposals:
        return 0
    say(f"\nnone of {summary.proposals} proposals came to a program: evosplit show {summary.path} says why")
    return EXIT_MISSING if failed == summary.proposals else EXIT_NEGATIVE


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
        tokens = predictions(opened.config, judge, evaluation)
        for line in token_lines(tokens):
            tell(line)
        if best.holdout is not None:
            tell(optimism_line(best.holdout, judge.description))
        reach = _reach(opened, best, evaluation)
        for line in reach_lines(reach):
            tell(line)
        with open_journal(summary.path, read_only=False) as journal:  # for the report
            journal.set_meta("predicted_tokens", tokens_text(tokens))
            journal.set_meta("winner_off_grid", "; ".join(filter(None, (r.off_grid_text for r in reach))))
            journal.set_meta("winner_batch_invariant", "; ".join(r.invariance for r in reach))
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


def _reach(opened: OpenedRun, best: Best, evaluation: Evaluation) -> list[Reach]:
    """Scores of the winner beyond the search's shapes; empty, with a note, if the GPU fails during this check.

    Skips measuring in a sweep, whose runs share their GPUs, and within a budget of GPU seconds.
    """
    judge = opened.judge
    own = isinstance(judge, Judge) and isinstance(judge.source, PoolSource) and opened.config.budget.gpu_s is None
    try:
        return reaches(judge, best.source, evaluation, measure=own)
    except MeasureError as error:
        say(f"the winner was not read off the grid: {error}")
        return []


def trust_lines(best: Best) -> list[str]:
    """Lines about the winner's score beyond the shapes of the search."""
    return [line for line in (gap_line(best.train, best.holdout), overfit_line(best.features, best.overfit)) if line]


def _draw(judge: AnyJudge, evaluation: Evaluation, picture: Path, title: str) -> list[Path]:
    """Draw one picture per table; the first keeps the usual file name."""
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
    """Write the run's page; a resumed run replaces it."""
    from evolve.dashboard.report import report
    from evolve.dashboard.views.reader import RunReader

    path = folder / REPORT
    path.write_text(report([RunReader(folder)]), encoding="utf-8")
    return path


def _show_leader(summary: RunSummary, judge: AnyJudge, tell: Callable[[str], None]) -> None:
    """Show the program that leads on the training shapes, where the holdout picked another one."""
    leader, best = summary.leader, summary.best
    if leader is None or best is None or leader.id == best.id:
        return
    # With equal scores on the holdout, the shorter or older program wins.
    worse = leader.holdout is not None and best.holdout is not None and leader.holdout.score < best.holdout.score
    how = "worse" if worse else "no better"
    tell(f"\nleader on the training shapes, {how} on the holdout: proposal {leader.id}")
    _show(leader, judge, judge.evaluate(leader.source), tell)


def _show(program: Best, judge: AnyJudge, evaluation: Evaluation, tell: Callable[[str], None]) -> None:
    """Print the journal's scores, which the recheck may have lowered, and the shapes that became slower."""
    scores = {"train": program.train} | ({"holdout": program.holdout} if program.holdout else {})
    for line in (*score_lines(scores), *trust_lines(program), *regression_lines(judge, evaluation)):
        tell(line)


def spent_text(spending: Spending) -> str:
    """Cost of a run in one line."""
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
        "checked": summary.checked,
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


def replay_command(run: str, runs_dir: Path, *, any_prompt: bool, as_json: bool) -> int:
    """Replay a run into a new folder; exit code 1 if the two differ."""
    recorded = find_run(run, runs_dir)
    with open_journal(recorded, read_only=True) as journal:
        entries = list(journal.entries())
        templates, digest = journal.meta("templates"), journal.meta("table_sha256")
        versions = tuple(int(journal.meta(key) or 1) for key in ("judge_version", "feedback_version"))
        rules = readable_version(journal.meta("judge_version"))
    seeds = [e for e in entries if e.kind == "seed"]
    done = _with_result(entries)
    config = _replaying(recorded, len(done) - len(seeds), any_prompt=any_prompt)
    tables = kept_tables(recorded) or [asset(p) for p in config.table_paths()]
    judge = open_configured_judge(config, tables=tables, version=rules)
    if digest and judge.description["table_sha256"] != digest:
        raise UserError(
            f"{recorded} was judged on another table than {tables[0]}", hint="restore the table of that run"
        )
    if versions != (rules, VERSION):
        return _rejudge(recorded, entries[: len(done)], judge, versions, as_json=as_json)
    folder = new_run_folder(runs_dir, f"replay-{config.name}")
    kept_at_stop(f"{folder} holds what was replayed; the recorded run is as it was")
    keep_tables(tables, folder)
    if templates:
        with open_journal(folder, read_only=False) as journal:
            journal.set_meta("templates", templates)
    say(f"{folder}: {len(done) - len(seeds)} proposals, answered as in {recorded}")
    proposer = _replaying_proposer(config, recorded)
    opened = OpenedRun(config, judge, proposer, [e.source for e in seeds], folder)
    with RunDisplay(folder, wanted=config.search.proposals, wall_s=None) as display:
        run_search(opened, on_progress=display.update)
    left_out = set(PROMPT_COLUMNS if any_prompt else ())
    turns = {*TURN_TEXTS} if any_prompt else set()
    difference = first_difference(recorded, folder, ids=done, without=left_out | turns)
    if as_json:
        same = {"recorded": str(recorded), "replay": str(folder), "proposals": len(done) - len(seeds)}
        emit({**same, "same": not difference, "difference": difference, "not_compared": sorted(left_out)})
    tell = result_printer(as_json=as_json)
    compared = "answers and results" if left_out else "prompts, answers and results"
    if difference:
        tell(f"different: {difference}")
    else:
        tell(f"same {compared} of all {len(done)} programs")
    return EXIT_NEGATIVE if difference else 0


def _rejudge(recorded: Path, entries: list[Entry], judge: AnyJudge, versions: tuple[int, ...], *, as_json: bool) -> int:
    """Judge the programs of a run from an earlier version again; exit code 1 if one differs."""
    say(
        f"{recorded} was made with version {versions[0]} of the judge's rules and {versions[1]} of the feedback, now "
        f"{JUDGE_VERSION} and {VERSION} (see CHANGELOG.md): it is not run again, its programs are judged again, "
        f"with version {judge.description['judge_version']} of the rules"
    )
    found = rejudge(entries, judge)
    if as_json:
        emit({
            "recorded": str(recorded), "replay": None, "proposals": sum(e.kind == "proposal" for e in entries),
            "same": not found.different, "difference": found.different, "not_compared": ["system", "user", "feedback"],
            "judge_version": versions[0], "now_scored": list(found.now_scored),
        })  # fmt: skip
    tell = result_printer(as_json=as_json)
    if found.different:
        tell(f"different: {found.different}")
        return EXIT_NEGATIVE
    tell(f"same programs, decisions and scores of all {found.same} programs that were judged alike")
    if found.now_scored:
        tell(
            f"scored now, refused then for a launch without a recorded latency: {len(found.now_scored)} "
            f"({', '.join(map(str, found.now_scored))})"
        )
    return 0


def _replaying_proposer(config: RunConfig, recorded: Path) -> Proposer:
    """Proposer that returns the recorded answers; expeditions run again, with their tools."""
    was = load_config(recorded / CONFIG_FILE, [])
    while isinstance(was.proposer, ReplayConfig) and (Path(was.proposer.run) / CONFIG_FILE).exists():
        was = load_config(Path(was.proposer.run) / CONFIG_FILE, [])
    assert isinstance(config.proposer, ReplayConfig)
    if not isinstance(was.proposer, AgentConfig):
        return open_proposer(config.proposer)
    from evolve.agent.replayed import ReplayedAgent

    return ReplayedAgent(config.proposer, was)


def _with_result(entries: list[Entry]) -> list[int]:
    """Proposals with a result, from the first on: results are committed in this order."""
    done = [e.id for e in entries if e.status is not None]
    if not any(e.kind == "proposal" and e.status is not Status.PROPOSER_FAILED for e in entries if e.id in done):
        raise UserError("that run holds no answer to replay")
    return done


def _replaying(recorded: Path, proposals: int, *, any_prompt: bool) -> RunConfig:
    config = load_config(recorded / CONFIG_FILE, [])
    replay = ReplayConfig(run=str(recorded.absolute()), prompts="any" if any_prompt else "same")
    search = config.search.model_copy(update={"proposals": proposals, "wall_s": None})
    return config.model_copy(update={"proposer": replay, "search": search, "budget": BudgetConfig()})
