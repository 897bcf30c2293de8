"""Where C++ declares the names of a Python function: at the first assignment, or before a block that they outlive."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from evaluators.language.cpp.names import stored_names


def place(body: Sequence[ast.stmt], known: set[str], pending: dict[int, list[str]]) -> None:
    """Decide where names are declared that do not begin with an assignment at the right depth."""
    uses: dict[str, list[int]] = {}
    for index, statement in enumerate(body):
        for name in names_in(statement):
            uses.setdefault(name, []).append(index)
    here = set(known)
    stored = stored_names(body)
    for name, places in uses.items():
        if name in here or name not in stored:
            continue
        first = body[places[0]]
        begins = isinstance(first, ast.Assign) and len(first.targets) == 1
        if begins and name in _begun(first):  # type: ignore[arg-type]
            here.add(name)
        elif not isinstance(first, ast.If | ast.For) or any(name in live_in(body[i + 1 :]) for i in places[:-1]):
            pending.setdefault(id(first), []).append(name)
            here.add(name)
    for index, statement in enumerate(body):
        if isinstance(statement, ast.If):
            place(statement.body, set(here), pending)
            place(statement.orelse, set(here), pending)
        elif isinstance(statement, ast.For):
            own = names_in(statement.target)
            after = live_in(body[index + 1 :]) | live_in(statement.orelse) | names_in(statement.iter)
            outside = {n for n in own if n in here or n in after or n in stored_names(statement.body)}
            if outside:
                for name in sorted(outside - here):
                    pending.setdefault(id(statement), []).append(name)
                here |= outside
            carried = {
                n for n in stored_names(statement.body) - here - own
                if n in live_in(statement.body) or mentions(statement.orelse, n)
            }  # fmt: skip
            if carried:
                pending.setdefault(id(statement), []).extend(sorted(carried))
                here |= carried
            place(statement.body, here | own, pending)
            place(statement.orelse, set(here), pending)


def _begun(node: ast.Assign) -> set[str]:
    """Names that an assignment can declare."""
    target = node.targets[0]
    if isinstance(target, ast.Tuple):
        return names_in(target) if isinstance(node.value, ast.Tuple) and one_by_one(target, node.value) else set()
    return {target.id} if isinstance(target, ast.Name) else set()


def one_by_one(target: ast.Tuple, value: ast.Tuple) -> bool:
    """Whether `a, b = x, y` is `a = x` and then `b = y`: no value reads a name that has changed by then."""
    later = [value.elts[i + 1 :] for i in range(len(value.elts))]
    return len(target.elts) == len(value.elts) and not any(
        names_in(name) & names_in(part) for name, parts in zip(target.elts, later, strict=True) for part in parts
    )


def names_in(node: ast.AST) -> set[str]:
    """Names that a node reads or assigns, those of comprehensions apart."""
    inner = {
        n.id for c in ast.walk(node) if isinstance(c, ast.ListComp | ast.GeneratorExp)
        for g in c.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)
    }  # fmt: skip
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - inner


def mentions(body: Sequence[ast.stmt], name: str) -> bool:
    """Whether a block reads or assigns a name."""
    return any(name in names_in(s) for s in body)


def live_in(body: Sequence[ast.stmt]) -> set[str]:
    """Names that a block may read before it has assigned them, as far as its order tells."""
    found: set[str] = set()
    assigned: set[str] = set()
    for node in body:
        if isinstance(node, ast.Assign):
            found |= names_in(node.value) - assigned
            for target in node.targets:
                if isinstance(target, ast.Subscript):
                    found |= names_in(target) - assigned
            assigned |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.If):
            found |= (names_in(node.test) | live_in(node.body) | live_in(node.orelse)) - assigned
            assigned |= _sure(node.body) & _sure(node.orelse)
        elif isinstance(node, ast.For):
            found |= (names_in(node.iter) | (live_in(node.body) - names_in(node.target))) - assigned
            found |= live_in(node.orelse) - assigned
        else:
            found |= names_in(node) - assigned
    return found


def _sure(body: Sequence[ast.stmt]) -> set[str]:
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.If):
            found |= _sure(node.body) & _sure(node.orelse)
    return found
