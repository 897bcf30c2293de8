"""Tables of runs and proposals for a terminal, and coloured diffs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from evaluators.data.status import Status
from evolve.journal.journal import Entry
from evolve.journal.run_folder import RunSummary
from evolve.reports.plain_text import plain, rationale_of

WIDE = 10_000
"""Width of lines for a file or a pipe, large enough to avoid cutting or wrapping."""

STATE_STYLES = {
    "running": "cyan",
    "finished": "green",
    "interrupted": "yellow",
    "stopped": "yellow",
    "broken off": "red",
}
RATIONALE_CHARS = 200

BESIDE_NAMES = 60
"""Columns that a line of `ls` takes beside a run's name, with the start."""


def stdout_console() -> Console:
    """Console for results: coloured and as wide as the terminal, or plain and unbounded in a pipe."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=WIDE)
    return console


def print_table(table: Table, console: Console) -> None:
    """Print a table; in a pipe without trailing blanks."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _table(**options: bool) -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", **options)  # type: ignore[arg-type]


def runs_table(runs: Sequence[RunSummary], runs_dir: Path, width: int) -> Table:
    """Runs with state, start, proposals, the winner's scores and cost; the latest first, as in the dashboard.

    Names are what other verbs take: where they would not fit into one line, the start is left out, which they end with.
    """
    table = _table()
    table.add_column("run", overflow="fold")
    names = {run.path: plain(run.path.relative_to(runs_dir).as_posix()) for run in runs}
    roomy = max(map(len, names.values()), default=0) + BESIDE_NAMES <= width
    for name in ("state", *(("started",) if roomy else ()), "done", "winner", "holdout", "oracle", "cost"):
        justify: JustifyMethod = "left" if name in ("state", "started") else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    for run in sorted(runs, key=lambda r: -r.created_at):
        best = run.best
        held = (best.holdout or best.train) if best else None
        started = time.strftime("%m-%d %H:%M", time.localtime(run.created_at)) if run.created_at else ""
        table.add_row(
            names[run.path],
            Text(run.state, style=STATE_STYLES.get(run.state, "")),
            *((started,) if roomy else ()),
            f"{run.proposals}/{run.wanted}",
            f"#{best.id}" if best else "",
            f"{held.score:.4f}" if held else "",
            f"{100 * held.oracle_share:.1f}%" if held else "",
            _cost(run),
        )
    return table


def _cost(run: RunSummary) -> str:
    spent = run.spending
    if spent.cost_usd:
        return f"${spent.cost_usd:.2f}"
    if spent.gpu_s:
        return f"{spent.gpu_s:.0f} s GPU"
    return f"{spent.tokens:,} tok" if spent.tokens else "-"


def proposals_table(entries: Iterable[Entry], width: int) -> Table:
    """Proposals with status and scores; the last column has the change, or the reason for a missing score."""
    table = _table()
    fixed = (("#", 5), ("status", 15), ("train", 6), ("holdout", 7), ("from", 5))
    for name, chars in fixed:
        justify: JustifyMethod = "left" if name == "status" else "right"
        table.add_column(name, justify=justify, no_wrap=True, min_width=chars)
    room = max(20, width - sum(chars + 1 for _, chars in fixed))
    table.add_column("edit or message", no_wrap=True, overflow="ellipsis", max_width=room)
    for entry in entries:
        status = entry.status.value if entry.status else "running"
        style = (
            "green" if entry.status is Status.OK else "dim" if entry.status in (None, Status.DUPLICATE) else "yellow"
        )
        table.add_row(
            str(entry.id),
            Text(status, style=style),
            f"{entry.train.score:.4f}" if entry.train else "",
            f"{entry.holdout.score:.4f}" if entry.holdout else "",
            "" if entry.parent is None else f"#{entry.parent}",
            plain(_what(entry)),
        )
    return table


def _what(entry: Entry) -> str:
    """Description of a proposal in one line."""
    if entry.status not in (None, Status.OK):
        return (entry.message or entry.error).strip().split("\n")[0]
    if entry.kind == "seed":
        return "seed"
    note = entry.answer.note if entry.answer else ""
    if not note and entry.answer:
        note = rationale_of(entry.answer.text[:RATIONALE_CHARS])
    if entry.spent.look_ups:
        note = f"{note} ({entry.spent.look_ups:,} look-ups)".lstrip()
    if entry.overfit:
        note = f"OVERFIT {note}"
    return f"MISSING {entry.train.missing} shapes {note}" if entry.train and entry.train.missing else note


def diff_text(lines: Iterable[str]) -> Text:
    """Unified diff in the usual colours."""
    styles = (("+++", "bold"), ("---", "bold"), ("@@", "cyan"), ("+", "green"), ("-", "red"))
    text = Text()
    for line in lines:
        style = next((style for start, style in styles if line.startswith(start)), "")
        text.append(plain(line) + "\n", style=style)
    text.rstrip()
    return text
