"""Refusals of programs that rely on Python's behaviour: names without a value, shared lists, generators.

Python raises where a name has no value yet, lets two names refer to one list, and computes a generator when it is
read. The C++ of `emit_statements` would continue with another value.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

from evaluators.language import subset
from evaluators.language.cpp.infer_expressions import refuse
from evaluators.language.cpp.infer_statements import Inference
from evaluators.language.cpp.normalise import Form, changed_lists, stored_names
from evaluators.language.cpp.types import Kind
from evaluators.language.subset import QUEUE, QUEUE_PARAMETERS

READERS = ("len", "max", "min", "sorted", "sum", QUEUE)
"""Functions that read a list and keep nothing of it."""


def refuse_what_only_python_does(form: Form, types: Inference, imported: frozenset[str]) -> None:
    """Refuse a form whose C++ might differ from Python, or decide where Python fails.

    Args:
        form: one entry point.
        types: types of the form.
        imported: `math` and names from it that the program imports.

    Raises:
        NotExpressible: with the place.
    """
    functions: list[tuple[str, Sequence[ast.stmt], set[str]]] = [("", form.body, set(form.views))]
    functions += [(f.name, f.body, {a.arg for a in f.args.args}) for f in form.helpers.values()]
    for name, body, parameters in functions:
        local = stored_names(list(body))
        for node in (n for s in body for n in ast.walk(s)):
            if (isinstance(node, ast.Name) and node.id in subset.MATH_NAMES) or _is_math(node):
                wanted = node.id if isinstance(node, ast.Name) else "math"
                if wanted not in imported | local | parameters:
                    raise refuse(node, f"{wanted} is not imported")
        taken = (local | parameters) & (form.constants.keys() | form.helpers.keys() | imported)
        taken |= local & (set(form.views) if not name else set())
        if taken:
            raise refuse(body[0], f"{min(taken)} is a local name and another one")
        _assigned(body, frozenset(parameters), local)
        _refuse_generators(body)
        _refuse_shared_lists(body, parameters, types)


def _is_math(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "math"


def _assigned(body: Sequence[ast.stmt], known: frozenset[str], local: set[str]) -> frozenset[str] | None:
    """Names that have a value after a block; None if its end is not reached.

    Raises:
        NotExpressible: a name is read that may have none.
    """
    for node in body:
        if isinstance(node, ast.Return):
            _read(node, known, local)
            return None
        if isinstance(node, ast.Break | ast.Continue):
            return None
        if isinstance(node, ast.If):
            _read(node.test, known, local)
            ways = [w for w in (_assigned(b, known, local) for b in (node.body, node.orelse)) if w is not None]
            if not ways:
                return None
            known = frozenset.intersection(*ways)
        elif isinstance(node, ast.For):
            _read(node.iter, known, local)
            _assigned(node.body, known | stored_in(node.target), local)
            _assigned(node.orelse, known, local)
        else:
            _read(node, known, local)
            if isinstance(node, ast.Assign):
                known |= frozenset().union(*(stored_in(t) for t in node.targets))
    return known


def stored_in(target: ast.expr) -> frozenset[str]:
    """Names that a target of an assignment gives a value."""
    return frozenset(n.id for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _read(node: ast.AST, known: frozenset[str], local: set[str]) -> None:
    if isinstance(node, ast.ListComp | ast.GeneratorExp):
        inside = known
        for generator in node.generators:
            _read(generator.iter, inside, local)
            inside |= stored_in(generator.target)
            for test in generator.ifs:
                _read(test, inside, local)
        _read(node.elt, inside, local)
        return
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id not in known:
        raise refuse(node, f"{node.target.id} may have no value here", "give it one before")
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in local and node.id not in known:
        raise refuse(node, f"{node.id} may have no value here", "give it one before")
    for child in ast.iter_child_nodes(node):
        _read(child, known, local)


def _refuse_generators(body: Iterable[ast.stmt]) -> None:
    """Refuse generators, except where a function reads them whole."""
    fine = {
        id(node.args[0]) for s in body for node in ast.walk(s)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1
        and node.func.id in ("max", "min", "sorted", "sum")
    }  # fmt: skip
    for node in (n for s in body for n in ast.walk(s)):
        if isinstance(node, ast.GeneratorExp) and id(node) not in fine:
            raise refuse(node, "a generator that is kept", "a list: [...]")


def _refuse_shared_lists(body: Sequence[ast.stmt], parameters: set[str], types: Inference) -> None:
    """Refuse a changed list with several names."""
    changed = changed_lists(list(body))
    if changed & parameters:
        raise refuse(body[0], f"{min(changed & parameters)} is the caller's list, and changes")
    fine: set[int] = set()
    for node in (n for s in body for n in ast.walk(s)):
        if isinstance(node, ast.Assign):
            fresh = isinstance(node.value, ast.List | ast.ListComp | ast.BinOp) or (
                isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name)
                and node.value.func.id in ("sorted", QUEUE)
            )  # fmt: skip
            if fresh and len(node.targets) == 1:
                fine.add(id(node.targets[0]))
        elif isinstance(node, ast.Subscript | ast.Return):
            fine.add(id(node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            kind = types.results[node.func.id].kind if node.func.id in types.results else Kind.INT
            if (node.func.id in READERS and len(node.args) in (1, len(QUEUE_PARAMETERS))) or kind in (
                Kind.BOOL,
                Kind.INT,
                Kind.DOUBLE,
            ):
                fine |= {id(a) for a in node.args if node.func.id in READERS or node.func.id in types.results}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            fine.add(id(node.func.value))
        elif isinstance(node, ast.For | ast.comprehension):
            fine.add(id(node.iter))
    for node in (n for s in body for n in ast.walk(s)):
        if isinstance(node, ast.Name) and node.id in changed and id(node) not in fine:
            raise refuse(node, f"a second name for {node.id}, which changes", "one name")
