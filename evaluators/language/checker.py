"""Rules of the heuristic language: rules on syntax trees, and on the text around them."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from evaluators.language import subset
from evaluators.language.tables import is_number, is_table

MAX_REFUSALS = 8
"""Largest number of reported refusals."""

MAX_NAME = 64
"""Longest name, since refusals and exceptions repeat names, and prompts repeat refusals."""


MAX_QUOTED = 120
"""Longest quotation of a candidate, or of the parser's message, in a refusal, in characters."""

INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Characters that are printable according to Python, but invisible: Unicode's Default_Ignorable_Code_Point (variation
selectors, fillers, the grapheme joiner), and the empty Braille pattern."""

FRAMING = {"```": "three backticks", "<<<<<<<": "a diff marker", ">>>>>>>": "a diff marker"}
"""Delimiters of programs in prompts and answers, which inside a program would end it early."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One construct outside the language."""

    line: int
    construct: str
    reason: str
    instead: str

    def __str__(self) -> str:
        """One readable line."""
        hint = f"; write instead: {self.instead}" if self.instead else ""
        return f"line {self.line}: {self.construct}: {self.reason}{hint}"


def quoted(text: str) -> str:
    """Quotation of a candidate for a refusal: one short printable line."""
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_QUOTED]


class _Checker:
    """Visitor that collects refusals of a module."""

    def __init__(self, tree: ast.Module) -> None:
        self.refusals: list[Refusal] = []
        self.functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        imports = (n for n in tree.body if isinstance(n, ast.ImportFrom))
        self.math_names = {a.name for n in imports for a in n.names if a.name not in ("pi", "inf")}
        self.constants: set[str] = set()

    def refuse(self, node: ast.AST, construct: str, reason: str, instead: str = "") -> None:
        if len(self.refusals) < MAX_REFUSALS:
            self.refusals.append(Refusal(getattr(node, "lineno", 1), quoted(construct), reason, instead))

    def outside(self, node: ast.AST) -> None:
        name = type(node).__name__
        self.refuse(node, name, "not part of the heuristic language", subset.INSTEAD.get(name, ""))

    def spelling(self, node: ast.AST, name: str) -> bool:
        """True if the spelling of a name is allowed."""
        if name.startswith("_") or "__" in name:
            self.refuse(node, name, "names may not begin with or hold underscores doubled", "a plain name")
        elif len(name) > MAX_NAME or not name.isascii():
            self.refuse(node, name, f"names hold at most {MAX_NAME} ASCII letters, digits, underscores", "a plain name")
        else:
            return True
        return False

    def name(self, node: ast.AST, name: str) -> None:
        """Check a name that is bound here."""
        if not self.spelling(node, name):
            return
        if name in (*subset.BUILTINS, subset.QUEUE, "math"):
            self.refuse(node, name, "this name is taken by a builtin function", f"{name}_value")
        elif name in self.functions and self.functions[name] is not node:
            self.refuse(node, name, "this name is taken by a function of the program", f"{name}_value")

    def module(self, tree: ast.Module) -> None:
        for index, node in enumerate(tree.body):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                if index or not isinstance(node.value.value, str):
                    self.refuse(node, "expression", "has no effect", "remove it")
            elif isinstance(node, ast.Import):
                if any(a.name != "math" or a.asname for a in node.names):
                    self.refuse(node, "import", "only math may be imported, under its own name", "import math")
            elif isinstance(node, ast.ImportFrom):
                bad = [a.name for a in node.names if a.name not in subset.MATH_NAMES or a.asname]
                if node.module != "math" or node.level or bad:
                    names = ", ".join(subset.MATH_NAMES)
                    self.refuse(node, "import", f"only math's {names} may be imported", "from math import ceil")
            elif isinstance(node, ast.Assign):
                self.module_constant(node)
            elif isinstance(node, ast.FunctionDef):
                self.function(node)
            else:
                self.outside(node)
        for name, count in subset.ENTRY_POINTS.items():
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
        if isinstance(node.value, ast.List) and all(is_number(n) for n in node.value.elts):
            listed = ", ".join(ast.unparse(n) for n in node.value.elts[:4])
            more = ", ..." if len(node.value.elts) > 4 else ""
            self.refuse(node, target.id, "a table at module level is a tuple", f"{target.id} = ({listed}{more})")
            return
        if not is_number(node.value) and not is_table(node.value):
            self.refuse(node, target.id, "module constants are numbers, or tuples of them", f"{target.id} = (4, 8, 16)")
            return
        self.expression(node.value)
        self.constants.add(target.id)

    def function(self, node: ast.FunctionDef) -> None:
        arguments = node.args
        extra = arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg or arguments.kwarg
        if extra or arguments.defaults or arguments.kw_defaults:
            self.refuse(node, node.name, "plain positional parameters only", f"def {node.name}(a, b):")
        if node.returns or any(a.annotation for a in arguments.args):
            self.refuse(node, node.name, "no annotations", f"def {node.name}(a, b):")
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
        if not isinstance(operator, subset.OPERATORS):
            name = type(operator).__name__
            self.refuse(node, name, "operator outside the heuristic language", subset.INSTEAD.get(name, ""))

    def expression(self, node: ast.expr) -> None:
        if not isinstance(node, subset.EXPRESSIONS):
            self.outside(node)
            return
        if isinstance(node, ast.Constant):
            self.constant(node)
        elif isinstance(node, ast.Name):
            self.value(node)
        elif isinstance(node, ast.Attribute):
            self.attribute(node)
        elif isinstance(node, ast.Compare):
            self.comparison(node)
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

    def value(self, node: ast.Name) -> None:
        """Check a name that is read. A function under another name could call itself, or replace another function."""
        functions = (*self.functions, *self.math_names, *subset.BUILTINS, subset.QUEUE, "math")
        if self.spelling(node, node.id) and node.id in functions:
            self.refuse(node, node.id, "functions are called, and are no values", f"{node.id}(...)")

    def comparison(self, node: ast.Compare) -> None:
        """Check that `is` compares with None, True or False only: identity of numbers depends on the interpreter."""
        sides = [node.left, *node.comparators]
        for operator, pair in zip(node.ops, pairwise(sides), strict=True):
            self.operator(node, operator)
            constants = [side.value for side in pair if isinstance(side, ast.Constant)]
            known = any(c is None or isinstance(c, bool) for c in constants)
            if isinstance(operator, ast.Is | ast.IsNot) and not known:
                self.refuse(node, "is", "compares with None, True and False alone", "==")
        for side in sides:
            self.expression(side)

    def constant(self, node: ast.Constant) -> None:
        if node.value is None or isinstance(node.value, bool):
            return
        if not isinstance(node.value, int | float):
            self.refuse(node, type(node.value).__name__, "numbers, booleans and None only", "a number")
        elif isinstance(node.value, int) and node.value > subset.MAX_INT:
            self.refuse(node, "integer", f"above {subset.MAX_INT}", "a smaller number")

    def attribute(self, node: ast.Attribute, *, called: bool = False) -> None:
        if isinstance(node.value, ast.Name) and node.value.id == "math":
            if node.attr not in subset.MATH_NAMES:
                names = ", ".join(subset.MATH_NAMES)
                self.refuse(node, f"math.{node.attr}", "not part of the heuristic language", f"one of {names}")
            elif not called and node.attr not in ("pi", "inf"):
                self.refuse(node, f"math.{node.attr}", "functions are called, and are no values", f"{node.attr}(x)")
            return
        if node.attr not in subset.FIELDS:
            known = ", ".join(sorted(subset.USUAL_FIELDS))
            self.refuse(node, f".{node.attr}", "not a field of shape, work or gpu", known)
        if isinstance(node.value, ast.Name):
            self.spelling(node.value, node.value.id)
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
                self.attribute(function, called=True)
            elif function.attr not in subset.LIST_METHODS or not isinstance(function.value, ast.Name):
                self.refuse(node, f".{function.attr}()", "only list.append may be called", "a helper function")
            else:
                self.expression(function.value)
        elif not isinstance(function, ast.Name):
            self.refuse(node, "call", "only named functions may be called", "a helper function")
        elif function.id == subset.QUEUE:
            if len(node.args) != len(subset.QUEUE_PARAMETERS):
                asked = f"{function.id}({', '.join(subset.QUEUE_PARAMETERS)})"
                self.refuse(node, function.id, f"takes {len(subset.QUEUE_PARAMETERS)} arguments", asked)
        elif function.id not in {*subset.BUILTINS, *self.functions, *subset.MATH_NAMES}:
            known = ", ".join((*subset.BUILTINS, *self.functions))
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
        # Functions that call nothing, or only such functions, cannot recurse: a program of a thousand helpers is fine.
        callers: dict[str, list[str]] = {name: [] for name in calls}
        for name, called in calls.items():
            for callee in called:
                callers[callee].append(name)
        open_calls = {name: len(called) for name, called in calls.items()}
        harmless = [name for name, count in open_calls.items() if not count]
        for name in harmless:
            for caller in callers[name]:
                open_calls[caller] -= 1
                if not open_calls[caller]:
                    harmless.append(caller)
        for name in [n for n in self.functions if open_calls[n]]:
            function = self.functions[name]
            seen: set[str] = set()
            todo = list(calls[name])
            while todo:
                callee = todo.pop()
                if callee not in seen:
                    seen.add(callee)
                    todo.extend(calls[callee])
            if name in seen:
                self.refuse(function, name, "calls itself", "a for loop")


