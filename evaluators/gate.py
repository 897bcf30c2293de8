"""The language gate: parses a candidate and refuses what lies outside the heuristic language.

The gate is a first filter and good feedback for whoever writes candidates. It is not a boundary: the
sandbox is.
"""

from __future__ import annotations

import ast
import hashlib
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from evaluators import language
from evaluators.status import Status

_PARSING = threading.Lock()

MAX_REFUSALS = 8
"""Refusals reported at once; more help nobody."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One construct that the language lacks."""

    line: int
    construct: str
    reason: str
    instead: str

    def __str__(self) -> str:
        """One readable line."""
        hint = f"; write instead: {self.instead}" if self.instead else ""
        return f"line {self.line}: {self.construct}: {self.reason}{hint}"


class ProgramRefused(Exception):
    """The source is not a program of the heuristic language.

    Attributes:
        status: `Status.SYNTAX` or `Status.LANGUAGE`.
        refusals: what was found, at most `MAX_REFUSALS`.
    """

    def __init__(self, status: Status, refusals: tuple[Refusal, ...]) -> None:
        """Keep status and refusals; the message joins the latter."""
        super().__init__("\n".join(map(str, refusals)))
        self.status = status
        self.refusals = refusals


@dataclass(frozen=True, slots=True)
class Program:
    """A candidate that passed the gate.

    Attributes:
        source: the text as given.
        tree: its syntax tree.
        uses_blocks_per_split: whether it defines the device-side decision.
        complexity: syntax nodes of its functions and constants, docstrings apart.
        normal_form: sha256 of the tree without docstrings, comments and positions.
    """

    source: str
    tree: ast.Module
    uses_blocks_per_split: bool
    complexity: int
    normal_form: str


