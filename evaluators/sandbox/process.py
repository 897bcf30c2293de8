"""One sandbox process: request in, reply out, and how it ended."""

from __future__ import annotations

import json
import marshal
import os
import resource
import secrets
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from evaluators.sandbox import confine

CHILD = Path(__file__).with_name("child.py")
START_UP_S = 15.0
"""Wall time beside the candidate's own limit: starting the interpreter and waiting for a CPU on a busy machine."""

REPLY_BYTES = 16_384
REPLY_BYTES_PER_ROW = 64
"""Longest reply that is read; a row of four numbers takes at most 27 bytes, a message 5,000."""

BEGUN = b"begun\n"
"""Message of `child.py` once it is confined, before the candidate's code is looked at."""

OUTSIDE_KILLS = 5
"""Tries for a candidate whose process was ended from outside, or never came to look at it."""

PAUSE_S = 0.5
"""Wait before another try where the process could not begin: a file may be missing for a moment."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one candidate over all questions.

    Attributes:
        time_s: CPU seconds of one try.
        memory_mb: MiB of address space.
        time_tries: tries at the limit of time, of which the first that ends within it counts: CPU time varies with the
            machine's load, which would else decide about a program near the limit.
    """

    time_s: float = 5.0
    memory_mb: int = 512
    time_tries: int = 3


class SandboxUnavailable(Exception):
    """This system cannot confine candidates; the message says why."""


class End(Enum):
    """How a sandbox process ended."""

    REPLIED = auto()
    TIME = auto()
    """At its CPU or wall limit."""
    CALL = auto()
    """At a system call that is not allowed."""
    OUTSIDE = auto()
    """By a SIGKILL that was not ours, or at the wall limit with CPU time left. No candidate can cause either by itself:
    it may neither send signals nor wait. One that fills the machine's memory is killed like that, too."""
    UNBEGUN = auto()
    """Before it was confined and looked at the candidate: the machine's fault, never the candidate's."""
    OTHER = auto()
    """In another way, or without a whole reply."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a sandbox process left behind.

    Attributes:
        end: how it ended.
        reply: what it said; None unless `end` is `REPLIED`. Whatever is in it may be forged.
        code: exit code, or minus the number of the signal that ended it.
        elapsed_s: wall seconds from start to end.
        peak_mb: most MiB that it had in RAM; 0 where that cannot be told.
    """

    end: End
    reply: dict[str, Any] | None
    code: int
    elapsed_s: float
    peak_mb: float


def run_confined(head: dict[str, Any], body: bytes, limits: Limits, *, rows: int, hash_seed: int) -> Ended:
    """Run one candidate in a fresh process; again where the machine ended that process or the time was up, a few times.

    Args:
        head: source and how to run it, for `sandbox_child`.
        body: the questions, as `marshal` writes them.
        limits: of this candidate.
        rows: how many questions there are.
        hash_seed: what Python's hashes of text are seeded with.

    Raises:
        SandboxUnavailable: no process could be started.
    """
    left = {End.TIME: limits.time_tries, End.OUTSIDE: OUTSIDE_KILLS}
    while True:
        ended = _run_once(head, body, limits, rows, hash_seed)
        kind = End.OUTSIDE if ended.end is End.UNBEGUN else ended.end
        left[kind] = left.get(kind, 1) - 1
        if not left[kind]:
            return ended
        if ended.end is End.UNBEGUN:
            time.sleep(PAUSE_S)


def _run_once(head: dict[str, Any], body: bytes, limits: Limits, rows: int, hash_seed: int) -> Ended:
    nonce = secrets.token_hex(16)
    wall_s = limits.time_s + START_UP_S
    own = {"memory_mb": limits.memory_mb, "cpu_s": limits.time_s, "wall_s": wall_s, "parent": os.getpid()}
    request = marshal.dumps({**head, "nonce": nonce, "limits": own})
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-P", "-B", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": str(hash_seed)},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxUnavailable(f"no sandbox process can be started here: {error.strerror}") from error
    assert process.stdin is not None and process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        _kill(process.pid)

    timer = threading.Timer(wall_s, stop)
    timer.start()
    longest = len(BEGUN) + REPLY_BYTES + REPLY_BYTES_PER_ROW * rows
    try:
        # The child reads all of it before the candidate runs, or has died.
        for send in (
            lambda: process.stdin.write(b"%d\n" % len(request) + request + body),
            process.stdin.close,
        ):
            try:
                send()
            except BrokenPipeError:
                pass
        raw = process.stdout.read(longest + 1)
    finally:
        timer.cancel()
        _kill(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
    elapsed_s = time.monotonic() - started
    # A program that catches its own end may have replied before; only a proper end counts.
    begun = raw.startswith(BEGUN)
    reply = _checked(raw[len(BEGUN) :], nonce) if begun and code == 0 and len(raw) <= longest else None
    cpu_s = usage.ru_utime + usage.ru_stime
    if reply is not None:
        end = End.REPLIED
    elif not begun and code != -signal.SIGKILL and not late.is_set():
        end = End.UNBEGUN
    elif code in (-signal.SIGPROF, -signal.SIGXCPU):
        end = End.TIME
    elif code == -signal.SIGSYS:
        end = End.CALL
    elif late.is_set() or code == -signal.SIGALRM or (code == -signal.SIGKILL and len(raw) <= longest):
        # The kernel's own limit on CPU time, which stands behind the timer's, ends a process by SIGKILL.
        end = End.TIME if cpu_s >= confine.cpu_limit_s(limits.time_s) else End.OUTSIDE
    else:
        end = End.OTHER
    # Linux counts the memory of the parent, out of which a process was started, as its own.
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_mb = usage.ru_maxrss / 1024 if usage.ru_maxrss > mine else 0.0
    return Ended(end, reply, code, elapsed_s, peak_mb)


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _checked(raw: bytes, nonce: str) -> dict[str, Any] | None:
    """The reply if it is whole and carries the nonce.

    The nonce tells a reply from what a candidate printed. It is no secret from a program that searches its own
    process: such a program can forge a reply, and gains nothing, for what a reply says is checked again.
    """
    try:
        reply = json.loads(raw)
    except (ValueError, RecursionError, MemoryError):
        return None
    return reply if isinstance(reply, dict) and reply.get("nonce") == nonce else None
