"""What any executor owes the pool, on simulated GPUs: what dies, hangs or answers late costs time, never a result."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from evaluators.data.contract import SETTINGS, Decision, DecodeShape
from evaluators.measure.executor import Answer, Executor, Work
from evaluators.measure.leases import LeaseBook
from evaluators.measure.pool import Pool
from evaluators.measure.worker_client import Trouble

COLD = SETTINGS["fa3_fwd-metadata-cold"]
BENCH = "simulated_gpu:SeatBench"


def work(batch: int = 2, seqlen_k: int = 4096, launches: int = 2) -> Work:
    shape = DecodeShape(batch, seqlen_k, 8, 1)
    return Work(COLD, shape, tuple(Decision(s, blocks_per_split=1) for s in range(2, 2 + launches)), 6)


def shapes(n: int) -> list[Work]:
    return [work(seqlen_k=1024 + 16 * k) for k in range(n)]


def measured(pool: Pool, works: list[Work], client: str = "run") -> list[Answer]:
    return [answer for answers in pool.measure(client, works) for answer in answers]


def executions(folder: Path) -> Counter[str]:
    """How often each shape was run, the self-test's apart."""
    path = folder / "executions.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(" ".join(line.split()[1:3]) for line in lines if line.split()[2] != "k2048")


class ExecutorContract:
    """What any executor owes the pool."""

    def executor(self, gpus: int) -> Executor:
        raise NotImplementedError

    def pool(self, gpus: int, book: LeaseBook | None = None) -> Pool:
        self.events: list[str] = []
        pool = Pool(self.executor(gpus), [COLD], gpus=gpus, book=book, on_event=self.events.append)
        pool.open_client("run")
        return pool

    def test_every_work_is_answered_once_by_a_gpu_of_the_pool(self, simulated: Path) -> None:
        works = shapes(60)
        with closing(self.pool(2)) as pool:
            uuids = {d.uuid for d in pool.devices}
            answers = measured(pool, works)
            report = pool.report()
        assert len(uuids) == 2
        assert Counter(id(a.work) for a in answers) == Counter(map(id, works))
        assert {a.uuid for a in answers} == uuids
        for answer in answers:
            assert answer.trouble is None and answer.reply is not None
            assert [len(c["latencies_us"]) for c in answer.reply["cells"]] == [6, 6]
        assert sum(s.launches for s in report) == 120 and not self.events
        assert set(executions(simulated).values()) == {1}

    def test_a_slow_client_gets_every_answer(self, simulated: Path) -> None:
        count = 0
        with closing(self.pool(1)) as pool, closing(pool.measure("run", shapes(40))) as batches:
            for answers in batches:
                count += len(answers)
                # Meanwhile the worker answers all that is left.
                while pool.open_works("run") != (0, 0):
                    time.sleep(0.01)
        assert count == 40

    def test_a_shape_stays_on_its_gpu(self, simulated: Path) -> None:
        works = shapes(20)
        with closing(self.pool(2)) as pool:
            first = {a.work.shape: a.uuid for a in measured(pool, works)}
            for _ in range(3):
                again = {a.work.shape: a.uuid for a in measured(pool, list(reversed(works)))}
                assert again == first
            assert all(pool.home(COLD, shape) == uuid for shape, uuid in first.items())

    def test_trouble_is_an_answer_and_costs_no_worker(self, simulated: Path) -> None:
        works = [*shapes(4), work(batch=13), *shapes(8)[4:]]
        with closing(self.pool(1)) as pool:
            answers = measured(pool, works)
            assert pool.report()[0].lost == 0
        assert len(answers) == 9
        (bad,) = [a for a in answers if a.trouble is not None]
        assert bad.work is works[4] and bad.trouble is not None and bad.trouble.kind is Trouble.WRONG

    @pytest.mark.parametrize("batch", [18, 21])
    def test_a_dead_worker_or_gpu_is_replaced_and_costs_no_result(self, simulated: Path, batch: int) -> None:
        works = [*shapes(20), work(batch=batch), *shapes(40)[20:]]
        with closing(self.pool(2)) as pool:
            answers = measured(pool, works)
            assert len(pool.devices) == 2
        assert sum(s.lost for s in pool.report()) == 1
        assert Counter(id(a.work) for a in answers) == Counter(map(id, works))
        assert all(a.trouble is None for a in answers)
        # Its second GPU is another one: it may have been the first one's fault.
        ran = [
            line.split()[0] for line in (simulated / "executions.txt").read_text().splitlines() if f" b{batch} " in line
        ]
        assert len(ran) == 2 and len(set(ran)) == 2
        assert any("another takes its place" in e for e in self.events)

    def test_a_hung_worker_is_fenced_and_replaced(self, simulated: Path) -> None:
        book = LeaseBook(lease_s=1.5, lease_s_per_launch=0.0)
        works = [*shapes(6), work(batch=19), *shapes(12)[6:]]
        with closing(self.pool(2, book)) as pool:
            answers = measured(pool, works)
        assert sum(s.lost for s in pool.report()) == 1
        assert Counter(id(a.work) for a in answers) == Counter(map(id, works))
        assert all(a.trouble is None for a in answers)
        assert any("lease ran out" in e for e in self.events)

    def test_a_launch_that_kills_every_worker_is_given_up_with_the_reason(self, simulated: Path) -> None:
        works = [*shapes(8), work(batch=17), *shapes(16)[8:]]
        with closing(self.pool(2)) as pool:
            answers = measured(pool, works)
            assert len(pool.devices) == 2
        assert Counter(id(a.work) for a in answers) == Counter(map(id, works))
        (bad,) = [a for a in answers if a.trouble is not None]
        assert bad.work is works[8] and bad.trouble is not None and bad.trouble.kind is Trouble.DEADLY
        assert "3 workers were lost" in str(bad.trouble)
        assert executions(simulated)["b17 k4096"] == 3

    def test_a_client_that_stops_leaves_nothing_behind(self, simulated: Path) -> None:
        with closing(self.pool(1)) as pool:
            with closing(pool.measure("run", iter(shapes(4000)))) as answers:
                next(answers)
            assert pool.open_works("run") == (0, 0)
            assert len(measured(pool, shapes(3))) == 3
        assert len(executions(simulated)) < 1000

    def test_two_clients_are_served_in_turn(self, simulated: Path) -> None:
        book = LeaseBook(max_launches=4)
        seen: list[str] = []
        with closing(self.pool(1, book)) as pool:
            pool.open_client("other")

            def run(client: str) -> None:
                for answers in pool.measure(client, shapes(400) if client == "run" else shapes(40)):
                    seen.extend([client] * len(answers))

            threads = [threading.Thread(target=run, args=(c,)) for c in ("run", "other")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(seen) == 440
        # A tenth of the work is through long before the rest: by the time it has had about as much of its own.
        assert seen.index("other") < 100 and max(k for k, c in enumerate(seen) if c == "other") < 200
