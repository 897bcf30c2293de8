"""Latencies from a live GPU: the store is asked first, and only launches that it lacks are measured."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluators.contract import Decision, Gpu, Setting, baseline_decision
from evaluators.device import DeviceRecord
from evaluators.gpu_worker import MeasureError, Trouble, Worker
from evaluators.judge import SEARCH_SPLITS, WORKSPACE_CAP_MB, Judge
from evaluators.ladder import SM_MARGINS
from evaluators.latency import Latency, UnrecordedError
from evaluators.launch import canonical_launch, spelled_out
from evaluators.sandbox import Limits
from evaluators.status import Status
from evaluators.store import Bench, LatencyStore, Reading
from evaluators.table import Cell
from evaluators.workloads import Case, Split, Weighting, cases_for

ROUNDS = 6
"""As in recorded tables: even, so that the oracle can be cross-fitted."""

STATUS_OF = {
    Trouble.WRONG: Status.WRONG,
    Trouble.MEMORY: Status.UNSAFE,
    Trouble.REFUSED: Status.UNSAFE,
    Trouble.DEADLY: Status.UNSAFE,
}
"""What a launch's trouble makes of the candidate; other trouble ends the search, resumably."""


@dataclass(slots=True)
class LiveCount:
    """What a source has done: launches answered from the store, launches measured, and the GPU time of each.

    `ms_per_launch` holds one entry per measured shape: milliseconds per new launch, the correctness check apart.
    """

    known: int = 0
    measured: int = 0
    worker_s: float = 0.0
    check_s: float = 0.0
    ms_per_launch: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def line(self) -> str:
        """One line for people."""
        if not self.measured:
            return f"{self.known} launches from the store, none measured"
        return (
            f"{self.known} launches from the store, {self.measured} measured in {self.worker_s:.1f} s of GPU worker "
            f"time: median {statistics.median(self.ms_per_launch):.1f} ms a launch, correctness checks "
            f"{self.check_s:.1f} s apart"
        )


class LiveSource:
    """Latencies of one setting on one GPU. Thread-safe; one measurement at a time."""

    grows = True

    def __init__(self, worker: Worker, store: LatencyStore, setting: Setting, *, seed: int = 0) -> None:
        """Open the worker and look the bench up.

        Raises:
            MeasureError: nothing can be measured here.
        """
        self.setting = setting
        device, build = worker.open(setting, seed=seed)
        self.device: DeviceRecord = device
        self.bench = Bench(device, build, setting)
        self.gpu: Gpu = replace(device.gpu(), max_sm_margin=max(SM_MARGINS))
        self.count = LiveCount()
        self._worker, self._store = worker, store
        self._bench = store.bench_id(self.bench)
        self._lock = threading.Lock()
        self._cells: dict[str, tuple[Cell, ...]] = {}
        self._by_launch: dict[str, Mapping[str, Latency]] = {}
        self._failed: dict[tuple[str, str], UnrecordedError] = {}

    def prepare(self, wanted: Sequence[tuple[Case, Decision]]) -> float:
        """Measure what neither memory nor store knows, shape by shape; returns the seconds that it took the GPU.

        Raises:
            MeasureError: the GPU was lost, or a baseline cannot be measured.
            StoreError: the store cannot be written.
        """
        seconds = 0.0
        for case, decisions in self._by_case(wanted):
            with self._lock:
                before = self.count.worker_s
                self._fill(case, decisions)
                seconds += self.count.worker_s - before
        return seconds

    def _by_case(self, wanted: Sequence[tuple[Case, Decision]]) -> list[tuple[Case, dict[str, Decision]]]:
        """Each case with the launches that are wanted of it, and a decision that makes each."""
        by_case: dict[str, tuple[Case, dict[str, Decision]]] = {}
        for case, decision in wanted:
            spelled = spelled_out(case.shape, self.setting, decision, self.gpu)
            launch = canonical_launch(case.shape, self.setting, spelled, self.gpu).key
            by_case.setdefault(case.id, (case, {}))[1].setdefault(launch, spelled)
        return list(by_case.values())

    def _fill(self, case: Case, decisions: Mapping[str, Decision]) -> None:
        if case.id not in self._cells:
            self._load(case)
        known = self._by_launch[case.id]
        missing = {k: d for k, d in decisions.items() if k not in known and (case.id, k) not in self._failed}
        self.count.known += sum(k in known for k in decisions)
        if missing:
            self._measure(case, missing)
            self._load(case)

    def _baseline(self, case: Case) -> tuple[str, Decision]:
        spelled = spelled_out(case.shape, self.setting, baseline_decision(self.setting), self.gpu)
        return canonical_launch(case.shape, self.setting, spelled, self.gpu).key, spelled

    def _load(self, case: Case) -> None:
        """Read a case's launches from the store, brought onto the rounds in which its baseline was measured."""
        readings = self._store.readings(self._bench, case.shape)
        first, _ = self._baseline(case)
        if first not in readings:
            self._cells[case.id], self._by_launch[case.id] = (), {}
            return
        reference = readings[first].latencies_us
        order = [first, *sorted(k for k in readings if k != first)]
        cells = tuple(anchored(readings[k], reference) for k in order)
        self._cells[case.id] = cells
        self._by_launch[case.id] = {c.launch: Latency(c.latencies_us) for c in cells}

    def _measure(self, case: Case, missing: Mapping[str, Decision]) -> None:
        """Measure launches together with the baseline; a guilty one is found by measuring them alone."""
        first, baseline = self._baseline(case)
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
                if not self._by_launch[case.id]:
                    self._ask(case, first, baseline, {})
                self._failed[case.id, launch] = UnrecordedError(str(error), STATUS_OF[error.kind])
                return
            for launch, decision in new.items():
                self._measure(case, {launch: decision})
                self._load(case)

    def _ask(self, case: Case, first: str, baseline: Decision, new: Mapping[str, Decision]) -> None:
        reply = self._worker.measure(case.shape, [baseline, *new.values()], rounds=ROUNDS)
        readings = readings_of(reply, [(first, baseline), *new.items()])
        self._store.add(self._bench, case.shape, readings)
        self._count(reply, len(readings) if not self._by_launch[case.id] else len(new))

    def _count(self, reply: Mapping[str, Any], fresh: int) -> None:
        self.count.measured += fresh
        self.count.worker_s += reply["total_s"]
        self.count.check_s += reply["check_s"]
        self.count.ms_per_launch.append(1e3 * (reply["total_s"] - reply["check_s"]) / max(1, fresh))

    def cells(self, case: Case) -> Sequence[Cell]:
        """See `LatencySource.cells`."""
        return self._cells.get(case.id, ())

    def latency(self, case: Case, decision: Decision) -> Latency:
        """See `LatencySource.latency`; only `prepare` measures."""
        launch = canonical_launch(case.shape, self.setting, decision, self.gpu).key
        failed = self._failed.get((case.id, launch))
        if failed is not None:
            raise failed
        known = self._by_launch.get(case.id, {}).get(launch)
        if known is None:
            raise UnrecordedError(f"{case.id}: launch {launch} has not been measured")
        return known


