"""Answers for systems without a sandbox: an interpreter that knows the heuristic language and nothing else.

Far slower than the sandbox, so searches do not use it. It is safe because there is nothing in it to escape to: it
walks the syntax tree that the gate has passed, reads fields of the views by name, and holds no other function than
the language's own. Steps, integers and lists are bounded.
"""

from __future__ import annotations

import ast
import operator
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from types import SimpleNamespace
from typing import Any

from evaluators import language
from evaluators.contract import MAX_NUM_SPLITS, Decision, Gpu
from evaluators.dispatch import float32
from evaluators.gate import Program
from evaluators.sandbox import Answers, Question
from evaluators.sandbox_child import BadAnswer, whole
from evaluators.status import Status

MAX_STEPS = 1_000_000
"""Syntax nodes evaluated for one question; FA3's own rule takes about 5,000."""

MAX_ITEMS = 1_000_000
MAX_INT_BITS = 4096

BUILTINS: dict[str, Callable[..., Any]] = {
    "abs": abs, "bool": bool, "float": float, "float32": float32, "int": int, "len": len, "max": max, "min": min,
    "range": range, "round": round, "sorted": sorted, "sum": sum,
}  # fmt: skip
OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}  # fmt: skip
UNARY: dict[type[ast.AST], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
FAILURES = (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError, struct.error)
"""What operations of the language may raise; anything else is a bug of ours."""


class _TooMuch(Exception):
    """A bound was passed."""

    def __init__(self, status: Status, message: str) -> None:
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


def local_names(function: ast.FunctionDef) -> frozenset[str]:
    """Names that are local throughout a function; targets of comprehensions are not."""
    inner = {
        n
        for c in ast.walk(function)
        if isinstance(c, ast.ListComp | ast.GeneratorExp)
        for g in c.generators
        for n in ast.walk(g.target)
    }
    stored = (n for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return frozenset(n.id for n in stored if n not in inner) | {a.arg for a in function.args.args}


class _Machine:
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
                self.math |= {a.name: language.BUILTIN_MATH[a.name] for a in node.names}
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.constants[node.targets[0].id] = self.value(node.value, scope)

    def call(self, name: str, arguments: Sequence[Any]) -> Any:
        """Call a function of the program."""
        function = self.functions[name]
        if len(arguments) != len(function.args.args):
            raise TypeError(f"{name}() takes {len(function.args.args)} arguments, got {len(arguments)}")
        scope = _Scope(self.locals[name])
        scope.values = {a.arg: value for a, value in zip(function.args.args, arguments, strict=True)}
        try:
            self.block(function.body, scope)
        except _Return as leave:
            return leave.value
        return None

    def charge(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise _TooMuch(Status.TIMEOUT, f"more than {MAX_STEPS} steps")

    def block(self, body: Sequence[ast.stmt], scope: _Scope) -> None:
        for node in body:
            self.line = node.lineno
            self.charge(1)
            self.statement(node, scope)

    def statement(self, node: ast.stmt, scope: _Scope) -> None:
        if isinstance(node, ast.Return):
            raise _Return(None if node.value is None else self.value(node.value, scope))
        if isinstance(node, ast.Assign):
            value = self.value(node.value, scope)
            for target in node.targets:
                self.assign(target, value, scope)
        elif isinstance(node, ast.AugAssign):
            now = self.value(node.target, scope)
            self.assign(node.target, self.operate(node.op, now, self.value(node.value, scope), in_place=True), scope)
        elif isinstance(node, ast.If):
            self.block(node.body if self.value(node.test, scope) else node.orelse, scope)
        elif isinstance(node, ast.For):
            self.loop(node, scope)
        elif isinstance(node, ast.Expr):
            if not isinstance(node.value, ast.Constant):
                self.value(node.value, scope)
        elif isinstance(node, ast.Break):
            raise _Break
        elif isinstance(node, ast.Continue):
            raise _Continue

    def loop(self, node: ast.For, scope: _Scope) -> None:
        for item in self.value(node.iter, scope):
            self.charge(1)
            self.assign(node.target, item, scope)
            try:
                self.block(node.body, scope)
            except _Continue:
                continue
            except _Break:
                return
        self.block(node.orelse, scope)

    def assign(self, target: ast.expr, value: Any, scope: _Scope) -> None:
        if isinstance(target, ast.Name):
            scope.values[target.id] = value
        elif isinstance(target, ast.Subscript):
            self.value(target.value, scope)[self.value(target.slice, scope)] = value
        elif isinstance(target, ast.Tuple):
            values = list(islice(value, len(target.elts) + 1))
            if len(values) != len(target.elts):
                got = "more" if len(values) > len(target.elts) else len(values)
                raise ValueError(f"expected {len(target.elts)} values to unpack, got {got}")
            for part, item in zip(target.elts, values, strict=True):
                self.assign(part, item, scope)

    def value(self, node: ast.expr, scope: _Scope) -> Any:
        """Evaluate an expression."""
        self.charge(1)
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self.name(node.id, scope)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "math" and "math" not in scope.assigned:
                return language.BUILTIN_MATH[node.attr]
            return getattr(self.value(node.value, scope), node.attr)
        if isinstance(node, ast.BinOp):
            return self.operate(node.op, self.value(node.left, scope), self.value(node.right, scope))
        if isinstance(node, ast.UnaryOp):
            return UNARY[type(node.op)](self.value(node.operand, scope))
        if isinstance(node, ast.BoolOp):
            stop = isinstance(node.op, ast.Or)
            result: Any = None
            for part in node.values:
                result = self.value(part, scope)
                if bool(result) is stop:
                    break
            return result
        if isinstance(node, ast.Compare):
            return self.compare(node, scope)
        if isinstance(node, ast.IfExp):
            return self.value(node.body if self.value(node.test, scope) else node.orelse, scope)
        if isinstance(node, ast.Tuple):
            return tuple([self.value(item, scope) for item in node.elts])
        if isinstance(node, ast.List):
            return [self.value(item, scope) for item in node.elts]
        if isinstance(node, ast.Subscript):
            return self.value(node.value, scope)[self.value(node.slice, scope)]
        if isinstance(node, ast.ListComp | ast.GeneratorExp):
            items = list(self.comprehend(node, node.generators, scope))
            # Made at once, but as in Python a generator has no length.
            return items if isinstance(node, ast.ListComp) else iter(items)
        assert isinstance(node, ast.Call)
        return self.called(node, scope)

    def name(self, name: str, scope: _Scope) -> Any:
        if name in scope.values:
            return scope.values[name]
        if name not in scope.assigned:
            for known in (self.constants, self.math):
                if name in known:
                    return known[name]
        raise NameError(f"name {name!r} has no value here")

    def compare(self, node: ast.Compare, scope: _Scope) -> Any:
        left = self.value(node.left, scope)
        result: Any = True
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.value(right_node, scope)
            if isinstance(left, list | tuple) and isinstance(right, list | tuple):
                self.weigh(left)
            result = OPERATORS[type(op)](left, right)
            if not result:
                return result
            left = right
        return result

    def operate(self, op: ast.AST, left: Any, right: Any, *, in_place: bool = False) -> Any:
        for many, count in ((left, right), (right, left)):
            if isinstance(many, list | tuple) and isinstance(count, int):
                self.bounded(len(many) * max(count, 0))
                self.charge(len(many) * max(count, 0))
        if isinstance(op, ast.Add):
            # Each item is a step, so that many long lists are as bounded as one.
            self.charge(sum(len(part) for part in (left, right) if isinstance(part, list | tuple | range)))
        if in_place and isinstance(op, ast.Add) and isinstance(left, list):
            left += right
            self.bounded(len(left))
            return left
        result = OPERATORS[type(op)](left, right)
        if isinstance(result, list | tuple):
            self.bounded(len(result))
        elif isinstance(result, int) and result.bit_length() > MAX_INT_BITS:
            raise _TooMuch(Status.MEMORY, f"an integer of more than {MAX_INT_BITS} bits")
        return result

    def weigh(self, value: object) -> None:
        """Charge for every item of lists within lists, which comparing, sorting and adding up may all visit."""
        todo = [value]
        while todo:
            item = todo.pop()
            if isinstance(item, range | list | tuple):
                self.charge(len(item))
                if not isinstance(item, range):
                    todo.extend(part for part in item if isinstance(part, range | list | tuple))

    def bounded(self, items: int) -> None:
        if items > MAX_ITEMS:
            raise _TooMuch(Status.MEMORY, f"a list of more than {MAX_ITEMS} items")

    def comprehend(
        self, node: ast.ListComp | ast.GeneratorExp, generators: Sequence[ast.comprehension], scope: _Scope
    ) -> Iterator[Any]:
        if not generators:
            yield self.value(node.elt, scope)
            return
        first = generators[0]
        for item in self.value(first.iter, scope):
            self.charge(1 + len(scope.values) // 32)
            # A scope of its own that sees the one around it, as in Python.
            inner = _Scope(scope.assigned)
            inner.values = dict(scope.values)
            self.assign(first.target, item, inner)
            if all(self.value(test, inner) for test in first.ifs):
                yield from self.comprehend(node, generators[1:], inner)

    def called(self, node: ast.Call, scope: _Scope) -> Any:
        function = node.func
        arguments = [self.value(a, scope) for a in node.args]
        if isinstance(function, ast.Attribute):
            assert isinstance(function.value, ast.Name)
            if function.value.id == "math" and "math" not in scope.assigned:
                return language.BUILTIN_MATH[function.attr](*arguments)
            target = self.name(function.value.id, scope)
            if not isinstance(target, list):
                raise AttributeError(f"{type(target).__name__} has no append")
            self.bounded(len(target) + 1)
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
                self.weigh(argument)
        if function.id == "round" and any(isinstance(a, int) and abs(a) > MAX_INT_BITS for a in arguments[1:]):
            raise _TooMuch(Status.TIMEOUT, "rounding to a huge number of digits")
        return (BUILTINS.get(function.id) or self.math[function.id])(*arguments)


class Interpreter:
    """Asks programs a fixed set of questions, as `evaluators.sandbox.Sandbox` does, without a process."""

    def __init__(self, gpu: Gpu, questions: Sequence[Question]) -> None:
        """Keep the questions."""
        self._gpu = gpu
        self._questions = tuple(questions)

    def ask(self, program: Program) -> Answers:
        """Run a program on all questions; failures come back as a status."""
        machine: _Machine | None = None
        decisions = []
        where = "module level"
        try:
            machine = _Machine(program.tree)
            for question in self._questions:
                shape = question.shape
                where = f"batch={shape.batch}, seqlen_k={shape.seqlen_k}, num_heads_kv={shape.num_heads_kv}"
                machine.steps = 0
                decisions.append(self._decide(machine, question))
        except BadAnswer as error:
            return Answers(Status.BAD_ANSWER, f"{error} at {where}", (), 0.0)
        except _TooMuch as error:
            return Answers(error.status, f"{error} at {where}", (), 0.0)
        except (*FAILURES, MemoryError, RecursionError) as error:
            line = machine.line if machine else 1
            return Answers(Status.RAISED, f"line {line}: {type(error).__name__}: {error} at {where}", (), 0.0)
        return Answers(Status.OK, "", tuple(decisions), 0.0)

    def _decide(self, machine: _Machine, question: Question) -> Decision:
        answer = machine.call("schedule", (question.shape, self._gpu))
        if type(answer) is not tuple or len(answer) != 3:
            raise BadAnswer("schedule must return (num_splits, pack_gqa, sm_margin)")
        num_splits = whole(answer[0], "num_splits", 0, MAX_NUM_SPLITS)
        pack_gqa = answer[1]
        if pack_gqa is not None and type(pack_gqa) is not bool:
            raise BadAnswer(f"pack_gqa must be None, True or False, got {type(pack_gqa).__name__}")
        margin = whole(answer[2], "sm_margin", 0, self._gpu.max_sm_margin)
        blocks = 0
        if "blocks_per_split" in machine.functions:
            work = SimpleNamespace(**{f.name: getattr(question.work, f.name) for f in fields(question.work)})
            work.num_splits = num_splits or question.stock_num_splits
            work.n_blocks = list(work.n_blocks)
            blocks = whole(machine.call("blocks_per_split", (work, self._gpu)), "blocks_per_split", 0, 2**31 - 1)
        return Decision(num_splits, pack_gqa, margin, blocks)
