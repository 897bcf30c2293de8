"""Latencies measured on live GPUs: read from the store if known, otherwise measured by a pool.

Each shape has one GPU, which measures all its launches and its stock decision, since times of different GPUs are never
compared. If that GPU is lost, the shape moves; earlier launches keep their ratio to the stock decision on the old GPU,
and new ones are measured on the new GPU. A single GPU is a pool of one.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluators.data.contract import DecodeShape, Gpu, Setting
from evaluators.data.device import DeviceRecord
from evaluators.data.evaluation import Measuring
from evaluators.data.launches import AnyDecision, Cell, Latency
from evaluators.data.status import Status
from evaluators.data.workloads import Case
from evaluators.latencies.latency import UnrecordedError
from evaluators.latencies.store import BenchKey, LatencyStore, StoredLatency, shape_key
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.executor import Job, JobResult
from evaluators.measure.pool import Pool
from evaluators.targets.registry import target_of

ROUNDS = 6
"""Rounds, as in recorded tables: an even number, so that the oracle can be cross-fitted."""

STATUS_OF = {
    MeasureErrorKind.WRONG: Status.WRONG,
    MeasureErrorKind.MEMORY: Status.UNSAFE,
    MeasureErrorKind.REFUSED: Status.UNSAFE,
    MeasureErrorKind.DEADLY: Status.UNSAFE,
}
"""Status of a candidate whose launch failed, by kind of failure; other failures end the search, resumably."""


@dataclass(slots=True)
class LiveCount:
    """Statistics of a source: launches from the store, launches measured, and GPU time.

    `slowed` counts launches measured while the GPU throttled by heat or power. `ms_per_launch` has one entry per
    measured shape: milliseconds per new launch, without the correctness check.
    """

    known: int = 0
    measured: int = 0
    slowed: int = 0
    worker_s: float = 0.0
    check_s: float = 0.0
    ms_per_launch: list[float] = field(default_factory=list)

    def add(self, reply: Mapping[str, Any], fresh: int) -> None:
        """Add a worker's reply with `fresh` new launches."""
        self.measured += fresh
        self.slowed += fresh if reply["slowed"] else 0
        self.worker_s += reply["total_s"]
        self.check_s += reply["check_s"]
        self.ms_per_launch.append(1e3 * (reply["total_s"] - reply["check_s"]) / max(1, fresh))

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def line(self) -> str:
        """Statistics as one line of text."""
        if not self.measured:
            return f"{self.known} launches from the store, none measured"
        slowed = f"; {self.slowed} while heat or power slowed the GPU down" if self.slowed else ""
        return (
            f"{self.known} launches from the store, {self.measured} measured in {self.worker_s:.1f} s of GPU worker "
            f"time: median {statistics.median(self.ms_per_launch):.1f} ms a launch, correctness checks "
            f"{self.check_s:.1f} s apart{slowed}"
        )


@dataclass(slots=True)
class KnownLatencies:
    """Known launches of one setting, by case id. Not thread-safe.

    Attributes:
        cells: launches with their rounds, the baseline's first, as input of the oracle.
        by_launch: latency by key of the canonical launch.
        failed: reason why a launch cannot be measured, by case id and launch.
    """

    cells: dict[str, tuple[Cell, ...]] = field(default_factory=dict)
    by_launch: dict[str, Mapping[str, Latency]] = field(default_factory=dict)
    failed: dict[tuple[str, str], UnrecordedError] = field(default_factory=dict)

    def of(self, case: Case) -> Mapping[str, Latency]:
        """Latencies of a case by launch; empty if none is known."""
        return self.by_launch.get(case.id, {})

    def missing(self, case: Case, decisions: Mapping[str, AnyDecision]) -> dict[str, AnyDecision]:
        """Launches without a known latency or a known failure."""
        known = self.of(case)
        return {k: d for k, d in decisions.items() if k not in known and (case.id, k) not in self.failed}

    def take(self, case: Case, cells: tuple[Cell, ...], others: Mapping[str, Latency] | None = None) -> None:
        """Replace the known launches of a case: cells, and latencies of further launches that are no cells."""
        self.cells[case.id] = cells
        self.by_launch[case.id] = {**(others or {}), **{c.launch: Latency(c.latencies_us) for c in cells}}


