"""`sum`, `max`, `min`, `sorted` over lanes, each lane over a list of its own."""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from evaluators.language.lane_lists import Index, LaneList, LaneRange, from_flat
from evaluators.language.lane_operators import larger, smaller
from evaluators.language.lanes import (
    BOOL,
    EXACT,
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
)

COMPENSATED_SUM = sys.version_info >= (3, 12)
"""Whether `sum` of floats carries a compensation, as CPython does from 3.12 on."""


def flat_total(values: Value, owner: Index, counts: Index) -> Value:
    """`sum` of one run of items, per lane."""
    if kind_of(values) not in (BOOL, INT):
        return total(from_flat(values, owner, counts), None)
    low, high = bounds(values)
    most = max(abs(low), abs(high)) * int(counts.max(initial=0))
    if most > EXACT:
        raise NotVectorisable("a sum beyond 2**53")
    # Exact: no partial sum leaves what float64 holds.
    data = values.data if isinstance(values, Lanes) else np.full(len(owner), values)
    return ints(np.bincount(owner, weights=data, minlength=len(counts)).astype(np.int64))


def flat_extreme(values: Value, owner: Index, counts: Index, active: Mask, *, largest: bool) -> Value:
    """`max` or `min` of one run of items, per lane."""
    empty = counts == 0
    if any_active(empty, active):
        raise NotVectorisable("max or min of an empty list")
    if kind_of(values) != INT or not isinstance(values, Lanes):
        return extreme(from_flat(values, owner, counts), active, largest=largest)
    starts = (np.cumsum(counts) - counts)[~empty]
    data = np.zeros(len(counts), np.int64)
    data[~empty] = (np.maximum if largest else np.minimum).reduceat(values.data, starts)
    return Lanes(INT, data, min(values.low, 0), max(values.high, 0))


def total(source: Any, active: Mask) -> Value:
    """`sum(list)`."""
    if isinstance(source, LaneRange):
        source = from_flat(*source.flat(active))
    if not source.items:
        return 0
    stack = source.stack()
    if stack.kind == FLOAT:
        return _float_total(source)
    data = np.where(source.present(), stack.data, 0)
    return (
        ints(data.sum(axis=0, dtype=np.int64))
        if active is None
        else ints(np.where(active, data.sum(axis=0, dtype=np.int64), 0))
    )


def _float_total(source: LaneList) -> Value:
    data, present = source.stack().data, source.present()
    high = np.zeros(source.lanes)
    low = np.zeros(source.lanes)
    for row, here in zip(data, present, strict=True):
        added = high + row
        if COMPENSATED_SUM:
            lost = np.where(np.abs(high) >= np.abs(row), (high - added) + row, (row - added) + high)
            low = np.where(here, low + lost, low)
        high = np.where(here, added, high)
    if COMPENSATED_SUM:
        high = np.where((low != 0) & np.isfinite(low), high + low, high)
    # A lane without items sums to the int 0.
    return merge(source.counts() > 0, Lanes(FLOAT, high), 0)


def extreme(source: Any, active: Mask, *, largest: bool) -> Value:
    """`max(list)` or `min(list)`."""
    if isinstance(source, LaneRange):
        source = from_flat(*source.flat(active))
    if any_active(source.counts() == 0, active) or not source.items:
        raise NotVectorisable("max or min of an empty list")
    stack = source.stack()
    if stack.kind == INT:
        edge = stack.low if largest else stack.high
        data = np.where(source.present(), stack.data, edge)
        return Lanes(INT, data.max(axis=0) if largest else data.min(axis=0), stack.low, stack.high)
    best = source.items[0]
    for position in range(1, len(source.items)):
        pick = (larger if largest else smaller)(best, source.items[position], None)
        best = merge(source.counts() > position, pick, best)
    return best


def in_order(source: Any, active: Mask) -> LaneList:
    """`sorted(list)`."""
    if isinstance(source, LaneRange):
        source = from_flat(*source.flat(active))
    if not source.items:
        return LaneList([], source.count, source.lanes)
    stack = source.stack()
    if stack.kind == BOOL or (stack.kind == FLOAT and np.isnan(stack.data).any()):
        raise NotVectorisable("sorted of what has no total order in an array")
    edge: Any = np.inf if stack.kind == FLOAT else stack.high
    data = np.sort(np.where(source.present(), stack.data, edge), axis=0)
    return LaneList([Lanes(stack.kind, row, stack.low, stack.high) for row in data], source.count, source.lanes)


def folded(values: list[Value], active: Mask, *, largest: bool) -> Value:
    """`max(a, b, ...)` or `min(a, b, ...)`."""
    pick = larger if largest else smaller
    return functools.reduce(lambda one, other: pick(one, other, active), values)
