"""Inlines helpers that read the list of sequences, and names and values in statements."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping, Sequence

from evaluators.language.cpp.normalise import Form, NotExpressible, Rename, stored_names

BLOCKS = "n_blocks"
ADVICE = "a loop over sizes of split that keeps the cheapest, with sums, maxima and minima over work.n_blocks"


def refused(node: ast.AST, reason: str) -> NotExpressible:
    """A refusal with the line that is the reason."""
    return NotExpressible(f"line {getattr(node, 'lineno', '?')}: {reason}", hint=ADVICE)


def reads_list(node: ast.AST, helpers: Mapping[str, ast.FunctionDef]) -> bool:
    """True if a node, or a helper that it calls, reads the list of sequences."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and part.attr == BLOCKS:
            return True
        called = part.func.id if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) else ""
        if called in helpers and reads_list(helpers[called], helpers):
            return True
    return False


def assigned(name: str, value: ast.expr) -> ast.Assign:
    """Statement `name = value`, on no line of the program."""
    made = ast.Assign([ast.Name(name, ast.Store())], value)
    return ast.fix_missing_locations(ast.copy_location(made, ast.Pass(lineno=0, col_offset=0)))


def names_in(nodes: Sequence[ast.AST]) -> set[str]:
    """Names and parameters in nodes."""
    return {n.id for s in nodes for n in ast.walk(s) if isinstance(n, ast.Name)} | {
        n.arg for s in nodes for n in ast.walk(s) if isinstance(n, ast.arg)
    }


def fresh_name(name: str, taken: set[str]) -> str:
    """The name, numbered if it is taken; adds it to `taken`."""
    found = next(n for n in (name, *(f"{name}_{i}" for i in range(2, 999))) if n not in taken)
    taken.add(found)
    return found


class Values(ast.NodeTransformer):
    """Replaces names that are read by copies of their values."""

    def __init__(self, values: Mapping[str, ast.expr]) -> None:
        """Take the value of each name."""
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Replace the name if it has a value."""
        value = self.values.get(node.id) if isinstance(node.ctx, ast.Load) else None
        return node if value is None else copy.deepcopy(value)


class Inliner:
    """Replaces calls of helpers that read the list by the helpers' bodies."""

    def __init__(self, form: Form, taken: set[str]) -> None:
        """Take the program and its names; new names are added to `taken`."""
        self.form, self.taken = form, taken

    def inlined(self, steps: Sequence[ast.stmt]) -> list[ast.stmt]:
        """Statements without calls of such helpers.

        Raises:
            NotExpressible: a call stands inside an expression, or the helper returns in several places.
        """
        found: list[ast.stmt] = []
        for node in steps:
            call = node.value if isinstance(node, ast.Assign) else None
            called = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
            helper = self.form.helpers.get(called)
            if helper is None or not reads_list(helper, self.form.helpers):
                found.append(node)
                continue
            assert isinstance(node, ast.Assign) and isinstance(call, ast.Call)
            found += self.inlined(self._body_of(helper, call, node))
        return found

    def _body_of(self, helper: ast.FunctionDef, call: ast.Call, node: ast.Assign) -> list[ast.stmt]:
        returns = [n for s in helper.body for n in ast.walk(s) if isinstance(n, ast.Return)]
        if len(returns) != 1 or returns[0] is not helper.body[-1]:
            raise refused(helper, f"{helper.name} reads n_blocks and returns in several places")
        body = copy.deepcopy(helper.body)
        names: dict[str, str] = {}
        given: list[ast.stmt] = []
        stored = stored_names(body)
        for parameter, argument in zip(helper.args.args, call.args, strict=True):
            name = parameter.arg
            if isinstance(argument, ast.Name) and name not in stored:
                names[name] = argument.id
            else:
                names[name] = fresh_name(name, self.taken)
                given.append(assigned(names[name], argument))
        # The helper's own names stay, unless the statements around the call use them too.
        outside = (names_in(self.form.body) - names_in(node.targets)) | set(names.values())
        for name in sorted(stored - names.keys()):
            names[name] = fresh_name(name, self.taken) if name in outside else name
        last = body.pop()
        assert isinstance(last, ast.Return) and last.value is not None
        end = ast.copy_location(ast.Assign(node.targets, last.value), last)
        renamed = [Rename(names).visit(s) for s in (*body, ast.Expr(last.value))]
        end.value = renamed.pop().value
        return [ast.fix_missing_locations(s) for s in (*given, *renamed, end)]
