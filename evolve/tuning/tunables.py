"""Tunable numbers of a program: which literals may move, how far, and a program's text with other numbers.

A line that ends in `# tune` or `# tune 0.5..2` marks its literals, with bounds where they are given. A program
without marks has its literals lifted: all but those that are structure rather than size (0 and 1, indices,
the ends of ranges).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.data.contract import Gpu
from evaluators.language.gate import Program
from evaluators.language.literals import Number, literals, with_numbers
from evaluators.targets.fa3 import FA3
from evaluators.targets.target import AnyTarget
from evolve.mutation.syntax import variant_numbers

MARK = re.compile(r"#\s*tune\b(?:\s+(?P<low>[0-9.eE+]+)\s*\.\.\s*(?P<high>[0-9.eE+]+))?")
REACH = 8.0
"""A literal without bounds may become this many times larger or smaller."""

LEAST = 1e-3
"""Share of a literal's value that replaces a lower bound of 0."""

DIGITS = 3
"""Significant digits of a fitted number: more would describe the noise of the table."""


@dataclass(frozen=True, slots=True)
class Tunable:
    """One number that may move.

    Attributes:
        position: index in `evaluators.language.literals.literals` of the program.
        value: number in the text; its type stays.
        low: smallest value, above 0.
    """

    position: int
    value: Number
    low: float
    high: float

    def at(self, value: float) -> Number:
        """The nearest number that may replace it."""
        rounded = significant(min(max(value, self.low), self.high))
        return rounded if isinstance(self.value, float) else max(math.ceil(self.low), round(rounded))


def significant(value: float) -> float:
    """A number with `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def _structure(tree: ast.Module) -> set[int]:
    """Ids of literals that are structure: indices and ends of ranges."""
    found: set[int] = set()
    for node in ast.walk(tree):
        inside: list[ast.expr] = []
        if isinstance(node, ast.Subscript):
            inside = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
            inside = node.args
        found |= {id(n) for part in inside for n in ast.walk(part)}
    return found


def _open_lines(source: str) -> set[int]:
    """Lines that a proposal may change: those between EVOLVE-BLOCK markers, or all where there are none."""
    lines = source.splitlines()
    if not any("EVOLVE-BLOCK-START" in line for line in lines):
        return set(range(1, len(lines) + 1))
    found, inside = set(), False
    for number, line in enumerate(lines, start=1):
        inside = "EVOLVE-BLOCK-START" in line or (inside and "EVOLVE-BLOCK-END" not in line)
        if inside:
            found.add(number)
    return found


def _most(tree: ast.Module, target: AnyTarget) -> dict[int, int]:
    """Largest valid values of literals that are returned or bound a returned value, by id."""
    found: dict[int, int] = {}
    for function in (n for n in tree.body if isinstance(n, ast.FunctionDef)):
        for node in ast.walk(function):
            value = node.value if isinstance(node, ast.Return) else None
            high = target.blocks.high
            if function.name == "schedule":
                value = value.elts[0] if isinstance(value, ast.Tuple) and value.elts else None
                high = target.knobs(Gpu())[0].high
            elif function.name != "blocks_per_split":
                continue
            called = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "min"
            parts = value.args if called and isinstance(value, ast.Call) else [value]
            found |= {id(part): high for part in parts if isinstance(part, ast.Constant)}
    return found


def tunables(program: Program, target: AnyTarget = FA3) -> list[Tunable]:
    """Numbers of a program that may move, in the order of the text, except those that name a variant."""
    open_lines, lines = _open_lines(program.source), program.source.splitlines()
    tree = program.tree
    known = [(i, n) for i, n in enumerate(literals(tree)) if n.lineno in open_lines]
    marked = {n: m for n in open_lines if (m := MARK.search(lines[n - 1])) is not None}
    structure = _structure(tree) | {
        id(node) for answer in variant_numbers(ast.walk(tree), target) for part in answer for node in ast.walk(part)
    }
    most = {} if target.variants is None else _most(tree, target)
    found = []
    for position, node in known:
        value = node.value
        assert isinstance(value, int | float)
        if marked and node.lineno in marked and value > 0:
            low, high = marked[node.lineno].group("low"), marked[node.lineno].group("high")
            bounds = (float(low), float(high)) if low and high else (value / REACH, value * REACH)
        elif marked or id(node) in structure or value in (0, 1) or not math.isfinite(value):
            continue
        else:
            bounds = (value / REACH, value * REACH)
        # Numbers move by factors, which never reach 0.
        bounds = max(bounds[0], value * LEAST), min(bounds[1], most.get(id(node), math.inf))
        if bounds[0] <= value <= bounds[1]:
            smallest = bounds[0] if isinstance(value, float) else max(1.0, bounds[0])
            found.append(Tunable(position, value, smallest, bounds[1]))
    return found


def rewritten(program: Program, moved: Sequence[tuple[Tunable, Number]]) -> str:
    """The program's text with other numbers, otherwise unchanged."""
    return with_numbers(program.source, program.tree, {tunable.position: number for tunable, number in moved})
