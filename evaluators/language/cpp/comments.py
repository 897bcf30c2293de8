"""Comments of a program: where they stand, and which statement each speaks of."""

from __future__ import annotations

import ast
import io
import tokenize


def comments_of(source: str) -> dict[int, list[str]]:
    """Comments by line; those behind code by -line."""
    found: dict[int, list[str]] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            text = token.string.lstrip("#").strip()
            if text and not text.startswith("EVOLVE-BLOCK"):
                found[token.start[0] if alone else -token.start[0]] = [text]
    return found


def attached(comments: dict[int, list[str]], roots: list[ast.FunctionDef],
             constants: list[ast.expr]) -> dict[int, list[str]]:  # fmt: skip
    """Move each comment line to the statement, or the value of a module's constant, below it."""
    starts = {n.lineno for r in roots for n in ast.walk(r) if isinstance(n, ast.stmt) and n is not r}
    starts |= {value.lineno for value in constants}
    heads = {value.lineno: value.lineno for value in constants}
    for root in roots:
        for node in ast.walk(root):
            if isinstance(node, ast.If | ast.For):
                test = node.test if isinstance(node, ast.If) else node.iter
                heads.update(dict.fromkeys(range(node.lineno, (test.end_lineno or 0) + 1), node.lineno))
            elif isinstance(node, ast.stmt) and node is not root:
                heads.update(dict.fromkeys(range(node.lineno, (node.end_lineno or 0) + 1), node.lineno))
    found: dict[int, list[str]] = {}
    for line, texts in sorted(comments.items(), key=lambda item: abs(item[0])):
        at = heads.get(abs(line))
        if at is not None and line < 0 and -line in (at,):
            found.setdefault(-at, []).extend(texts)
            continue
        at = at if at is not None else next((s for s in sorted(starts) if s > abs(line)), None)
        if at is not None:
            found.setdefault(at, []).extend(texts)
    return found
