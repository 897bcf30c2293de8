"""Latencies from one live GPU: the store is asked first, and only launches that it lacks are measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluators.data.contract import Decision, Setting
from evaluators.data.evaluation import Measuring
from evaluators.data.workloads import Case
from evaluators.latencies.latency import UnrecordedError
from evaluators.latencies.store import Bench, LatencyStore
from evaluators.measure.live_source import ROUNDS, STATUS_OF, LiveSource, anchored_cells, readings_of
from evaluators.measure.worker_client import MeasureError, Worker

Request = tuple[float, float]
"""When the worker was asked, in seconds since the epoch, and how long it took to answer."""


class WorkerSource(LiveSource):
    """Latencies of one setting from one worker. Thread-safe; one measurement at a time."""

    one_gpu = True

    def __init__(self, worker: Worker, store: LatencyStore | Path, setting: Setting, *, seed: int = 0) -> None:
        """Open the worker and look the bench up.

        Args:
            worker: what measures.
            store: what is known, or its file, which is made only when the worker can measure.
            setting: what is measured.
            seed: of inputs and orders.

        Raises:
            MeasureError: nothing can be measured here.
            StoreError: the store cannot be opened.
        """
        device, build = worker.open(setting, seed=seed)
        super().__init__(Bench(device, build, setting))
        self._worker = worker
        self._store = LatencyStore(store) if isinstance(store, Path) else store
        self._bench_id = self._store.bench_id(self.bench)
        self._requests: list[Request] = []

    def prepare(self, wanted: Sequence[tuple[Case, Decision]]) -> Measuring | None:
        """Measure what neither memory nor store knows, shape by shape; no other candidate's launches in between.

        Raises:
            MeasureError: the GPU was lost, or a baseline cannot be measured.
            StoreError: the store cannot be written.
        """
        with self._lock:
            self._requests.clear()
            before = self.count.measured
            for case, decisions in self.by_case(wanted):
                self._fill(case, decisions)
            return measuring_of(self._requests, self.count.measured - before)

    def _fill(self, case: Case, decisions: Mapping[str, Decision]) -> None:
        if case.id not in self.known.cells:
            self._load(case)
        missing = self.known.missing(case, decisions)
        self.count.known += sum(k in self.known.of(case) for k in decisions)
        if missing:
            self._measure(case, missing)
            self._load(case)

    def _load(self, case: Case) -> None:
        """Read a case's launches from the store, brought onto the rounds in which its baseline was measured."""
        readings = self._store.readings(self._bench_id, case.shape)
        self.known.take(case, anchored_cells(readings, self.baseline(case)[0]))

    def _measure(self, case: Case, missing: Mapping[str, Decision]) -> None:
        """Measure launches together with the baseline; a guilty one is found by measuring them alone."""
        first, baseline = self.baseline(case)
        new = {k: d for k, d in missing.items() if k != first}
        try:
            self._ask(case, first, baseline, new)
        except MeasureError as error:
            if error.kind not in STATUS_OF:
                raise
            if not new:
                raise MeasureError(
                    error.kind, f"the baseline of {case.id} cannot be measured: {error}; what was measured is kept"
                ) from error
            if len(new) == 1:
                (launch,) = new
                if not self.known.of(case):
                    self._ask(case, first, baseline, {})
                self.known.failed[case.id, launch] = UnrecordedError(str(error), STATUS_OF[error.kind])
                return
            for launch, decision in new.items():
                self._measure(case, {launch: decision})
                self._load(case)

    def _ask(self, case: Case, first: str, baseline: Decision, new: Mapping[str, Decision]) -> None:
        asked_at, started = time.time(), time.monotonic()
        try:
            reply = self._worker.measure(case.shape, [baseline, *new.values()], rounds=ROUNDS)
        finally:
            self._requests.append((asked_at, time.monotonic() - started))
        readings = readings_of(reply, [(first, baseline), *new.items()])
        self._store.add(self._bench_id, case.shape, readings)
        self.count.add(reply, len(new) if self.known.of(case) else len(readings))


def measuring_of(requests: Sequence[Request], launches: int) -> Measuring | None:
    """Requests that followed one another as one stretch of time."""
    if not requests:
        return None
    first, (last, took) = requests[0][0], requests[-1]
    return Measuring(first, max(0.0, last + took - first), sum(seconds for _, seconds in requests), launches)
