"""Compares the changed function, compiled, with the program; one difference stops the export.

Inputs are every shape of the workloads, every edge and 100,000 random ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.data.contract import Decision, ShapeView, WorkView
from evaluators.language.cpp.compiler import CHECKED, CompileError, Compiler, HostFunction, compile_function
from evaluators.language.gate import Program
from evolve.errors import UserError
from evolve.export.evidence.answers import NO_WORK, ask
from evolve.export.patch.header import SourceChange
from evolve.export.patch.prepare import edge_works, random_works, work_row
from evolve.export.targets.domain import INPUT
from evolve.export.targets.inputs import MAY_BE_ZERO, edge_views, random_views

RANDOM_INPUTS = 100_000
SEED = 20_260_401
LARGEST_NUM_SPLITS = 256


@dataclass(frozen=True, slots=True)
class Proof:
    """Result of the comparison.

    Attributes:
        compiler: version line of the compiler.
        lattice: inputs from the workloads' shapes.
        edges: inputs at and around bounds and thresholds.
        random: random inputs.
        outside: unmeasured inputs, on which the answer had to stay the target's own.
        empty: inputs with a 0, on which the function must only not fail.
    """

    compiler: str
    lattice: int
    edges: int
    random: int
    empty: int
    outside: int = 0

    @property
    def compared(self) -> int:
        """Number of inputs on which both had to give the same answer."""
        return self.lattice + self.edges + self.random


class EmptyInput(UserError):
    """An input of 0 gets an answer that the kernel does not accept."""


class Mismatch(UserError):
    """The translation and the program differ; a bug of the exporter."""


def row_of(view: ShapeView, num_sms: int, inputs: Sequence[str], *, measured: bool = True) -> list[int]:
    """A row for the compiled function."""
    own = {"gpu.num_sms": num_sms, INPUT: int(measured)}
    return [own[n] if n in own else int(getattr(view, n)) for n in inputs]


def compile_change(
    change: SourceChange, compiler: Compiler, folder: Path, flags: Sequence[str] = CHECKED
) -> HostFunction:
    """Compile the changed function on this machine.

    Raises:
        CompileError: it does not compile.
    """
    return compile_function(compiler, change.function, change.call, len(change.inputs), folder, flags)


def prove_schedule(program: Program, stock: Program, change: SourceChange, lattice: Sequence[tuple[ShapeView, int]],
                   compiler: Compiler, folder: Path) -> Proof:  # fmt: skip
    """Compare `schedule` with the changed function.

    Only the program's num_splits counts; `stock`, FA3's own rule, must decide all unmeasured calls. `lattice` holds
    inputs from the workloads, with the number of SMs.

    Raises:
        Mismatch: at the first input where they differ.
        UserError: the program fails, or its answer is not accepted by the kernel.
        CompileError: the function does not compile.
    """
    function = compile_change(change, compiler, folder)
    views = [*lattice, *edge_views(), *random_views(RANDOM_INPUTS, SEED)]
    decided = ask(program, [(v, NO_WORK, s) for v, s in views], "inputs of the proof")
    got = function.answers([row_of(v, s, change.inputs) for v, s in views])
    for (view, num_sms), decision, answer in zip(views, decided, got, strict=True):
        _check(row_of(view, num_sms, change.inputs), decision, answer, change.inputs)
    outside = _prove_outside(stock, function, change, views)
    empty = []
    for name in (n for n in change.inputs if n in MAY_BE_ZERO):
        for view, num_sms in (*lattice, *edge_views()):
            row = row_of(view, num_sms, change.inputs)
            row[change.inputs.index(name)] = 0
            empty.append(row)
    for row, answer in zip(empty, function.answers(empty), strict=True):
        if not 1 <= answer <= LARGEST_NUM_SPLITS:
            shown = ", ".join(f"{n}={v}" for n, v in zip(change.inputs, row, strict=True))
            raise EmptyInput(f"an empty input gets num_splits {answer}: {shown}", hint="use max(1, ...) in the rule")
    edges = len(views) - len(lattice) - RANDOM_INPUTS
    return Proof(compiler.version, len(lattice), edges, RANDOM_INPUTS, len(empty), outside)


def _prove_outside(stock: Program, function: HostFunction, change: SourceChange,
                   views: Sequence[tuple[ShapeView, int]]) -> int:  # fmt: skip
    """Compare with FA3's own rule on unmeasured calls; returns the number of inputs."""
    if INPUT not in change.inputs:
        return 0
    rows = [row_of(v, s, change.inputs, measured=False) for v, s in views]
    decided = ask(stock, [(v, NO_WORK, s) for v, s in views], "inputs of the proof")
    for row, decision, answer in zip(rows, decided, function.answers(rows), strict=True):
        _check(row, decision, answer, change.inputs)
    return len(rows)


