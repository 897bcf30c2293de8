"""Expressions of the heuristic language, compiled to closures that compute all lanes at once.

Nothing of a candidate is executed: the closures are ours, the syntax tree only chooses between them.

An expression that reads nothing but fields of a view and numbers has the same value whenever these are the same:
its last values are kept, so that a run in which one constant has moved computes little anew.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluators import language
from evaluators.interpreter import OPERATORS
from evaluators.lane_frames import UNSET, Frame, Views, part, rest
from evaluators.lane_lists import (
    LaneList,
    LaneRange,
    extreme,
    flat_extreme,
    flat_total,
    folded,
    from_flat,
    in_order,
    repeated,
    total,
)
from evaluators.lane_operators import ONE_ARGUMENT, arithmetic, boolean, compare, negative, positive
from evaluators.lanes import Lanes, NotVectorisable, Value, merge, take, truth

if TYPE_CHECKING:
    from evaluators.vectorised import Compiler

Run = Callable[[Frame], Value]
Leaf = tuple[str, str] | int
"""What a value follows from: a variable and a field read from it, or the slot of a tunable number."""

KEPT = 6
"""Values kept of one expression: a search goes back and forth between a few."""

CONSTANTS = {"pi": math.pi, "inf": math.inf}


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled expression.

    Attributes:
        run: computes the value on a frame's active lanes.
        leaves: what the value follows from, or None where that is more than fields of views.
        trivial: whether keeping the value saves nothing.
    """

    run: Run
    leaves: frozenset[Leaf] | None
    trivial: bool = False


def joined(parts: Sequence[Built]) -> frozenset[Leaf] | None:
    """Leaves of an expression from those of its parts."""
    found: frozenset[Leaf] = frozenset()
    for built in parts:
        if built.leaves is None:
            return None
        found |= built.leaves
    return found


def slots(leaves: frozenset[Leaf] | None) -> frozenset[Leaf]:
    """The tunable numbers among the leaves."""
    return frozenset(leaf for leaf in leaves or () if isinstance(leaf, int))


def parts_of(parts: Sequence[Built], tokens: Sequence[object]) -> tuple[list[Run], frozenset[Leaf] | None]:
    """How to compute the parts of an expression, and what the whole follows from.

    A part is kept by itself where fewer tunable numbers bear on it than on the whole.
    """
    leaves = joined(parts)
    all_slots = slots(leaves)
    runs = [kept(p, tokens) if leaves is None or slots(p.leaves) != all_slots else p.run for p in parts]
    return runs, leaves


def kept(built: Built, tokens: Sequence[object]) -> Run:
    """The same expression, not computed again while its leaves are the same objects and numbers.

    Args:
        built: the expression.
        tokens: stands for the current value of each tunable number.
    """
    if built.leaves is None or built.trivial:
        return built.run
    names = sorted(leaf for leaf in built.leaves if not isinstance(leaf, int))
    numbers = sorted(leaf for leaf in built.leaves if isinstance(leaf, int))
    run = built.run
    known: dict[tuple[object, ...], tuple[list[Any], Value]] = {}

    def go(frame: Frame) -> Value:
        if frame.parent is not None:
            return run(frame)
        now = []
        for variable, field in names:
            view = frame.values.get(variable)
            if not isinstance(view, Views):
                return run(frame)
            now.append(view.field(field))
        # By identity: the fields stay alive in `known` for as long as their ids are used.
        key = (*map(id, now), *[tokens[slot] for slot in numbers])
        found = known.get(key)
        if found is None:
            mask, frame.mask = frame.mask, None
            try:
                value = run(frame)
            except NotVectorisable:
                # On some lane it cannot be computed, perhaps on none that gets here.
                value = UNSET
            finally:
                frame.mask = mask
            if len(known) >= KEPT:
                del known[next(iter(known))]
            found = known[key] = (now, value if _numbers(value) else UNSET)
        return run(frame) if found[1] is UNSET else found[1]

    return go


