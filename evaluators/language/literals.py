"""Numeric literals of a program, and its text with other numbers in their places."""

from __future__ import annotations

import ast
from collections.abc import Mapping

Number = int | float


def literals(tree: ast.Module) -> list[ast.Constant]:
    """Numeric literals of a program in the order of the text; docstrings, booleans and None do not count."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) in (int, float)]
    return sorted(found, key=lambda n: (n.lineno, n.col_offset))


def with_numbers(source: str, tree: ast.Module, numbers: Mapping[int, Number]) -> str:
    """The program's text with other numbers, by position in `literals`, otherwise unchanged."""
    known = literals(tree)
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    for position in sorted(numbers, reverse=True):
        node = known[position]
        assert node.end_col_offset is not None
        line = lines[node.lineno - 1]
        # Columns of the syntax tree count bytes.
        lines[node.lineno - 1] = (
            line[: node.col_offset] + repr(numbers[position]).encode() + line[node.end_col_offset :]
        )
    return b"".join(lines).decode()
