"""The worker's side, the same for all executors: benches of its one GPU, the self-test, batches."""

from __future__ import annotations

import importlib
import math
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from evaluators.data.contract import Decision, DecodeShape, Setting, baseline_decision
from evaluators.data.device import DeviceRecord
from evaluators.fa3.launch import spelled_out
from evaluators.measure.executor import Hello, Work
from evaluators.measure.worker_client import MeasureError, Trouble
from evaluators.measure.worker_process import answer

BENCH = "evaluators.measure.bench:open_bench"
"""What measures on a real GPU, as module:function; tests and load measurements name a simulated one."""

KEPT_BENCHES = 2
"""Settings that stay open at once: each takes up to 24 GiB for KV copies (`shape_timer.POOL_BYTES`)."""

TEST_SHAPE = DecodeShape(2, 2048, 8, 1)
TEST_ROUNDS = 4
TEST_SPREAD = 1.5
"""Slowest over fastest round of one launch beyond which a GPU is not fit for timing. Clocks and instruction caches
are worth up to 8% (`timing.GraphTimer.time`); half as long again is another program, or a card in trouble."""


def bench_opener(name: str) -> Callable[[Setting, int], Any]:
    """The function that `module:function` names."""
    module, _, function = name.partition(":")
    found: Callable[[Setting, int], Any] = getattr(importlib.import_module(module), function)
    return found


class BatchWorker:
    """Measures on the GPU that this process sees."""

    def __init__(self, bench: str = BENCH) -> None:
        """Load nothing yet."""
        self._open = bench_opener(bench)
        self._benches: OrderedDict[Setting, Any] = OrderedDict()
        self._seed = 0

    def _bench(self, setting: Setting) -> Any:
        if setting not in self._benches:
            while len(self._benches) >= KEPT_BENCHES:
                self._benches.popitem(last=False)
            self._benches[setting] = self._open(setting, self._seed)
        self._benches.move_to_end(setting)
        return self._benches[setting]

    def hello(self, settings: Sequence[Setting], seed: int) -> Hello:
        """Open the settings, and test each with one small shape.

        Raises:
            MeasureError: of kind unavailable.
        """
        self._seed = seed
        builds, described = {}, None
        for setting in settings:
            bench = self._bench(setting)
            described = bench.describe()
            builds[setting.name] = described["build"]
            self._test(setting, bench, DeviceRecord(**described["device"]))
        if described is None:
            raise MeasureError(Trouble.UNAVAILABLE, "a worker needs at least one setting to open")
        return Hello(DeviceRecord(**described["device"]), builds, socket.gethostname())

    def _test(self, setting: Setting, bench: Any, device: DeviceRecord) -> None:
        """Outputs are compared with the reference inside `measure`; here latencies must be such as can be compared."""
        stock = spelled_out(TEST_SHAPE, setting, baseline_decision(setting), device.gpu())
        try:
            reply = bench.measure(shape=TEST_SHAPE, decisions=[Decision(1), stock], rounds=TEST_ROUNDS)
        except MeasureError as error:
            raise MeasureError(Trouble.UNAVAILABLE, f"{device.uuid} failed its self-test: {error}") from error
        for cell in reply["cells"]:
            latencies = cell["latencies_us"]
            good = all(math.isfinite(v) and v > 0 for v in latencies)
            if not good or max(latencies) > TEST_SPREAD * min(latencies):
                raise MeasureError(
                    Trouble.UNAVAILABLE,
                    f"{device.uuid} failed its self-test: expected {TEST_ROUNDS} rounds within a factor of "
                    f"{TEST_SPREAD}, got {', '.join(f'{v:.2f}' for v in latencies)} us",
                )

    def run(self, works: Sequence[Work]) -> Iterator[dict[str, Any]]:
        """A reply per work; the last is an error of kind LOST when the GPU stopped answering."""
        for work in works:
            try:
                bench = self._bench(work.setting)
                reply = bench.measure(shape=work.shape, decisions=work.decisions, rounds=work.rounds)
            except MeasureError as error:
                # A bench that cannot be opened any more is a lost GPU, not a bad launch.
                lost = error.kind in (Trouble.LOST, Trouble.UNAVAILABLE)
                yield {"error": (Trouble.LOST if lost else error.kind).value, "message": str(error)}
                if lost:
                    return
            else:
                yield {"ok": reply}

    def ask(self, setting: Setting, request: dict[str, Any]) -> Any:
        """Any other request that a bench answers."""
        return answer(request, {"bench": self._bench(setting)}, self._open)
