"""Tables of a program: tuples of numbers at module level. Compilers see lists in the functions that read them."""

from __future__ import annotations

import ast


def is_number(node: ast.expr) -> bool:
    """True if an expression is a literal number, with or without a sign."""
    value = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(value, ast.Constant) and type(value.value) in (int, float, bool)


def is_table(node: ast.expr) -> bool:
    """True if an expression is a table."""
    return isinstance(node, ast.Tuple) and bool(node.elts) and all(is_number(n) for n in node.elts)


def with_local_tables(tree: ast.Module) -> ast.Module:
    """The tree with each table as the first statement of the functions that read it; nodes are shared, not copied."""
    tables = {
        n.targets[0].id: n for n in tree.body
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name) and is_table(n.value)
    }  # fmt: skip
    if not tables:
        return tree
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
            own = {n.id for n in names if isinstance(n.ctx, ast.Store)} | {a.arg for a in node.args.args}
            read = [name for name in tables if name in {n.id for n in names} - own]
            given = [_listed(tables[name]) for name in read]
            first = node.body[0]
            docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(node.body) > 1
            node.body[docstring:docstring] = given
        elif isinstance(node, ast.Assign) and node in tables.values():
            continue
        body.append(node)
    tree.body = body
    return tree


def _listed(table: ast.Assign) -> ast.Assign:
    assert isinstance(table.value, ast.Tuple)
    value = ast.copy_location(ast.List(table.value.elts, ast.Load()), table.value)
    return ast.copy_location(ast.Assign(table.targets, value), table)


class LoopsOverLists(ast.NodeTransformer):
    """Turns loops over a tuple of numbers into loops over a list."""

    def visit_For(self, node: ast.For) -> ast.For:
        """Change a loop."""
        self.generic_visit(node)
        node.iter = self._list(node.iter)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        """Change a part of a comprehension."""
        self.generic_visit(node)
        node.iter = self._list(node.iter)
        return node

    @staticmethod
    def _list(node: ast.expr) -> ast.expr:
        return ast.copy_location(ast.List(node.elts, ast.Load()), node) if isinstance(node, ast.Tuple) else node
