"""Confinement of the process that runs candidate code: capabilities, rlimits, timers, Landlock, seccomp. Linux.

x86-64 and aarch64. The aarch64 table follows the kernel's own list and is unit-tested, but has never run on aarch64:
there, too, the sandbox's self-test decides whether candidates may run.

Runs inside the sandbox's child process, which imports nothing but the standard library, so this module
must not import other modules of the project.
"""

from __future__ import annotations

# `signal` takes longer to import than the rest of this module.
import _signal  # type: ignore[import-not-found]
import ctypes
import math
import os
import resource
import sys

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_ALLOW = 0x7FFF0000
LINUX_CAPABILITY_VERSION_3 = 0x20080522
PROT_EXEC = 4
M_ARENA_MAX = -8
ITIMER_REAL = 0
ITIMER_PROF = 2

ARGUMENT_2 = 32
"""Offset of the low half of the third argument in seccomp_data, on little-endian machines."""


class Machine:
    """System-call numbers of one architecture.

    Attributes:
        audit_arch: the kernel's number of the architecture (include/uapi/linux/audit.h).
        allowed: calls for memory management, the two pipes and exit.
        no_exec: calls that are allowed unless they request executable memory (third argument).
        madvise: allowed only with advice in `MADVICE` (third argument): as root, other advice can poison memory pages.
        foreign_from: first call number of another table of the same architecture (x32); 0 for none.
    """

    __slots__ = ("allowed", "audit_arch", "foreign_from", "madvise", "no_exec")

    def __init__(
        self, *, audit_arch: int, allowed: dict[str, int], no_exec: dict[str, int], madvise: int, foreign_from: int
    ) -> None:
        """Store the numbers."""
        self.audit_arch, self.allowed, self.no_exec = audit_arch, allowed, no_exec
        self.madvise, self.foreign_from = madvise, foreign_from


MACHINES = {
    # arch/x86/entry/syscalls/syscall_64.tbl
    "x86_64": Machine(
        audit_arch=0xC000003E,
        allowed={"read": 0, "write": 1, "munmap": 11, "brk": 12, "mremap": 25, "exit_group": 231},
        no_exec={"mmap": 9, "mprotect": 10},
        madvise=28,
        foreign_from=0x40000000,
    ),
    # include/uapi/asm-generic/unistd.h. Never run on aarch64.
    "aarch64": Machine(
        audit_arch=0xC00000B7,
        allowed={"read": 63, "write": 64, "munmap": 215, "brk": 214, "mremap": 216, "exit_group": 94},
        no_exec={"mmap": 222, "mprotect": 226},
        madvise=233,
        foreign_from=0,
    ),
}
"""Supported architectures, by `machine_name`.

No call that waits (futex, nanosleep, poll), that handles signals, or that opens, maps or names a file.
"""

MADVICE = {"MADV_DONTNEED": 4, "MADV_FREE": 8, "MADV_HUGEPAGE": 14, "MADV_NOHUGEPAGE": 15}
"""Advice that allocators give on their memory (include/uapi/asm-generic/mman-common.h)."""

SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_RESTRICT_SELF = 446
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_ACCESS_FS_V1 = (1 << 13) - 1
"""The file-system rights of Landlock's first version; with no rule added, all of them are denied.

Both calls have the same numbers on every architecture.
"""


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def machine_name() -> str:
    """The kernel's name of the architecture."""
    return os.uname().machine


def unsupported() -> str:
    """Reason why this system cannot confine candidates; empty if it can."""
    if sys.platform != "linux":
        return f"the sandbox needs Linux (seccomp), this is {sys.platform}"
    if machine_name() not in MACHINES or sys.byteorder != "little" or sys.maxsize < 2**32:
        known = " and ".join(MACHINES)
        return f"the sandbox has system-call tables for 64-bit {known}, this is {machine_name()}"
    return ""


def filter_instructions(machine: Machine) -> list[tuple[int, int, int, int]]:
    """The seccomp filter as (code, jt, jf, k): kill all but the allowed calls."""
    load, equal, at_least, bits, ret = 0x20, 0x15, 0x35, 0x45, 0x06
    kill = (ret, 0, 0, SECCOMP_RET_KILL_PROCESS)
    allow = (ret, 0, 0, SECCOMP_RET_ALLOW)
    program = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 1, 0, machine.audit_arch),
        kill,
        (load, 0, 0, 0),  # seccomp_data.nr
    ]
    if machine.foreign_from:
        program += [(at_least, 0, 1, machine.foreign_from), kill]
    for number in machine.allowed.values():
        program += [(equal, 0, 1, number), allow]
    for number in machine.no_exec.values():
        program += [(equal, 0, 4, number), (load, 0, 0, ARGUMENT_2), (bits, 0, 1, PROT_EXEC), kill, allow]
    advice = [step for value in MADVICE.values() for step in ((equal, 0, 1, value), allow)]
    program += [(equal, 0, len(advice) + 1, machine.madvise), (load, 0, 0, ARGUMENT_2), *advice]
    return [*program, kill]


