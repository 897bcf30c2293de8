"""Lists and ranges over many shapes at once: each lane has a length of its own."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.language.lane_operators import arithmetic, larger
from evaluators.language.lanes import (
    BOOL,
    FLOAT,
    INT,
    Lanes,
    Mask,
    NotVectorisable,
    Value,
    any_active,
    bounds,
    ints,
    kind_of,
    merge,
    take,
)

MAX_ITEMS = 4_000_000
"""Items of one list over all lanes; beyond, the sandbox's memory limit should decide."""

Index = npt.NDArray[np.int64]


class LaneList:
    """A list per lane. Changed in place by append and item assignment, as in Python.

    Attributes:
        count: length, or length per lane.
        lanes: number of lanes.
        shared: whether two names may hold it, so that merging it into another would part them.
        version: another object after every change; copies share it until they change.
        touched: whether it has been changed.
    """

    def __init__(self, items: list[Value], count: int | Index, lanes: int) -> None:
        """Keep items and lengths."""
        self._items: list[Value] | None = items
        self.count, self.lanes = count, lanes
        self.shared = self.touched = False
        self.version = object()
        self._stack: Lanes | None = None
        self._flat: tuple[Lanes, Index] | None = None

    def _changed(self) -> None:
        self.items  # noqa: B018  # before what they might have to be made of is dropped
        self._stack = self._flat = None
        self.version, self.touched = object(), True

    @property
    def items(self) -> list[Value]:
        """Values by position; a lane's own list ends at its count."""
        if self._items is None:
            assert self._flat is not None
            self._items = from_flat(*self._flat, self.counts()).items
        return self._items

    def blank(self) -> bool:
        """Whether no lane has an item."""
        return not self._items if self._items is not None else not (self._flat and len(self._flat[1]))

    def counts(self) -> Index:
        """Length per lane."""
        return np.full(self.lanes, self.count, np.int64) if isinstance(self.count, int) else self.count

    def length(self) -> Value:
        """`len(list)`."""
        return self.count if isinstance(self.count, int) else ints(self.count)

    def filled(self) -> Any:
        """`bool(list)`."""
        return self.count > 0

    def append(self, value: Value, active: Mask) -> None:
        """`list.append(value)` on active lanes."""
        self._changed()
        if active is None and isinstance(self.count, int):
            self.items.append(value)
            self.count += 1
            return
        count = self.counts()
        everywhere = np.ones(self.lanes, bool) if active is None else active
        for position in np.unique(count[everywhere]).tolist():
            where = everywhere & (count == position)
            if position == len(self.items):
                self.items.append(value)
            else:
                self.items[position] = merge(where, value, self.items[position])
        self.count = count + everywhere

    def extend(self, other: LaneList, active: Mask) -> None:
        """`list += other`."""
        if not isinstance(other.count, int):
            raise NotVectorisable("a list extended by one whose length differs between shapes")
        for item in other.items[: other.count]:
            self.append(item, active)

    def copy(self) -> LaneList:
        """A list of its own with the same items."""
        twin = LaneList(list(self.items), self.count, self.lanes)
        twin._stack, twin._flat, twin.version = self._stack, self._flat, self.version
        return twin

    def _position(self, index: Value, active: Mask) -> Any:
        """Position from the front: a number, or one per lane.

        Raises:
            NotVectorisable: out of range on an active lane, or not an int.
        """
        if kind_of(index) != INT:
            raise NotVectorisable("a list index that is not an int")
        at: Any = index.data if isinstance(index, Lanes) else index
        if isinstance(at, int) and isinstance(self.count, int):
            at = at + self.count if at < 0 else at
        elif not isinstance(at, int) or at < 0:
            at = np.where(np.less(at, 0), at + self.count, at)
        outside = (at < 0) | (at >= self.count)
        if any_active(outside, active):
            raise NotVectorisable("a list index out of range")
        if isinstance(at, np.ndarray):
            at = np.where(outside, 0, at)
            first = int(at[0]) if at.size else 0
            return first if (at == first).all() else at
        return int(at)

    def get(self, index: Value, active: Mask) -> Value:
        """`list[index]`."""
        at = self._position(index, active)
        if isinstance(at, int):
            return self.items[at]
        stack = self.stack()
        return Lanes(stack.kind, stack.data[at, np.arange(self.lanes)], stack.low, stack.high)

    def put(self, index: Value, value: Value, active: Mask) -> None:
        """`list[index] = value`."""
        at = self._position(index, active)
        self._changed()
        everywhere = np.ones(self.lanes, bool) if active is None else active
        for position in [at] if isinstance(at, int) else np.unique(at[everywhere]).tolist():
            self.items[position] = merge(everywhere & np.equal(at, position), value, self.items[position])

    def merged(self, active: npt.NDArray[np.bool_], old: Value) -> LaneList:
        """This list on active lanes, another elsewhere."""
        if not isinstance(old, LaneList) or self.shared or old.shared:
            raise NotVectorisable("a variable that holds a list on some lanes and something else on others")
        most = max(len(self.items), len(old.items))
        items = [
            merge(active, self.items[p], old.items[p]) if p < min(len(self.items), len(old.items))
            else (self.items if p < len(self.items) else old.items)[p]
            for p in range(most)
        ]  # fmt: skip
        return LaneList(items, np.where(active, self.counts(), old.counts()), self.lanes)

    def taken(self, index: Index) -> LaneList:
        """The list on other lanes; a copy, which nobody changes."""
        count = self.count if isinstance(self.count, int) else self.count[index]
        found = LaneList([], count, len(index))
        if self._flat is None:
            found._items = [take(item, index) for item in self.items]
            return found
        values, owner = self._flat
        own = np.bincount(owner, minlength=self.lanes)
        each = own[index]
        # Where the items of each new lane start among the old ones, less where they start among the new ones.
        moved = (np.cumsum(own) - own)[index] - (np.cumsum(each) - each)
        owner = np.repeat(np.arange(len(index)), each)
        found._items, found._flat = None, (take(values, moved[owner] + np.arange(len(owner))), owner)
        return found

    def stack(self) -> Lanes:
        """Items as rows of one array.

        Raises:
            NotVectorisable: items of different types.
        """
        if self._stack is None:
            kinds = {kind_of(item) for item in self.items}
            if len(kinds) != 1 or not kinds <= {BOOL, INT, FLOAT}:
                raise NotVectorisable("a list of values that differ in type")
            kind = kinds.pop()
            dtype: Any = (np.bool_, np.int64, np.float64)[kind]
            data = np.empty((len(self.items), self.lanes), dtype)
            for position, item in enumerate(self.items):
                data[position] = item.data if isinstance(item, Lanes) else item
            ends = [bounds(item) for item in self.items] if kind == INT else [(0, 0)]
            self._stack = Lanes(kind, data, min(low for low, _ in ends), max(high for _, high in ends))
        return self._stack

    def flat(self, active: Mask) -> tuple[Value, Index, Index]:
        """All items of all active lanes in one run: values, lane of each, count per lane."""
        if self._flat is None:
            stack = self.stack()
            # Lane by lane, so that the items of one lane stand together.
            owner, position = np.nonzero(self.present().T)
            self._flat = Lanes(stack.kind, stack.data[position, owner], stack.low, stack.high), owner
        values, owner = self._flat
        if active is None:
            return values, owner, self.counts()
        index = np.nonzero(active[owner])[0]
        return take(values, index), owner[index], np.where(active, self.counts(), 0)

    def present(self) -> npt.NDArray[np.bool_]:
        """Which positions a lane has: [items, lanes]."""
        return np.arange(len(self.items))[:, None] < self.counts()[None, :]

    def steps(self, active: Mask) -> Iterator[tuple[Value, Any]]:
        """Items in order, with the lanes that have one: True or an array of bool."""
        most = (
            self.count
            if isinstance(self.count, int)
            else int((self.counts() * (True if active is None else active)).max(initial=0))
        )
        for position in range(most):
            yield self.items[position], True if isinstance(self.count, int) else position < self.count


