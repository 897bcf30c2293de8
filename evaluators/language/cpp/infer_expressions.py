"""Finds the type of every expression of a program, so that C++ can declare it and compute the same."""

from __future__ import annotations

import ast
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

from evaluators.language.cpp.flow import Flow, Texts
from evaluators.language.cpp.intervals import as_declared, combined, integers_fit, limited, remainder, squared
from evaluators.language.cpp.normalise import Form, NotExpressible
from evaluators.language.cpp.overflow import Overflow
from evaluators.language.cpp.types import (
    BOOL,
    EXACT_IN_DOUBLE,
    INT64_MAX,
    UNKNOWN,
    Kind,
    Type,
    constant,
    join,
    list_of,
    whole,
)


def refuse(node: ast.AST, message: str, hint: str = "") -> NotExpressible:
    """The error for a construct that has no exact C++."""
    return NotExpressible(f"line {getattr(node, 'lineno', 1)}: {message}", hint=hint)


class ExpressionTypes(ABC):
    """Types of expressions at a place of one form.

    Attributes:
        of: type of each expression by node, over all the times that it is computed.
        names: type that C++ gives each local name, by function ("" for the body).
        places: function and name that an ast.Name denotes, by node.
        results: type that each function returns.
        parameters: types that each helper is called with.
        divisors: divisions whose divisor may be zero according to ranges.
        flow: facts at this place.
        updated: the statement of each `a op b` that was `a op= b`.
        checked: True if C++ checks at run time what ranges cannot exclude; otherwise such code is refused.
        bounds: in checked C++, least and greatest value of expressions that must be checked.
        watched: the expression whose failed check is reported as its own.
    """

    def __init__(self, form: Form, inputs: Mapping[str, Type], checked: bool, numbers: Mapping[str, Type]) -> None:
        """Begin without facts."""
        self.form, self.inputs, self.checked = form, inputs, checked
        self.bounds: dict[ast.expr, tuple[float, float]] = {}
        self.watched: ast.AST | None = None
        self.of: dict[ast.expr, Type] = {}
        self.names: dict[str, dict[str, Type]] = {}
        self.places: dict[ast.expr, tuple[str, str]] = {}
        self.results: dict[str, Type] = {}
        self.parameters: dict[str, list[Type]] = {}
        self.divisors: list[ast.expr] = []
        self.constants = {name: constant(ast.literal_eval(value)) for name, value in form.constants.items()}
        self.constants |= numbers
        self.texts = Texts()
        self.flow = Flow(self.texts)
        self._function = ""
        self._inside: dict[str, str] = {}
        self._recording = True
        self.updated: dict[ast.expr, ast.AugAssign] = {}

    def type(self, node: ast.expr) -> Type:
        """Type of an expression here, remembered by node."""
        found = self._type(node)
        if found.number and self.flow.limits:
            limits = self.flow.limits.get(self.flow.text(node))
            if limits is not None:
                found = limited(found, *limits)
        if self._recording:
            self.of[node] = self._joined(node, self.of.get(node, UNKNOWN), found)
        return found

    def look(self, node: ast.expr) -> Type:
        """Type of an expression here, in passing."""
        with self.unrecorded():
            return self.type(node)

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Compute types that may not be final, without storing or refusing them."""
        before, self._recording = self._recording, False
        try:
            yield
        finally:
            self._recording = before

    def declared(self, node: ast.expr) -> Type:
        """The type of the C++ variable of a name, or the type of another expression."""
        if isinstance(node, ast.Name) and node in self.places:
            function, name = self.places[node]
            return self.names[function][name]
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        return self.of[node]

    def _joined(self, node: ast.AST, one: Type, other: Type) -> Type:
        found = join(one, other)
        if found is None:
            raise refuse(
                node,
                f"one name for {one.kind.value} and {other.kind.value}",
                "use a name of its own for each",
            )
        if self._recording and not self.checked and not integers_fit(found):
            raise refuse(
                node, "what may be a float may also be an integer that may pass 2**53", "float(...), or smaller numbers"
            )
        return found

    def _overflow(self, node: ast.expr, message: str, *, low: float = -math.inf, high: float = math.inf) -> None:
        """Refuse, or check at run time, an expression that may leave a range; nothing while ranges are not final."""
        if not self._recording:
            return
        if self.checked:
            # Integer arithmetic beyond 64 bits, and what becomes an integer, are checked by their own ranges.
            if INT64_MAX not in (high, -low):
                old = self.bounds.get(node, (-math.inf, math.inf))
                self.bounds[node] = max(low, old[0]), min(high, old[1])
            return
        parts = [node.left, node.right] if isinstance(node, ast.BinOp) else [node]
        seen = {ast.unparse(p): self.look(p) for p in parts if not isinstance(p, ast.Constant)}
        raise Overflow(self.form, self.inputs, self.updated.get(node, node), message, low=low, high=high, parts=seen)

    def _type(self, node: ast.expr) -> Type:
        if isinstance(node, ast.Constant):
            assert node.value is None or isinstance(node.value, bool | int | float)
            return constant(node.value)
        if isinstance(node, ast.Name):
            return self._named(node)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.BinOp):
            return self.arithmetic(node, self.type(node.left), self.type(node.right))
        if isinstance(node, ast.UnaryOp):
            return self._unary(node)
        if isinstance(node, ast.BoolOp):
            return self._boolean(node)
        if isinstance(node, ast.Compare):
            self._compare(node)
            return BOOL
        if isinstance(node, ast.IfExp):
            self.type(node.test)
            return self._joined(
                node, self._where(node.test, True, node.body), self._where(node.test, False, node.orelse)
            )
        if isinstance(node, ast.Tuple):
            return Type(Kind.TUPLE, items=tuple(self.type(i) for i in node.elts))
        if isinstance(node, ast.List):
            item = UNKNOWN
            for element in node.elts:
                item = self._joined(node, item, self.type(element))
            return list_of(item)
        if isinstance(node, ast.Subscript):
            return self._subscript(node)
        if isinstance(node, ast.ListComp | ast.GeneratorExp):
            return self._comprehension(node)
        assert isinstance(node, ast.Call)
        return self._call(node)

    def _where(self, test: ast.expr, truth: bool, node: ast.expr) -> Type:
        """Type of an expression that is computed only where a condition holds, or does not."""
        before = self.flow
        self.flow = before.copy()
        self.flow.assume(test, truth, self.look)
        found = self.type(node)
        self.flow = before
        return found

    def _named(self, node: ast.Name) -> Type:
        name = self._inside.get(node.id, node.id)
        declared = self.names.get(self._function, {}).get(name, UNKNOWN)
        if name in self.flow.types:
            if self._recording:
                self.places[node] = self._function, name
            return as_declared(self.flow.types[name], declared)
        if node.id in self.form.views:
            return Type(Kind.VIEW)
        if node.id in self.constants:
            return self.constants[node.id]
        if node.id in ("inf", "pi"):
            return constant(getattr(math, node.id))
        return UNKNOWN

    def _boolean(self, node: ast.BoolOp) -> Type:
        before = self.flow
        self.flow = before.copy()
        found = UNKNOWN
        for part in node.values:
            found = self._joined(node, found, self.type(part))
            self.flow.assume(part, isinstance(node.op, ast.And), self.look)
        self.flow = before
        return found

    def _attribute(self, node: ast.Attribute) -> Type:
        if isinstance(node.value, ast.Name) and node.value.id == "math":
            return constant(getattr(math, node.attr))
        view = node.value
        name = node.attr
        if isinstance(view, ast.Name) and name in ("num_sms", "l2_bytes", "max_sm_margin"):
            name = f"gpu.{name}"
        if name not in self.inputs:
            raise refuse(node, f"{ast.unparse(node)} is not an input of this target")
        return self.inputs[name]

    def _subscript(self, node: ast.Subscript) -> Type:
        holder, index = self.type(node.value), self.type(node.slice)
        if holder.kind is Kind.UNKNOWN:
            return UNKNOWN
        if holder.kind is Kind.TUPLE and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, int):
            if not -len(holder.items) <= node.slice.value < len(holder.items):
                raise refuse(node, "an index outside the tuple")
            return holder.items[node.slice.value]
        if holder.kind is not Kind.LIST or not (index.whole or index.kind is Kind.UNKNOWN):
            raise refuse(node, f"an item of {holder.kind.value}", "items of lists, by integers")
        return holder.items[0]

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> Type:
        before, inside = self.flow, dict(self._inside)
        self.flow = before.copy()
        found = self._items(node)
        self.flow, self._inside = before, inside
        if found.kind is not Kind.UNKNOWN and found.items[0].kind in (Kind.LIST, Kind.NONE, Kind.VIEW):
            raise refuse(node, "a list of something else than numbers", "numbers")
        return found

    def _items(self, node: ast.ListComp | ast.GeneratorExp) -> Type:
        for generator in node.generators:
            items = self.type(generator.iter)
            if items.kind is Kind.UNKNOWN:
                return UNKNOWN
            if items.kind not in (Kind.LIST, Kind.RANGE):
                raise refuse(node, f"a loop over {items.kind.value}", "for i in range(...)")
            # Names of a comprehension are its own, and hide those around it.
            own = [n.id for n in ast.walk(generator.target) if isinstance(n, ast.Name)]
            self.flow.forget(own)
            self._inside |= {name: f"{name}@{node.lineno}.{node.col_offset}" for name in own}
            self.bind(generator.target, items.items[0])
            for test in generator.ifs:
                self.type(test)
                self.flow.assume(test, True, self.look)
        return list_of(self.type(node.elt))

    def arithmetic(self, node: ast.BinOp, left: Type, right: Type) -> Type:
        """Type of `left op right`."""
        op = node.op
        if UNKNOWN in (left, right):
            return UNKNOWN
        if Kind.LIST in (left.kind, right.kind):
            count = right if left.kind is Kind.LIST else left
            if isinstance(op, ast.Mult) and count.whole and node not in self.updated:
                return left if left.kind is Kind.LIST else right
            raise refuse(node, "arithmetic on a list", "a loop")
        if not (left.number and right.number):
            raise refuse(node, f"arithmetic on {left.kind.value} and {right.kind.value}", "numbers only")
        if isinstance(op, ast.Div | ast.FloorDiv | ast.Mod) and right.may_be_zero and self._recording:
            self.divisors.append(node.right)
        low, high = self._bounds(node, left, right)
        if left.whole and right.whole and not isinstance(op, ast.Div):
            if low < -INT64_MAX or high > INT64_MAX:
                self._overflow(node, "may pass 64 bits", low=-INT64_MAX, high=INT64_MAX)
                low, high = (end if abs(end) <= INT64_MAX else math.copysign(math.inf, end) for end in (low, high))
            return whole(low, high)
        for part, written in ((left, node.left), (right, node.right)):
            if part.whole and not part.exact and not part.within(EXACT_IN_DOUBLE):
                self._overflow(written, "meets a float and may pass 2**53, where doubles leave integers out",
                               low=-EXACT_IN_DOUBLE, high=EXACT_IN_DOUBLE)  # fmt: skip
        parts = [(p.low, p.high) if p.whole else p.integers for p in (left, right)]
        if isinstance(op, ast.Div) or parts[0] is None or parts[1] is None:
            return Type(Kind.DOUBLE, low, high)
        found = Type(Kind.DOUBLE, low, high, integers=combined(op, parts[0], parts[1]))
        if self.checked and not integers_fit(found):
            self._overflow(node, "", low=-EXACT_IN_DOUBLE, high=EXACT_IN_DOUBLE)
        return self._joined(node, found, found)

    def _bounds(self, node: ast.BinOp, left: Type, right: Type) -> tuple[float, float]:
        """Range of a result, using joint facts about the operands."""
        low, high = combined(node.op, (left.low, left.high), (right.low, right.high))
        flow, one, other = self.flow, node.left, node.right
        if isinstance(node.op, ast.Mult) and flow.text(one) == flow.text(other):
            return squared((left.low, left.high))
        if isinstance(node.op, ast.Mod) and left.whole and right.whole and right.low > 0:
            return remainder(left, right)
        if isinstance(node.op, ast.FloorDiv) and left.whole and right.whole and right.may_be_zero:
            # A divisor is a whole number, and 0 is refused elsewhere.
            reach = max(abs(left.low), abs(left.high))
            return (0 if left.low >= 0 and right.low >= 0 else -reach), reach
        if isinstance(node.op, ast.Sub):
            least, most = flow.at_least(one, other, self.look), flow.at_least(other, one, self.look)
            low, high = max(low, -math.inf if least is None else least), min(high, math.inf if most is None else -most)
            rounded = flow.quotient(other, self.look)
            if rounded is not None and flow.text(rounded[0]) == flow.text(one):
                high = min(high, self.look(rounded[1]).high - 1)
        return low, high

    def _compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        parts = [self.type(side) for side in sides]
        pairs = pairwise(sides)
        for op, one, other, (left, right) in zip(node.ops, parts, parts[1:], pairs, strict=False):
            if isinstance(op, ast.Is | ast.IsNot):
                raise refuse(node, "`is` between numbers", "== or !=")
            if UNKNOWN in (one, other):
                continue
            if not (one.number and other.number):
                raise refuse(node, f"compares {one.kind.value} with {other.kind.value}", "compare numbers")
            for part, written in ((one, left), (other, right)):
                if one.whole != other.whole and part.whole and not part.exact and not part.within(EXACT_IN_DOUBLE):
                    self._overflow(written, "is compared with a float and may pass 2**53, where doubles leave integers "
                                   "out", low=-EXACT_IN_DOUBLE, high=EXACT_IN_DOUBLE)  # fmt: skip

    def _unary(self, node: ast.UnaryOp) -> Type:
        operand = self.type(node.operand)
        if isinstance(node.op, ast.Not):
            return BOOL
        if operand.kind is Kind.UNKNOWN:
            return UNKNOWN
        if not operand.number:
            raise refuse(node, f"a sign before {operand.kind.value}")
        kind = Kind.INT if operand.whole else operand.kind
        if isinstance(node.op, ast.UAdd):
            return replace(operand, kind=kind)
        inside = operand.integers and (-operand.integers[1], -operand.integers[0])
        return Type(kind, -operand.high, -operand.low, operand.exact, integers=inside)

    @abstractmethod
    def bind(self, target: ast.expr, value: Type, *, fresh: bool = True, made_of: ast.expr | None = None) -> None:
        """Give names, or an item of a list, a value; `infer_statements` knows the places."""

    @abstractmethod
    def apply(self, function: ast.FunctionDef, given: Sequence[Type]) -> Type:
        """Type that a helper returns for arguments of these types; `infer_statements` follows it."""

    @abstractmethod
    def _call(self, node: ast.Call) -> Type:
        """Type of a call; `infer_calls` knows the functions."""