class _Checker:
    """Walks a module and collects refusals."""

    def __init__(self, tree: ast.Module) -> None:
        self.refusals: list[Refusal] = []
        self.functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        self.math_names: set[str] = set()
        self.constants: set[str] = set()

    def refuse(self, node: ast.AST, construct: str, reason: str, instead: str = "") -> None:
        if len(self.refusals) < MAX_REFUSALS:
            self.refusals.append(Refusal(getattr(node, "lineno", 1), construct, reason, instead))

    def outside(self, node: ast.AST) -> None:
        name = type(node).__name__
        self.refuse(node, name, "not part of the heuristic language", language.INSTEAD.get(name, ""))

    def name(self, node: ast.AST, name: str) -> None:
        if name.startswith("_") or "__" in name:
            self.refuse(node, name, "names may not begin with or hold underscores doubled", "a plain name")
        elif name in language.BUILTINS:
            self.refuse(node, name, "this name is taken by a builtin function", f"{name}_value")

    def module(self, tree: ast.Module) -> None:
        for index, node in enumerate(tree.body):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                if index or not isinstance(node.value.value, str):
                    self.refuse(node, "expression", "has no effect", "remove it")
            elif isinstance(node, ast.Import):
                if any(a.name != "math" or a.asname for a in node.names):
                    self.refuse(node, "import", "only math may be imported, under its own name", "import math")
                self.math_names.add("math")
            elif isinstance(node, ast.ImportFrom):
                bad = [a.name for a in node.names if a.name not in language.MATH_NAMES or a.asname]
                if node.module != "math" or node.level or bad:
                    names = ", ".join(language.MATH_NAMES)
                    self.refuse(node, "import", f"only math's {names} may be imported", "from math import ceil")
                self.math_names |= {a.name for a in node.names}
            elif isinstance(node, ast.Assign):
                self.module_constant(node)
            elif isinstance(node, ast.FunctionDef):
                self.function(node)
            else:
                self.outside(node)
        for name, count in language.ENTRY_POINTS.items():
            found = self.functions.get(name)
            if found is None and name == "schedule":
                self.refuse(tree, "module", "defines no schedule", "def schedule(shape, gpu): ...")
            elif found is not None and len(found.args.args) != count:
                self.refuse(found, name, f"must take {count} parameters", f"def {name}(..., gpu)")
        self.recursion()

    def module_constant(self, node: ast.Assign) -> None:
        target = node.targets[0]
        if len(node.targets) != 1 or not isinstance(target, ast.Name):
            self.refuse(node, "assignment", "module level holds constants only", "NAME = 1.5")
            return
        self.name(target, target.id)
        value = node.value.operand if isinstance(node.value, ast.UnaryOp) else node.value
        if not isinstance(value, ast.Constant) or type(value.value) not in (int, float, bool):
            self.refuse(node, target.id, "module constants are numbers", f"{target.id} = 1.5")
            return
        self.expression(node.value)
        self.constants.add(target.id)

    def function(self, node: ast.FunctionDef) -> None:
        arguments = node.args
        extra = arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg or arguments.kwarg
        if extra or arguments.defaults or arguments.kw_defaults:
            self.refuse(node, node.name, "plain positional parameters only", f"def {node.name}(a, b):")
        if node.decorator_list or getattr(node, "type_params", None):
            self.refuse(node, node.name, "no decorators or type parameters", f"def {node.name}(a, b):")
        self.name(node, node.name)
        for argument in arguments.args:
            self.name(argument, argument.arg)
        body = node.body
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body = body[1:] if isinstance(body[0].value.value, str) else body
        for statement in body:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.FunctionDef):
            self.refuse(node, "nested function", "functions stand at module level", "a helper at module level")
        elif isinstance(node, ast.Return):
            if node.value is not None:
                self.expression(node.value)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self.target(target)
            self.expression(node.value)
        elif isinstance(node, ast.AnnAssign):
            self.refuse(node, "annotation", "not part of the heuristic language", "a plain assignment")
        elif isinstance(node, ast.AugAssign):
            self.target(node.target)
            self.operator(node, node.op)
            self.expression(node.value)
        elif isinstance(node, ast.If):
            self.expression(node.test)
            for child in (*node.body, *node.orelse):
                self.statement(child)
        elif isinstance(node, ast.For):
            self.target(node.target)
            self.expression(node.iter)
            for child in (*node.body, *node.orelse):
                self.statement(child)
        elif isinstance(node, ast.Expr):
            append = isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
            if not append:
                self.refuse(node, "expression", "has no effect", "remove it")
            self.expression(node.value)
        elif not isinstance(node, ast.Break | ast.Continue | ast.Pass):
            self.outside(node)

    def target(self, node: ast.expr) -> None:
        if isinstance(node, ast.Name):
            self.name(node, node.id)
        elif isinstance(node, ast.Tuple):
            for item in node.elts:
                self.target(item)
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            self.expression(node)
        else:
            self.refuse(node, "assignment", "assign to local names and list items only", "x = ...")

    def operator(self, node: ast.AST, operator: ast.AST) -> None:
        if not isinstance(operator, language.OPERATORS):
            name = type(operator).__name__
            self.refuse(node, name, "operator outside the heuristic language", language.INSTEAD.get(name, ""))

    def expression(self, node: ast.expr) -> None:
        if not isinstance(node, language.EXPRESSIONS):
            self.outside(node)
            return
        if isinstance(node, ast.Constant):
            self.constant(node)
        elif isinstance(node, ast.Name):
            if node.id.startswith("_") or "__" in node.id:
                self.refuse(node, node.id, "names may not begin with or hold underscores doubled", "a plain name")
        elif isinstance(node, ast.Attribute):
            self.attribute(node)
        elif isinstance(node, ast.Call):
            self.call(node)
        elif isinstance(node, ast.ListComp | ast.GeneratorExp):
            for generator in node.generators:
                if generator.is_async:
                    self.refuse(node, "async", "not part of the heuristic language", "a plain loop")
                self.target(generator.target)
                for part in (generator.iter, *generator.ifs):
                    self.expression(part)
            self.expression(node.elt)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.expression(child)
                elif isinstance(child, ast.operator | ast.unaryop | ast.cmpop | ast.boolop):
                    self.operator(node, child)

    def constant(self, node: ast.Constant) -> None:
        if node.value is None or isinstance(node.value, bool):
            return
        if not isinstance(node.value, int | float):
            self.refuse(node, type(node.value).__name__, "numbers, booleans and None only", "a number")
        elif isinstance(node.value, int) and node.value > language.MAX_INT:
            self.refuse(node, "integer", f"above {language.MAX_INT}", "a smaller number")

    def attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id == "math":
            if node.attr not in language.MATH_NAMES:
                names = ", ".join(language.MATH_NAMES)
                self.refuse(node, f"math.{node.attr}", "not part of the heuristic language", f"one of {names}")
            return
        if node.attr not in language.FIELDS:
            self.refuse(node, f".{node.attr}", "not a field of shape, work or gpu", ", ".join(sorted(language.FIELDS)))
        if isinstance(node.value, ast.Name):
            return
        self.refuse(node, f".{node.attr}", "fields are read from shape, work or gpu directly", "shape.batch")

    def call(self, node: ast.Call) -> None:
        if node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
            self.refuse(node, "call", "plain positional arguments only", "f(a, b)")
            return
        function = node.func
        if isinstance(function, ast.Attribute):
            of_math = isinstance(function.value, ast.Name) and function.value.id == "math"
            if of_math:
                self.attribute(function)
            elif function.attr not in language.LIST_METHODS or not isinstance(function.value, ast.Name):
                self.refuse(node, f".{function.attr}()", "only list.append may be called", "a helper function")
        elif not isinstance(function, ast.Name):
            self.refuse(node, "call", "only named functions may be called", "a helper function")
        elif function.id not in {*language.BUILTINS, *self.functions, *language.MATH_NAMES}:
            known = ", ".join((*language.BUILTINS, *self.functions))
            self.refuse(node, f"{function.id}()", "unknown function", f"one of {known}, or a helper of your own")
        for argument in node.args:
            self.expression(argument)

    def recursion(self) -> None:
        calls = {
            name: {
                n.func.id
                for n in ast.walk(function)
                if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in self.functions
            }
            for name, function in self.functions.items()
        }
        for name, function in self.functions.items():
            seen: set[str] = set()
            todo = list(calls[name])
            while todo:
                callee = todo.pop()
                if callee not in seen:
                    seen.add(callee)
                    todo.extend(calls[callee])
            if name in seen:
                self.refuse(function, name, "calls itself", "a for loop")


