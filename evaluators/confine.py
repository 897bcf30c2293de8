"""Confinement of the process that runs candidate code: rlimits, Landlock, seccomp. Linux on x86-64.

Runs inside the sandbox's child process, which imports nothing but the standard library, so this module
must not import anything of ours.
"""

from __future__ import annotations

import ctypes
import math
import platform
import resource
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
PR_SET_DUMPABLE = 4
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_ALLOW = 0x7FFF0000
AUDIT_ARCH_X86_64 = 0xC000003E
PROT_EXEC = 4
M_ARENA_MAX = -8
ITIMER_PROF = 2

ALLOWED_SYSCALLS_X86_64 = {
    "read": 0, "write": 1, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
    "rt_sigreturn": 15, "mremap": 25, "madvise": 28, "exit": 60, "sigaltstack": 131, "futex": 202,
    "exit_group": 231,
}  # fmt: skip
"""Memory management, the two pipes and leaving (arch/x86/entry/syscalls/syscall_64.tbl)."""

NO_EXEC_SYSCALLS_X86_64 = {"mmap": 9, "mprotect": 10}
"""Allowed unless they ask for executable memory."""

SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_RESTRICT_SELF = 446
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_ACCESS_FS_V1 = (1 << 13) - 1
"""The file-system rights of Landlock's first version; with no rule added, all of them are denied."""


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def unsupported() -> str:
    """Why this system cannot confine candidates; empty where it can."""
    if sys.platform != "linux":
        return f"the sandbox needs Linux (seccomp), this is {sys.platform}"
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"the sandbox's system-call table is for x86-64, this is {platform.machine()}"
    return ""


def filter_instructions() -> list[tuple[int, int, int, int]]:
    """The seccomp filter as (code, jt, jf, k): kill all but the allowed calls."""
    load, equal, at_least, bits, ret = 0x20, 0x15, 0x35, 0x45, 0x06
    kill = (ret, 0, 0, SECCOMP_RET_KILL_PROCESS)
    allow = (ret, 0, 0, SECCOMP_RET_ALLOW)
    program = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 1, 0, AUDIT_ARCH_X86_64),
        kill,
        (load, 0, 0, 0),  # seccomp_data.nr
        (at_least, 0, 1, 0x40000000),  # the x32 table
        kill,
    ]
    for number in ALLOWED_SYSCALLS_X86_64.values():
        program += [(equal, 0, 1, number), allow]
    for number in NO_EXEC_SYSCALLS_X86_64.values():
        # Low half of the third argument: the protection bits.
        program += [(equal, 0, 4, number), (load, 0, 0, 32), (bits, 0, 1, PROT_EXEC), kill, allow]
    return [*program, kill]


def set_limits(*, memory_mb: int, cpu_s: int) -> None:
    """Resource limits; they hold for this process and everything it could start."""
    memory = memory_mb * 2**20
    for what, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(what, (value, value))


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


def confine(*, memory_mb: int, cpu_s: float) -> dict[str, bool]:
    """Confine this process for good; returns which mechanisms took hold.

    Raises:
        OSError: seccomp was refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # A failed allocation would otherwise look for another arena by counting CPUs, which seccomp kills.
    libc.mallopt(M_ARENA_MAX, 1)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) was refused")
    landlock = deny_files(libc)
    set_limits(memory_mb=memory_mb, cpu_s=math.ceil(cpu_s) + 1)
    # RLIMIT_CPU counts whole seconds; SIGPROF ends the process at the exact limit.
    micro = math.ceil(cpu_s * 1e6)
    timer = (ctypes.c_long * 4)(0, 0, micro // 10**6, micro % 10**6)
    libc.setitimer(ITIMER_PROF, ctypes.byref(timer), None)
    instructions = filter_instructions()
    array = (_Instruction * len(instructions))(*(_Instruction(*i) for i in instructions))
    program = _Program(len(instructions), array)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP) was refused")
    return {"rlimits": True, "landlock": landlock, "seccomp": True}
