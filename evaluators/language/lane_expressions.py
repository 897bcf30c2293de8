"""Expressions of the heuristic language, compiled to closures that compute all lanes at once.

Nothing of a candidate is executed: the closures are ours, the syntax tree only chooses between them.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluators.language import subset
from evaluators.language.lane_calls import Calls
from evaluators.language.lane_frames import UNSET, Frame, Views, part, rest
from evaluators.language.lane_lists import LaneList, LaneRange, from_flat, repeated
from evaluators.language.lane_memory import NOTHING, Built, Leaves, Run, joined, kept, parts_of
from evaluators.language.lane_operators import arithmetic, boolean, compare, negative, positive
from evaluators.language.lanes import NotVectorisable, Value, merge, take, truth
from evaluators.language.operations import OPERATORS

if TYPE_CHECKING:
    from evaluators.language.vectorised import Compiler

CONSTANTS = {"pi": math.pi, "inf": math.inf}


class Expressions:
    """Compiles the expressions of one function."""

    def __init__(self, compiler: Compiler, assigned: frozenset[str], parameters: frozenset[str]) -> None:
        """Take the names that are local, and the parameters that nothing assigns to."""
        self.compiler, self.assigned, self.parameters = compiler, assigned, parameters
        self.tokens = compiler.tokens

    def build(self, node: ast.expr) -> Built:
        """Compile an expression.

        Raises:
            NotVectorisable: arrays cannot follow it.
        """
        found: Built = getattr(self, f"_{type(node).__name__.lower()}")(node)
        return found

    def run(self, node: ast.expr) -> Run:
        """Compile an expression that stands on its own."""
        return kept(self.build(node), self.tokens)

    def test(self, node: ast.expr) -> Callable[[Frame], Any]:
        """Compile an expression of which only the truth matters: a Python bool, or an array of bool."""
        built = self.build(node)
        if built.lasting:
            whole = kept(Built(lambda f: boolean(truth(built.run(f))), built.leaves), self.tokens)
            return lambda f: truth(whole(f))
        if isinstance(node, ast.BoolOp):
            return self._shortened([self.test(v) for v in node.values], isinstance(node.op, ast.Or))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.test(node.operand)
            return lambda f: _not(inner(f))
        run = built.run
        return lambda f: truth(run(f))

    @staticmethod
    def _shortened(tests: Sequence[Callable[[Frame], Any]], either: bool) -> Callable[[Frame], Any]:
        def go(frame: Frame) -> Any:
            mask = frame.mask
            found = tests[0](frame)
            for test in tests[1:]:
                open_ = rest(mask, found) if either else part(mask, found)
                if open_ is False:
                    break
                frame.mask = open_
                try:
                    more = test(frame)
                finally:
                    frame.mask = mask
                found = (found | more) if either else (found & more)
            return found

        return go

    # One method per node type, named after it.

    def _constant(self, node: ast.Constant) -> Built:
        slot = self.compiler.slot(node)
        if slot is None:
            value = node.value
            return Built(lambda _: value, NOTHING, trivial=True)
        numbers = self.compiler.numbers
        return Built(lambda _: numbers[slot], Leaves(frozenset({slot})), trivial=True)

    def _name(self, node: ast.Name) -> Built:
        name = node.id
        if name in self.assigned:
            return Built(lambda f: f.read(name), Leaves(frozenset({(name, "")}), lasting=False), trivial=True)
        if name in self.compiler.constants:
            return self.compiler.constants[name]
        if name in self.compiler.math_names and name in CONSTANTS:
            value = CONSTANTS[name]
            return Built(lambda _: value, NOTHING, trivial=True)
        raise NotVectorisable(f"name {name!r} has no value")

    def shared(self, node: ast.expr) -> Run:
        """An expression whose value gets a second name, if it is a list."""
        run = self.run(node)

        def go(frame: Frame) -> Value:
            value = run(frame)
            if isinstance(value, LaneList):
                value.shared = True
            elif isinstance(value, tuple):
                for item in value:
                    if isinstance(item, LaneList):
                        item.shared = True
            return value

        return go if not isinstance(node, ast.List | ast.ListComp | ast.Constant | ast.BinOp | ast.Compare) else run

    def _attribute(self, node: ast.Attribute) -> Built:
        assert isinstance(node.value, ast.Name)
        variable, field = node.value.id, node.attr
        if variable == "math" and variable not in self.assigned:
            value = subset.BUILTIN_MATH[field]
            return Built(lambda _: value, NOTHING, trivial=True)

        def go(frame: Frame) -> Value:
            view = frame.read(variable)
            found = view.field(field) if isinstance(view, Views) else UNSET
            if found is UNSET:
                raise NotVectorisable(f"no field {field!r}")
            if isinstance(found, LaneList):
                found.shared = True
            return found

        own = variable in self.parameters and field != "n_blocks"
        return Built(go, Leaves(frozenset({(variable, field)}), lasting=own), trivial=True)

    def _binop(self, node: ast.BinOp) -> Built:
        op = OPERATORS[type(node.op)]
        (left, right), leaves = parts_of((self.build(node.left), self.build(node.right)), self.tokens)
        times = isinstance(node.op, ast.Mult)

        def go(frame: Frame) -> Value:
            a, b = left(frame), right(frame)
            if times and (isinstance(a, LaneList) or isinstance(b, LaneList)):
                return repeated(a, b, frame.mask) if isinstance(a, LaneList) else repeated(b, a, frame.mask)
            return arithmetic(op, a, b, frame.mask)

        return Built(go, leaves)

    def _unaryop(self, node: ast.UnaryOp) -> Built:
        inner = self.build(node.operand)
        if isinstance(node.op, ast.Not):
            test = self.test(node.operand)
            return Built(lambda f: boolean(_not(test(f))), inner.leaves)
        apply = negative if isinstance(node.op, ast.USub) else positive
        run = inner.run
        return Built(lambda f: apply(run(f), f.mask), inner.leaves)

    def _boolop(self, node: ast.BoolOp) -> Built:
        runs, leaves = parts_of([self.build(v) for v in node.values], self.tokens)
        either = isinstance(node.op, ast.Or)

        def go(frame: Frame) -> Value:
            mask = frame.mask
            result = runs[0](frame)
            open_: Any = mask
            try:
                for run in runs[1:]:
                    found = truth(result)
                    open_ = rest(open_, found) if either else part(open_, found)
                    if open_ is False:
                        break
                    frame.mask = open_
                    value = run(frame)
                    result = value if open_ is None or open_ is mask else merge(open_, value, result)
            finally:
                frame.mask = mask
            return result

        return Built(go, leaves)

    def _compare(self, node: ast.Compare) -> Built:
        runs, leaves = parts_of([self.build(v) for v in (node.left, *node.comparators)], self.tokens)
        ops = [OPERATORS[type(op)] for op in node.ops]

        def go(frame: Frame) -> Value:
            mask = frame.mask
            left = runs[0](frame)
            found: Any = True
            try:
                for op, run in zip(ops, runs[1:], strict=True):
                    right = run(frame)
                    now = compare(op, left, right, frame.mask)
                    found = now if found is True else found & now
                    if len(ops) > 1:
                        inside = part(frame.mask, now)
                        if inside is False:
                            break
                        frame.mask, left = inside, right
            finally:
                frame.mask = mask
            return boolean(found)

        return Built(go, leaves)

    def _ifexp(self, node: ast.IfExp) -> Built:
        (_, body, orelse), leaves = parts_of([self.build(v) for v in (node.test, node.body, node.orelse)], self.tokens)
        test = self.test(node.test)

        def go(frame: Frame) -> Value:
            mask = frame.mask
            found = test(frame)
            yes, no = part(mask, found), rest(mask, found)
            try:
                if no is False:
                    return body(frame)
                if yes is False:
                    return orelse(frame)
                frame.mask = yes
                first = body(frame)
                frame.mask = no
                second = orelse(frame)
            finally:
                frame.mask = mask
            return merge(yes, first, second)

        return Built(go, leaves)

    def _tuple(self, node: ast.Tuple) -> Built:
        runs = [self.shared(item) for item in node.elts]
        return Built(lambda f: tuple([run(f) for run in runs]), None)

    def _list(self, node: ast.List) -> Built:
        runs = [self.shared(item) for item in node.elts]
        return Built(lambda f: LaneList([run(f) for run in runs], len(runs), f.lanes), None)

    def _subscript(self, node: ast.Subscript) -> Built:
        target, index = self.run(node.value), self.run(node.slice)

        def go(frame: Frame) -> Value:
            held, at = target(frame), index(frame)
            if isinstance(held, LaneList):
                return held.get(at, frame.mask)
            if isinstance(held, tuple) and type(at) is int and -len(held) <= at < len(held):
                return held[at]
            raise NotVectorisable("an index into what is no list")

        return Built(go, None)

    def _call(self, node: ast.Call) -> Built:
        return Calls(self).build(node)

    def _listcomp(self, node: ast.ListComp) -> Built:
        return self.comprehension(node)

    def _generatorexp(self, node: ast.GeneratorExp) -> Built:
        raise NotVectorisable("a generator that is not the argument of sum, max, min or sorted")

    def comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> Built:
        """Compile a comprehension as a list."""
        flat, _ = self.flat(node)

        def go(frame: Frame) -> Value:
            found = flat(frame)
            return found if isinstance(found, LaneList) else from_flat(*found)

        return Built(go, None)

    def flat(self, node: ast.ListComp | ast.GeneratorExp) -> tuple[Callable[[Frame], Any], Leaves | None]:
        """A comprehension's items in one run (values, lane of each, count per lane), or an empty list.

        Also what they follow from.
        """
        if len(node.generators) != 1 or not isinstance(node.generators[0].target, ast.Name):
            raise NotVectorisable("a comprehension over more than one name")
        generator = node.generators[0]
        source = self.run(generator.iter)
        name = node.generators[0].target.id
        inner = Expressions(self.compiler, self.assigned | {name}, frozenset())
        tests = [inner.test(test) for test in generator.ifs]
        element = inner.run(node.elt)
        parts = [self.build(generator.iter), *[inner.build(e) for e in (node.elt, *generator.ifs)]]
        leaves = joined(parts)
        if leaves is not None:
            leaves = Leaves(leaves.of - {(name, "")}, lasting=False)

        def go(frame: Frame) -> Any:
            items = source(frame)
            if not isinstance(items, LaneList | LaneRange):
                raise NotVectorisable("a comprehension over what is no list or range")
            if isinstance(items, LaneList) and items.blank():
                return LaneList([], items.count, frame.lanes)
            values, owner, counts = items.flat(frame.mask)
            for test in tests:
                flat = _inside(frame, owner, name, values)
                found = test(flat) if len(owner) else True
                if not isinstance(found, np.ndarray):
                    found = np.full(len(owner), found)
                index = np.nonzero(found)[0]
                values, owner = take(values, index), owner[index]
                counts = np.bincount(owner, minlength=frame.lanes)
            if not len(owner):
                return LaneList([], counts, frame.lanes)
            return element(_inside(frame, owner, name, values)), owner, counts

        return go, leaves


def _not(found: Any) -> Any:
    return ~found if isinstance(found, np.ndarray) else not found


def _inside(frame: Frame, owner: Any, name: str, values: Value) -> Frame:
    """Frame of a comprehension's body: a lane per item."""
    frame.work.charge(len(owner))
    inner = Frame(len(owner), None, frame.work, parent=frame, owner=owner)
    inner.values[name] = values
    return inner
