"""One process per GPU: an exclusive lock file per GPU UUID, which the kernel releases when its holder dies."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import IO

from evaluators.data.device import DeviceRecord
from evaluators.measure.device import current_device, measuring_problem
from evaluators.measure.errors import MeasureError, MeasureErrorKind

LOCK_FOLDER = Path(tempfile.gettempdir()) / "evosplit-gpu-locks"
"""Folder of lock files, shared by all users of a host. Containers with a separate /tmp do not share it; there only
NVML's list of processes on the GPU helps (`device.measuring_problem`)."""

COMMAND_CHARS = 200
"""Characters of a command line in the lock file."""

_held: dict[str, IO[str]] = {}
"""Locks of this process, by UUID, until it ends. A second bench in the same process may share the GPU."""


class GpuLockedError(RuntimeError):
    """Another process measures on this GPU; the message names it."""


def _open(path: Path) -> int:
    """Open the lock file, creating it for all users if it is missing.

    An existing file is opened without O_CREAT, which Linux refuses for other users' files in a sticky folder
    (fs.protected_regular).
    """
    before = os.umask(0)
    try:
        path.parent.mkdir(mode=0o1777, exist_ok=True)
        while True:
            try:
                return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    finally:
        os.umask(before)


def _command_line(pid: int) -> str:
    """Command line of a process; empty if unknown."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return shlex.join(filter(None, words))


def _self_description() -> str:
    """Process id, command and time, a line each; for a worker the command names its parent, which users know."""
    command = shlex.join(sys.orig_argv)
    if "-m evaluators." in command:
        parent = os.getppid()
        command = f"a worker of process {parent}, {_command_line(parent)}".rstrip(", ")
    now = datetime.datetime.now().isoformat(" ", timespec="seconds")
    return f"{os.getpid()}\n{command[:COMMAND_CHARS]}\n{now}\n"


def holder(text: str) -> str:
    """Description of a lock's holder, from the text of the lock file."""
    pid, command, since = [*text.splitlines(), "", "", ""][:3]
    return ", ".join(filter(None, (f"process {pid or 'unknown'}", command, since and f"since {since}")))


def hold(uuid: str) -> None:
    """Lock a GPU for the rest of this process, unless it has the lock already.

    Raises:
        GpuLockedError: another process has the lock; the message names it.
        OSError: the lock file cannot be created.
    """
    if uuid in _held:
        return
    path = LOCK_FOLDER / f"{uuid}.lock"
    file = os.fdopen(_open(path), "r+", encoding="utf-8", errors="replace")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        who = holder(file.read())
        file.close()
        raise GpuLockedError(
            f"{uuid} is in use ({who}): timings would be wrong; wait for it, end it, or use another GPU "
            f"(CUDA_VISIBLE_DEVICES); lock {path}"
        ) from error
    file.truncate(0)
    file.write(_self_description())
    file.flush()
    _held[uuid] = file


def claim_gpu() -> DeviceRecord:
    """Lock the GPU that torch uses at present until this process ends.

    Raises:
        MeasureError: of kind unavailable: CUDA does not start, another process measures on the GPU or runs on it, it
            is in MIG mode, or NVML does not answer.
    """
    try:
        import torch

        torch.empty(1, device="cuda")  # opens this process's context, so that it can be distinguished from others
        device = current_device()
        hold(device.uuid)
        problem = measuring_problem(device.uuid)
    except (ImportError, RuntimeError, OSError) as error:
        raise MeasureError(MeasureErrorKind.UNAVAILABLE, str(error)) from error
    if problem:
        raise MeasureError(MeasureErrorKind.UNAVAILABLE, problem)
    return device