def readings_of(reply: Mapping[str, Any], launches: Sequence[tuple[str, Decision]]) -> list[Reading]:
    """What the store keeps of a worker's reply; the baseline's rounds, which come first, go with each launch."""
    rows = reply["cells"]
    anchor = tuple(rows[0]["latencies_us"])
    return [
        Reading(
            launch, decision, tuple(row["latencies_us"]), anchor, row["error"], reply["sm_clock_mhz"], reply["slowed"]
        )
        for (launch, decision), row in zip(launches, rows, strict=True)
    ]


def anchored(reading: Reading, baseline_us: Sequence[float]) -> Cell:
    """A launch on other rounds of the baseline: each round's ratio to the baseline is kept, the drift is not."""
    rounds = (b * v / a for v, a, b in zip(reading.latencies_us, reading.baseline_us, baseline_us, strict=True))
    return Cell(reading.decision, reading.launch, reading.error, tuple(rounds))


def open_live_judge(
    worker: Worker,
    store_path: Path,
    workload: str,
    setting: Setting,
    *,
    weighting: Weighting,
    limits: Limits,
    workspace_cap_mb: int = WORKSPACE_CAP_MB,
    splits: Sequence[Split] = SEARCH_SPLITS,
) -> Judge:
    """A judge that measures what the store lacks; the test split stays sealed unless `splits` names it.

    Raises:
        MeasureError: nothing can be measured here.
        StoreError: the store cannot be opened.
        SandboxUnavailable: this system cannot confine candidates.
    """
    source = LiveSource(worker, LatencyStore(store_path), setting)
    cases = [c for c in cases_for(workload, setting) if c.split in splits]
    return Judge(
        cases,
        setting,
        source.gpu,
        source,
        description={
            "workload": workload,
            "measure": "live",
            "gpu": source.device.name,
            "gpu_uuid": source.device.uuid,
            "driver": source.device.driver,
            "build": source.bench.build,
        },
        weighting=weighting,
        limits=limits,
        workspace_cap_mb=workspace_cap_mb,
    )
