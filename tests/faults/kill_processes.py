"""Processes that tests/faults/kill_searches.py starts, watches and kills."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
SANDBOX = ROOT / "evaluators/sandbox/child.py"
WORKER = "kill_worker:FormulaBench"
"""The argument by which a simulated GPU worker's process is known."""

LIVE_MAIN = f"""
import os, sys
from evaluators.measure import pool
from evaluators.measure.local import LocalExecutor
os.environ["KILL_WORKER_LOG"] = sys.argv.pop(1)
pool.open_executor = lambda name: LocalExecutor(["GPU-simulated"], bench={WORKER!r})
from evolve.cli import main
main()
"""
"""The command line of evosplit with the simulated GPU worker in place of the real one."""


ORPHAN_CHECKS = 500
"""Looks for processes left over, 20 ms apart: a busy machine takes its time to end them."""


class Violation(Exception):
    """Something was lost, doubled, left over or late."""


class Endpoint:
    """The process that serves the model endpoint, always on the same port."""

    def __init__(self, log: Path) -> None:
        """Start it."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.log = log
        self.log.touch()
        self.start()

    def start(self) -> None:
        """Start it, after a kill as well."""
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "tests/faults/kill_endpoint.py", str(self.port), self.log],
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def sent(self) -> list[int]:
        """Seeds of the requests that were answered so far."""
        return [int(line) for line in self.log.read_text().split()]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Processes started by a process."""
    found: list[int] = []
    with suppress(OSError):  # the process has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # a thread that has just ended
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def executes(pid: int, argument: Path | str) -> bool:
    """True if a process was started with an argument, such as a script.

    One that was forked a moment ago still looks like its parent.
    """
    try:
        return str(argument).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def kill_child(pid: int, parent: int) -> bool:
    """SIGKILL, unless the process has ended: a number that somebody else got since is left alone."""
    if pid not in children(parent):
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def no_orphans(known: int) -> None:
    """Everything below a controller ends with it; orphans would be children of this process now.

    Raises:
        Violation: something is left beside `known`, the endpoint.
    """
    for _ in range(ORPHAN_CHECKS):
        left = [p for p in children(os.getpid()) if p != known]
        for pid in left:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
        if not left:
            return
        time.sleep(0.02)
    raise Violation(f"left over after their controller: {left}")
