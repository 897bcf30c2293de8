"""Run folders, with journal, configuration, table rows and winner."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.data.evaluation import SplitScore
from evaluators.data.status import Status
from evolve.errors import EXIT_MISSING, UserError
from evolve.journal.entry import WinnerOrder, score_of, winner_order
from evolve.journal.journal import FILE_NAME, Journal, Spending, open_journal
from evolve.journal.packed import has_journal
from evolve.journal.schema import settle

CONFIG_FILE, BEST_FILE, TABLE_FOLDER, LOCK_FILE = "config.yaml", "best.py", "table", "lock"
INTERRUPTED = "interrupted"
"""Value of a journal's `ended` after Ctrl-C; others are `finished`, the limit or error that ended the run, or empty."""
SWEEP_FILE = "sweep.json"
"""File in a folder of several runs (evolve/sweep/)."""


@dataclass(frozen=True, slots=True)
class Best:
    """The winner of a run."""

    id: int
    path: Path
    source: str
    complexity: int
    train: SplitScore
    holdout: SplitScore | None
    features: dict[str, float]
    overfit: bool


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Summary of a run, from its journal alone.

    `best` is the winner by the holdout; `leader` is the best on the training shapes. A large difference between the two
    indicates overfitting. `state` is that of `run_state`; `created_at` is in seconds since the epoch, 0 if unknown.
    `checked` is True if the journal's rows were compared with checksums.
    """

    run: str
    path: Path
    proposals: int
    wanted: int
    statuses: dict[str, int]
    best: Best | None
    leader: Best | None
    spending: Spending
    state: str
    created_at: float
    checked: bool


def new_run_folder(runs_dir: Path, name: str) -> Path:
    """Create a new folder `<name>-<date>-<time>`."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{n}" for n in range(2, 100))):
        folder = runs_dir / f"{name}-{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{folder} cannot be created: {error.strerror}") from error
        return folder
    raise UserError(f"{runs_dir} holds too many runs named {name}-{stamp}")


def _started(folder: Path) -> float:
    """Time of a run's last start; the folder's own time changes whenever its journal is read."""
    config = folder / CONFIG_FILE
    return config.stat().st_mtime if config.exists() else 0.0


def run_folders(runs_dir: Path) -> list[Path]:
    """All runs below a folder, also those of sweeps; folders that this user may not enter hold none."""
    single = (p for p in runs_dir.glob("*") if os.access(p, os.X_OK) and has_journal(p))
    swept = (p.parent for p in runs_dir.glob(f"*/*/{FILE_NAME}") if (p.parent.parent / SWEEP_FILE).exists())
    return [*single, *swept]


def run_labels(folders: Sequence[Path]) -> list[str]:
    """Distinct names of run folders: the folder's name, with as much of its path as necessary.

    Raises:
        UserError: a folder is given twice.
    """
    paths = [folder.resolve() for folder in folders]
    for k, path in enumerate(paths):
        if path in paths[:k]:
            raise UserError(f"the same run twice: {folders[k]}", hint="name each run once")
    labels = []
    for path in paths:
        depth = 1
        while sum(p.parts[-depth:] == path.parts[-depth:] for p in paths) > 1:
            depth += 1
        labels.append("/".join(path.parts[-depth:]))
    return labels


def find_run(text: str, runs_dir: Path) -> Path:
    """Find a run folder by path, by name, or `last`.

    Raises:
        UserError: no such run; the message names those that exist.
    """
    if text == "last":
        found = sorted(run_folders(runs_dir), key=_started)
        if found:
            return found[-1]
    for folder in (Path(text), runs_dir / text):
        if has_journal(folder):
            return folder
        if (folder / SWEEP_FILE).exists():
            runs = sorted(p.parent.name for p in folder.glob(f"*/{FILE_NAME}"))
            hint = f"{text}/{runs[0]}; evosplit ls lists them" if runs else f"evosplit sweep --resume {text}"
            raise UserError(f"{text} is a sweep of several runs: name one of them", hint=hint)
    known = sorted(str(p.relative_to(runs_dir)) for p in run_folders(runs_dir))
    known = known or sorted(map(str, run_folders(Path(text).parent)))
    raise UserError(f"no run {text!r}", hint=f"known: {', '.join(known[-5:])}" if known else "evosplit run starts one")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder against other processes.

    The folder itself is locked, too: if the lock file were removed during a run, a second one could start.

    Raises:
        UserError: another process runs in it, or it cannot be written.
    """
    with contextlib.ExitStack() as opened:
        try:
            file = opened.enter_context((folder / LOCK_FILE).open("w"))
            place = os.open(folder, os.O_RDONLY)
            opened.callback(os.close, place)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}", exit_code=EXIT_MISSING) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _try_lock(place, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(f"another process works in {folder}", hint="wait for it, or stop it") from error
        yield


def _try_lock(place: int, kind: int) -> None:
    """Lock an open file or folder, if the file system supports it: NFS has locks of files alone.

    Raises:
        BlockingIOError: another process has locked it.
    """
    try:
        fcntl.flock(place, kind | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError):
            raise


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically, also if the process is killed.

    Raises:
        UserError: the disk is full, broken or read-only; the old file stays.
    """
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.write_text(text, encoding="utf-8")
        settle(draft)
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise UserError(f"{path} cannot be written: {error.strerror}", exit_code=EXIT_MISSING) from error


