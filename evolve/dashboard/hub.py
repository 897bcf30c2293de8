"""The hub: runs of a live dashboard, each read once for all clients."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from evolve.dashboard.views.candidate import candidate
from evolve.dashboard.views.documents import Document, ListedRun, Runs
from evolve.dashboard.views.grid import GridReplay, grid, replay
from evolve.dashboard.views.lineage import lineage, story
from evolve.dashboard.views.overview import overview, run_line
from evolve.dashboard.views.reader import RunReader
from evolve.dashboard.views.recording import Recording
from evolve.dashboard.views.shapes import recording_of, shapes
from evolve.dashboard.views.timeline import timeline
from evolve.errors import UserError
from evolve.journal.run_folder import run_folders, run_labels

LOOK_EVERY_S = 0.4
"""Shortest interval between two reads of a journal, for any number of clients."""

READ_EVERY_S = 5.0
"""Interval between two reads of a live run's launches."""


class FollowedRun:
    """One run and its documents, at most `LOOK_EVERY_S` old. Thread-safe."""

    def __init__(self, folder: Path, name: str = "") -> None:
        """Read a run; see `RunReader`.

        Raises:
            UserError: no readable journal.
        """
        self.reader = RunReader(folder, name)
        self._changes = 1
        self._made_at = time.time_ns()
        self._guard = threading.RLock()
        self._looked_at = time.monotonic()
        self._replay: GridReplay | None = None
        self._recording: tuple[Recording | None, str] | None = None
        self._read_at = (0, 0.0)
        self._line: tuple[str, ListedRun] | None = None

    def look(self) -> str:
        """Read the journal again if due; returns the revision, which changes with every change."""
        with self._guard:
            if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
                if self.reader.refresh():
                    self._changes += 1
                self._looked_at = time.monotonic()
            return f"{self._made_at}.{self._changes}"

    def _table(self) -> tuple[Recording | None, str]:
        # A run writes its weighting after its folder; before that nothing can be read. Live runs keep measuring.
        lacking = self._recording is None or (self._recording[0] is None and self.reader.running)
        grown = (
            self.reader.meta.get("measure") == "live"
            and self._read_at[0] != self._changes
            and time.monotonic() - self._read_at[1] >= READ_EVERY_S
        )
        if self._recording is None or lacking or grown:
            self._recording = recording_of(self.reader)
            self._read_at = (self._changes, time.monotonic())
        return self._recording

    def _replayed(self) -> GridReplay | None:
        self._replay = replay(self.reader, self._replay)
        return self._replay

    def document(self, view: str, index: int | None = None) -> Document | dict[str, Any]:
        """Document of a view.

        Raises:
            UserError: no such proposal.
            KeyError: no such view.
        """
        with self._guard:
            self.look()
            recording, missing = self._table()
            if view == "candidate" and index is not None:
                return candidate(self.reader, index, recording)
            match view:
                case "overview":
                    return overview(self.reader, recording)
                case "lineage":
                    return lineage(self.reader, self._replayed())
                case "grid":
                    return grid(self.reader, self._replayed())
                case "story":
                    return story(self.reader)
                case "shapes":
                    return shapes(self.reader, recording, missing)
                case "timeline.json":
                    return timeline(self.reader)
            raise KeyError(view)

    def line(self) -> ListedRun:
        """Summary of the run, computed once per change."""
        with self._guard:
            revision = self.look()
            if self._line is None or self._line[0] != revision:
                self._line = (revision, run_line(self.reader))
            return self._line[1]

    def search(self, text: str) -> list[int]:
        """Proposals whose program, answer or message contains a text."""
        return self.reader.search(text)

    def changes(self, since: int, revision: str) -> dict[str, Any] | None:
        """Changes for a client that has every proposal below `since` as settled; None without changes.

        Args:
            since: number of settled proposals that the client has; too large a number means all of them.
            revision: the client's last revision, or any other text.
        """
        with self._guard:
            now = self.look()
            if now == revision:
                return None
            start = max(0, min(since, self.reader.settled))
            whole = lineage(self.reader, self._replayed())
            return {
                "revision": now,
                "settled": self.reader.settled,
                "since": start,
                "nodes": whole["nodes"][start:],
                "overview": overview(self.reader, self._table()[0]),
                "winner": whole["winner"],
                "leader": whole["leader"],
                "path": whole["path"],
                "migrations": whole["migrations"],
            }


class Hub:
    """Runs by name: given ones, or all below a folder, including later ones."""

    def __init__(self, folders: Sequence[Path], runs_dir: Path | None) -> None:
        """Assign names to the runs.

        Raises:
            UserError: a run cannot be read, or is given twice.
        """
        self._runs_dir = runs_dir
        self._runs: dict[str, FollowedRun] = {}
        self._guard = threading.Lock()
        self._listed_at = -LOOK_EVERY_S
        for folder, name in zip(folders, run_labels(folders), strict=True):
            self._runs[name] = FollowedRun(folder, name)

    def names(self) -> list[str]:
        """Names of the runs, the latest first."""
        with self._guard:
            if self._runs_dir is not None and time.monotonic() - self._listed_at >= LOOK_EVERY_S:
                self._listed_at = time.monotonic()
                for folder in run_folders(self._runs_dir):
                    name = folder.relative_to(self._runs_dir).as_posix()
                    if name not in self._runs:
                        try:
                            self._runs[name] = FollowedRun(folder, name)
                        except UserError:
                            continue  # being created, or damaged: the others are still shown
            return sorted(self._runs, key=lambda n: (-self._runs[n].reader.created_at, n))

    def lines(self) -> Runs:
        """Document of all runs."""
        found = []
        for name in self.names():
            with suppress(UserError, OSError):  # just removed
                found.append(self._runs[name].line())
        return Runs(view="runs", runs=found)

    def warm(self) -> None:
        """Prepare the documents of the latest run in the background."""
        names = self.names()
        if names:
            threading.Thread(target=self._runs[names[0]].document, args=("lineage",), daemon=True).start()

    def run(self, name: str) -> FollowedRun | None:
        """Look up a run by name; names are never used as paths."""
        return self._runs.get(name)
