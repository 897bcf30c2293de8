"""Statements of the heuristic language over all lanes: branches and loops become masks."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from evaluators.language.lane_ahead import Ahead, independent
from evaluators.language.lane_expressions import Expressions
from evaluators.language.lane_frames import STATEMENT, Frame, part, rest, union
from evaluators.language.lane_lists import LaneList, LaneRange
from evaluators.language.lane_memory import Run
from evaluators.language.lane_operators import arithmetic
from evaluators.language.lanes import NotVectorisable, Value
from evaluators.language.operations import OPERATORS

Step = Callable[[Frame], None]


class Statements:
    """Compiles the statements of one function."""

    def __init__(self, expressions: Expressions) -> None:
        """Take the compiler of its expressions."""
        self._expressions = expressions

    def block(self, body: Sequence[ast.stmt]) -> Step:
        """Compile statements that follow each other."""
        return _sequence([self._statement(node) for node in body])

    def _statement(self, node: ast.stmt) -> Step | None:
        if isinstance(node, ast.Return):
            if node.value is None:
                return lambda f: f.give(None)
            value = self._expressions.shared(node.value)
            return lambda f: f.give(value(f))
        if isinstance(node, ast.Assign):
            return self._assign(node)
        if isinstance(node, ast.AugAssign):
            return self._in_place(node)
        if isinstance(node, ast.If):
            return self._branch(node)
        if isinstance(node, ast.For):
            return self._loop(node)
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
            run = self._expressions.run(node.value)
            return lambda f: (run(f), None)[1]
        if isinstance(node, ast.Break):
            return _break
        return _continue if isinstance(node, ast.Continue) else None

    def _assign(self, node: ast.Assign) -> Step:
        value = self._expressions.shared(node.value)
        targets = [self._target(target) for target in node.targets]

        def go(frame: Frame) -> None:
            result = value(frame)
            if len(targets) > 1 and isinstance(result, LaneList):
                result.shared = True
            for target in targets:
                target(frame, result)

        return go

    def _target(self, node: ast.expr) -> Callable[[Frame, Value], None]:
        if isinstance(node, ast.Name):
            name = node.id
            return lambda f, value: f.write(name, value)
        if isinstance(node, ast.Subscript):
            held, index = self._expressions.run(node.value), self._expressions.run(node.slice)

            def put(frame: Frame, value: Value) -> None:
                target = held(frame)
                if not isinstance(target, LaneList):
                    raise NotVectorisable("item assignment to what is no list")
                target.put(index(frame), value, frame.mask)

            return put
        assert isinstance(node, ast.Tuple)
        parts = [self._target(item) for item in node.elts]

        def unpack(frame: Frame, value: Value) -> None:
            if isinstance(value, LaneList) and value.count == len(parts):
                value = tuple(value.items)
            if not isinstance(value, tuple) or len(value) != len(parts):
                raise NotVectorisable(f"expected {len(parts)} values to unpack")
            for target, item in zip(parts, value, strict=True):
                target(frame, item)

        return unpack

    def _in_place(self, node: ast.AugAssign) -> Step:
        op = OPERATORS[type(node.op)]
        load = ast.Name(node.target.id, ast.Load()) if isinstance(node.target, ast.Name) else node.target
        now, more, target = self._expressions.run(load), self._expressions.run(node.value), self._target(node.target)

        def go(frame: Frame) -> None:
            value, other = now(frame), more(frame)
            if isinstance(value, LaneList) and isinstance(other, LaneList) and isinstance(node.op, ast.Add):
                value.extend(other, frame.mask)
                return
            target(frame, arithmetic(op, value, other, frame.mask))

        return go

    def _branch(self, node: ast.If) -> Step:
        test = self._expressions.test(node.test)
        body, orelse = self.block(node.body), self.block(node.orelse)

        def go(frame: Frame) -> None:
            mask, lost = frame.mask, frame.lost
            found = test(frame)
            yes, no = part(mask, found), rest(mask, found)
            if no is False:
                body(frame)
                return
            if yes is False:
                orelse(frame)
                return
            after: Any = False
            for inside, run in ((yes, body), (no, orelse)):
                frame.mask, frame.live = inside, True
                run(frame)
                if frame.live:
                    after = union(after, frame.mask)
            if frame.lost == lost:
                after = mask
            frame.live = after is not False
            frame.mask = after if frame.live else None

        return go

    def _ahead(self, node: ast.For) -> tuple[Ahead | None, Step | None]:
        """What of a loop's body can be run ahead, and the body where that only takes the values over."""
        found = independent(node)
        if not found or not isinstance(node.target, ast.Name) or self._builds_lists(node):
            return None, None
        names = {id(statement): sorted(mine) for statement, mine in found}
        all_names = {name for _, mine in found for name in mine}
        steps = [_from_ahead(names[id(s)]) if id(s) in names else self._statement(s) for s in node.body]
        return Ahead(node.target.id, all_names, self.block([s for s, _ in found])), _sequence(steps)

    def _builds_lists(self, node: ast.AST) -> bool:
        """Whether lists are made, here or in helpers: for every step of every shape they are too large."""
        functions = self._expressions.compiler.functions
        waiting, seen = [node], set[str]()
        while waiting:
            for inner in ast.walk(waiting.pop()):
                if isinstance(inner, ast.List | ast.ListComp | ast.Subscript):
                    return True
                if isinstance(inner, ast.Name) and inner.id in functions and inner.id not in seen:
                    seen.add(inner.id)
                    waiting.append(functions[inner.id])
        return False

    def _loop(self, node: ast.For) -> Step:
        source: Run = self._expressions.run(node.iter)
        target, whole, orelse = self._target(node.target), self.block(node.body), self.block(node.orelse)
        ahead_of, remaining = self._ahead(node)

        def go(frame: Frame) -> None:
            items = source(frame)
            rows = ahead_of.rows(frame, items) if ahead_of and isinstance(items, LaneRange) else None
            body = whole if rows is None or remaining is None else remaining
            if isinstance(items, tuple):
                items = LaneList(list(items), len(items), frame.lanes)
            if not isinstance(items, LaneList | LaneRange):
                raise NotVectorisable("a loop over what is no list or range")
            length = items.count if isinstance(items, LaneList) else None
            mask, lost = frame.mask, frame.lost
            outer = frame.broken, frame.continued, frame.ahead
            frame.broken = False
            ahead: Any = mask
            over: Any = False
            for step, (value, there) in enumerate(items.steps(mask)):
                over = union(over, rest(ahead, there))
                ahead = part(ahead, there)
                if ahead is False:
                    break
                before = frame.lost
                frame.mask, frame.live, frame.continued = ahead, True, False
                target(frame, value)
                if rows is not None:
                    frame.ahead = {name: row(step) for name, row in rows.items()}
                body(frame)
                if isinstance(items, LaneList) and items.count is not length:
                    raise NotVectorisable("a loop over a list that it changes")
                if frame.lost != before:
                    ahead = union(frame.mask if frame.live else False, frame.continued)
                    if ahead is False:
                        break
            over = union(over, ahead)
            broken = frame.broken
            frame.broken, frame.continued, frame.ahead = outer
            if over is not False:
                frame.mask, frame.live = over, True
                orelse(frame)
                over = frame.mask if frame.live else False
            after = mask if frame.lost == lost else union(over, broken)
            frame.live = after is not False
            frame.mask = after if frame.live else None

        return go


def _sequence(steps: Sequence[Step | None]) -> Step:
    """Steps one after the other, while any lane is under way."""
    known = [step for step in steps if step is not None]

    def go(frame: Frame) -> None:
        for step in known:
            frame.work.charge(STATEMENT + frame.lanes)
            step(frame)
            if not frame.live:
                return

    return go


def _from_ahead(names: Sequence[str]) -> Step:
    """Gives variables the values that were computed ahead."""

    def go(frame: Frame) -> None:
        for name in names:
            frame.write(name, frame.ahead[name])

    return go


def _break(frame: Frame) -> None:
    frame.broken = union(frame.broken, frame.mask)
    frame.leave()


def _continue(frame: Frame) -> None:
    frame.continued = union(frame.continued, frame.mask)
    frame.leave()
