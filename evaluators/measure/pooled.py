"""Latencies from a pool of GPUs: as `live`, with the shapes spread over several workers.

A shape lives on one GPU: its cells and its stock decision are measured there, and only times of one GPU are ever
compared. Where that GPU is lost, the shape moves; what was measured before keeps its ratio to the stock decision of
its own GPU, and what is new is measured on the new one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from evaluators.data.contract import Decision, DecodeShape, Setting
from evaluators.data.evaluation import Measuring
from evaluators.data.workloads import Case
from evaluators.latencies.latency import Latency, UnrecordedError
from evaluators.latencies.store import LatencyStore, Reading, shape_key
from evaluators.latencies.table import Cell
from evaluators.measure.executor import Answer, Work
from evaluators.measure.live_source import ROUNDS, STATUS_OF, LiveSource, anchored_cells, readings_of
from evaluators.measure.pool import Pool
from evaluators.measure.worker_client import MeasureError

Wanted = dict[str, tuple[Case, dict[str, Decision]]]
"""By case id: launches to measure, and a decision that makes each."""


class Flights:
    """Launches under way, shared by the sources of one pool: who wants what another is measuring waits for it."""

    def __init__(self) -> None:
        self.change = threading.Condition()
        self.launches: set[tuple[Setting, str, str]] = set()


class PooledSource(LiveSource):
    """Latencies of one setting on the GPUs of a pool. Thread-safe; several callers may measure at once."""

    def __init__(
        self, pool: Pool, store: LatencyStore, setting: Setting, *, client: str, flights: Flights | None = None
    ) -> None:
        """Look the benches up.

        Args:
            pool: workers; the setting is one of those that it was opened with.
            store: what is known; sources of one pool may share a store or have their own.
            setting: what is measured.
            client: an open client of the pool.
            flights: the same object for all sources that share pool and store.
        """
        benches = pool.benches(setting)
        if not benches:
            raise pool.no_worker()
        super().__init__(next(iter(benches.values())))
        self._pool, self._client, self._store = pool, client, store
        self._benches: dict[str, int] = {uuid: store.bench_id(b) for uuid, b in benches.items()}
        self._flights = flights or Flights()
        self._stored = store.shapes_known(list(self._benches.values()))

    def known_of(self, case: Case) -> tuple[tuple[Cell, ...], Mapping[str, Latency]]:
        """What is known of a case: its cells, and its latencies by launch; of one moment."""
        with self._lock:
            return self.known.cells.get(case.id, ()), self.known.of(case)

    def failures(self) -> dict[tuple[str, str], UnrecordedError]:
        """Launches that cannot be measured, by case and launch."""
        with self._lock:
            return dict(self.known.failed)

    def prepare(self, wanted: Sequence[tuple[Case, Decision]]) -> Measuring | None:
        """Measure what neither memory nor store knows, on all GPUs at once.

        A launch that another caller is measuring is waited for, and counts as that caller's.

        Raises:
            MeasureError: no worker is left, or a baseline cannot be measured.
            StoreError: the store cannot be written.
        """
        groups = self.by_case(wanted)
        first, busy_s, launches = True, 0.0, 0
        started_at, started = time.time(), time.monotonic()
        while True:
            with self._flights.change:
                mine, others = self._missing(groups, first=first)
                first = False
                if not mine:
                    if not others:
                        elapsed_s = time.monotonic() - started
                        return Measuring(started_at, elapsed_s, busy_s, launches) if launches else None
                    self._flights.change.wait()
                    continue
                flying = {(self.setting, shape_key(c.shape), k) for c, new in mine.values() for k in new}
                self._flights.launches |= flying
            try:
                busy_s += self._measure_all(mine)
                launches += len(flying)
            finally:
                with self._flights.change:
                    self._flights.launches -= flying
                    self._flights.change.notify_all()

    def _missing(self, groups: Sequence[tuple[Case, Mapping[str, Decision]]], *, first: bool) -> tuple[Wanted, bool]:
        """What this caller is to measure now, and whether there is more that another is measuring."""
        mine: Wanted = {}
        others = False
        with self._lock:
            for case, decisions in groups:
                if case.id not in self.known.cells:
                    self._load(case)
                missing = self.known.missing(case, decisions)
                if missing:
                    # Another run may have measured it since.
                    self._load(case)
                    missing = self.known.missing(case, decisions)
                if first:
                    self.count.known += sum(k in self.known.of(case) for k in decisions)
                key = shape_key(case.shape) if missing else ""
                free = {k: d for k, d in missing.items() if (self.setting, key, k) not in self._flights.launches}
                others = others or len(free) < len(missing)
                if free:
                    mine[case.id] = case, free
        return mine, others

    def _home(self, case: Case) -> int | None:
        """Bench on which a shape lives: where this pool has measured it, else where most of it is known."""
        uuid = self._pool.home(self.setting, case.shape)
        if not uuid:
            stored = self._stored.get(shape_key(case.shape), {})
            alive = self._pool.benches(self.setting)
            known = {uuid: stored[bench] for uuid, bench in self._benches.items() if bench in stored and uuid in alive}
            if not known:
                return None
            uuid = self._pool.claim(self.setting, case.shape, max(known, key=lambda u: known[u]))
        return self._benches.get(uuid)

    def _load(self, case: Case) -> None:
        """Read a case's launches as its GPU measured them; keep the ratios of one that it has left."""
        bench = self._home(case)
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
        """Measure; what fails together is measured one by one, so that the guilty launch is found. Seconds of GPU."""
        parts, total = list(wanted.values()), 0.0
        while parts:
            parts, seconds = self._measure_parts(parts)
            total += seconds
        return total

    def _measure_parts(
        self, parts: Sequence[tuple[Case, dict[str, Decision]]]
    ) -> tuple[list[tuple[Case, dict[str, Decision]]], float]:
        """One pass over cases and their new launches.

        Returns:
            What has to be tried again in smaller parts, and the seconds that it took GPUs.
        """
        seconds = 0.0
        asked: dict[int, tuple[Case, list[tuple[str, Decision]]]] = {}
        kept = []

        def works() -> Iterator[Work]:
            for case, new in parts:
                first, baseline = self.baseline(case)
                launches = [(first, baseline), *((k, d) for k, d in new.items() if k != first)]
                work = Work(self.setting, case.shape, tuple(d for _, d in launches), ROUNDS)
                asked[id(work)] = case, launches
                kept.append(work)  # its id stays its own
                yield work

        again: list[tuple[Case, dict[str, Decision]]] = []
        with contextlib.closing(self._pool.measure(self._client, works())) as batches:
            for answers in batches:
                found: list[tuple[int, DecodeShape, list[Reading]]] = []
                for answer in answers:
                    if answer.reply is not None:
                        case, launches = asked[id(answer.work)]
                        readings = readings_of(answer.reply, launches)
                        found.append((self._benches[answer.uuid], case.shape, readings))
                self._store.add_all(found)
                for answer in answers:
                    case, launches = asked[id(answer.work)]
                    if answer.reply is None:
                        again += self._failure(case, launches, answer)
                        continue
                    seconds += answer.reply["total_s"]
                    with self._lock:
                        self.count.add(answer.reply, len(launches) - bool(self.known.of(case)))
                        self._load(case)
        return again, seconds

    def _failure(
        self, case: Case, launches: Sequence[tuple[str, Decision]], answer: Answer
    ) -> list[tuple[Case, dict[str, Decision]]]:
        """Smaller parts to try; none when the guilty launch is found, which is then remembered."""
        error = answer.trouble
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
        with self._lock:
            self.known.failed[case.id, launch] = UnrecordedError(str(error), STATUS_OF[error.kind])
            return [] if self.known.of(case) else [(case, {})]


def open_source(
    pool: Pool,
    store_path: Path,
    setting: Setting,
    *,
    client: str,
    weight: float = 1.0,
    flights: Flights | None = None,
) -> PooledSource:
    """A source with a client and a connection to the store of its own; arguments as of `PooledSource`.

    Raises:
        MeasureError: no worker is left.
        StoreError: the store cannot be opened.
        ValueError: the pool has a client of this name.
    """
    pool.open_client(client, weight)
    return PooledSource(pool, LatencyStore(store_path), setting, client=client, flights=flights)
