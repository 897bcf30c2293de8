"""Programs as plain Python over a target's own names, and anchors in a target's Python, found by parsing."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evaluators.language.cpp.normalise import Form, NotExpressible, Rename, stored_names
from evaluators.language.subset import QUEUE
from evolve.errors import EXIT_MISSING, UserError
from evolve.export.patch.anchors import AnchorMissing

INDENT = "    "
ABSENT = ("float32", "isqrt", QUEUE)


class _Fields(ast.NodeTransformer):
    """Reads of inputs by the target's own names."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id == "math":
            return node
        return ast.copy_location(ast.parse(self.names[_field(node.attr)], mode="eval").body, node)


def python_statements(form: Form, body: Sequence[ast.stmt], names: Mapping[str, str], target: str) -> list[str]:
    """Statements of a form over other names, comments kept, not indented.

    Raises:
        NotExpressible: the target lacks an input, or the program uses a function that plain Python lacks.
    """
    for node in (n for s in (*body, *form.helpers.values()) for n in ast.walk(s)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ABSENT:
            raise NotExpressible(f"line {node.lineno}: {node.func.id} is not plain Python", hint="a rule in doubles")
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name) or node.value.id == "math":
            continue
        if _field(node.attr) not in names:
            raise NotExpressible(
                f"line {node.lineno}: {target} does not know {ast.unparse(node)} where it decides",
                hint=f"a rule over {', '.join(sorted(n.removeprefix('gpu.') for n in names))}",
            )
    moved = [_Fields(names).visit(copy.deepcopy(s)) for s in body]
    comments = {line: list(texts) for line, texts in form.comments.items()}
    constants = [f"{n} = {ast.unparse(v)}" for n, v in form.constants.items()]
    return [*constants, *_written(moved, comments)]


def helper_functions(form: Form, names: Mapping[str, str], parameters: Sequence[str]) -> tuple[Form, list[str]]:
    """Helpers as functions over the target's own names, and the form that calls them.

    `helper(shape, gpu, n)` becomes `helper(n, num_n_blocks, num_SMs)`: the inputs that it reads become parameters.

    `names` are the target's own expressions for the inputs, `parameters` those of the target's function, which the
    calls may pass on.
    """
    views = dict.fromkeys(form.helpers, frozenset[int]())
    needs: dict[str, list[str]] = {n: [] for n in form.helpers}

    def is_view(node: ast.expr, scope: frozenset[str]) -> bool:
        return isinstance(node, ast.Name) and node.id in scope

    def scope_of(name: str) -> frozenset[str]:
        return frozenset(a.arg for i, a in enumerate(form.helpers[name].args.args) if i in views[name])

    def calls(nodes: Sequence[ast.stmt]) -> list[ast.Call]:
        found = [n for s in nodes for n in ast.walk(s) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        return [c for c in found if isinstance(c.func, ast.Name) and c.func.id in form.helpers]

    # From the entry down: callees come first in the form's order.
    scopes = [(frozenset(form.views), form.body)]
    for name in reversed(form.helpers):
        for scope, body in [*scopes, *((scope_of(n), f.body) for n, f in form.helpers.items())]:
            for call in calls(body):
                if call.func.id == name:  # type: ignore[attr-defined]
                    views[name] |= {i for i, a in enumerate(call.args) if is_view(a, scope)}
    for name, function in form.helpers.items():
        own = scope_of(name)
        fields = {n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute) and is_view(n.value, own)}
        texts = " ".join(names[_field(f)] for f in sorted(fields) if _field(f) in names)
        inner = [n for call in calls(function.body) for n in needs[call.func.id]]  # type: ignore[attr-defined]
        needs[name] = [p for p in parameters if p in inner or re.search(rf"\b{p}\b", texts)]

    class CallRewriter(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.expr:
            self.generic_visit(node)
            if isinstance(node.func, ast.Name) and node.func.id in form.helpers:
                name = node.func.id
                kept = [a for i, a in enumerate(node.args) if i not in views[name]]
                node.args = [*kept, *(ast.Name(n, ast.Load()) for n in needs[name])]
            return node

    lines = [f"{n} = {ast.unparse(v)}" for n, v in form.constants.items()] if form.helpers else []
    lines += ["", ""] if lines else []
    for name, function in form.helpers.items():
        given = [a.arg for i, a in enumerate(function.args.args) if i not in views[name]]
        clash = {n: f"{n}_2" for n in {*given, *stored_names(function.body)} & set(needs[name])}
        body = [Rename(clash).visit(CallRewriter().visit(copy.deepcopy(s))) for s in function.body]
        moved = [_Fields(names).visit(s) for s in body]
        arguments = ", ".join([*(clash.get(n, n) for n in given), *needs[name]])
        comments = {line: list(texts) for line, texts in form.comments.items()}
        lines += [f"def {name}({arguments}):", *(INDENT + x for x in _written(moved, comments)), "", ""]
    constants = {} if form.helpers else form.constants
    return replace(form, body=[CallRewriter().visit(copy.deepcopy(s)) for s in form.body], constants=constants), lines


def _field(attribute: str) -> str:
    return f"gpu.{attribute}" if attribute in ("num_sms", "l2_bytes", "max_sm_margin") else attribute


def _written(body: Sequence[ast.stmt], comments: dict[int, list[str]]) -> list[str]:
    lines: list[str] = []
    for node in body:
        lines += [f"# {text}" for text in comments.pop(node.lineno, [])]
        behind = "".join(f"  # {text}" for text in comments.pop(-node.lineno, []))
        if isinstance(node, ast.If):
            lines += _branches(node, comments, behind)
        elif isinstance(node, ast.For):
            lines.append(f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}:{behind}")
            lines += [INDENT + line for line in _written(node.body, comments)]
            if node.orelse:
                lines += ["else:", *(INDENT + line for line in _written(node.orelse, comments))]
        else:
            lines.append(ast.unparse(node) + behind)
    return lines


def _branches(node: ast.If, comments: dict[int, list[str]], behind: str) -> list[str]:
    lines = [f"if {ast.unparse(node.test)}:{behind}", *(INDENT + x for x in _written(node.body, comments))]
    if not node.orelse:
        return lines
    if len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
        inner = _branches(node.orelse[0], comments, "")
        return [*lines, f"el{inner[0]}", *inner[1:]]
    return [*lines, "else:", *(INDENT + x for x in _written(node.orelse, comments))]


def _library() -> Any:
    try:
        import libcst
        import libcst.metadata
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed, and Python is changed by parsing it",
            hint="pip install 'evosplit[export]'",
            exit_code=EXIT_MISSING,
        ) from error
    return libcst


