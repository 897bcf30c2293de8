"""The pool with workers made up in this process, for what real ones cannot be made to do: outliving their kill."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from executor_contract import COLD, measured, shapes
from simulated_gpu import SIMULATED_BUILD, SIMULATED_DEVICE

from evaluators.data.contract import Setting
from evaluators.measure.executor import Hello, Work, WorkerLost
from evaluators.measure.leases import LeaseBook
from evaluators.measure.pool import Pool
from evaluators.measure.worker_client import MeasureError, Trouble


class Unkillable:
    """A worker beyond a network partition: the kill does not reach it, and its answer comes when `gate` opens."""

    streams = True

    def __init__(self, uuid: str, gate: threading.Event | None, cut: threading.Event) -> None:
        self.uuid, self.gate, self.cut = uuid, gate, cut
        self.kills = 0

    def open(self, settings: Sequence[Setting], *, seed: int) -> Hello:
        return Hello(replace(SIMULATED_DEVICE, uuid=self.uuid), {s.name: SIMULATED_BUILD for s in settings}, "host")

    def run(self, works: Sequence[Work]) -> Iterator[dict[str, Any]]:
        for work in works:
            if self.gate is not None:
                self.cut.set()
                assert self.gate.wait(30)
            assert self.cut.wait(30)
            cells = [{"latencies_us": [1.0] * 6, "error": 0.0} for _ in work.decisions]
            yield {"ok": {"cells": cells, "sm_clock_mhz": 1, "slowed": False, "total_s": 0.0, "check_s": 0.0}}

    def ask(self, op: str, setting: Setting, **arguments: Any) -> Any:
        raise WorkerLost("not asked here")

    def kill(self) -> None:
        self.kills += 1

    def close(self) -> None:
        pass


class Partitioned:
    """Two GPUs; the first worker on the second is out of reach from its first lease on."""

    name = "partitioned"

    def __init__(self) -> None:
        self.gate, self.cut = threading.Event(), threading.Event()
        self.started: list[Unkillable] = []

    def seats(self) -> Sequence[str]:
        return ["GPU-near", "GPU-far"]

    def start(self, seat: str) -> Unkillable:
        first = seat == "GPU-far" and all(w.uuid != seat for w in self.started)
        self.started.append(Unkillable(seat, self.gate if first else None, self.cut))
        return self.started[-1]

    def close(self) -> None:
        self.gate.set()


def test_a_late_answer_from_beyond_a_partition_is_thrown_away() -> None:
    executor = Partitioned()
    book = LeaseBook(lease_s=0.3, lease_s_per_launch=0.0)
    works = shapes(60)
    with closing(Pool(executor, [COLD], book=book)) as pool:
        pool.open_client("run")
        answers = measured(pool, works)
        # All is answered although the far worker has said nothing yet; what it held went to the near one.
        assert Counter(id(a.work) for a in answers) == Counter(map(id, works))
        assert {a.uuid for a in answers} == {"GPU-near"}
        (far,) = [w for w in executor.started if w.uuid == "GPU-far"]
        assert far.kills >= 1
        before = {s.name: s.launches for s in pool.report()}
        executor.gate.set()
        while len(executor.started) < 3:
            threading.Event().wait(0.01)
        after = {s.name: s.launches for s in pool.report()}
        assert before == after and after["GPU-far"] == 0
        assert len(measured(pool, shapes(60))) == 60
    assert {s.name: s.lost for s in pool.report()} == {"GPU-near": 0, "GPU-far": 1}


def test_closing_twice_and_while_a_client_reads_is_no_trouble() -> None:
    executor = Partitioned()
    executor.gate.set()
    executor.cut.set()
    pool = Pool(executor, [COLD])
    pool.open_client("run")
    batches = pool.measure("run", iter(shapes(5000)))
    next(batches)
    pool.close()
    pool.close()
    with pytest.raises(MeasureError, match="the pool is closed"):
        for answers in batches:
            told = [a.trouble for a in answers if a.trouble is not None]
            assert all(t.kind is Trouble.LOST and "the pool is closed" in str(t) for t in told)
    assert pool.open_works("run") == (0, 0)
