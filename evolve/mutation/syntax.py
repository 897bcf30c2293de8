"""Edits of the program's own text: constants, operators, fields, statements, functions.

They work on positions of the syntax tree, so that comments and layout of the rest stay as they are.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import lru_cache

from evaluators.language.gate import parse_tree
from evaluators.targets.target import AnyTarget

COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
ARITHMETIC = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//"}
FACTORS = (0.5, 0.7, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 1.5, 2.0)


def replace_span(source: str, node: ast.expr | ast.stmt, text: str) -> str:
    """Source with a node's text replaced."""
    lines = source.splitlines(keepends=True)
    assert node.end_lineno is not None and node.end_col_offset is not None
    start = sum(len(x.encode()) for x in lines[: node.lineno - 1]) + node.col_offset
    end = sum(len(x.encode()) for x in lines[: node.end_lineno - 1]) + node.end_col_offset
    data = source.encode()
    return (data[:start] + text.encode() + data[end:]).decode()


@lru_cache(maxsize=8)
def functions(source: str) -> Mapping[str, ast.FunctionDef]:
    """Functions of a program by name; cached, so callers must not change the trees."""
    return {n.name: n for n in parse_tree(source).body if isinstance(n, ast.FunctionDef)}


def _inside(source: str, kind: type[ast.AST]) -> list[ast.AST]:
    return [n for f in functions(source).values() for n in ast.walk(f) if isinstance(n, kind)]


def variant_numbers(nodes: Iterable[ast.AST], target: AnyTarget) -> list[list[ast.expr]]:
    """Numbers that name a variant, for each returned answer; none if the target has no variants."""
    width = len(target.answer_names) - 1
    answers = [n.value for n in nodes if isinstance(n, ast.Return)]
    if target.variants is None:
        return []
    return [n.elts[1:] for n in answers if isinstance(n, ast.Tuple) and len(n.elts) == width]


def edit_variant(source: str, rng: random.Random, target: AnyTarget) -> str | None:
    """Return another variant in one place."""
    found = [
        n for n in variant_numbers(_inside(source, ast.Return), target) if all(isinstance(e, ast.Constant) for e in n)
    ]
    if not found or target.variants is None:
        return None
    numbers, variant = rng.choice(found), rng.choice(target.variants)
    for node, value in zip(reversed(numbers), reversed(variant), strict=True):
        source = replace_span(source, node, str(value))
    return source


def edit_constant(source: str, rng: random.Random, target: AnyTarget) -> str | None:
    """Scale or shift one numeric literal that names no variant."""
    kept = {id(n) for numbers in variant_numbers(_inside(source, ast.Return), target) for n in numbers}
    found = [n for n in _inside(source, ast.Constant) if isinstance(n, ast.Constant) and type(n.value) in (int, float)]
    found = [n for n in found if id(n) not in kept]
    if not found:
        return None
    node = rng.choice(found)
    value = node.value
    assert isinstance(value, int | float)
    if isinstance(value, int):
        changed = value + rng.choice((-2, -1, 1, 2)) if abs(value) < 20 else round(value * rng.choice(FACTORS))
        return replace_span(source, node, str(max(0, changed)))
    return replace_span(source, node, f"{value * rng.choice(FACTORS):.3g}")


def edit_operator(source: str, rng: random.Random) -> str | None:
    """Swap one comparison or arithmetic operator for another."""
    found = [n for n in _inside(source, ast.Compare) if isinstance(n, ast.Compare) and len(n.ops) == 1]
    sums = [n for n in _inside(source, ast.BinOp) if isinstance(n, ast.BinOp) and type(n.op) in ARITHMETIC]
    node = rng.choice([*found, *sums]) if found or sums else None
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        sign = rng.choice([s for k, s in COMPARISONS.items() if k is not type(node.ops[0])])
        return replace_span(source, node, f"{ast.unparse(node.left)} {sign} {ast.unparse(node.comparators[0])}")
    if isinstance(node, ast.BinOp):
        sign = rng.choice([s for k, s in ARITHMETIC.items() if k is not type(node.op)])
        return replace_span(source, node, f"({ast.unparse(node.left)}) {sign} ({ast.unparse(node.right)})")
    return None


def edit_field(source: str, rng: random.Random, target: AnyTarget) -> str | None:
    """Read another field of the same argument."""
    views: dict[str, type] = {"shape": target.shape_type, "work": target.work_type}
    found = [
        n
        for n in _inside(source, ast.Attribute)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in views
    ]
    if not found:
        return None
    node = rng.choice(found)
    assert isinstance(node.value, ast.Name)
    names = [f.name for f in fields(views[node.value.id]) if f.name not in (node.attr, "n_blocks")]
    return replace_span(source, node, f"{node.value.id}.{rng.choice(names)}")


def edit_drop(source: str, rng: random.Random) -> str | None:
    """Delete one if statement without an else."""
    found = [n for n in _inside(source, ast.If) if isinstance(n, ast.If) and not n.orelse]
    if not found:
        return None
    node = rng.choice(found)
    lines = source.splitlines(keepends=True)
    kept = lines[: node.lineno - 1] + lines[node.end_lineno :]
    return "".join(kept)


