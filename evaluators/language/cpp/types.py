"""Types of the heuristic language as C++ sees them: kind and range of values, joined over all paths.

Ranges decide what Python leaves open: whether an int fits 32 bits, whether `/` and `//` of Python are those of
C++, whether a conversion to floating point is exact.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
EXACT_IN_DOUBLE = 2**53
EXACT_IN_FLOAT = 2**24


class Kind(StrEnum):
    """Kind of a value. FLOAT is a double in Python with a single-precision value."""

    UNKNOWN = "unknown"
    NONE = "None"
    BOOL = "bool"
    INT = "int"
    FLOAT = "float32"
    DOUBLE = "float"
    LIST = "list"
    RANGE = "range"
    TUPLE = "tuple"
    VIEW = "view"


NUMBERS = (Kind.BOOL, Kind.INT, Kind.FLOAT, Kind.DOUBLE)


@dataclass(frozen=True, slots=True)
class Type:
    """A set of values.

    Attributes:
        low: smallest value, of numbers; -inf where no bound is known.
        high: largest value.
        exact: every value is also a float's (constants such as 0.5, ceilings of floats).
        items: types of the parts of a TUPLE; the type of the items of a LIST or RANGE.
        integers: range of those of a DOUBLE's values that are ints in Python, as in `0 if few else 1.5`.
        maybe_bool: some of an INT's values are True or False in Python, as in `paged or 2`.
    """

    kind: Kind
    low: float = 0
    high: float = 0
    exact: bool = False
    items: tuple[Type, ...] = ()
    integers: tuple[float, float] | None = None
    maybe_bool: bool = False

    @property
    def number(self) -> bool:
        """True if arithmetic is defined on it."""
        return self.kind in NUMBERS

    @property
    def whole(self) -> bool:
        """True if it is an int or a bool."""
        return self.kind in (Kind.BOOL, Kind.INT)

    def within(self, bound: int) -> bool:
        """True if every value lies in -bound..bound."""
        return -bound <= self.low and self.high <= bound

    @property
    def may_be_zero(self) -> bool:
        """True if 0 lies in the range."""
        return self.low <= 0 <= self.high

    @property
    def float_exact(self) -> bool:
        """True if a C++ float holds every value."""
        return self.exact or self.kind is Kind.FLOAT or (self.whole and self.within(EXACT_IN_FLOAT))


UNKNOWN = Type(Kind.UNKNOWN)
NONE = Type(Kind.NONE)
VIEW = Type(Kind.VIEW)
BOOL = Type(Kind.BOOL, 0, 1)
ANY_DOUBLE = Type(Kind.DOUBLE, -math.inf, math.inf)


def whole(low: float, high: float) -> Type:
    """An int type."""
    return Type(Kind.INT, low, high)


def list_of(item: Type) -> Type:
    """A list type."""
    return Type(Kind.LIST, items=(item,))


def as_float32(value: float) -> float:
    """The nearest single-precision number."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def constant(value: bool | int | float | None) -> Type:
    """Type of a literal."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return Type(Kind.BOOL, int(value), int(value))
    if isinstance(value, int):
        return whole(value, value)
    if math.isinf(value):
        return Type(Kind.DOUBLE, value, value, exact=True)
    return Type(Kind.DOUBLE, value, value, exact=abs(value) < 3e38 and as_float32(value) == value)


def join(one: Type, other: Type) -> Type | None:
    """The smallest type that holds both; None where C++ has no such type."""
    if one.kind is Kind.UNKNOWN or one == other:
        return other
    if other.kind is Kind.UNKNOWN:
        return one
    if one.number and other.number:
        low, high = min(one.low, other.low), max(one.high, other.high)
        kinds = {one.kind, other.kind}
        if len(kinds) == 1 and Kind.DOUBLE not in kinds:
            exact, maybe_bool = one.exact and other.exact, one.maybe_bool or other.maybe_bool
            return Type(one.kind, low, high, exact, maybe_bool=maybe_bool)
        if kinds == {Kind.BOOL, Kind.INT}:
            return Type(Kind.INT, low, high, maybe_bool=True)
        if kinds == {Kind.FLOAT, Kind.DOUBLE} and (one.float_exact and other.float_exact):
            return Type(Kind.FLOAT, low, high)
        parts = [(p.low, p.high) if p.whole else p.integers for p in (one, other)]
        ends = [end for part in parts if part is not None for end in part]
        exact = kinds == {Kind.DOUBLE} and one.exact and other.exact
        return Type(Kind.DOUBLE, low, high, exact, integers=(min(ends), max(ends)) if ends else None)
    if one.kind is not other.kind or len(one.items) != len(other.items):
        return None
    items = [join(a, b) for a, b in zip(one.items, other.items, strict=True)]
    if any(i is None for i in items):
        return None
    return Type(one.kind, items=tuple(i for i in items if i is not None))


def widen(old: Type, new: Type) -> Type:
    """`new` without the bounds that still move, so that the search for types ends."""
    if old.kind is Kind.UNKNOWN:
        return new
    if new.number:
        low, high = _open((old.low, old.high), (new.low, new.high))
        inside = new.integers and _open(old.integers or new.integers, new.integers)
        return Type(new.kind, low, high, new.exact, integers=inside, maybe_bool=new.maybe_bool)
    if len(new.items) == len(old.items):
        return Type(new.kind, items=tuple(widen(a, b) for a, b in zip(old.items, new.items, strict=True)))
    return new


def _open(old: tuple[float, float], new: tuple[float, float]) -> tuple[float, float]:
    return (new[0] if new[0] >= old[0] else -math.inf), (new[1] if new[1] <= old[1] else math.inf)


def cpp_type(kind: Type) -> str:
    """Name of the type in C++. The caller has refused types without one."""
    if kind.kind is Kind.BOOL:
        return "bool"
    if kind.kind is Kind.INT:
        return "int" if kind.within(INT32_MAX) else "int64_t"
    if kind.kind is Kind.FLOAT:
        return "float"
    if kind.kind is Kind.DOUBLE:
        return "double"
    if kind.kind in (Kind.LIST, Kind.RANGE):
        return f"std::vector<{cpp_type(kind.items[0])}>"
    if kind.kind is Kind.TUPLE:
        return f"std::tuple<{', '.join(cpp_type(i) for i in kind.items)}>"
    raise ValueError(f"{kind.kind.value} has no C++ type")


def float_literal(value: float) -> str | None:
    """`0.8f` for float32(0.8); None where C++ would round the same digits to another float.

    Python rounds the decimal to a double and that to a float, C++ rounds it once.
    """
    single = as_float32(value)
    text = repr(value)
    written = Fraction(text)
    bits = struct.unpack("<i", struct.pack("<f", abs(single)))[0]
    steps = [Fraction(struct.unpack("<f", struct.pack("<i", bits + s))[0]) for s in (-1, 1) if bits + s >= 0]
    nearest = Fraction(abs(single))
    half = min(abs(n - nearest) for n in steps) / 2
    if abs(abs(written) - nearest) >= half and single != value:
        return None
    if "e" not in text and "." not in text:
        text += "."
    return f"{text}f"
