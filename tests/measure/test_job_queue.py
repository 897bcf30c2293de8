"""Bookkeeping of jobs: everything asked for is answered once, whatever order workers die, hang and answer in."""

from __future__ import annotations

from collections import Counter
from queue import SimpleQueue

import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Setting
from evaluators.measure.executor import Job, JobResult
from evaluators.measure.job_queue import Batch, JobQueue, PendingJob, PoolLimits

COLD, HOT = SETTINGS["fa3_fwd-metadata-cold"], SETTINGS["fa3_fwd-metadata-hot"]
GPUS = ("GPU-a", "GPU-b", "GPU-c")
RESULTS: SimpleQueue[JobResult] = SimpleQueue()


def job(k: int, launches: int = 2, setting: Setting = COLD) -> Job:
    return Job(setting, DecodeShape(1, 100 + k, 8, 1), (Decision(1),) * launches, 6)


def queue(*gpus: str, limits: PoolLimits | None = None) -> JobQueue:
    made = JobQueue(limits)
    made.gpus |= set(gpus or GPUS)
    made.open_client("run")
    return made


def finish(q: JobQueue, batch: Batch) -> list[Job]:
    """Answer a whole batch; its jobs that still waited for a result."""
    pending = [q.answered(batch, k, 0.0) for k in range(len(batch.jobs))]
    assert q.finish(batch)
    return [p.job for p in pending if p is not None]


def test_a_job_of_a_worker_that_was_given_up_is_answered_by_the_next_one_alone() -> None:
    q = queue("GPU-a", "GPU-b")
    q.add("run", [job(0)], RESULTS)
    late = q.take("GPU-a", 0.0)
    assert late is not None
    (gone,) = q.overdue(late.deadline_s)
    assert gone is late and q.lost(late, "it hung", guilty=0) == []
    again = q.take("GPU-b", 200.0)
    assert again is not None and again is not late
    assert q.answered(late, 0, 201.0) is None and not q.finish(late)
    assert finish(q, again) == [job(0)]
    assert q.answered(again, 0, 202.0) is None


def test_an_answer_moves_the_deadline_and_only_the_pools_clock_counts() -> None:
    q = queue("GPU-a", limits=PoolLimits(answer_s=10.0, answer_s_per_launch=0.0, max_launches=100))
    q.add("run", [job(k) for k in range(200)], RESULTS)
    batch = q.take("GPU-a", 5.0)
    assert batch is not None and len(batch.jobs) > 1
    assert q.overdue(14.9) == [] and q.next_deadline_s() == 15.0
    assert q.answered(batch, 0, 14.9) is not None
    assert q.overdue(15.1) == [] and q.overdue(24.9) == [batch]


def test_a_deadline_grows_with_the_open_launches() -> None:
    q = queue("GPU-a", limits=PoolLimits(answer_s=10.0, answer_s_per_launch=1.0))
    q.add("run", [job(k, launches=4) for k in range(6)], RESULTS)
    batch = q.take("GPU-a", 0.0)
    assert batch is not None and len(batch.jobs) == 3 and batch.deadline_s == 22.0
    q.answered(batch, 0, 1.0)
    assert batch.deadline_s == 1.0 + 10.0 + 8.0


def test_only_what_was_open_is_asked_again_and_only_the_guilty_is_blamed() -> None:
    q = queue("GPU-a")
    jobs = [job(k) for k in range(40)]
    q.add("run", jobs, RESULTS)
    batch = q.take("GPU-a", 0.0)
    assert batch is not None and len(batch.jobs) >= 4
    done = [q.answered(batch, k, 0.0) for k in range(2)]
    assert [p.job for p in done if p] == jobs[:2]
    assert q.lost(batch, "it died", guilty=2) == []
    alone = q.take("GPU-a", 0.0)
    assert alone is not None and alone.jobs == (jobs[2],)
    finish(q, alone)
    rest = q.take("GPU-a", 0.0)
    assert rest is not None and rest.jobs[0] == jobs[3]


def test_without_knowing_the_guilty_one_all_are_run_alone_and_only_it_dies_again() -> None:
    q = queue("GPU-a", "GPU-b")
    q.add("run", [job(k) for k in range(40)], RESULTS)
    batch = q.take("GPU-a", 0.0)
    assert batch is not None
    bad, suspects = batch.jobs[1], len(batch.jobs)
    q.lost(batch, "it died")
    given_up: list[PendingJob] = []
    answered = 0
    for k in range(100):
        batch = q.take(("GPU-a", "GPU-b")[k % 2], 0.0)
        if batch is None:
            continue
        if bad in batch.jobs:
            assert batch.jobs == (bad,)
            given_up += q.lost(batch, "it died")
        else:
            answered += len(finish(q, batch))
    assert answered == 39 and suspects > 1
    assert [p.job for p in given_up] == [bad] and given_up[0].deaths == ["it died"] * 3


