"""A pool of workers: starts and replaces them, and delivers every result exactly once.

One thread per GPU serves its worker. A watchdog kills workers that do not answer in time: their jobs wait again, and
late replies find no open job. A job may run twice; since the store keeps the first result of a launch, that costs only
time.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Literal

from evaluators.data.contract import DecodeShape, Setting
from evaluators.data.device import DeviceRecord
from evaluators.latencies.store import BenchKey
from evaluators.measure.errors import MeasureError, MeasureErrorKind, WorkerLost
from evaluators.measure.executor import Channel, Executor, Job, JobResult, WorkerInfo, measured_of
from evaluators.measure.job_queue import Batch, JobQueue, PendingJob, PoolLimits
from evaluators.measure.local import LocalExecutor, visible_gpus
from evaluators.measure.pool_worker import START_S, PoolWorker

EXECUTORS = ("local", "ray")

MAX_LOST_IN_A_ROW = 8
"""Consecutive workers lost on one GPU without a finished batch before the GPU is left out."""

CLOSE_S = 60.0
"""Time for all workers to release their GPUs after the pool is closed."""

JOBS_AT_ONCE = 32
"""Jobs taken from a client's iterable at a time."""

CLOSED = "the pool is closed"
TOO_LATE = "it did not answer in time"


class Pool:
    """Workers of one GPU model and one set of kernel builds. Thread-safe.

    Attributes:
        in_flight: launches that sources are measuring, so that others wait for them; guarded by `landed`.
    """

    def __init__(
        self,
        executor: Executor,
        settings: Sequence[Setting],
        *,
        gpus: int | Literal["all"] = "all",
        limits: PoolLimits | None = None,
        start_s: float = START_S,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Start workers and wait until each has passed its self-test or is left out.

        Args:
            executor: starter of workers; closed with the pool.
            settings: settings to measure; all are opened and tested now.
            gpus: number of GPUs; one that is left out is replaced by the executor's next.
            limits: sizes of batches, and time limits.
            start_s: time limit for a worker's start.
            on_event: called with a sentence when a GPU is left out or a worker is lost, from several threads.

        Raises:
            MeasureError: of kind unavailable: no worker could be started; the message gives the reason.
        """
        self.executor, self.settings = executor, tuple(settings)
        self._start_s, self._tell = start_s, on_event
        self._queue = JobQueue(limits)
        # The watchdog has its own condition: waking it for every job would be too expensive.
        lock = threading.RLock()
        self._change, self._closed = threading.Condition(lock), threading.Condition(lock)
        self._closing = False
        self.in_flight, self.landed = set[Hashable](), threading.Condition()
        self._workers: list[PoolWorker] = []
        self._threads: list[threading.Thread] = []
        self._seeds = itertools.count()
        if not (names := list(executor.gpus())):
            raise MeasureError(MeasureErrorKind.UNAVAILABLE, f"executor {executor.name}: there is no GPU to measure on")
        self._start_all(names, len(names) if gpus == "all" else gpus)
        ready = [w for w in self._workers if not w.out]
        if not ready:
            why = "; ".join(w.out for w in self._workers)
            executor.close()
            raise MeasureError(MeasureErrorKind.UNAVAILABLE, f"no worker could be started: {why}")
        if gpus != "all" and len(ready) < gpus:
            self._tell(f"{gpus} GPUs were asked for, {len(ready)} can be had")
        self._threads = [threading.Thread(target=self._serve, args=(w,), daemon=True) for w in ready]
        self._threads.append(threading.Thread(target=self._watch, daemon=True))
        for thread in self._threads:
            thread.start()

    # What callers use.

    @property
    def devices(self) -> list[DeviceRecord]:
        """GPUs in use."""
        return [w.info.device for w in self._workers if w.info and not w.out]

    def benches(self, setting: Setting) -> dict[str, BenchKey]:
        """Store keys of a setting's latencies, by UUID."""
        ready = [(w.uuid, w.info) for w in self._workers if w.info and not w.out]
        return {uuid: BenchKey(info.device, info.builds[setting.name], setting) for uuid, info in ready}

    def report(self) -> list[PoolWorker]:
        """State of every GPU that was tried; copies."""
        with self._change:
            return [replace(w, channel=None) for w in self._workers]

    def open_client(self, name: str) -> None:
        """Add a queue with a fair share of the pool; see `JobQueue.open_client`."""
        with self._change:
            self._queue.open_client(name)

    def close_client(self, name: str) -> None:
        """Remove a client and its waiting jobs."""
        with self._change:
            self._queue.close_client(name)

    def open_jobs(self, client: str) -> tuple[int, int]:
        """Numbers of (waiting, running) jobs of a client."""
        with self._change:
            return self._queue.open_jobs(client)

    def assign(self, setting: Setting, shape: DecodeShape, uuid: str) -> str:
        """Assign a shape to a GPU unless it is assigned already; returns the UUID, empty if the GPU is not in use."""
        with self._change:
            return self._queue.assign(setting, shape, uuid)

    def affinity(self, setting: Setting, shape: DecodeShape) -> str:
        """UUID of the GPU that measures a shape; empty if unassigned."""
        with self._change:
            return self._queue.affinity(setting, shape)

    def measure(self, client: str, jobs: Iterable[Job]) -> Generator[list[JobResult], None, None]:
        """Yield lists of results, one result per job, in the order of arrival.

        Jobs are taken from the iterable as needed. Closing the generator cancels the rest.

        Raises:
            MeasureError: of kind lost: no worker is left.
        """
        results: SimpleQueue[JobResult] = SimpleQueue()
        source, more = iter(jobs), True
        launches, unread = 0, 0
        try:
            while True:
                while more and launches < 4 * self._queue.limits.max_launches * max(1, len(self._queue.gpus)):
                    chunk = list(itertools.islice(source, JOBS_AT_ONCE))
                    more = len(chunk) == JOBS_AT_ONCE
                    launches += sum(len(job.decisions) for job in chunk)
                    unread += len(chunk)
                    if chunk:
                        self._add(client, chunk, results)
                if not unread:
                    return
                # This is the only reader, so that all available results can be taken.
                found = [results.get(), *(results.get() for _ in range(results.qsize()))]
                unread -= len(found)
                launches -= sum(len(result.job.decisions) for result in found)
                yield found
        finally:
            with self._change:
                if client in self._queue.clients:
                    self._queue.cancel(client, results)

    def _add(self, client: str, jobs: Sequence[Job], results: SimpleQueue[JobResult]) -> None:
        with self._change:
            if self._closing or not self._queue.gpus:
                raise self.no_worker()
            self._queue.add(client, jobs, results)
            self._change.notify_all()

    def no_worker(self, why: str = "") -> MeasureError:
        """Error for a pool without workers."""
        outs = "; ".join(w.out for w in self._workers if w.out)
        why = CLOSED if self._closing else why or outs or "no GPU is within reach"
        return MeasureError(MeasureErrorKind.LOST, f"no worker is left: {why}; what was measured is kept")

    def close(self) -> None:
        """End all workers and wait until they have released their GPUs; waiting callers get an error.

        Does not wait for a worker that cannot be killed, on an unreachable host.
        """
        with self._change:
            if self._closing:
                return
            self._closing = True
            busy = {batch.gpu for batch in self._queue.batches}
            for worker in self._workers:
                if worker.channel is not None and not worker.out and (worker.uuid in busy or worker.starting):
                    worker.channel.kill()
            self._change.notify_all()
            self._closed.notify_all()
        until = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._change:
            self._fail(self._queue.drain(), self.no_worker())
            for batch in self._queue.batches:
                self._fail(batch.open.values(), self.no_worker())
                batch.open = {}
        self.executor.close()

    # Starting workers, and leaving GPUs out.

    def _start_all(self, names: list[str], wanted: int) -> None:
        """Start the workers concurrently; spare GPUs replace those that are left out."""
        model: tuple[object, ...] | None = None
        while names and (missing := wanted - sum(not w.out for w in self._workers)) > 0:
            batch = [PoolWorker(name) for name in names[:missing]]
            del names[:missing]
            self._workers += batch
            starting = [threading.Thread(target=self._start, args=(worker,), daemon=True) for worker in batch]
            for thread in starting:
                thread.start()
            for thread in starting:
                thread.join()
            models = Counter(w.info.model for w in self._workers if w.info and not w.out)
            if model is None and models:
                model = models.most_common(1)[0][0]
            for worker in self._workers:
                if not worker.out and worker.info is not None and worker.info.model != model:
                    self._dismiss(worker, worker.info)
        with self._change:
            self._queue.gpus |= {w.uuid for w in self._workers if not w.out}

    def _dismiss(self, worker: PoolWorker, info: WorkerInfo) -> None:
        """Leave out a GPU with another model, driver or kernel build than the pool's."""
        assert worker.channel is not None
        worker.channel.close()
        kind = f"{info.device.name}, driver {info.device.driver}, {', '.join(info.builds.values())}"
        self._leave_out(worker, f"{worker.label} is another kind than the pool's other GPUs ({kind})")

    def _leave_out(self, worker: PoolWorker, why: str) -> None:
        """Leave out a GPU, with an event."""
        with self._change:
            worker.out = why
            self._drop(worker, self.no_worker())
        self._tell(f"left out: {why}")

    def _drop(self, worker: PoolWorker, error: MeasureError) -> None:
        """Move a GPU's shapes to others; with the last GPU, all waiting jobs fail."""
        self._queue.drop_gpu(worker.uuid)
        if not self._queue.gpus:
            self._fail(self._queue.drain(), error)
        self._change.notify_all()

    def _fail(self, pending: Iterable[PendingJob], error: MeasureError) -> None:
        for p in pending:
            p.results.put(JobResult(p.job, "", None, error))

    def _start(self, worker: PoolWorker) -> bool:
        """Start a GPU's worker; False if the pool is closing, or the GPU is left out."""

        def pause(seconds: float) -> bool:
            with self._change:
                return self._change.wait_for(lambda: self._closing, seconds)

        why = worker.start(self.executor, self.settings, seeds=self._seeds, start_s=self._start_s, pause=pause)
        if why and not self._closing:
            self._leave_out(worker, why)
        return not why and not self._closing

    # Running batches.

    def _serve(self, worker: PoolWorker) -> None:
        """Run batches on a GPU until the pool closes or the GPU is left out."""
        while True:
            assert worker.channel is not None
            batch = self._next_batch(worker.uuid)
            if batch is None:
                worker.channel.close()
                return
            started = time.monotonic()
            lost = self._run(worker, worker.channel, batch)
            with self._change:
                worker.busy_s += time.monotonic() - started
                worker.lost_at_s = None
            if not lost:
                worker.lost_in_a_row = 0
                continue
            worker.channel.kill()
            worker.channel.close()
            if lost == CLOSED:
                return
            worker.lost += 1
            worker.lost_in_a_row += 1
            if worker.lost_in_a_row >= MAX_LOST_IN_A_ROW:
                text = f"{worker.label}: {worker.lost_in_a_row} workers lost in a row, the last: {lost}"
                self._leave_out(worker, text)
                return
            self._tell(f"worker on {worker.label} lost ({lost}); restarting")
            with self._change:
                worker.lost_at_s = time.monotonic()
            if self._closing or not self._start(worker):
                return
            with self._change:
                worker.lost_at_s = None
                self._queue.gpus.add(worker.uuid)

    def _next_batch(self, uuid: str) -> Batch | None:
        """Wait for jobs for a GPU; None when the pool closes."""
        with self._change:
            while not self._closing:
                batch = self._queue.take(uuid, time.monotonic())
                if batch is not None:
                    return batch
                self._change.wait()
        return None

    def _run(self, worker: PoolWorker, channel: Channel, batch: Batch) -> str:
        """Run a batch; returns the reason of a lost worker, otherwise an empty text."""
        position = 0
        try:
            for reply in channel.run(batch.jobs):
                if reply.get("error") == MeasureErrorKind.LOST.value:
                    return self._lost(batch, reply["message"], position)
                job = batch.jobs[position]
                try:
                    measured = measured_of(reply, job)
                    result = JobResult(job, worker.uuid, measured, None, measured["total_s"])
                except MeasureError as error:
                    result = JobResult(job, worker.uuid, None, error, reply.get("busy_s", 0.0))
                with self._change:
                    pending = self._queue.answered(batch, position, time.monotonic())
                    if pending is not None:
                        worker.launches += len(job.decisions)
                        pending.results.put(result)
                    if batch not in self._queue.batches:
                        return TOO_LATE
                position += 1
        except WorkerLost as error:
            return self._lost(batch, str(error), position if channel.streams else None)
        with self._change:
            return "" if self._queue.finish(batch) else TOO_LATE

    def _lost(self, batch: Batch, why: str, guilty: int | None) -> str:
        """Queue the jobs of a lost worker again; returns the reason of the loss."""
        with self._change:
            if batch not in self._queue.batches:
                return TOO_LATE
            if self._closing:
                return CLOSED
            for pending in self._queue.lost(batch, why, guilty=guilty):
                text = f"{len(pending.deaths)} workers were lost over this launch: {'; '.join(pending.deaths)}"
                self._fail([pending], MeasureError(MeasureErrorKind.DEADLY, text))
            self._change.notify_all()
        return why

    def _watch(self) -> None:
        """Kill workers that do not answer in time."""
        answer_s = self._queue.limits.answer_s
        with self._change:
            while not self._closing:
                now = time.monotonic()
                for batch in self._queue.overdue(now):
                    worker = next(w for w in self._workers if w.uuid == batch.gpu and not w.out)
                    channel, worker.lost_at_s = worker.channel, now
                    assert channel is not None
                    self._lost(
                        batch,
                        f"the worker on {batch.gpu} did not answer in time",
                        min(batch.open, default=0) if channel.streams else None,
                    )
                    channel.kill()
                for worker in self._workers:
                    # Without another GPU, jobs wait for a worker that is starting.
                    waited_for = worker.starting and len(self._queue.gpus) == 1
                    since = worker.lost_at_s
                    if since is None or now - since <= answer_s or waited_for or worker.uuid not in self._queue.gpus:
                        continue
                    self._drop(worker, self.no_worker(f"{worker.label} is out of reach"))
                    self._tell(f"out of reach: the worker on {worker.label}; its shapes move to other GPUs")
                # No batch that starts in the meantime can be overdue sooner.
                deadline_s = self._queue.next_deadline_s()
                self._closed.wait(answer_s if deadline_s is None else max(0.0, min(answer_s, deadline_s - now)))


def open_executor(name: str | None) -> Executor:
    """Open an executor by name; None is this machine's first visible GPU alone.

    Raises:
        MeasureError: of kind unavailable: there is no GPU, or what the executor needs is not installed.
    """
    if name == "ray":
        from evaluators.measure.ray import RayExecutor

        return RayExecutor()
    return LocalExecutor(() if name else visible_gpus()[:1])


def open_pool(
    executor: str | None,
    gpus: int | Literal["all"],
    settings: Sequence[Setting],
    *,
    on_event: Callable[[str], None] = lambda text: None,
) -> Pool:
    """Open a pool with tested workers for all of these settings.

    Raises:
        MeasureError: of kind unavailable.
    """
    return Pool(open_executor(executor), settings, gpus=gpus, on_event=on_event)
