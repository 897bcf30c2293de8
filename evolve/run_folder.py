"""Run folders: where a run keeps its journal, configuration, table rows and winner."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.evaluation import SplitScore
from evaluators.status import Status
from evolve.errors import EXIT_MISSING, UserError
from evolve.journal import FILE_NAME, Entry, Spending, open_journal

CONFIG_FILE, BEST_FILE, TABLE_FOLDER, LOCK_FILE = "config.yaml", "best.py", "table", "lock"
SWEEP_FILE = "sweep.json"
"""In a folder that holds several runs (evolve/sweep/)."""


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
    memorised: bool


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in short, from its journal alone.

    `best` is the winner, which the holdout picked; `leader` is ahead on the training shapes alone. Where the
    two are far apart, the search has learnt the training shapes by heart.
    """

    run: str
    path: Path
    proposals: int
    wanted: int
    statuses: dict[str, int]
    best: Best | None
    leader: Best | None
    spending: Spending


def new_run_folder(runs_dir: Path, name: str) -> Path:
    """A fresh folder `<name>-<date>-<time>`, never one that exists."""
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
    """When a run last started; the folder's own time changes whenever its journal is read."""
    config = folder / CONFIG_FILE
    return config.stat().st_mtime if config.exists() else 0.0


def run_folders(runs_dir: Path) -> list[Path]:
    """Every run below a folder, also those of sweeps."""
    single = (p.parent for p in runs_dir.glob(f"*/{FILE_NAME}"))
    swept = (p.parent for p in runs_dir.glob(f"*/*/{FILE_NAME}") if (p.parent.parent / SWEEP_FILE).exists())
    return [*single, *swept]


def find_run(text: str, runs_dir: Path) -> Path:
    """A run folder by path, by name, or `last`.

    Raises:
        UserError: no such run; names those that exist.
    """
    if text == "last":
        found = sorted(run_folders(runs_dir), key=_started)
        if found:
            return found[-1]
    for folder in (Path(text), runs_dir / text):
        if (folder / FILE_NAME).exists():
            return folder
        if (folder / SWEEP_FILE).exists():
            runs = sorted(p.parent.name for p in folder.glob(f"*/{FILE_NAME}"))
            hint = f"{text}/{runs[0]}; evosplit ls lists them" if runs else f"evosplit sweep --resume {text}"
            raise UserError(f"{text} is a sweep of several runs: name one of them", hint=hint)
    known = sorted(str(p.relative_to(runs_dir)) for p in run_folders(runs_dir))
    raise UserError(f"no run {text!r}", hint=f"known: {', '.join(known[-5:])}" if known else "evosplit run starts one")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes off a run folder.

    Raises:
        UserError: another process runs in it, or it cannot be written.
    """
    try:
        opened = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}", exit_code=EXIT_MISSING) from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process works in {folder}", hint="wait for it, or stop it") from error
        yield


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is always the old or the new one, also when the process is killed.

    Raises:
        UserError: the disk is full, broken or read-only; the old file stays.
    """
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise UserError(f"{path} cannot be written: {error.strerror}", exit_code=EXIT_MISSING) from error


def keep_tables(tables: Sequence[Path], folder: Path) -> None:
    """Copy the recorded tables into the run folder, so that the run can be read without the originals."""
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
        raise UserError(f"{target} cannot be written: {error}", exit_code=EXIT_MISSING) from error


def kept_tables(folder: Path) -> list[Path]:
    """Where `keep_tables` put them; empty when the folder holds none."""
    target = folder / TABLE_FOLDER
    several = sorted(p for p in target.glob("[0-9][0-9]") if p.is_dir())
    return several or ([target] if target.is_dir() else [])


def _scored(entries: list[Entry]) -> list[Entry]:
    return [e for e in entries if e.status is Status.OK and e.train is not None]


def _best(entry: Entry, folder: Path) -> Best:
    return Best(
        entry.id,
        folder / BEST_FILE,
        entry.source,
        int(entry.features["complexity"]),
        _train(entry),
        entry.holdout,
        entry.features,
        entry.memorised,
    )


def pick_best(entries: list[Entry], folder: Path) -> Best | None:
    """The winner: the best on holdout, which the search never sees; ties to the simpler, then older."""

    def order(entry: Entry) -> tuple[float, float, int]:
        score = entry.holdout.score if entry.holdout else _train(entry).score
        return (-score, entry.features["complexity"], entry.id)

    found = min(_scored(entries), key=order, default=None)
    return None if found is None else _best(found, folder)


def pick_leader(entries: list[Entry], folder: Path) -> Best | None:
    """The best on the training shapes, which is what the search climbs."""
    found = min(_scored(entries), key=lambda e: (-_train(e).score, e.features["complexity"], e.id), default=None)
    return None if found is None else _best(found, folder)


def _train(entry: Entry) -> SplitScore:
    assert entry.train is not None
    return entry.train


def summarise(folder: Path) -> RunSummary:
    """Read a run's summary.

    Raises:
        UserError: no journal that can be read.
    """
    with open_journal(folder, read_only=True) as journal:
        entries = list(journal.entries())
        wanted = int(journal.meta("proposals") or 0)
        spending = journal.spending()
    proposals = [e for e in entries if e.kind == "proposal"]
    done = [e for e in proposals if e.status is not None]
    return RunSummary(
        run=folder.name,
        path=folder,
        proposals=len(done),
        wanted=wanted,
        statuses=dict(Counter(e.status.value for e in done if e.status)),
        best=pick_best(entries, folder),
        leader=pick_leader(entries, folder),
        spending=spending,
    )


def list_runs(runs_dir: Path) -> list[RunSummary]:
    """Summaries of all runs below a folder whose journal can be read, by name."""
    found = []
    for folder in sorted(run_folders(runs_dir)):
        # One journal that cannot be read must not hide the others; `show` says what is wrong with it.
        with contextlib.suppress(UserError):
            found.append(summarise(folder))
    return found