def test_a_shape_moves_only_when_its_gpu_is_lost() -> None:
    q = queue("GPU-a", "GPU-b")
    q.add("run", [job(0)], RESULTS)
    batch = q.take("GPU-a", 0.0)
    assert batch is not None
    finish(q, batch)
    q.add("run", [job(0)], RESULTS)
    assert q.take("GPU-b", 0.0) is None and q.affinity(COLD, job(0).shape) == "GPU-a"
    # The same shape in another setting is another matter.
    q.add("run", [job(0, setting=HOT)], RESULTS)
    other = q.take("GPU-b", 0.0)
    assert other is not None and other.jobs == (job(0, setting=HOT),)
    q.drop_gpu("GPU-a")
    moved = q.take("GPU-b", 0.0)
    assert moved is not None and moved.jobs == (job(0),)
    assert q.assign(COLD, job(0).shape, "GPU-a") == "GPU-b"


def test_batches_are_of_one_setting_and_shrink_towards_the_end() -> None:
    q = queue("GPU-a", "GPU-b", limits=PoolLimits(max_launches=16))
    q.add("run", [job(k) for k in range(64)], RESULTS)
    sizes = []
    while (batch := q.take("GPU-a", 0.0)) is not None:
        sizes.append(len(batch.jobs))
        finish(q, batch)
    assert sum(sizes) == 64 and max(sizes) == 8 and sizes[-1] == 1 and sizes == sorted(sizes, reverse=True)
    q.add("run", [job(k, setting=(COLD, HOT)[k % 2]) for k in range(100, 164)], RESULTS)
    while (batch := q.take("GPU-b", 0.0)) is not None:
        assert len({j.setting for j in batch.jobs}) == 1
        finish(q, batch)


def test_a_shape_that_was_brought_back_to_the_gpu_to_be_avoided_moves_again() -> None:
    q = queue("GPU-a", "GPU-b")
    q.add("run", [job(0), job(0, launches=3)], RESULTS)
    batch = q.take("GPU-a", 0.0)
    assert batch is not None
    q.lost(batch, "it died", guilty=0)
    other = q.take("GPU-a", 0.0)
    assert other is not None and finish(q, other) == [job(0, launches=3)] and q.take("GPU-a", 0.0) is None
    again = q.take("GPU-b", 0.0)
    assert again is not None and finish(q, again) == [job(0)]


def test_a_cancelled_job_is_neither_run_nor_answered_and_others_are() -> None:
    q = queue("GPU-a")
    mine: SimpleQueue[JobResult] = SimpleQueue()
    q.add("run", [job(k) for k in range(8)], mine)
    q.add("run", [job(k) for k in range(20, 24)], RESULTS)
    batch = q.take("GPU-a", 0.0)
    assert batch is not None
    q.cancel("run", mine)
    assert finish(q, batch) == [] and q.open_jobs("run") == (4, 0)
    left = []
    while (batch := q.take("GPU-a", 0.0)) is not None:
        left += finish(q, batch)
    assert left == [job(k) for k in range(20, 24)]


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4))
@settings(max_examples=10)
def test_clients_are_served_alike_whatever_the_sizes_of_their_jobs(sizes: list[int]) -> None:
    q = JobQueue(PoolLimits(max_launches=4))
    q.gpus.add("GPU-a")
    for k, size in enumerate(sizes):
        q.open_client(str(k))
        q.add(str(k), [job(1000 * k + n, launches=size) for n in range(1600)], RESULTS)
    served: Counter[str] = Counter()
    for _ in range(400):
        batch = q.take("GPU-a", 0.0)
        assert batch is not None
        served[batch.open[0].client.name] += batch.launches
        finish(q, batch)
    for k in range(len(sizes)):
        assert served[str(k)] / sum(served.values()) == pytest.approx(1 / len(sizes), abs=0.02)


def test_a_late_client_gets_its_share_from_then_on_and_no_one_saves_up() -> None:
    q = JobQueue(PoolLimits(max_launches=4))
    q.gpus.add("GPU-a")
    q.open_client("early")
    q.open_client("idle")
    q.add("early", [job(k) for k in range(3000)], RESULTS)

    def serve(batches: int) -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(batches):
            batch = q.take("GPU-a", 0.0)
            assert batch is not None
            found[batch.open[0].client.name] += 1
            finish(q, batch)
        return found

    serve(200)
    q.open_client("late")
    q.add("late", [job(k) for k in range(5000, 6000)], RESULTS)
    q.add("idle", [job(k) for k in range(7000, 8000)], RESULTS)
    assert max(serve(90).values()) <= 31