def edit_move_up(source: str, rng: random.Random) -> str | None:
    """Swap two neighbouring if statements of a function."""
    pairs = [
        (a, b)
        for f in functions(source).values()
        for a, b in zip(f.body, f.body[1:], strict=False)
        if isinstance(a, ast.If) and isinstance(b, ast.If)
    ]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    lines = source.splitlines(keepends=True)
    assert first.end_lineno is not None and second.end_lineno is not None
    a, b = lines[first.lineno - 1 : first.end_lineno], lines[second.lineno - 1 : second.end_lineno]
    between = lines[first.end_lineno : second.lineno - 1]
    return "".join(lines[: first.lineno - 1] + b + between + a + lines[second.end_lineno :])


def insert_at_top(source: str, function: str, new: list[str], least: int = 0) -> str | None:
    """Put statements at the top of a function, after its docstring.

    Adds `blocks_per_split` if it is missing; `least` is its answer elsewhere then.
    """
    found = functions(source)
    if function not in found:
        if function != "blocks_per_split":
            return None
        block = ["", "", "def blocks_per_split(work, gpu):", *new, f"    return {least}", ""]
        lines = source.splitlines()
        end = next((i for i, line in enumerate(lines) if "EVOLVE-BLOCK-END" in line), len(lines))
        while end > 0 and not lines[end - 1].strip():
            end -= 1
        return "\n".join([*lines[:end], *block, *lines[end:]]) + "\n"
    body = found[function].body
    first = body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    at = first.end_lineno if documented else found[function].lineno
    assert at is not None
    lines = source.splitlines()
    return "\n".join([*lines[:at], *new, *lines[at:]]) + "\n"


def replace_body(source: str, function: str, new: list[str], least: int = 0) -> str | None:
    """The program with another body of a function, without unused helpers; None if the function does not exist."""
    found = functions(source)
    if function not in found:
        return insert_at_top(source, function, new, least)
    node = found[function]
    lines = source.splitlines()
    changed = "\n".join([*lines[: node.lineno], *new, *lines[node.end_lineno :]]) + "\n"
    return drop_unused(changed)


def insert_function(source: str, before: str, new: list[str]) -> str | None:
    """The program with a new function in front of another one; None if that does not exist."""
    found = functions(source)
    if before not in found:
        return None
    at = found[before].lineno - 1
    lines = source.splitlines()
    return "\n".join([*lines[:at], *new, "", "", *lines[at:]]) + "\n"


def with_math(source: str) -> str:
    """Source with the import that edits need, before its first function."""
    if "math." not in source or "import math" in source:
        return source
    lines = source.splitlines()
    first = next((i for i, line in enumerate(lines, start=1) if line.startswith("def ")), 1)
    return "\n".join([*lines[: first - 1], "import math", "", "", *lines[first - 1 :]]) + "\n"


def drop_unused(source: str) -> str:
    """Source without the helpers that neither entry point calls."""
    while True:
        found = functions(source)
        reached = {n for root in ("schedule", "blocks_per_split") if root in found for n in _helpers(found, root)}
        unused = [n for n in found if n not in reached and n not in ("schedule", "blocks_per_split")]
        if not unused:
            return source
        node = found[unused[0]]
        lines = source.splitlines()
        end = node.end_lineno or node.lineno
        while end < len(lines) and not lines[end].strip():
            end += 1
        source = "\n".join([*lines[: node.lineno - 1], *lines[end:]]) + "\n"


def take_function(source: str, other: str, name: str) -> str | None:
    """Source with one function taken from another program, with the helpers that it calls."""
    ours, theirs = functions(source), functions(other)
    if name not in ours or name not in theirs:
        return None

    def text(node: ast.FunctionDef) -> str:
        return "\n".join(other.splitlines()[node.lineno - 1 : node.end_lineno])

    changed = replace_span(source, ours[name], text(theirs[name]))
    for helper in _helpers(theirs, name):
        present = functions(changed)
        if helper in present:
            changed = replace_span(changed, present[helper], text(theirs[helper]))
        else:
            target = functions(changed)[name]
            lines = changed.splitlines()
            at = target.lineno - 1
            changed = "\n".join([*lines[:at], *text(theirs[helper]).splitlines(), "", "", *lines[at:]]) + "\n"
    return changed


def _helpers(found: Mapping[str, ast.FunctionDef], name: str) -> Iterator[str]:
    seen: set[str] = set()
    todo = [name]
    while todo:
        for node in ast.walk(found[todo.pop()]):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if called in found and called not in seen and called != name:
                seen.add(called)
                todo.append(called)
                yield called


SYNTAX_EDITS: dict[str, Callable[[str, random.Random], str | None]] = {
    "operator": edit_operator,
    "drop": edit_drop,
    "move_up": edit_move_up,
}
"""Edits for all targets, by name; each returns the new source, or None if there is nothing to change."""

TARGET_EDITS: dict[str, Callable[[str, random.Random, AnyTarget], str | None]] = {
    "constant": edit_constant,
    "field": edit_field,
    "variant": edit_variant,
}
"""Edits that depend on a target's fields and answers, by name."""