class LiveSource(ABC):
    """Latencies of one setting, measured on demand; see `latency.LatencySource`.

    Attributes:
        setting: provider, mode and cache of the calls.
        bench: measuring bench; one of several for a pool of GPUs of one model.
        gpu: properties that heuristics may read.
        one_gpu: True if all latencies come from the GPU of `bench`.
        known: launches known to this process.
    """

    grows = True
    kernels_last = False
    one_gpu = False

    def __init__(self, bench: BenchKey) -> None:
        """Start without known launches."""
        self.bench = bench
        self.setting: Setting = bench.setting
        self.device: DeviceRecord = bench.device
        self.target = target_of(bench.setting)
        self.gpu: Gpu = replace(bench.device.gpu(), max_sm_margin=self.target.live_sm_margin)
        self.count = LiveCount()
        self.known = KnownLatencies()
        self.lock = threading.Lock()

    @abstractmethod
    def prepare(self, wanted: Sequence[tuple[Case, AnyDecision]]) -> Measuring | None:
        """See `LatencySource.prepare`.

        Raises:
            MeasureError: nothing more can be measured, or a baseline cannot; finished measurements are kept.
            StoreError: the store cannot be written.
        """

    def by_case(self, wanted: Sequence[tuple[Case, AnyDecision]]) -> list[tuple[Case, dict[str, AnyDecision]]]:
        """Cases with their requested launches, and a decision that leads to each launch."""
        found: dict[str, tuple[Case, dict[str, AnyDecision]]] = {}
        for case, decision in wanted:
            launch, spelled = self._launch(case, decision)
            found.setdefault(case.id, (case, {}))[1].setdefault(launch, spelled)
        return list(found.values())

    def baseline(self, case: Case) -> tuple[str, AnyDecision]:
        """Launch of the stock decision on a case, and that decision, resolved."""
        return self._launch(case, self.target.baseline(self.setting))

    def _launch(self, case: Case, decision: AnyDecision) -> tuple[str, AnyDecision]:
        spelled = self.target.spelled_out(case.shape, self.setting, decision, self.gpu)
        return self.target.launch(case.shape, self.setting, spelled, self.gpu).key, spelled

    def cells(self, case: Case) -> Sequence[Cell]:
        """See `LatencySource.cells`."""
        return self.known.cells.get(case.id, ())

    def latency(self, case: Case, decision: AnyDecision) -> Latency:
        """See `LatencySource.latency`; only `prepare` measures."""
        launch = self.target.launch(case.shape, self.setting, decision, self.gpu).key
        failed = self.known.failed.get((case.id, launch))
        if failed is not None:
            raise failed
        found = self.known.of(case).get(launch)
        if found is None:
            raise UnrecordedError(f"{case.id}: launch {launch} has not been measured")
        return found


def anchored_cells(readings: Mapping[str, StoredLatency], baseline: str) -> tuple[Cell, ...]:
    """Readings of a case relative to the rounds of its baseline, which comes first; empty without a baseline."""
    if baseline not in readings:
        return ()
    reference = readings[baseline].latencies_us
    order = [baseline, *sorted(k for k in readings if k != baseline)]
    return tuple(anchored(readings[k], reference) for k in order)


def latencies_of(reply: Mapping[str, Any], launches: Sequence[tuple[str, AnyDecision]]) -> list[StoredLatency]:
    """Convert a worker's reply for the store; the baseline's rounds, which come first, are stored with each launch."""
    rows = reply["cells"]
    anchor = tuple(rows[0]["latencies_us"])
    return [
        StoredLatency(
            launch, decision, tuple(row["latencies_us"]), anchor, row["error"], reply["sm_clock_mhz"], reply["slowed"]
        )
        for (launch, decision), row in zip(launches, rows, strict=True)
    ]


