"""Progress of one run on stderr: a live panel on a terminal, otherwise occasional lines."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evaluators.data.evaluation import SplitScore
from evolve.reports.plain_text import plain
from evolve.reports.run_watch import BestSoFar, RunWatch, sparkline
from evolve.search.ledger import SearchProgress

PLAIN_EVERY_S = 5.0
REFRESHES_PER_S = 3
MOST_CAUSES = 3
CURVE_CHARS = 24
NAME_CHARS = len("best on holdout")


class RunDisplay:
    """Display of a run; a context manager around a search. All content is read from the run's journal.

    Example:
        >>> with RunDisplay(Path("runs/mine"), wanted=300, wall_s=None) as display:  # doctest: +SKIP
        ...     run_search(opened, on_progress=display.update)
    """

    def __init__(
        self,
        folder: Path,
        *,
        wanted: int,
        wall_s: float | None,
        holdout: bool = True,
        console: Console | None = None,
    ) -> None:
        """Detect whether stderr is a terminal.

        The folder may have no journal yet; `holdout` is False if a proposing person could read along.
        """
        self._console = console or Console(stderr=True)
        self._watch = RunWatch(folder)
        self._wanted, self._wall_s, self._holdout = wanted, wall_s, holdout
        self._began = time.monotonic()
        self._last = self._began
        self._live = (
            Live(get_renderable=self._panel, console=self._console, refresh_per_second=REFRESHES_PER_S)
            if self._console.is_terminal
            else None
        )

    def __enter__(self) -> RunDisplay:
        """Start the display."""
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        if self._live:
            self._live.stop()

    def update(self, progress: SearchProgress) -> None:
        """Update after a commit; without a terminal, print a line every few seconds and at the end."""
        now = time.monotonic()
        if self._live or (now - self._last < PLAIN_EVERY_S and progress.done < progress.total):
            return
        self._last = now
        self._watch.look()
        self._console.print(self._line(), soft_wrap=True, markup=False, highlight=False)

    def _left(self) -> float | None:
        left = self._watch.seconds_left(self._wanted)
        if left is None or self._wall_s is None:
            return left
        return min(left, max(0.0, self._wall_s - (time.monotonic() - self._began)))

    def _line(self) -> str:
        """State of the run in one line."""
        w = self._watch
        failed = sum(w.causes.values())
        parts = [f"{w.done}/{self._wanted}"]
        if w.leader:
            best = w.leader.train
            share = f"{100 * best.oracle_share:.1f}% of oracle{_missing(best)}"
            parts.append(f"best #{w.leader.id} train {best.score:.4f} ({share})")
        if w.winner and w.winner.holdout and self._holdout:
            parts.append(f"holdout #{w.winner.id} {w.winner.holdout.score:.4f}")
        parts.append(f"failed {failed}, repeated {w.statuses['duplicate']}")
        if w.spending.tokens or w.spending.cost_usd:
            parts.append(f"{w.spending.tokens:,} tokens, ${w.spending.cost_usd:.2f}")
        left = self._left()
        parts.append(f"{clock(time.monotonic() - self._began)}" + (f", {clock(left)} left" if left is not None else ""))
        return "  ".join(parts)

    def _panel(self) -> RenderableType:
        """Live panel: rows of name and value, at most as wide as the terminal."""
        self._watch.look()
        w, rows = self._watch, Table.grid(padding=(0, 2))
        rows.add_column(style="dim", no_wrap=True, min_width=NAME_CHARS)
        rows.add_column(no_wrap=True, overflow="ellipsis", max_width=max(20, self._console.width - NAME_CHARS - 2))
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            f"{w.done} of {self._wanted}",
            ProgressBar(total=max(1, self._wanted), completed=w.done, width=max(10, min(40, self._console.width - 54))),
            self._time_text(),
        )
        rows.add_row("proposals", bar)
        train, holdout = (w.leader.train if w.leader else None), (w.winner.holdout if w.winner else None)
        rows.add_row("best on train", _best_text(w.leader, train, sparkline(w.curve, CURVE_CHARS)))
        if self._holdout:
            rows.add_row("best on holdout", _best_text(w.winner, holdout, ""))
        rows.add_row("outcomes", _outcomes_text(w))
        for (status, cause), count in w.causes.most_common(MOST_CAUSES):
            rows.add_row("", Text(plain(f"{count} x {status}: {cause}"), style="yellow"))
        rows.add_row("spent", f"{w.spending.tokens:,} tokens, ${w.spending.cost_usd:.2f}")
        rows.add_row("now", self._now_text())
        return Group(rows)

    def _time_text(self) -> str:
        left = self._left()
        return f"{clock(time.monotonic() - self._began)}" + (f", {clock(left)} left" if left is not None else "")

    def _now_text(self) -> str:
        w = self._watch
        if w.last_at is None:
            return "scoring the seeds" if w.under_way else "starting"
        silent = time.time() - w.last_at
        ago = f"last result {clock(silent)} ago"
        return f"{w.under_way} under way, {ago}" if w.under_way else ago


def _best_text(best: BestSoFar | None, score: SplitScore | None, curve: str) -> Text:
    if best is None or score is None:
        return Text("nothing scored yet", style="dim")
    text = Text(f"#{best.id}  {score.score:.4f}  {100 * score.oracle_share:.1f}% of the oracle{_missing(score)}")
    return text.append(f"  {curve}", style="cyan") if curve else text


def _missing(best: SplitScore) -> str:
    """Number of shapes that were charged instead of scored, as text."""
    return f", MISSING {best.missing} shapes" if best.missing else ""


def _outcomes_text(watch: RunWatch) -> str:
    return ", ".join(f"{count} {status}" for status, count in watch.statuses.most_common()) or "none yet"


def clock(seconds: float) -> str:
    """Readable duration: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = int(seconds)
    if whole < 90:
        return f"{whole} s"
    if whole < 5400:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
