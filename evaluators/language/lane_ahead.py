"""Loops over a range, run ahead: what no step hands on to the next, for all steps at once.

A loop that tries every number of splits computes a cost and keeps the cheapest. The cost of one step does not depend on
the step before, so that all steps of all shapes can be computed as one row of lanes; only what remains is done step by
step. Where that fails, e.g. since a step that Python would not reach divides by zero, the loop is run as it is written.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.language.lane_frames import Frame, Views
from evaluators.language.lane_lists import LaneList, LaneRange
from evaluators.language.lanes import INT, Lanes, NotVectorisable, Value

MOST_LANES = 400_000
"""Steps of all shapes together; beyond, arrays no longer fit into the caches."""

LEAST_STEPS, MOST_STEPS = 3, 4_000_000
"""Steps of the longest loop from which it pays; steps of all shapes, were all loops as long, up to which it does."""

Row = Callable[[int], Value]
Step = Callable[[Frame], None]


def stored(nodes: Sequence[ast.AST]) -> set[str]:
    """Names that are assigned to; those of comprehensions are their own."""
    parts = [part for node in nodes for part in ast.walk(node)]
    own = {id(n) for part in parts if isinstance(part, ast.comprehension) for n in ast.walk(part.target)}
    return {n.id for n in parts if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and id(n) not in own}


def _loaded(nodes: Sequence[ast.AST]) -> set[str]:
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def independent(loop: ast.For) -> list[tuple[ast.stmt, frozenset[str]]]:
    """Statements of a loop's body that read nothing that a step before has written.

    Returns:
        Each with the names that get their last value of the step there.
    """
    if not isinstance(loop.target, ast.Name):
        return []
    written = stored(loop.body)
    if loop.target.id in written:
        return []
    found: list[tuple[ast.stmt, frozenset[str]]] = []
    known: set[str] = set()
    settled: set[str] = set()
    """Known names that a statement outside has seen, and that must not change any more."""
    for statement in loop.body:
        mine = _assigned_by(statement, written, known)
        changed = stored([statement])
        if mine is None or changed & settled:
            settled |= known
            known -= changed
            continue
        found = [(s, names - changed) for s, names in found]
        found.append((statement, frozenset(changed)))
        known |= mine
    return found


def _assigned_by(statement: ast.stmt, written: set[str], known: set[str]) -> set[str] | None:
    """Names that a statement surely gives a value to; None where it cannot be run ahead."""
    for part in ast.walk(statement):
        if isinstance(part, ast.Break | ast.Continue | ast.Return | ast.Expr):
            return None
        if isinstance(part, ast.Subscript | ast.Attribute) and isinstance(part.ctx, ast.Store):
            return None
    if isinstance(statement, ast.Assign):
        targets = statement.targets
        if not all(isinstance(t, ast.Name) for t in targets) or _loaded([statement.value]) & written - known:
            return None
        return stored(targets)
    if isinstance(statement, ast.AugAssign):
        names = _loaded([statement.value]) | stored([statement.target])
        return None if names & written - known else set()
    if isinstance(statement, ast.If):
        # Only what has had a value before surely has one afterwards.
        return None if (_loaded([statement]) | stored([statement])) & written - known else set()
    return None


class Ahead:
    """Runs the independent statements of one loop ahead."""

    def __init__(self, target: str, names: set[str], block: Step) -> None:
        """Take the loop's variable, the names that the statements assign to, and the statements."""
        self._target, self._names, self._block = target, sorted(names), block
        self._key: tuple[bytes, ...] = ()
        self._lanes: _Steps | None = None

    def rows(self, frame: Frame, items: LaneRange) -> dict[str, Row] | None:
        """Values of the names at each step; None where the loop has to be run as it is written."""
        if frame.wide or frame.parent is not None or items.most(frame.mask) < LEAST_STEPS:
            return None
        steps = self._steps(frame, items)
        if steps is None:
            return None
        wide = Frame(len(steps.owner), None, frame.work, parent=frame, owner=steps.owner)
        wide.wide, wide.taken = True, steps.taken
        wide.values[self._target] = steps.values
        try:
            self._block(wide)
        except NotVectorisable:
            return None
        if any(_touched(copy) for _, copy in steps.taken.values()):
            self._key = ()  # a change that one step sees of another; the copies are of no use any more
            return None
        found: dict[str, Row] = {}
        for name in self._names:
            value = wide.values.get(name)
            if name in wide.defined or not (isinstance(value, Lanes) or type(value) in (bool, int, float)):
                return None
            found[name] = steps.row(value)
        return found

    def _steps(self, frame: Frame, items: LaneRange) -> _Steps | None:
        """The lanes of all steps; the same object while the range is the same, so that values on them are kept."""
        start = items.start.data.tobytes() if isinstance(items.start, Lanes) else repr(items.start).encode()
        length = items.length()
        counts = length.data.tobytes() if isinstance(length, Lanes) else repr(length).encode()
        active = b"" if frame.mask is None else frame.mask.tobytes()
        key = (start, repr(items.step).encode(), counts, active)
        if key != self._key:
            self._key, self._lanes = key, None
            if items.most(frame.mask) * frame.lanes > MOST_STEPS:
                return None
            values, owner, each = items.flat(frame.mask)
            if 0 < len(owner) <= MOST_LANES and isinstance(values, Lanes):
                self._lanes = _Steps(values, owner, each)
        return self._lanes


def _touched(value: Value) -> bool:
    listed = value.known("n_blocks") if isinstance(value, Views) else value
    return isinstance(listed, LaneList) and listed.touched


class _Steps:
    """All steps of a loop on all lanes that take part, as lanes of their own."""

    def __init__(self, values: Lanes, owner: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> None:
        self.values, self.owner = values, owner
        self.taken: dict[int, tuple[Value, Value]] = {}
        self._position = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
        self._shape = int(counts.max()), len(counts)

    def row(self, value: Value) -> Row:
        """A value on these lanes, step by step on the lanes of the shapes."""
        if not isinstance(value, Lanes):
            return lambda _: value
        data, tags = self._spread(value.data), None if value.tags is None else self._spread(value.tags)
        low, high = (min(value.low, 0), max(value.high, 0)) if value.kind == INT else (0, 0)
        return lambda step: Lanes(value.kind, data[step], low, high, None if tags is None else tags[step])

    def _spread(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        found = np.zeros(self._shape, data.dtype)
        found[self._position, self.owner] = data
        return found
