"""Compiles a heuristic as host C++ and asks it: what the export's proofs stand on."""

from __future__ import annotations

import os
import shutil
import subprocess
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.data.errors import EXIT_MISSING, UserError

HARNESS = Path(__file__).with_name("harness.cpp")
COMPILERS = ("c++", "g++", "clang++")
CHECKED = ("-std=c++17", "-O1", "-w", "-ffp-contract=off", "-D_GLIBCXX_ASSERTIONS",
           "-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all")  # fmt: skip
"""The proof stops at the first overflow, division by zero or cast out of range."""
FAST = ("-std=c++17", "-O2", "-ffp-contract=off")
COMPILE_LIMIT_S = 300
RUN_LIMIT_S = 600


class CompileError(Exception):
    """The compiler refused the text; the message is its own."""


class Stopped(UserError):
    """The compiled function ended before it had answered, as the sanitizers make it do at undefined behaviour."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """The system's C++ compiler.

    Attributes:
        path: of the program.
        version: first line of what it says about itself.
    """

    path: str
    version: str


def find_compiler() -> Compiler:
    """$CXX, or the first of c++, g++ and clang++.

    Raises:
        UserError: none is there (exit code 3).
    """
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else COMPILERS:
        path = shutil.which(name)
        if path:
            done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            return Compiler(path, done.stdout.partition("\n")[0])
    tried = f"CXX names {wanted!r}, which is no program" if wanted else f"none of {', '.join(COMPILERS)} is on PATH"
    raise UserError(
        f"no C++ compiler: {tried}",
        hint="install g++ or clang++, or set CXX; without one the proof cannot run",
        exit_code=EXIT_MISSING,
    )


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A compiled heuristic.

    Attributes:
        binary: the program that the harness became.
        inputs: how many numbers a row has.
    """

    binary: Path
    inputs: int

    def answers(self, rows: Sequence[Sequence[int]]) -> list[int]:
        """Its answer for each row.

        Raises:
            Stopped: it did.
        """
        found = self._ask([v for row in rows for v in row], [])
        if len(found) != len(rows):
            raise Stopped(f"the compiled function stopped at input {list(rows[len(found)])}")
        return found

    def falls(self, walks: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
        """Where each walk's answer first falls: (seqlen_k, before, after); seqlen_k -1 where it never does."""
        found = self._ask([v for row in walks for v in row], ["walk"])
        if len(found) != 3 * len(walks):
            raise Stopped(f"the compiled function stopped in walk {list(walks[len(found) // 3])}")
        return [(found[i], found[i + 1], found[i + 2]) for i in range(0, len(found), 3)]

    def _ask(self, numbers: list[int], arguments: list[str]) -> list[int]:
        done = subprocess.run(
            [self.binary, *arguments],
            input=array("q", numbers).tobytes(),
            capture_output=True,
            check=False,
            timeout=RUN_LIMIT_S,
        )
        if done.returncode and done.stderr:
            line = done.stderr.decode(errors="replace").partition("\n")[0]
            raise Stopped(f"the compiled function stopped: {line}")
        found = array("q")
        found.frombytes(done.stdout[: len(done.stdout) // 8 * 8])
        return found.tolist()


def compile_function(compiler: Compiler, text: str, call: str, inputs: int, folder: Path,
                     flags: Sequence[str] = CHECKED) -> HostFunction:  # fmt: skip
    """Compile a function into the harness.

    Args:
        compiler: what to compile with.
        text: the function, as the patched tree holds it, and what it stands on.
        call: C++ expression of its answer over `row[0]`, `row[1]`, ...
        inputs: numbers in a row.
        folder: where source and program go.
        flags: of the compiler.

    Raises:
        CompileError: with the compiler's message.
    """
    source = HARNESS.read_text(encoding="utf-8")
    for mark, value in (("@FUNCTION@", text), ("@CALL@", call), ("@INPUTS@", str(inputs))):
        source = source.replace(mark, value)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"heuristic{len(list(folder.glob('*.cpp')))}.cpp"
    path.write_text(source, encoding="utf-8")
    binary = path.with_suffix("")
    done = subprocess.run(
        [compiler.path, *flags, "-o", str(binary), str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMPILE_LIMIT_S,
    )
    if done.returncode:
        raise CompileError(done.stderr.strip()[:4000])
    return HostFunction(binary, inputs)
