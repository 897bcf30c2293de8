"""The seccomp filter of both architectures, run here by a small interpreter of its instructions.

The aarch64 filter has never run on aarch64; what is tested is that it says what it is meant to say.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.sandbox import confine
from evaluators.sandbox.confine import MACHINES, MADVICE, PROT_EXEC, SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ALLOWED = {"read", "write", "munmap", "brk", "mremap", "exit_group", "mmap", "mprotect", "madvise"}
# From the kernel's tables, for calls that a program would need to reach anything.
HARMFUL = {
    "x86_64": {
        "open": 2, "close": 3, "stat": 4, "ioctl": 16, "nanosleep": 35, "getpid": 39, "socket": 41, "connect": 42,
        "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101, "prctl": 157, "tkill": 200,
        "futex": 202, "openat": 257, "prlimit64": 302, "process_vm_readv": 310, "getrandom": 318, "io_uring_setup": 425,
        "clone3": 435, "rt_sigaction": 13, "rt_sigreturn": 15, "setitimer": 38, "pkey_mprotect": 329, "shmat": 30,
    },
    "aarch64": {
        "openat": 56, "close": 57, "ioctl": 29, "nanosleep": 101, "getpid": 172, "socket": 198, "connect": 203,
        "clone": 220, "execve": 221, "kill": 129, "ptrace": 117, "prctl": 167, "tkill": 130, "futex": 98,
        "prlimit64": 261, "process_vm_readv": 270, "getrandom": 278, "io_uring_setup": 425, "clone3": 435,
        "rt_sigaction": 134, "rt_sigreturn": 139, "setitimer": 103, "pkey_mprotect": 288, "shmat": 196,
    },
}  # fmt: skip


def verdict(machine: str, number: int, third: int = 0, arch: int | None = None) -> int:
    """Result of the filter for a call, given the low half of its third argument."""
    data = {0: number, 4: MACHINES[machine].audit_arch if arch is None else arch, confine.ARGUMENT_2: third}
    program, at, value = confine.filter_instructions(MACHINES[machine]), 0, 0
    while True:
        code, jt, jf, k = program[at]
        at += 1
        if code == 0x20:
            value = data[k]
        elif code == 0x06:
            return k
        else:
            hit = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
            at += jt if hit else jf


def numbers(machine: str) -> dict[str, int]:
    known = MACHINES[machine]
    return {**known.allowed, **known.no_exec, "madvise": known.madvise}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip("no kernel headers here")
    text = header.read_text()
    kernel = dict(re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", text))
    for name, number in (*numbers(machine).items(), *HARMFUL[machine].items()):
        assert int(kernel[name]) == number, name


@pytest.mark.parametrize("machine", MACHINES)
def test_only_memory_pipes_and_leaving_are_allowed(machine: str) -> None:
    found = numbers(machine)
    assert set(found) == ALLOWED
    allowed = {n for n in range(1024) if verdict(machine, n, third=MADVICE["MADV_DONTNEED"] & ~PROT_EXEC) < 0x80000000}
    assert allowed <= set(found.values())
    for name, number in HARMFUL[machine].items():
        assert verdict(machine, number) == SECCOMP_RET_KILL_PROCESS, name


@pytest.mark.parametrize("machine", MACHINES)
@given(st.integers(0, 2**32 - 1))
def test_memory_is_never_executable(machine: str, protection: int) -> None:
    for name in ("mmap", "mprotect"):
        got = verdict(machine, numbers(machine)[name], third=protection)
        assert (got == SECCOMP_RET_ALLOW) == (not protection & PROT_EXEC)


@pytest.mark.parametrize("machine", MACHINES)
@given(st.integers(0, 200))
def test_memory_advice_is_what_allocators_give(machine: str, advice: int) -> None:
    got = verdict(machine, MACHINES[machine].madvise, third=advice)
    assert (got == SECCOMP_RET_ALLOW) == (advice in MADVICE.values())


@pytest.mark.parametrize("machine", MACHINES)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_other_tables_are_closed(machine: str, number: int, arch: int) -> None:
    if arch != MACHINES[machine].audit_arch:
        assert verdict(machine, number, arch=arch) == SECCOMP_RET_KILL_PROCESS
    assert verdict("x86_64", number | 0x40000000) == SECCOMP_RET_KILL_PROCESS


@pytest.mark.parametrize("machine", MACHINES)
def test_jumps_stay_inside(machine: str) -> None:
    program = confine.filter_instructions(MACHINES[machine])
    for at, (code, jt, jf, _) in enumerate(program):
        assert code in (0x20, 0x15, 0x35, 0x45, 0x06)
        assert at + 1 + max(jt, jf) < len(program) or code == 0x06
    assert program[-1][0] == 0x06 and program[-1][3] == SECCOMP_RET_KILL_PROCESS


@pytest.mark.parametrize("name", ["riscv64", "ppc64le", "armv7l", "i686", "s390x"])
def test_other_architectures_are_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "machine_name", lambda: name)
    assert name in confine.unsupported() and "aarch64" in confine.unsupported()


def test_other_systems_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "darwin" in confine.unsupported()


def test_known_architectures_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in MACHINES:
        monkeypatch.setattr(confine, "machine_name", lambda name=name: name)
        assert confine.unsupported() == ""