class Expressions:
    """Compiles the expressions of one function."""

    def __init__(self, compiler: Compiler, assigned: frozenset[str], parameters: frozenset[str]) -> None:
        """Take the names that are local, and the parameters that nothing assigns to."""
        self._compiler, self._assigned, self._parameters = compiler, assigned, parameters
        self._tokens = compiler.tokens

    def build(self, node: ast.expr) -> Built:
        """Compile an expression.

        Raises:
            NotVectorisable: arrays cannot follow it.
        """
        found: Built = getattr(self, f"_{type(node).__name__.lower()}")(node)
        return found

    def run(self, node: ast.expr) -> Run:
        """Compile an expression that stands on its own."""
        return kept(self.build(node), self._tokens)

    def test(self, node: ast.expr) -> Callable[[Frame], Any]:
        """Compile an expression of which only the truth matters: a Python bool, or an array of bool."""
        built = self.build(node)
        if built.leaves is not None:
            whole = kept(Built(lambda f: boolean(truth(built.run(f))), built.leaves), self._tokens)
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
        slot = self._compiler.slot(node)
        if slot is None:
            value = node.value
            return Built(lambda _: value, frozenset(), trivial=True)
        numbers = self._compiler.numbers
        return Built(lambda _: numbers[slot], frozenset({slot}), trivial=True)

    def _name(self, node: ast.Name) -> Built:
        name = node.id
        if name in self._assigned:
            return Built(lambda f: f.read(name), None)
        if name in self._compiler.constants:
            return self._compiler.constants[name]
        if name in self._compiler.math_names and name in CONSTANTS:
            value = CONSTANTS[name]
            return Built(lambda _: value, frozenset(), trivial=True)
        raise NotVectorisable(f"name {name!r} has no value")

    def _shared(self, node: ast.expr) -> Run:
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

    def shared(self, node: ast.expr) -> Run:
        """See `_shared`."""
        return self._shared(node)

    def _attribute(self, node: ast.Attribute) -> Built:
        assert isinstance(node.value, ast.Name)
        variable, field = node.value.id, node.attr
        if variable == "math" and variable not in self._assigned:
            value = language.BUILTIN_MATH[field]
            return Built(lambda _: value, frozenset(), trivial=True)

        def go(frame: Frame) -> Value:
            view = frame.read(variable)
            found = view.field(field) if isinstance(view, Views) else UNSET
            if found is UNSET:
                raise NotVectorisable(f"no field {field!r}")
            if isinstance(found, LaneList):
                found.shared = True
            return found

        own = variable in self._parameters and field != "n_blocks"
        return Built(go, frozenset({(variable, field)}) if own else None, trivial=True)

    def _binop(self, node: ast.BinOp) -> Built:
        op = OPERATORS[type(node.op)]
        (left, right), leaves = parts_of((self.build(node.left), self.build(node.right)), self._tokens)
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
        runs, leaves = parts_of([self.build(v) for v in node.values], self._tokens)
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
        runs, leaves = parts_of([self.build(v) for v in (node.left, *node.comparators)], self._tokens)
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
        (_, body, orelse), leaves = parts_of([self.build(v) for v in (node.test, node.body, node.orelse)], self._tokens)
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
        runs = [self._shared(item) for item in node.elts]
        return Built(lambda f: tuple([run(f) for run in runs]), None)

    def _list(self, node: ast.List) -> Built:
        runs = [self._shared(item) for item in node.elts]
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

    def _listcomp(self, node: ast.ListComp) -> Built:
        return self._comprehension(node)

    def _generatorexp(self, node: ast.GeneratorExp) -> Built:
        raise NotVectorisable("a generator that is not the argument of sum, max, min or sorted")

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> Built:
        flat = self._flat(node)

        def go(frame: Frame) -> Value:
            found = flat(frame)
            return found if isinstance(found, LaneList) else from_flat(*found)

        return Built(go, None)

    def _flat(self, node: ast.ListComp | ast.GeneratorExp) -> Callable[[Frame], Any]:
        """A comprehension's items in one run (values, lane of each, count per lane), or an empty list."""
        if len(node.generators) != 1 or not isinstance(node.generators[0].target, ast.Name):
            raise NotVectorisable("a comprehension over more than one name")
        generator = node.generators[0]
        source = self.run(generator.iter)
        name = node.generators[0].target.id
        inner = Expressions(self._compiler, self._assigned | {name}, frozenset())
        tests = [inner.test(test) for test in generator.ifs]
        element = inner.run(node.elt)

        def go(frame: Frame) -> Any:
            items = source(frame)
            if not isinstance(items, LaneList | LaneRange):
                raise NotVectorisable("a comprehension over what is no list or range")
            if isinstance(items, LaneList) and not items.items:
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

        return go

    def _call(self, node: ast.Call) -> Built:
        function = node.func
        if isinstance(function, ast.Attribute):
            assert isinstance(function.value, ast.Name)
            if function.value.id != "math" or "math" in self._assigned:
                return self._append(function.value.id, node)
            return self._builtin(function.attr, node)
        assert isinstance(function, ast.Name)
        if function.id in self._assigned:
            raise NotVectorisable(f"{function.id} is a variable here, not a function")
        if function.id in self._compiler.functions:
            return self._helper(function.id, node)
        if function.id not in language.BUILTINS and function.id not in self._compiler.math_names:
            raise NotVectorisable(f"{function.id} is not imported")
        return self._builtin(function.id, node)

    def _append(self, name: str, node: ast.Call) -> Built:
        if len(node.args) != 1:
            raise NotVectorisable("append takes one value")
        value = self._shared(node.args[0])
        target = self.run(ast.Name(id=name, ctx=ast.Load()))

        def go(frame: Frame) -> Value:
            held = target(frame)
            if not isinstance(held, LaneList):
                raise NotVectorisable("append to what is no list")
            held.append(value(frame), frame.mask)
            return None

        return Built(go, None)

    def _helper(self, name: str, node: ast.Call) -> Built:
        called = self._compiler.function(name)
        arguments = [self._shared(a) for a in node.args]
        if len(arguments) != called.arity:
            raise NotVectorisable(f"{name} takes {called.arity} arguments")
        leaves = None
        names = [a.id for a in node.args if isinstance(a, ast.Name) and a.id in self._parameters]
        if called.reads is not None and len(names) == len(node.args):
            found: set[Leaf] = {leaf for leaf in called.reads if isinstance(leaf, int)}
            found |= {(variable, leaf) for variable in names for leaf in called.reads if isinstance(leaf, str)}
            leaves = frozenset(found)
        return Built(lambda f: called.call([a(f) for a in arguments], f), leaves)

    def _builtin(self, name: str, node: ast.Call) -> Built:
        many = name in ("max", "min", "sum", "sorted")
        if many and len(node.args) == 1:
            return self._of_list(name, node.args[0])
        if name == "range":
            runs = [self.run(a) for a in node.args]
            return Built(lambda f: LaneRange([run(f) for run in runs], f.lanes, f.mask), None)
        if name == "len" and len(node.args) == 1:
            return self._length(node.args[0])
        runs, leaves = parts_of([self.build(a) for a in node.args], self._tokens)
        if name in ("max", "min") and len(runs) > 1:
            largest = name == "max"
            return Built(lambda f: folded([run(f) for run in runs], f.mask, largest=largest), leaves)
        if name not in ONE_ARGUMENT or len(runs) != 1:
            raise NotVectorisable(f"{name} with {len(runs)} arguments")
        apply, run = ONE_ARGUMENT[name], runs[0]
        return Built(lambda f: apply(run(f), f.mask), leaves)

    def _of_list(self, name: str, node: ast.expr) -> Built:
        """`sum`, `max`, `min` and `sorted` of one list."""
        flat = False
        if isinstance(node, ast.GeneratorExp | ast.ListComp):
            flat = name != "sorted"
            source = self._flat(node) if flat else self._comprehension(node).run
        else:
            source = self.run(node)

        def go(frame: Frame) -> Value:
            items = source(frame)
            if flat and isinstance(items, tuple):
                if name == "sum":
                    return flat_total(*items)
                values, owner, counts = items
                return flat_extreme(values, owner, counts, frame.mask, largest=name == "max")
            if not isinstance(items, LaneList | LaneRange):
                raise NotVectorisable(f"{name} of what is no list or range")
            if name == "sum":
                return total(items, frame.mask)
            if name == "sorted":
                return in_order(items, frame.mask)
            return extreme(items, frame.mask, largest=name == "max")

        return Built(go, None)

    def _length(self, node: ast.expr) -> Built:
        source = self.run(node)

        def go(frame: Frame) -> Value:
            items = source(frame)
            if not isinstance(items, LaneList | LaneRange):
                raise NotVectorisable("len of what is no list or range")
            return items.length()

        return Built(go, None)


def _numbers(value: Value) -> bool:
    """Whether a value cannot be changed by the program, so that it may be kept."""
    if isinstance(value, tuple):
        return all(_numbers(item) for item in value)
    return not isinstance(value, LaneList | LaneRange)


def _not(found: Any) -> Any:
    return ~found if isinstance(found, np.ndarray) else not found


def _inside(frame: Frame, owner: Any, name: str, values: Value) -> Frame:
    """Frame of a comprehension's body: a lane per item."""
    frame.work.charge(len(owner))
    inner = Frame(len(owner), None, frame.work, parent=frame, owner=owner)
    inner.values[name] = values
    return inner


__all__ = ["Built", "Expressions", "Lanes", "Run"]
