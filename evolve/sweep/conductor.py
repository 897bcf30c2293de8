"""Conductor of a sweep: starts its runs as processes, follows their journals, stops them together."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType

from evolve.errors import EXIT_BUDGET, EXIT_INTERRUPTED, EXIT_MISSING, EXIT_NEGATIVE, EXIT_USAGE
from evolve.reports.run_watch import RunWatch
from evolve.sweep.folder import Sweep
from evolve.sweep.plan import Member

LOG_FILE = "log.txt"
LOOK_EVERY_S = 0.25
LOG_TAIL_BYTES = 4096

WORST_FIRST = (EXIT_NEGATIVE, EXIT_MISSING, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_BUDGET)
"""Exit codes of runs in order of severity; a sweep ends with the worst. 1 means a run that crashed or was killed."""


class State(StrEnum):
    """State of a run of a sweep."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"
    DONE = "done"
    BUDGET = "at its budget"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(slots=True)
class RunState:
    """One run as the conductor knows it.

    Attributes:
        wanted: number of proposals to make.
        standing: progress in its journal.
        code: exit code of its process; None before it has ended.
        trouble: reason of a failure, in a line.
    """

    member: Member
    wanted: int
    state: State
    standing: RunWatch
    code: int | None = None
    trouble: str = ""


class _Child:
    """A run's process. Its standard input stays open; the run stops when this process ends."""

    def __init__(self, sweep: Sweep, member: Member, socket: str, overrides: Sequence[str]) -> None:
        folder = sweep.folder(member)
        folder.mkdir(exist_ok=True)
        self.log = folder / LOG_FILE
        self.told = False
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "evolve.cli.sweep_child", str(sweep.path), member.label, socket, *overrides],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # The conductor alone passes Ctrl-C on, once.
                start_new_session=True,
            )

    def stop(self) -> None:
        """Request a clean stop, once: a second Ctrl-C would interrupt it."""
        if self.told:
            return
        self.told = True
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it at once; its journal stays whole."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def close(self) -> None:
        """Close its input, after its end."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()


class Conductor:
    """Runs the members of a sweep, at most `jobs` at once."""

    def __init__(
        self,
        sweep: Sweep,
        *,
        jobs: int,
        overrides: list[str],
        socket: str = "",
        on_look: Callable[[Sequence[RunState]], None] = lambda _: None,
    ) -> None:
        """Read the state of all runs.

        At most `jobs` processes run at once. `overrides` are `--set` texts for every run, also for resumed ones;
        `socket` is the source of latencies of live judges, empty for recorded tables; `on_look` gets the state of all
        runs a few times a second.

        Raises:
            UserError: the configuration of a resumed run cannot be read.
        """
        self._sweep, self._jobs, self._overrides, self._socket, self._on_look = sweep, jobs, overrides, socket, on_look
        self._children: dict[str, _Child] = {}
        self._stops = 0
        self.states = [self._found(m) for m in sweep.members]

    def _found(self, member: Member) -> RunState:
        config = self._sweep.config(member, self._overrides)
        standing = RunWatch(self._sweep.folder(member))
        standing.look()
        state = State.DONE if standing.finished(config) else State.WAITING
        return RunState(member, config.search.proposals, state, standing)

    def run(self) -> int:
        """Run until every run has ended, or Ctrl-C has stopped them; returns the worst exit code.

        The first Ctrl-C (or SIGTERM) lets runs stop cleanly and starts no more; the second kills them.
        """
        with _interruptible(self._stop):
            try:
                while self._step():
                    time.sleep(LOOK_EVERY_S)
            finally:
                for child in self._children.values():  # none, unless this method failed
                    child.stop()
                    child.close()
        codes = {s.code for s in self.states} | ({EXIT_INTERRUPTED} if self._stops else set())
        return next((code for code in WORST_FIRST if code in codes), 0)

    def _stop(self) -> None:
        self._stops += 1  # `_step` does the rest: a child may be starting just now

    def _step(self) -> bool:
        """Start runs, and check which have ended; returns True while some are left."""
        for state in self.states:
            label = state.member.label
            if state.state is State.WAITING and not self._stops and len(self._children) < self._jobs:
                self._children[label] = _Child(self._sweep, state.member, self._socket, self._overrides)
                state.state = State.RUNNING
            child = self._children.get(label)
            if child is None:
                continue
            code = child.process.poll()  # before the look: a journal that has ended is read to its end
            state.standing.look()
            if self._stops:
                state.state = State.STOPPING
                child.stop() if self._stops == 1 else child.kill()
            if code is not None:
                del self._children[label]
                child.close()
                self._ended(state, code, child.log)
        self._on_look(self.states)
        waiting = not self._stops and any(s.state is State.WAITING for s in self.states)
        return bool(self._children) or waiting

    def _ended(self, state: RunState, code: int, log: Path) -> None:
        interrupted = code in (EXIT_INTERRUPTED, -signal.SIGINT) or (self._stops > 1 and code == -signal.SIGKILL)
        if interrupted:
            state.code, state.state = EXIT_INTERRUPTED, State.INTERRUPTED
        elif code == 0:
            state.code, state.state = 0, State.DONE
        elif code == EXIT_BUDGET:
            state.code, state.state, state.trouble = code, State.BUDGET, stopped_by(log)
        else:
            known = code in (EXIT_USAGE, EXIT_MISSING)
            state.code, state.state = code if known else EXIT_NEGATIVE, State.FAILED
            state.trouble = f"killed by {signal.Signals(-code).name}" if code < 0 else last_error(log)


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            return [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return []


def last_error(log: Path) -> str:
    """Reason of a run's failure: its `error:` line, or the last line of a traceback."""
    lines = _tail(log)
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (told or lines or ["no output"])[-1]


def stopped_by(log: Path) -> str:
    """The budget that ended a run, from the end of its output."""
    told = [line for line in _tail(log) if line.startswith(("stopped after", "error: "))]
    return told[-1].removeprefix("error: ") if told else ""


@contextlib.contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP call `stop` instead of ending this process; `nohup` stays in force."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    hung_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, *hung_up)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
