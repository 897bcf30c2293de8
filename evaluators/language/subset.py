"""The heuristic language: the subset of Python that candidates may use, defined once.

The gate enforces it, the prompt states it (`describe`), the sandbox runs it. It has the constructs of a C++ function
over plain numbers: arithmetic, comparisons, local names, helper functions, lists, bounded loops.
"""

from __future__ import annotations

import ast
from dataclasses import fields

from evaluators.data.contract import Gpu, LengthsView, ShapeView
from evaluators.targets.registry import TARGETS
from evaluators.targets.target import AnyTarget

ENTRY_POINTS = {"schedule": 2, "blocks_per_split": 2}
"""Functions that the judge calls, with their number of parameters."""

BUILTINS = ("abs", "bool", "float", "float32", "int", "len", "max", "min", "range", "round", "sorted", "sum")
"""Functions in scope. `float32` rounds to single precision, as a C++ float would."""

QUEUE = "cta_queue"
"""One more, with these parameters: the queue of CTAs played through (`evaluators/sandbox/cta_queue.py`). The kernels'
own prompts explain it, `describe` does not: prompts of recorded runs stay what they were."""

QUEUE_PARAMETERS = ("n_blocks", "tiles", "blocks", "most", "sms", "turn", "longest_first")

MATH_NAMES = ("ceil", "exp", "exp2", "floor", "inf", "isqrt", "log", "log2", "pi", "sqrt")
"""Names that may be taken from `math`."""

LIST_METHODS = ("append",)
"""Methods that may be called, on local lists."""

LIVE_LENGTHS = tuple(f.name for f in fields(LengthsView)[len(fields(ShapeView)) :])
"""Fields that `schedule` is told on request: see `Setting.live_lengths`."""

NO_LIVE_LENGTHS = (
    f"{' and '.join(LIVE_LENGTHS)} are told to schedule, not in static mode, where judge.live_lengths is true "
    "(decide --live-lengths)"
)

USUAL_FIELDS = frozenset(
    f.name for t in TARGETS.values() for view in (t.shape_type, t.work_type, Gpu) for f in fields(view)
)
"""The fields of shape, work and gpu under any target."""

FIELDS = USUAL_FIELDS | set(LIVE_LENGTHS)
"""Attributes that may be read."""

MAX_SOURCE_BYTES = 65_536
MAX_NODES = 20_000
MAX_DEPTH = 60
MAX_INT = 2**53
"""Largest integer literal; beyond it a double cannot follow."""

EXPRESSIONS: tuple[type[ast.expr], ...] = (
    ast.Constant, ast.Name, ast.Attribute, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp,
    ast.Call, ast.Tuple, ast.List, ast.Subscript, ast.ListComp, ast.GeneratorExp,
)  # fmt: skip

OPERATORS: tuple[type[ast.AST], ...] = (
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub, ast.UAdd, ast.Not, ast.And, ast.Or,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot,
)  # fmt: skip

INSTEAD: dict[str, str] = {
    "While": "for step in range(limit): ... with break",
    "Try": "check the condition that would raise before the operation",
    "Lambda": "a helper function at module level",
    "ClassDef": "helper functions and local variables",
    "AsyncFunctionDef": "a plain function",
    "With": "plain statements",
    "Global": "a parameter or a return value",
    "Nonlocal": "a parameter or a return value",
    "Dict": "a chain of if statements, or a list of pairs",
    "Set": "a list",
    "DictComp": "a list",
    "SetComp": "a list",
    "JoinedStr": "numbers only; heuristics have no use for text",
    "NamedExpr": "an assignment on a line of its own",
    "Starred": "the arguments one by one",
    "Yield": "return",
    "YieldFrom": "return",
    "Await": "a plain call",
    "Delete": "leave the variable alone",
    "Raise": "return a decision for every shape",
    "Assert": "an if statement that returns a safe decision",
    "Match": "a chain of if statements",
    "Pow": "a product, math.sqrt or math.exp2",
    "MatMult": "a loop",
    "BitOr": "or",
    "BitAnd": "and",
    "BitXor": "!=",
    "LShift": "a product with a power of two",
    "RShift": "// with a power of two",
    "Invert": "-x - 1",
    "In": "comparisons joined by or",
    "NotIn": "comparisons joined by and",
    "Slice": "a loop with range",
    "Import": "import math",
    "ImportFrom": "from math import ceil",
}
"""Text to write instead of a construct outside the language, by syntax node name."""


def describe(target: AnyTarget) -> str:
    """The language in words, for prompts and documentation; with the fields that a target has."""

    def names(view: type) -> str:
        return ", ".join(f.name for f in fields(view))

    return f"""A program is a Python module with `schedule(shape, gpu)` and optionally `blocks_per_split(work, gpu)`.
Allowed at module level: `import math`, `from math import ...`, numeric constants, function definitions, a docstring.
Allowed in functions: assignments to local names (also tuples of names, `+=` and list items), if / elif / else,
`for` over range(...) or a list, break, continue, return, conditional expressions, comparisons, and / or / not,
+ - * / // %, numbers, booleans, None, lists, list comprehensions, `list.append`, calls of helper functions
(no recursion) and of {", ".join(BUILTINS)}, math.{{{", ".join(MATH_NAMES)}}}.
float32(x) rounds to single precision (C++ float). Not allowed: while, try, with, class, lambda, dicts, sets, strings,
f-strings, slices, **, bit operators, `in`, keyword or star arguments, default arguments, decorators, nested functions.
shape fields: {names(target.shape_type)}.
work fields: {names(target.work_type)} (n_blocks is a list, one entry per sequence).
gpu fields: {names(Gpu)}."""
