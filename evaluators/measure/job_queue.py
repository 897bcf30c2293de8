"""Fair queues of jobs, running batches, and the affinity of shapes to GPUs.

Bookkeeping without threads, processes or clocks: the pool holds a lock around every call and passes the time of its
own monotonic clock, so that the clocks of other machines do not matter. The queue is not persistent: after a restart
the store has the known launches, and the rest is requested again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue

from evaluators.data.contract import DecodeShape, Setting
from evaluators.measure.executor import Job, JobResult


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Limits of a pool; tests use smaller ones.

    Attributes:
        max_launches: largest number of launches of a batch, which a lost worker costs: 1.6 s of an H100 at the median
            of 12.4 ms a launch.
        max_deaths: workers that may be lost during one job before it fails.
        answer_s: time limit of a worker since the start of its batch or its last reply, plus ...
        answer_s_per_launch: ... this time for each open launch: a minute covers the set-up before the first launch of a
            setting, and this is 80 times the median launch.
    """

    max_launches: int = 128
    max_deaths: int = 3
    answer_s: float = 60.0
    answer_s_per_launch: float = 1.0


@dataclass(slots=True, eq=False)
class Client:
    """Queue of one run, with its fair share of the pool.

    Attributes:
        served: launches started so far; the client with the fewest is next.
        free: jobs for any GPU.
        assigned: jobs by the GPU that measures their shapes.
        alone: jobs during which a worker was lost; each becomes a separate batch, to isolate the cause.
    """

    name: str
    served: int = 0
    free: deque[PendingJob] = field(default_factory=deque)
    assigned: dict[str, deque[PendingJob]] = field(default_factory=dict)
    alone: deque[PendingJob] = field(default_factory=deque)

    @property
    def queues(self) -> list[deque[PendingJob]]:
        """All queues of waiting jobs."""
        return [self.free, self.alone, *self.assigned.values()]


