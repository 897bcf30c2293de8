"""One process per GPU: an exclusive lock file per GPU UUID, which the kernel lets go of when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

LOCK_FOLDER = Path(tempfile.gettempdir()) / "evosplit-gpu-locks"
"""Shared by all users of a host. Containers with a /tmp of their own do not see each other's; there NVML's list of
processes on the GPU is what tells (`device.measuring_problem`)."""

_held: dict[str, IO[str]] = {}
"""Locks of this process, by UUID, until it ends. A second bench in the same process shares the GPU on purpose."""


class GpuLockedError(RuntimeError):
    """Another process measures on this GPU; the message names it."""


def _open(path: Path) -> int:
    """The lock file, made for all users where it is missing.

    Opened without O_CREAT where it exists: Linux refuses that for other users' files in a sticky folder
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


def hold(uuid: str) -> None:
    """Lock a GPU for the rest of this process; nothing to do where it holds it already.

    Raises:
        GpuLockedError: another process holds it.
        OSError: the lock file cannot be made.
    """
    if uuid in _held:
        return
    path = LOCK_FOLDER / f"{uuid}.lock"
    file = os.fdopen(_open(path), "r+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = file.read().strip() or "unknown"
        file.close()
        raise GpuLockedError(
            f"{uuid} is in use by process {holder}: timings would be wrong; end it, or use other GPUs ({path})"
        ) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    _held[uuid] = file
