"""Runs candidates in a fresh confined process each, and turns every way to fail into a status."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from evaluators import confine
from evaluators.contract import MAX_NUM_SPLITS, Decision, Gpu, ShapeView, WorkView
from evaluators.gate import Program
from evaluators.status import Status

CHILD = Path(__file__).with_name("sandbox_child.py")
MAX_REPLY_BYTES = 4 << 20
START_UP_S = 5.0
"""Wall time allowed for starting the interpreter on a busy machine, beside the candidate's own limit."""

WORK_FIELDS = [f.name for f in fields(WorkView) if f.name not in ("num_splits", "n_blocks")]
SHAPE_FIELDS = [f.name for f in fields(ShapeView)]


class SandboxUnavailable(Exception):
    """This system cannot confine candidates; the message says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """One shape that candidates are asked about.

    Attributes:
        shape: argument of `schedule`.
        stock_num_splits: FA3's own choice, which `blocks_per_split` sees where the candidate answers 0.
        work: argument of `blocks_per_split`; its num_splits is replaced by what the candidate decided.
    """

    shape: ShapeView
    stock_num_splits: int
    work: WorkView


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one candidate over all questions: CPU seconds and MiB of address space."""

    time_s: float = 2.0
    memory_mb: int = 512


@dataclass(frozen=True, slots=True)
class Answers:
    """What a candidate answered; `decisions` is empty unless `status` is `OK`."""

    status: Status
    message: str
    decisions: tuple[Decision, ...]
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Whether the sandbox holds on this system.

    Attributes:
        ok: every probe was stopped as it should be.
        mechanisms: what took hold; Landlock may be absent, seccomp alone already denies opening files.
        problems: what did not hold.
        hint: how to go on.
    """

    ok: bool
    mechanisms: dict[str, bool]
    problems: tuple[str, ...]
    hint: str


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:600]


class _Child:
    """One sandbox process: request in, reply out, and how it ended."""

    def __init__(self, head: dict[str, Any], body: bytes, limits: Limits) -> None:
        self.timed_out = False
        nonce = secrets.token_hex(16)
        request = {**head, "nonce": nonce, "memory_mb": limits.memory_mb, "cpu_s": limits.time_s}
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-E", "-B", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None

        def stop() -> None:
            self.timed_out = True
            self._kill(process.pid)

        timer = threading.Timer(limits.time_s + START_UP_S, stop)
        timer.start()
        try:
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n" + body)
                process.stdin.close()
            except BrokenPipeError:
                pass
            raw = process.stdout.read(MAX_REPLY_BYTES + 1)
        finally:
            timer.cancel()
            self._kill(process.pid)
            self.code = process.wait()
            process.stdout.close()
        self.elapsed_s = time.monotonic() - started
        self.reply = self._checked(raw, nonce)

    @staticmethod
    def _kill(group: int) -> None:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    @staticmethod
    def _checked(raw: bytes, nonce: str) -> dict[str, Any] | None:
        """The reply if it is whole and carries the nonce, which the candidate never sees."""
        if len(raw) > MAX_REPLY_BYTES:
            return None
        try:
            reply = json.loads(raw)
        except ValueError:
            return None
        return reply if isinstance(reply, dict) and reply.get("nonce") == nonce else None


class Sandbox:
    """Asks candidates a fixed set of questions. Thread-safe."""

    def __init__(self, gpu: Gpu, questions: Sequence[Question], limits: Limits) -> None:
        """Serialise the questions once.

        Raises:
            SandboxUnavailable: this system cannot confine candidates.
        """
        reason = confine.unsupported()
        if reason:
            raise SandboxUnavailable(reason)
        self._gpu, self._limits = gpu, limits
        self._questions = tuple(questions)
        rows = [
            (
                [getattr(q.shape, f) for f in SHAPE_FIELDS],
                q.stock_num_splits,
                [*(getattr(q.work, f) for f in WORK_FIELDS), q.work.n_blocks],
            )
            for q in questions
        ]
        body = {
            "shape_fields": SHAPE_FIELDS,
            "work_fields": ["num_splits", *WORK_FIELDS, "n_blocks"],
            "gpu": asdict(gpu),
        }
        self._body = json.dumps({**body, "rows": rows}, separators=(",", ":")).encode()
        bare: list[tuple[list[object], int, list[object]]] = [(shape, stock, []) for shape, stock, _ in rows]
        self._body_without_work = json.dumps({**body, "rows": bare}, separators=(",", ":")).encode()

    def ask(self, program: Program) -> Answers:
        """Run a program on all questions in a fresh process; failures come back as a status."""
        head = {"source": program.source, "work": program.uses_blocks_per_split, "open_builtins": False}
        body = self._body if program.uses_blocks_per_split else self._body_without_work
        return self._answers(_Child(head, body, self._limits))

    def _answers(self, child: _Child) -> Answers:
        def failed(status: Status, message: str) -> Answers:
            return Answers(status, _printable(message), (), child.elapsed_s)

        reply = child.reply
        if reply is None:
            if child.timed_out or child.code in (-signal.SIGPROF, -signal.SIGXCPU):
                return failed(Status.TIMEOUT, f"no answer to all shapes within {self._limits.time_s} s of CPU time")
            if child.code == -signal.SIGSYS:
                return failed(Status.FORBIDDEN, "a system call that heuristics have no use for")
            return failed(Status.CRASHED, f"the sandbox process ended with code {child.code} and no answer")
        status, where = reply.get("status"), self._where(reply.get("at"))
        if status == "memory":
            return failed(Status.MEMORY, f"more than {self._limits.memory_mb} MiB at {where}")
        if status == "raised":
            return failed(Status.RAISED, f"line {reply.get('line')}: {reply.get('message')} at {where}")
        if status == "bad_answer":
            return failed(Status.BAD_ANSWER, f"{reply.get('message')} at {where}")
        decisions = self._decisions(reply.get("rows"))
        if decisions is None:
            return failed(Status.CRASHED, "the sandbox process gave an answer that is not a decision table")
        return Answers(Status.OK, "", decisions, child.elapsed_s)

    def _where(self, index: object) -> str:
        if not isinstance(index, int) or not 0 <= index < len(self._questions):
            return "module level"
        shape = self._questions[index].shape
        names = ("batch", "seqlen_k", "num_heads_q", "num_heads_kv", "num_n_blocks", "total_mblocks")
        return ", ".join(f"{n}={getattr(shape, n)}" for n in names)

    def _decisions(self, rows: object) -> tuple[Decision, ...] | None:
        """Checked again here: the child may have been taken over by what it ran."""
        if not isinstance(rows, list) or len(rows) != len(self._questions):
            return None
        decisions = []
        for row in rows:
            if not isinstance(row, list) or len(row) != 4:
                return None
            num_splits, pack_gqa, margin, blocks = row
            whole = all(type(v) is int and v >= 0 for v in (num_splits, margin, blocks))
            if not whole or pack_gqa not in (None, True, False):
                return None
            if num_splits > MAX_NUM_SPLITS or margin > self._gpu.max_sm_margin:
                return None
            decisions.append(Decision(num_splits, pack_gqa, margin, blocks))
        return tuple(decisions)


PROBES: dict[str, tuple[str, tuple[Status, ...]]] = {
    "files": ("open('/etc/passwd').read()", (Status.FORBIDDEN,)),
    "network": ("import _socket\n    _socket.socket()", (Status.FORBIDDEN, Status.RAISED)),
    "processes": ("import posix\n    posix.fork()", (Status.FORBIDDEN,)),
    "memory": ("[0] * 10**9", (Status.MEMORY,)),
    "time": ("while True: pass", (Status.TIMEOUT,)),
}
"""Statements that a confined process must not survive, with the statuses that show it was stopped."""


def _ask_once(source: str, limits: Limits, *, open_builtins: bool) -> _Child:
    """One question of one field to a program that the gate has not seen."""
    questions = {
        "shape_fields": ["batch"],
        "work_fields": ["num_splits", "n_blocks"],
        "gpu": asdict(Gpu()),
        "rows": [[[1], 1, [[1]]]],
    }
    head = {"source": source, "work": False, "open_builtins": open_builtins}
    return _Child(head, json.dumps(questions).encode(), limits)


def _probe(statement: str, limits: Limits) -> Status:
    source = f"def schedule(shape, gpu):\n    {statement}\n    return 1, None, 0\n"
    return Sandbox(Gpu(), [], limits)._answers(_ask_once(source, limits, open_builtins=True)).status


@cache
def self_test() -> SelfTest:
    """Prove on real children that files, network, processes, memory and time are denied."""
    hint = (
        "use a Linux system on x86-64 where seccomp filters are allowed; decide, show and reports work without "
        "the sandbox"
    )
    reason = confine.unsupported()
    if reason:
        return SelfTest(False, {}, (reason,), hint)
    limits = Limits(time_s=0.2, memory_mb=256)
    plain = _ask_once("def schedule(shape, gpu):\n    return 1, None, 0\n", limits, open_builtins=False)
    if plain.reply is None or plain.reply.get("status") != "ok":
        why = f"a harmless candidate did not run (exit code {plain.code}): seccomp may be refused here"
        return SelfTest(False, {}, (why,), hint)
    found: dict[str, Status] = {}

    def run(name: str) -> None:
        found[name] = _probe(PROBES[name][0], limits)

    threads = [threading.Thread(target=run, args=(name,)) for name in PROBES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    problems = tuple(
        f"{name}: expected {' or '.join(PROBES[name][1])}, got {status}"
        for name, status in found.items()
        if status not in PROBES[name][1]
    )
    return SelfTest(not problems, dict(plain.reply["confined"]), problems, hint if problems else "")
