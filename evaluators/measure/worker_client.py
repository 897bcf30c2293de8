"""One worker for what needs no pool: paired readings, other kernels, and what a compiled library decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from evaluators.data.contract import DecodeShape, Setting
from evaluators.data.device import DeviceRecord
from evaluators.data.launches import AnyDecision
from evaluators.measure.errors import MeasureError, MeasureErrorKind, WorkerLost
from evaluators.measure.executor import SHOWN, Channel, Job, killed_after, measured_of
from evaluators.measure.local import ProcessChannel
from evaluators.measure.pairing import Block

ANSWER_S = 300.0
"""A worker that has not answered after this long is given up: loading libraries from a cold network disk takes
minutes, everything else seconds."""

KEPT = "what was measured is kept, go on with the same command"

T = TypeVar("T")


class GpuWorker:
    """A worker behind a channel, with one setting open at a time. One request at a time; thread-safe."""

    def __init__(self, channel: Channel, *, answer_s: float = ANSWER_S) -> None:
        """Use a worker that has been started; tests wait less for an answer."""
        self._channel, self._answer_s = channel, answer_s
        self._lock = threading.Lock()
        self._setting: Setting | None = None

    def _answer(self, op: str, request: Callable[[], T]) -> T:
        """Wait for an answer.

        Raises:
            MeasureError: the worker reports a failure, died, or hangs and was ended.
        """
        with self._lock, killed_after(self._channel, self._answer_s) as late:
            try:
                return request()
            except WorkerLost as error:
                self._channel.kill()  # one that lives, but was not understood, cannot be asked again
                why = f"the GPU worker did not answer for {self._answer_s:.0f} s and was ended"
                message = f"{why if late.is_set() else error} during {op}; {KEPT}"
                raise MeasureError(MeasureErrorKind.LOST, message) from error

    def _ask(self, op: str, read: Callable[[Any], T], **arguments: Any) -> T:
        """Call a method of the bench, and read what it says.

        Raises:
            MeasureError: see `_answer`; of kind lost also where the answer cannot be read.
        """
        assert self._setting is not None
        setting = self._setting
        found = self._answer(op, lambda: self._channel.ask(op, setting, **arguments))
        try:
            return read(found)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self._channel.kill()
            message = (
                f"the GPU worker answered {op} with {str(found)[:SHOWN]!r}, which cannot be read ({error!r}); {KEPT}"
            )
            raise MeasureError(MeasureErrorKind.LOST, message) from error

    def open(self, setting: Setting, *, seed: int) -> tuple[DeviceRecord, str]:
        """Load the provider; returns the GPU and the build. Launches nothing yet."""
        info = self._answer("open", lambda: self._channel.open([setting], seed=seed, self_test=False))
        self._setting = setting
        return info.device, info.builds[setting.name]

    def measure(self, shape: DecodeShape, decisions: Sequence[AnyDecision], *, rounds: int) -> dict[str, Any]:
        """Latencies of decisions on one shape, in paired rounds; see `GpuBench.measure`."""
        assert self._setting is not None
        job = Job(self._setting, shape, tuple(decisions), rounds)

        def request() -> dict[str, Any]:
            (reply,) = self._channel.run([job])
            return measured_of(reply, job)

        return self._answer("measure", request)

    def pairs(self, shape: DecodeShape, one: AnyDecision, other: AnyDecision, orders: Sequence[str]) -> list[Block]:
        """Blocks of paired readings over fresh buffers; outputs are checked before and after.

        An arm with num_splits 0 is what the library decides by itself.
        """
        rows = {"one": one.as_row(), "other": other.as_row()}
        return self._ask("pairs", _blocks, shape=shape.as_json(), orders=list(orders), **rows)

    def peers(self, shape: DecodeShape) -> dict[str, Any]:
        """By name of another kernel: its latencies in microseconds, or the reason why there are none."""
        return self._ask("peers", dict, shape=shape.as_json())

    def kernels(self, shape: DecodeShape, decision: AnyDecision) -> list[str]:
        """Names of the kernels that one call runs, as the profiler reports them."""
        return self._ask("kernels", list, shape=shape.as_json(), decision=decision.as_row())

    def compiled(self, shape: DecodeShape, num_splits: int = 0) -> dict[str, Any]:
        """What the compiled library decides by itself, num_splits and in metadata mode the live splits.

        With `num_splits` it is told that number, as users tell it.
        """
        return self._ask("compiled", dict, shape=shape.as_json(), num_splits=num_splits)

    def copy_bandwidth(self) -> float:
        """Bytes read plus written per microsecond by a large copy on the device."""
        return self._ask("copy_bandwidth", float)

    def close(self) -> None:
        """End the worker."""
        self._channel.close()


def _blocks(rows: Any) -> list[Block]:
    return [Block.from_json(row) for row in rows]


def open_worker(library: str = "") -> GpuWorker:
    """Start a worker on the current GPU; `library` names another build of the kernels than the installed one."""
    return GpuWorker(ProcessChannel(library=library))
