"""Calls in the heuristic language over all lanes: helpers, builtin functions, list.append."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from evaluators.language import subset
from evaluators.language.lane_aggregates import extreme, flat_extreme, flat_total, folded, in_order, total
from evaluators.language.lane_frames import Frame
from evaluators.language.lane_functions import ONE_ARGUMENT
from evaluators.language.lane_lists import LaneList, LaneRange
from evaluators.language.lane_memory import Built, Leaf, Leaves, joined, parts_of
from evaluators.language.lanes import NotVectorisable, Value

if TYPE_CHECKING:
    from evaluators.language.lane_expressions import Expressions


class Calls:
    """Compiles the calls of one function."""

    def __init__(self, expressions: Expressions) -> None:
        """Take the compiler of the function's expressions."""
        self._in = expressions

    def build(self, node: ast.Call) -> Built:
        """Compile a call.

        Raises:
            NotVectorisable: an unknown function, or arguments that arrays cannot follow.
        """
        function = node.func
        if isinstance(function, ast.Attribute):
            assert isinstance(function.value, ast.Name)
            if function.value.id != "math" or "math" in self._in.assigned:
                return self._append(function.value.id, node)
            return self._builtin(function.attr, node)
        assert isinstance(function, ast.Name)
        if function.id in self._in.assigned:
            raise NotVectorisable(f"{function.id} is a variable here, not a function")
        if function.id in self._in.compiler.functions:
            return self._helper(function.id, node)
        if function.id not in subset.BUILTINS and function.id not in self._in.compiler.math_names:
            raise NotVectorisable(f"{function.id} is not imported")
        return self._builtin(function.id, node)

    def _append(self, name: str, node: ast.Call) -> Built:
        if len(node.args) != 1:
            raise NotVectorisable("append takes one value")
        value = self._in.shared(node.args[0])
        target = self._in.run(ast.Name(id=name, ctx=ast.Load()))

        def go(frame: Frame) -> Value:
            held = target(frame)
            if not isinstance(held, LaneList):
                raise NotVectorisable("append to what is no list")
            held.append(value(frame), frame.mask)
            return None

        return Built(go, None)

    def _helper(self, name: str, node: ast.Call) -> Built:
        called = self._in.compiler.function(name)
        built = [self._in.build(a) for a in node.args]
        arguments = [self._in.shared(a) for a in node.args]
        if len(arguments) != called.arity:
            raise NotVectorisable(f"{name} takes {called.arity} arguments")
        leaves = joined(built)
        if leaves is not None:
            leaves = Leaves(leaves.of | called.slots, lasting=False)
        names = [a.id for a in node.args if isinstance(a, ast.Name) and a.id in self._in.parameters]
        if called.reads is not None and len(names) == len(node.args):
            found: set[Leaf] = {leaf for leaf in called.reads if isinstance(leaf, int)}
            found |= {(variable, leaf) for variable in names for leaf in called.reads if isinstance(leaf, str)}
            leaves = Leaves(frozenset(found))
        return Built(lambda f: called.call([a(f) for a in arguments], f), leaves)

    def _builtin(self, name: str, node: ast.Call) -> Built:
        many = name in ("max", "min", "sum", "sorted")
        if many and len(node.args) == 1:
            return self._of_list(name, node.args[0])
        if name == "range":
            runs = [self._in.run(a) for a in node.args]
            return Built(lambda f: LaneRange([run(f) for run in runs], f.lanes, f.mask), None)
        if name == "len" and len(node.args) == 1:
            return self._length(node.args[0])
        runs, leaves = parts_of([self._in.build(a) for a in node.args], self._in.tokens)
        if name in ("max", "min") and len(runs) > 1:
            largest = name == "max"
            return Built(lambda f: folded([run(f) for run in runs], f.mask, largest=largest), leaves)
        if name not in ONE_ARGUMENT or len(runs) != 1:
            raise NotVectorisable(f"{name} with {len(runs)} arguments")
        apply, run = ONE_ARGUMENT[name], runs[0]
        return Built(lambda f: apply(run(f), f.mask), leaves)

    def _of_list(self, name: str, node: ast.expr) -> Built:
        """`sum`, `max`, `min` and `sorted` of one list."""
        flat, leaves = False, None
        if isinstance(node, ast.GeneratorExp | ast.ListComp):
            flat = name != "sorted"
            source = self._in.comprehension(node).run
            if flat:
                source, leaves = self._in.flat(node)
        else:
            source = self._in.run(node)

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

        return Built(go, leaves)

    def _length(self, node: ast.expr) -> Built:
        source = self._in.run(node)

        def go(frame: Frame) -> Value:
            items = source(frame)
            if not isinstance(items, LaneList | LaneRange):
                raise NotVectorisable("len of what is no list or range")
            return items.length()

        return Built(go, None)
