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
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.executor import Channel, Job, WorkerInfo
from evaluators.measure.job_queue import PoolLimits
from evaluators.measure.pool import Pool


class Unkillable(Channel):
    """A worker beyond a network partition: the kill does not reach it, and its answer comes when `gate` opens."""

    streams = True

    def __init__(self, uuid: str, gate: threading.Event | None, cut: threading.Event) -> None:
        self.uuid, self.gate, self.cut = uuid, gate, cut
        self.kills = 0

    def replies(self, request: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
        raise NotImplementedError

    def open(self, settings: Sequence[Setting], *, seed: int, self_test: bool = True) -> WorkerInfo:
        return WorkerInfo(
            replace(SIMULATED_DEVICE, uuid=self.uuid), {s.name: SIMULATED_BUILD for s in settings}, "host"
        )

    def run(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        for job in jobs:
            if self.gate is not None:
                self.cut.set()
                assert self.gate.wait(30)
            assert self.cut.wait(30)
            cells = [{"latencies_us": [1.0] * 6, "error": 0.0} for _ in job.decisions]
            yield {"ok": {"cells": cells, "sm_clock_mhz": 1, "slowed": False, "total_s": 0.0, "check_s": 0.0}}

    def kill(self) -> None:
        self.kills += 1

    def close(self) -> None:
        pass


class Partitioned:
    """Two GPUs; the first worker on the second is out of reach from its first batch on."""

    name = "partitioned"

    def __init__(self) -> None:
        self.gate, self.cut = threading.Event(), threading.Event()
        self.started: list[Unkillable] = []

    def gpus(self) -> Sequence[str]:
        return ["GPU-near", "GPU-far"]

    def start(self, gpu: str) -> Unkillable:
        first = gpu == "GPU-far" and all(w.uuid != gpu for w in self.started)
        self.started.append(Unkillable(gpu, self.gate if first else None, self.cut))
        return self.started[-1]

    def close(self) -> None:
        self.gate.set()


def test_a_late_answer_from_beyond_a_partition_is_thrown_away() -> None:
    executor = Partitioned()
    limits = PoolLimits(answer_s=0.3, answer_s_per_launch=0.0)
    jobs = shapes(60)
    with closing(Pool(executor, [COLD], limits=limits)) as pool:
        pool.open_client("run")
        answers = measured(pool, jobs)
        # All is answered although the far worker has said nothing yet; what it held went to the near one.
        assert Counter(id(a.job) for a in answers) == Counter(map(id, jobs))
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
            told = [a.error for a in answers if a.error is not None]
            assert all(t.kind is MeasureErrorKind.LOST and "the pool is closed" in str(t) for t in told)
    assert pool.open_jobs("run") == (0, 0)
