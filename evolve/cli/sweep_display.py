"""The progress of a sweep on stderr: one table on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evolve.cli.common import plain, say
from evolve.journal.journal import Spending
from evolve.sweep.conductor import RunState, State

if TYPE_CHECKING:
    from evaluators.data.evaluation import SplitScore

PLAIN_EVERY_S = 10.0
COLOURS = {State.RUNNING: "cyan", State.STOPPING: "yellow", State.DONE: "green", State.BUDGET: "yellow",
           State.INTERRUPTED: "yellow", State.FAILED: "red"}  # fmt: skip
SHOWN_FIRST = (State.FAILED, State.STOPPING, State.RUNNING, State.INTERRUPTED, State.BUDGET, State.WAITING, State.DONE)
"""Where a terminal is too low for all runs, those that do something come first."""


class SweepDisplay:
    """One view of all runs; a context manager, since the table has to be taken down."""

    def __init__(self) -> None:
        """Look at what stderr is."""
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._height = console.height
        self._last = 0.0
        self._known: dict[str, State] = {}

    def __enter__(self) -> SweepDisplay:
        """Begin to show."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last table on the screen."""
        if self._live:
            self._live.stop()

    def update(self, states: Sequence[RunState]) -> None:
        """Show where all runs are."""
        if self._live:
            # Title, heading, rules and the line of those that are left out.
            self._live.update(progress_table(states, rows=max(3, self._height - 6)), refresh=True)
            return
        for state in states:
            before = self._known.get(state.member.label, State.WAITING)
            if state.state is not before and state.state is not State.STOPPING:
                say(f"{state.member.label}: {state_text(state.state, state.trouble)}{_figures(state)}")
            self._known[state.member.label] = state.state
        now = time.monotonic()
        running = [s for s in states if s.state in (State.RUNNING, State.STOPPING)]
        if running and now - self._last >= PLAIN_EVERY_S:
            if self._last:
                say(f"{headline(states)}: " + "; ".join(f"{s.member.label} {_brief(s)}" for s in running))
            self._last = now


def headline(states: Sequence[RunState]) -> str:
    """How many runs are in which state."""
    counts = Counter(s.state for s in states)
    parts = [f"{counts[state]} {state.value}" for state in State if counts[state]]
    return f"{len(states)} runs: {', '.join(parts)}"


def state_text(state: State, trouble: str) -> str:
    """What a run does, and why it failed."""
    return plain(f"{state.value}: {trouble}" if trouble else state.value)


def progress_table(states: Sequence[RunState], *, rows: int) -> Table:
    """The table: as many runs as fit, those that matter most first, in the order of the sweep."""
    chosen = sorted(range(len(states)), key=lambda i: (SHOWN_FIRST.index(states[i].state), i))[:rows]
    left = len(states) - len(chosen)
    stopping = any(s.state is State.STOPPING for s in states)
    table = Table(
        title=headline(states),
        title_justify="left",
        caption=("" if not left else f"and {left} more; ")
        + ("Ctrl-C again kills them; journals stay whole" if stopping else "Ctrl-C stops all cleanly"),
        caption_justify="left",
        box=None,
    )
    table.add_column("run", overflow="fold")
    for name in ("proposals", "best train", "winner train", "holdout", "of oracle", "spent"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", overflow="ellipsis", no_wrap=True)
    for index in sorted(chosen):
        state = states[index]
        s = state.standing
        held = s.winner_holdout
        table.add_row(
            state.member.label,
            f"{s.done}/{state.wanted}",
            _score(s.train),
            _score(s.winner_train),
            _score(held),
            f"{100 * held.oracle_share:.1f}%" if held else "",
            short_spending(s.spending),
            Text(state_text(state.state, state.trouble), style=COLOURS.get(state.state, "dim")),
        )
    return table


def _score(score: SplitScore | None) -> str:
    return f"{score.score:.4f}" if score else ""


def short_spending(spending: Spending) -> str:
    """Dollars, GPU seconds or tokens, whichever there are; else the number of answers."""
    parts = [f"${spending.cost_usd:.2f}"] if spending.cost_usd else []
    parts += [f"{spending.gpu_s:.0f} s GPU"] if spending.gpu_s else []
    parts += [f"{spending.tokens:,} tokens"] if spending.tokens and not parts else []
    return ", ".join(parts) or f"{spending.calls} calls"


def _brief(state: RunState) -> str:
    s = state.standing
    text = f"{s.done}/{state.wanted}"
    return text if s.train is None else f"{text} train {s.train.score:.4f}"


def _figures(state: RunState) -> str:
    s = state.standing
    if s.winner_train is None or state.state is State.RUNNING:
        return f", {s.done} of {state.wanted} proposals" if s.done else ""
    held = f", holdout {s.winner_holdout.score:.4f}" if s.winner_holdout else ""
    return f", {s.done} of {state.wanted} proposals, winner #{s.winner} train {s.winner_train.score:.4f}{held}"
