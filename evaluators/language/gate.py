"""The language gate: parses a candidate and refuses constructs outside the heuristic language.

The gate is a first filter that gives good feedback to authors of candidates. It is not a security boundary, unlike the
sandbox.
"""

from __future__ import annotations

import ast
import hashlib
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from evaluators.data.errors import UserError
from evaluators.data.status import Status
from evaluators.language import subset
from evaluators.language.checker import Refusal, check, quoted

_PARSING = threading.Lock()
PARSED_KEPT = 8
"""Cached programs: controller, judge and recheck parse the same program one after the other."""

__all__ = ["Program", "ProgramRefused", "Refusal", "named_program", "parse_program", "parse_tree"]


class ProgramRefused(Exception):
    """The source is not a program of the heuristic language; `refusals` are the first few."""

    def __init__(self, status: Status, refusals: tuple[Refusal, ...]) -> None:
        """Store status and refusals; the message joins the latter."""
        super().__init__("\n".join(map(str, refusals)))
        self.status = status
        self.refusals = refusals


@dataclass(frozen=True, slots=True)
class Program:
    """A candidate that passed the gate.

    Attributes:
        uses_blocks_per_split: True if it defines the device-side decision.
        uses_queue: True if it calls `cta_queue`.
        uses_live_lengths: True if its `schedule` reads live lengths, which it gets only on request.
        complexity: number of syntax nodes of its functions and constants, without docstrings.
        normal_form: sha256 of the tree without docstrings, comments and positions.
    """

    source: str
    uses_blocks_per_split: bool
    uses_queue: bool
    uses_live_lengths: bool
    complexity: int
    normal_form: str

    @property
    def tree(self) -> ast.Module:
        """A new copy of its syntax tree."""
        return parse_tree(self.source)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    bodies: list[list[ast.stmt]] = [tree.body, *(n.body for n in tree.body if isinstance(n, ast.FunctionDef))]
    for body in bodies:
        first = body[0] if body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            if len(body) > 1:
                del body[0]
            else:
                body[0] = ast.Pass()
    return tree


def syntax_text(node: object) -> str:
    """Syntax tree as text, equal under all versions of Python, since journals have hashes of it.

    It equals the output of `ast.dump` in Python 3.11. Later versions omit empty lists, and have type parameters, which
    the language lacks.
    """
    if isinstance(node, list):
        return f"[{', '.join(map(syntax_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, getattr(node, name, None)) for name in node._fields if name != "type_params"]
    # Optional fields have None as their default; only a constant has a value None.
    shown = [(n, v) for n, v in fields if v is not None or (isinstance(node, ast.Constant) and n == "value")]
    return f"{type(node).__name__}({', '.join(f'{name}={syntax_text(value)}' for name, value in shown)})"


def _depths(tree: ast.AST) -> Iterator[int]:
    todo: list[tuple[ast.AST, int]] = [(tree, 0)]
    while todo:
        node, depth = todo.pop()
        yield depth
        todo.extend((child, depth + 1) for child in ast.iter_child_nodes(node))


def parse_tree(source: str) -> ast.Module:
    """Parse with `ast.parse`, one thread at a time.

    CPython keeps the recursion depth of its AST constructor in a place that threads share, and raises SystemError
    when two of them meet there (python/cpython issue 106905, fixed in newer releases).
    """
    # The list of warning filters is shared by threads, too.
    with _PARSING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except SystemError:
            return ast.parse(source)


@lru_cache(maxsize=PARSED_KEPT)
def parse_program(source: str) -> Program:
    """Parse a candidate.

    Raises:
        ProgramRefused: not Python, too large, or outside the language; with line, reason and alternative.

    Example:
        >>> evaluators.parse_program("def schedule(shape, gpu): return 4, None, 0").uses_blocks_per_split
        False
    """

    def refuse(line: int, construct: str, reason: str, instead: str = "") -> ProgramRefused:
        return ProgramRefused(Status.SYNTAX, (Refusal(line, construct, reason, instead),))

    if len(source.encode("utf-8", "surrogatepass")) > subset.MAX_SOURCE_BYTES:
        raise refuse(1, "source", f"longer than {subset.MAX_SOURCE_BYTES} bytes", "a shorter program")
    try:
        tree = parse_tree(source)
    except SyntaxError as error:
        raise refuse(error.lineno or 1, "syntax", quoted(error.msg)) from None
    except (ValueError, RecursionError, MemoryError, UnicodeError) as error:
        raise refuse(1, "source", f"cannot be parsed ({quoted(str(error))})", "plain, less deeply nested") from None
    depths = list(_depths(tree))
    if len(depths) > subset.MAX_NODES or max(depths) > subset.MAX_DEPTH:
        limit = f"{subset.MAX_NODES} syntax nodes or {subset.MAX_DEPTH} levels"
        raise refuse(1, "source", f"more than {limit}", "a smaller program")
    refusals = check(tree, source)
    if refusals:
        raise ProgramRefused(Status.LANGUAGE, refusals)
    bare = _without_docstrings(tree)
    return Program(
        source=source,
        uses_blocks_per_split=any(isinstance(n, ast.FunctionDef) and n.name == "blocks_per_split" for n in tree.body),
        uses_queue=any(isinstance(n, ast.Name) and n.id == subset.QUEUE for n in ast.walk(tree)),
        uses_live_lengths=any(isinstance(n, ast.Attribute) and n.attr in subset.LIVE_LENGTHS for n in ast.walk(tree)),
        complexity=sum(1 for n in ast.walk(bare) if not isinstance(n, ast.expr_context | ast.Load | ast.Module)),
        normal_form=hashlib.sha256(syntax_text(bare).encode()).hexdigest(),
    )


def named_program(source: str, name: str) -> Program:
    """Program that a user named, by its source.

    Raises:
        UserError: the gate refuses it; the message begins with the name.
    """
    try:
        return parse_program(source)
    except ProgramRefused as refused:
        raise UserError(f"{name}: {refused.refusals[0]}", hint="evosplit evaluate shows all of them") from refused
