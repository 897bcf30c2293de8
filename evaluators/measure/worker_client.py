"""One worker without a pool: paired readings, other kernels, and decisions of a compiled library."""

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
"""Time limit of a worker's reply: loading libraries from a cold network disk takes minutes, everything else seconds."""

KEPT = "what was measured is kept, go on with the same command"

T = TypeVar("T")


class GpuWorker:
    """Client of a worker, with one setting open and one request running at a time. Thread-safe."""

    def __init__(self, channel: Channel, *, answer_s: float = ANSWER_S) -> None:
        """Wrap a started worker; tests shorten `answer_s`."""
        self._channel, self._answer_s = channel, answer_s
        self._lock = threading.Lock()
        self._setting: Setting | None = None

    def _answer(self, op: str, request: Callable[[], T]) -> T:
        """Wait for an answer.

        Raises:
            MeasureError: the worker reports a failure, died, or hung and was killed.
        """
        with self._lock, killed_after(self._channel, self._answer_s) as late:
            try:
                return request()
            except WorkerLost as error:
                self._channel.kill()  # a running worker with a malformed reply cannot be used again
                why = f"the GPU worker did not answer for {self._answer_s:.0f} s and was ended"
                message = f"{why if late.is_set() else error} during {op}; {KEPT}"
                raise MeasureError(MeasureErrorKind.LOST, message) from error

    def _ask(self, op: str, read: Callable[[Any], T], **arguments: Any) -> T:
        """Call a method of the bench, and parse its result.

        Raises:
            MeasureError: see `_answer`; of kind lost also if the result cannot be parsed.
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
        """Load the provider; returns the GPU and the build. Launches nothing."""
        info = self._answer("open", lambda: self._channel.open([setting], seed=seed, self_test=False))
        self._setting = setting
        return info.device, info.builds[setting.name]

    def measure(self, shape: DecodeShape, decisions: Sequence[AnyDecision], *, rounds: int) -> dict[str, Any]:
        """Measure latencies of decisions on one shape, in paired rounds; see `GpuBench.measure`."""
        assert self._setting is not None
        job = Job(self._setting, shape, tuple(decisions), rounds)

        def request() -> dict[str, Any]:
            (reply,) = self._channel.run([job])
            return measured_of(reply, job)

        return self._answer("measure", request)

    def pairs(self, shape: DecodeShape, one: AnyDecision, other: AnyDecision, orders: Sequence[str]) -> list[Block]:
        """Measure blocks of paired readings over fresh buffers; outputs are checked before and after.

        An arm with num_splits 0 is the library's own decision.
        """
        rows = {"one": one.as_row(), "other": other.as_row()}
        return self._ask("pairs", _blocks, shape=shape.as_json(), orders=list(orders), **rows)

    def peers(self, shape: DecodeShape) -> dict[str, Any]:
        """Latencies of other kernels in microseconds, or the reason for none, by name."""
        return self._ask("peers", dict, shape=shape.as_json())

    def kernels(self, shape: DecodeShape, decision: AnyDecision) -> list[str]:
        """Names of the kernels of one call, from the profiler."""
        return self._ask("kernels", list, shape=shape.as_json(), decision=decision.as_row())

    def compiled(self, shape: DecodeShape, num_splits: int = 0) -> dict[str, Any]:
        """Read the compiled library's own decision: num_splits, and in metadata mode the live splits.

        A `num_splits` other than 0 is passed to the library.
        """
        return self._ask("compiled", dict, shape=shape.as_json(), num_splits=num_splits)

    def copy_bandwidth(self) -> float:
        """Measure bytes read plus written per microsecond by a large copy on the device."""
        return self._ask("copy_bandwidth", float)

    def close(self) -> None:
        """End the worker."""
        self._channel.close()


def _blocks(rows: Any) -> list[Block]:
    return [Block.from_json(row) for row in rows]


def open_worker(library: str = "") -> GpuWorker:
    """Start a worker on the current GPU; `library` names a build of the kernels, instead of the installed one."""
    return GpuWorker(ProcessChannel(library=library))