def prove_blocks(program: Program, stock: Program, change: SourceChange,
                 lattice: Sequence[tuple[ShapeView, WorkView, int]], compiler: Compiler,
                 folder: Path) -> Proof:  # fmt: skip
    """Compare `blocks_per_split` with the changed formula.

    Raises:
        Mismatch: at the first batch where they differ.
        UserError: the program fails or answers less than 1.
        CompileError: the formula does not compile as host C++.
    """
    function = compile_change(change, compiler, folder)
    shape = lattice[0][0]
    edges = edge_works(shape)
    works = [*lattice, *edges, *random_works(RANDOM_INPUTS, SEED, shape)]
    decided = ask(program, works, "inputs of the proof")
    rows = [work_row(work, num_sms) for _, work, num_sms in works]
    for row, decision, answer in zip(rows, decided, function.answers(rows), strict=True):
        if decision.blocks_per_split < 1:
            raise UserError(
                f"blocks_per_split {decision.blocks_per_split} at {_shown(row, change)}", hint="max(1, ...)"
            )
        _same_blocks(row, decision, answer, change)
    outside = 0
    if f"if ({INPUT} " in change.function:
        rows = [work_row(work, num_sms, measured=False) for _, work, num_sms in works]
        decided = ask(stock, works, "inputs of the proof")
        for row, decision, answer in zip(rows, decided, function.answers(rows), strict=True):
            _same_blocks(row, decision, answer, change)
        outside = len(rows)
    # Batches of empty sequences: the formula must only not fail.
    empty = [_without_keys(work_row(work, num_sms), change.inputs, all_of_them)
             for _, work, num_sms in edges for all_of_them in (True, False)]  # fmt: skip
    function.answers(empty)
    return Proof(compiler.version, len(lattice), len(edges), RANDOM_INPUTS, len(empty), outside)


def _without_keys(row: list[int], inputs: Sequence[str], all_of_them: bool) -> list[int]:
    names = ("total_blocks", "total_n_blocks", "max_n_blocks", "min_n_blocks") if all_of_them else ("min_n_blocks",)
    return [0 if name in names else value for name, value in zip(inputs, row, strict=True)]


def _shown(row: Sequence[int], change: SourceChange) -> str:
    return ", ".join(f"{n.removeprefix('gpu.')}={v}" for n, v in zip(change.inputs, row, strict=True))


def _same_blocks(row: Sequence[int], decision: Decision, answer: int, change: SourceChange) -> None:
    if decision.blocks_per_split != answer:
        raise Mismatch(
            f"the C++ says {answer}, the program {decision.blocks_per_split}: {_shown(row, change)}",
            hint="nothing was written; report this as a bug of evosplit, with the program",
        )


def _check(row: Sequence[int], decision: Decision, answer: int, inputs: Sequence[str]) -> None:
    shown = ", ".join(f"{n.removeprefix('gpu.')}={v}" for n, v in zip(inputs, row, strict=True))
    if not 1 <= decision.num_splits <= LARGEST_NUM_SPLITS:
        raise UserError(f"num_splits {decision.num_splits}, but the kernel takes 1..{LARGEST_NUM_SPLITS}: {shown}")
    if decision.num_splits != answer:
        raise Mismatch(
            f"the C++ says {answer}, the program {decision.num_splits}: {shown}",
            hint="nothing was written; report this as a bug of evosplit, with the program",
        )


__all__ = ["CompileError", "Mismatch", "Proof", "compile_change", "prove_schedule", "row_of"]
