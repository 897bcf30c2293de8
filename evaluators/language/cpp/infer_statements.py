"""Follows a program statement by statement, to know the possible values of its names at each place.

Helpers are followed for each combination of argument types, loops until the types are stable. C++
declares a name once per function, with the type of all its assignments.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from evaluators.language.cpp.flow import Flow, merged, widened
from evaluators.language.cpp.infer_calls import CallTypes
from evaluators.language.cpp.infer_expressions import refuse
from evaluators.language.cpp.intervals import as_declared
from evaluators.language.cpp.normalise import Form, NotExpressible, changed_lists, stored_names
from evaluators.language.cpp.types import UNKNOWN, Kind, Type, list_of

ROUNDS_BEFORE_WIDENING = 3
NARROWING_ROUNDS = 2
LAST_ROUND = 40
FOLLOWED = 64
"""Rounds of a loop that are followed one by one, so that what they add up stays bounded."""
FOLLOWED_INSIDE = 6
"""Rounds of a loop inside another that are followed one by one."""


class Inference(CallTypes):
    """Types of one form."""

    def __init__(
        self,
        form: Form,
        inputs: Mapping[str, Type],
        *,
        checked: bool = False,
        numbers: Mapping[str, Type] | None = None,
    ) -> None:
        """Run until the types of names settle.

        Args:
            form: one entry point.
            inputs: range of each input.
            checked: True if C++ checks at run time what the ranges cannot exclude.
            numbers: type of names whose numbers are given at run time.

        Raises:
            NotExpressible: something has no type in C++.
        """
        super().__init__(form, inputs, checked, numbers or {})
        self._returned: list[Type] = []
        self._loops: list[tuple[list[Flow], list[Flow]]] = []
        self._known: dict[tuple[str, tuple[Type, ...], bool], Type] = {}
        self._updates: dict[ast.AugAssign, ast.BinOp] = {}
        self._earlier: dict[str, Type] = {}
        for _ in range(LAST_ROUND):
            declared = {f: dict(v) for f, v in self.names.items()}
            self._earlier = dict(self.results)
            self._pass()
            # A name that turns out to be a double holds its integers as such: all else may follow from that.
            if declared == self.names and self._earlier == self.results:
                return
        raise NotExpressible("the types of this program do not settle", hint="use fewer names for several things")

    def _pass(self) -> None:
        self.of, self.places, self.divisors, self._known, self.bounds = {}, {}, [], {}, {}
        self.results = dict.fromkeys(self.form.helpers, UNKNOWN)
        self.parameters = {name: [UNKNOWN] * len(f.args.args) for name, f in self.form.helpers.items()}
        self.flow = Flow(self.texts)
        self._returned = [UNKNOWN]
        self.block(self.form.body)
        self.results[""] = self._returned[0]
        for name, function in self.form.helpers.items():
            if not any(known == name and recorded for known, _, recorded in self._known):
                # Called at dead places alone, or not at all.
                self.apply(function, [UNKNOWN] * len(function.args.args))

    def apply(self, function: ast.FunctionDef, given: Sequence[Type]) -> Type:
        """Type that a helper returns for arguments of these types."""
        name = function.name
        if self._recording:
            pairs = zip(self.parameters[name], given, strict=True)
            self.parameters[name] = [self._joined(function, a, b) for a, b in pairs]
        key = name, tuple(given), self._recording
        if key not in self._known:
            before = self.flow, self._function, self._inside, self._returned, self._loops
            self.flow, self._function, self._inside = Flow(self.texts), name, {}
            self._returned, self._loops = [UNKNOWN], []
            for argument, kind in zip(function.args.args, given, strict=True):
                if kind.kind is not Kind.VIEW:
                    self._declare(argument, argument.arg, kind)
                self.flow.assign(argument.arg, kind, None)
            self.block(function.body)
            self._known[key] = self._returned[0]
            self.flow, self._function, self._inside, self._returned, self._loops = before
        found = self._known[key]
        if self._recording:
            self.results[name] = self._joined(function, self.results[name], found)
        return as_declared(found, self._earlier.get(name, UNKNOWN))

    def _declare(self, node: ast.AST, name: str, found: Type) -> None:
        known = self.names.setdefault(self._function, {})
        if self._recording:
            known[name] = self._joined(node, known.get(name, UNKNOWN), found)

    def block(self, body: Sequence[ast.stmt]) -> None:
        """Follow statements from here on."""
        for node in body:
            self._statement(node)

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Return):
            if node.value is None:
                raise refuse(node, "returns nothing", "return a number")
            found = self.type(node.value)
            self._returned[0] = self._joined(node, self._returned[0], found)
            self.flow.alive = False
        elif isinstance(node, ast.Assign):
            value = self.type(node.value)
            for target in node.targets:
                self.bind(target, value, fresh=not isinstance(node.value, ast.Name), made_of=node.value)
        elif isinstance(node, ast.AugAssign):
            joined = self.update(node)
            self.bind(node.target, self.type(joined))
        elif isinstance(node, ast.If):
            self.type(node.test)
            before, ends = self.flow, []
            for truth, body in ((True, node.body), (False, node.orelse)):
                self.flow = before.copy()
                self.flow.assume(node.test, truth, self.look)
                self.block(body)
                ends.append(self.flow)
            self.flow = self._meet(ends)
        elif isinstance(node, ast.For):
            self._for(node)
        elif isinstance(node, ast.Break | ast.Continue):
            self._loops[-1][isinstance(node, ast.Continue)].append(self.flow.copy())
            self.flow.alive = False
        elif isinstance(node, ast.Expr):
            self._append(node.value)

    def _meet(self, ways: Sequence[Flow]) -> Flow:
        met = merged(ways)
        met.alive = any(w.alive for w in ways)
        return met

    def update(self, node: ast.AugAssign) -> ast.BinOp:
        """The expression `a op b` of a statement `a op= b`."""
        if node not in self._updates:
            joined = ast.copy_location(ast.BinOp(_loaded(node.target), node.op, node.value), node)
            self._updates[node], self.updated[joined] = joined, node
        return self._updates[node]

    def declared_place(self, function: str, target: ast.expr) -> Type:
        """Type that C++ gives what an assignment changes."""
        holder = target.value if isinstance(target, ast.Subscript) else target
        assert isinstance(holder, ast.Name)
        found = self.names[function][holder.id]
        return found.items[0] if isinstance(target, ast.Subscript) else found

    def _for(self, node: ast.For) -> None:
        items = self.type(node.iter)
        if items.kind not in (Kind.LIST, Kind.RANGE, Kind.UNKNOWN):
            raise refuse(node, f"a loop over {items.kind.value}", "for i in range(...)")
        changing = stored_names([node]) | changed_lists(node.body)
        entry = self.flow
        entry.forget(changing)
        head = entry.copy()
        with self.unrecorded():
            rounds = self._rounds(node.iter)
            for step in range(rounds - 1 if rounds else LAST_ROUND):
                after = self._meet((entry, self._turn(node, items, head)[0]))
                if after.types == head.types:
                    break
                head = after if rounds or step < ROUNDS_BEFORE_WIDENING else widened(head, after)
            # From a state that includes all, one more round only narrows.
            for _ in range(0 if rounds else NARROWING_ROUNDS):
                head = self._meet((entry, self._turn(node, items, head)[0]))
        end, breaks = self._turn(node, items, head)
        self.flow = self._meet((entry, end))
        self.block(node.orelse)
        self.flow = self._meet((self.flow, *breaks))

    def _rounds(self, made: ast.expr) -> int:
        """Largest number of iterations of a loop, if known and small enough to follow each; otherwise 0."""
        if not (isinstance(made, ast.Call) and isinstance(made.func, ast.Name) and made.func.id == "range"):
            return 0
        given = [self.type(a) for a in made.args]
        low, high = (given[0].low, given[1].high) if len(given) > 1 else (0, given[0].high)
        most = (given[0].high - given[1].low) if len(given) > 2 and given[2].low < 0 else high - low
        return int(max(1, most)) if most <= (FOLLOWED_INSIDE if self._loops else FOLLOWED) else 0

    def _turn(self, node: ast.For, items: Type, head: Flow) -> tuple[Flow, list[Flow]]:
        """(state at the end of a round that begins with `head`, states at its breaks)."""
        self.flow = head.copy()
        self._loops.append(([], []))
        self.bind(node.target, items.items[0] if items.items else UNKNOWN)
        self._order_range(node)
        self.block(node.body)
        breaks, continues = self._loops.pop()
        return self._meet((self.flow, *continues)), breaks

    def _order_range(self, node: ast.For) -> None:
        """Note that i of `range(a, b)` lies from a to b - 1."""
        made, target = node.iter, node.target
        if not (isinstance(made, ast.Call) and isinstance(made.func, ast.Name) and made.func.id == "range"):
            return
        read = {n.id for n in ast.walk(made) if isinstance(n, ast.Name)}
        if len(made.args) == 3 or not isinstance(target, ast.Name) or stored_names([node]) & read:
            return
        if len(made.args) == 2:
            self.flow.order(target, made.args[0], 0)
        last: ast.expr = made.args[-1]
        gap = 1
        if isinstance(last, ast.BinOp) and isinstance(last.op, ast.Add) and isinstance(last.right, ast.Constant):
            more = last.right.value
            if isinstance(more, int):
                last, gap = last.left, 1 - more
        self.flow.order(last, target, gap)

    def _append(self, node: ast.expr) -> None:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            return
        target = node.func.value
        assert isinstance(target, ast.Name)
        grown = self.type(target)
        item = self.type(node.args[0])
        if item.kind is Kind.LIST:
            raise refuse(node, "a list in a list", "one list of numbers")
        parameters = [a.arg for f in self.form.helpers.values() if f.name == self._function for a in f.args.args]
        if target.id in parameters:
            raise refuse(node, "a helper that changes its caller's list", "return the value instead")
        self._store(target, self._joined(node, grown, list_of(item)), None)

    def bind(self, target: ast.expr, value: Type, *, fresh: bool = True, made_of: ast.expr | None = None) -> None:
        """Give names, or an item of a list, a value."""
        if isinstance(target, ast.Name):
            if value.kind is Kind.LIST and not fresh:
                raise refuse(target, "a second name for a list", "use the first name")
            if value.kind in (Kind.VIEW, Kind.NONE):
                raise refuse(target, f"a name for {value.kind.value}", "use the value itself")
            if value.kind is Kind.RANGE:
                value = list_of(value.items[0])
            self._store(target, value, made_of if value.number else None)
        elif isinstance(target, ast.Subscript):
            assert isinstance(target.value, ast.Name)
            self._store(target.value, self._joined(target, self.type(target.value), list_of(value)), None)
            self.type(target)
        elif isinstance(target, ast.Tuple):
            if value.kind is Kind.UNKNOWN:
                return
            if value.kind is not Kind.TUPLE or len(value.items) != len(target.elts):
                raise refuse(target, f"{len(target.elts)} names for {value.kind.value}", "one name each")
            for part, item in zip(target.elts, value.items, strict=True):
                self.bind(part, item)

    def _store(self, target: ast.Name, value: Type, made_of: ast.expr | None) -> None:
        name = self._inside.get(target.id, target.id)
        if name != target.id:
            made_of = None
        self._declare(target, name, value)
        if self._recording:
            self.places[target] = self._function, name
        self.flow.assign(name, value, made_of)


def _loaded(target: ast.expr) -> ast.expr:
    """Same place in a load context."""
    if isinstance(target, ast.Name):
        return ast.copy_location(ast.Name(target.id, ast.Load()), target)
    assert isinstance(target, ast.Subscript)
    return ast.copy_location(ast.Subscript(target.value, target.slice, ast.Load()), target)