def from_flat(values: Value, owner: Index, counts: Index) -> LaneList:
    """A list per lane out of one run of items; `owner` names the lane of each, in order."""
    lanes = len(counts)
    most = int(counts.max(initial=0))
    if most * lanes > MAX_ITEMS:
        raise NotVectorisable("a list of too many items")
    kind = kind_of(values)
    if kind not in (BOOL, INT, FLOAT):
        raise NotVectorisable("a list of values that differ in type")
    dtype: Any = (np.bool_, np.int64, np.float64)[kind]
    data = np.zeros((most, lanes), dtype)
    starts = np.cumsum(counts) - counts
    data[np.arange(len(owner)) - starts[owner], owner] = values.data if isinstance(values, Lanes) else values
    low, high = bounds(values) if kind == INT else (0, 0)
    low, high = min(low, 0), max(high, 0)
    result = LaneList([Lanes(kind, row, low, high) for row in data], counts, lanes)
    result._stack = Lanes(kind, data, low, high)
    return result


class LaneRange:
    """`range(start, stop, step)` per lane."""

    def __init__(self, arguments: list[Value], lanes: int, active: Mask) -> None:
        """Read the arguments.

        Raises:
            NotVectorisable: not ints, or a step that is zero or differs between lanes.
        """
        if not 1 <= len(arguments) <= 3 or any(kind_of(a) not in (BOOL, INT) for a in arguments):
            raise NotVectorisable("range takes one to three ints")
        arguments = [arithmetic(operator.add, a, 0, active) for a in arguments]
        self.start: Value = 0 if len(arguments) == 1 else arguments[0]
        stop = arguments[0] if len(arguments) == 1 else arguments[1]
        self.step = arguments[2] if len(arguments) == 3 else 1
        if isinstance(self.step, Lanes) or self.step == 0:
            raise NotVectorisable("a range whose step is zero or differs between shapes")
        # -(-(stop - start) // step) is the ceiling, whatever the sign of the step.
        span = arithmetic(operator.sub, self.start, stop, active)
        self._count = larger(0, _negated(arithmetic(operator.floordiv, span, self.step, active), active), active)
        self.lanes = lanes

    def length(self) -> Value:
        """`len(range)`."""
        return self._count

    def most(self, active: Mask) -> int:
        """Longest count of an active lane."""
        if not isinstance(self._count, Lanes):
            return int(self._count)
        data = self._count.data if active is None else self._count.data[active]
        return int(data.max(initial=0))

    def steps(self, active: Mask) -> Iterator[tuple[Value, Any]]:
        """Numbers in order, with the lanes that have one."""
        for position in range(self.most(active)):
            value = arithmetic(operator.add, self.start, position * self.step, active)
            yield value, position < self._count.data if isinstance(self._count, Lanes) else True

    def flat(self, active: Mask) -> tuple[Value, Index, Index]:
        """All numbers of all active lanes in one run: values, lane of each, count per lane."""
        counts = self._count.data if isinstance(self._count, Lanes) else np.full(self.lanes, self._count, np.int64)
        if active is not None:
            counts = np.where(active, counts, 0)
        total = int(counts.sum())
        if total > MAX_ITEMS:
            raise NotVectorisable("a range of too many numbers")
        owner = np.repeat(np.arange(self.lanes), counts)
        position = np.arange(total) - (np.cumsum(counts) - counts)[owner]
        most = int(counts.max(initial=1))
        low, high = sorted((0, self.step * most))
        moved = Lanes(INT, position * self.step, low, high)
        return arithmetic(operator.add, take(self.start, owner), moved, None), owner, counts


def _negated(value: Value, active: Mask) -> Value:
    return arithmetic(operator.sub, 0, value, active)


def repeated(source: LaneList, times: Value, active: Mask) -> LaneList:
    """`list * times`."""
    if isinstance(times, Lanes) or type(times) is not int or not isinstance(source.count, int):
        raise NotVectorisable("a list repeated a number of times that differs between shapes")
    if source.count * max(times, 0) > MAX_ITEMS:
        raise NotVectorisable("a list of too many items")
    items = source.items[: source.count] * max(times, 0)
    return LaneList(items, len(items), source.lanes)
