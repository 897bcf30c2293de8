"""Programs named on the command line: a path, or RUN#ID for a proposal of a run."""

from __future__ import annotations

from pathlib import Path

from evolve.errors import UserError

RUNS_DIR = Path("runs")
"""Where verbs that take no configuration look for runs; a run elsewhere is named by its path."""


def read_program(text: str) -> str:
    """Source of a program.

    Raises:
        UserError: no such file, run or proposal, or not text.
    """
    run, mark, number = text.rpartition("#")
    if mark and run and not Path(text).exists():
        return _proposal(run, number)
    from evolve.assets import asset

    path = asset(text)
    if path.is_dir():
        raise UserError(f"{text} is a folder, expected a program", hint=f"for example {path}/best.py")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{text} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{text} is not UTF-8 text (byte {error.start})") from error


def _proposal(run: str, number: str) -> str:
    from evolve.journal import open_journal
    from evolve.run_folder import find_run

    folder = find_run(run, RUNS_DIR)
    if number == "best":
        from evolve.run_folder import summarise

        best = summarise(folder).best
        if best is None:
            raise UserError(f"{folder.name} has no winner yet", hint=f"evosplit run --resume {folder}")
        return best.source
    if not number.isdigit():
        raise UserError(f"{run}#{number}: expected the number of a proposal, or best", hint=f"evosplit show {run}")
    with open_journal(folder, read_only=True) as journal:
        entry = journal.entry(int(number))
    if not entry.source:
        why = entry.status.value if entry.status else "not answered yet"
        raise UserError(f"proposal {number} of {folder.name} holds no program ({why})")
    return entry.source
