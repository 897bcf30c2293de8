"""Answers of a program on all shapes at once, with numpy: what constant fitting asks thousands of times a second.

Equal to the sandbox's answers, or none at all: a program that arrays cannot follow, that fails on a shape, or
that costs too much raises `NotVectorisable`, and the caller asks the sandbox. The syntax tree is interpreted, so
that nothing of a candidate is executed; numeric literals can be given other values without compiling again.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.data.contract import MAX_NUM_SPLITS, Decision, Gpu, ShapeView, WorkView
from evaluators.data.questions import Question
from evaluators.language.gate import Program
from evaluators.language.lane_expressions import Expressions
from evaluators.language.lane_frames import Frame, Views, Work
from evaluators.language.lane_lists import LaneList
from evaluators.language.lane_memory import NOTHING, Built, Leaves
from evaluators.language.lane_statements import Statements
from evaluators.language.lanes import BOOL, FLOAT, INT, Lanes, NotVectorisable, Value, ints, kind_of, truth
from evaluators.language.operations import UNARY, local_names
from evaluators.language.tables import with_local_tables

Number = int | float
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DecisionArrays:
    """Decisions on all shapes, in the order of the questions.

    Attributes:
        num_splits: 0..256.
        pack_gqa: -1 for None, else 0 or 1.
        sm_margin: SMs left free.
        blocks_per_split: 0 where the program leaves it to FA3.
    """

    num_splits: Int64
    pack_gqa: Int64
    sm_margin: Int64
    blocks_per_split: Int64

    def digest(self) -> bytes:
        """Tells decision tables apart."""
        columns = (self.num_splits, self.pack_gqa, self.sm_margin, self.blocks_per_split)
        return hashlib.sha256(b"".join(np.ascontiguousarray(c).tobytes() for c in columns)).digest()

    def decisions(self) -> tuple[Decision, ...]:
        """The same as objects."""
        pack = {-1: None, 0: False, 1: True}
        columns = (self.num_splits, self.pack_gqa, self.sm_margin, self.blocks_per_split)
        rows = zip(*(c.tolist() for c in columns), strict=True)
        return tuple(Decision(n, pack[p], m, b) for n, p, m, b in rows)


def literals(tree: ast.Module) -> list[ast.Constant]:
    """Numeric literals of a program in the order of the text; docstrings, booleans and None are none."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) in (int, float)]
    return sorted(found, key=lambda n: (n.lineno, n.col_offset))


@dataclass(frozen=True, slots=True)
class Function:
    """A compiled function.

    Attributes:
        names: its parameters.
        body: runs the statements.
        reads: fields and slots of numbers that it and its helpers read; None where it might change a list.
        slots: of numbers that it and its helpers read.
    """

    names: tuple[str, ...]
    body: Any
    reads: frozenset[str | int] | None
    slots: frozenset[int]

    @property
    def arity(self) -> int:
        """Number of parameters."""
        return len(self.names)

    def call(self, arguments: Sequence[Value], caller: Frame) -> Value:
        """Call it on the caller's active lanes."""
        frame = Frame(caller.lanes, caller.mask, caller.work)
        frame.wide = caller.wide
        frame.values.update(zip(self.names, arguments, strict=True))
        self.body(frame)
        return frame.end()


