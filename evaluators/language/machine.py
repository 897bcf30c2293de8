"""Walks the syntax tree of a program that the gate has passed. Steps, integers and lists are bounded."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from evaluators.data.status import Status
from evaluators.language import subset
from evaluators.language.operations import BUILTINS, OPERATORS, UNARY, local_names

MAX_STEPS = 1_000_000
"""Syntax nodes evaluated for one question; FA3's own rule takes about 5,000."""

MAX_ITEMS = 1_000_000
MAX_INT_BITS = 4096


class TooMuch(Exception):
    """A bound was passed."""

    def __init__(self, status: Status, message: str) -> None:
        """Keep what the program is told."""
        super().__init__(message)
        self.status = status


class _Return(Exception):
    def __init__(self, value: object) -> None:
        self.value = value


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _Scope:
    """Local names of one call; `assigned` are those that Python would treat as local throughout."""

    def __init__(self, assigned: frozenset[str]) -> None:
        self.assigned = assigned
        self.values: dict[str, Any] = {}


class Machine:
    """Runs the functions of one program."""

    def __init__(self, tree: ast.Module) -> None:
        self.steps = 0
        self.line = 0
        self.functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        self.locals = {name: local_names(function) for name, function in self.functions.items()}
        self.constants: dict[str, Any] = {}
        self.math: dict[str, Any] = {}
        scope = _Scope(frozenset())
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                self.math |= {a.name: subset.BUILTIN_MATH[a.name] for a in node.names}
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.constants[node.targets[0].id] = self._value(node.value, scope)

    def call(self, name: str, arguments: Sequence[Any]) -> Any:
        """Call a function of the program."""
        function = self.functions[name]
        if len(arguments) != len(function.args.args):
            raise TypeError(f"{name}() takes {len(function.args.args)} arguments, got {len(arguments)}")
        scope = _Scope(self.locals[name])
        scope.values = {a.arg: value for a, value in zip(function.args.args, arguments, strict=True)}
        try:
            self._block(function.body, scope)
        except _Return as leave:
            return leave.value
        return None

    def _charge(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise TooMuch(Status.TIMEOUT, f"more than {MAX_STEPS} steps")

    def _block(self, body: Sequence[ast.stmt], scope: _Scope) -> None:
        for node in body:
            self.line = node.lineno
            self._charge(1)
            self._statement(node, scope)

    def _statement(self, node: ast.stmt, scope: _Scope) -> None:
        if isinstance(node, ast.Return):
            raise _Return(None if node.value is None else self._value(node.value, scope))
        if isinstance(node, ast.Assign):
            value = self._value(node.value, scope)
            for target in node.targets:
                self._assign(target, value, scope)
        elif isinstance(node, ast.AugAssign):
            now = self._value(node.target, scope)
            self._assign(node.target, self._operate(node.op, now, self._value(node.value, scope), in_place=True), scope)
        elif isinstance(node, ast.If):
            self._block(node.body if self._value(node.test, scope) else node.orelse, scope)
        elif isinstance(node, ast.For):
            self._loop(node, scope)
        elif isinstance(node, ast.Expr):
            if not isinstance(node.value, ast.Constant):
                self._value(node.value, scope)
        elif isinstance(node, ast.Break):
            raise _Break
        elif isinstance(node, ast.Continue):
            raise _Continue

    def _loop(self, node: ast.For, scope: _Scope) -> None:
        for item in self._value(node.iter, scope):
            self._charge(1)
            self._assign(node.target, item, scope)
            try:
                self._block(node.body, scope)
            except _Continue:
                continue
            except _Break:
                return
        self._block(node.orelse, scope)

    def _assign(self, target: ast.expr, value: Any, scope: _Scope) -> None:
        if isinstance(target, ast.Name):
            scope.values[target.id] = value
        elif isinstance(target, ast.Subscript):
            self._value(target.value, scope)[self._value(target.slice, scope)] = value
        elif isinstance(target, ast.Tuple):
            values = list(islice(value, len(target.elts) + 1))
            if len(values) != len(target.elts):
                got = "more" if len(values) > len(target.elts) else len(values)
                raise ValueError(f"expected {len(target.elts)} values to unpack, got {got}")
            for part, item in zip(target.elts, values, strict=True):
                self._assign(part, item, scope)

    def _value(self, node: ast.expr, scope: _Scope) -> Any:
        """Evaluate an expression."""
        self._charge(1)
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._name(node.id, scope)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "math" and "math" not in scope.assigned:
                return subset.BUILTIN_MATH[node.attr]
            return getattr(self._value(node.value, scope), node.attr)
        if isinstance(node, ast.BinOp):
            return self._operate(node.op, self._value(node.left, scope), self._value(node.right, scope))
        if isinstance(node, ast.UnaryOp):
            return UNARY[type(node.op)](self._value(node.operand, scope))
        if isinstance(node, ast.BoolOp):
            stop = isinstance(node.op, ast.Or)
            result: Any = None
            for part in node.values:
                result = self._value(part, scope)
                if bool(result) is stop:
                    break
            return result
        if isinstance(node, ast.Compare):
            return self._compare(node, scope)
        if isinstance(node, ast.IfExp):
            return self._value(node.body if self._value(node.test, scope) else node.orelse, scope)
        if isinstance(node, ast.Tuple):
            return tuple([self._value(item, scope) for item in node.elts])
        if isinstance(node, ast.List):
            return [self._value(item, scope) for item in node.elts]
        if isinstance(node, ast.Subscript):
            return self._value(node.value, scope)[self._value(node.slice, scope)]
        if isinstance(node, ast.ListComp | ast.GeneratorExp):
            items = list(self._comprehend(node, node.generators, scope))
            # Made at once, but as in Python a generator has no length.
            return items if isinstance(node, ast.ListComp) else iter(items)
        assert isinstance(node, ast.Call)
        return self._called(node, scope)

    def _name(self, name: str, scope: _Scope) -> Any:
        if name in scope.values:
            return scope.values[name]
        if name not in scope.assigned:
            for known in (self.constants, self.math):
                if name in known:
                    return known[name]
        raise NameError(f"name {name!r} has no value here")

    def _compare(self, node: ast.Compare, scope: _Scope) -> Any:
        left = self._value(node.left, scope)
        result: Any = True
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = self._value(right_node, scope)
            if isinstance(left, list | tuple) and isinstance(right, list | tuple):
                self._weigh(left)
            result = OPERATORS[type(op)](left, right)
            if not result:
                return result
            left = right
        return result

    def _operate(self, op: ast.AST, left: Any, right: Any, *, in_place: bool = False) -> Any:
        for many, count in ((left, right), (right, left)):
            if isinstance(many, list | tuple) and isinstance(count, int):
                self._bounded(len(many) * max(count, 0))
                self._charge(len(many) * max(count, 0))
        if isinstance(op, ast.Add):
            # Each item is a step, so that many long lists are as bounded as one.
            self._charge(sum(len(part) for part in (left, right) if isinstance(part, list | tuple | range)))
        if in_place and isinstance(op, ast.Add) and isinstance(left, list):
            left += right
            self._bounded(len(left))
            return left
        result = OPERATORS[type(op)](left, right)
        if isinstance(result, list | tuple):
            self._bounded(len(result))
        elif isinstance(result, int) and result.bit_length() > MAX_INT_BITS:
            raise TooMuch(Status.MEMORY, f"an integer of more than {MAX_INT_BITS} bits")
        return result

    def _weigh(self, value: object) -> None:
        """Charge for every item of lists within lists, which comparing, sorting and adding up may all visit."""
        todo = [value]
        while todo:
            item = todo.pop()
            if isinstance(item, range | list | tuple):
                self._charge(len(item))
                if not isinstance(item, range):
                    todo.extend(part for part in item if isinstance(part, range | list | tuple))

    def _bounded(self, items: int) -> None:
        if items > MAX_ITEMS:
            raise TooMuch(Status.MEMORY, f"a list of more than {MAX_ITEMS} items")

    def _comprehend(
        self, node: ast.ListComp | ast.GeneratorExp, generators: Sequence[ast.comprehension], scope: _Scope
    ) -> Iterator[Any]:
        if not generators:
            yield self._value(node.elt, scope)
            return
        first = generators[0]
        for item in self._value(first.iter, scope):
            self._charge(1 + len(scope.values) // 32)
            # A scope of its own that sees the one around it, as in Python.
            inner = _Scope(scope.assigned)
            inner.values = dict(scope.values)
            self._assign(first.target, item, inner)
            if all(self._value(test, inner) for test in first.ifs):
                yield from self._comprehend(node, generators[1:], inner)

    def _called(self, node: ast.Call, scope: _Scope) -> Any:
        function = node.func
        arguments = [self._value(a, scope) for a in node.args]
        if isinstance(function, ast.Attribute):
            assert isinstance(function.value, ast.Name)
            if function.value.id == "math" and "math" not in scope.assigned:
                return subset.BUILTIN_MATH[function.attr](*arguments)
            target = self._name(function.value.id, scope)
            if not isinstance(target, list):
                raise AttributeError(f"{type(target).__name__} has no append")
            self._bounded(len(target) + 1)
            return target.append(*arguments)
        assert isinstance(function, ast.Name)
        if function.id in scope.assigned:
            raise TypeError(f"{function.id} is a variable here, not a function")
        if function.id in self.functions:
            line = self.line
            result = self.call(function.id, arguments)
            self.line = line
            return result
        for argument in arguments:
            # sum(range(10**12)) is one step to us and an hour to the machine.
            if function.id not in ("len", "range", "bool"):
                self._weigh(argument)
        if function.id == "round" and any(isinstance(a, int) and abs(a) > MAX_INT_BITS for a in arguments[1:]):
            raise TooMuch(Status.TIMEOUT, "rounding to a huge number of digits")
        return (BUILTINS.get(function.id) or self.math[function.id])(*arguments)
