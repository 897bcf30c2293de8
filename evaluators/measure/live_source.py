"""What all sources of live latencies share: what they know so far, what it cost, how readings become latencies."""

from __future__ import annotations

import statistics
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from evaluators.data.contract import Decision, Gpu, Setting, baseline_decision
from evaluators.data.device import DeviceRecord
from evaluators.data.evaluation import Measuring
from evaluators.data.status import Status
from evaluators.data.workloads import Case
from evaluators.fa3.launch import canonical_launch, spelled_out
from evaluators.latencies.latency import Latency, UnrecordedError
from evaluators.latencies.recorded_decisions import SM_MARGINS
from evaluators.latencies.store import Bench, Reading
from evaluators.latencies.table import Cell
from evaluators.measure.worker_client import Trouble

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

    `slowed` are launches measured while heat or power slowed the GPU down. `ms_per_launch` holds one entry per measured
    shape: milliseconds per new launch, the correctness check apart.
    """

    known: int = 0
    measured: int = 0
    slowed: int = 0
    worker_s: float = 0.0
    check_s: float = 0.0
    ms_per_launch: list[float] = field(default_factory=list)

    def add(self, reply: Mapping[str, Any], fresh: int) -> None:
        """Count a worker's reply with so many new launches."""
        self.measured += fresh
        self.slowed += fresh if reply["slowed"] else 0
        self.worker_s += reply["total_s"]
        self.check_s += reply["check_s"]
        self.ms_per_launch.append(1e3 * (reply["total_s"] - reply["check_s"]) / max(1, fresh))

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def line(self) -> str:
        """One line for people."""
        if not self.measured:
            return f"{self.known} launches from the store, none measured"
        slowed = f"; {self.slowed} while heat or power slowed the GPU down" if self.slowed else ""
        return (
            f"{self.known} launches from the store, {self.measured} measured in {self.worker_s:.1f} s of GPU worker "
            f"time: median {statistics.median(self.ms_per_launch):.1f} ms a launch, correctness checks "
            f"{self.check_s:.1f} s apart{slowed}"
        )


@dataclass(slots=True)
class Known:
    """Launches of one setting that a process knows, by case id; whoever shares it between threads holds a lock.

    Attributes:
        cells: launches with their rounds, the baseline's first; what the oracle is taken over.
        by_launch: latency by key of the canonical launch.
        failed: by case id and launch, why a launch cannot be measured.
    """

    cells: dict[str, tuple[Cell, ...]] = field(default_factory=dict)
    by_launch: dict[str, Mapping[str, Latency]] = field(default_factory=dict)
    failed: dict[tuple[str, str], UnrecordedError] = field(default_factory=dict)

    def of(self, case: Case) -> Mapping[str, Latency]:
        """Latencies of a case by launch; empty where none is known."""
        return self.by_launch.get(case.id, {})

    def missing(self, case: Case, decisions: Mapping[str, Decision]) -> dict[str, Decision]:
        """Those launches whose latency is neither known nor known not to be had."""
        known = self.of(case)
        return {k: d for k, d in decisions.items() if k not in known and (case.id, k) not in self.failed}

    def take(self, case: Case, cells: tuple[Cell, ...], others: Mapping[str, Latency] | None = None) -> None:
        """Know these launches of a case, and latencies of others that are no cells; forget what was known before."""
        self.cells[case.id] = cells
        self.by_launch[case.id] = {**(others or {}), **{c.launch: Latency(c.latencies_us) for c in cells}}


class LiveSource(ABC):
    """Latencies of one setting that grow while they are asked for; see `latency.LatencySource`.

    Attributes:
        setting: how calls reach the kernel.
        bench: what measures; of several GPUs of one kind, one of them.
        device: its GPU.
        gpu: what heuristics may know of it.
        one_gpu: whether all latencies come from the GPU of `bench`.
        count: what this source has cost.
        known: what this process knows.
    """

    grows = True
    one_gpu = False

    def __init__(self, bench: Bench) -> None:
        """Know nothing yet."""
        self.bench = bench
        self.setting: Setting = bench.setting
        self.device: DeviceRecord = bench.device
        self.gpu: Gpu = replace(bench.device.gpu(), max_sm_margin=max(SM_MARGINS))
        self.count = LiveCount()
        self.known = Known()
        self._lock = threading.Lock()

    @abstractmethod
    def prepare(self, wanted: Sequence[tuple[Case, Decision]]) -> Measuring | None:
        """See `LatencySource.prepare`.

        Raises:
            MeasureError: nothing can be measured any more, or a baseline cannot be; what was measured is kept.
            StoreError: the store cannot be written.
        """

    def by_case(self, wanted: Sequence[tuple[Case, Decision]]) -> list[tuple[Case, dict[str, Decision]]]:
        """Each case with the launches that are wanted of it, and a decision that makes each."""
        found: dict[str, tuple[Case, dict[str, Decision]]] = {}
        for case, decision in wanted:
            launch, spelled = self._launch(case, decision)
            found.setdefault(case.id, (case, {}))[1].setdefault(launch, spelled)
        return list(found.values())

    def baseline(self, case: Case) -> tuple[str, Decision]:
        """The stock decision's launch on a case, and that decision spelled out."""
        return self._launch(case, baseline_decision(self.setting))

    def _launch(self, case: Case, decision: Decision) -> tuple[str, Decision]:
        spelled = spelled_out(case.shape, self.setting, decision, self.gpu)
        return canonical_launch(case.shape, self.setting, spelled, self.gpu).key, spelled

    def cells(self, case: Case) -> Sequence[Cell]:
        """See `LatencySource.cells`."""
        return self.known.cells.get(case.id, ())

    def latency(self, case: Case, decision: Decision) -> Latency:
        """See `LatencySource.latency`; only `prepare` measures."""
        launch = canonical_launch(case.shape, self.setting, decision, self.gpu).key
        failed = self.known.failed.get((case.id, launch))
        if failed is not None:
            raise failed
        found = self.known.of(case).get(launch)
        if found is None:
            raise UnrecordedError(f"{case.id}: launch {launch} has not been measured")
        return found


def anchored_cells(readings: Mapping[str, Reading], baseline: str) -> tuple[Cell, ...]:
    """A case's readings on the rounds in which its baseline was measured, that first; empty where it was not."""
    if baseline not in readings:
        return ()
    reference = readings[baseline].latencies_us
    order = [baseline, *sorted(k for k in readings if k != baseline)]
    return tuple(anchored(readings[k], reference) for k in order)


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
