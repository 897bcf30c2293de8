"""`evosplit ls`, `show`, `diff`: read runs from their journals."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from pathlib import Path

import typer

from evolve.cli.common import emit, plain, read_program, say, score_json
from evolve.cli.run import summary_json
from evolve.controller import read_journal
from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.journal import Entry, open_journal
from evolve.run_folder import find_run, list_runs, summarise


def ls_command(runs_dir: Path, *, as_json: bool) -> int:
    """One line per run."""
    runs = list_runs(runs_dir)
    if as_json:
        emit({"runs": [summary_json(r) for r in runs]})
        return 0
    for r in runs:
        best = f"best #{r.best.id} {r.best.train.score:.4f}" if r.best else "no score yet"
        typer.echo(f"{r.run}  {r.proposals}/{r.wanted} proposals  {best}  ${r.cost_usd:.2f}")
    if not runs:
        say(f"no runs in {runs_dir}; evosplit run configs/quickstart.yaml starts one")
    return 0


def _line(entry: Entry) -> str:
    score = f"{entry.train.score:.4f}" if entry.train else "      "
    status = entry.status.value if entry.status else "under way"
    note = plain(entry.answer.note) if entry.answer else ""
    parent = "" if entry.parent is None else f"from {entry.parent}"
    return f"{entry.id:5d}  {status:15} {score}  {parent:10} {note}"


def show_command(run: str, proposal: int | None, runs_dir: Path, *, prompt: bool, as_json: bool) -> int:
    """A run's proposals, or one proposal in full."""
    if prompt and proposal is None:
        raise UserError("--prompt needs the number of a proposal", hint=f"evosplit show {run} 1 --prompt")
    folder = find_run(run, runs_dir)
    if proposal is None:
        summary = summarise(folder)
        if as_json:
            emit(summary_json(summary))
            return 0
        for entry in read_journal(folder):
            typer.echo(_line(entry))
        if summary.best:
            say(f"winner #{summary.best.id}: {summary.best.path}")
        return 0
    with open_journal(folder, read_only=True) as journal:
        entry = journal.entry(proposal)
    if as_json:
        emit(entry_json(entry))
    elif prompt:
        answer = entry.answer.text if entry.answer else entry.error
        typer.echo(plain(f"--- system\n{entry.system}\n--- user\n{entry.user}\n--- answer\n{answer}"))
    else:
        typer.echo(_line(entry))
        for text in (entry.message, entry.source, entry.feedback):
            if text:
                typer.echo(f"\n{plain(text.rstrip())}")
    return 0


def entry_json(entry: Entry) -> dict[str, object]:
    """A proposal as JSON."""
    data = asdict(entry)
    data["status"] = entry.status.value if entry.status else None
    data["train"], data["holdout"] = score_json(entry.train), score_json(entry.holdout)
    return data


def _source(text: str, runs_dir: Path) -> str:
    run, mark, index = text.rpartition("#")
    if not mark or Path(text).exists():
        return read_program(Path(text))
    if not index.isdigit():
        raise UserError(f"{text}: expected RUN#ID with a number after #")
    with open_journal(find_run(run, runs_dir), read_only=True) as journal:
        return journal.entry(int(index)).source


def diff_command(one: str, other: str, runs_dir: Path) -> int:
    """Unified diff of two sources."""
    a, b = _source(one, runs_dir), _source(other, runs_dir)
    lines = list(difflib.unified_diff(a.splitlines(), b.splitlines(), one, other, lineterm=""))
    for line in lines:
        typer.echo(plain(line))
    return EXIT_NEGATIVE if lines else 0
