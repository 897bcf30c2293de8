"""Places for workers, what happens in them, and how a worker is put into one."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from evaluators.data.contract import Setting
from evaluators.measure.executor import Answer, Channel, Executor, Hello, WorkerLost
from evaluators.measure.worker_client import MeasureError, Trouble

START_S = 300.0
"""A worker must have loaded its provider and passed its self-test after this long."""

STARTS = 2
"""Workers that may die over their start before their seat is left out."""

RESTARTS, RESTART_S = 4, 2.0
"""Tries to replace a lost worker, and the pause between two."""


@dataclass(slots=True)
class Seat:
    """A place for a worker, and what happened there.

    Attributes:
        name: the executor's name of it.
        hello: what its worker said; None before, and where there is none.
        channel: its worker, or the last that it had.
        starting: whether that worker is being opened.
        fenced_s: since when its worker is given up, by the pool's clock, until there is another.
        out: why it is left out; empty while it is not.
        lost: workers lost.
        in_a_row: workers lost since one finished a lease.
        launches: launches measured.
        busy_s: seconds in which its worker had a lease.
    """

    name: str
    hello: Hello | None = None
    channel: Channel | None = None
    starting: bool = False
    fenced_s: float | None = None
    out: str = ""
    lost: int = 0
    in_a_row: int = 0
    launches: int = 0
    busy_s: float = 0.0

    @property
    def uuid(self) -> str:
        """The GPU's UUID."""
        return self.hello.device.uuid if self.hello else ""

    @property
    def label(self) -> str:
        """The GPU and where it is, for people."""
        return f"{self.uuid} on {self.hello.host}" if self.hello else self.name


class Inbox:
    """Where the answers to one call of `measure` arrive."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.open: set[int] = set()

    def some(self) -> list[Answer]:
        """Wait for at least one answer; all that have come."""
        found = [self.answers.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self.answers.get_nowait())
        return found


def _too_late(channel: Channel, late: threading.Event) -> None:
    late.set()
    channel.kill()


def start_worker(
    executor: Executor,
    seat: Seat,
    settings: Sequence[Setting],
    *,
    seeds: Iterator[int],
    start_s: float,
    pause: Callable[[float], bool],
) -> str:
    """Put a worker into a seat, a second one where the first dies over it; why there is none, or nothing.

    A GPU that has measured before gets more time: what was killed may not have let go of it yet.

    Args:
        executor: where workers come from.
        seat: gets channel and hello.
        settings: what the worker is to open and test.
        seeds: one for each try.
        start_s: how long a try may take.
        pause: waits for so many seconds; True when the pool is closing.
    """
    why = ""
    for k in range(RESTARTS if seat.hello else STARTS):
        if pause(RESTART_S if k and seat.hello else 0.0):
            return "the pool is closing"
        channel: Channel | None = None
        timer: threading.Timer | None = None
        late = threading.Event()
        try:
            seat.starting = True
            seat.channel = channel = executor.start(seat.name)
            timer = threading.Timer(start_s, _too_late, (channel, late))
            timer.daemon = True
            timer.start()
            hello = channel.open(settings, seed=next(seeds))
            if seat.hello is not None and hello.device.uuid != seat.uuid:
                raise MeasureError(
                    Trouble.UNAVAILABLE, f"{seat.name}: expected {seat.uuid} again, got {hello.device.uuid}"
                )
            seat.hello = hello
            return ""
        except WorkerLost as error:
            why = f"{seat.label}: {error} while it started"
            if late.is_set():
                return f"{seat.label}: not ready after {start_s:.0f} s"
        except MeasureError as error:
            why = f"{seat.label}: {error}"
            if channel is not None:
                channel.close()
            if not seat.hello:
                break
        finally:
            seat.starting = False
            if timer is not None:
                timer.cancel()
    return why