def keep_tables(tables: Sequence[Path], folder: Path) -> None:
    """Copy the recorded tables into the run folder, so that the run can be read without the originals.

    Raises:
        UserError: the disk is full, broken or read-only; no part of a copy stays.
    """
    target = folder / TABLE_FOLDER
    if target.exists():
        return
    try:
        if len(tables) == 1:
            shutil.copytree(tables[0], target)
        else:
            for number, table in enumerate(tables, start=1):
                shutil.copytree(table, target / f"{number:02d}")
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        # copytree tries every file, and lists (source, copy, reason) of each that failed.
        why = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
        raise UserError(f"{target} cannot be written: {why}", exit_code=EXIT_MISSING) from error


def kept_tables(folder: Path) -> list[Path]:
    """Folders that `keep_tables` made; empty without any."""
    target = folder / TABLE_FOLDER
    several = sorted(p for p in target.glob("[0-9][0-9]") if p.is_dir())
    return several or ([target] if target.is_dir() else [])


def kept_seeds(folder: Path) -> list[str]:
    """Sources of a run's seeds that have been judged."""
    with open_journal(folder, read_only=True) as journal:
        rows = journal.select(
            "SELECT r.source FROM results r JOIN proposals p ON p.id = r.id WHERE p.kind = 'seed' ORDER BY r.id"
        )
    return [row["source"] for row in rows]


def _best(journal: Journal, index: int, folder: Path) -> Best:
    entry = journal.entry(index)
    assert entry.train is not None
    return Best(
        entry.id,
        folder / BEST_FILE,
        entry.source,
        int(entry.features["complexity"]),
        entry.train,
        entry.holdout,
        entry.features,
        entry.overfit,
    )


def _first(journal: Journal, folder: Path, *, by_holdout: bool) -> Best | None:
    """Program with the best score; ties go to the simpler, then the older."""
    columns = "id, train, holdout, features"
    rows = journal.select(f"SELECT {columns} FROM results WHERE status = ? AND train IS NOT NULL", (Status.OK.value,))

    def order(row: sqlite3.Row) -> WinnerOrder:
        score = score_of(row["holdout"] if by_holdout and row["holdout"] else row["train"])
        assert score is not None
        return winner_order(json.loads(row["features"]), score.score, row["id"])

    found = min(rows, key=order, default=None)
    return None if found is None else _best(journal, found["id"], folder)


def pick_best(journal: Journal, folder: Path) -> Best | None:
    """Pick the winner: the best on the holdout among the rechecked programs, see `winner_order`."""
    return _first(journal, folder, by_holdout=True)


def pick_leader(journal: Journal, folder: Path) -> Best | None:
    """Pick the best program on the training shapes, the search's objective."""
    return _first(journal, folder, by_holdout=False)


def is_running(folder: Path) -> bool:
    """True if another process has locked a run."""
    for path in (folder, folder / LOCK_FILE):
        try:
            place = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            _try_lock(place, fcntl.LOCK_SH)
        except BlockingIOError:
            return True
        finally:
            os.close(place)
    return False


def run_state(folder: Path, *, finished: bool, ended: str | None) -> str:
    """State of a run.

    `finished` is True if all proposals were made; `ended` is the value of that key in its journal, None without it.

    Returns:
        `running`, `finished`, `interrupted` (Ctrl-C), `stopped` (a limit or an error), or `broken off`: its process
        ended without writing a reason.
    """
    if is_running(folder):
        return "running"
    if finished:
        return "finished"
    return {None: "stopped", "": "broken off", INTERRUPTED: "interrupted"}.get(ended, "stopped")


def summarise(folder: Path) -> RunSummary:
    """Read a run's summary.

    Raises:
        UserError: no readable journal.
    """
    with open_journal(folder, read_only=True) as journal, journal.reading():
        counted = journal.select(
            "SELECT r.status, count(*) FROM results r JOIN proposals p ON p.id = r.id WHERE p.kind = 'proposal' "
            "GROUP BY r.status ORDER BY min(r.id)"
        )
        statuses = {Status(status).value: count for status, count in counted}
        meta = {row["key"]: row["value"] for row in journal.select("SELECT key, value FROM meta")}
        done, wanted = sum(statuses.values()), int(meta.get("proposals") or 0)
        return RunSummary(
            run=folder.name,
            path=folder,
            proposals=done,
            wanted=wanted,
            statuses=statuses,
            best=pick_best(journal, folder),
            leader=pick_leader(journal, folder),
            spending=journal.spending(),
            state=run_state(folder, finished=done >= wanted, ended=meta.get("ended")),
            created_at=float(meta.get("created_at") or 0.0),
            checked=journal.checked,
        )


def list_runs(runs_dir: Path) -> tuple[list[RunSummary], dict[Path, UserError]]:
    """Summaries of all runs below a folder, by name, and errors of unreadable ones."""
    found, unreadable = [], {}
    for folder in sorted(run_folders(runs_dir)):
        try:
            found.append(summarise(folder))
        except UserError as error:  # a damaged journal must not hide the others
            unreadable[folder] = error
    return found, unreadable