def _positions(source: str) -> tuple[Any, Any]:
    cst = _library()
    try:
        wrapper = cst.metadata.MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    except cst.ParserSyntaxError as error:
        raise AnchorMissing(f"the target's file does not parse: {error}", hint="nothing was changed") from error
    return wrapper, wrapper.resolve(cst.metadata.PositionProvider)


def find_python_function(source: str, name: str, parameters: Sequence[str] | None, where: str) -> tuple[int, int, int]:
    """First line, first line of the body and last line of a module-level function, from 1.

    Raises:
        AnchorMissing: none, several, or other parameters than these; None for any.
    """
    cst = _library()
    wrapper, positions = _positions(source)
    found = [n for n in wrapper.module.body if isinstance(n, cst.FunctionDef) and n.name.value == name]
    if len(found) != 1:
        raise AnchorMissing(f"{where}: looked for one function {name}, found {len(found)}", hint="nothing was changed")
    node = found[0]
    given = [p.name.value for p in node.params.params]
    if parameters is not None and given != list(parameters):
        raise AnchorMissing(
            f"{where}: expected {name}({', '.join(parameters)}), found {name}({', '.join(given)})",
            hint="this revision is newer or older than those that the exporter knows; nothing was changed",
        )
    position = positions[node]
    lines = source.splitlines()
    first = positions[node.body.body[0]].start.line
    # Comments above the first statement belong to the body.
    while first - 1 > position.start.line and lines[first - 2].lstrip().startswith("#"):
        first -= 1
    return position.start.line, first, position.end.line


def find_assignment(source: str, method: str, target: str, value: str, where: str) -> int:
    """Line of the one statement `target = value` in a method, from 1.

    Raises:
        AnchorMissing: none, or several.
    """
    cst = _library()
    wrapper, positions = _positions(source)
    module = wrapper.module
    found: list[int] = []

    class Look(cst.CSTVisitor):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.inside: list[str] = []

        def visit_FunctionDef(self, node: Any) -> None:
            self.inside.append(node.name.value)

        def leave_FunctionDef(self, original_node: Any) -> None:
            self.inside.pop()

        def visit_Assign(self, node: Any) -> None:
            written = module.code_for_node(node.targets[0].target), module.code_for_node(node.value)
            if self.inside[-1:] == [method] and written == (target, value):
                found.append(positions[node].start.line)

    wrapper.module.visit(Look())
    if len(found) != 1:
        raise AnchorMissing(
            f"{where}: looked for one `{target} = {value}` in {method}(), found {len(found)}",
            hint="nothing was changed",
        )
    return found[0]
