"""Live progress of a run on stderr: a bar in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from evolve.controller import Progress

LINE_EVERY_S = 5.0


def _words(progress: Progress) -> str:
    best = progress.best
    return (
        f"best {best.score:.4f} (#{progress.best_id}), {100 * best.oracle_share:.1f}% of the oracle's gain, "
        f"{progress.failures} failed, {progress.duplicates} duplicates"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d} left"


class RunProgress:
    """Shows what the controller reports; a context manager."""

    def __init__(self) -> None:
        """Choose between bar and lines by what stderr is."""
        self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                MofNCompleteColumn(),
                BarColumn(bar_width=20),
                TextColumn("{task.description}", markup=False),
                TextColumn("{task.fields[left]}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("judging the seeds", total=None, left="")

    def __enter__(self) -> Self:
        """Start the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show the state after a commit."""
        if self._bar is not None:
            self._bar.update(
                self._task,
                total=progress.total,
                completed=progress.done,
                description=_words(progress),
                left=_clock(progress.seconds_left),
            )
        elif time.monotonic() - self._last_line >= LINE_EVERY_S or progress.done == progress.total:
            self._last_line = time.monotonic()
            line = f"{progress.done}/{progress.total} proposals, {_words(progress)}, {_clock(progress.seconds_left)}"
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
