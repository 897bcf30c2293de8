"""The GPU worker: a process of its own that measures, and never sees candidate code.

Requests and replies are lines of JSON: shapes and decisions go in, readings come out. What breaks in there (out
of memory, a lost GPU, a wrong output) comes back as a `MeasureError` with a kind; the store, the journal and the
candidates live in other processes.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Any, Protocol

from evaluators.data.contract import Decision, DecodeShape, Setting
from evaluators.data.device import DeviceRecord
from evaluators.measure.pairing import Block

GOODBYE_S = 20.0
ANSWER_S = 300.0
"""A worker that has not answered after this long is given up: loading libraries from a cold network disk takes
minutes, everything else seconds."""

KEPT = "what was measured is kept, go on with the same command"
CHILD = "evaluators.measure.worker_process"


class Trouble(StrEnum):
    """Why a measurement failed."""

    UNAVAILABLE = "unavailable"
    """No GPU, no provider, MIG, another process on the GPU: nothing can be measured here."""
    WRONG = "wrong"
    """An output disagreed with the reference."""
    MEMORY = "memory"
    """The GPU's memory does not hold this shape."""
    REFUSED = "refused"
    """The library refused the call."""
    LOST = "lost"
    """The GPU or the worker stopped answering."""
    DEADLY = "deadly"
    """Several workers of a pool were lost over this launch."""


class MeasureError(Exception):
    """A measurement failed; what was measured before is kept."""

    def __init__(self, kind: Trouble, message: str) -> None:
        """Keep the kind and what to tell the user."""
        super().__init__(message)
        self.kind = kind


class Worker(Protocol):
    """What measures: the GPU worker, or a simulated one in tests."""

    def open(self, setting: Setting, *, seed: int) -> tuple[DeviceRecord, str]:
        """Load the provider; returns the GPU and the build. Launches nothing yet."""
        ...

    def measure(self, shape: DecodeShape, decisions: Sequence[Decision], *, rounds: int) -> dict[str, Any]:
        """Latencies of decisions on one shape, in paired rounds: `MeasureReply` as a mapping."""
        ...

    def pairs(self, shape: DecodeShape, one: Decision, other: Decision, orders: Sequence[str]) -> list[Block]:
        """Blocks of paired readings over fresh buffers; outputs are checked before and after.

        An arm with num_splits 0 is what the library decides by itself.
        """
        ...

    def peers(self, shape: DecodeShape) -> dict[str, Any]:
        """By name of another kernel: its latencies in microseconds, or the reason why there are none."""
        ...

    def kernels(self, shape: DecodeShape, decision: Decision) -> list[str]:
        """Names of the kernels that one call runs, as the profiler reports them."""
        ...

    def compiled(self, shape: DecodeShape, num_splits: int = 0) -> dict[str, Any]:
        """What the compiled library decides by itself, num_splits and in metadata mode the live splits.

        With `num_splits` it is told that number, as users tell it.
        """
        ...

    def copy_bandwidth(self) -> float:
        """Bytes read plus written per microsecond by a large copy on the device."""
        ...

    def close(self) -> None:
        """Let go of the GPU."""
        ...


def shape_json(shape: DecodeShape) -> dict[str, Any]:
    """A shape as plain data."""
    return asdict(shape)


def shape_of(data: dict[str, Any]) -> DecodeShape:
    """Inverse of `shape_json`."""
    return DecodeShape(**{**data, "live_seqlens": tuple(data["live_seqlens"])})


class GpuWorker:
    """Client of the worker process. One request at a time; thread-safe."""

    def __init__(self, command: Sequence[str] = (), *, answer_s: float = ANSWER_S) -> None:
        """Start the process; `command` replaces it in tests, which also wait less for an answer."""
        self._answer_s = answer_s
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            list(command) or [sys.executable, "-m", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C must not tear a measurement; the worker ends when its stdin does.
            start_new_session=True,
        )

    def ask(self, op: str, **arguments: Any) -> Any:
        """Send a request and wait for its answer.

        Raises:
            MeasureError: the worker reports trouble, died, or hangs and was ended.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with self._lock:
            hung = threading.Event()
            timer = threading.Timer(self._answer_s, self._give_up, (hung,))
            timer.daemon = True
            timer.start()
            try:
                process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except (BrokenPipeError, ValueError):
                line = ""
            finally:
                timer.cancel()
            if not line.endswith("\n"):
                raise MeasureError(Trouble.LOST, f"the GPU worker {self._end(hung)} during {op}; {KEPT}")
        reply = json.loads(line)
        if "error" in reply:
            raise MeasureError(Trouble(reply["error"]), reply["message"])
        return reply["ok"]

    def _give_up(self, hung: threading.Event) -> None:
        hung.set()
        self._process.kill()

    def _end(self, hung: threading.Event) -> str:
        """How the process ended; waits for it."""
        code = self._process.wait()
        if hung.is_set():
            return f"did not answer for {self._answer_s:.0f} s and was ended"
        return f"was killed by signal {-code}" if code < 0 else f"ended (exit code {code})"

    def open(self, setting: Setting, *, seed: int) -> tuple[DeviceRecord, str]:
        """See `Worker.open`."""
        reply = self.ask("open", setting=asdict(setting), seed=seed)
        return DeviceRecord(**reply["device"]), reply["build"]

    def measure(self, shape: DecodeShape, decisions: Sequence[Decision], *, rounds: int) -> dict[str, Any]:
        """See `Worker.measure`."""
        reply: dict[str, Any] = self.ask(
            "measure", shape=shape_json(shape), decisions=[asdict(d) for d in decisions], rounds=rounds
        )
        return reply

    def pairs(self, shape: DecodeShape, one: Decision, other: Decision, orders: Sequence[str]) -> list[Block]:
        """See `Worker.pairs`."""
        rows = self.ask("pairs", shape=shape_json(shape), one=asdict(one), other=asdict(other), orders=list(orders))
        return [
            Block(r["order"], tuple(map(tuple, r["readings_us"])), tuple(r["clocks_mhz"]), r["slowed"]) for r in rows
        ]

    def peers(self, shape: DecodeShape) -> dict[str, Any]:
        """See `Worker.peers`."""
        reply: dict[str, Any] = self.ask("peers", shape=shape_json(shape))
        return reply

    def kernels(self, shape: DecodeShape, decision: Decision) -> list[str]:
        """See `Worker.kernels`."""
        reply: list[str] = self.ask("kernels", shape=shape_json(shape), decision=asdict(decision))
        return reply

    def compiled(self, shape: DecodeShape, num_splits: int = 0) -> dict[str, Any]:
        """See `Worker.compiled`."""
        reply: dict[str, Any] = self.ask("compiled", shape=shape_json(shape), num_splits=num_splits)
        return reply

    def copy_bandwidth(self) -> float:
        """See `Worker.copy_bandwidth`."""
        return float(self.ask("copy_bandwidth"))

    def close(self) -> None:
        """End the process; it leaves by itself when its input ends."""
        end_process(self._process)


def end_process(process: subprocess.Popen[Any]) -> None:
    """End a worker process: it leaves by itself when its input ends, and is killed where it does not."""
    with contextlib.suppress(BrokenPipeError, OSError):
        assert process.stdin is not None
        process.stdin.close()
    try:
        process.wait(GOODBYE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def open_worker(library: str = "") -> Worker:
    """Start the GPU worker; `library` names another build of the kernels than the installed one."""
    return GpuWorker([sys.executable, "-m", CHILD, library] if library else ())
