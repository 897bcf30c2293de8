"""Compilation of a heuristic as host C++, and its evaluation, the basis of the export's proofs."""

from __future__ import annotations

import os
import shutil
import signal
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
EXAMPLE = ("-std=gnu++17", "-O0", "-w", "-ffp-contract=off")
FAST = ("-std=c++17", "-O2", "-ffp-contract=off")
LIBRARY = ("-std=c++17", "-O2", "-w", "-ffp-contract=off", "-shared", "-fPIC",
           *(f"-fno-builtin-{name}" for name in ("exp", "exp2", "log", "log2")))  # fmt: skip
"""Flags for results equal to CPython's, whose `math` calls the C library at run time."""
LIMITED = 'ulimit -t "$1"; ulimit -v "$2"; ulimit -f "$3"; shift 3; exec "$@"'
LIBRARY_LIMITS = (10, 1_000_000, 65_536)
"""CPU seconds, KiB of memory and file size (in 512-byte blocks) of a compiler that is given a candidate's code."""
COMPILE_LIMIT_S = 300
RUN_LIMIT_S = 600


class CompileError(Exception):
    """The compiler refused the text; the message is its own."""


class Stopped(UserError):
    """The compiled function ended without a result, e.g. by a sanitizer at undefined behaviour."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """The system's C++ compiler; `version` is the first line of its version output."""

    path: str
    version: str


def find_compiler() -> Compiler:
    """$CXX, or the first of c++, g++ and clang++.

    Raises:
        UserError: there is none (exit code 3).
    """
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else COMPILERS:
        path = shutil.which(name)
        if path:
            done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            return Compiler(path, done.stdout.partition("\n")[0])
    tried = f"CXX names {wanted!r}, which is not a program" if wanted else f"none of {', '.join(COMPILERS)} is on PATH"
    raise UserError(
        f"no C++ compiler: {tried}",
        hint="install g++ or clang++, or set CXX; without one the proof cannot run",
        exit_code=EXIT_MISSING,
    )


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A compiled heuristic.

    Attributes:
        binary: path of the compiled harness.
        inputs: numbers per row.
    """

    binary: Path
    inputs: int

    def answers(self, rows: Sequence[Sequence[int]], *, limit_s: float = RUN_LIMIT_S) -> list[int]:
        """Evaluate the function on each row.

        Raises:
            Stopped: it ended without a result, or took too long.
        """
        found = self._ask([v for row in rows for v in row], [], limit_s)
        if len(found) != len(rows):
            raise Stopped(f"the compiled function stopped at input {list(rows[len(found)])}")
        return found

    def falls(self, walks: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
        """First decrease along each walk: (seqlen_k, before, after); seqlen_k is -1 without one."""
        found = self._ask([v for row in walks for v in row], ["walk"], RUN_LIMIT_S)
        if len(found) != 3 * len(walks):
            raise Stopped(f"the compiled function stopped in walk {list(walks[len(found) // 3])}")
        return [(found[i], found[i + 1], found[i + 2]) for i in range(0, len(found), 3)]

    def _ask(self, numbers: list[int], arguments: list[str], limit_s: float) -> list[int]:
        try:
            done = subprocess.run(
                [self.binary, *arguments],
                input=array("q", numbers).tobytes(),
                capture_output=True,
                check=False,
                timeout=limit_s,
            )
        except subprocess.TimeoutExpired:
            raise Stopped(f"the compiled function took longer than {limit_s:.0f} s") from None
        if done.returncode and done.stderr:
            line = done.stderr.decode(errors="replace").partition("\n")[0]
            raise Stopped(f"the compiled function stopped: {line}")
        found = array("q")
        found.frombytes(done.stdout[: len(done.stdout) // 8 * 8])
        return found.tolist()


def compile_function(compiler: Compiler, text: str, call: str, inputs: int, folder: Path,
                     flags: Sequence[str] = CHECKED) -> HostFunction:  # fmt: skip
    """Compile a function into the harness.

    `text` is the function as in the patched tree, and the definitions that it needs; `call` is the C++ expression of
    its answer over `row[0]`, `row[1]`, ...; `inputs` is the count of numbers in a row.

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


def compile_library(compiler: Compiler, text: str, folder: Path) -> Path:
    """Compile a translated candidate (`evaluators.language.native`) as a library, within limits.

    Raises:
        CompileError: with the compiler's message, or where it took too much time or memory.
    """
    source, library = folder / "heuristic.cpp", folder / "heuristic.so"
    source.write_text(text, encoding="utf-8")
    command = [compiler.path, *LIBRARY, "-o", str(library), str(source)]
    process = subprocess.Popen(
        ["/bin/sh", "-c", LIMITED, "sh", *map(str, LIBRARY_LIMITS), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=COMPILE_LIMIT_S)
    except subprocess.TimeoutExpired:
        errors = "it took too long"
    finally:
        if process.poll() is None:
            # Includes child processes of the compiler.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise CompileError(errors.strip()[:4000] or "the compiler ended without a message")
    return library
