"""One candidate in full: texts, status, the constants that moved, and its outcome on every shape."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

from evolve.dashboard.documents import Candidate, Constant, Node
from evolve.dashboard.reader import RunReader
from evolve.dashboard.recording import Recording


def candidate(reader: RunReader, index: int, recording: Recording | None) -> Candidate:
    """The document of one proposal.

    Raises:
        UserError: no such proposal.
    """
    texts = reader.full(index)
    node = next(n for n in reader.nodes if n["id"] == index)

    def source_of(parent: int) -> str:
        return reader.full(parent)["source"]

    return assemble(reader.name, node, texts, recording, source_of)


def candidates(reader: RunReader, recording: Recording | None) -> list[Candidate]:
    """The documents of all proposals."""
    texts = reader.full_all()
    sources = {n["id"]: t["source"] for n, t in zip(reader.nodes, texts, strict=False)}
    return [
        assemble(reader.name, n, t, recording, sources.__getitem__) for n, t in zip(reader.nodes, texts, strict=False)
    ]


def assemble(
    run: str, node: Node, texts: Mapping[str, str], recording: Recording | None, source_of: Callable[[int], str]
) -> Candidate:
    """Put one document together; `source_of` finds a parent's source."""
    parent = node["parent"]
    before = "" if parent is None else source_of(parent)
    return Candidate(
        view="candidate",
        run=run,
        node=node,
        system=texts["system"],
        user=texts["user"],
        answer=texts["answer"],
        error=texts["error"],
        message=texts["message"],
        source=texts["source"],
        feedback=texts["feedback"],
        constants=constants_moved(before, texts["source"]),
        outcomes=recording.outcomes(texts["decisions"]) if recording else [],
    )


def constants_moved(before: str, after: str) -> list[Constant]:
    """Numbers that differ between two programs that are otherwise the same; empty where more than numbers differ."""
    # Cheap test first: numbers move within lines, so that other programs differ in their number of lines or so.
    if not before or before == after or before.count("\n") != after.count("\n"):
        return []
    try:
        old, new = ast.parse(before), ast.parse(after)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    pairs = [_numbers(old), _numbers(new)]
    if len(pairs[0]) != len(pairs[1]):
        return []
    moved = [
        Constant(line=b.lineno, before=repr(a.value), after=repr(b.value))
        for a, b in zip(*pairs, strict=True)
        if a.value != b.value
    ]
    for node in (*pairs[0], *pairs[1]):
        node.value = 0
    return moved if ast.dump(old) == ast.dump(new) else []


def _numbers(tree: ast.AST) -> list[ast.Constant]:
    """Numeric literals in source order."""
    return [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) in (int, float)]
