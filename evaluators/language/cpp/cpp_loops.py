"""Loops of the heuristic language in C++17: heads of `for`, and lists that are made in one expression."""

from __future__ import annotations

import ast

from evaluators.language.cpp.cpp_text import AND, PLUS, POSTFIX, RELATION, Text
from evaluators.language.cpp.emit_expressions import Expressions
from evaluators.language.cpp.types import cpp_type


class LoopExpressions(Expressions):
    """Expressions with comprehensions."""

    def loop_head(self, target: ast.expr, iterable: ast.expr) -> str:
        """`for (...)` of a loop whose names live in it alone."""
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
