"""Calls and loops of the heuristic language in C++17: builtins, math, the program's helpers, comprehensions."""

from __future__ import annotations

import ast

from evaluators.language.cpp.emit_expressions import (
    AND,
    EQUAL,
    OPERATORS,
    PLUS,
    POSTFIX,
    RELATION,
    TIMES,
    UNARY,
    Expressions,
    Text,
    called,
)
from evaluators.language.cpp.infer_expressions import refuse
from evaluators.language.cpp.types import EXACT_IN_DOUBLE, INT32_MAX, INT64_MAX, Kind, cpp_type


class CallExpressions(Expressions):
    """Expressions with the functions that programs may call, and lists that are made in one expression."""

    def _call(self, node: ast.Call) -> Text:
        name = called(node)
        kind = cpp_type(self.type(node)) if self.type(node).kind is not Kind.RANGE else ""
        if name in self._types.form.helpers:
            kept = [a for a in node.args if self.type(a).kind is not Kind.VIEW]
            wanted = [t for t in self._types.parameters[name] if t.kind is not Kind.VIEW]
            parts = (self.as_type(a, cpp_type(t)).text for a, t in zip(kept, wanted, strict=True))
            result = cpp_type(self._types.results[name])
            return Text(f"{self._name(name)}({', '.join(parts)})", POSTFIX, result)
        write = getattr(self, f"_{name}", None)
        if write is not None:
            found: Text = write(node, kind)
            return found
        # exp, exp2, log, log2, sqrt
        if name != "sqrt":
            self.notes.add(f"{name} is the C library's on both sides: another library may round its last bit otherwise")
        value = (
            self.cast(self.write(node.args[0]), "double")
            if self.type(node.args[0]).kind is not Kind.DOUBLE
            else (self.write(node.args[0]))
        )
        return Text(f"std::{name}({value.text})", POSTFIX, "double")

    def _ceil(self, node: ast.Call, kind: str) -> Text:
        value = self.write(node.args[0])
        if self.type(node.args[0]).whole:
            return value
        name = called(node)
        shared = self._whole_share(node.args[0], up=name == "ceil")
        if shared is not None:
            return shared
        return self._to_whole(f"std::{name}({value.text})", kind, node)

    def _to_whole(self, text: str, kind: str, node: ast.Call) -> Text:
        """Integral value as an integer."""
        if self._types.checked:
            found = Text(f"checked__whole({text}{self.flag(node.args[0])})", POSTFIX, "int64_t")
            return self.cast(found, kind)
        return Text(f"{kind}({text})", POSTFIX, kind)

    def _whole_share(self, node: ast.expr, *, up: bool) -> Text | None:
        """ceil(a / b) and floor(a / b) of integers below 2**53 in the usual C++ form.

        The quotient lies at least 1 / b from the next integer, and a double below 2**53 / b is finer than that.
        """
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
            return None
        left, right = self.type(node.left), self.type(node.right)
        exact = left.whole and right.whole and left.within(EXACT_IN_DOUBLE - 1) and right.within(EXACT_IN_DOUBLE - 1)
        simple = isinstance(node.right, ast.Constant | ast.Name | ast.Attribute)
        if not exact or not simple or left.low < 0 or right.low < 1:
            return None
        one, other = self.write(node.left), self.write(node.right)
        if not up:
            wide = "int64_t" in (one.kind, other.kind)
            return Text(f"{one.at(TIMES)} / {other.at(TIMES + 1)}", TIMES, "int64_t" if wide else "int")
        if not left.high + right.high <= INT32_MAX and one.kind != "int64_t":
            one = Text(f"int64_t({one.text})", POSTFIX, "int64_t")
        wide = "int64_t" in (one.kind, other.kind)
        more = f"+ {int(right.low) - 1}" if right.low == right.high else f"+ {other.at(TIMES)} - 1"
        above = one.at(PLUS) if more == "+ 0" else f"({one.at(PLUS)} {more})"
        return Text(f"{above} / {other.at(TIMES + 1)}", TIMES, "int64_t" if wide else "int")

    _floor = _ceil

    def _isqrt(self, node: ast.Call, kind: str) -> Text:
        self.needed.add("isqrt")
        return self.cast(Text(f"isqrt({self.write(node.args[0]).text})", POSTFIX, "int64_t"), kind)

    def _abs(self, node: ast.Call, kind: str) -> Text:
        value = self.write(node.args[0])
        value = Text(f"int({value.text})", POSTFIX, "int") if value.kind == "bool" else value
        return Text(f"std::abs({value.text})", POSTFIX, value.kind)

    def _bool(self, node: ast.Call, kind: str) -> Text:
        return self._bool_of(node.args[0])

    def _bool_of(self, node: ast.expr) -> Text:
        found = self.condition(node)
        return found if found.kind == "bool" else Text(f"{found.at(EQUAL + 1)} != 0", EQUAL, "bool")

    def _float(self, node: ast.Call, kind: str) -> Text:
        return self.cast(self.write(node.args[0]), kind)

    def _int(self, node: ast.Call, kind: str) -> Text:
        value = self.write(node.args[0])
        if not self.type(node.args[0]).whole:
            return self._to_whole(value.text, kind, node)
        return value if value.kind == kind else Text(f"{kind}({value.text})", POSTFIX, kind)

    def _round(self, node: ast.Call, kind: str) -> Text:
        value = self.write(node.args[0])
        if self.type(node.args[0]).whole:
            return self.cast(value, kind) if value.kind == "bool" else value
        # nearbyint rounds halves to even, as Python does.
        return self._to_whole(f"std::nearbyint({value.text})", kind, node)

    def _float32(self, node: ast.Call, kind: str) -> Text:
        found = self._single_of(node)
        if self._types.checked and not isinstance(node.args[0], ast.Constant):
            return Text(f"checked__single({found.text}{self.flag(node.args[0])})", POSTFIX, "float")
        return found

    def _single_of(self, node: ast.Call) -> Text:
        argument = node.args[0]
        given = self.type(argument)
        if isinstance(argument, ast.Constant) and isinstance(argument.value, float):
            return self._single(argument.value) or Text(f"float({argument.value!r})", POSTFIX, "float")
        if isinstance(argument, ast.BinOp) and isinstance(argument.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
            found = self._single_operation(argument)
            if found is not None:
                return found
        value = self.write(argument)
        if given.whole and not given.within(EXACT_IN_DOUBLE):
            # Python goes through a double.
            return Text(f"float(double({value.text}))", POSTFIX, "float")
        return self.cast(value, "float")

    def _single_operation(self, node: ast.BinOp) -> Text | None:
        """float32(a op b) as one float operation.

        Where a and b are exact in single precision, rounding the double result once more gives the same float:
        a double has more than twice the digits of a float, plus two.
        """
        left, right = self.type(node.left), self.type(node.right)
        if not (left.float_exact and right.float_exact) or (
            left.whole and right.whole and not isinstance(node.op, ast.Div)
        ):
            return None
        one, other = (
            self.as_type(n, "float") if t.kind is Kind.DOUBLE else self._floating(n, self.write(n))
            for n, t in ((node.left, left), (node.right, right))
        )
        if "double" in (one.kind, other.kind):
            return None
        if "float" not in (one.kind, other.kind):
            one = self.cast(one, "float")
        sign, level = OPERATORS[type(node.op)]
        return Text(f"{one.at(level)} {sign} {other.at(level + 1)}", level, "float")

    def _min(self, node: ast.Call, kind: str) -> Text:
        assert isinstance(node.func, ast.Name)
        name = node.func.id
        if len(node.args) == 1:
            written = self.write(node.args[0])
            listed, kind = written.text, written.kind.removeprefix("std::vector<").removesuffix(">")
            if self._types.checked:
                found = f"*std::{name}_element(items.begin(), items.end())"
                text = f"[&] {{ auto const& items = {listed}; checked__filled(items); return {kind}({found}); }}()"
                return Text(text, POSTFIX, kind)
            if not isinstance(node.args[0], ast.Name):
                found = f"*std::{name}_element(items.begin(), items.end())"
                return Text(f"[&] {{ auto const items = {listed}; return {found}; }}()", POSTFIX, kind)
            return Text(f"*std::{name}_element({listed}.begin(), {listed}.end())", UNARY, kind)
        # The smaller of 32 and a large integer is small, yet both are compared as they are.
        given = [self.write(a).kind for a in node.args]
        kind = "int64_t" if kind == "int" and "int64_t" in given else kind
        parts = [self.in_braces(a, kind) for a in node.args]
        template = "" if all(p.kind == kind for p in parts) else f"<{kind}>"
        inner = ", ".join(p.text for p in parts)
        return Text(f"std::{name}{template}({inner})" if len(parts) == 2 else f"std::{name}{template}({{{inner}}})",
                    POSTFIX, kind)  # fmt: skip

    _max = _min

    def _len(self, node: ast.Call, kind: str) -> Text:
        return Text(f"int({self._listed(node.args[0]).at(POSTFIX)}.size())", POSTFIX, "int")

    def _sum(self, node: ast.Call, kind: str) -> Text:
        listed = self._listed(node.args[0]).text
        more = "total += item"
        if self._types.checked and not self.type(node).within(INT64_MAX):
            more = f"total = checked__plus(total, item{self.flag(node)})"
        loop = f"for (auto const item : {listed}) {{ {more}; }}"
        return Text(f"[&] {{ {kind} total = 0; {loop} return total; }}()", POSTFIX, kind)

    def _sorted(self, node: ast.Call, kind: str) -> Text:
        written = self._listed(node.args[0])
        listed, kind = written.text, written.kind
        return Text(f"[&] {{ auto items = {listed}; std::sort(items.begin(), items.end()); return items; }}()", POSTFIX,
                    kind)  # fmt: skip

    def _cta_queue(self, node: ast.Call, kind: str) -> Text:
        self.needed.add("cta_queue")
        lengths, *numbers, longest_first = node.args
        parts = [self._listed(lengths).text, *(self.as_type(n, "int64_t").text for n in numbers)]
        return Text(f"cta_queue({', '.join([*parts, self._bool_of(longest_first).text])})", POSTFIX, kind)

    def _range(self, node: ast.Call, kind: str) -> Text:
        raise refuse(node, "range outside a loop", "[i for i in range(...)]")

    def _listed(self, node: ast.expr) -> Text:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
            raise refuse(node, "range outside a loop", "a loop, or [i for i in range(...)]")
        return self.write(node)

    def loop_head(self, target: ast.expr, iterable: ast.expr) -> str:
        """Head `for (...)` of a loop whose names live only inside."""
        if isinstance(iterable, ast.Call) and isinstance(iterable.func, ast.Name) and iterable.func.id == "range":
            assert isinstance(target, ast.Name)
            kind = cpp_type(self._types.declared(target))
            name = self._name(target.id)
            first, last, step = self.range_parts(iterable)
            moved = f"{name}++" if step == 1 else f"{name}--" if step == -1 else f"{name} += {step}"
            sign = "<" if step > 0 else ">"
            if step > 0 and last.text.endswith(" + 1") and last.binds == PLUS:
                # range(1, n + 1) is written `<= n` in C++.
                return f"for ({kind} {name} = {first.text}; {name} <= {last.text[:-4]}; {moved})"
            return f"for ({kind} {name} = {first.text}; {name} {sign} {last.at(RELATION + 1)}; {moved})"
        items = self.write(iterable)
        if isinstance(target, ast.Name):
            self.must_fit(target, self.type(iterable).items[0], cpp_type(self._types.declared(target)))
        if isinstance(target, ast.Tuple):
            names = ", ".join(self._name(n.id) for n in target.elts if isinstance(n, ast.Name))
            return f"for (auto const& [{names}] : {items.text})"
        assert isinstance(target, ast.Name)
        return f"for ({cpp_type(self._types.declared(target))} {self._name(target.id)} : {items.text})"

    def range_parts(self, node: ast.Call) -> tuple[Text, Text, int]:
        """First, last (exclusive) and step of range(...)."""
        given = [self.write(a) for a in node.args]
        step = int(self.type(node.args[2]).low) if len(given) == 3 else 1
        if len(given) == 1:
            return Text("0", POSTFIX, "int"), given[0], step
        return given[0], given[1], step

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> Text:
        kind = self.type(node)
        item = cpp_type(kind.items[0])
        text = f"values.push_back({self.as_type(node.elt, item).text});"
        for generator in reversed(node.generators):
            tests = [self.condition(t).at(AND + 1) for t in generator.ifs]
            if tests:
                text = f"if ({' && '.join(tests)}) {{ {text} }}"
            text = f"{self.loop_head(generator.target, generator.iter)} {{ {text} }}"
        return Text(f"[&] {{ {cpp_type(kind)} values; {text} return values; }}()", POSTFIX, cpp_type(kind))
