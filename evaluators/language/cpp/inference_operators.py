"""Types of operators: arithmetic with what is known of both operands together, comparisons, signs."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from itertools import pairwise

from evaluators.language.cpp.infer_expressions import ExpressionTypes, refuse
from evaluators.language.cpp.intervals import combined, integers_fit, remainder, squared
from evaluators.language.cpp.types import BOOL, EXACT_IN_DOUBLE, INT64_MAX, UNKNOWN, Kind, Type, whole


class OperatorTypes(ExpressionTypes):
    """Types of expressions, with the operators."""

    def arithmetic(self, node: ast.BinOp, left: Type, right: Type) -> Type:
        """Type of left op right."""
        op = node.op
        if UNKNOWN in (left, right):
            return UNKNOWN
        if Kind.LIST in (left.kind, right.kind):
            count = right if left.kind is Kind.LIST else left
            if isinstance(op, ast.Mult) and count.whole and node not in self.updated:
                return left if left.kind is Kind.LIST else right
            raise refuse(node, "arithmetic on a list", "a loop")
        if not (left.number and right.number):
            raise refuse(node, f"arithmetic on {left.kind.value} and {right.kind.value}", "numbers only")
        if isinstance(op, ast.Div | ast.FloorDiv | ast.Mod) and right.may_be_zero and self._recording:
            self.divisors.append(node.right)
        low, high = self._bounds(node, left, right)
        if left.whole and right.whole and not isinstance(op, ast.Div):
            if low < -INT64_MAX or high > INT64_MAX:
                self._overflow(node, "may pass 64 bits", low=-INT64_MAX, high=INT64_MAX)
                low, high = (end if abs(end) <= INT64_MAX else math.copysign(math.inf, end) for end in (low, high))
            return whole(low, high)
        for part, written in ((left, node.left), (right, node.right)):
            if part.whole and not part.exact and not part.within(EXACT_IN_DOUBLE):
                self._overflow(written, "meets a float and may pass 2**53, where doubles leave integers out",
                               low=-EXACT_IN_DOUBLE, high=EXACT_IN_DOUBLE)  # fmt: skip
        parts = [(p.low, p.high) if p.whole else p.integers for p in (left, right)]
        if isinstance(op, ast.Div) or parts[0] is None or parts[1] is None:
            return Type(Kind.DOUBLE, low, high)
        found = Type(Kind.DOUBLE, low, high, integers=combined(op, parts[0], parts[1]))
        if self.checked and not integers_fit(found):
            self._overflow(node, "", low=-EXACT_IN_DOUBLE, high=EXACT_IN_DOUBLE)
        return self._joined(node, found, found)

    def _bounds(self, node: ast.BinOp, left: Type, right: Type) -> tuple[float, float]:
        """Range of a result, with what is known of the operands together."""
        low, high = combined(node.op, (left.low, left.high), (right.low, right.high))
        flow, one, other = self.flow, node.left, node.right
        if isinstance(node.op, ast.Mult) and flow.text(one) == flow.text(other):
            return squared((left.low, left.high))
        if isinstance(node.op, ast.Mod) and left.whole and right.whole and right.low > 0:
            return remainder(left, right)
        if isinstance(node.op, ast.FloorDiv) and left.whole and right.whole and right.may_be_zero:
            # A divisor is a whole number, and 0 is refused elsewhere.
            reach = max(abs(left.low), abs(left.high))
            return (0 if left.low >= 0 and right.low >= 0 else -reach), reach
        if isinstance(node.op, ast.Sub):
            least, most = flow.at_least(one, other, self.look), flow.at_least(other, one, self.look)
            low, high = max(low, -math.inf if least is None else least), min(high, math.inf if most is None else -most)
            rounded = flow.quotient(other, self.look)
            if rounded is not None and flow.text(rounded[0]) == flow.text(one):
                high = min(high, self.look(rounded[1]).high - 1)
        return low, high

    def _compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        parts = [self.type(side) for side in sides]
        pairs = pairwise(sides)
        for op, one, other, (left, right) in zip(node.ops, parts, parts[1:], pairs, strict=False):
            if isinstance(op, ast.Is | ast.IsNot):
                raise refuse(node, "`is` between numbers", "== or !=")
            if UNKNOWN in (one, other):
                continue
            if not (one.number and other.number):
                raise refuse(node, f"compares {one.kind.value} with {other.kind.value}", "compare numbers")
            for part, written in ((one, left), (other, right)):
                if one.whole != other.whole and part.whole and not part.exact and not part.within(EXACT_IN_DOUBLE):
                    self._overflow(written, "is compared with a float and may pass 2**53, where doubles leave integers "
                                   "out", low=-EXACT_IN_DOUBLE, high=EXACT_IN_DOUBLE)  # fmt: skip

    def _unary(self, node: ast.UnaryOp) -> Type:
        operand = self.type(node.operand)
        if isinstance(node.op, ast.Not):
            return BOOL
        if operand.kind is Kind.UNKNOWN:
            return UNKNOWN
        if not operand.number:
            raise refuse(node, f"a sign before {operand.kind.value}")
        kind = Kind.INT if operand.whole else operand.kind
        if isinstance(node.op, ast.UAdd):
            return replace(operand, kind=kind)
        inside = operand.integers and (-operand.integers[1], -operand.integers[0])
        return Type(kind, -operand.high, -operand.low, operand.exact, integers=inside)
