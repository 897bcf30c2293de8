"""Functions of one number over lanes, equal to CPython's lane by lane."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.fa3.dispatch import float32
from evaluators.language.lane_operators import FAILURES, boolean, positive, scalar, signed, without_none
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
    ints,
    truth,
)


def _whole(rounded: npt.NDArray[np.float64], active: Mask) -> Lanes:
    """Whole numbers out of floats; what is not finite on an active lane raises in Python."""
    if not (rounded.size and np.abs(rounded).max() <= EXACT):
        if active is not None:
            rounded = np.where(active, rounded, 0.0)
        if rounded.size and not np.abs(rounded).max() <= EXACT:
            raise NotVectorisable("a float that is not finite, or beyond 2**53, cannot become an int")
    return ints(rounded.astype(np.int64))


def _rounding(single: Callable[[Any], int], array: Callable[[Any], Any]) -> Callable[[Value, Mask], Value]:
    def apply(value: Value, active: Mask) -> Value:
        if not isinstance(value, Lanes):
            return scalar(single, value)
        if value.kind in (BOOL, INT):
            return positive(value, active)
        without_none(value, active)
        return _whole(array(value.data), active)

    return apply


def _as_float(value: Value, active: Mask) -> Value:
    if not isinstance(value, Lanes):
        return scalar(float, value)
    without_none(value, active)
    return value if value.kind == FLOAT else Lanes(FLOAT, value.data.astype(np.float64))


def _single(value: Value, active: Mask) -> Value:
    if not isinstance(value, Lanes):
        return scalar(float32, value)
    without_none(value, active)
    wide = value.data.astype(np.float64)
    narrow = wide.astype(np.float32).astype(np.float64)
    if any_active(np.isinf(narrow) & ~np.isinf(wide), active):
        raise NotVectorisable("float32 of a number that single precision cannot hold")
    return Lanes(FLOAT, narrow)


def _absolute(value: Value, active: Mask) -> Value:
    if not isinstance(value, Lanes):
        return scalar(abs, value)
    if value.kind == BOOL:
        return positive(value, active)
    if value.kind != INT:
        return signed(abs, value, active)
    most = max(abs(value.low), abs(value.high))
    return Lanes(INT, np.abs(value.data), 0, most)


def _root(value: Value, active: Mask) -> Value:
    if not isinstance(value, Lanes):
        return scalar(math.sqrt, value)
    without_none(value, active)
    if any_active(value.data < 0, active):
        raise NotVectorisable("square root of a negative number")
    return Lanes(FLOAT, np.sqrt(np.abs(value.data.astype(np.float64))))


def _each(function: Callable[[Any], Any], *, whole: bool = False) -> Callable[[Value, Mask], Value]:
    """A function whose array form in numpy may differ in the last digit: Python's own, lane by lane."""

    def apply(value: Value, active: Mask) -> Value:
        if not isinstance(value, Lanes):
            return scalar(function, value)
        without_none(value, active)
        if whole and value.kind not in (BOOL, INT):
            raise NotVectorisable("isqrt of what is not an int")
        index = np.arange(len(value.data)) if active is None else np.nonzero(active)[0]
        try:
            found = [function(v) for v in value.data[index].tolist()]
        except FAILURES as error:
            raise NotVectorisable(str(error)) from None
        out = np.zeros(len(value.data), np.int64 if whole else np.float64)
        out[index] = found
        return ints(out) if whole else Lanes(FLOAT, out)

    return apply


def _truth_value(value: Value, active: Mask) -> Value:
    return boolean(truth(value))


ONE_ARGUMENT: dict[str, Callable[[Value, Mask], Value]] = {
    "abs": _absolute,
    "bool": _truth_value,
    "float": _as_float,
    "float32": _single,
    "int": _rounding(int, np.trunc),
    "round": _rounding(round, np.rint),
    "ceil": _rounding(math.ceil, np.ceil),
    "floor": _rounding(math.floor, np.floor),
    "sqrt": _root,
    "exp": _each(math.exp),
    "exp2": _each(lambda x: math.exp2(x)),
    "isqrt": _each(math.isqrt, whole=True),
    "log": _each(math.log),
    "log2": _each(math.log2),
}
"""Functions of one number, by their name in the language."""
