"""Decision tables of one program with varying constants, from native code or, as a fall-back, from the sandbox."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from evaluators.data.contract import Gpu
from evaluators.data.questions import Question
from evaluators.data.status import Status
from evaluators.language.gate import Program, ProgramRefused, parse_program
from evaluators.language.literals import Number, with_numbers
from evaluators.language.native import Range
from evaluators.sandbox.decision_arrays import DecisionArrays
from evaluators.sandbox.native import NativeCompiler, NativeProgram, NotNative
from evaluators.sandbox.process import Limits
from evaluators.sandbox.sandbox import Sandbox
from evaluators.targets.fa3 import FA3
from evaluators.targets.target import AnyTarget

LOG = logging.getLogger(__name__)


_SAID = threading.Event()


def _say_once(reason: NotNative) -> None:
    """Log a warning about the first program in this process without native code."""
    if not _SAID.is_set():
        _SAID.set()
        LOG.warning("constants are fitted with CPython in the sandbox, which is slower: %s", reason)


class Tables:
    """Factory of programs on a fixed set of questions."""

    def __init__(self, gpu: Gpu, questions: Sequence[Question], limits: Limits, *, target: AnyTarget = FA3) -> None:
        """Serialise the questions once.

        Raises:
            SandboxUnavailable: this system cannot confine candidates.
        """
        self.target = target
        self.sandbox = Sandbox(gpu, questions, limits, target=target)
        self.compiler = NativeCompiler(gpu, questions, limits, target=target)

    def open(self, program: Program, bounds: Mapping[int, Range]) -> ProgramTables:
        """Open a program whose literals at some positions (in `literals`) can vary within bounds."""
        try:
            native: NativeProgram | None = self.compiler.compile(program, bounds)
        except NotNative as reason:
            _say_once(reason)
            native = None
        return ProgramTables(self, program, sorted(bounds), native)


class ProgramTables:
    """One program, ready for many vectors of constants; close it, or use it in a `with` statement. Not thread-safe."""

    def __init__(
        self, tables: Tables, program: Program, positions: Sequence[int], native: NativeProgram | None
    ) -> None:
        """Store the native program and the fall-back."""
        self._tables, self._program, self._positions, self._native = tables, program, positions, native

    @property
    def is_native(self) -> bool:
        """True if native code decides."""
        return self._native is not None

    def __enter__(self) -> ProgramTables:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the native process, if there is one."""
        if self._native is not None:
            self._native.close()

    def run(self, numbers: Sequence[Number]) -> DecisionArrays | None:
        """Decide with these constants, in the order of the positions; None if the program fails.

        Raises:
            SandboxUnavailable: no process could be started.
        """
        found = None
        if self._native is not None:
            try:
                found = self._native.run([numbers])[0]
            except NotNative as reason:
                _say_once(reason)
                self._native = None
        return found or self._from_sandbox(numbers)

    def _from_sandbox(self, numbers: Sequence[Number]) -> DecisionArrays | None:
        moved = dict(zip(self._positions, numbers, strict=True))
        try:
            program = parse_program(with_numbers(self._program.source, self._program.tree, moved))
        except ProgramRefused:
            return None
        answers = self._tables.sandbox.ask(program)
        return DecisionArrays.of(self._tables.target, answers.decisions) if answers.status is Status.OK else None
