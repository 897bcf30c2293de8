"""Types of calls: builtins, math and the program's own helpers."""

from __future__ import annotations

import ast
import math

from evolve.export.cpp_types import (
    BOOL,
    EXACT_IN_DOUBLE,
    NUMBERS,
    UNKNOWN,
    Kind,
    Type,
    as_float32,
    constant,
    list_of,
    whole,
)
from evolve.export.inference import Inference, refuse
from evolve.export.program_form import MayBeZero


class ProgramTypes(Inference):
    """Types of one form, with the functions that programs may call."""

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
            self.parameters[function.id] = [self._joined(node, a, b) for a, b in zip(known, given, strict=True)]
            return self.results[function.id]
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
            low, high = (b if math.isinf(b) else step(b) for b in (value.low, value.high))
            return Type(Kind.INT, low, high, value.float_exact)
        if name == "isqrt":
            if not value.whole or value.low < 0:
                raise refuse(node, "math.isqrt of what may be negative or no integer", "max(0, ...)")
            return whole(0, value.high if math.isinf(value.high) else math.isqrt(int(value.high)))
        if name == "sqrt" and value.low < 0:
            raise refuse(node, "math.sqrt of what may be negative", "math.sqrt(max(0, ...))")
        if name in ("log", "log2") and value.low <= 0:
            message = f"line {node.lineno}: math.{name} of what may be 0 or negative"
            raise MayBeZero(message, hint=f"math.{name}(max(1, ...))")
        ends = []
        for bound in (value.low, value.high):
            try:
                ends.append(bound if math.isinf(bound) and bound > 0 else float(getattr(math, name)(bound)))
            except OverflowError:
                raise refuse(node, f"math.{name} may overflow", "bound its argument with min") from None
        # One unit in the last place more: a library may round the other way.
        return Type(Kind.DOUBLE, math.nextafter(ends[0], -math.inf), math.nextafter(ends[1], math.inf))

    def _abs(self, node: ast.Call, given: list[Type]) -> Type:
        value = self._one(node, given)
        low = 0 if value.may_be_zero else min(abs(value.low), abs(value.high))
        kind = Kind.INT if value.whole else value.kind
        return Type(kind, low, max(abs(value.low), abs(value.high)), value.exact)

    def _bool(self, node: ast.Call, given: list[Type]) -> Type:
        if len(given) != 1:
            raise refuse(node, "bool takes one argument")
        return BOOL

    def _float(self, node: ast.Call, given: list[Type]) -> Type:
        value = self._one(node, given)
        if value.whole and not value.within(EXACT_IN_DOUBLE) and not math.isinf(value.high - value.low):
            raise refuse(node, "float of an integer that may pass 2**53", "a smaller number")
        if value.kind is Kind.FLOAT:
            return value
        return Type(Kind.DOUBLE, value.low, value.high, value.exact)

    def _float32(self, node: ast.Call, given: list[Type]) -> Type:
        value = self._one(node, given)
        ends = [b if math.isinf(b) else as_float32(b) for b in (value.low, value.high)]
        return Type(Kind.FLOAT, ends[0], ends[1])

    def _int(self, node: ast.Call, given: list[Type]) -> Type:
        value = self._one(node, given)
        return whole(*(b if math.isinf(b) else int(b) for b in (value.low, value.high)))

    def _round(self, node: ast.Call, given: list[Type]) -> Type:
        value = self._one(node, given)
        return whole(*(b if math.isinf(b) else round(b) for b in (value.low, value.high)))

    def _one(self, node: ast.Call, given: list[Type]) -> Type:
        if len(given) != 1 or not given[0].number:
            raise refuse(node, f"{ast.unparse(node.func)} takes one number here")
        return given[0]

    def _len(self, node: ast.Call, given: list[Type]) -> Type:
        if len(given) != 1 or given[0].kind not in (Kind.LIST, Kind.RANGE):
            raise refuse(node, "len takes one list")
        return whole(0, 2**31 - 1)

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
        return Type(found.kind, pick(g.low for g in given), pick(g.high for g in given), found.exact)

    _min = _extreme
    _max = _extreme

    def _sorted(self, node: ast.Call, given: list[Type]) -> Type:
        if len(given) != 1 or given[0].kind not in (Kind.LIST, Kind.RANGE):
            raise refuse(node, "sorted takes one list")
        return list_of(given[0].items[0])

    def _sum(self, node: ast.Call, given: list[Type]) -> Type:
        if len(given) != 1 or given[0].kind not in (Kind.LIST, Kind.RANGE):
            raise refuse(node, "sum takes one list")
        item = given[0].items[0]
        if item.kind is not Kind.UNKNOWN and not item.whole:
            raise refuse(node, "sum of floats, which Python rounds differently from version to version", "a loop")
        return whole(-math.inf if item.low < 0 else 0, math.inf if item.high > 0 else 0)
