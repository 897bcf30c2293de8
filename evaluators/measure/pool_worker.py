"""One GPU of a pool: start of its worker, and its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from evaluators.data.contract import Setting
from evaluators.measure.errors import MeasureError, MeasureErrorKind, WorkerLost
from evaluators.measure.executor import Channel, Executor, WorkerInfo, killed_after

START_S = 300.0
"""Time for a worker to load its provider and pass its self-test."""

STARTS = 2
"""Workers that may die during their start before their GPU is left out."""

RESTARTS, RESTART_S = 4, 2.0
"""Tries to replace a lost worker, and the pause between them."""


@dataclass(slots=True)
class PoolWorker:
    """One GPU of a pool, its worker, and statistics.

    Attributes:
        name: the executor's name of the GPU.
        info: its worker's description; None without a tested worker.
        channel: its present or last worker.
        starting: True while that worker is being opened.
        lost_at_s: time of the loss of its worker, by the pool's clock; None while it has one.
        out: reason why the GPU is left out; empty if it is in use.
        lost_in_a_row: workers lost since the last finished batch.
        busy_s: seconds with a running batch.
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
        """UUID of the GPU."""
        return self.info.device.uuid if self.info else ""

    @property
    def label(self) -> str:
        """GPU and host, for messages."""
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
        """Start a worker, with retries; returns the reason of a failure, otherwise an empty text.

        A GPU that has measured before gets more time, since a killed worker may not have released it yet.

        There is a try of at most `start_s` for each of the seeds; `pause` waits for a number of seconds, and returns
        True if the pool is closing.
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
                    # It may still run and occupy its GPU: only its reply was not understood.
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
