"""Programs as plain Python over a target's own names, and anchors in a target's Python, found by parsing."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluators.language.cpp.normalise import Form, NotExpressible
from evolve.errors import EXIT_MISSING, UserError
from evolve.export.patch.anchors import AnchorMissing

if TYPE_CHECKING:
    pass

INDENT = "    "
ABSENT = ("float32", "isqrt")


class _Fields(ast.NodeTransformer):
    """Reads of inputs by the target's own names."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id == "math":
            return node
        is_gpu = node.attr in ("num_sms", "l2_bytes", "max_sm_margin")
        field = f"gpu.{node.attr}" if is_gpu else node.attr
        return ast.copy_location(ast.parse(self.names[field], mode="eval").body, node)


def python_statements(form: Form, body: Sequence[ast.stmt], names: Mapping[str, str], target: str) -> list[str]:
    """Statements of a form over other names, comments kept, not indented.

    Raises:
        NotExpressible: the target lacks an input, or float32 is used, which plain Python has not.
    """
    for node in (n for s in body for n in ast.walk(s)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ABSENT:
                raise NotExpressible(
                    f"line {node.lineno}: {node.func.id} is not plain Python", hint="a rule in doubles"
                )
            if node.func.id in form.helpers:
                raise NotExpressible(
                    f"line {node.lineno}: {target} gets one function, and {node.func.id} is called inside a rule",
                    hint="write the helper's expression out",
                )
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id != "math":
            field = f"gpu.{node.attr}" if node.attr in ("num_sms", "l2_bytes", "max_sm_margin") else node.attr
            if field not in names:
                raise NotExpressible(
                    f"line {node.lineno}: {target} does not know {ast.unparse(node)} where it decides",
                    hint=f"a rule over {', '.join(sorted(n.removeprefix('gpu.') for n in names))}",
                )
    moved = [_Fields(names).visit(copy.deepcopy(s)) for s in body]
    comments = {line: list(texts) for line, texts in form.comments.items()}
    constants = [f"{n} = {ast.unparse(v)}" for n, v in form.constants.items()]
    return [*constants, *_written(moved, comments)]


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


def find_python_function(source: str, name: str, parameters: Sequence[str], where: str) -> tuple[int, int, int]:
    """First line, first line of the body and last line of a module-level function, from 1.

    Raises:
        AnchorMissing: none, several, or other parameters.
    """
    cst = _library()
    wrapper, positions = _positions(source)
    found = [n for n in wrapper.module.body if isinstance(n, cst.FunctionDef) and n.name.value == name]
    if len(found) != 1:
        raise AnchorMissing(f"{where}: looked for one function {name}, found {len(found)}", hint="nothing was changed")
    node = found[0]
    given = [p.name.value for p in node.params.params]
    if given != list(parameters):
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