def cpu_limit_s(cpu_s: float) -> int:
    """CPU limit in whole seconds since the start of the process, as a backup of the timer for `cpu_s`."""
    return math.ceil(cpu_s) + 2


def set_limits(*, memory_mb: int, cpu_s: int) -> None:
    """Set resource limits of this process and all its children."""
    memory = memory_mb * 2**20
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 0,
    }
    for what, value in limits.items():
        try:
            resource.setrlimit(what, (value, value))
        except (OSError, ValueError):
            if sys.platform == "linux":
                raise  # other systems define RLIMIT_AS, but do not enforce it


def deny_files(libc: ctypes.CDLL) -> bool:
    """Deny all file access through Landlock; False where the kernel lacks it."""
    version = libc.syscall(
        SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(LANDLOCK_CREATE_RULESET_VERSION)
    )
    if version < 1:
        return False
    attributes = ctypes.c_uint64(LANDLOCK_ACCESS_FS_V1)
    ruleset = libc.syscall(
        SYS_LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(8), ctypes.c_uint32(0)
    )
    if ruleset < 0:
        return False
    return bool(libc.syscall(SYS_LANDLOCK_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) == 0)


def drop_capabilities(libc: ctypes.CDLL) -> None:
    """Drop all capabilities of root.

    Raises:
        OSError: refused, which is not expected of any kernel.
    """
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(ctypes.byref(header), ctypes.byref(nothing)) != 0:
        raise OSError(ctypes.get_errno(), "capset was refused")


def set_timers(libc: ctypes.CDLL, *, cpu_s: float, wall_s: float) -> None:
    """End this process after this much CPU or wall time; calls that could undo it are forbidden later."""
    alarms = {ITIMER_PROF: (cpu_s, _signal.SIGPROF), ITIMER_REAL: (wall_s, _signal.SIGALRM)}
    for which, (seconds, number) in alarms.items():
        _signal.signal(number, _signal.SIG_DFL)
        micro = math.ceil(seconds * 1e6)
        timer = (ctypes.c_long * 4)(0, 0, micro // 10**6, micro % 10**6)
        libc.setitimer(which, ctypes.byref(timer), None)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def end_with_the_parent() -> None:
    """Make the kernel kill this process when its parent ends, even if this process is stopped or does not read.

    Must be called first; the confinement checks that the parent had not ended before.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0)


def limit(*, memory_mb: int, cpu_s: float, wall_s: float, parent: int) -> dict[str, bool]:
    """Limit this process without confinement, on systems without seccomp; for programs that the gate has passed.

    Args: as in `confine`.
    """
    if os.getppid() != parent:
        raise OSError("the parent process has ended")
    set_limits(memory_mb=memory_mb, cpu_s=cpu_limit_s(cpu_s))
    set_timers(ctypes.CDLL(None), cpu_s=cpu_s, wall_s=wall_s)
    return {"rlimits": True, "landlock": False, "seccomp": False}


def leave() -> None:
    """End a confined process; the interpreter's regular exit restores signal handlers, for which the filter kills."""
    os._exit(0)


def confine(*, memory_mb: int, cpu_s: float, wall_s: float, parent: int) -> dict[str, bool]:
    """Confine this process irrevocably; returns the mechanisms in effect.

    Args:
        memory_mb: address space in MiB.
        cpu_s: CPU seconds from now on.
        wall_s: wall seconds from now on, as a backup of the parent's own limit.
        parent: process that waits for the answer; this process ends with it.

    Raises:
        OSError: seccomp was refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # A failed allocation would otherwise try another arena after counting CPUs, for which seccomp kills.
    libc.mallopt(M_ARENA_MAX, 1)
    end_with_the_parent()
    if os.getppid() != parent:
        raise OSError("the parent process has ended")
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) was refused")
    landlock = deny_files(libc)
    drop_capabilities(libc)
    set_limits(memory_mb=memory_mb, cpu_s=cpu_limit_s(cpu_s))
    set_timers(libc, cpu_s=cpu_s, wall_s=wall_s)
    instructions = filter_instructions(MACHINES[machine_name()])
    array = (_Instruction * len(instructions))(*(_Instruction(*i) for i in instructions))
    program = _Program(len(instructions), array)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP) was refused")
    return {"rlimits": True, "landlock": landlock, "seccomp": True}
