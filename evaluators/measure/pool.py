"""A pool of workers: starts them, replaces them, and gives every answer to its client exactly once.

One thread per seat talks to one worker. A watchdog fences workers whose lease runs out: the works wait again under
another token, the worker is killed, and whatever it may still say is thrown away. Execution is at least once;
delivery, and with it recording, is exactly once.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Literal

from evaluators.data.contract import DecodeShape, Setting
from evaluators.data.device import DeviceRecord
from evaluators.latencies.store import Bench
from evaluators.measure.desk import CLOSED, Desk
from evaluators.measure.entries import Lease
from evaluators.measure.executor import Answer, Executor, Work, WorkerLost
from evaluators.measure.leases import LeaseBook
from evaluators.measure.seats import START_S, Seat, start_worker
from evaluators.measure.worker_client import MeasureError, Trouble

LOSSES_IN_A_ROW = 8
"""Workers lost one after the other in one seat, none having finished a lease, before the seat is left out."""

CLOSE_S = 60.0
"""All workers must have let go of their GPUs this long after the pool was closed."""

TOO_LATE = "it answered after its lease had run out"


class Pool:
    """Workers of one GPU model and one set of kernel builds. Thread-safe."""

    def __init__(
        self,
        executor: Executor,
        settings: Sequence[Setting],
        *,
        gpus: int | Literal["all"] = "all",
        seed: int = 0,
        book: LeaseBook | None = None,
        start_s: float = START_S,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Start workers and wait until each has passed its self-test or was left out.

        Args:
            executor: where workers come from; closed with the pool.
            settings: what will be measured; all are opened and tested now.
            gpus: how many to use; where one is left out, the next of the executor's takes its place.
            seed: of inputs and orders; every worker draws its own from it.
            book: bookkeeping with other limits.
            start_s: how long a worker may take to start.
            on_event: told in a sentence when a GPU is left out or a worker is lost; called from several threads.

        Raises:
            MeasureError: of kind unavailable: no worker could be had, and why.
        """
        self.executor, self.settings = executor, tuple(settings)
        self._start_s, self._tell = start_s, on_event
        self._desk = Desk(book or LeaseBook())
        self._book, self._change = self._desk.book, self._desk.change
        self._seats: list[Seat] = []
        self._threads: list[threading.Thread] = []
        self._seeds = itertools.count(seed)
        self._kind: tuple[object, ...] | None = None
        if not (names := list(executor.seats())):
            raise MeasureError(Trouble.UNAVAILABLE, f"executor {executor.name}: there is no GPU to measure on")
        self._open_seats(names, len(names) if gpus == "all" else gpus)
        ready = [s for s in self._seats if not s.out]
        if not ready:
            why = "; ".join(s.out for s in self._seats)
            executor.close()
            raise MeasureError(Trouble.UNAVAILABLE, f"no worker could be started: {why}")
        if gpus != "all" and len(ready) < gpus:
            self._tell(f"{gpus} GPUs were asked for, {len(ready)} can be had")
        self._threads = [threading.Thread(target=self._serve, args=(s,), daemon=True) for s in ready]
        self._threads.append(threading.Thread(target=self._watch, daemon=True))
        for thread in self._threads:
            thread.start()

    # What callers use.

    @property
    def devices(self) -> list[DeviceRecord]:
        """GPUs that measure now."""
        return [s.hello.device for s in self._seats if s.hello and not s.out]

    def benches(self, setting: Setting) -> dict[str, Bench]:
        """By UUID: what latencies of a setting are stored under."""
        ready = [(s.uuid, s.hello) for s in self._seats if s.hello and not s.out]
        return {uuid: Bench(hello.device, hello.builds[setting.name], setting) for uuid, hello in ready}

    def report(self) -> list[Seat]:
        """Every seat that was tried, with what happened there; copies."""
        with self._change:
            return [replace(s, channel=None) for s in self._seats]

    def open_client(self, name: str, weight: float = 1.0) -> None:
        """A queue with a fair share of the pool; see `LeaseBook.open_client`."""
        with self._change:
            self._book.open_client(name, weight)

    def close_client(self, name: str) -> None:
        """Forget a client and what it still waits for."""
        with self._change:
            self._book.close_client(name)

    def open_works(self, client: str) -> tuple[int, int]:
        """(waiting, leased) works of a client."""
        with self._change:
            return self._book.open_works(client)

    def claim(self, setting: Setting, shape: DecodeShape, uuid: str) -> str:
        """Let a shape live on a GPU unless it lives elsewhere already; the UUID of where it lives, or nothing."""
        with self._change:
            return self._book.claim(setting, shape, uuid)

    def home(self, setting: Setting, shape: DecodeShape) -> str:
        """UUID of the GPU on which a shape is measured; empty while it is undecided."""
        with self._change:
            return self._book.home(setting, shape)

    def measure(self, client: str, works: Iterable[Work]) -> Generator[list[Answer], None, None]:
        """Answers in the order in which they come, one per work, several at a time.

        Works are drawn from the iterable as the pool needs them. Who stops iterating cancels what is left.

        Raises:
            MeasureError: of kind lost: no worker is left.
        """
        return self._desk.measure(client, works, self.no_worker)

    def no_worker(self, why: str = "") -> MeasureError:
        """What to raise when no worker is left."""
        why = CLOSED if self._desk.closing else why or self._outs() or "no GPU is within reach"
        return MeasureError(Trouble.LOST, f"no worker is left: {why}; what was measured is kept")

    def close(self) -> None:
        """End all workers and wait until they let go of their GPUs; callers that still wait are told.

        A worker that cannot even be killed, on a host that is out of reach, is not waited for.
        """
        with self._change:
            if self._desk.closing:
                return
            self._desk.closing = True
            busy = {lease.seat for lease in self._book.leases.values()}
            for seat in self._seats:
                if seat.channel is not None and not seat.out and (seat.uuid in busy or seat.starting):
                    seat.channel.kill()
            self._change.notify_all()
            self._desk.closed.notify_all()
        until = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._desk.fail_all(self.no_worker)
        self.executor.close()

    # Seats.

    def _open_seats(self, names: list[str], wanted: int) -> None:
        """Start as many as are wanted at once; spare ones take the place of those that are left out."""
        while names and (missing := wanted - sum(not s.out for s in self._seats)) > 0:
            batch = [Seat(name) for name in names[:missing]]
            del names[:missing]
            self._seats += batch
            starting = [threading.Thread(target=self._start, args=(seat,), daemon=True) for seat in batch]
            for thread in starting:
                thread.start()
            for thread in starting:
                thread.join()
            kinds = Counter(s.hello.kind for s in self._seats if s.hello and not s.out)
            if self._kind is None and kinds:
                self._kind = kinds.most_common(1)[0][0]
            for seat in self._seats:
                if not seat.out and seat.hello is not None and seat.hello.kind != self._kind:
                    self._dismiss(seat)
        with self._change:
            for seat in self._seats:
                if not seat.out:
                    self._book.add_seat(seat.uuid)

    def _dismiss(self, seat: Seat) -> None:
        """Leave out a GPU that is not of the pool's model, driver or kernel build."""
        assert seat.hello is not None and seat.channel is not None
        d = seat.hello.device
        builds = ", ".join(seat.hello.builds.values())
        seat.channel.close()
        self._leave_out(
            seat, f"{seat.label} is another kind than the pool's other GPUs ({d.name}, driver {d.driver}, {builds})"
        )

    def _leave_out(self, seat: Seat, why: str) -> None:
        """Use a seat no more, and say so; with the last one, everything that waits fails."""
        with self._change:
            seat.out = why
            self._desk.drop_seat(seat.uuid, self.no_worker)
        self._tell(f"left out: {why}")

    def _outs(self) -> str:
        return "; ".join(s.out for s in self._seats if s.out)

    def _start(self, seat: Seat) -> bool:
        """Put a worker into a seat. False: the pool is closing, or the seat is left out."""

        def pause(seconds: float) -> bool:
            with self._change:
                return self._change.wait_for(lambda: self._desk.closing, seconds)

        why = start_worker(self.executor, seat, self.settings, seeds=self._seeds, start_s=self._start_s, pause=pause)
        if why and not self._desk.closing:
            self._leave_out(seat, why)
        return not why and not self._desk.closing

    def _serve(self, seat: Seat) -> None:
        """The life of a seat: leases until the pool closes or the seat is left out."""
        assert seat.channel is not None
        while True:
            lease = self._desk.next_lease(seat.uuid)
            if lease is None:
                seat.channel.close()
                return
            started = time.monotonic()
            lost = self._run(seat, lease)
            with self._change:
                seat.busy_s += time.monotonic() - started
                seat.fenced_s = None
            if not lost:
                seat.in_a_row = 0
                continue
            seat.channel.kill()
            seat.channel.close()
            if lost == CLOSED:
                return
            seat.lost += 1
            seat.in_a_row += 1
            if seat.in_a_row >= LOSSES_IN_A_ROW:
                self._leave_out(seat, f"{seat.label}: {seat.in_a_row} workers lost in a row, the last: {lost}")
                return
            self._tell(f"lost: a worker on {seat.label} ({lost}); another takes its place")
            with self._change:
                seat.fenced_s = time.monotonic()
            if self._desk.closing or not self._start(seat):
                return
            with self._change:
                seat.fenced_s = None
                self._book.add_seat(seat.uuid)

    def _run(self, seat: Seat, lease: Lease) -> str:
        """Run a lease; why its worker is lost, or nothing."""
        assert seat.channel is not None
        position = 0
        try:
            for reply in seat.channel.run(lease.works):
                if reply.get("error") == Trouble.LOST.value:
                    return self._desk.lost(lease, reply["message"], position)
                accepted, valid = self._desk.settle(lease, position, seat.uuid, reply)
                seat.launches += len(lease.works[position].decisions) if accepted else 0
                if not valid:
                    return TOO_LATE
                position += 1
        except WorkerLost as error:
            return self._desk.lost(lease, str(error), position if seat.channel.streams else None)
        return "" if self._desk.finish(lease) else TOO_LATE

    def _give_up_waiting(self, seat: Seat) -> None:
        """Let a GPU's shapes move when its worker cannot be killed, or not replaced yet. The lock is held."""
        if seat.uuid in self._book.seats:
            self._desk.drop_seat(seat.uuid, lambda: self.no_worker(f"{seat.label} is out of reach"))
            self._tell(f"out of reach: the worker on {seat.label}; its shapes move to other GPUs")

    def _watch(self) -> None:
        """Fence workers whose lease has run out."""
        with self._change:
            while not self._desk.closing:
                now = time.monotonic()
                for lease in self._book.expired(now):
                    seat = next(s for s in self._seats if s.uuid == lease.seat and not s.out)
                    channel, seat.fenced_s = seat.channel, now
                    assert channel is not None
                    position = next((k for k, e in enumerate(lease.entries) if e is not None), 0)
                    why = f"the worker on {lease.seat} did not answer before its lease ran out"
                    self._desk.lost(lease, why, position if channel.streams else None)
                    channel.kill()
                for seat in self._seats:
                    # Where there is no other GPU, a worker that starts is waited for.
                    waited_for = seat.starting and len(self._book.seats) == 1
                    if seat.fenced_s is not None and now - seat.fenced_s > self._book.lease_s and not waited_for:
                        self._give_up_waiting(seat)
                # No lease that is given meanwhile can run out sooner.
                wait_s = self._book.lease_s
                deadline_s = self._book.next_deadline_s()
                self._desk.closed.wait(wait_s if deadline_s is None else max(0.0, min(wait_s, deadline_s - now)))
