"""Values over many shapes at once: one number per shape ("lane"), with Python's own types and rules.

A value is a Python number or None where all lanes agree, otherwise `Lanes`: an array with the Python type of its
numbers, or `MIXED` with a type per lane. Integers stay within 2**53, where int64 and float64 are both exact, and
carry bounds, so that no operation can wrap unseen. `merge` is what an `if` does to a variable.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BOOL, INT, FLOAT, NONE, MIXED = 0, 1, 2, 3, 4
"""Python type of the numbers in a `Lanes`; `MIXED` has one of the first four per lane."""

EXACT = 2**53
"""Largest integer that int64 and float64 both hold exactly, and every integer below it."""

Mask = npt.NDArray[np.bool_] | None
"""Lanes that are under way; None means all."""

Value = Any
"""Python number, None, tuple of values, `Lanes`, a list or a view."""


class NotVectorisable(Exception):
    """The program leaves what arrays can follow, or fails on a lane: the sandbox has to answer."""


class Lanes:
    """One number per lane. Never changed in place.

    Attributes:
        kind: `BOOL`, `INT`, `FLOAT` or `MIXED`.
        data: bool, int64 or float64; for `MIXED` float64, with 0 for None.
        low: no lane is below; for `INT` alone.
        high: no lane is above; for `INT` alone.
        tags: kind of each lane, for `MIXED` alone.
    """

    __slots__ = ("data", "high", "kind", "low", "tags")

    def __init__(
        self, kind: int, data: npt.NDArray[Any], low: int = 0, high: int = 0, tags: npt.NDArray[np.int8] | None = None
    ) -> None:
        """Keep the array; the caller answers for the bounds."""
        self.kind, self.data, self.low, self.high, self.tags = kind, data, low, high, tags


def ints(data: npt.NDArray[Any]) -> Lanes:
    """Integer lanes with bounds as tight as the data."""
    if not data.size:
        return Lanes(INT, data.astype(np.int64))
    low, high = int(data.min()), int(data.max())
    if low < -EXACT or high > EXACT:
        raise NotVectorisable(f"an integer beyond 2**53: {low}..{high}")
    return Lanes(INT, data.astype(np.int64, copy=False), low, high)


def kind_of(value: Value) -> int:
    """Kind of a scalar or of lanes.

    Raises:
        NotVectorisable: a tuple, list or view, which no operation takes.
    """
    if isinstance(value, Lanes):
        return value.kind
    if value is None:
        return NONE
    found = SCALAR_KINDS.get(type(value))
    if found is None:
        raise NotVectorisable(f"a number was expected, got {type(value).__name__}")
    return found


SCALAR_KINDS: dict[type, int] = {bool: BOOL, int: INT, float: FLOAT}


def same_scalar(one: Value, other: Value) -> bool:
    """Whether two Python scalars cannot be told apart."""
    return type(one) is type(other) and one == other and (type(one) is not float or str(one) == str(other))


def tags_of(value: Value, count: int) -> npt.NDArray[np.int8]:
    """Kind of each lane."""
    if isinstance(value, Lanes) and value.tags is not None:
        return value.tags
    return np.full(count, kind_of(value), np.int8)


def data_of(value: Value) -> Any:
    """Array or number, None as 0."""
    if isinstance(value, Lanes):
        return value.data
    return 0 if value is None else value


def mixed(data: npt.NDArray[np.float64], tags: npt.NDArray[np.int8], active: Mask) -> Value:
    """Lanes with a kind each; plain lanes where the active ones agree."""
    seen = tags if active is None else tags[active]
    first = int(seen[0]) if seen.size else NONE
    if not seen.size or (seen == first).all():
        if first == NONE:
            return None
        if active is not None:
            data = np.where(active, data, 0.0)
        return ints(data) if first == INT else Lanes(first, data.astype(bool) if first == BOOL else data)
    return Lanes(MIXED, data, tags=tags)


def merge(active: npt.NDArray[np.bool_], new: Value, old: Value) -> Value:
    """`new` on active lanes, `old` elsewhere.

    Raises:
        NotVectorisable: values that have no common form, such as a number and a list.
    """
    if new is old:
        return old
    if isinstance(new, tuple) and isinstance(old, tuple) and len(new) == len(old):
        return tuple([merge(active, a, b) for a, b in zip(new, old, strict=True)])
    if hasattr(new, "merged"):
        return new.merged(active, old)
    first, second = kind_of(new), kind_of(old)
    if not isinstance(new, Lanes) and not isinstance(old, Lanes) and same_scalar(new, old):
        return old
    if first == second and first < NONE:
        data = np.where(active, data_of(new), data_of(old))
        if first != INT:
            return Lanes(first, data)
        (a, b), (c, d) = bounds(new), bounds(old)
        return Lanes(INT, data, min(a, c), max(b, d))
    count = len(active)
    tags = np.where(active, tags_of(new, count), tags_of(old, count))
    return Lanes(MIXED, np.where(active, data_of(new), data_of(old)).astype(np.float64), tags=tags)


def bounds(value: Value) -> tuple[int, int]:
    """Bounds of an INT or BOOL value."""
    if isinstance(value, Lanes):
        return (value.low, value.high) if value.kind == INT else (0, 1)
    return int(value), int(value)


def take(value: Value, index: npt.NDArray[np.int64]) -> Value:
    """The value on other lanes: lane i of the result is lane index[i]."""
    if isinstance(value, Lanes):
        tags = None if value.tags is None else value.tags[index]
        return Lanes(value.kind, value.data[index], value.low, value.high, tags)
    if isinstance(value, tuple):
        return tuple([take(item, index) for item in value])
    return value.taken(index) if hasattr(value, "taken") else value


def truth(value: Value) -> Any:
    """`bool(value)`: a Python bool, or an array of bool."""
    if isinstance(value, Lanes):
        return value.data if value.kind == BOOL else value.data != 0
    if isinstance(value, tuple):
        return bool(value)
    if hasattr(value, "filled"):
        return value.filled()
    kind_of(value)
    return bool(value)


def any_active(found: Any, active: Mask) -> bool:
    """Whether a condition holds on an active lane."""
    if isinstance(found, bool | np.bool_):
        return bool(found)
    return bool(np.count_nonzero(found if active is None else found & active))