def _without_docstrings(tree: ast.Module) -> ast.Module:
    bodies: list[list[ast.stmt]] = [tree.body, *(n.body for n in tree.body if isinstance(n, ast.FunctionDef))]
    for body in bodies:
        first = body[0] if body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            if len(body) > 1:
                del body[0]
            else:
                body[0] = ast.Pass()
    return tree


def _depths(tree: ast.AST) -> Iterator[int]:
    todo: list[tuple[ast.AST, int]] = [(tree, 0)]
    while todo:
        node, depth = todo.pop()
        yield depth
        todo.extend((child, depth + 1) for child in ast.iter_child_nodes(node))


def parse_tree(source: str) -> ast.Module:
    """`ast.parse`, one thread at a time.

    CPython keeps the recursion depth of its AST constructor in a place that threads share, and raises SystemError
    when two of them meet there (python/cpython issue 106905, fixed in newer releases).
    """
    with _PARSING:
        try:
            return ast.parse(source)
        except SystemError:
            return ast.parse(source)


def parse_program(source: str) -> Program:
    """Parse a candidate.

    Raises:
        ProgramRefused: not Python, too large, or outside the language; says where, why and what instead.
    """

    def refuse(line: int, construct: str, reason: str, instead: str = "") -> ProgramRefused:
        return ProgramRefused(Status.SYNTAX, (Refusal(line, construct, reason, instead),))

    if len(source.encode("utf-8", "surrogatepass")) > language.MAX_SOURCE_BYTES:
        raise refuse(1, "source", f"longer than {language.MAX_SOURCE_BYTES} bytes", "a shorter program")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = parse_tree(source)
            pristine = parse_tree(source)
    except SyntaxError as error:
        raise refuse(error.lineno or 1, "syntax", error.msg) from None
    except (ValueError, RecursionError, MemoryError, UnicodeError) as error:
        raise refuse(1, "source", f"cannot be parsed ({error})", "plain text, less deeply nested") from None
    depths = list(_depths(tree))
    if len(depths) > language.MAX_NODES or max(depths) > language.MAX_DEPTH:
        limit = f"{language.MAX_NODES} syntax nodes or {language.MAX_DEPTH} levels"
        raise refuse(1, "source", f"more than {limit}", "a smaller program")
    checker = _Checker(tree)
    checker.module(tree)
    if checker.refusals:
        raise ProgramRefused(Status.LANGUAGE, tuple(checker.refusals))
    bare = _without_docstrings(tree)
    return Program(
        source=source,
        tree=pristine,
        uses_blocks_per_split="blocks_per_split" in checker.functions,
        complexity=sum(1 for n in ast.walk(bare) if not isinstance(n, ast.expr_context | ast.Load | ast.Module)),
        normal_form=hashlib.sha256(ast.dump(bare).encode()).hexdigest(),
    )
