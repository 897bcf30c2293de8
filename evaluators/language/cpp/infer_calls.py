"""Types of calls: builtins, math and the program's own helpers."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable

from evaluators.language.cpp.infer_expressions import ExpressionTypes, refuse
from evaluators.language.cpp.intervals import limited
from evaluators.language.cpp.normalise import MayBeZero
from evaluators.language.cpp.types import (
    ANY_DOUBLE,
    BOOL,
    EXACT_IN_DOUBLE,
    INT64_MAX,
    NUMBERS,
    UNKNOWN,
    Kind,
    Type,
    as_float32,
    constant,
    list_of,
    whole,
)

HIGHEST_POWER = {"exp": 709, "exp2": 1023}
"""Whole numbers above which the result is no double."""

SMALLEST_DOUBLE = 5e-324
LARGEST_FLOAT = 3.4028234663852886e38
MOST_ITEMS = 2**31 - 1
LATEST = 2**30
"""Largest number that `cta_queue` answers with."""

LARGEST_SQUARE = 2**62
"""Up to which the C++ of math.isqrt stays within 64 bits."""


class CallTypes(ExpressionTypes):
    """Types of expressions, with the functions that programs may call."""

    def _call(self, node: ast.Call) -> Type:
        function = node.func
        given = [self.type(a) for a in node.args]
        if isinstance(function, ast.Attribute):
            if isinstance(function.value, ast.Name) and function.value.id == "math":
                return self._math(node, function.attr, given)
            raise refuse(node, "append in an expression", "a statement of its own")
        assert isinstance(function, ast.Name)
        if function.id in self.form.helpers:
            known = self.parameters[function.id]
            if len(known) != len(given):
                raise refuse(node, f"{function.id} takes {len(known)} arguments, got {len(given)}")
            return self.apply(self.form.helpers[function.id], given)
        builtin = getattr(self, f"_{function.id}", None)
        if builtin is None:
            return self._math(node, function.id, given)
        if UNKNOWN in given:
            return UNKNOWN
        found: Type = builtin(node, given)
        return found

    def _math(self, node: ast.Call, name: str, given: list[Type]) -> Type:
        if UNKNOWN in given:
            return UNKNOWN
        if len(given) != 1 or not given[0].number:
            raise refuse(node, f"math.{name} takes one number here")
        value = given[0]
        if name in ("ceil", "floor"):
            step = math.ceil if name == "ceil" else math.floor
            return self._whole_of(node, step, value, exact=value.float_exact)
        if name == "isqrt":
            if not value.whole:
                raise refuse(node, "math.isqrt of what may be no integer", "int(...)")
            if value.low < 0:
                self._overflow(node.args[0], "may be negative, and math.isqrt of it fails", low=0)
            if self.checked and value.high > LARGEST_SQUARE:
                self._overflow(node.args[0], "", low=0, high=LARGEST_SQUARE)
            return whole(0, value.high if math.isinf(value.high) else math.isqrt(int(value.high)))
        if name == "sqrt" and value.low < 0:
            self._overflow(node.args[0], "may be negative, and math.sqrt of it fails", low=0)
            return Type(Kind.DOUBLE, 0, math.inf)
        if name in ("log", "log2") and value.low <= 0:
            if self.checked:
                self._overflow(node.args[0], "", low=1 if value.whole else SMALLEST_DOUBLE)
            if self.checked or not self._recording:
                return ANY_DOUBLE
            message = f"line {node.lineno}: math.{name} of what may be 0 or negative"
            raise MayBeZero(message, hint=f"math.{name}(max(1, ...))")
        if name in HIGHEST_POWER and value.high > HIGHEST_POWER[name]:
            self._overflow(node.args[0], f"may be so large that math.{name} of it fails", high=HIGHEST_POWER[name])
            return Type(Kind.DOUBLE, 0, math.inf)
        ends = [bound if bound == math.inf else float(getattr(math, name)(bound)) for bound in (value.low, value.high)]
        # One unit in the last place more: a library may round the other way.
        low = math.nextafter(ends[0], -math.inf)
        return Type(Kind.DOUBLE, low if name.startswith("log") else max(0.0, low), math.nextafter(ends[1], math.inf))

    def _abs(self, node: ast.Call, given: list[Type]) -> Type:
        value = self._one(node, given)
        low = 0 if value.may_be_zero else min(abs(value.low), abs(value.high))
        inside = value.integers and (0, max(map(abs, value.integers)))
        kind = Kind.INT if value.whole else value.kind
        return Type(kind, low, max(abs(value.low), abs(value.high)), value.exact, integers=inside)

    def _bool(self, node: ast.Call, given: list[Type]) -> Type:
        if len(given) != 1:
            raise refuse(node, "bool takes one argument")
        return BOOL

    def _float(self, node: ast.Call, given: list[Type]) -> Type:
        value = self._one(node, given)
        if value.whole and not value.within(EXACT_IN_DOUBLE):
            self._overflow(node.args[0], "may pass 2**53, where doubles leave integers out", low=-EXACT_IN_DOUBLE,
                           high=EXACT_IN_DOUBLE)  # fmt: skip
        if value.kind is Kind.FLOAT:
            return value
        return Type(Kind.DOUBLE, value.low, value.high, value.exact)

    def _float32(self, node: ast.Call, given: list[Type]) -> Type:
        value = self._one(node, given)
        finite = [abs(b) for b in (value.low, value.high) if not math.isinf(b)]
        if max(finite, default=0) > LARGEST_FLOAT:
            self._overflow(node.args[0], "may be too large for a single-precision number", low=-LARGEST_FLOAT,
                           high=LARGEST_FLOAT)  # fmt: skip
        ends = [b if abs(b) > LARGEST_FLOAT else as_float32(b) for b in (value.low, value.high)]
        return Type(Kind.FLOAT, ends[0], ends[1])

    def _int(self, node: ast.Call, given: list[Type]) -> Type:
        value = self._one(node, given)
        return self._whole_of(node, int, value)

    def _round(self, node: ast.Call, given: list[Type]) -> Type:
        value = self._one(node, given)
        return self._whole_of(node, round, value)

    def _whole_of(self, node: ast.Call, step: Callable[[float], int], value: Type, *, exact: bool = False) -> Type:
        low, high = (end if math.isinf(end) else step(end) for end in (value.low, value.high))
        if low < -INT64_MAX or high > INT64_MAX:
            self._overflow(node.args[0], "may be too large for a 64-bit integer", low=-INT64_MAX, high=INT64_MAX)
        return Type(Kind.INT, low, high, exact)

    def _one(self, node: ast.Call, given: list[Type]) -> Type:
        if len(given) != 1 or not given[0].number:
            raise refuse(node, f"{ast.unparse(node.func)} takes one number here")
        return given[0]

    def _len(self, node: ast.Call, given: list[Type]) -> Type:
        if len(given) != 1 or given[0].kind not in (Kind.LIST, Kind.RANGE):
            raise refuse(node, "len takes one list")
        return whole(0, MOST_ITEMS)

    def _range(self, node: ast.Call, given: list[Type]) -> Type:
        if not 1 <= len(given) <= 3 or not all(g.whole for g in given):
            raise refuse(node, "range takes one to three integers")
        if len(given) == 3 and (given[2].low != given[2].high or given[2].low == 0):
            raise refuse(node, "a step that is not a constant", "range(low, high, 2)")
        step = given[2].low if len(given) == 3 else 1
        first = given[0] if len(given) > 1 else constant(0)
        last = given[1] if len(given) > 1 else given[0]
        low, high = (first.low, last.high - 1) if step > 0 else (last.low + 1, first.high)
        return Type(Kind.RANGE, items=(whole(min(low, high), max(low, high)),))

    def _extreme(self, node: ast.Call, given: list[Type]) -> Type:
        if len(given) == 1:
            if given[0].kind is not Kind.LIST or given[0].items[0].kind not in (*NUMBERS, Kind.UNKNOWN):
                raise refuse(node, "min and max take numbers or a list of numbers")
            return given[0].items[0]
        found = UNKNOWN
        for part in given:
            if not part.number:
                raise refuse(node, "min and max take numbers")
            found = self._joined(node, found, part)
        pick = min if isinstance(node.func, ast.Name) and node.func.id == "min" else max
        return limited(found, pick(g.low for g in given), pick(g.high for g in given))

    _min = _extreme
    _max = _extreme

    def _sorted(self, node: ast.Call, given: list[Type]) -> Type:
        if len(given) != 1 or given[0].kind not in (Kind.LIST, Kind.RANGE):
            raise refuse(node, "sorted takes one list")
        return list_of(given[0].items[0])

    def _cta_queue(self, node: ast.Call, given: list[Type]) -> Type:
        lengths, *numbers = given
        if lengths.kind is not Kind.LIST or not (lengths.items[0].whole and all(n.whole for n in numbers)):
            raise refuse(node, "cta_queue takes a list of integers, five integers and a truth value")
        return list_of(whole(0, LATEST))

    def _sum(self, node: ast.Call, given: list[Type]) -> Type:
        if len(given) != 1 or given[0].kind not in (Kind.LIST, Kind.RANGE):
            raise refuse(node, "sum takes one list")
        item = given[0].items[0]
        if item.kind is not Kind.UNKNOWN and not item.whole:
            raise refuse(node, "sum of floats, which Python rounds differently from version to version", "a loop")
        count = len(node.args[0].elts) if isinstance(node.args[0], ast.List) else MOST_ITEMS
        low, high = count * min(item.low, 0), count * max(item.high, 0)
        if low < -INT64_MAX or high > INT64_MAX:
            self._overflow(node, "may pass 64 bits", low=-INT64_MAX, high=INT64_MAX)
        return whole(low, high)
