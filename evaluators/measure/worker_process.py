"""Main program of a worker: owns one GPU, opens and tests benches, and measures. It never gets candidate code.

The process reads requests as lines of JSON from stdin and writes replies as lines to the original stdout; `ray` runs
the same `BenchServer` in an actor. `evaluators.measure.executor` describes the protocol.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import queue
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TextIO

from evaluators.data.contract import DecodeShape, Setting
from evaluators.data.device import DeviceRecord
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.executor import Job, WorkerInfo, requested_jobs
from evaluators.measure.gpu_lock import GpuLockedError, hold
from evaluators.targets.registry import target_of

BENCH = "evaluators.tokens.layer_bench:open_bench"
"""Bench of a real GPU, as module:function; tests and load measurements name a simulated one."""

MAX_BENCHES = 2
"""Open settings at a time: each uses up to 24 GiB for KV copies (`shape_timer.POOL_BYTES`)."""

TEST_SHAPE = DecodeShape(2, 2048, 8, 1)
TEST_ROUNDS = 4
TEST_SPREAD = 1.5
"""Largest ratio of the slowest to the fastest round of one launch on a GPU fit for timing. Clocks and instruction
caches cause up to 8% (`timing.GraphTimer.time`); 50% indicates another program, or a faulty card."""


class BenchServer:
    """Server of requests with benches on the visible GPU."""

    def __init__(self, bench: str = BENCH, *, uuid: str = "", library: str = "") -> None:
        """Store the options; opens nothing.

        Args:
            bench: function that opens a bench, as module:function.
            uuid: GPU to lock before a library uses it; empty leaves that to the bench.
            library: build of the kernels, instead of the installed one.
        """
        module, _, function = bench.partition(":")
        opener: Callable[..., Any] = getattr(importlib.import_module(module), function)
        self._open_bench = partial(opener, library=library) if library else opener
        self._uuid = uuid
        self._benches: OrderedDict[Setting, Any] = OrderedDict()
        self._seed = 0

    def replies(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield a reply per job of a batch, up to a loss of the GPU, or one to any other request."""
        try:
            op = request.pop("op")
            if op == "run":
                for job in requested_jobs(request):
                    reply = self._measured(job)
                    yield reply
                    if reply.get("error") == MeasureErrorKind.LOST.value:
                        return
            elif op == "open":
                yield {"ok": self._opened(**request).as_json()}
            else:
                yield {"ok": self._called(op, **request)}
        except MeasureError as error:
            yield _error(error.kind, error)
        except (GpuLockedError, OSError) as error:
            yield _error(MeasureErrorKind.UNAVAILABLE, error)

    def _bench(self, setting: Setting) -> Any:
        if setting not in self._benches:
            while len(self._benches) >= MAX_BENCHES:
                self._benches.popitem(last=False)
            self._benches[setting] = self._open_bench(setting, self._seed)
        self._benches.move_to_end(setting)
        return self._benches[setting]

    def _opened(self, settings: list[dict[str, Any]], seed: int, self_test: bool) -> WorkerInfo:
        if self._uuid:
            hold(self._uuid)
        self._seed = seed
        self._benches.clear()
        builds: dict[str, str] = {}
        device: DeviceRecord | None = None
        for setting in map(Setting.from_json, settings):
            bench = self._bench(setting)
            described = bench.describe()
            device, builds[setting.name] = DeviceRecord(**described["device"]), described["build"]
            if self_test:
                _test(bench, setting, device)
        if device is None:
            raise MeasureError(MeasureErrorKind.UNAVAILABLE, "a worker needs at least one setting to open")
        return WorkerInfo(device, builds, socket.gethostname())

    def _measured(self, job: Job) -> dict[str, Any]:
        started = time.monotonic()
        try:
            bench = self._bench(job.setting)
            return {"ok": bench.measure(shape=job.shape, decisions=job.decisions, rounds=job.rounds)}
        except MeasureError as error:
            # A bench that can no longer be opened means a lost GPU, not a bad launch.
            lost = error.kind is MeasureErrorKind.UNAVAILABLE
            reply = _error(MeasureErrorKind.LOST if lost else error.kind, error)
            return {**reply, "busy_s": time.monotonic() - started}

    def _called(self, op: str, setting: dict[str, Any], **arguments: Any) -> Any:
        where = Setting.from_json(setting)
        if "shape" in arguments:
            arguments["shape"] = DecodeShape.from_json(arguments["shape"])
        for name in ("decision", "one", "other"):
            if name in arguments:
                arguments[name] = target_of(where).from_row(arguments[name])
        return getattr(self._bench(where), op)(**arguments)


def _error(kind: MeasureErrorKind, error: Exception) -> dict[str, Any]:
    return {"error": kind.value, "message": str(error)}


def _test(bench: Any, setting: Setting, device: DeviceRecord) -> None:
    """Measure a small shape as a self-test. `measure` checks outputs; here the latencies are checked.

    Raises:
        MeasureError: of kind unavailable: this GPU is not fit for timing.
    """
    target = target_of(setting)
    stock = target.spelled_out(TEST_SHAPE, setting, target.baseline(setting), device.gpu())
    try:
        reply = bench.measure(shape=TEST_SHAPE, decisions=[target.decision_type(1), stock], rounds=TEST_ROUNDS)
    except MeasureError as error:
        raise MeasureError(MeasureErrorKind.UNAVAILABLE, f"{device.uuid} failed its self-test: {error}") from error
    for cell in reply["cells"]:
        latencies = cell["latencies_us"]
        good = all(math.isfinite(v) and v > 0 for v in latencies)
        if not good or max(latencies) > TEST_SPREAD * min(latencies):
            raise MeasureError(
                MeasureErrorKind.UNAVAILABLE,
                f"{device.uuid} failed its self-test: expected {TEST_ROUNDS} rounds within a factor of "
                f"{TEST_SPREAD}, got {', '.join(f'{v:.2f}' for v in latencies)} us",
            )


def lines_of(requests: TextIO) -> Iterator[str]:
    """Yield lines as they arrive; the end of input means the end of the controller, and ends this process at once.

    Otherwise a worker whose GPU hangs would outlive a killed controller and keep the GPU.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in requests:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def main() -> None:
    """Entry point of the process. Libraries may print to stdout, so replies go to a private copy of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", default=BENCH)
    parser.add_argument("--uuid", default="")
    parser.add_argument("--library", default="")
    options = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server = BenchServer(options.bench, uuid=options.uuid, library=options.library)
    for line in lines_of(sys.stdin):
        for reply in server.replies(json.loads(line)):
            replies.write(json.dumps(reply) + "\n")
            replies.flush()


if __name__ == "__main__":
    main()
