"""What the lease book keeps: works on their way, leases of several, and the queues of those who asked."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from evaluators.measure.executor import Work


@dataclass(slots=True)
class Entry:
    """A work on its way.

    Attributes:
        id: number, unique in the book.
        client: who asked.
        work: what was asked.
        deaths: why each worker was lost that ran it alone, or was running it.
        avoid: seats where that happened.
    """

    id: int
    client: str
    work: Work
    deaths: list[str] = field(default_factory=list)
    avoid: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Lease:
    """Works that one seat may run now. Without its token, which is never given twice, nothing is accepted.

    Attributes:
        token: valid until the lease ends in any way.
        seat: who holds it.
        works: what to run, in order.
        entries: the same; None once settled or cancelled.
        deadline_s: when it runs out, by the pool's clock.
        launches: launches that are not settled.
    """

    token: int
    seat: str
    works: tuple[Work, ...]
    entries: list[Entry | None]
    deadline_s: float
    launches: int


@dataclass(slots=True)
class Client:
    """A queue of one run, with its share of the pool.

    Attributes:
        weight: share, relative to the other clients that want something.
        served: launches leased so far, divided by the weight; who has least is next.
        free: works that any seat may take.
        homed: works whose shapes live on a seat.
        alone: works over which a worker was lost; each gets a lease of its own, so that only the guilty dies again.
    """

    name: str
    weight: float
    served: float = 0.0
    free: deque[Entry] = field(default_factory=deque)
    homed: dict[str, deque[Entry]] = field(default_factory=dict)
    alone: list[Entry] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Whether it wants anything that is not leased."""
        return bool(self.free or self.alone or any(self.homed.values()))
