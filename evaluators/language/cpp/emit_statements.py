"""Statements of the heuristic language in C++17: declarations where names begin, comments kept, upstream's style."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from evaluators.language.cpp.emit_calls import CallExpressions
from evaluators.language.cpp.emit_expressions import HELPERS, OPERATORS
from evaluators.language.cpp.infer_expressions import refuse
from evaluators.language.cpp.infer_statements import Inference
from evaluators.language.cpp.normalise import Form, changed_lists, stored_names
from evaluators.language.cpp.types import INT32_MAX, INT64_MAX, Kind, cpp_type

INDENT = "    "
LINE_LENGTH = 120
RESERVED = frozenset((
    "alignas", "alignof", "and", "asm", "auto", "bool", "break", "case", "catch", "char", "class", "const",
    "constexpr", "continue", "decltype", "default", "delete", "do", "double", "else", "enum", "explicit", "export",
    "extern", "false", "float", "for", "friend", "goto", "if", "inline", "int", "long", "mutable", "namespace", "new",
    "noexcept", "not", "nullptr", "operator", "or", "private", "protected", "public", "register", "return", "short",
    "signed", "sizeof", "static", "struct", "switch", "template", "this", "throw", "true", "try", "typedef", "typeid",
    "typename", "union", "unsigned", "using", "virtual", "void", "volatile", "wchar_t", "while", "xor", "std", "ceil",
    "floor", "sqrt", "exp", "log", "abs", "min", "max", "values", "items", "total", "item",
)) | HELPERS.keys()  # fmt: skip
"""Words of C++ and of the text around a translated name, which it must not take."""


class Statements:
    """Writes the statements of one form, function by function."""

    def __init__(
        self, form: Form, types: Inference, fields: Mapping[str, str],
        expressions: type[CallExpressions] = CallExpressions,
    ) -> None:  # fmt: skip
        self.form, self.types, self.fields = form, types, fields
        self.function = ""
        self.spelled: dict[str, dict[str, str]] = {"": {}}
        self.merged: set[str] = set()
        self.expressions = expressions(types, fields, self.name)
        self.comments = {line: list(texts) for line, texts in form.comments.items()}
        self.declared: list[set[str]] = []
        self.pending: dict[int, list[str]] = {}
        self.assigned_once: set[str] = set()

    def name(self, name: str) -> str:
        """A local name as C++ spells it."""
        if name in self.form.helpers or name in self.form.constants:
            return self._free(name)
        known = self.spelled.setdefault(self.function, {})
        if name not in known:
            known[name] = self._free(name)
        return known[name]

    def _free(self, name: str) -> str:
        taken = set(self.fields.values()) - self.merged
        return f"{name}_value" if name in RESERVED or name in taken else name

    def _function(self, body: Sequence[ast.stmt], parameters: list[str]) -> list[str]:
        outer = self.assigned_once
        counts: dict[str, int] = {}
        for node in (n for s in body for n in ast.walk(s)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                counts[node.id] = counts.get(node.id, 0) + 1
        changed = changed_lists(body)
        self.assigned_once = {n for n, c in counts.items() if c == 1} - changed - set(parameters)
        merged = self.merged if not self.function else set()
        self.declared.append({*parameters, *merged})
        place(body, {*parameters, *merged}, self.pending)
        found = self._block(body, 1)
        self.declared.pop()
        self.assigned_once = outer
        return found

    def _block(self, body: Sequence[ast.stmt], depth: int) -> list[str]:
        lines = []
        self.declared.append(set(self.declared[-1]))
        for node in body:
            lines.append("\n".join(self._statement(node, depth)))
        self.declared.pop()
        return [line for line in lines if line]

    def _statement(self, node: ast.stmt, depth: int) -> list[str]:
        pad = INDENT * depth
        lines = [f"{pad}// {text}" for text in self.comments.pop(node.lineno, [])]
        for name in self.pending.pop(id(node), []):
            kind = self.types.names[self.function][name]
            zero = "" if kind.kind in (Kind.LIST, Kind.TUPLE) else " = false" if kind.kind is Kind.BOOL else " = 0"
            lines.append(f"{pad}{cpp_type(kind)} {self.name(name)}{zero};")
            self.declared[-1].add(name)
        behind = "".join(f"  // {text}" for text in self.comments.pop(-node.lineno, []))
        written = self._written(node, depth)
        if behind and written:
            written[0] += behind
        return lines + written

    def _written(self, node: ast.stmt, depth: int) -> list[str]:
        pad = INDENT * depth
        if isinstance(node, ast.Return):
            assert node.value is not None
            result = cpp_type(self.types.results[self.function])
            wanted = result if self.function or self.types.checked else "int"
            return [f"{pad}return {self.expressions.as_type(node.value, wanted).text};"]
        if isinstance(node, ast.Assign):
            lines = [line for target in node.targets for line in self._assign(target, node.value)]
            parts = ((pad + line).partition(" = ") for line in lines)
            return [x for name, sign, value in parts for x in _wrapped(name + sign, value, "", pad)]
        if isinstance(node, ast.AugAssign):
            return [pad + self._augmented(node)]
        if isinstance(node, ast.If):
            return self._if(node, depth)
        if isinstance(node, ast.For):
            return self._for(node, depth)
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
            holder = node.value.func.value
            assert isinstance(holder, ast.Name)
            item = cpp_type(self.types.names[self.function][holder.id].items[0])
            return [
                f"{pad}{self.name(holder.id)}.push_back({self.expressions.as_type(node.value.args[0], item).text});"
            ]
        if isinstance(node, ast.Break):
            return [f"{pad}break;"]
        return [f"{pad}continue;"] if isinstance(node, ast.Continue) else []

    def _assign(self, target: ast.expr, value: ast.expr) -> list[str]:
        if isinstance(target, ast.Tuple):
            return self._unpack(target, value)
        if isinstance(target, ast.Subscript):
            item = cpp_type(self.types.declared_place(self.function, target))
            holder = self.expressions.write(target)
            return [f"{holder.text} = {self.expressions.as_type(value, item).text};"]
        assert isinstance(target, ast.Name)
        name, kind = self.name(target.id), self.types.names[self.function][target.id]
        wanted = cpp_type(kind)
        if target.id in self.declared[-1]:
            if isinstance(value, ast.List) and not value.elts:
                return [f"{name}.clear();"]
            return [f"{name} = {self.expressions.as_type(value, wanted).text};"]
        self.declared[-1].add(target.id)
        if isinstance(value, ast.List) and not value.elts:
            return [f"{wanted} {name};"]
        const = " const" if target.id in self.assigned_once else ""
        if isinstance(value, ast.BinOp) and kind.kind is Kind.LIST and isinstance(value.op, ast.Mult):
            made = self.expressions.write(value).text
            return [f"{wanted}{const} {name}{made.removeprefix(wanted)};"]
        return [f"{wanted}{const} {name} = {self.expressions.as_type(value, wanted).text};"]

    def _unpack(self, target: ast.Tuple, value: ast.expr) -> list[str]:
        names = [n for n in target.elts if isinstance(n, ast.Name)]
        if len(names) != len(target.elts):
            raise refuse(target, "nested unpacking", "one assignment each")
        if isinstance(value, ast.Tuple) and one_by_one(target, value):
            return [line for n, v in zip(names, value.elts, strict=True) for line in self._assign(n, v)]
        fresh = [n for n in names if n.id not in self.declared[-1]]
        lines = []
        for part in fresh:
            kind = self.types.names[self.function][part.id]
            lines.append(f"{cpp_type(kind)} {self.name(part.id)};")
            self.declared[-1].add(part.id)
        tied = ", ".join(self.name(n.id) for n in names)
        kinds = [cpp_type(self.types.names[self.function][n.id]) for n in names]
        if isinstance(value, ast.Tuple):
            parts = [self.expressions.as_type(v, k).text for v, k in zip(value.elts, kinds, strict=True)]
            return [*lines, f"std::tie({tied}) = std::tuple<{', '.join(kinds)}>({', '.join(parts)});"]
        for item, wanted in zip(self.types.of[value].items, kinds, strict=True):
            self.expressions.must_fit(target, item, wanted)
        return [*lines, f"std::tie({tied}) = {self.expressions.write(value).text};"]

    def _augmented(self, node: ast.AugAssign) -> str:
        joined = self.types.update(node)
        place = self.types.declared_place(self.function, node.target)
        left, right = self.types.of[joined.left], self.types.of[node.value]
        sign = OPERATORS[type(node.op)][0]
        written = self.expressions.write(joined.left)
        whole = left.whole and right.whole and not isinstance(node.op, ast.Div)
        plain = whole and not (isinstance(node.op, ast.FloorDiv | ast.Mod) and not (left.low >= 0 and right.low > 0))
        fits = self.types.of[joined].within(INT64_MAX if written.kind == "int64_t" else INT32_MAX)
        if plain and written.kind != "bool" and (fits or (not self.types.checked and written.kind == "int64_t")):
            return f"{written.text} {sign}= {self.expressions.write(node.value).text};"
        checked = joined in self.types.bounds
        if left.kind is Kind.DOUBLE and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div) and not checked:
            return f"{written.text} {sign}= {self.expressions.write(node.value).text};"
        return f"{written.text} = {self.expressions.as_type(joined, cpp_type(place)).text};"

    def _if(self, node: ast.If, depth: int, head: str = "if") -> list[str]:
        pad = INDENT * depth
        test = self.expressions.condition(node.test)
        lines = _wrapped(f"{pad}{head} (", test.text, ") {", pad)
        lines += self._block(node.body, depth + 1)
        if not node.orelse:
            one = lines[-1].strip()
            short = f"{lines[0]} {one} }}"
            if (
                len(lines) == 2
                and one.startswith("return ")
                and "\n" not in lines[1]
                and len(short) <= LINE_LENGTH - 20
            ):
                return [short]
            return [*lines, f"{pad}}}"]
        following = node.orelse[0]
        plain = isinstance(following, ast.If) and len(node.orelse) == 1 and id(following) not in self.pending
        if plain and following.lineno not in self.comments:
            assert isinstance(following, ast.If)
            return [*lines, *self._if(following, depth, "} else if")]
        return [*lines, f"{pad}}} else {{", *self._block(node.orelse, depth + 1), f"{pad}}}"]

    def _for(self, node: ast.For, depth: int) -> list[str]:
        pad = INDENT * depth
        own = names_in(node.target)
        carried = {n for n in own if n in self.declared[-1]}
        target: ast.expr = node.target
        lines = []
        names = {n: self.name(n) for n in carried}
        if carried:
            for name in carried:
                self.spelled[self.function][name] = f"{names[name]}_now"
        iterable = node.iter
        if _is_range(iterable) and stored_names(node.body) & names_in(iterable):
            raise refuse(node, "a loop that changes the bounds it runs to", "keep the bounds in a name of their own")
        if changed_lists(node.body, grown_only=_is_range(iterable)) & names_in(iterable):
            raise refuse(node, "a loop over a list that it changes", "a copy of the list, or its length in a name")
        jumps = node.orelse and any(isinstance(n, ast.Break) for s in node.body for n in ast.walk(s))
        head = f"{pad}{self.expressions.loop_head(target, iterable)} {{"
        first = []
        for name in sorted(carried):
            first.append(f"{pad}{INDENT}{names[name]} = {names[name]}_now;")
            self.spelled[self.function][name] = names[name]
        if jumps:
            raise refuse(node, "else after a loop with break", "a flag of your own")
        self.declared.append(self.declared[-1] | own)
        body = self._block(node.body, depth + 1)
        self.declared.pop()
        lines += [head, *first, *body, f"{pad}}}"]
        if node.orelse:
            lines += self._block(node.orelse, depth)
        return lines


def _is_range(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"


def _wrapped(head: str, test: str, tail: str, pad: str) -> list[str]:
    """A condition, broken before `&&` and `||` where it is too long for a line."""
    if len(head) + len(test) + len(tail) <= LINE_LENGTH:
        return [f"{head}{test}{tail}"]
    lines, line, depth = [], head, 0
    for word in test.split(" "):
        if word in ("&&", "||") and depth == 0 and len(line) > LINE_LENGTH // 2:
            lines.append(line.rstrip())
            line = pad + INDENT * 2
        depth += word.count("(") - word.count(")")
        line += f"{word} "
    lines.append(f"{line.rstrip()}{tail}")
    return ["\n".join(lines)]


def place(body: Sequence[ast.stmt], known: set[str], pending: dict[int, list[str]]) -> None:
    """Decide where names are declared that do not begin with an assignment at the right depth."""
    uses: dict[str, list[int]] = {}
    for index, statement in enumerate(body):
        for name in names_in(statement):
            uses.setdefault(name, []).append(index)
    here = set(known)
    stored = stored_names(body)
    for name, places in uses.items():
        if name in here or name not in stored:
            continue
        first = body[places[0]]
        begins = isinstance(first, ast.Assign) and len(first.targets) == 1
        if begins and name in _begun(first):  # type: ignore[arg-type]
            here.add(name)
        elif not isinstance(first, ast.If | ast.For) or any(name in live_in(body[i + 1 :]) for i in places[:-1]):
            pending.setdefault(id(first), []).append(name)
            here.add(name)
    for index, statement in enumerate(body):
        if isinstance(statement, ast.If):
            place(statement.body, set(here), pending)
            place(statement.orelse, set(here), pending)
        elif isinstance(statement, ast.For):
            own = names_in(statement.target)
            after = live_in(body[index + 1 :]) | live_in(statement.orelse) | names_in(statement.iter)
            outside = {n for n in own if n in here or n in after or n in stored_names(statement.body)}
            if outside:
                for name in sorted(outside - here):
                    pending.setdefault(id(statement), []).append(name)
                here |= outside
            carried = {
                n for n in stored_names(statement.body) - here - own
                if n in live_in(statement.body) or mentions(statement.orelse, n)
            }  # fmt: skip
            if carried:
                pending.setdefault(id(statement), []).extend(sorted(carried))
                here |= carried
            place(statement.body, here | own, pending)
            place(statement.orelse, set(here), pending)


def _begun(node: ast.Assign) -> set[str]:
    """Names that an assignment can declare."""
    target = node.targets[0]
    if isinstance(target, ast.Tuple):
        return names_in(target) if isinstance(node.value, ast.Tuple) and one_by_one(target, node.value) else set()
    return {target.id} if isinstance(target, ast.Name) else set()


def one_by_one(target: ast.Tuple, value: ast.Tuple) -> bool:
    """True if `a, b = x, y` equals `a = x` and then `b = y`: no value reads a name that was assigned before it."""
    later = [value.elts[i + 1 :] for i in range(len(value.elts))]
    return len(target.elts) == len(value.elts) and not any(
        names_in(name) & names_in(part) for name, parts in zip(target.elts, later, strict=True) for part in parts
    )


def names_in(node: ast.AST) -> set[str]:
    """Names that a node reads or assigns, except those of comprehensions."""
    inner = {
        n.id for c in ast.walk(node) if isinstance(c, ast.ListComp | ast.GeneratorExp)
        for g in c.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)
    }  # fmt: skip
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - inner


def mentions(body: Sequence[ast.stmt], name: str) -> bool:
    """True if a block reads or assigns a name."""
    return any(name in names_in(s) for s in body)


def live_in(body: Sequence[ast.stmt]) -> set[str]:
    """Names that a block may read before it has assigned them, as far as its order tells."""
    found: set[str] = set()
    assigned: set[str] = set()
    for node in body:
        if isinstance(node, ast.Assign):
            found |= names_in(node.value) - assigned
            for target in node.targets:
                if isinstance(target, ast.Subscript):
                    found |= names_in(target) - assigned
            assigned |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.If):
            found |= (names_in(node.test) | live_in(node.body) | live_in(node.orelse)) - assigned
            assigned |= _sure(node.body) & _sure(node.orelse)
        elif isinstance(node, ast.For):
            found |= (names_in(node.iter) | (live_in(node.body) - names_in(node.target))) - assigned
            found |= live_in(node.orelse) - assigned
        else:
            found |= names_in(node) - assigned
    return found


def _sure(body: Sequence[ast.stmt]) -> set[str]:
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.If):
            found |= _sure(node.body) & _sure(node.orelse)
    return found
