"""Where works are handed in and answers handed out: the lease book behind a lock, and who waits for what."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from evaluators.measure.entries import Entry, Lease
from evaluators.measure.executor import Answer, Work
from evaluators.measure.leases import LeaseBook
from evaluators.measure.seats import Inbox
from evaluators.measure.worker_client import MeasureError, Trouble

FEED = 32
"""Works handed over at once."""

CLOSED = "the pool is closed"


class Desk:
    """The lease book of a pool and the inboxes of its callers. Thread-safe: `change` guards all.

    Attributes:
        book: what waits, and what is leased.
        change: notified when there may be something to do.
        closed: notified when the pool closes; the watchdog's own, which, woken by every change, would cost more than
            it watches over.
        closing: whether no more leases are given.
    """

    def __init__(self, book: LeaseBook) -> None:
        """Nobody waits."""
        lock = threading.RLock()
        self.book = book
        self.change, self.closed = threading.Condition(lock), threading.Condition(lock)
        self.closing = False
        self._inboxes: dict[int, Inbox] = {}

    def measure(
        self, client: str, works: Iterable[Work], no_worker: Callable[[], MeasureError]
    ) -> Generator[list[Answer], None, None]:
        """See `Pool.measure`; raises what `no_worker` says where nobody can run works."""
        inbox, feed, more = Inbox(), iter(works), True
        launches, unread = 0, 0
        try:
            while True:
                while more and launches < 4 * self.book.max_launches * max(1, len(self.book.seats)):
                    chunk = list(itertools.islice(feed, FEED))
                    more = len(chunk) == FEED
                    launches += sum(len(w.decisions) for w in chunk)
                    if chunk:
                        self._submit(client, chunk, inbox, no_worker)
                        unread += len(chunk)
                if not unread:
                    return
                answers = inbox.some()
                unread -= len(answers)
                launches -= sum(len(a.work.decisions) for a in answers)
                yield answers
        finally:
            self._withdraw(client, inbox)

    def _submit(self, client: str, works: Sequence[Work], inbox: Inbox, no_worker: Callable[[], MeasureError]) -> None:
        with self.change:
            if self.closing or not self.book.seats:
                raise no_worker()
            numbers = self.book.add(client, works)
            inbox.open.update(numbers)
            self._inboxes.update(dict.fromkeys(numbers, inbox))
            self.change.notify_all()

    def _withdraw(self, client: str, inbox: Inbox) -> None:
        """Forget what an inbox still waits for."""
        with self.change:
            if client in self.book.clients:
                self.book.cancel(client, inbox.open)
            for number in inbox.open:
                self._inboxes.pop(number, None)

    def next_lease(self, uuid: str) -> Lease | None:
        """Wait for works that suit a GPU; None when the pool closes."""
        with self.change:
            while not self.closing:
                lease = self.book.take(uuid, time.monotonic())
                if lease is not None:
                    return lease
                self.change.wait()
        return None

    def settle(self, lease: Lease, position: int, uuid: str, reply: dict[str, Any]) -> tuple[bool, bool]:
        """Hand out a worker's reply.

        Returns:
            Whether it was accepted, and whether the lease is still valid.
        """
        work = lease.works[position]
        if "error" in reply:
            answer = Answer(work, uuid, None, MeasureError(Trouble(reply["error"]), str(reply["message"])))
        else:
            answer = Answer(work, uuid, reply["ok"], None)
        with self.change:
            entry = self.book.settle(lease.token, position, time.monotonic())
            if entry is not None:
                self._deliver(entry, answer)
            return entry is not None, self.book.holds(lease.token)

    def finish(self, lease: Lease) -> bool:
        """End a lease whose works are all settled; False for a fenced worker's."""
        with self.change:
            return self.book.finish(lease.token)

    def lost(self, lease: Lease, why: str, guilty: int | None) -> str:
        """Ask again for what a lost worker held; returns why it was lost."""
        with self.change:
            if not self.book.holds(lease.token):
                return "its lease ran out"
            if self.closing:
                return CLOSED
            for entry in self.book.lost(lease.token, why, guilty=guilty):
                text = f"{len(entry.deaths)} workers were lost over this launch: {'; '.join(entry.deaths)}"
                self._deliver(entry, Answer(entry.work, "", None, MeasureError(Trouble.DEADLY, text)))
            self.change.notify_all()
        return why

    def drop_seat(self, uuid: str, no_worker: Callable[[], MeasureError]) -> None:
        """Let a GPU's shapes move to others; without any, everybody who waits is told."""
        with self.change:
            self.book.drop_seat(uuid)
            self.fail_without_seats(no_worker)
            self.change.notify_all()

    def fail_without_seats(self, no_worker: Callable[[], MeasureError]) -> None:
        """Tell everybody who waits when no seat is left."""
        with self.change:
            if not self.book.seats:
                for entry in list(self.book.drain()):
                    self._deliver(entry, Answer(entry.work, "", None, no_worker()))

    def fail_all(self, no_worker: Callable[[], MeasureError]) -> None:
        """Tell everybody who waits, also for what is leased."""
        with self.change:
            leased = (e for lease in self.book.leases.values() for e in lease.entries if e is not None)
            for entry in [*self.book.drain(), *leased]:
                self._deliver(entry, Answer(entry.work, "", None, no_worker()))

    def _deliver(self, entry: Entry, answer: Answer) -> None:
        inbox = self._inboxes.pop(entry.id, None)
        if inbox is not None:
            inbox.open.discard(entry.id)
            inbox.answers.put(answer)