def framing(source: str) -> Iterator[Refusal]:
    """Check for text, mostly in comments, that would break the delimiters of programs."""
    for number, line in enumerate(source.split("\n"), start=1):
        odd = next((c for c in line if c != "\t" and (not c.isprintable() or INVISIBLE.match(c))), "")
        if odd:
            yield Refusal(number, f"character U+{ord(odd):04X}", "does not show in print", "printable text")
        for mark, name in FRAMING.items():
            if mark in line:
                yield Refusal(number, name, "frames programs in prompts and answers", "other words")


def folded(source: str) -> Iterator[Refusal]:
    """Check for names with letters that Python normalises, which the tree hides and the sandbox cannot load."""
    if source.isascii():
        return
    with suppress(tokenize.TokenError, SyntaxError):  # it was parsed: other errors of the tokeniser concern no name
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NAME and not token.string.isascii():
                yield Refusal(token.start[0], quoted(token.string), "names hold ASCII letters alone", "a plain name")


def check(tree: ast.Module, source: str) -> tuple[Refusal, ...]:
    """Constructs of a program outside the language, at most `MAX_REFUSALS`.

    The tree is at most `subset.MAX_DEPTH` deep.
    """
    checker = _Checker(tree)
    checker.module(tree)
    return (*checker.refusals, *folded(source), *framing(source))[:MAX_REFUSALS]
