"""What the names and operators of the heuristic language do, for those who walk its syntax tree."""

from __future__ import annotations

import ast
import operator
import struct
from collections.abc import Callable
from typing import Any

from evaluators.fa3.dispatch import float32

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
