"""`evosplit sweep`, and `evosplit run` with several configurations: many runs, one display, one summary."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evaluators.latencies.table import read_table
from evolve.assets import asset
from evolve.cli.common import emit, result_printer, say
from evolve.cli.failures import kept_at_stop
from evolve.cli.options import named
from evolve.cli.run import REPORT
from evolve.config import load_config
from evolve.errors import UserError
from evolve.journal.journal import Spending
from evolve.journal.run_folder import BEST_FILE, CONFIG_FILE, locked, new_run_folder, write_whole
from evolve.prompts.templates import load_templates
from evolve.reports.plain_text import plain
from evolve.run import check_resumable, open_configured_proposer, read_seeds, require_sandbox
from evolve.sweep.conductor import LOG_FILE, Conductor, RunState, State
from evolve.sweep.folder import Sweep, find_sweep, read_sweep
from evolve.sweep.plan import Member, plan_runs, plan_sweep
from evolve.sweep.pool import shared_pool
from evolve.sweep.summary import Spread, SweepSummary, Variant, summarise, summary_json, write_summary

if TYPE_CHECKING:
    from evaluators.data.evaluation import SplitScore

PLAIN_EVERY_S = 10.0

NAME_CHARS = 24
"""Longer labels of runs may be broken into lines."""

COLOURS = {State.RUNNING: "cyan", State.STOPPING: "yellow", State.DONE: "green", State.BUDGET: "yellow",
           State.INTERRUPTED: "yellow", State.FAILED: "red"}  # fmt: skip
SHOWN_FIRST = (State.FAILED, State.STOPPING, State.RUNNING, State.INTERRUPTED, State.BUDGET, State.WAITING, State.DONE)
"""Order of runs on a terminal that is too low for all: active ones first."""


class SweepDisplay:
    """Live table of all runs on stderr; a context manager."""

    def __init__(self) -> None:
        """Detect whether stderr is a terminal."""
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._height = console.height
        self._last = 0.0
        self._known: dict[str, State] = {}

    def __enter__(self) -> SweepDisplay:
        """Start the display."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last table on the screen."""
        if self._live:
            self._live.stop()

    def update(self, states: Sequence[RunState]) -> None:
        """Update the progress of all runs."""
        if self._live:
            # Title, heading, rules and the line that counts hidden runs.
            self._live.update(progress_table(states, rows=max(3, self._height - 6)), refresh=True)
            return
        for state in states:
            before = self._known.get(state.member.label, State.WAITING)
            if state.state is not before and state.state is not State.STOPPING:
                say(f"{state.member.label}: {state_text(state.state, state.trouble)}{_figures(state)}")
            self._known[state.member.label] = state.state
        now = time.monotonic()
        running = [s for s in states if s.state in (State.RUNNING, State.STOPPING)]
        if running and now - self._last >= PLAIN_EVERY_S:
            if self._last:
                say(f"{headline(states)}: " + "; ".join(f"{s.member.label} {_brief(s)}" for s in running))
            self._last = now


def headline(states: Sequence[RunState]) -> str:
    """Number of runs in each state."""
    counts = Counter(s.state for s in states)
    parts = [f"{counts[state]} {state.value}" for state in State if counts[state]]
    return f"{len(states)} runs: {', '.join(parts)}"


def state_text(state: State, trouble: str) -> str:
    """State of a run, with the reason of a failure."""
    return plain(f"{state.value}: {trouble}" if trouble else state.value)