class Compiler:
    """Compiles one program; `numbers` are the values of its tunable literals."""

    def __init__(self, tree: ast.Module, tunable: Sequence[int]) -> None:
        """Compile.

        Args:
            tree: of a program that the gate has passed.
            tunable: positions in `literals(tree)` whose values each run may choose.

        Raises:
            NotVectorisable: a construct that arrays cannot follow.
        """
        found = literals(tree)
        tree = with_local_tables(tree)
        self.numbers: list[Number] = []
        self.tokens: list[tuple[type, Number]] = []
        self.set([found[i].value for i in tunable])  # type: ignore[misc]
        self._slots = {id(found[position]): slot for slot, position in enumerate(tunable)}
        self.functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        self.math_names = {a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
        self.constants: dict[str, Built] = {}
        self._compiled: dict[str, Function] = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.constants[node.targets[0].id] = self._constant(node.value)
        if self.constants.keys() & (self.functions.keys() | self.math_names):
            raise NotVectorisable("a constant and a function of the same name")

    def set(self, numbers: Sequence[Number]) -> None:
        """Give the tunable numbers other values."""
        self.numbers[:] = numbers
        # With the type: 1 and 1.0 are equal but decide differently.
        self.tokens[:] = [(type(n), n) for n in numbers]

    def slot(self, node: ast.Constant) -> int | None:
        """Which of `numbers` a literal is; None for a fixed one."""
        return self._slots.get(id(node))

    def _constant(self, node: ast.expr) -> Built:
        literal = node.operand if isinstance(node, ast.UnaryOp) else node
        assert isinstance(literal, ast.Constant)
        sign = UNARY[type(node.op)] if isinstance(node, ast.UnaryOp) else lambda value: value
        slot, numbers = self.slot(literal), self.numbers
        if slot is None:
            value = sign(literal.value)
            return Built(lambda _: value, NOTHING, trivial=True)
        return Built(lambda _: sign(numbers[slot]), Leaves(frozenset({slot})), trivial=True)

    def function(self, name: str) -> Function:
        """A function of the program."""
        if name not in self._compiled:
            node = self.functions[name]
            names = tuple(a.arg for a in node.args.args)
            stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            expressions = Expressions(self, local_names(node), frozenset(names) - stored)
            body = Statements(expressions).block(node.body)
            self._compiled[name] = Function(names, body, self._reads(node), self._slots_of(node))
        return self._compiled[name]

    def _slots_of(self, node: ast.FunctionDef) -> frozenset[int]:
        """Numbers that a function and its helpers read."""
        found: set[int] = set()
        for part in ast.walk(node):
            if isinstance(part, ast.Constant):
                found |= {slot for slot in (self.slot(part),) if slot is not None}
            elif isinstance(part, ast.Name) and part.id in self.constants:
                found |= (self.constants[part.id].leaves or NOTHING).slots()
            elif isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in self.functions:
                found |= self.function(part.func.id).slots
        return frozenset(found)

    def _reads(self, node: ast.FunctionDef) -> frozenset[str | int] | None:
        """Fields and numbers that a function and its helpers read; None where it might change a list."""
        found: set[str | int] = set(self._slots_of(node))
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute):
                if part.attr == "n_blocks":
                    return None
                found.add(part.attr)
            elif isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in self.functions:
                inner = self.function(part.func.id).reads
                if inner is None:
                    return None
                found |= inner
        return frozenset(found)


def _lane_fields(rows: Sequence[ShapeView] | Sequence[WorkView], names: Sequence[str]) -> dict[str, Value]:
    """Fields of many views as lanes."""
    found: dict[str, Value] = {}
    for name in names:
        column = [getattr(row, name) for row in rows]
        found[name] = Lanes(BOOL, np.array(column)) if type(column[0]) is bool else ints(np.array(column, np.int64))
    return found


class Vectoriser:
    """Asks programs a fixed set of questions, as `evaluators.sandbox.sandbox.Sandbox` does, without a process."""

    def __init__(self, gpu: Gpu, questions: Sequence[Question]) -> None:
        """Turn the questions into arrays."""
        self.gpu = gpu
        self.count = len(questions)
        self.shape = _lane_fields([q.shape for q in questions], [f.name for f in fields(ShapeView)])
        work = [q.work for q in questions]
        names = [f.name for f in fields(WorkView) if f.name not in ("num_splits", "n_blocks")]
        self.work = _lane_fields(work, names)
        self.stock = np.array([q.stock_num_splits for q in questions], np.int64)
        most = max(len(w.n_blocks) for w in work)
        rows = np.zeros((most, self.count), np.int64)
        for lane, view in enumerate(work):
            rows[: len(view.n_blocks), lane] = view.n_blocks
        counts = np.array([len(w.n_blocks) for w in work], np.int64)
        self.n_blocks = LaneList([ints(row) for row in rows], counts, self.count)
        self.n_blocks.flat(None)

    def compile(self, program: Program, tunable: Sequence[int] = ()) -> Compiled:
        """Compile a program once for many runs.

        Args:
            program: passed by the gate.
            tunable: positions in `literals(program.tree)` whose values each run may choose.

        Raises:
            NotVectorisable: a construct that arrays cannot follow.
        """
        return Compiled(self, Compiler(program.tree, tunable), program.uses_blocks_per_split)

    def ask(self, program: Program) -> DecisionArrays:
        """Compile and run once.

        Raises:
            NotVectorisable: only the sandbox can answer.
        """
        return self.compile(program).run()


