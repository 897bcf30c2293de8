"""Operators and builtin functions of the heuristic language over lanes, equal to CPython's lane by lane.

Every function takes the active lanes: an operation that would raise there is not vectorisable, one that would
raise elsewhere does not happen in Python either and is kept from harm.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.language.lanes import (
    BOOL,
    EXACT,
    FLOAT,
    INT,
    NONE,
    Lanes,
    Mask,
    NotVectorisable,
    Value,
    any_active,
    bounds,
    data_of,
    ints,
    kind_of,
    merge,
    mixed,
    tags_of,
)

WRAPS = 2**62
"""Products up to here fit into int64."""

FAILURES = (ArithmeticError, TypeError, ValueError, struct.error)
Operator = Callable[[Any, Any], Any]


def scalar(function: Callable[..., Any], *arguments: Any) -> Any:
    """Python's own operation where all lanes agree."""
    for value in arguments:
        kind_of(value)
    try:
        result = function(*arguments)
    except FAILURES as error:
        raise NotVectorisable(str(error)) from None
    if type(result) is int and abs(result) > EXACT:
        raise NotVectorisable("an integer beyond 2**53")
    return result


def _number(value: Value) -> Any:
    """Array or scalar with bool widened to int, as arithmetic does."""
    if not isinstance(value, Lanes):
        return int(value) if type(value) is bool else value
    return value.data.astype(np.int64) if value.kind == BOOL else value.data


def _tight(value: Value, active: Mask) -> Value:
    """The same integers on active lanes, 0 elsewhere, with bounds from the data."""
    if not isinstance(value, Lanes):
        return value
    data = _number(value)
    return ints(data if active is None else np.where(active, data, 0))


