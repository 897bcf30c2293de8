"""Arithmetic on ranges of values: where a sum, a product or a quotient may lie."""

from __future__ import annotations

import ast
import math
from dataclasses import replace

from evaluators.language.cpp.types import EXACT_IN_DOUBLE, Kind, Type, widen

Range = tuple[float, float]
"""Lowest and highest value; infinite where no bound is known."""


def combined(op: ast.operator, left: Range, right: Range) -> Range:
    """Range of `left op right`; wide open where an end is not finite.

    Each end is computed as the program computes it, and rounding never turns an order around, so that a float's range
    holds every rounded result too.
    """
    if isinstance(op, ast.Add):
        return _known((left[0] + right[0], left[1] + right[1]))
    if isinstance(op, ast.Sub):
        return _known((left[0] - right[1], left[1] - right[0]))
    if isinstance(op, ast.Mod):
        reach = max(abs(right[0]), abs(right[1]))
        if left[0] >= 0 and right[0] > 0:
            return 0, min(left[1], reach)
        return -reach, reach
    positive = left[0] >= 0 and right[0] >= 0
    if any(math.isinf(end) for end in (*left, *right)):
        return (0 if positive else -math.inf), math.inf
    if isinstance(op, ast.Mult):
        products = [a * b for a in left for b in right]
        return min(products), max(products)
    if right[0] <= 0 <= right[1]:
        return -math.inf, math.inf
    if isinstance(op, ast.FloorDiv):
        quotients = [a // b for a in left for b in right]
        return min(quotients), max(quotients)
    shares = [a / b for a in left for b in right]
    return min(shares), max(shares)


def _known(found: Range) -> Range:
    """Without the NaN that inf - inf makes."""
    return (-math.inf if math.isnan(found[0]) else found[0]), (math.inf if math.isnan(found[1]) else found[1])


def squared(one: Range) -> Range:
    """Range of x * x, which is never negative."""
    ends = [end * end for end in one]
    return (0 if one[0] <= 0 <= one[1] else min(ends)), max(ends)


def remainder(one: Type, divisor: Type) -> Range:
    """Range of `one % divisor` for whole numbers and a divisor above 0."""
    return 0, min(one.high, divisor.high - 1) if one.low >= 0 else divisor.high - 1


def limited(found: Type, low: float, high: float) -> Type:
    """The type with only the values from `low` to `high`; as it is where none is left, since that is never run."""
    if found.whole:
        low, high = (end if math.isinf(end) else step(end) for end, step in ((low, math.ceil), (high, math.floor)))
    low, high = max(found.low, low), min(found.high, high)
    if low > high or (low, high) == (found.low, found.high):
        return found
    inside = found.integers and (max(found.integers[0], low), min(found.integers[1], high))
    return replace(found, low=low, high=high, integers=inside if inside and inside[0] <= inside[1] else None)


def as_declared(found: Type, declared: Type) -> Type:
    """A value's range in the type of the C++ variable that holds it: an int in a `double` is computed with as such."""
    if declared.kind is Kind.UNKNOWN or found.kind is Kind.UNKNOWN:
        return found
    if found.number and declared.number:
        if found.kind is declared.kind or declared.kind is Kind.BOOL:
            return found
        inside = (found.low, found.high) if found.whole and not declared.whole else found.integers
        maybe_bool = found.kind is Kind.BOOL and declared.kind is Kind.INT
        return Type(declared.kind, found.low, found.high, found.float_exact, integers=inside, maybe_bool=maybe_bool)
    if found.items and len(found.items) == len(declared.items):
        pairs = zip(found.items, declared.items, strict=True)
        return replace(found, items=tuple(as_declared(a, b) for a, b in pairs))
    return found


def integers_fit(found: Type) -> bool:
    """True if a double holds every integer that the value may be in Python."""
    if found.integers is None:
        return True
    return found.integers[0] >= -EXACT_IN_DOUBLE and found.integers[1] <= EXACT_IN_DOUBLE


__all__ = ["Range", "as_declared", "combined", "integers_fit", "limited", "remainder", "squared", "widen"]