@dataclass(slots=True, eq=False)
class PendingJob:
    """A job without a result.

    Attributes:
        deaths: reasons of workers lost while they ran it.
        avoid: GPUs of these workers.
    """

    job: Job
    client: Client
    results: SimpleQueue[JobResult]
    deaths: list[str] = field(default_factory=list)
    avoid: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs that one worker is running.

    Attributes:
        open: jobs without a result, by position; only the caller that removes one may deliver its result.
        deadline_s: time limit of the worker, by the pool's clock.
    """

    gpu: str
    jobs: tuple[Job, ...]
    open: dict[int, PendingJob]
    launches: int
    deadline_s: float = 0.0


class JobQueue:
    """Jobs of all clients, from request to result. Not thread-safe."""

    def __init__(self, limits: PoolLimits | None = None) -> None:
        """Start with empty queues."""
        self.limits = limits or PoolLimits()
        self.clients: dict[str, Client] = {}
        self.batches: set[Batch] = set()
        self.gpus: set[str] = set()
        self._affinity: dict[tuple[Setting, DecodeShape], str] = {}
        self._waiting_launches = 0

    # GPUs, and which shapes they measure.

    def drop_gpu(self, gpu: str) -> None:
        """Remove a GPU: its shapes and the jobs that wait for it can go to others."""
        self.gpus.discard(gpu)
        self._affinity = {key: g for key, g in self._affinity.items() if g != gpu}
        for client in self.clients.values():
            client.free.extendleft(reversed(client.assigned.pop(gpu, deque())))

    def affinity(self, setting: Setting, shape: DecodeShape) -> str:
        """GPU that measures a shape; empty if unassigned."""
        return self._affinity.get((setting, shape), "")

    def assign(self, setting: Setting, shape: DecodeShape, gpu: str) -> str:
        """Assign a shape to a GPU unless it is assigned already; returns its GPU."""
        if gpu not in self.gpus:
            return self.affinity(setting, shape)
        return self._affinity.setdefault((setting, shape), gpu)

    # Clients and their jobs.

    def open_client(self, name: str) -> None:
        """Add a client; it starts level with the least served clients, so as not to starve them.

        Raises:
            ValueError: the name is taken.
        """
        if name in self.clients:
            raise ValueError(f"there is a client {name!r} already: expected another name")
        self.clients[name] = Client(name, self._least_served())

    def _least_served(self) -> int:
        served = [c.served for c in self.clients.values() if any(c.queues)]
        return min(served or (c.served for c in self.clients.values()), default=0)

    def close_client(self, name: str) -> None:
        """Remove a client; its waiting jobs are dropped, and results of running ones discarded."""
        self.cancel(name)
        del self.clients[name]

    def add(self, name: str, jobs: Iterable[Job], results: SimpleQueue[JobResult]) -> None:
        """Queue jobs of a client."""
        client = self.clients[name]
        if not any(client.queues):
            # An idle client does not accumulate a share.
            client.served = max(client.served, self._least_served())
        for job in jobs:
            client.free.append(PendingJob(job, client, results))
            self._waiting_launches += len(job.decisions)

    def cancel(self, name: str, results: SimpleQueue[JobResult] | None = None) -> None:
        """Drop a client's jobs, waiting or running: those with this result queue, or all."""
        client = self.clients[name]

        def kept(pending: PendingJob) -> bool:
            return pending.client is not client or (results is not None and pending.results is not results)

        for queue in client.queues:
            keep = [p for p in queue if kept(p)]
            queue.clear()
            queue.extend(keep)
        self._waiting_launches = sum(len(p.job.decisions) for c in self.clients.values() for q in c.queues for p in q)
        for batch in self.batches:
            batch.open = {k: p for k, p in batch.open.items() if kept(p)}

    def open_jobs(self, name: str) -> tuple[int, int]:
        """Numbers of (waiting, running) jobs of a client."""
        client = self.clients[name]
        running = sum(p.client is client for batch in self.batches for p in batch.open.values())
        return sum(map(len, client.queues)), running

    def drain(self) -> Iterator[PendingJob]:
        """Remove and yield all waiting jobs."""
        for client in self.clients.values():
            for queue in client.queues:
                yield from queue
                queue.clear()
        self._waiting_launches = 0

    # Batches.

    def take(self, gpu: str, now_s: float) -> Batch | None:
        """Next batch for a GPU, from the least served client; None if no job suits it."""
        if gpu not in self.gpus:
            return None
        for client in sorted((c for c in self.clients.values() if any(c.queues)), key=lambda c: c.served):
            taken = self._take_alone(client, gpu) or self._take_several(client, gpu)
            if taken:
                launches = sum(len(p.job.decisions) for p in taken)
                self._waiting_launches -= launches
                client.served += launches
                batch = Batch(gpu, tuple(p.job for p in taken), dict(enumerate(taken)), launches)
                self._renew(batch, now_s)
                self.batches.add(batch)
                return batch
        return None

    def _renew(self, batch: Batch, now_s: float) -> None:
        batch.deadline_s = now_s + self.limits.answer_s + self.limits.answer_s_per_launch * batch.launches

    def _take_alone(self, client: Client, gpu: str) -> list[PendingJob]:
        for pending in client.alone:
            key = pending.job.setting, pending.job.shape
            if gpu in pending.avoid and self.gpus - pending.avoid:
                continue
            # If another job has moved the shape back to a GPU to avoid, it moves again.
            if self.affinity(*key) not in ("", gpu, *pending.avoid):
                continue
            self._affinity[key] = gpu
            client.alone.remove(pending)
            return [pending]
        return []

    def _take_several(self, client: Client, gpu: str) -> list[PendingJob]:
        # Batches shrink towards the end, so that all GPUs finish at about the same time.
        room = max(1, min(self.limits.max_launches, self._waiting_launches // (2 * len(self.gpus))))
        mine = client.assigned.setdefault(gpu, deque())
        taken: list[PendingJob] = []
        while room > 0 and (mine or client.free):
            queue = mine or client.free
            job = queue[0].job
            if taken and (job.setting != taken[0].job.setting or len(job.decisions) > room):
                break
            pending = queue.popleft()
            measures = self.assign(job.setting, job.shape, gpu)
            if measures != gpu:
                client.assigned.setdefault(measures, deque()).append(pending)
                continue
            taken.append(pending)
            room -= len(job.decisions)
        return taken

    def answered(self, batch: Batch, position: int, now_s: float) -> PendingJob | None:
        """Remove the job of a result; None if it was cancelled, or the worker timed out."""
        batch.launches -= len(batch.jobs[position].decisions)
        self._renew(batch, now_s)
        return batch.open.pop(position, None)

    def finish(self, batch: Batch) -> bool:
        """End a finished batch; False if its worker had timed out."""
        known = batch in self.batches
        self.batches.discard(batch)
        return known

    def lost(self, batch: Batch, reason: str, *, guilty: int | None = None) -> list[PendingJob]:
        """End the batch of a lost worker; returns jobs that fail.

        The other open jobs wait again. Jobs that may have killed the worker are marked: the one at position `guilty`,
        or all open ones if that is unknown. Their shapes move to another GPU, if there is one, since this GPU may be
        the cause.
        """
        if not self.finish(batch):
            return []
        given_up = []
        for position, pending in sorted(batch.open.items(), reverse=True):
            if guilty is None or position == guilty:
                pending.deaths.append(reason)
                pending.avoid.add(batch.gpu)
                if len(pending.deaths) >= self.limits.max_deaths:
                    given_up.append(pending)
                    continue
                if len(self.gpus) > 1:
                    self._affinity.pop((pending.job.setting, pending.job.shape), None)
                pending.client.alone.append(pending)
            else:
                pending.client.free.appendleft(pending)
            self._waiting_launches += len(pending.job.decisions)
        batch.open = {}
        return given_up

    def overdue(self, now_s: float) -> list[Batch]:
        """Batches past their deadline; the caller must call `lost` for each."""
        return [batch for batch in self.batches if batch.deadline_s <= now_s]

    def next_deadline_s(self) -> float | None:
        """Earliest deadline of the running batches."""
        return min((batch.deadline_s for batch in self.batches), default=None)