def _corners(op: Operator, one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    found = [op(a, b) for a in one for b in other]
    return min(found), max(found)


def _int_bounds(op: Operator, one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    if op is operator.floordiv:
        if other[0] > 0 or other[1] < 0:
            return _corners(op, one, other)
        most = max(abs(one[0]), abs(one[1]), 1)
        return -most, most
    if op is operator.mod:
        most = max(abs(other[0]), abs(other[1]), 1) - 1
        return (0 if other[0] > 0 else -most), (0 if other[1] < 0 else most)
    return _corners(op, one, other)


def _divisor(value: Value, active: Mask) -> Any:
    """The divisor with zeros on inactive lanes replaced by 1.

    Raises:
        NotVectorisable: a zero on an active lane, which raises in Python.
    """
    data = _number(value)
    if not isinstance(value, Lanes):
        if data == 0:
            raise NotVectorisable("division by zero")
        return data
    if value.kind == INT and (value.low > 0 or value.high < 0):
        return data
    zero = data == 0
    if np.count_nonzero(zero):
        if any_active(zero, active):
            raise NotVectorisable("division by zero")
        data = np.where(zero, 1, data)
    return data


def arithmetic(op: Operator, one: Value, other: Value, active: Mask) -> Value:
    """`one op other` for + - * / // %."""
    if not isinstance(one, Lanes) and not isinstance(other, Lanes):
        return scalar(op, one, other)
    first, second = kind_of(one), kind_of(other)
    if first >= NONE or second >= NONE:
        return _by_kind(op, one, other, active)
    if op is operator.truediv:
        return Lanes(FLOAT, _number(one) / _divisor(other, active))
    divides = op is operator.floordiv or op is operator.mod
    if first == FLOAT or second == FLOAT:
        right = _divisor(other, active) if divides else _number(other)
        return Lanes(FLOAT, op(_number(one), right))
    low, high = _int_bounds(op, bounds(one), bounds(other))
    if low < -WRAPS or high > WRAPS:
        one, other = _tight(one, active), _tight(other, active)
        low, high = _int_bounds(op, bounds(one), bounds(other))
        if low < -WRAPS or high > WRAPS:
            raise NotVectorisable("an integer beyond 2**62")
    data = op(_number(one), _divisor(other, active) if divides else _number(other))
    result = Lanes(INT, data, low, high)
    return result if low >= -EXACT and high <= EXACT else _tight(result, active)


def _count(*values: Value) -> int:
    return next(len(v.data) for v in values if isinstance(v, Lanes))


def _select(value: Value, kind: int, index: npt.NDArray[np.int64]) -> Value:
    """Lanes of one kind out of a value."""
    if not isinstance(value, Lanes):
        return value
    data = value.data[index]
    if kind == INT:
        return ints(data)
    return Lanes(kind, data.astype(bool) if kind == BOOL else data)


def _by_kind(op: Operator, one: Value, other: Value, active: Mask) -> Value:
    """Arithmetic where lanes differ in type: once per pair of types."""
    count = _count(one, other)
    pairs = tags_of(one, count) * 8 + tags_of(other, count)
    out, tags = np.zeros(count), np.zeros(count, np.int8)
    for pair in np.unique(pairs if active is None else pairs[active]):
        first, second = int(pair) // 8, int(pair) % 8
        if NONE in (first, second):
            raise NotVectorisable("arithmetic with None")
        chosen = pairs == pair
        index = np.nonzero(chosen if active is None else chosen & active)[0]
        part = arithmetic(op, _select(one, first, index), _select(other, second, index), None)
        out[index], tags[index] = data_of(part), kind_of(part)
    return mixed(out, tags, active)


def compare(op: Operator, one: Value, other: Value, active: Mask) -> Any:
    """`one op other` for comparisons and `is`: a Python bool, or an array of bool."""
    if op is operator.is_ or op is operator.is_not:
        return _identity(op, one, other)
    first, second = kind_of(one), kind_of(other)
    if first < NONE and second < NONE:
        return op(data_of(one), data_of(other))
    nothing = [v is None or (isinstance(v, Lanes) and v.tags is not None and v.tags == NONE) for v in (one, other)]
    if op is operator.eq or op is operator.ne:
        equal = (data_of(one) == data_of(other)) & (nothing[0] == nothing[1])
        equal = equal if isinstance(equal, np.ndarray) else bool(equal)
        return equal if op is operator.eq else _negated(equal)
    if any(any_active(n, active) for n in nothing):
        raise NotVectorisable("an order comparison with None")
    return op(data_of(one), data_of(other))


def _identity(op: Operator, one: Value, other: Value) -> Any:
    if other is not None:
        one, other = other, one
    if other is not None:
        raise NotVectorisable("`is` between two values; only None can be told by identity")
    found: Any = one is None
    if isinstance(one, Lanes) and one.tags is not None:
        found = one.tags == NONE
    return found if op is operator.is_ else _negated(found)


def _negated(found: Any) -> Any:
    return ~found if isinstance(found, np.ndarray) else not found


def negative(value: Value, active: Mask) -> Value:
    """`-value`."""
    if kind_of(value) < FLOAT:
        return arithmetic(operator.sub, 0, value, active)
    return signed(operator.neg, value, active)


def signed(op: Callable[[Any], Any], value: Value, active: Mask) -> Value:
    """Minus or abs of floats, or of lanes that differ in type."""
    if not isinstance(value, Lanes):
        return scalar(op, value)
    without_none(value, active)
    tags = None if value.tags is None else np.where(value.tags == BOOL, np.int8(INT), value.tags)
    return Lanes(value.kind, op(value.data), tags=tags)


def positive(value: Value, active: Mask) -> Value:
    """`+value`, which makes an int of a bool."""
    if not isinstance(value, Lanes):
        return scalar(operator.pos, value)
    if value.kind == INT:
        return value  # with its bounds
    return arithmetic(operator.add, value, 0, active) if value.kind == BOOL else signed(operator.pos, value, active)


def boolean(found: Any) -> Value:
    """A truth as a value."""
    return Lanes(BOOL, found) if isinstance(found, np.ndarray) else bool(found)


def larger(one: Value, other: Value, active: Mask) -> Value:
    """`max(one, other)`: the first where they are equal or cannot be ordered."""
    return _pick(operator.gt, one, other, active)


def smaller(one: Value, other: Value, active: Mask) -> Value:
    """`min(one, other)`."""
    return _pick(operator.lt, one, other, active)


def _pick(op: Operator, one: Value, other: Value, active: Mask) -> Value:
    first, second = kind_of(one), kind_of(other)
    if first == INT and second == INT and (isinstance(one, Lanes) or isinstance(other, Lanes)):
        best: Any = np.maximum if op is operator.gt else np.minimum
        pick: Any = max if op is operator.gt else min
        (a, b), (c, d) = bounds(one), bounds(other)
        return Lanes(INT, best(data_of(one), data_of(other)), pick(a, c), pick(b, d))
    found = compare(op, other, one, active)
    if not isinstance(found, np.ndarray):
        return other if found else one
    return merge(found, other, one)


def without_none(value: Lanes, active: Mask) -> None:
    """Refuse lanes that hold None where a number is needed.

    Raises:
        NotVectorisable: an active lane does.
    """
    if value.tags is not None and any_active(value.tags == NONE, active):
        raise NotVectorisable("None where a number is needed")
