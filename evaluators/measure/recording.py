"""Records a workload with a pool: as `evaluators.measure.recorder`, one slice file per GPU in one folder.

A shape's cells are measured together on one GPU, and go into that GPU's slice as one line. Whatever slices the folder
holds count as done, so that the same command goes on after any interruption, on these GPUs or on others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, Any

from evaluators.data.contract import Decision, Setting
from evaluators.data.workloads import Case
from evaluators.fa3.launch import Launch
from evaluators.latencies.recorded_decisions import recorded_actions
from evaluators.measure.executor import Answer, Work
from evaluators.measure.pool import Pool
from evaluators.measure.slices import (
    ROUNDS,
    Progress,
    RecordingError,
    cell_row,
    end_torn_line,
    finished_cases,
    header,
    slice_cases,
)
from evaluators.measure.worker_client import Trouble

CLIENT = "record"
SAME = ("format", "workload", "setting", "build", "rounds")
SAME_DEVICE = ("name", "num_sms", "driver")
"""What slices of one folder must have in common; the rest tells one GPU from another."""

Actions = dict[str, tuple[Decision, Launch]]


def _row(case: Case, actions: Actions, answer: Answer) -> dict[str, Any]:
    """One slice line."""
    if answer.reply is None:
        return {"case": case.id, "failed": str(answer.trouble).splitlines()[0]}
    cells = [
        cell_row(decision, launch, cell["latencies_us"], cell["error"])
        for (decision, launch), cell in zip(actions.values(), answer.reply["cells"], strict=True)
    ]
    return {
        "case": case.id,
        "sm_clock_mhz": answer.reply["sm_clock_mhz"],
        "slowed": answer.reply["slowed"],
        "cells": cells,
    }


class SliceFolder:
    """The slices of one recording."""

    def __init__(self, folder: Path, pool: Pool, workload: str, setting: Setting) -> None:
        """Read what is there.

        Raises:
            RecordingError: the folder holds slices of something else.
        """
        self._folder = folder
        self._open = ExitStack()
        self._files: dict[str, IO[str]] = {}
        self._heads = {
            uuid: header(workload, setting, bench.device, bench.build) for uuid, bench in pool.benches(setting).items()
        }
        ours = next(iter(self._heads.values()))
        self.done: set[str] = set()
        folder.mkdir(exist_ok=True)
        for path in sorted(folder.glob("*.jsonl")):
            head, done = finished_cases(path)
            if head is None:
                continue
            theirs = [head.get(k) for k in SAME] + [head.get("device", {}).get(k) for k in SAME_DEVICE]
            wanted = [ours[k] for k in SAME] + [ours["device"][k] for k in SAME_DEVICE]
            for key, was, now in zip((*SAME, *SAME_DEVICE), theirs, wanted, strict=True):
                if was != now:
                    raise RecordingError(
                        f"{path} was recorded with {key} = {was!r}, this would add {now!r}: choose another folder"
                    )
            self.done |= done

    def add(self, uuid: str, row: dict[str, Any]) -> None:
        """Append a line to a GPU's slice, which is begun when needed."""
        file = self._files.get(uuid)
        if file is None:
            path = self._folder / f"{uuid}.jsonl"
            end_torn_line(path)
            begun = path.exists() and path.stat().st_size > 0
            file = self._files[uuid] = self._open.enter_context(path.open("a", encoding="utf-8"))
            if not begun:
                file.write(json.dumps(self._heads[uuid]) + "\n")
        file.write(json.dumps(row, separators=(",", ":")) + "\n")

    def flush(self) -> None:
        """Hand what was added to the system."""
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Close all slices."""
        self._open.close()


def record_pooled(
    pool: Pool,
    workload: str,
    setting: Setting,
    folder: Path,
    *,
    part: tuple[int, int] = (0, 1),
    deadline: float | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> int:
    """Measure the cases that the folder lacks; returns how many are left.

    Args:
        pool: opened with `setting`.
        workload: name of the workload.
        setting: how the calls reach the kernel.
        folder: created, or continued.
        part: (index, count) of the part of the cases that is recorded.
        deadline: `time.monotonic()` after which no new case is handed to the pool.
        on_progress: called after each case.

    Raises:
        RecordingError: the folder holds slices of something else.
        MeasureError: no worker is left; what is recorded is kept.
    """
    asked: dict[int, tuple[Case, Actions, Work]] = {}
    with closing(SliceFolder(folder, pool, workload, setting)) as slices:
        todo = [c for c in slice_cases(workload, setting, part) if c.id not in slices.done]
        gpu = pool.devices[0].gpu()

        def works() -> Iterator[Work]:
            for case in todo:
                if deadline is not None and time.monotonic() > deadline:
                    return
                actions = recorded_actions(case.shape, setting, gpu)
                work = Work(setting, case.shape, tuple(d for d, _ in actions.values()), ROUNDS)
                asked[id(work)] = case, actions, work
                yield work

        started, count = time.monotonic(), 0
        pool.open_client(CLIENT)
        try:
            with closing(pool.measure(CLIENT, works())) as batches:
                for answers in batches:
                    for answer in answers:
                        case, actions, _ = asked.pop(id(answer.work))
                        if answer.trouble is not None and answer.trouble.kind is Trouble.LOST:
                            raise answer.trouble
                        row = _row(case, actions, answer)
                        # A launch that no GPU survived is written down where the slices begin.
                        slices.add(answer.uuid or next(iter(pool.benches(setting))), row)
                        count += 1
                        each = (time.monotonic() - started) / count
                        left = each * (len(todo) - count)
                        failed, slowed = row.get("failed", ""), row.get("slowed", False)
                        on_progress(Progress(count, len(todo), case.id, failed, slowed, left))
                    slices.flush()
        finally:
            pool.close_client(CLIENT)
    return len(todo) - count
