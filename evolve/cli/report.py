"""`evosplit report`: the dashboard as one file, and its data, pictures and timeline."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import typer

from evolve.cli.common import emit
from evolve.cli.failures import kept_at_stop
from evolve.dashboard.report import report
from evolve.dashboard.views.candidate import candidate
from evolve.dashboard.views.compare import compare
from evolve.dashboard.views.documents import VIEWS, Document
from evolve.dashboard.views.grid import grid, replay
from evolve.dashboard.views.lineage import lineage, story
from evolve.dashboard.views.overview import overview, runs
from evolve.dashboard.views.reader import RunReader, winner_of
from evolve.dashboard.views.recording import Recording
from evolve.dashboard.views.shapes import recording_of, shapes
from evolve.errors import UserError
from evolve.journal.run_folder import find_run, run_labels

DEFAULT = Path("report.html")


def report_command(
    names: list[str],
    output: Path | None,
    runs_dir: Path,
    *,
    view: str | None,
    pictures: Path | None,
    timeline: Path | None,
    force: bool,
) -> int:
    """Write data, pictures or timeline as requested; by default the page."""
    if view is not None:
        if output or pictures or timeline:
            raise UserError("--json prints, and writes no file", hint="leave -o, --pictures and --timeline out")
        emit(dict(document(view, names, runs_dir)))
        return 0
    folders = [find_run(_run_of(name), runs_dir) for name in names]
    readers = [RunReader(folder, label) for folder, label in zip(folders, run_labels(folders), strict=True)]
    if timeline is not None:
        _write_timeline(readers, timeline, force=force)
    if pictures is not None:
        _write_pictures(readers, pictures, force=force)
    if output is not None or (pictures is None and timeline is None):
        _write(output or DEFAULT, report(readers), force=force)
    return 0


def _run_of(name: str) -> str:
    """The run in RUN or RUN#ID."""
    run, mark, index = name.rpartition("#")
    return run if mark and index.isdecimal() else name


def document(view: str, names: list[str], runs_dir: Path) -> Document:
    """The data of one view.

    Raises:
        UserError: no such view, run or proposal, or the wrong number of them.
    """
    if view not in VIEWS:
        raise UserError(f"no view {view!r}", hint=f"one of {', '.join(VIEWS)}")
    if view == "runs":
        folders = [find_run(_run_of(name), runs_dir) for name in names]
        return runs([RunReader(folder, label) for folder, label in zip(folders, run_labels(folders), strict=True)])
    wanted = 2 if view == "compare" else 1
    if len(names) != wanted:
        raise UserError(f"--json {view} takes {wanted} RUN{'s' if wanted > 1 else ''}, got {len(names)}")
    folders = [find_run(_run_of(name), runs_dir) for name in names]
    # Two programs of one run may be compared.
    labels = run_labels(folders) if len({f.resolve() for f in folders}) == len(folders) else ["" for _ in folders]
    chosen = [_chosen(*each) for each in zip(names, folders, labels, strict=True)]
    reader, index, recording, missing = chosen[0]
    match view:
        case "overview":
            return overview(reader, recording)
        case "story":
            return story(reader)
        case "lineage":
            return lineage(reader, replay(reader))
        case "candidate":
            return candidate(reader, index, recording)
        case "shapes":
            return shapes(reader, recording, missing)
        case "grid":
            return grid(reader, replay(reader))
    other, other_index, other_recording, _ = chosen[1]
    return compare((reader, index, recording), (other, other_index, other_recording))


def _chosen(name: str, folder: Path, label: str) -> tuple[RunReader, int, Recording | None, str]:
    """Run, proposal (by default the winner) and table of RUN or RUN#ID."""
    run, mark, index = name.rpartition("#")
    reader = RunReader(folder, label)
    recording, missing = recording_of(reader)
    if mark and run and index.isdecimal():
        return reader, int(index), recording, missing
    winner = winner_of(reader.nodes)
    return reader, winner["id"] if winner else 0, recording, missing


def _write(path: Path, text: str, *, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UserError(f"{path} exists", hint="--force writes over it, -o names another file") from error
    except BaseException as error:
        if not force:  # a torn page would look like one that is kept
            with contextlib.suppress(OSError):
                path.unlink()
        if isinstance(error, OSError):
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        raise
    typer.echo(f"{path}: {len(text.encode()) / 1e6:.1f} MB")


def _write_timeline(readers: list[RunReader], path: Path, *, force: bool) -> None:
    from evolve.dashboard.views.timeline import timeline

    if len(readers) != 1:
        raise UserError(f"--timeline takes one RUN, got {len(readers)}")
    _write(path, json.dumps(timeline(readers[0])), force=force)


def _write_pictures(readers: list[RunReader], folder: Path, *, force: bool) -> None:
    from evolve.dashboard.views.pictures import draw_pictures
    from evolve.reports.figures import FORMATS

    if len(readers) != 1:
        raise UserError(f"--pictures takes one RUN, got {len(readers)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}") from error
    known = sorted(p.name for p in folder.iterdir() if p.suffix[1:] in FORMATS)
    if known and not force:
        raise UserError(f"{folder} holds {', '.join(known)}", hint="--force writes over them")
    kept_at_stop(f"pictures so far are in {folder}; --force draws all")
    for path in draw_pictures(readers[0], recording_of(readers[0])[0], folder):
        typer.echo(str(path))
