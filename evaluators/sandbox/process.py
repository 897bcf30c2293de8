"""One sandbox process: request, reply, and the reason of its end."""

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
"""Wall time on top of the candidate's limit, for the interpreter's start and for waits on a busy machine."""

REPLY_BYTES = 16_384
REPLY_BYTES_PER_ROW = 64
"""Longest reply that is read; a row of four numbers takes at most 27 bytes, a message 5,000."""

BEGUN = b"begun\n"
"""Message of `child.py` once it is confined, before the candidate's code is compiled."""

OUTSIDE_KILLS = 5
"""Tries for a candidate whose process was killed from outside, or ended before it ran the candidate."""

PAUSE_S = 0.5
"""Wait before another try if the process could not begin: a file may be missing for a moment."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one candidate over all questions.

    Attributes:
        time_s: CPU seconds of one try.
        memory_mb: MiB of address space.
        time_tries: tries within the time limit, of which the first success counts: CPU time varies with the machine's
            load, which would otherwise decide about a program near the limit.
    """

    time_s: float = 5.0
    memory_mb: int = 512
    time_tries: int = 3


class SandboxUnavailable(Exception):
    """This system cannot confine candidates; the message gives the reason."""


class End(Enum):
    """Reason of a sandbox process's end."""

    REPLIED = auto()
    TIME = auto()
    """It reached its CPU or wall limit."""
    CALL = auto()
    """It was killed for a forbidden system call."""
    OUTSIDE = auto()
    """It was killed by another process's SIGKILL, or reached the wall limit with CPU time left. A candidate cannot
    cause either directly, since it may neither send signals nor wait. One that fills the machine's memory is killed so,
    too."""
    UNBEGUN = auto()
    """It ended before it was confined and read the candidate: the machine's fault, never the candidate's."""
    OTHER = auto()
    """It ended in another way, or without a complete reply."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Result of a sandbox process.

    Attributes:
        reply: its reply, which may be forged; None unless `end` is `REPLIED`.
        code: exit code, or minus the number of the signal that ended it.
        elapsed_s: wall seconds from start to end.
        peak_mb: peak resident memory in MiB; 0 if unknown.
    """

    end: End
    reply: dict[str, Any] | None
    code: int
    elapsed_s: float
    peak_mb: float


def run_confined(head: dict[str, Any], body: bytes, limits: Limits, *, rows: int, hash_seed: int) -> Ended:
    """Run one candidate in a fresh process, with a few retries if the machine killed the process or time ran out.

    Args:
        head: source and options, for `child.py`.
        body: questions in `marshal` format.
        limits: limits of this candidate.
        rows: number of questions.
        hash_seed: seed of Python's text hashes.

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
        # The child reads all of it before the candidate runs, unless it has died.
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
    # A program that catches its own end may have replied before; only a regular exit counts.
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
        # The kernel's CPU limit, the backup of the timer, ends a process by SIGKILL.
        end = End.TIME if cpu_s >= confine.cpu_limit_s(limits.time_s) else End.OUTSIDE
    else:
        end = End.OTHER
    # Linux counts the memory of the parent at the fork as the child's own.
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_mb = usage.ru_maxrss / 1024 if usage.ru_maxrss > mine else 0.0
    return Ended(end, reply, code, elapsed_s, peak_mb)


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _checked(raw: bytes, nonce: str) -> dict[str, Any] | None:
    """Parse a reply; None unless it is complete and has the nonce.

    The nonce distinguishes a reply from a candidate's output. It is not secret from a program that searches its own
    process. Such a program can forge a reply, but gains nothing, since replies are checked again.
    """
    try:
        reply = json.loads(raw)
    except (ValueError, RecursionError, MemoryError):
        return None
    return reply if isinstance(reply, dict) and reply.get("nonce") == nonce else None