class Compiled:
    """A program over a fixed set of questions. Not thread-safe: runs share what they have kept."""

    def __init__(self, questions: Vectoriser, compiler: Compiler, uses_blocks_per_split: bool) -> None:
        """Compile the entry points."""
        self._questions, self._compiler = questions, compiler
        self._schedule = compiler.function("schedule")
        self._blocks = compiler.function("blocks_per_split") if uses_blocks_per_split else None
        self._shape = Views(questions.shape)
        self._last: tuple[Int64, Views] | None = None
        self._gpu = Views({f.name: getattr(questions.gpu, f.name) for f in fields(Gpu)})

    def run(self, numbers: Sequence[Number] = ()) -> DecisionArrays:
        """Decide on all shapes.

        Args:
            numbers: values of the tunable literals, of the types that the text would have; empty for its own.

        Raises:
            NotVectorisable: only the sandbox can answer, perhaps with an error.
        """
        if numbers:
            if len(numbers) != len(self._compiler.numbers):
                raise ValueError(f"expected {len(self._compiler.numbers)} numbers, got {len(numbers)}")
            self._compiler.set(numbers)
        everything, lanes = self._questions, self._questions.count
        caller = Frame(lanes, None, Work())
        with np.errstate(all="ignore"):
            answer = self._schedule.call((self._shape, self._gpu), caller)
            if not isinstance(answer, tuple) or len(answer) != 3:
                raise NotVectorisable("schedule must return (num_splits, pack_gqa, sm_margin)")
            num_splits = _whole(answer[0], "num_splits", MAX_NUM_SPLITS, lanes)
            pack_gqa = _pack(answer[1], lanes)
            margin = _whole(answer[2], "sm_margin", everything.gpu.max_sm_margin, lanes)
            blocks = np.zeros(lanes, np.int64)
            if self._blocks is not None:
                work = self._work(np.where(num_splits == 0, everything.stock, num_splits))
                blocks = _whole(self._blocks.call((work, self._gpu), caller), "blocks", 2**31 - 1, lanes)
        return DecisionArrays(num_splits, pack_gqa, margin, blocks)

    def _work(self, caps: Int64) -> Views:
        """The device-side view; the last one where the caps are the same, so that what follows from it is kept."""
        if self._last is None or self._last[1].known("n_blocks").touched or not np.array_equal(self._last[0], caps):
            listed = self._questions.n_blocks.copy()
            view = Views({**self._questions.work, "num_splits": ints(caps), "n_blocks": listed})
            self._last = caps, view
        return self._last[1]


def _whole(value: Value, name: str, high: int, lanes: int) -> Int64:
    """An exact int in range on every lane."""
    if kind_of(value) != INT:
        raise NotVectorisable(f"{name} must be an int")
    data = value.data if isinstance(value, Lanes) else np.full(lanes, value, np.int64)
    if data.min(initial=0) < 0 or data.max(initial=0) > high:
        raise NotVectorisable(f"{name} must lie in 0..{high}")
    return np.asarray(data, np.int64)


def _pack(value: Value, lanes: int) -> Int64:
    """pack_gqa as -1 for None, 0 and 1."""
    if value is None:
        return np.full(lanes, -1, np.int64)
    if not isinstance(value, Lanes):
        if type(value) is not bool:
            raise NotVectorisable("pack_gqa must be None, True or False")
        return np.full(lanes, int(value), np.int64)
    held = np.asarray(truth(value), np.int64)
    if value.kind == BOOL:
        return held
    if value.tags is None or ((value.tags == INT) | (value.tags == FLOAT)).any():
        raise NotVectorisable("pack_gqa must be None, True or False")
    return np.where(value.tags == BOOL, held, -1)
