"""Bookkeeping of leases: everything asked for is settled once, whatever order workers die, hang and answer in."""

from __future__ import annotations

from collections import Counter

import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from evaluators.data.contract import SETTINGS, Decision, DecodeShape
from evaluators.measure.entries import Lease
from evaluators.measure.executor import Work
from evaluators.measure.leases import LeaseBook

COLD, HOT = SETTINGS["fa3_fwd-metadata-cold"], SETTINGS["fa3_fwd-metadata-hot"]
SEATS = ("GPU-a", "GPU-b", "GPU-c")


def work(k: int, launches: int = 2, setting=COLD) -> Work:  # type: ignore[no-untyped-def]
    return Work(setting, DecodeShape(1, 100 + k, 8, 1), (Decision(1),) * launches, 6)


def book(*seats: str, **limits: float) -> LeaseBook:
    made = LeaseBook(**limits)  # type: ignore[arg-type]
    for seat in seats or SEATS:
        made.add_seat(seat)
    made.open_client("run")
    return made


def finish(b: LeaseBook, lease: Lease) -> list[int]:
    """Settle a whole lease; the numbers of its works."""
    entries = [b.settle(lease.token, k, 0.0) for k in range(len(lease.works))]
    assert b.finish(lease.token)
    return [e.id for e in entries if e is not None]


def test_a_fenced_workers_late_answer_is_thrown_away() -> None:
    b = book("GPU-a", "GPU-b")
    (number,) = b.add("run", [work(0)])
    late = b.take("GPU-a", 0.0)
    assert late is not None
    (gone,) = b.expired(late.deadline_s)
    assert gone is late and b.lost(late.token, "it hung", guilty=0) == []
    again = b.take("GPU-b", 200.0)
    assert again is not None and again.token != late.token
    assert b.settle(late.token, 0, 201.0) is None and not b.finish(late.token)
    assert finish(b, again) == [number]
    assert b.settle(again.token, 0, 202.0) is None


def test_an_answer_renews_the_lease_and_only_the_pools_clock_counts() -> None:
    b = book("GPU-a", lease_s=10.0, lease_s_per_launch=0.0, max_launches=100)
    b.add("run", [work(k) for k in range(200)])
    lease = b.take("GPU-a", 5.0)
    assert lease is not None and len(lease.works) > 1
    assert b.expired(14.9) == [] and b.next_deadline_s() == 15.0
    assert b.settle(lease.token, 0, 14.9) is not None
    assert b.expired(15.1) == [] and b.expired(24.9) == [lease]


def test_only_what_was_open_is_asked_again_and_only_the_guilty_is_blamed() -> None:
    b = book("GPU-a")
    numbers = b.add("run", [work(k) for k in range(40)])
    lease = b.take("GPU-a", 0.0)
    assert lease is not None and len(lease.works) >= 4
    done = [b.settle(lease.token, k, 0.0) for k in range(2)]
    assert [e.id for e in done if e] == numbers[:2]
    assert b.lost(lease.token, "it died", guilty=2) == []
    alone = b.take("GPU-a", 0.0)
    assert alone is not None and [e.id for e in alone.entries if e] == [numbers[2]]
    finish(b, alone)
    rest = b.take("GPU-a", 0.0)
    assert rest is not None and next(e.id for e in rest.entries if e) == numbers[3]


def test_without_knowing_the_guilty_one_all_are_run_alone_and_only_it_dies_again() -> None:
    b = book("GPU-a", "GPU-b")
    b.add("run", [work(k) for k in range(40)])
    lease = b.take("GPU-a", 0.0)
    assert lease is not None
    bad, suspects = lease.works[1], len(lease.works)
    b.lost(lease.token, "it died")
    given_up, settled = [], 0
    for k in range(100):
        lease = b.take(("GPU-a", "GPU-b")[k % 2], 0.0)
        if lease is None:
            continue
        if bad in lease.works:
            assert lease.works == (bad,)
            given_up += b.lost(lease.token, "it died")
        else:
            settled += len(finish(b, lease))
    assert settled == 39 and suspects > 1
    assert [e.work for e in given_up] == [bad] and given_up[0].deaths == ["it died"] * 3