def anchored(reading: StoredLatency, baseline_us: Sequence[float]) -> Cell:
    """Convert a launch to other rounds of the baseline: keeps each round's ratio to the baseline, removes drift."""
    rounds = (b * v / a for v, a, b in zip(reading.latencies_us, reading.baseline_us, baseline_us, strict=True))
    return Cell(reading.decision, reading.launch, reading.error, tuple(rounds))


Wanted = dict[str, tuple[Case, dict[str, AnyDecision]]]
"""Launches to measure by case id, and a decision that leads to each."""


class PoolSource(LiveSource):
    """Latencies of one setting on the GPUs of a pool. Thread-safe; several callers may measure at once."""

    def __init__(
        self, pool: Pool, store: LatencyStore | Path, setting: Setting, *, client: str, one_gpu: bool = False
    ) -> None:
        """Open a client of the pool, and look up the benches in the store.

        Args:
            pool: pool that was opened with the setting, among others.
            store: store of known latencies, or its file; sources of one pool may share a store.
            setting: setting to measure.
            client: unique name among the pool's clients.
            one_gpu: the pool has one GPU, permanently. Callers then measure one after the other, so that launches of
                different candidates do not mix.

        Raises:
            MeasureError: no worker is left.
            StoreError: the store cannot be opened.
            ValueError: the name is taken.
        """
        benches = pool.benches(setting)
        if not benches:
            raise pool.no_worker()
        super().__init__(next(iter(benches.values())))
        self.one_gpu = one_gpu
        pool.open_client(client)
        self._pool, self._client = pool, client
        self._store = LatencyStore(store) if isinstance(store, Path) else store
        self._benches: dict[str, int] = {uuid: self._store.bench_id(b) for uuid, b in benches.items()}
        self._turn = threading.Lock() if one_gpu else contextlib.nullcontext()

    def prepare(self, wanted: Sequence[tuple[Case, AnyDecision]]) -> Measuring | None:
        """Measure unknown launches, on all GPUs at once.

        Waits for launches that another caller is measuring, which count as that caller's.

        Raises:
            MeasureError: no worker is left, or a baseline cannot be measured.
            StoreError: the store cannot be written.
        """
        with self._turn:
            groups = self.by_case(wanted)
            first, busy_s, launches = True, 0.0, 0
            started_at, started = time.time(), time.monotonic()
            while True:
                with self._pool.landed:
                    mine, others = self._missing(groups, first=first)
                    first = False
                    if not mine:
                        if not others:
                            elapsed_s = time.monotonic() - started
                            return Measuring(started_at, elapsed_s, busy_s, launches) if launches else None
                        self._pool.landed.wait()
                        continue
                    measured = {self._in_flight_key(c, k) for c, new in mine.values() for k in new}
                    self._pool.in_flight |= measured
                try:
                    busy_s += self._measure_all(mine)
                    launches += len(measured)
                finally:
                    with self._pool.landed:
                        self._pool.in_flight -= measured
                        self._pool.landed.notify_all()

    def _in_flight_key(self, case: Case, launch: str) -> Hashable:
        return self._store.path, self.setting, shape_key(case.shape), launch

    def _missing(self, groups: Sequence[tuple[Case, Mapping[str, AnyDecision]]], *, first: bool) -> tuple[Wanted, bool]:
        """Launches that this caller must measure, and True if another caller is measuring more of them."""
        mine: Wanted = {}
        others = False
        with self.lock:
            for case, decisions in groups:
                if case.id not in self.known.cells:
                    self._load(case)
                missing = self.known.missing(case, decisions)
                if missing:
                    # Another run may have measured it in the meantime.
                    self._load(case)
                    missing = self.known.missing(case, decisions)
                if first:
                    self.count.known += sum(k in self.known.of(case) for k in decisions)
                taken = {k for k in missing if self._in_flight_key(case, k) in self._pool.in_flight}
                free = {k: d for k, d in missing.items() if k not in taken}
                others = others or bool(taken)
                if free:
                    mine[case.id] = case, free
        return mine, others

    def _bench_of(self, case: Case) -> int | None:
        """Bench that measures a shape: the pool's GPU for the shape, otherwise the one with most known launches."""
        uuid = self._pool.affinity(self.setting, case.shape)
        if not uuid:
            alive = {u: self._benches[u] for u in self._pool.benches(self.setting) if u in self._benches}
            known = self._store.launches_known(list(alive.values()), case.shape)
            if not known:
                return None
            uuid = self._pool.assign(self.setting, case.shape, max(alive, key=lambda u: known.get(alive[u], 0)))
        return self._benches.get(uuid)

    def _load(self, case: Case) -> None:
        """Read a case's launches on its GPU; launches of an earlier GPU keep their ratios."""
        bench = self._bench_of(case)
        readings = {} if bench is None else self._store.readings(bench, case.shape)
        first, _ = self.baseline(case)
        cells = anchored_cells(readings, first)
        before = self.known.of(case)
        if not cells and before:
            return
        gone = {}
        for launch, latency in before.items():
            if launch not in readings:
                rounds = zip(cells[0].latencies_us, latency.rounds_us, before[first].rounds_us, strict=True)
                gone[launch] = Latency(tuple(new * v / old for new, v, old in rounds))
        self.known.take(case, cells, gone)

    def _measure_all(self, wanted: Wanted) -> float:
        """Measure, and return the GPU seconds; failing groups are measured one by one to find the failing launch."""
        parts, total = list(wanted.values()), 0.0
        while parts:
            parts, seconds = self._measure_parts(parts)
            total += seconds
        return total

    def _measure_parts(
        self, parts: Sequence[tuple[Case, dict[str, AnyDecision]]]
    ) -> tuple[list[tuple[Case, dict[str, AnyDecision]]], float]:
        """One pass over cases and their new launches.

        Returns:
            Smaller parts to try again, and the GPU seconds.
        """
        seconds = 0.0
        asked: dict[int, tuple[Case, list[tuple[str, AnyDecision]]]] = {}
        jobs = []
        for case, new in parts:
            first, baseline = self.baseline(case)
            launches = [(first, baseline), *((k, d) for k, d in new.items() if k != first)]
            jobs.append(Job(self.setting, case.shape, tuple(d for _, d in launches), ROUNDS))
            asked[id(jobs[-1])] = case, launches
        again: list[tuple[Case, dict[str, AnyDecision]]] = []
        with contextlib.closing(self._pool.measure(self._client, jobs)) as batches:
            for results in batches:
                found: list[tuple[int, DecodeShape, list[StoredLatency]]] = []
                for result in results:
                    if result.reply is not None:
                        case, launches = asked[id(result.job)]
                        found.append((self._benches[result.uuid], case.shape, latencies_of(result.reply, launches)))
                self._store.add_all(found)
                for result in results:
                    case, launches = asked[id(result.job)]
                    seconds += result.busy_s
                    if result.reply is None:
                        again += self._failure(case, launches, result)
                        continue
                    with self.lock:
                        self.count.add(result.reply, len(launches) - bool(self.known.of(case)))
                        self._load(case)
        return again, seconds

    def _failure(
        self, case: Case, launches: Sequence[tuple[str, AnyDecision]], result: JobResult
    ) -> list[tuple[Case, dict[str, AnyDecision]]]:
        """Smaller parts to try; empty if the failing launch is found, which is then recorded."""
        error = result.error
        assert error is not None
        if error.kind not in STATUS_OF:
            raise error
        new = launches[1:]
        if not new:
            raise MeasureError(
                error.kind, f"the baseline of {case.id} cannot be measured: {error}; what was measured is kept"
            )
        if len(new) > 1:
            return [(case, {launch: decision}) for launch, decision in new]
        ((launch, _),) = new
        with self.lock:
            self.known.failed[case.id, launch] = UnrecordedError(str(error), STATUS_OF[error.kind])
            return [] if self.known.of(case) else [(case, {})]
