"""Expressions of the heuristic language in C++17: same value for every input, parentheses only where needed."""

from __future__ import annotations

import ast
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evaluators.language.cpp.infer_expressions import refuse
from evaluators.language.cpp.infer_statements import Inference
from evaluators.language.cpp.types import (
    EXACT_IN_DOUBLE,
    EXACT_IN_FLOAT,
    INT32_MAX,
    INT64_MAX,
    Kind,
    Type,
    constant,
    cpp_type,
    float_literal,
)

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
    "cta_queue": Path(__file__).with_name("queue.cpp").read_text(encoding="utf-8").rstrip(),
}  # fmt: skip
"""Python's arithmetic that C++ lacks, and the queue of CTAs, as lambdas; each only where a program needs it."""

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
    """Text of an expression with its precedence and its type in C++."""

    text: str
    binds: int
    kind: str

    def at(self, level: int) -> str:
        """The text, in parentheses if its precedence is lower than its place requires."""
        return self.text if self.binds >= level else f"({self.text})"


def called(node: ast.Call) -> str:
    """Name of the function that is called."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    assert isinstance(node.func, ast.Name)
    return node.func.id


CHECKED_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "checked__plus", ast.Sub: "checked__minus", ast.Mult: "checked__times",
}  # fmt: skip
"""Functions that compute them where the result may pass 64 bits (checks.cpp)."""


class Expressions(ABC):
    """Writes expressions; `needed` collects the helpers that they use."""

    def __init__(self, types: Inference, fields: Mapping[str, str], names: Callable[[str], str]) -> None:
        """Store the types, the target's names of the inputs, and the C++ names of local ones."""
        self._types, self._fields, self._name = types, fields, names
        self._divisors = frozenset(types.divisors)
        self.needed: set[str] = set()
        self.notes: set[str] = set()

    def type(self, node: ast.expr) -> Type:
        """Type of an expression."""
        return self._types.of[node]

    def write(self, node: ast.expr) -> Text:
        """An expression, with the run-time checks of its value."""
        found = self._written(node)
        if not self._types.checked:
            return found
        if node in self._types.bounds:
            name, low, high = _bounds(self.type(node), *self._types.bounds[node])
            found = Text(f"{name}({found.text}, {low}, {high}{self.flag(node)})", POSTFIX, found.kind)
        if node in self._divisors:
            found = Text(f"checked__nonzero({found.text}{self.flag(node)})", POSTFIX, found.kind)
        return found

    def flag(self, node: ast.expr) -> str:
        """The last argument of a check of the expression that an example is looked for."""
        return ", true" if node is self._types.watched else ""

    def _written(self, node: ast.expr) -> Text:
        if isinstance(node, ast.Constant):
            return self._constant(node.value)
        if isinstance(node, ast.Name):
            if node.id in ("inf", "pi") and self._name(node.id) == node.id:
                return self._constant(getattr(math, node.id))
            return Text(self._name(node.id), POSTFIX, cpp_type(self._types.declared(node)))
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "math":
                return self._constant(getattr(math, node.attr))
            is_gpu = node.attr in ("num_sms", "l2_bytes", "max_sm_margin")
            name = self._fields[f"gpu.{node.attr}" if is_gpu else node.attr]
            return Text(name, POSTFIX if name.isidentifier() else TIMES, cpp_type(self._types.declared(node)))
        if isinstance(node, ast.BinOp):
            return self._binary(node)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node)
        if isinstance(node, ast.BoolOp):
            return self._boolean(node)
        if isinstance(node, ast.Compare):
            return self._compare(node)
        if isinstance(node, ast.IfExp):
            kind = cpp_type(self.type(node))
            body, orelse = (self.as_type(n, kind) for n in (node.body, node.orelse))
            if kind == "double" and "double" not in (body.kind, orelse.kind):
                body = self.cast(body, kind)
            text = f"{self.condition(node.test).at(CHOICE + 1)} ? {body.at(CHOICE)} : {orelse.at(CHOICE)}"
            return Text(text, CHOICE, kind)
        if isinstance(node, ast.Subscript):
            return self._subscript(node)
        if isinstance(node, ast.Tuple | ast.List):
            made = self.type(node)
            items = made.items if made.kind is Kind.TUPLE else made.items * len(node.elts)
            parts = (self.in_braces(e, cpp_type(t)).text for e, t in zip(node.elts, items, strict=True))
            return Text(f"{cpp_type(made)}{{{', '.join(parts)}}}", POSTFIX, cpp_type(made))
        if isinstance(node, ast.ListComp | ast.GeneratorExp):
            return self._comprehension(node)
        assert isinstance(node, ast.Call)
        return self._call(node)

    def condition(self, node: ast.expr) -> Text:
        """An expression in a place where only its truth matters."""
        if isinstance(node, ast.BoolOp):
            sign, level = ("&&", AND) if isinstance(node.op, ast.And) else ("||", OR)
            # Compilers ask for parentheses around && inside ||.
            inner = AND + 1 if sign == "||" else AND
            parts = [self.condition(v).at(inner) for v in node.values]
            return Text(f" {sign} ".join(parts), level, "bool")
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return Text(f"!{self.condition(node.operand).at(UNARY)}", UNARY, "bool")
        if self.type(node).kind is Kind.LIST:
            return Text(f"!{self.write(node).at(POSTFIX)}.empty()", UNARY, "bool")
        if not self.type(node).number:
            raise refuse(node, f"the truth of {self.type(node).kind.value}", "a comparison")
        return self.write(node)

    def as_type(self, node: ast.expr, wanted: str) -> Text:
        """An expression whose C++ type is `wanted`, which holds all its values."""
        if wanted == "float" and isinstance(node, ast.Constant) and isinstance(node.value, float):
            return self._single(node.value) or Text(f"float({node.value!r})", POSTFIX, "float")
        if isinstance(node, ast.List) and wanted.startswith("std::vector<"):
            item = wanted.removeprefix("std::vector<").removesuffix(">")
            return Text(f"{wanted}{{{', '.join(self.in_braces(e, item).text for e in node.elts)}}}", POSTFIX, wanted)
        found = self.write(node)
        if found.kind != wanted and wanted.startswith("std::vector<"):
            self.must_fit(node, self.type(node).items[0], wanted.removeprefix("std::vector<").removesuffix(">"))
            text = f"[&] {{ auto const items = {found.text}; return {wanted}(items.begin(), items.end()); }}()"
            return Text(text, POSTFIX, wanted)
        if wanted == "double" and found.kind == "int64_t" and self._types.checked:
            text = f"checked__whole_within({found.text}, -{EXACT_IN_DOUBLE}LL, {EXACT_IN_DOUBLE}LL)"
            return Text(f"double({text})", POSTFIX, wanted)
        if found.kind == wanted or wanted in ("int64_t", "double") or found.kind in ("bool", "int"):
            return found
        return Text(f"{wanted}({found.text})", POSTFIX, wanted)

    def must_fit(self, node: ast.AST, found: Type, wanted: str) -> None:
        """Refuse integers that become doubles unseen and may pass 2**53."""
        if self._types.checked and wanted == "double" and found.whole and not found.within(EXACT_IN_DOUBLE):
            raise refuse(node, "what may be a float may also be an integer that may pass 2**53", "float(...)")

    def in_braces(self, node: ast.expr, wanted: str) -> Text:
        """As `as_type`, for braces, which do not convert an int to a double."""
        found = self.as_type(node, wanted)
        return self.cast(found, wanted) if wanted == "double" and found.kind != "float" else found

    def cast(self, found: Text, wanted: str) -> Text:
        """`found` converted, written even where C++ would convert by itself."""
        return found if found.kind == wanted else Text(f"{wanted}({found.text})", POSTFIX, wanted)

    def _constant(self, value: object) -> Text:
        if isinstance(value, bool):
            return Text("true" if value else "false", POSTFIX, "bool")
        if isinstance(value, int):
            return Text(str(value), POSTFIX if value >= 0 else UNARY, cpp_type(constant(value)))
        assert isinstance(value, float)
        if math.isinf(value):
            return Text("HUGE_VAL" if value > 0 else "-HUGE_VAL", UNARY, "double")
        text = repr(value)
        return Text(text if "." in text or "e" in text else f"{text}.0", POSTFIX, "double")

    def _single(self, value: float) -> Text | None:
        text = float_literal(value)
        return None if text is None else Text(text, POSTFIX, "float")

    def _binary(self, node: ast.BinOp) -> Text:
        left, right, result = self.type(node.left), self.type(node.right), self.type(node)
        if result.kind is Kind.LIST:
            return self._repeated(node)
        sign, level = OPERATORS[type(node.op)]
        one, other = self.write(node.left), self.write(node.right)
        if self._types.checked and left.whole and right.whole and not result.within(INT64_MAX):
            name = CHECKED_OPERATORS.get(type(node.op))
            if name is not None:
                return Text(f"{name}({one.text}, {other.text}{self.flag(node)})", POSTFIX, "int64_t")
        if left.whole and right.whole and not isinstance(node.op, ast.Div):
            return self._whole(node, one, other, sign, level)
        if isinstance(node.op, ast.FloorDiv | ast.Mod):
            name = "float_floor_div" if isinstance(node.op, ast.FloorDiv) else "float_mod"
            self.needed.add(name)
            return Text(f"{name}({one.text}, {other.text})", POSTFIX, "double")
        one, other = self._floating(node.left, one), self._floating(node.right, other)
        if "double" not in (one.kind, other.kind):
            one = self.cast(one, "double")
        return Text(f"{one.at(level)} {sign} {other.at(level + 1)}", level, "double")

    def _floating(self, node: ast.expr, written: Text) -> Text:
        """A ceiling as the float that it is before it becomes an int, where a float is wanted anyway."""
        if self._types.checked:
            return written
        if isinstance(node, ast.Call) and called(node) in ("ceil", "floor") and not self.type(node.args[0]).whole:
            value = self.write(node.args[0])
            return Text(f"std::{called(node)}({value.text})", POSTFIX, value.kind)
        return written

    def _whole(self, node: ast.BinOp, one: Text, other: Text, sign: str, level: int) -> Text:
        left, right, result = self.type(node.left), self.type(node.right), self.type(node)
        if isinstance(node.op, ast.FloorDiv | ast.Mod) and not (left.low >= 0 and right.low > 0):
            name = "floor_div" if isinstance(node.op, ast.FloorDiv) else "floor_mod"
            self.needed.add(name)
            return self.cast(Text(f"{name}({one.text}, {other.text})", POSTFIX, "int64_t"), cpp_type(result))
        wide = not result.within(INT32_MAX) or "int64_t" in (one.kind, other.kind)
        if not result.within(INT32_MAX) and "int64_t" not in (one.kind, other.kind):
            one = Text(f"int64_t({one.text})", POSTFIX, "int64_t")
        return Text(f"{one.at(level)} {sign} {other.at(level + 1)}", level, "int64_t" if wide else "int")

    def _repeated(self, node: ast.BinOp) -> Text:
        listed, count = node.left, node.right
        if self.type(listed).kind is not Kind.LIST:
            listed, count = count, listed
        if not isinstance(listed, ast.List) or len(listed.elts) != 1:
            raise refuse(node, "a list of several items, repeated", "[0] * n, or a loop")
        kind = cpp_type(self.type(node))
        item = self.as_type(listed.elts[0], cpp_type(self.type(node).items[0]))
        bound = self.write(count).text
        if self.type(count).low < 0:
            bound = f"std::max<int64_t>({bound}, 0)"
        return Text(f"{kind}({bound}, {item.text})", POSTFIX, kind)

    def _unary(self, node: ast.UnaryOp) -> Text:
        if isinstance(node.op, ast.Not):
            return self.condition(node)
        operand = self.write(node.operand)
        if isinstance(node.op, ast.UAdd):
            return operand if operand.kind != "bool" else Text(f"int({operand.text})", POSTFIX, "int")
        inner = operand.at(UNARY)
        kind = cpp_type(self.type(node)) if operand.kind == "bool" else operand.kind
        return Text(f"-({inner})" if inner.startswith("-") else f"-{inner}", UNARY, kind)

    def _boolean(self, node: ast.BoolOp) -> Text:
        if all(self.type(v).kind is Kind.BOOL for v in node.values):
            return self.condition(node)
        # Python's `a or b` is one of its operands.
        kind = cpp_type(self.type(node))
        found = self.as_type(node.values[-1], kind)
        for value in reversed(node.values[:-1]):
            test, own = self.condition(value).at(CHOICE + 1), self.as_type(value, kind).at(CHOICE)
            if kind == "double":
                own, found = self.in_braces(value, kind).at(CHOICE), self.cast(found, kind)
            yes, no = (own, found.at(CHOICE)) if isinstance(node.op, ast.Or) else (found.at(CHOICE), own)
            found = Text(f"{test} ? {yes} : {no}", CHOICE, kind)
        return found

    def _compare(self, node: ast.Compare) -> Text:
        sides = [node.left, *node.comparators]
        parts = []
        for op, left, right in zip(node.ops, sides, sides[1:], strict=False):
            if len(sides) > 2 and isinstance(left, ast.Constant) and not isinstance(right, ast.Constant):
                # `2 < n <= 9` is `n > 2 && n <= 9` where C++ cannot chain.
                op, left, right = TURNED[type(op)](), right, left
            sign, level = OPERATORS[type(op)]
            one, other = self.write(left), self.write(right)
            kinds = {one.kind, other.kind}
            if "float" in kinds and kinds & {"int", "int64_t"}:
                # Rounding an integer to a float cannot carry it across a smaller float.
                exact = any(self.type(s).within(EXACT_IN_FLOAT - 1) for s in (left, right))
                if not exact:
                    # C++ would round the integer to a float first.
                    one, other = (self.cast(t, "double") if t.kind == "float" else t for t in (one, other))
            parts.append(Text(f"{one.at(level)} {sign} {other.at(level + 1)}", level, "bool"))
        if len(parts) == 1:
            return parts[0]
        return Text(" && ".join(p.at(AND + 1) for p in parts), AND, "bool")

    def _subscript(self, node: ast.Subscript) -> Text:
        holder = self._types.declared(node.value)
        written = self.write(node.value).at(POSTFIX)
        if holder.kind is Kind.TUPLE:
            assert isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, int)
            place = node.slice.value % len(holder.items)
            kind = cpp_type(holder.items[place])
            return Text(f"std::get<{place}>({written})", POSTFIX, kind)
        kind = cpp_type(holder.items[0])
        index = self.type(node.slice)
        place_text = self.write(node.slice)
        if index.low >= 0:
            # Two brackets in a row would begin an attribute.
            inside = f"({place_text.text})" if place_text.text.startswith("[") else place_text.text
            return Text(self._item(written, inside), POSTFIX, kind)
        if index.high < 0:
            return Text(self._item(written, f"{written}.size() + {place_text.at(PLUS + 1)}"), POSTFIX, kind)
        if place_text.text.startswith("["):
            place_text = Text(f"({place_text.text})", POSTFIX, place_text.kind)
        back = f"{place_text.at(RELATION + 1)} < 0 ? {written}.size() + {place_text.at(PLUS + 1)} : {place_text.text}"
        return Text(self._item(written, back), POSTFIX, kind)

    def _item(self, listed: str, index: str) -> str:
        return f"{listed}.at({index})" if self._types.checked else f"{listed}[{index}]"

    @abstractmethod
    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> Text:
        """A list comprehension; `emit_calls` writes its loops."""

    @abstractmethod
    def _call(self, node: ast.Call) -> Text:
        """A call; `emit_calls` writes it."""


def _bounds(kind: Type, low: float, high: float) -> tuple[str, str, str]:
    """Function of a check (checked.cpp), and its bounds in C++."""
    if kind.whole:
        ends = ("INT64_MIN" if math.isinf(low) else f"{math.ceil(low)}LL", "INT64_MAX" if math.isinf(high) else
                f"{math.floor(high)}LL")  # fmt: skip
        return "checked__whole_within", *ends
    ends = ("-HUGE_VAL" if math.isinf(low) else repr(float(low)), "HUGE_VAL" if math.isinf(high) else
            repr(float(high)))  # fmt: skip
    return "checked__within", *ends