def test_a_shape_moves_only_when_its_gpu_is_lost() -> None:
    b = book("GPU-a", "GPU-b")
    b.add("run", [work(0)])
    lease = b.take("GPU-a", 0.0)
    assert lease is not None
    finish(b, lease)
    b.add("run", [work(0)])
    assert b.take("GPU-b", 0.0) is None and b.home(COLD, work(0).shape) == "GPU-a"
    # The same shape in another setting is another matter.
    b.add("run", [work(0, setting=HOT)])
    other = b.take("GPU-b", 0.0)
    assert other is not None and other.works == (work(0, setting=HOT),)
    b.drop_seat("GPU-a")
    moved = b.take("GPU-b", 0.0)
    assert moved is not None and moved.works == (work(0),)
    assert b.claim(COLD, work(0).shape, "GPU-a") == "GPU-b"


def test_batches_are_of_one_setting_and_shrink_towards_the_end() -> None:
    b = book("GPU-a", "GPU-b", max_launches=16)
    b.add("run", [work(k) for k in range(64)])
    sizes = []
    while (lease := b.take("GPU-a", 0.0)) is not None:
        sizes.append(len(lease.works))
        finish(b, lease)
    assert sum(sizes) == 64 and max(sizes) == 8 and sizes[-1] == 1 and sizes == sorted(sizes, reverse=True)
    b.add("run", [work(k, setting=(COLD, HOT)[k % 2]) for k in range(100, 164)])
    while (lease := b.take("GPU-b", 0.0)) is not None:
        assert len({w.setting for w in lease.works}) == 1
        finish(b, lease)


def test_a_shape_that_was_brought_back_to_the_gpu_to_be_avoided_moves_again() -> None:
    b = book("GPU-a", "GPU-b")
    first, second = b.add("run", [work(0), work(0)])
    lease = b.take("GPU-a", 0.0)
    assert lease is not None
    b.lost(lease.token, "it died", guilty=0)
    other = b.take("GPU-a", 0.0)
    assert other is not None and finish(b, other) == [second] and b.take("GPU-a", 0.0) is None
    again = b.take("GPU-b", 0.0)
    assert again is not None and finish(b, again) == [first]


@given(st.lists(st.floats(0.25, 4.0), min_size=2, max_size=4))
@settings(max_examples=10)
def test_clients_are_served_by_their_weights(weights: list[float]) -> None:
    b = LeaseBook(max_launches=4)
    b.add_seat("GPU-a")
    for k, weight in enumerate(weights):
        b.open_client(str(k), weight)
        b.add(str(k), [work(1000 * k + n) for n in range(2000)])
    served: Counter[str] = Counter()
    for _ in range(400):
        lease = b.take("GPU-a", 0.0)
        assert lease is not None and lease.entries[0] is not None
        served[lease.entries[0].client] += len(lease.works)
        finish(b, lease)
    for k, weight in enumerate(weights):
        assert served[str(k)] / sum(served.values()) == pytest.approx(weight / sum(weights), abs=0.02)


def test_who_comes_late_gets_its_share_from_then_on_and_nobody_saves_up() -> None:
    b = LeaseBook(max_launches=4)
    b.add_seat("GPU-a")
    b.open_client("early")
    b.open_client("idle")
    b.add("early", [work(k) for k in range(3000)])

    def serve(leases: int) -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(leases):
            lease = b.take("GPU-a", 0.0)
            assert lease is not None and lease.entries[0] is not None
            found[lease.entries[0].client] += 1
            finish(b, lease)
        return found

    serve(200)
    b.open_client("late")
    b.add("late", [work(k) for k in range(5000, 6000)])
    b.add("idle", [work(k) for k in range(7000, 8000)])
    assert max(serve(90).values()) <= 31


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_clients_that_cannot_be(weight: float) -> None:
    b = book()
    with pytest.raises(ValueError, match="positive"):
        b.open_client("other", weight)
    with pytest.raises(ValueError, match="already"):
        b.open_client("run")


