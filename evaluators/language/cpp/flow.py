"""Facts at one place of a program: ranges of its names, and facts about expressions from guards and definitions.

Expressions are identified by their text; facts about a name are dropped when the name is assigned.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from evaluators.language.cpp.types import Type, join, widen

Look = Callable[[ast.expr], Type]
"""Type of an expression at this place."""

NEGATED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
}  # fmt: skip
DEPTH = 4
"""Definitions that are looked through when two expressions are put in order."""


class Texts:
    """Texts of expressions, and the names in them."""

    def __init__(self) -> None:
        self._texts: dict[ast.expr, str] = {}
        self._names: dict[str, frozenset[str]] = {}

    def of(self, node: ast.expr) -> str:
        """An expression's text."""
        if node not in self._texts:
            text = self._texts[node] = ast.unparse(node)
            self._names[text] = frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name))
        return self._texts[node]

    def names(self, text: str) -> frozenset[str]:
        """The names in a text."""
        return self._names[text]


@dataclass(slots=True)
class Flow:
    """The state before a statement.

    Attributes:
        types: types of each name that has a value.
        limits: lowest and highest value of an expression, by its text, as guards say.
        gaps: least value of `a - b` by the texts of both, as guards say.
        meanings: expression last assigned to a name, if nothing in it has changed since.
        alive: True if this place is reached.
    """

    texts: Texts
    types: dict[str, Type] = field(default_factory=dict)
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    gaps: dict[tuple[str, str], int] = field(default_factory=dict)
    meanings: dict[str, ast.expr] = field(default_factory=dict)
    alive: bool = True

    def copy(self) -> Flow:
        """An independent copy of the state."""
        return replace(
            self, types=dict(self.types), limits=dict(self.limits), gaps=dict(self.gaps), meanings=dict(self.meanings)
        )

    def text(self, node: ast.expr) -> str:
        """Text of an expression, the key of facts about it."""
        return self.texts.of(node)

    def forget(self, names: Iterable[str]) -> None:
        """Drop the facts about expressions over names that change."""
        gone = frozenset(names)
        self.limits = {t: limit for t, limit in self.limits.items() if not self.texts.names(t) & gone}
        self.gaps = {
            (a, b): gap for (a, b), gap in self.gaps.items() if not (self.texts.names(a) | self.texts.names(b)) & gone
        }
        self.meanings = {
            name: value
            for name, value in self.meanings.items()
            if name not in gone and not self.texts.names(self.text(value)) & gone
        }

    def assign(self, name: str, found: Type, value: ast.expr | None) -> None:
        """Give a name a value; `value` is the expression that it is computed from, if it is one."""
        self.forget((name,))
        self.types[name] = found
        if value is not None and name not in self.texts.names(self.text(value)):
            self.meanings[name] = value

    def assume(self, test: ast.expr, truth: bool, look: Look) -> None:
        """Narrow the facts to those where a condition holds, or does not."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self.assume(test.operand, not truth, look)
        elif isinstance(test, ast.BoolOp):
            if isinstance(test.op, ast.And) is truth:
                for part in test.values:
                    self.assume(part, truth, look)
        elif isinstance(test, ast.Compare):
            if truth or len(test.ops) == 1:
                sides = [test.left, *test.comparators]
                for op, left, right in zip(test.ops, sides, sides[1:], strict=False):
                    self._compared(type(op) if truth else NEGATED.get(type(op)), left, right, truth, look)
        elif isinstance(test, ast.Name) and test.id in self.meanings:
            self.assume(self.meanings[test.id], truth, look)
        elif look(test).whole:
            self._compared(ast.NotEq if truth else ast.Eq, test, ast.Constant(0), truth, look)

    def _compared(self, op: type[ast.cmpop] | None, left: ast.expr, right: ast.expr, truth: bool, look: Look) -> None:
        one, other = look(left), look(right)
        # NaN fails every comparison, so a failed comparison says nothing about floats.
        if op is None or not (one.number and other.number) or not (truth or (one.whole and other.whole)):
            return
        if op in (ast.Gt, ast.GtE):
            left, right, one, other = right, left, other, one
            op = ast.Lt if op is ast.Gt else ast.LtE
        if op in (ast.Lt, ast.LtE):
            step = int(op is ast.Lt and one.whole and other.whole)
            self._limit(left, -math.inf, other.high - step)
            self._limit(right, one.low + step, math.inf)
            self.order(right, left, step)
        elif op is ast.Eq:
            self._limit(left, other.low, other.high)
            self._limit(right, one.low, one.high)
            self.order(left, right, 0)
            self.order(right, left, 0)
        elif op is ast.NotEq and one.whole and other.whole:
            for side, kind, bound in ((left, one, other), (right, other, one)):
                if bound.low == bound.high == kind.low:
                    self._limit(side, kind.low + 1, math.inf)
                elif bound.low == bound.high == kind.high:
                    self._limit(side, -math.inf, kind.high - 1)

    def _limit(self, node: ast.expr, low: float, high: float) -> None:
        if isinstance(node, ast.Constant):
            return
        text = self.text(node)
        known = self.limits.get(text, (-math.inf, math.inf))
        self.limits[text] = max(low, known[0]), min(high, known[1])

    def order(self, greater: ast.expr, smaller: ast.expr, gap: int) -> None:
        """Note that `greater - smaller` is at least `gap`."""
        key = self.text(greater), self.text(smaller)
        self.gaps[key] = max(gap, self.gaps.get(key, gap))

    def at_least(self, one: ast.expr, other: ast.expr, look: Look, depth: int = DEPTH) -> int | None:
        """Least value of `one - other` as far as guards, clamps and definitions tell; None where they do not."""
        gap = self.gaps.get((self.text(one), self.text(other)))
        if self.text(one) == self.text(other):
            return max(0, gap or 0)
        if gap is not None or depth == 0:
            return gap
        for smaller in self._below(one, look):
            found = self.at_least(smaller, other, look, depth - 1)
            if found is not None and found >= 0:
                return found
        for greater in self._above(other, look):
            found = self.at_least(one, greater, look, depth - 1)
            if found is not None and found >= 0:
                return found
        return None

    def _below(self, node: ast.expr, look: Look) -> list[ast.expr]:
        """Expressions that are never greater than a whole-number one."""
        if isinstance(node, ast.Name):
            return [self.meanings[node.id]] if node.id in self.meanings else []
        if is_call(node, "max"):
            return list(node.args)  # type: ignore[attr-defined]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
            least = 0 if isinstance(node.op, ast.Add) else 1
            pairs = ((node.left, node.right), (node.right, node.left))
            return [a for a, b in pairs if look(b).low >= least and (least == 0 or look(a).low >= 0)]
        return []

    def _above(self, node: ast.expr, look: Look) -> list[ast.expr]:
        """Expressions that are never smaller than a whole-number one."""
        if isinstance(node, ast.Name):
            return [self.meanings[node.id]] if node.id in self.meanings else []
        if is_call(node, "min"):
            return list(node.args)  # type: ignore[attr-defined]
        if not isinstance(node, ast.BinOp):
            return []
        if isinstance(node.op, ast.Sub):
            return [node.left] if look(node.right).low >= 0 else []
        if isinstance(node.op, ast.FloorDiv | ast.Mod):
            return [node.left] if look(node.left).low >= 0 and look(node.right).low >= 1 else []
        divided = self.quotient(node, look)
        return [divided[0]] if divided else []

    def quotient(self, node: ast.expr, look: Look) -> tuple[ast.expr, ast.expr] | None:
        """(a, d) of `a // d * d` with d above 0, which lies at most d - 1 below a."""
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
            return None
        for part, divisor in ((node.left, node.right), (node.right, node.left)):
            meant = self.meanings.get(part.id, part) if isinstance(part, ast.Name) else part
            if (
                isinstance(meant, ast.BinOp) and isinstance(meant.op, ast.FloorDiv)
                and look(divisor).low > 0 and look(divisor).whole and look(meant.left).whole
                and self.text(meant.right) == self.text(divisor)
            ):  # fmt: skip
                return meant.left, divisor
        return None


def is_call(node: ast.expr, name: str) -> bool:
    """True if an expression is a call of min or max with several arguments."""
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name and len(node.args) > 1
    )


def merged(states: Sequence[Flow]) -> Flow:
    """Join of the states of several paths; dead paths are ignored unless all are dead."""
    living = [s for s in states if s.alive] or list(states[:1])
    first = living[0].copy()
    for other in living[1:]:
        for name, found in other.types.items():
            both = join(first.types[name], found) if name in first.types else found
            # Names that C++ cannot declare are refused where they are assigned.
            first.types[name] = both if both is not None else found
        limits = {t: (first.limits[t], other.limits[t]) for t in first.limits.keys() & other.limits.keys()}
        first.limits = {t: (min(a[0], b[0]), max(a[1], b[1])) for t, (a, b) in limits.items()}
        first.gaps = {k: min(first.gaps[k], other.gaps[k]) for k in first.gaps.keys() & other.gaps.keys()}
        first.meanings = {n: v for n, v in first.meanings.items() if other.meanings.get(n) is v}
    return first


def widened(old: Flow, new: Flow) -> Flow:
    """`new` without the bounds that still move."""
    found = new.copy()
    found.types = {n: widen(old.types[n], t) if n in old.types else t for n, t in new.types.items()}
    return found
