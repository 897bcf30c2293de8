"""Who measures what: fair queues, leases with fencing tokens, homes of shapes, works that kill workers.

Plain bookkeeping without threads, processes or clocks of its own: the pool holds a lock around every call and passes
its own monotonic clock's reading, so that no other machine's clock decides anything. Nothing in here outlives the
controller: after a restart the store says what is known, and whatever was leased is asked for again.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from evaluators.data.contract import DecodeShape, Setting
from evaluators.measure.entries import Client, Entry, Lease
from evaluators.measure.executor import Work

MAX_LAUNCHES = 128
"""Most launches of a lease: 1.6 s of an H100 at the median of 12.4 ms a launch, and what a lost worker costs."""

MAX_DEATHS = 3
"""Workers that may be lost over one work before it is given up."""

LEASE_S = 60.0
LEASE_S_PER_LAUNCH = 1.0
"""A lease runs out this long after it was given or last answered: a minute for what a worker's first launch of a
setting prepares, and 80 times the median launch."""

Home = tuple[Setting, DecodeShape]


class LeaseBook:
    """Works of all clients from asked to settled. Not thread-safe."""

    def __init__(
        self,
        *,
        max_launches: int = MAX_LAUNCHES,
        max_deaths: int = MAX_DEATHS,
        lease_s: float = LEASE_S,
        lease_s_per_launch: float = LEASE_S_PER_LAUNCH,
    ) -> None:
        """An empty book; tests shorten the times."""
        self.max_launches, self.max_deaths = max_launches, max_deaths
        self.lease_s, self.lease_s_per_launch = lease_s, lease_s_per_launch
        self.clients: dict[str, Client] = {}
        self.leases: dict[int, Lease] = {}
        self._seats: set[str] = set()
        self._homes: dict[Home, str] = {}
        self._tokens, self._ids = itertools.count(1), itertools.count(1)
        self._waiting_launches = 0

    # Seats and homes.

    def add_seat(self, seat: str) -> None:
        """A seat that may take leases."""
        self._seats.add(seat)

    def drop_seat(self, seat: str) -> None:
        """A seat that is left out for good: its shapes lose their home, and their works may go elsewhere."""
        self._seats.discard(seat)
        self._homes = {home: s for home, s in self._homes.items() if s != seat}
        for client in self.clients.values():
            client.free.extendleft(reversed(client.homed.pop(seat, deque())))

    @property
    def seats(self) -> frozenset[str]:
        """Seats that may take leases."""
        return frozenset(self._seats)

    def home(self, setting: Setting, shape: DecodeShape) -> str:
        """Where a shape is measured; empty while it is undecided."""
        return self._homes.get((setting, shape), "")

    def claim(self, setting: Setting, shape: DecodeShape, seat: str) -> str:
        """Let a shape live on a seat unless it lives elsewhere; returns where it lives."""
        return self._homes.setdefault((setting, shape), seat) if seat in self._seats else self.home(setting, shape)

    # Works.

    def open_client(self, name: str, weight: float = 1.0) -> None:
        """A new client; it starts level with those that have been served least, so as not to starve them.

        Raises:
            ValueError: the name is taken, or the weight is not positive.
        """
        if name in self.clients:
            raise ValueError(f"there is a client {name!r} already: expected another name")
        if not weight > 0:
            raise ValueError(f"weight of {name!r}: expected a positive number, got {weight}")
        self.clients[name] = Client(name, weight, self._level())

    def _level(self) -> float:
        served = [c.served for c in self.clients.values() if c.waits]
        return min(served or (c.served for c in self.clients.values()), default=0.0)

    def close_client(self, name: str) -> None:
        """Forget a client; what it still waits for is not run, and what is running is thrown away."""
        self.cancel(name, None)
        del self.clients[name]

    def add(self, name: str, works: Iterable[Work]) -> list[int]:
        """Ask for works; returns their numbers."""
        client = self.clients[name]
        if not client.waits:
            # Nobody saves up a share by asking for nothing.
            client.served = max(client.served, self._level())
        ids = []
        for work in works:
            entry = Entry(next(self._ids), name, work)
            client.free.append(entry)
            ids.append(entry.id)
            self._waiting_launches += len(work.decisions)
        return ids

    def cancel(self, name: str, ids: set[int] | None) -> None:
        """Forget a client's works (all of them for None), waiting or leased."""

        def keeps(entry: Entry) -> bool:
            return ids is not None and entry.id not in ids

        client = self.clients[name]
        for waiting in (client.free, client.alone, *client.homed.values()):
            kept = [e for e in waiting if keeps(e)]
            self._waiting_launches -= sum(len(e.work.decisions) for e in waiting) - sum(
                len(e.work.decisions) for e in kept
            )
            waiting.clear()
            waiting.extend(kept)
        for lease in self.leases.values():
            lease.entries = [e if e is not None and (e.client != name or keeps(e)) else None for e in lease.entries]

    def take(self, seat: str, now_s: float) -> Lease | None:
        """The next works for a seat, of the client that has been served least; None when nothing suits it."""
        if seat not in self._seats:
            return None
        for client in sorted((c for c in self.clients.values() if c.waits), key=lambda c: c.served):
            entries = self._alone(client, seat) or self._several(client, seat)
            if entries:
                launches = sum(len(e.work.decisions) for e in entries)
                self._waiting_launches -= launches
                client.served += launches / client.weight
                works = tuple(e.work for e in entries)
                lease = Lease(next(self._tokens), seat, works, [*entries], self._deadline(now_s, launches), launches)
                self.leases[lease.token] = lease
                return lease
        return None

    def _deadline(self, now_s: float, launches: int) -> float:
        return now_s + self.lease_s + self.lease_s_per_launch * launches

    def _alone(self, client: Client, seat: str) -> list[Entry]:
        for k, entry in enumerate(client.alone):
            elsewhere = self._seats - entry.avoid
            home = self.home(entry.work.setting, entry.work.shape)
            # Where another work has brought the shape back to the GPU that is to be avoided, it moves once more.
            lives_elsewhere = home not in ("", seat) and home not in entry.avoid
            if (seat in entry.avoid and elsewhere) or lives_elsewhere:
                continue
            self._homes[entry.work.setting, entry.work.shape] = seat
            return [client.alone.pop(k)]
        return []

    def _several(self, client: Client, seat: str) -> list[Entry]:
        # Towards the end batches shrink, so that no seat works on while the others have nothing left.
        room = max(1, min(self.max_launches, self._waiting_launches // (2 * max(1, len(self._seats)))))
        mine = client.homed.setdefault(seat, deque())
        taken: list[Entry] = []
        while room > 0 and (mine or client.free):
            queue = mine or client.free
            work = queue[0].work
            if taken and (work.setting != taken[0].work.setting or len(work.decisions) > room):
                break
            entry = queue.popleft()
            home = self.claim(work.setting, work.shape, seat)
            if home != seat:
                client.homed.setdefault(home, deque()).append(entry)
                continue
            taken.append(entry)
            room -= len(work.decisions)
        return taken

    # Leases.

    def settle(self, token: int, position: int, now_s: float) -> Entry | None:
        """Accept the answer to one work of a lease, once, and renew the lease; None for a fenced worker's.

        None, too, for a work that its client has cancelled.
        """
        lease = self.leases.get(token)
        if lease is None:
            return None
        entry, lease.entries[position] = lease.entries[position], None
        lease.launches = max(0, lease.launches - len(lease.works[position].decisions))
        lease.deadline_s = self._deadline(now_s, lease.launches)
        return entry

    def holds(self, token: int) -> bool:
        """Whether a lease is still valid."""
        return token in self.leases

    def finish(self, token: int) -> bool:
        """End a lease whose works are all settled; False for a fenced worker's."""
        return self.leases.pop(token, None) is not None

    def lost(self, token: int, reason: str, *, guilty: int | None = None) -> list[Entry]:
        """End a lease whose worker is lost; returns works that are given up.

        What was not settled waits again. Works that may have killed the worker are held against it: the one at
        position `guilty`, or all that were open when that is not known. Their shapes move to another GPU, if there is
        one: it may have been this GPU's fault.
        """
        lease = self.leases.pop(token, None)
        if lease is None:
            return []
        given_up = []
        for position, entry in reversed(list(enumerate(lease.entries))):
            if entry is None:
                continue
            client = self.clients[entry.client]
            if guilty is None or position == guilty:
                entry.deaths.append(reason)
                entry.avoid.add(lease.seat)
                if len(entry.deaths) >= self.max_deaths:
                    given_up.append(entry)
                    continue
                if len(self._seats) > 1:
                    self._homes.pop((entry.work.setting, entry.work.shape), None)
                client.alone.append(entry)
            else:
                client.free.appendleft(entry)
            self._waiting_launches += len(entry.work.decisions)
        return given_up

    def expired(self, now_s: float) -> list[Lease]:
        """Leases that have run out; the caller declares each lost."""
        return [lease for lease in self.leases.values() if lease.deadline_s <= now_s]

    def next_deadline_s(self) -> float | None:
        """When the next lease runs out."""
        return min((lease.deadline_s for lease in self.leases.values()), default=None)

    def open_works(self, name: str) -> tuple[int, int]:
        """(waiting, leased) works of a client."""
        client = self.clients[name]
        waiting = len(client.free) + len(client.alone) + sum(map(len, client.homed.values()))
        leased = sum(e is not None and e.client == name for lease in self.leases.values() for e in lease.entries)
        return waiting, leased

    def drain(self) -> Iterator[Entry]:
        """Take out everything that waits, when no seat is left."""
        for client in self.clients.values():
            queues: Sequence[deque[Entry] | list[Entry]] = (client.free, client.alone, *client.homed.values())
            for waiting in queues:
                yield from waiting
                waiting.clear()
        self._waiting_launches = 0
