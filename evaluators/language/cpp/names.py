"""Which names and lists a block of statements changes, and whether it always returns."""

from __future__ import annotations

import ast
from collections.abc import Sequence


def stored_names(nodes: Sequence[ast.stmt]) -> set[str]:
    """Names that statements assign."""
    return {n.id for s in nodes for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def loop_counters(nodes: Sequence[ast.stmt]) -> set[str]:
    """Names that are assigned by `for NAME in range(...)` alone, and read inside such loops alone."""
    loops = [n for s in nodes for n in ast.walk(s) if isinstance(n, ast.For)]
    inside: dict[str, int] = {}
    for loop in loops:
        if isinstance(loop.target, ast.Name) and isinstance(loop.iter, ast.Call) and not loop.orelse:
            used = [n for s in (loop.target, *loop.body) for n in ast.walk(s) if isinstance(n, ast.Name)]
            count = sum(n.id == loop.target.id for n in used)
            inside[loop.target.id] = inside.get(loop.target.id, 0) + count
    every = [n.id for s in nodes for n in ast.walk(s) if isinstance(n, ast.Name)]
    stores = stored_names([s for loop in loops for s in loop.body])
    return {name for name, count in inside.items() if every.count(name) == count and name not in stores}


def changed_lists(nodes: Sequence[ast.stmt], *, grown_only: bool = False) -> set[str]:
    """Names of lists that statements append to, or (unless `grown_only`) change an item of."""
    found = set()
    for node in (n for s in nodes for n in ast.walk(s)):
        appended = node.func if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None
        stored = node if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) else None
        changed = appended or (None if grown_only else stored)
        if changed is not None and isinstance(changed.value, ast.Name):
            found.add(changed.value.id)
    return found - {"math"}


class Rename(ast.NodeTransformer):
    """Other names for local ones."""

    def __init__(self, names: dict[str, str]) -> None:
        """Old name to new name."""
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """One name."""
        node.id = self.names.get(node.id, node.id)
        return node


def always_returns(body: list[ast.stmt]) -> bool:
    """Whether the end of a block is never reached."""
    last = body[-1]
    if isinstance(last, ast.If):
        return bool(last.orelse) and always_returns(last.body) and always_returns(last.orelse)
    return isinstance(last, ast.Return)
