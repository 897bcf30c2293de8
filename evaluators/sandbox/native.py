"""Native code of programs: translated, compiled and run in confined child processes, never in this process.

Decides a table of questions for many vectors of tunable constants, hundreds of times faster than CPython in the
sandbox, with the same decisions or none: programs that cannot be translated, and vectors on which Python would fail or
exceed 64 bits, are left to the sandbox (`tables.py`). Limits on time and memory are looser than the sandbox's: native
code needs less of both.
"""

from __future__ import annotations

import json
import marshal
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from evaluators.data.contract import Gpu
from evaluators.data.errors import UserError
from evaluators.data.questions import Question
from evaluators.language.cpp.compiler import CompileError, compile_library, find_compiler
from evaluators.language.gate import Program
from evaluators.language.literals import Number
from evaluators.language.native import Range, library_source, ranges_of
from evaluators.sandbox import confine
from evaluators.sandbox.decision_arrays import DecisionArrays
from evaluators.sandbox.process import START_UP_S, Limits
from evaluators.targets.fa3 import FA3
from evaluators.targets.target import AnyTarget

TRANSLATE = Path(__file__).with_name("translate_child.py")
CHILD = Path(__file__).with_name("native_child.py")
TRANSLATE_S, TRANSLATE_MB = 5.0, 1024
"""CPU seconds and MiB of one translation; the largest program that ships takes 0.3 s."""

SESSION_S = 24 * 3600.0
"""Longest lifetime of a process with native code; each request has its own limit."""

LOOK_AGAIN_S = 0.2
"""Interval at which the CPU time of a running process is read."""


class NotNative(Exception):
    """Only the sandbox can run the program; the message gives the reason."""


class NativeCompiler:
    """Compiler of programs for one table of questions. Thread-safe."""

    def __init__(self, gpu: Gpu, questions: Sequence[Question], limits: Limits, *, target: AnyTarget = FA3) -> None:
        """Serialise the questions once.

        There is at least one question; `limits` are those of one table: CPU seconds, and MiB of the process.
        """
        self.limits, self.count, self.target = limits, len(questions), target
        self._gpu, self._ranges = gpu, ranges_of(gpu, questions, target)
        works = [work for q in questions for work in q.works]

        def column(rows: Sequence[Sequence[int]]) -> bytes:
            return array("q", [int(value) for row in rows for value in row]).tobytes()

        self.columns = {
            "shape": column([[getattr(q.shape, f) for f in target.shape_fields] for q in questions]),
            "stock": column([[q.stock_num_splits] for q in questions]),
            "work": column([[getattr(work, f) for f in target.work_fields] for work in works]),
            "lengths": column([[len(work.n_blocks)] for work in works]),
            "blocks": column([work.n_blocks for work in works]),
        }

    def compile(self, program: Program, bounds: Mapping[int, Range] | None = None) -> NativeProgram:
        """Compile a program once for many runs; close it, or use it in a `with` statement.

        Args:
            program: program that the gate has passed.
            bounds: least and greatest value of tunable literals, by position in `literals`.

        Raises:
            NotNative: it cannot be translated or compiled within the limits, or no compiler is here.
        """
        if confine.unsupported():
            raise NotNative(confine.unsupported())
        try:
            compiler = find_compiler()
        except UserError as error:
            raise NotNative(str(error)) from None
        text = self.translate(program, bounds or {})
        folder = tempfile.TemporaryDirectory(prefix="evosplit-native-")
        try:
            library = compile_library(compiler, text, Path(folder.name))
            return NativeProgram(self, folder, library, len(bounds or {}))
        except CompileError as error:
            folder.cleanup()
            raise NotNative(f"its C++ does not compile: {str(error).partition(chr(10))[0]}") from None
        except BaseException:
            folder.cleanup()
            raise

    def translate(self, program: Program, bounds: Mapping[int, Range]) -> str:
        """Translate a program to C++; arguments and errors as in `compile`."""
        wall_s = TRANSLATE_S + START_UP_S
        limits = {"memory_mb": TRANSLATE_MB, "cpu_s": TRANSLATE_S, "wall_s": wall_s, "parent": os.getpid()}
        request = {
            "source": program.source, "bounds": dict(bounds), "ranges": asdict(self._ranges), "limits": limits,
            "target": self.target.name,
        }  # fmt: skip
        try:
            done = subprocess.run(
                [sys.executable, "-s", "-S", "-P", "-B", str(TRANSLATE)],
                input=json.dumps(request).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0"},
                cwd="/",
                start_new_session=True,
                timeout=wall_s,
                check=False,
            )
            reply = json.loads(done.stdout) if done.returncode == 0 else {}
        except (subprocess.TimeoutExpired, OSError, ValueError):
            reply = {}
        if "text" not in reply:
            reply.setdefault("refused", "the translator did not end within its limits of time and memory")
            raise NotNative(str(reply["refused"]))
        return library_source(str(reply["text"]), self._gpu, self._ranges, self.target)


