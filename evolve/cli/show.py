"""`evosplit ls`, `show`, `diff`: read runs from their journals."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from pathlib import Path

import typer

from evolve.cli.common import emit, say, score_json, score_lines
from evolve.cli.run import PICTURE, summary_json, trust_lines
from evolve.errors import EXIT_NEGATIVE, EXIT_USAGE, UserError
from evolve.journal.journal import Entry, open_journal
from evolve.journal.run_folder import RunSummary, find_run, list_runs, summarise
from evolve.journal.turns import Turn
from evolve.reports.plain_text import plain
from evolve.reports.run_tables import diff_text, print_table, proposals_table, runs_table, stdout_console
from evolve.run import read_program
from evolve.search.controller import read_journal

TURN_CHARS = 90


def ls_command(runs_dir: Path, *, as_json: bool) -> int:
    """Print a table of runs, the latest first."""
    runs, unreadable = list_runs(runs_dir)
    if as_json:
        problems = [{"path": str(path), "problem": str(error)} for path, error in unreadable.items()]
        emit({"runs": [summary_json(r) for r in runs], "unreadable": problems})
        return EXIT_USAGE if unreadable else 0
    if runs:
        console = stdout_console()
        print_table(runs_table(runs, runs_dir, console.width), console)
    for path, error in unreadable.items():
        say(f"{path.relative_to(runs_dir)}  cannot be read: {plain(str(error))}")
    if not runs and not unreadable:
        say(f"no runs in {runs_dir}; evosplit run configs/quickstart.yaml starts one")
    return EXIT_USAGE if unreadable else 0


def show_command(run: str, proposal: int | None, runs_dir: Path, *, prompt: bool, as_json: bool) -> int:
    """Print a run's proposals, or one proposal in full."""
    if prompt and proposal is None:
        raise UserError("--prompt needs the number of a proposal", hint=f"evosplit show {run} 1 --prompt")
    folder = find_run(run, runs_dir)
    if proposal is None:
        summary = summarise(folder)
        if as_json:
            emit(summary_json(summary))
            return 0
        console = stdout_console()
        print_table(proposals_table(read_journal(folder), console.width), console)
        _print_outcome(summary)
        if not summary.checked:
            say("an earlier version wrote rows of this journal without checksums: damage to them may go unnoticed")
        return 0
    with open_journal(folder, read_only=True) as journal:
        entry = journal.entry(proposal)
        turns = journal.turns("id = ?", (proposal,))
    if as_json:
        emit(entry_json(entry))
    elif prompt:
        answer = entry.answer.text if entry.answer else entry.error
        typer.echo(plain(f"--- system\n{entry.system}\n--- user\n{entry.user}\n--- answer\n{answer}"))
    else:
        console = stdout_console()
        print_table(proposals_table([entry], console.width), console)
        steps = "\n".join(map(_turn_line, turns))
        for name, text in (
            ("expedition", steps),
            ("message", entry.message),
            ("program", entry.source),
            ("feedback", entry.feedback),
        ):
            if text:
                console.print(f"\n{name}", style="bold")
                typer.echo(plain(text.rstrip()))
    return 0


def _turn_line(turn: Turn) -> str:
    """A step of an agent's expedition in one line."""
    said = " ".join(turn.content.split())
    return f"{turn.step:3} {turn.kind.value:10} {turn.name:14} {said[:TURN_CHARS]}"


def _print_outcome(summary: RunSummary) -> None:
    best = summary.best
    if best is None:
        return
    typer.echo()
    scores = {"train": best.train} | ({"holdout": best.holdout} if best.holdout else {})
    for line in (*score_lines(scores), *trust_lines(best)):
        typer.echo(line)
    typer.echo(f"\nwinner     {best.path} (proposal {best.id}, {best.complexity} syntax nodes)")
    if (summary.path / PICTURE).exists():
        typer.echo(f"picture    {summary.path / PICTURE}")


def entry_json(entry: Entry) -> dict[str, object]:
    """A proposal as JSON."""
    data = asdict(entry)
    data["status"] = entry.status.value if entry.status else None
    data["train"], data["holdout"] = score_json(entry.train), score_json(entry.holdout)
    return data


def diff_command(one: str, other: str, runs_dir: Path) -> int:
    """Print a unified diff of two sources."""
    a, b = read_program(one, runs_dir), read_program(other, runs_dir)
    lines = list(difflib.unified_diff(a.splitlines(), b.splitlines(), one, other, lineterm=""))
    if lines:
        stdout_console().print(diff_text(lines), soft_wrap=True)
    return EXIT_NEGATIVE if lines else 0
