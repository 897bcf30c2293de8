"""Finds the type of every expression of a program, so that C++ can declare it and compute the same.

Names are typed once per function, over all their assignments; ranges start from those of the target's inputs.
"""

from __future__ import annotations

import ast
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from evolve.export.cpp_types import (
    ANY_DOUBLE,
    BOOL,
    EXACT_IN_DOUBLE,
    UNKNOWN,
    VIEW,
    Kind,
    Type,
    constant,
    join,
    list_of,
    whole,
    widen,
)
from evolve.export.program_form import Form, NotExpressible

ROUNDS_BEFORE_WIDENING = 6
LAST_ROUND = 40


def refuse(node: ast.AST, message: str, hint: str = "") -> NotExpressible:
    """The error for a construct that has no exact C++."""
    return NotExpressible(f"line {getattr(node, 'lineno', 1)}: {message}", hint=hint)


class Inference(ABC):
    """Types of one form.

    Attributes:
        of: type of each expression by node.
        names: type of each local name, by function name ("" for the body).
        results: type that each function returns.
        divisors: divisions whose divisor may be zero as far as ranges tell.
        unbounded: lines where no bound on an integer is known.
    """

    def __init__(self, form: Form, inputs: Mapping[str, Type]) -> None:
        """Run to the fixed point.

        Raises:
            NotExpressible: something has no type in C++.
        """
        self.form, self.inputs = form, inputs
        self.of: dict[ast.expr, Type] = {}
        self.names: dict[str, dict[str, Type]] = {"": dict.fromkeys(form.views, VIEW)}
        self.results: dict[str, Type] = {"": UNKNOWN, **dict.fromkeys(form.helpers, UNKNOWN)}
        self.parameters: dict[str, list[Type]] = {
            name: [UNKNOWN] * len(f.args.args) for name, f in form.helpers.items()
        }
        self.constants = {name: self._literal(value) for name, value in form.constants.items()}
        self.divisors: list[ast.expr] = []
        self._function = ""
        for step in range(LAST_ROUND):
            before = self._state()
            self.divisors = []
            self._pass()
            after = self._state()
            if after == before:
                break
            if step >= ROUNDS_BEFORE_WIDENING:
                self._widen(before)
        else:
            raise NotExpressible("the types of this program do not settle", hint="use fewer names for several things")

    def _state(self) -> tuple[dict[str, dict[str, Type]], dict[str, Type], dict[str, list[Type]]]:
        names = {f: dict(v) for f, v in self.names.items()}
        return names, dict(self.results), {f: list(p) for f, p in self.parameters.items()}

    def _widen(self, before: tuple[dict[str, dict[str, Type]], dict[str, Type], dict[str, list[Type]]]) -> None:
        names, results, parameters = before
        for function, types in self.names.items():
            for name, new in types.items():
                types[name] = widen(names.get(function, {}).get(name, UNKNOWN), new)
        self.results = {f: widen(results[f], t) for f, t in self.results.items()}
        for function, given in self.parameters.items():
            self.parameters[function] = [widen(a, b) for a, b in zip(parameters[function], given, strict=True)]

    def _literal(self, node: ast.expr) -> Type:
        return constant(ast.literal_eval(node))

    def _pass(self) -> None:
        for name, function in self.form.helpers.items():
            given = zip(function.args.args, self.parameters[name], strict=True)
            known = self.names.setdefault(name, {})
            for argument, kind in given:
                known[argument.arg] = self._joined(function, known.get(argument.arg, UNKNOWN), kind)
            self._function = name
            self._block(function.body)
        self._function = ""
        self._block(self.form.body)

    def _joined(self, node: ast.AST, one: Type, other: Type) -> Type:
        found = join(one, other)
        if found is None:
            raise refuse(
                node,
                f"one name for {one.kind.value} and {other.kind.value}",
                "use a name of its own for each",
            )
        return found

    def _block(self, body: Sequence[ast.stmt]) -> None:
        for node in body:
            self._statement(node)

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Return):
            if node.value is None:
                raise refuse(node, "returns nothing", "return a number")
            self.results[self._function] = self._joined(node, self.results[self._function], self.type(node.value))
        elif isinstance(node, ast.Assign):
            value = self.type(node.value)
            for target in node.targets:
                self._bind(target, value, fresh=not isinstance(node.value, ast.Name))
        elif isinstance(node, ast.AugAssign):
            load = _loaded(node.target)
            value = self._arithmetic(node, node.op, self.type(load), self.type(node.value), node.value)
            self._bind(node.target, value, fresh=True)
        elif isinstance(node, ast.If):
            self.type(node.test)
            self._block(node.body)
            self._block(node.orelse)
        elif isinstance(node, ast.For):
            items = self.type(node.iter)
            if items.kind not in (Kind.LIST, Kind.RANGE, Kind.UNKNOWN):
                raise refuse(node, f"a loop over {items.kind.value}", "for i in range(...)")
            self._bind(node.target, items.items[0] if items.items else UNKNOWN, fresh=True)
            self._block(node.body)
            self._block(node.orelse)
        elif isinstance(node, ast.Expr):
            self._append(node.value)

    def _append(self, node: ast.expr) -> None:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            return
        target = node.func.value
        assert isinstance(target, ast.Name)
        grown = self.names[self._function].get(target.id, UNKNOWN)
        item = self.type(node.args[0])
        if item.kind is Kind.LIST:
            raise refuse(node, "a list in a list", "one list of numbers")
        parameters = [a.arg for f in self.form.helpers.values() if f.name == self._function for a in f.args.args]
        if target.id in parameters:
            raise refuse(node, "a helper that changes its caller's list", "return the value instead")
        self.names[self._function][target.id] = self._joined(node, grown, list_of(item))

    def _bind(self, target: ast.expr, value: Type, *, fresh: bool) -> None:
        if isinstance(target, ast.Name):
            if value.kind is Kind.LIST and not fresh:
                raise refuse(target, "a second name for a list", "use the first name")
            if value.kind in (Kind.VIEW, Kind.NONE):
                raise refuse(target, f"a name for {value.kind.value}", "use the value itself")
            if value.kind is Kind.RANGE:
                value = list_of(value.items[0])
            known = self.names.setdefault(self._function, {})
            known[target.id] = self._joined(target, known.get(target.id, UNKNOWN), value)
        elif isinstance(target, ast.Subscript):
            self._joined(target, self.type(target.value), list_of(value))
            assert isinstance(target.value, ast.Name)
            self.names[self._function][target.value.id] = self._joined(target, self.type(target.value), list_of(value))
            self.type(target.slice)
        elif isinstance(target, ast.Tuple):
            if value.kind is Kind.UNKNOWN:
                return
            if value.kind is not Kind.TUPLE or len(value.items) != len(target.elts):
                raise refuse(target, f"{len(target.elts)} names for {value.kind.value}", "one name each")
            for part, item in zip(target.elts, value.items, strict=True):
                self._bind(part, item, fresh=True)

    def type(self, node: ast.expr) -> Type:
        """Type of an expression, remembered by node."""
        found = self._type(node)
        self.of[node] = found
        return found

    def type_of_place(self, function: str, target: ast.expr) -> Type:
        """Type of what an assignment changes."""
        holder = target.value if isinstance(target, ast.Subscript) else target
        assert isinstance(holder, ast.Name)
        found = self.names[function][holder.id]
        return found.items[0] if isinstance(target, ast.Subscript) else found

    def arithmetic(self, node: ast.BinOp, left: Type, right: Type) -> Type:
        """Type of left op right."""
        return self._arithmetic(node, node.op, left, right, node.right)

    def _type(self, node: ast.expr) -> Type:
        if isinstance(node, ast.Constant):
            assert node.value is None or isinstance(node.value, bool | int | float)
            return constant(node.value)
        if isinstance(node, ast.Name):
            known = self.names.get(self._function, {})
            if node.id in known:
                return known[node.id]
            if node.id in self.constants:
                return self.constants[node.id]
            if node.id in ("inf", "pi"):
                return constant(getattr(math, node.id))
            return UNKNOWN
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.BinOp):
            return self._arithmetic(node, node.op, self.type(node.left), self.type(node.right), node.right)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node)
        if isinstance(node, ast.BoolOp):
            parts = [self.type(v) for v in node.values]
            found = parts[0]
            for part in parts[1:]:
                found = self._joined(node, found, part)
            return found
        if isinstance(node, ast.Compare):
            self._compare(node)
            return BOOL
        if isinstance(node, ast.IfExp):
            self.type(node.test)
            return self._joined(node, self.type(node.body), self.type(node.orelse))
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

    def _attribute(self, node: ast.Attribute) -> Type:
        if isinstance(node.value, ast.Name) and node.value.id == "math":
            return constant(getattr(math, node.attr))
        view = node.value
        name = node.attr
        if isinstance(view, ast.Name) and name in ("num_sms", "l2_bytes", "max_sm_margin"):
            name = f"gpu.{name}"
        if name not in self.inputs:
            raise refuse(node, f"{ast.unparse(node)} is no input of this target")
        return self.inputs[name]

    def _compare(self, node: ast.Compare) -> None:
        parts = [self.type(node.left), *(self.type(c) for c in node.comparators)]
        for op, one, other in zip(node.ops, parts, parts[1:], strict=False):
            if isinstance(op, ast.Is | ast.IsNot):
                raise refuse(node, "`is` between numbers", "== or !=")
            if UNKNOWN in (one, other):
                continue
            if not (one.number and other.number):
                raise refuse(node, f"compares {one.kind.value} with {other.kind.value}", "compare numbers")
            if one.whole != other.whole and not all(p.within(EXACT_IN_DOUBLE) for p in (one, other) if p.whole):
                raise refuse(node, "compares a float with an integer that may pass 2**53", "compare smaller numbers")

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
            return Type(kind, operand.low, operand.high, operand.exact)
        return Type(kind, -operand.high, -operand.low, operand.exact)

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
        # Names of a comprehension are its own; here they are typed beside the others under the same name.
        known = self.names.setdefault(self._function, {})
        own = {n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
        hidden = {n: known.pop(n) for n in own if n in known}
        for generator in node.generators:
            items = self.type(generator.iter)
            if items.kind is Kind.UNKNOWN:
                known.update(hidden)
                return UNKNOWN
            if items.kind not in (Kind.LIST, Kind.RANGE):
                raise refuse(node, f"a loop over {items.kind.value}", "for i in range(...)")
            self._bind(generator.target, items.items[0], fresh=True)
            for test in generator.ifs:
                self.type(test)
        found = list_of(self.type(node.elt))
        for name in own:
            known.pop(name, None)
        known.update(hidden)
        if found.items[0].kind in (Kind.LIST, Kind.NONE, Kind.VIEW):
            raise refuse(node, "a list of something else than numbers", "numbers")
        return found

    def _arithmetic(self, node: ast.AST, op: ast.operator, left: Type, right: Type, divisor: ast.expr) -> Type:
        if UNKNOWN in (left, right):
            return UNKNOWN
        if Kind.LIST in (left.kind, right.kind):
            count = right if left.kind is Kind.LIST else left
            if isinstance(op, ast.Mult) and count.whole and isinstance(node, ast.BinOp):
                return left if left.kind is Kind.LIST else right
            raise refuse(node, "arithmetic on a list", "a loop")
        if not (left.number and right.number):
            raise refuse(node, f"arithmetic on {left.kind.value} and {right.kind.value}", "numbers only")
        if isinstance(op, ast.Div | ast.FloorDiv | ast.Mod) and right.may_be_zero:
            self.divisors.append(divisor)
        both_whole = left.whole and right.whole
        if not both_whole or isinstance(op, ast.Div):
            for part in (left, right):
                too_large = part.whole and not part.exact and not part.within(EXACT_IN_DOUBLE)
                if too_large and not math.isinf(part.high - part.low):
                    raise refuse(node, "an integer that may pass 2**53 meets a float", "compute with smaller numbers")
        low, high = _bounds(op, left, right)
        if both_whole and not isinstance(op, ast.Div):
            if max(abs(low), abs(high)) > 2**63 and not math.isinf(high - low):
                raise refuse(node, "an integer that may pass 64 bits", "fewer factors")
            return whole(low, high)
        return Type(Kind.DOUBLE, low, high)

    @abstractmethod
    def _call(self, node: ast.Call) -> Type:
        """Type of a call; inference_calls.py knows the functions."""


def _loaded(target: ast.expr) -> ast.expr:
    """The same place, read."""
    if isinstance(target, ast.Name):
        return ast.copy_location(ast.Name(target.id, ast.Load()), target)
    assert isinstance(target, ast.Subscript)
    return ast.copy_location(ast.Subscript(target.value, target.slice, ast.Load()), target)


def _bounds(op: ast.operator, left: Type, right: Type) -> tuple[float, float]:
    """Range of a result; wide open where an end is not finite."""
    ends = (left.low, left.high, right.low, right.high)
    if isinstance(op, ast.Add):
        return left.low + right.low, left.high + right.high
    if isinstance(op, ast.Sub):
        return left.low - right.high, left.high - right.low
    if isinstance(op, ast.Mod):
        reach = max(abs(right.low), abs(right.high))
        if left.low >= 0 and right.low > 0:
            return 0, min(left.high, reach)
        return -reach, reach
    if any(math.isinf(e) for e in ends):
        nonnegative = left.low >= 0 and right.low >= 0
        return (0 if nonnegative else -math.inf), math.inf
    if isinstance(op, ast.Mult):
        products = [a * b for a in ends[:2] for b in ends[2:]]
        return min(products), max(products)
    if right.may_be_zero:
        return ANY_DOUBLE.low, ANY_DOUBLE.high
    if isinstance(op, ast.FloorDiv):
        quotients = [a // b for a in ends[:2] for b in ends[2:]]
        return min(quotients), max(quotients)
    shares = [a / b for a in ends[:2] for b in ends[2:]]
    return min(shares), max(shares)