class NativeProgram:
    """A compiled program and its process. Not thread-safe.

    The process ends with the thread that started it.
    """

    def __init__(
        self, table: NativeCompiler, folder: tempfile.TemporaryDirectory[str], library: Path, numbers: int
    ) -> None:
        """Start the process."""
        self._table, self._folder, self._library, self._numbers = table, folder, library, numbers
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def __enter__(self) -> NativeProgram:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @property
    def cpu_s(self) -> float:
        """CPU seconds that its process has used."""
        return _cpu_s(self._process.pid) if self._process is not None else 0.0

    def close(self) -> None:
        """End the process and remove the library."""
        self._stop()
        self._folder.cleanup()

    def run(self, vectors: Sequence[Sequence[Number]]) -> list[DecisionArrays | None]:
        """Decide on all questions, once for each vector.

        Args:
            vectors: values of the tunable literals, in the order of their positions.

        Returns:
            Decisions of each vector; None where only the sandbox can decide.

        Raises:
            NotNative: the process can no longer be started.
        """
        found: list[DecisionArrays | None] = []
        while len(found) < len(vectors):
            if self._process is None:
                self._start()
            left = vectors[len(found) :]
            values = array("d", [float(n) for vector in left for n in vector])
            if len(values) != len(left) * self._numbers:
                raise ValueError(f"expected {self._numbers} numbers, got {len(left[0])}")
            self._send(len(left).to_bytes(8, "little") + values.tobytes())
            for _ in left:
                answer = self._answer()
                found.append(answer)
                if self._process is None:
                    break
        return found

    def _answer(self) -> DecisionArrays | None:
        """Read one table; None if the process ended instead."""
        count, width = self._table.count, len(self._table.target.answer_names)
        raw = self._read(8 + 4 * width * count, self._table.limits.time_s)
        if raw is None:
            self._stop()
            return None
        if int.from_bytes(raw[:8], "little") != count:
            return None
        rows = np.frombuffer(raw, np.int32, width * count, 8).reshape(count, width).astype(np.int64)
        return DecisionArrays(self._table.target, rows)

    def _start(self) -> None:
        limits = {
            "memory_mb": self._table.limits.memory_mb,
            "cpu_s": SESSION_S,
            "wall_s": SESSION_S,
            "parent": os.getpid(),
        }
        head = {
            **self._table.columns, "library": str(self._library), "count": self._table.count,
            "width": len(self._table.target.answer_names), "numbers": self._numbers, "limits": limits,
        }  # fmt: skip
        request = marshal.dumps(head)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-P", "-B", str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0"},
                cwd="/",
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise NotNative(f"no process can be started here: {error.strerror}") from error
        self._send(b"%d\n" % len(request) + request)
        if self._read(len(b"ready\n"), START_UP_S) != b"ready\n":
            self._stop()
            raise NotNative("the process of its native code did not start")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()

    def _send(self, data: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        left = memoryview(data)
        try:
            while left:
                left = left[self._process.stdin.write(left) or 0 :]
        except BrokenPipeError:
            pass  # it has ended, which the next read reports

    def _read(self, size: int, cpu_s: float) -> bytes | None:
        """Read `size` bytes; None if the process ends first or exceeds its CPU time."""
        assert self._process is not None and self._process.stdout is not None
        pipe, found = self._process.stdout.fileno(), bytearray()
        spent: float | None = None
        latest = time.monotonic() + START_UP_S + 4 * cpu_s
        while len(found) < size:
            if not select.select([pipe], [], [], LOOK_AGAIN_S)[0]:
                now = _cpu_s(self._process.pid)
                spent = now if spent is None else spent
                if now - spent > cpu_s or time.monotonic() > latest:
                    return None
                continue
            more = os.read(pipe, size - len(found))
            if not more:
                return None
            found += more
        return bytes(found)


def _cpu_s(pid: int) -> float:
    """CPU seconds that a process has used (proc_pid_stat(5), fields 14 and 15); infinite if it has ended."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return math.inf
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
