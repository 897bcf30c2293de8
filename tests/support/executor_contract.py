"""Contract of executors with the pool, on simulated GPUs: deaths, hangs and late results cost time, never a result."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from evaluators.data.contract import SETTINGS, Decision, DecodeShape
from evaluators.measure.errors import MeasureErrorKind
from evaluators.measure.executor import Executor, Job, JobResult
from evaluators.measure.job_queue import PoolLimits
from evaluators.measure.pool import Pool

COLD = SETTINGS["fa3_fwd-metadata-cold"]
BENCH = "simulated_gpu:PooledBench"


def job(batch: int = 2, seqlen_k: int = 4096, launches: int = 2) -> Job:
    shape = DecodeShape(batch, seqlen_k, 8, 1)
    return Job(COLD, shape, tuple(Decision(s, blocks_per_split=1) for s in range(2, 2 + launches)), 6)


def shapes(n: int) -> list[Job]:
    return [job(seqlen_k=1024 + 16 * k) for k in range(n)]


def measured(pool: Pool, jobs: list[Job], client: str = "run") -> list[JobResult]:
    return [result for results in pool.measure(client, jobs) for result in results]


def executions(folder: Path) -> Counter[str]:
    """Count of runs of each shape, except the self-test's."""
    path = folder / "executions.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(" ".join(line.split()[1:3]) for line in lines if line.split()[2] != "k2048")


class ExecutorContract:
    """Contract of executors with the pool."""

    def executor(self, gpus: int) -> Executor:
        raise NotImplementedError

    def pool(self, gpus: int, limits: PoolLimits | None = None) -> Pool:
        self.events: list[str] = []
        pool = Pool(self.executor(gpus), [COLD], gpus=gpus, limits=limits, on_event=self.events.append)
        pool.open_client("run")
        return pool

    def test_every_job_is_answered_once_by_a_gpu_of_the_pool(self, simulated: Path) -> None:
        jobs = shapes(60)
        with closing(self.pool(2)) as pool:
            uuids = {d.uuid for d in pool.devices}
            results = measured(pool, jobs)
            report = pool.report()
        assert len(uuids) == 2
        assert Counter(id(a.job) for a in results) == Counter(map(id, jobs))
        assert {a.uuid for a in results} == uuids
        for result in results:
            assert result.error is None and result.reply is not None
            assert [len(c["latencies_us"]) for c in result.reply["cells"]] == [6, 6]
        assert sum(s.launches for s in report) == 120 and not self.events
        assert set(executions(simulated).values()) == {1}

    def test_a_slow_client_gets_every_result(self, simulated: Path) -> None:
        count = 0
        with closing(self.pool(1)) as pool, closing(pool.measure("run", shapes(40))) as batches:
            for results in batches:
                count += len(results)
                # Meanwhile the worker results all that is left.
                while pool.open_jobs("run") != (0, 0):
                    time.sleep(0.01)
        assert count == 40

    def test_a_shape_stays_on_its_gpu(self, simulated: Path) -> None:
        jobs = shapes(20)
        with closing(self.pool(2)) as pool:
            first = {a.job.shape: a.uuid for a in measured(pool, jobs)}
            for _ in range(3):
                again = {a.job.shape: a.uuid for a in measured(pool, list(reversed(jobs)))}
                assert again == first
            assert all(pool.affinity(COLD, shape) == uuid for shape, uuid in first.items())

    def test_an_error_is_a_result_and_costs_no_worker(self, simulated: Path) -> None:
        jobs = [*shapes(4), job(batch=13), *shapes(8)[4:]]
        with closing(self.pool(1)) as pool:
            results = measured(pool, jobs)
            assert pool.report()[0].lost == 0
        assert len(results) == 9
        (bad,) = [a for a in results if a.error is not None]
        assert bad.job is jobs[4] and bad.error is not None and bad.error.kind is MeasureErrorKind.WRONG

    @pytest.mark.parametrize("batch", [18, 21])
    def test_a_dead_worker_or_gpu_is_replaced_and_costs_no_result(self, simulated: Path, batch: int) -> None:
        jobs = [*shapes(20), job(batch=batch), *shapes(40)[20:]]
        with closing(self.pool(2)) as pool:
            results = measured(pool, jobs)
            assert len(pool.devices) == 2
        assert sum(s.lost for s in pool.report()) == 1
        assert Counter(id(a.job) for a in results) == Counter(map(id, jobs))
        assert all(a.error is None for a in results)
        # Its second GPU is another one: it may have been the first one's fault.
        ran = [
            line.split()[0] for line in (simulated / "executions.txt").read_text().splitlines() if f" b{batch} " in line
        ]
        assert len(ran) == 2 and len(set(ran)) == 2
        assert any("restarting" in e for e in self.events)

    @pytest.mark.parametrize("batch", [22, 23])
    def test_numbers_that_no_measurement_gives_are_no_result(self, simulated: Path, batch: int) -> None:
        with closing(self.pool(1)) as pool:
            results = measured(pool, [job(batch=batch), *shapes(3)])
        assert len(results) == 4 and all(a.error is None for a in results)
        assert [s.lost for s in pool.report()] == [1]
        assert any("lacks 'cells'" in e or "positive, finite" in e for e in self.events)

    def test_a_hung_worker_is_given_up_and_replaced(self, simulated: Path) -> None:
        limits = PoolLimits(answer_s=1.5, answer_s_per_launch=0.0)
        jobs = [*shapes(6), job(batch=19), *shapes(12)[6:]]
        with closing(self.pool(2, limits)) as pool:
            results = measured(pool, jobs)
        assert sum(s.lost for s in pool.report()) == 1
        assert Counter(id(a.job) for a in results) == Counter(map(id, jobs))
        assert all(a.error is None for a in results)
        assert any("did not answer in time" in e for e in self.events)

    def test_a_launch_that_kills_every_worker_is_given_up_with_the_reason(self, simulated: Path) -> None:
        jobs = [*shapes(8), job(batch=17), *shapes(16)[8:]]
        with closing(self.pool(2)) as pool:
            results = measured(pool, jobs)
            assert len(pool.devices) == 2
        assert Counter(id(a.job) for a in results) == Counter(map(id, jobs))
        (bad,) = [a for a in results if a.error is not None]
        assert bad.job is jobs[8] and bad.error is not None and bad.error.kind is MeasureErrorKind.DEADLY
        assert "3 workers were lost" in str(bad.error)
        assert executions(simulated)["b17 k4096"] == 3

    def test_a_client_that_stops_leaves_nothing_behind(self, simulated: Path) -> None:
        with closing(self.pool(1)) as pool:
            with closing(pool.measure("run", iter(shapes(4000)))) as results:
                next(results)
            assert pool.open_jobs("run") == (0, 0)
            assert len(measured(pool, shapes(3))) == 3
        assert len(executions(simulated)) < 1000

    def test_two_clients_are_served_in_turn(self, simulated: Path) -> None:
        limits = PoolLimits(max_launches=4)
        seen: list[str] = []
        with closing(self.pool(1, limits)) as pool:
            pool.open_client("other")

            def run(client: str) -> None:
                for results in pool.measure(client, shapes(400) if client == "run" else shapes(40)):
                    seen.extend([client] * len(results))

            threads = [threading.Thread(target=run, args=(c,)) for c in ("run", "other")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(seen) == 440
        # A tenth of the jobs is through long before the rest: by the time it has had about as much of its own.
        assert seen.index("other") < 100 and max(k for k, c in enumerate(seen) if c == "other") < 200
