"""Expressions as C++ text: how tightly operators bind, and what C++ lacks of Python's arithmetic."""

from __future__ import annotations

import ast
from dataclasses import dataclass

POSTFIX, UNARY, TIMES, PLUS, RELATION, EQUAL, AND, OR, CHOICE = 16, 15, 13, 12, 10, 9, 5, 4, 3

HELPERS = {
    "floor_div": """auto const floor_div = [](int64_t a, int64_t b) {
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
};""",
    "floor_mod": """auto const floor_mod = [](int64_t a, int64_t b) {
    return a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
};""",
    "float_mod": """auto const float_mod = [](double a, double b) {
    double const rest = std::fmod(a, b);
    return rest == 0 ? std::copysign(0.0, b) : (rest < 0) != (b < 0) ? rest + b : rest;
};""",
    "float_floor_div": """auto const float_floor_div = [](double a, double b) {
    double rest = std::fmod(a, b);
    double quotient = (a - rest) / b;
    if (rest != 0 && (rest < 0) != (b < 0)) { quotient -= 1; }
    if (quotient == 0) { return std::copysign(0.0, a / b); }
    double const whole = std::floor(quotient);
    return quotient - whole > 0.5 ? whole + 1 : whole;
};""",
    "isqrt": """auto const isqrt = [](int64_t n) {
    int64_t root = int64_t(std::sqrt(double(n)));
    while (root * root > n) { root--; }
    while ((root + 1) * (root + 1) <= n) { root++; }
    return root;
};""",
}  # fmt: skip
"""What C++ lacks of Python's arithmetic, as lambdas; each is emitted only where a program needs it."""

OPERATORS: dict[type[ast.AST], tuple[str, int]] = {
    ast.Add: ("+", PLUS), ast.Sub: ("-", PLUS), ast.Mult: ("*", TIMES), ast.Div: ("/", TIMES),
    ast.FloorDiv: ("/", TIMES), ast.Mod: ("%", TIMES), ast.Lt: ("<", RELATION), ast.LtE: ("<=", RELATION),
    ast.Gt: (">", RELATION), ast.GtE: (">=", RELATION), ast.Eq: ("==", EQUAL), ast.NotEq: ("!=", EQUAL),
}  # fmt: skip


TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Eq: ast.Eq, ast.NotEq: ast.NotEq,
}  # fmt: skip
"""Comparisons with their sides exchanged."""


@dataclass(frozen=True, slots=True)
class Text:
    """An expression as written: its text, how tightly it binds, and its type in C++."""

    text: str
    binds: int
    kind: str

    def at(self, level: int) -> str:
        """The text, in parentheses where it binds less tightly than its place asks for."""
        return self.text if self.binds >= level else f"({self.text})"


def called(node: ast.Call) -> str:
    """Name of the function that is called."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    assert isinstance(node.func, ast.Name)
    return node.func.id
