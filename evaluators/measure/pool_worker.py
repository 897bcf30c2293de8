"""One GPU of a pool: how its worker is started, and what happened there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from evaluators.data.contract import Setting
from evaluators.measure.errors import MeasureError, MeasureErrorKind, WorkerLost
from evaluators.measure.executor import Channel, Executor, WorkerInfo, killed_after

START_S = 300.0
"""A worker must have loaded its provider and passed its self-test after this long."""

STARTS = 2
"""Workers that may die over their start before their GPU is left out."""

RESTARTS, RESTART_S = 4, 2.0
"""Tries to replace a lost worker, and the pause between two."""


@dataclass(slots=True)
class PoolWorker:
    """One GPU of a pool, its worker, and what happened there.

    Attributes:
        name: the executor's name of the GPU.
        info: its worker's description; None before, and where there is none.
        channel: its worker, or the last that it had.
        starting: whether that worker is being opened.
        lost_at_s: since when it has no worker, by the pool's clock; None while it has one.
        out: why the GPU is left out; empty while it is not.
        lost: workers lost.
        lost_in_a_row: workers lost since one finished a batch.
        launches: launches measured.
        busy_s: seconds in which it had a batch.
    """

    name: str
    info: WorkerInfo | None = None
    channel: Channel | None = None
    starting: bool = False
    lost_at_s: float | None = None
    out: str = ""
    lost: int = 0
    lost_in_a_row: int = 0
    launches: int = 0
    busy_s: float = 0.0

    @property
    def uuid(self) -> str:
        """The GPU's UUID."""
        return self.info.device.uuid if self.info else ""

    @property
    def label(self) -> str:
        """The GPU and where it is, for people."""
        return f"{self.uuid} on {self.info.host}" if self.info else self.name

    def start(
        self,
        executor: Executor,
        settings: Sequence[Setting],
        *,
        seeds: Iterator[int],
        start_s: float,
        pause: Callable[[float], bool],
    ) -> str:
        """Start a worker, another one where the first dies over it; why there is none, or nothing.

        A GPU that has measured before gets more time: what was killed may not have let go of it yet.

        Args:
            executor: where workers come from.
            settings: what the worker is to open and test.
            seeds: one for each try.
            start_s: how long a try may take.
            pause: waits for so many seconds; True when the pool is closing.
        """
        known, why = self.info, ""
        for k in range(RESTARTS if known else STARTS):
            if pause(RESTART_S if k and known else 0.0):
                return "the pool is closing"
            self.channel = None
            self.starting = True
            try:
                self.channel = channel = executor.start(self.name)
                with killed_after(channel, start_s) as late:
                    info = channel.open(settings, seed=next(seeds))
                if known is not None and info.device.uuid != self.uuid:
                    text = f"{self.name}: expected {self.uuid} again, got {info.device.uuid}"
                    raise MeasureError(MeasureErrorKind.UNAVAILABLE, text)
                self.info = info
                return ""
            except WorkerLost as error:
                why = f"{self.label}: {error} while it started"
                if self.channel is not None:
                    # It may live, and hold its GPU: what it said was not understood.
                    self.channel.kill()
                    self.channel.close()
                if self.channel is not None and late.is_set():
                    return f"{self.label}: not ready after {start_s:.0f} s"
            except MeasureError as error:
                why = f"{self.label}: {error}"
                if self.channel is not None:
                    self.channel.close()
                if known is None:
                    break
            finally:
                self.starting = False
        return why