def test_a_client_has_a_name_of_its_own() -> None:
    with pytest.raises(ValueError, match="already"):
        queue().open_client("run")


class Anything(RuleBasedStateMachine):
    """Workers take, answer, die, hang and come late; clients come, cancel and go; GPUs are left out."""

    @initialize()
    def begin(self) -> None:
        self.queue = JobQueue(PoolLimits(max_launches=8, answer_s=10.0, answer_s_per_launch=0.0))
        self.queue.gpus |= set(GPUS)
        self.now = 0.0
        self.open: Counter[str] = Counter()
        self.seen: Counter[PendingJob] = Counter()
        self.old: list[Batch] = []
        for name in ("a", "b"):
            self.queue.open_client(name)

    @rule(client=st.sampled_from("ab"), shapes=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=8))
    def ask(self, client: str, shapes: list[tuple[int, bool]]) -> None:
        self.queue.add(client, [job(k, setting=HOT if hot else COLD) for k, hot in shapes], RESULTS)
        self.open[client] += len(shapes)

    @rule(gpu=st.sampled_from(GPUS))
    def take(self, gpu: str) -> None:
        if any(batch.gpu == gpu for batch in self.queue.batches):
            return
        batch = self.queue.take(gpu, self.now)
        if batch is None:
            return
        assert gpu in self.queue.gpus and batch not in self.old
        for position, pending in batch.open.items():
            assert pending.job is batch.jobs[position]
            assert self.queue.affinity(pending.job.setting, pending.job.shape) == gpu
        self.old.append(batch)

    def over(self, pending: PendingJob) -> None:
        self.seen[pending] += 1
        self.open[pending.client.name] -= 1

    def accept(self, batch: Batch, positions: range) -> None:
        for position in positions:
            pending = self.queue.answered(batch, position, self.now)
            if pending is not None:
                assert pending.job is batch.jobs[position]
                self.over(pending)

    @precondition(lambda self: self.old)
    @rule(data=st.data(), share=st.floats(0, 1))
    def answer_some(self, data: st.DataObject, share: float) -> None:
        batch = data.draw(st.sampled_from(self.old))
        self.accept(batch, range(round(share * len(batch.jobs))))

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def answer_all(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.old))
        self.accept(batch, range(len(batch.jobs)))
        self.queue.finish(batch)

    def lose(self, batch: Batch, guilty: int | None) -> None:
        for pending in self.queue.lost(batch, "lost", guilty=guilty):
            assert len(pending.deaths) == self.queue.limits.max_deaths
            self.over(pending)

    @precondition(lambda self: self.queue.batches)
    @rule(data=st.data(), known=st.booleans())
    def die(self, data: st.DataObject, known: bool) -> None:
        batch = data.draw(st.sampled_from([b for b in self.old if b in self.queue.batches]))
        self.lose(batch, min(batch.open, default=0) if known else None)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for batch in self.queue.overdue(self.now):
            self.lose(batch, None)

    @precondition(lambda self: len(self.queue.gpus) > 1)
    @rule(data=st.data())
    def leave_out(self, data: st.DataObject) -> None:
        gpu = data.draw(st.sampled_from(sorted(self.queue.gpus)))
        for batch in [b for b in self.queue.batches if b.gpu == gpu]:
            self.lose(batch, 0)
        self.queue.drop_gpu(gpu)

    @rule(client=st.sampled_from("ab"))
    def cancel(self, client: str) -> None:
        self.queue.cancel(client, RESULTS)
        self.open[client] = 0

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert all(n == 1 for n in self.seen.values())
        assert [sum(self.queue.open_jobs(client)) for client in "ab"] == [self.open[client] for client in "ab"]

    def teardown(self) -> None:
        """Healthy workers bring everything that is left to an end."""
        if not hasattr(self, "queue"):
            return
        for batch in list(self.queue.batches):
            self.accept(batch, range(len(batch.jobs)))
            self.queue.finish(batch)
        idle = 0
        while idle < len(GPUS):
            for gpu in GPUS:
                batch = self.queue.take(gpu, self.now)
                idle = idle + 1 if batch is None else 0
                if batch is not None:
                    self.accept(batch, range(len(batch.jobs)))
                    assert self.queue.finish(batch)
        assert not any(self.open.values())


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=examples(15), stateful_step_count=30, deadline=None)
