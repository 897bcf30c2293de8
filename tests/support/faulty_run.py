"""A run whose calls into the kernel begin to fail after ten proposals, as they do on a bad disk. x86-64 Linux alone.

python faulty_run.py FOLDER ERRNO CALL...
"""

from __future__ import annotations

import sys
from ctypes import CDLL, POINTER, Structure, byref, c_uint8, c_uint16, c_uint32
from pathlib import Path

from small_search import SEED, SmallJudge, SmallProposer, config

import evolve.cli.run
from evolve.cli import main
from evolve.search.controller import Controller, SearchProgress

CALLS = {"pwrite64": 18, "fsync": 74, "fdatasync": 75, "ftruncate": 77, "openat": 257}
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
RET_ERRNO, RET_ALLOW = 0x00050000, 0x7FFF0000


class Step(Structure):
    _fields_ = (("code", c_uint16), ("jt", c_uint8), ("jf", c_uint8), ("k", c_uint32))


class Filter(Structure):
    _fields_ = (("length", c_uint16), ("steps", POINTER(Step)))


def fail(number: int, calls: list[str]) -> None:
    """From now on, these calls fail with this error number, and nothing else happens in them."""
    steps = [Step(LOAD, 0, 0, 0)]
    for call in calls:
        steps += [Step(EQUAL, 0, 1, CALLS[call]), Step(RETURN, 0, 0, RET_ERRNO | number)]
    steps.append(Step(RETURN, 0, 0, RET_ALLOW))
    libc = CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, byref(Filter(len(steps), (Step * len(steps))(*steps))), 0, 0) == 0


def run(folder: str, number: str, *calls: str) -> int:
    def watch(progress: SearchProgress) -> None:
        if progress.done == 10:
            fail(int(number), list(calls))

    Controller(config(), SmallJudge(), SmallProposer(), Path(folder), seeds=[SEED], on_progress=watch).run()
    return 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.argv = ["evosplit", "run", "any.yaml"]
    evolve.cli.run.run_command = lambda *_, **__: run(*arguments)
    main()
