"""The process of one run of a sweep: `python -m evolve.cli.sweep_child SWEEP LABEL SOCKET [KEY=VALUE...]`.

SOCKET serves latencies to a live judge (`evaluators/measure/shared_pool.py`); empty for recorded tables.

The parent keeps its output in the run's folder; its exit code is that of
`evosplit run`. It stops as by Ctrl-C when its input ends, so that no run outlives a parent that was killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from evolve.cli.failures import guarded
from evolve.errors import UserError
from evolve.journal.run_folder import TABLE_FOLDER, locked
from evolve.sweep.folder import read_sweep


def run_member(path: Path, label: str, socket: str, overrides: list[str]) -> int:
    """Begin or resume a run of a sweep; returns the exit code.

    Raises:
        UserError: the sweep has no such run, or the run cannot go on.
        InterruptedRun: stopped; it can be resumed.
    """
    from evolve.cli.common import say
    from evolve.cli.run import search
    from evolve.run import SharedPool, resume_run, start_run

    sweep = read_sweep(path)
    member = next((m for m in sweep.members if m.label == label), None)
    if member is None:
        raise UserError(f"{path} holds no run {label!r}", hint=", ".join(m.label for m in sweep.members))
    folder, config = sweep.folder(member), sweep.config(member, overrides)
    pool = SharedPool(Path(socket), label) if config.judge.measure == "live" else None
    if sweep.started(member):
        return search(resume_run(config, folder, pool=pool, on_event=say), as_json=False)
    with locked(folder):
        # Without a journal nothing has been judged yet, and a killed process may have left an incomplete copy.
        shutil.rmtree(folder / TABLE_FOLDER, ignore_errors=True)
        opened = start_run(config, folder, pool=pool, on_event=say)
    return search(opened, as_json=False)


def _stop_with_the_parent() -> None:
    while os.read(0, 4096):  # not sys.stdin: a thread that holds its lock would break the interpreter's end
        pass
    os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    """Entry point."""
    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    path, label, socket, *overrides = sys.argv[1:]
    guarded(lambda: run_member(Path(path), label, socket, overrides))


if __name__ == "__main__":
    main()