def progress_table(states: Sequence[RunState], *, rows: int) -> Table:
    """Table of the runs that fit on the screen: active ones are preferred, and shown in the order of the sweep."""
    chosen = sorted(range(len(states)), key=lambda i: (SHOWN_FIRST.index(states[i].state), i))[:rows]
    left = len(states) - len(chosen)
    stopping = any(s.state is State.STOPPING for s in states)
    table = Table(
        title=headline(states),
        title_justify="left",
        caption=("" if not left else f"and {left} more; ")
        + ("Ctrl-C again kills them; journals stay whole" if stopping else "Ctrl-C stops all cleanly"),
        caption_justify="left",
        box=None,
    )
    longest = max((len(states[i].member.label) for i in chosen), default=0)
    table.add_column("run", overflow="fold", no_wrap=longest <= NAME_CHARS)
    for name in ("proposals", "best\ntrain", "winner\ntrain", "holdout", "of\noracle", "spent"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state")  # narrower than its texts where there is no room
    for index in sorted(chosen):
        state = states[index]
        s, held = state.standing, _held(state)
        table.add_row(
            state.member.label,
            f"{s.done}/{state.wanted}",
            _score(s.leader.train if s.leader else None),
            _score(s.winner.train if s.winner else None),
            _score(held),
            f"{100 * held.oracle_share:.1f}%" if held else "",
            short_spending(s.spending),
            Text(
                state_text(state.state, state.trouble),
                COLOURS.get(state.state, "dim"),
                no_wrap=True,
                overflow="ellipsis",
            ),
        )
    return table


def _held(state: RunState) -> SplitScore | None:
    """The winner's holdout score, hidden where a person who answers prompts may watch."""
    winner = state.standing.winner
    return winner.holdout if winner and state.member.config.proposer.kind != "manual" else None


def _score(score: SplitScore | None) -> str:
    return f"{score.score:.4f}" if score else ""


def short_spending(spending: Spending) -> str:
    """Dollars, GPU seconds or tokens, as available; otherwise the number of answers."""
    parts = [f"${spending.cost_usd:.2f}"] if spending.cost_usd else []
    parts += [f"{spending.gpu_s:.0f} s GPU"] if spending.gpu_s else []
    parts += [f"{spending.tokens:,} tokens"] if spending.tokens and not parts else []
    return ", ".join(parts) or f"{spending.calls} calls"


def _brief(state: RunState) -> str:
    s = state.standing
    text = f"{s.done}/{state.wanted}"
    return text if s.leader is None else f"{text} train {s.leader.train.score:.4f}"


def _figures(state: RunState) -> str:
    s = state.standing
    if s.winner is None or state.state is State.RUNNING:
        return f", {s.done} of {state.wanted} proposals" if s.done else ""
    held = f", holdout {shown.score:.4f}" if (shown := _held(state)) else ""
    return f", {s.done} of {state.wanted} proposals, winner #{s.winner.id} train {s.winner.train.score:.4f}{held}"


def sweep_command(
    config: Path | None,
    sets: list[str],
    seeds: str | None,
    resume: str | None,
    runs_dir: Path,
    *,
    name: str | None,
    jobs: int | None,
    as_json: bool,
) -> int:
    """Start or resume a sweep over seeds and values; returns the worst exit code of its runs."""
    if resume is not None:
        if config is not None or seeds is not None or name is not None:
            raise UserError("--resume takes the sweep's own configurations", hint="leave CONFIG, --seeds, --name out")
        return resume_command(find_sweep(resume, runs_dir), sets, jobs=jobs, as_json=as_json)
    if config is None:
        raise UserError("Missing argument 'CONFIG'.", hint="evosplit sweep configs/quickstart.yaml --seeds 0..9")
    members = plan_sweep(config, [*sets, *named(name)], seeds)
    return _begin(members, f"{members[0].config.name}-sweep", jobs=jobs, as_json=as_json)


def runs_command(configs: Sequence[Path], sets: list[str], *, name: str | None, jobs: int | None, as_json: bool) -> int:
    """Start a run of each configuration; returns the worst of their exit codes."""
    members = plan_runs(configs, sets)
    # The folder's name follows the rules for names of runs.
    folder = "runs" if name is None else load_config(asset(str(configs[0])), [*sets, *named(name)]).name
    return _begin(members, folder, jobs=jobs, as_json=as_json)


def resume_command(path: Path, sets: list[str], *, jobs: int | None, as_json: bool) -> int:
    """Run the unfinished members of a sweep; returns the worst exit code."""
    check_resumable(sets)
    _check_jobs(jobs)
    sweep = read_sweep(path)
    for text in sets:
        key = text.partition("=")[0]
        if any(f"{key}=" in member.variant for member in sweep.members):
            raise UserError(f"--set {text}: the runs of this sweep differ in {key}", hint="start a new sweep")
    if sets:
        sweep = sweep.overridden(sets)
    with shared_pool(sweep.unfinished(sets), say) as socket:
        return _conduct(sweep, sets, socket, jobs=jobs, as_json=as_json)


def _begin(members: list[Member], name: str, *, jobs: int | None, as_json: bool) -> int:
    _check_jobs(jobs)
    _check(members)
    with shared_pool({m.label: m.config for m in members}, say) as socket:
        sweep = Sweep(new_run_folder(Path(members[0].config.runs_dir), name), tuple(members))
        return _conduct(sweep, [], socket, jobs=jobs, as_json=as_json)


def _check_jobs(jobs: int | None) -> None:
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: at least 1", hint="default: the number of cores")


def _check(members: Sequence[Member]) -> None:
    """Raise on mistakes in seeds, proposers, templates or tables before a folder is made."""
    require_sandbox()
    tables: set[str] = set()
    for member in members:
        config = member.config
        read_seeds(config)
        open_configured_proposer(config)
        load_templates(config.prompts, config.judge.setting, agent=config.proposer.kind == "agent")
        if config.judge.measure != "live":
            tables |= set(config.table_paths())
    for table in sorted(tables):
        read_table(asset(table))


def _conduct(sweep: Sweep, sets: list[str], socket: str, *, jobs: int | None, as_json: bool) -> int:
    jobs = jobs or _cores()
    kept_at_stop(f"go on with: evosplit sweep --resume {sweep.path}")
    with locked(sweep.path):
        sweep.write()
        with SweepDisplay() as display:
            conductor = Conductor(sweep, jobs=jobs, overrides=sets, socket=socket, on_look=display.update)
            open_runs = sum(s.state is State.WAITING for s in conductor.states)
            say(
                f"{sweep.path}: {len(sweep.members)} runs, {open_runs} to do, up to "
                f"{min(jobs, len(sweep.members))} at once"
            )
            code = conductor.run() if open_runs else 0
        summary = summarise(sweep, conductor.states)
        files = write_summary(summary, code)
        page = _write_report(summary)
    _tell(summary, [*files, *([page] if page else [])], result_printer(as_json=as_json))
    if code:
        say(f"\nevosplit sweep --resume {sweep.path} goes on with what is unfinished")
    if as_json:
        emit(summary_json(summary, code))
    return code


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_report(summary: SweepSummary) -> Path | None:
    """Write one page over all runs that have begun."""
    from evolve.dashboard.report import report
    from evolve.dashboard.views.reader import RunReader

    begun = [RunReader(r.path) for r in summary.runs if r.train is not None]
    if not begun:
        return None
    path = summary.path / REPORT
    write_whole(path, report(begun))
    return path


def _tell(summary: SweepSummary, files: Sequence[Path], tell: Callable[[str], None]) -> None:
    tell("")
    _tell_runs(summary, tell)
    for variant in summary.variants:
        if variant.runs > 1:
            _tell_variant(variant, tell)
    for winner in summary.winners:
        best = winner.path / BEST_FILE
        rivals = sum(r.judged_on == winner.judged_on and r.train is not None for r in summary.runs)
        among = f"among {rivals} runs: {winner.label}" if rivals > 1 else f"in {winner.label}"
        tell(f"\nwinner, picked by the holdout {among}, proposal {winner.winner}")
        tell(f"  {best}")
        if rivals > 1:
            tell(f"  the best of {rivals} looks better on the holdout than it is; the sealed shapes do not know it:")
            tell(f"  evosplit evaluate {best} --config {winner.path / CONFIG_FILE} --sealed")
    tell("")
    for path in files:
        tell(f"written    {path}")


def _tell_variant(variant: Variant, tell: Callable[[str], None]) -> None:
    """Print medians and quartiles; leaves out budgets that were not used."""
    f, d = variant.figures, variant.judged_on
    unfinished = f" ({variant.unfinished} unfinished)" if variant.unfinished else ""
    tell(f"\n{variant.variant}, {d.get('workload')}, {d.get('setting')}: {variant.runs} runs{unfinished}, "
        "median [quartiles] of their winners")  # fmt: skip
    held = f", holdout {_percent(f['holdout_share'])}" if "holdout_share" in f else ""
    tell(f"  share of the oracle  train {_percent(f['train_share'])}{held}")
    tell(f"  regressions          {_number(f['regressions'])}")
    spent = [f"look-ups {_number(f['look_ups'])}"] if f["look_ups"].most else []
    spent += [f"tokens {_number(f['tokens'])}"] if f["tokens"].most else []
    spent += [f"${f['cost_usd'].median:.2f}"] if f["cost_usd"].most else []
    spent += [f"GPU seconds {_number(f['gpu_s'])}"] if f["gpu_s"].most else []
    tell(f"  spent by a run       {', '.join(spent) or 'nothing'}")


def _tell_runs(summary: SweepSummary, tell: Callable[[str], None]) -> None:
    width = max(len(r.label) for r in summary.runs)
    tell(f"{'run':{width}}  proposals   train  of oracle  holdout  of oracle  slower  spent, state")
    for r in summary.runs:
        train = f"{r.train.score:7.4f}{100 * r.train.oracle_share:10.1f}%" if r.train else " " * 18
        held = f"{r.holdout.score:9.4f}{100 * r.holdout.oracle_share:10.1f}%" if r.holdout else " " * 20
        slower = sum(s.regressions for s in (r.train, r.holdout) if s) if r.train else ""
        note = "" if r.state is State.DONE else f", {state_text(r.state, r.trouble)}"
        note = ", not begun" if r.state is State.WAITING and not r.proposals else note
        tell(f"{r.label:{width}}  {f'{r.proposals}/{r.wanted}':>9} {train}{held}{slower:>8}  "
            f"{short_spending(r.spending)}{note}")  # fmt: skip
    for r in summary.runs:
        if r.state is State.FAILED:
            tell(f"{r.label}: its output is in {r.path / LOG_FILE}")


def _percent(s: Spread) -> str:
    return f"{100 * s.median:.1f}% [{100 * s.low:.1f}, {100 * s.high:.1f}]"


def _number(s: Spread) -> str:
    return f"{s.median:,.0f} [{s.low:,.0f}, {s.high:,.0f}]"