class Anything(RuleBasedStateMachine):
    """Workers take, answer, die, hang and come late; clients come, cancel and go; GPUs are left out."""

    @initialize()
    def begin(self) -> None:
        self.book = LeaseBook(max_launches=8, lease_s=10.0, lease_s_per_launch=0.0)
        for seat in SEATS:
            self.book.add_seat(seat)
        self.now, self.made = 0.0, 0
        self.waiting: dict[int, str] = {}
        self.works: dict[int, Work] = {}
        self.settled: Counter[int] = Counter()
        self.given_up: Counter[int] = Counter()
        self.deaths: Counter[int] = Counter()
        self.old: list[Lease] = []
        for name in ("a", "b"):
            self.book.open_client(name)

    @rule(client=st.sampled_from("ab"), shapes=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=8))
    def ask(self, client: str, shapes: list[tuple[int, bool]]) -> None:
        works = [work(k, setting=HOT if hot else COLD) for k, hot in shapes]
        numbers = self.book.add(client, works)
        self.works |= dict(zip(numbers, works, strict=True))
        self.waiting |= dict.fromkeys(numbers, client)

    @rule(seat=st.sampled_from(SEATS))
    def take(self, seat: str) -> None:
        if any(lease.seat == seat for lease in self.book.leases.values()):
            return
        lease = self.book.take(seat, self.now)
        if lease is None:
            return
        assert seat in self.book.seats and lease.token not in {old.token for old in self.old}
        for entry in lease.entries:
            assert entry is not None and self.book.home(entry.work.setting, entry.work.shape) == seat
        self.old.append(lease)

    def accept(self, lease: Lease, positions: range) -> None:
        for position in positions:
            entry = self.book.settle(lease.token, position, self.now)
            if entry is not None:
                assert entry.work is lease.works[position]
                self.settled[entry.id] += 1
                self.waiting.pop(entry.id)

    @precondition(lambda self: self.old)
    @rule(data=st.data(), share=st.floats(0, 1))
    def answer_some(self, data: st.DataObject, share: float) -> None:
        lease = data.draw(st.sampled_from(self.old))
        self.accept(lease, range(round(share * len(lease.works))))

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def answer_all(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.old))
        self.accept(lease, range(len(lease.works)))
        self.book.finish(lease.token)

    @precondition(lambda self: self.book.leases)
    @rule(data=st.data(), known=st.booleans())
    def die(self, data: st.DataObject, known: bool) -> None:
        lease = data.draw(st.sampled_from(list(self.book.leases.values())))
        position = next((k for k, e in enumerate(lease.entries) if e is not None), 0)
        for entry in self.book.lost(lease.token, "died", guilty=position if known else None):
            self.given_up[entry.id] += 1
            assert len(entry.deaths) == self.book.max_deaths
            self.waiting.pop(entry.id)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for lease in self.book.expired(self.now):
            for entry in self.book.lost(lease.token, "hung"):
                self.given_up[entry.id] += 1
                self.waiting.pop(entry.id)

    @precondition(lambda self: len(self.book.seats) > 1)
    @rule(data=st.data())
    def leave_out(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from(sorted(self.book.seats)))
        for lease in list(self.book.leases.values()):
            if lease.seat == seat:
                for entry in self.book.lost(lease.token, "left out", guilty=0):
                    self.given_up[entry.id] += 1
                    self.waiting.pop(entry.id)
        self.book.drop_seat(seat)

    @rule(client=st.sampled_from("ab"))
    def cancel(self, client: str) -> None:
        mine = {number for number, name in self.waiting.items() if name == client}
        self.book.cancel(client, mine)
        for number in mine:
            self.waiting.pop(number)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert all(n == 1 for n in (self.settled + self.given_up).values())
        open_works = [sum(self.book.open_works(client)) for client in "ab"]
        assert open_works == [sum(name == client for name in self.waiting.values()) for client in "ab"]

    def teardown(self) -> None:
        """Healthy workers bring everything that is left to an end."""
        if not hasattr(self, "book"):
            return
        for lease in list(self.book.leases.values()):
            self.accept(lease, range(len(lease.works)))
            self.book.finish(lease.token)
        idle = 0
        while idle < len(SEATS):
            for seat in SEATS:
                lease = self.book.take(seat, self.now)
                idle = idle + 1 if lease is None else 0
                if lease is not None:
                    self.accept(lease, range(len(lease.works)))
                    assert self.book.finish(lease.token)
        assert not self.waiting


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=examples(15), stateful_step_count=30, deadline=None)
