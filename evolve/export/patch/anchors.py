"""Finds functions, calls and declarations in a target's C++ and CUDA sources by parsing, never by line or pattern."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evolve.errors import EXIT_MISSING, UserError

if TYPE_CHECKING:
    from tree_sitter import Node


class AnchorMissing(UserError):
    """The tree lacks the code that the exporter would change."""


@dataclass(frozen=True, slots=True)
class CppFunction:
    """A function definition in a source.

    Attributes:
        start: first byte of the definition.
        end: byte behind it.
        body_start: byte behind the opening brace.
        body_end: byte of the closing brace.
        parameters: (type, name) of each parameter, blanks normalised.
        parameters_end: byte of the parenthesis that closes the parameter list.
        statements: (kind, start, end) of each top-level statement of the body; comments above belong to it.
    """

    start: int
    end: int
    body_start: int
    body_end: int
    parameters: tuple[tuple[str, str], ...]
    parameters_end: int
    statements: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class CallSite:
    """A call in a source: its arguments as written, and the byte of the closing parenthesis."""

    arguments: tuple[str, ...]
    end: int


def _root(source: bytes) -> Node:
    try:
        import tree_sitter_cpp
        from tree_sitter import Language, Parser
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed, and C++ is changed by parsing it",
            hint="pip install 'evosplit[export]'",
            exit_code=EXIT_MISSING,
        ) from error
    return Parser(Language(tree_sitter_cpp.language())).parse(source).root_node


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _text(node: Node | None) -> str:
    return "" if node is None or node.text is None else node.text.decode()


def _function_declarator(node: Node) -> Node | None:
    found = node.child_by_field_name("declarator")
    while found is not None and found.type != "function_declarator":
        found = found.child_by_field_name("declarator")
    return found


def find_function(source: bytes, name: str, where: str) -> CppFunction:
    """The one definition of a function.

    Raises:
        AnchorMissing: none, or several.
    """
    found = []
    for node in _walk(_root(source)):
        if node.type == "function_definition":
            declarator = _function_declarator(node)
            if declarator is not None and _text(declarator.child_by_field_name("declarator")) == name:
                found.append((node, declarator))
    if len(found) != 1:
        raise AnchorMissing(
            f"{where}: looked for one definition of {name}(...), found {len(found)}",
            hint="is TREE the right repository? nothing was changed",
        )
    node, declarator = found[0]
    body = node.child_by_field_name("body")
    listed = declarator.child_by_field_name("parameters")
    if body is None or listed is None:
        raise AnchorMissing(f"{where}: the definition of {name} has no body", hint="nothing was changed")
    parameters = []
    for parameter in listed.named_children:
        if parameter.type in ("parameter_declaration", "optional_parameter_declaration"):
            own = parameter.child_by_field_name("declarator")
            kind = _text(parameter)[: (own.start_byte - parameter.start_byte) if own else None]
            parameters.append((" ".join(kind.split()), _text(own)))
    return CppFunction(
        start=node.start_byte,
        end=node.end_byte,
        body_start=body.start_byte + 1,
        body_end=body.end_byte - 1,
        parameters=tuple(parameters),
        parameters_end=listed.end_byte - 1,
        statements=_statements(source, body),
    )


def _statements(source: bytes, body: Node) -> tuple[tuple[str, int, int], ...]:
    found: list[tuple[str, int, int]] = []
    above: Node | None = None
    for child in body.named_children:
        if child.type == "comment":
            if found and b"\n" not in source[found[-1][2] : child.start_byte]:
                kind, start, _ = found[-1]
                found[-1] = (kind, start, child.end_byte)
            else:
                above = above or child
            continue
        start = (above or child).start_byte
        found.append((child.type, source.rindex(b"\n", 0, start) + 1, child.end_byte))
        above = None
    return tuple(found)


def check_signature(function: CppFunction, expected: Sequence[tuple[str, str]], where: str, name: str) -> None:
    """Compare parameter types and names.

    Raises:
        AnchorMissing: they differ; the message shows both.
    """
    if function.parameters != tuple(expected):

        def shown(parameters: Sequence[tuple[str, str]]) -> str:
            return ", ".join(f"{kind} {own}" for kind, own in parameters)

        raise AnchorMissing(
            f"{where}: expected {name}({shown(expected)}), found {name}({shown(function.parameters)})",
            hint="this revision is newer or older than those that the exporter knows; nothing was changed",
        )


def find_calls(source: bytes, name: str) -> tuple[CallSite, ...]:
    """Calls of a function, in order."""
    found = []
    for node in _walk(_root(source)):
        if node.type == "call_expression" and _text(node.child_by_field_name("function")) == name:
            listed = node.child_by_field_name("arguments")
            assert listed is not None
            arguments = tuple(_text(c) for c in listed.named_children if c.type != "comment")
            found.append(CallSite(arguments, listed.end_byte - 1))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Barrier:
    """A `__syncthreads();` in a source: its first byte, and the bytes of the block that it stands in."""

    start: int
    block_start: int
    block_end: int


def find_barriers(source: bytes) -> tuple[Barrier, ...]:
    """Barriers, in order."""
    found = []
    for node in _walk(_root(source)):
        if node.type == "expression_statement" and _text(node) == "__syncthreads();" and node.parent is not None:
            found.append(Barrier(node.start_byte, node.parent.start_byte, node.parent.end_byte))
    return tuple(found)


def statement_behind(source: bytes, start: int, end: int) -> int | None:
    """First byte of the next expression statement after a declaration, in the same block."""
    for node in _walk(_root(source)):
        if node.type == "declaration" and (node.start_byte, node.end_byte) == (start, end):
            following = node.next_named_sibling
            while following is not None and following.type != "expression_statement":
                following = following.next_named_sibling
            return None if following is None else following.start_byte
    return None


def find_declaration(source: bytes, name: str, where: str) -> tuple[int, int]:
    """Bytes of the one declaration of a local variable, from its first word to its semicolon.

    Raises:
        AnchorMissing: none, or several.
    """
    found = []
    for node in _walk(_root(source)):
        if node.type == "declaration":
            for child in node.children:
                if child.type == "init_declarator" and _text(child.child_by_field_name("declarator")) == name:
                    found.append((node.start_byte, node.end_byte))
    if len(found) != 1:
        raise AnchorMissing(
            f"{where}: looked for one declaration of {name}, found {len(found)}",
            hint="is TREE the right repository? nothing was changed",
        )
    return found[0]
