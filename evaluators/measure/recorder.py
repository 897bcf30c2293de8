"""Recording of a workload's latencies with a pool: a slice file of one GPU, or a folder with a slice per GPU.

A slice is JSON lines: a header, then one line per finished shape. An interrupted shape leaves no line. A
shape's launches are measured together on one GPU, and written to that GPU's slice. Shapes in the slices count as done,
so that the same command resumes after any interruption; with a folder also on other GPUs.
"""

from __future__ import annotations

import datetime
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from evaluators.data.contract import Cache, Gpu, Setting
from evaluators.data.device import DeviceRecord
from evaluators.data.launches import AnyDecision, AnyLaunch
from evaluators.data.workloads import Case, cases_for
from evaluators.latencies.slices import slice_rows
from evaluators.latencies.table import TableError
from evaluators.measure.errors import MeasureErrorKind, RecordingError
from evaluators.measure.executor import Job, JobResult
from evaluators.measure.pool import Pool
from evaluators.targets.registry import target_of
from evaluators.targets.target import AnyTarget

SLICE_FORMAT = 1
ROUNDS = 6
"""Rounds per launch; even and at least 4: the oracle is selected on one half of them and scored on the other."""

MS_PER_CELL = {Cache.COLD: 9.3, Cache.HOT: 9.3, Cache.LAYER: 15.0}
"""Average time per launch on an H100, cold over llama31-70b, in layers over 26 shapes of one KV head; only for
`--dry-run` and the time left."""

CLIENT = "record"
SAME = ("format", "workload", "setting", "build", "rounds")
SAME_DEVICE = ("name", "num_sms", "driver")
"""Keys of the header that slices of one folder must share; the others depend on the GPU."""

Actions = dict[str, tuple[AnyDecision, AnyLaunch]]


@dataclass(frozen=True, slots=True)
class RecordingProgress:
    """One finished case, for a progress bar."""

    done: int
    total: int
    case_id: str
    failed: str
    slowed: bool
    seconds_left: float


def header(workload: str, setting: Setting, device: DeviceRecord, build: str) -> dict[str, Any]:
    """First line of a slice: everything that identifies the latencies."""
    return {
        "format": SLICE_FORMAT,
        "workload": workload,
        "setting": setting.name,
        **setting.as_json(),
        "build": build,
        "device": device.as_dict(),
        "rounds": ROUNDS,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


@dataclass(frozen=True, slots=True)
class RecordingCost:
    """Estimated cost of a recording: `cells` are launches, `seconds` those of one GPU."""

    shapes: int
    cells: int
    seconds: float
    slice_bytes: int
    table_bytes: int


TABLE_SHARE = 0.15
"""Size of a table as a share of its slices; 0.13 to 0.14 for the tables that ship."""


def recording_cost(
    workload: str, setting: Setting, gpu: Gpu, part: tuple[int, int] = (0, 1), done: frozenset[str] = frozenset()
) -> RecordingCost:
    """Estimate the cost of the missing shapes of a part; sizes are computed with made-up latencies."""
    shapes = cells = size = 0
    target = target_of(setting)
    for case in slice_cases(workload, setting, part):
        if case.id in done:
            continue
        actions = target.recorded_actions(case.shape, setting, gpu)
        rows = [
            cell_row(target.cell_values(decision), launch, [12.345] * ROUNDS, 0.002123)
            for decision, launch in actions.values()
        ]
        line = {"case": case.id, "sm_clock_mhz": 1980, "slowed": False, "cells": rows}
        shapes, cells, size = shapes + 1, cells + len(rows), size + len(json.dumps(line, separators=(",", ":"))) + 1
    return RecordingCost(shapes, cells, cells * MS_PER_CELL[setting.cache] / 1e3, size, round(size * TABLE_SHARE))


def recorded_so_far(output: Path, *, folder: bool) -> frozenset[str]:
    """Ids of the shapes in a slice, or in the slices of a folder."""
    paths = sorted(output.glob("*.jsonl")) if folder else [output]
    return frozenset(case for path in paths for case in finished_cases(path)[1])


def finished_cases(path: Path) -> tuple[dict[str, Any] | None, set[str]]:
    """Header of a slice and ids of its shapes; a torn last line is ignored.

    Raises:
        TableError: it cannot be read, or a line was not written by `record`.
    """
    if not path.exists():
        return None, set()
    head: dict[str, Any] | None = None
    done: set[str] = set()
    for row in slice_rows(path):
        if head is None:
            if not isinstance(row.get("device"), dict):
                raise TableError(f"{path} is not a slice of evosplit record: its first line names no device")
            head = row
        elif not isinstance(row.get("case"), str):
            raise TableError(f"{path}: a line without a case, {str(row)[:80]}: remove the line, or the file")
        elif "cells" in row:
            done.add(row["case"])
    return head, done


def end_torn_line(path: Path) -> None:
    """Terminate a torn last line, so that the next appended line is not lost, too."""
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("ab") as out:
            out.write(b"\n")


def cell_row(
    decision: dict[str, Any], launch: AnyLaunch, latencies_us: Sequence[float], error: float
) -> dict[str, Any]:
    """One recorded launch as JSON; the decision as in `Target.cell_values`."""
    return {
        **decision,
        "launch": launch.key,
        "error": round(error, 6),
        "latencies_us": [round(v, 3) for v in latencies_us],
    }


def slice_cases(workload: str, setting: Setting, part: tuple[int, int]) -> Iterator[Case]:
    """Cases of one part, in a fixed random order so that drift is not confounded with shape."""
    cases = list(cases_for(workload, setting))
    random.Random(setting.name).shuffle(cases)
    index, count = part
    yield from cases[index::count]


class SliceWriter:
    """The slices of one recording.

    Attributes:
        done: ids of the cases in them.
    """

    def __init__(self, output: Path, pool: Pool, workload: str, setting: Setting, *, folder: bool) -> None:
        """Read the existing slices.

        Raises:
            RecordingError: they were recorded under other conditions.
        """
        self._output, self._folder = output, folder
        self._open = ExitStack()
        self._files: dict[str, IO[str]] = {}
        self._heads = {u: header(workload, setting, b.device, b.build) for u, b in pool.benches(setting).items()}
        self.done: set[str] = set()
        if folder:
            output.mkdir(exist_ok=True)
        for path in sorted(output.glob("*.jsonl")) if folder else [output]:
            head, done = finished_cases(path)
            if head is not None:
                self._compare(path, head)
                self.done |= done

    def _compare(self, path: Path, head: dict[str, Any]) -> None:
        ours = next(iter(self._heads.values()))
        device, theirs = ours["device"], head["device"]
        pairs = {k: (head.get(k), ours[k]) for k in SAME}
        pairs |= {k: (theirs.get(k), device[k]) for k in (SAME_DEVICE if self._folder else device)}
        for key, (was, now) in pairs.items():
            if was != now:
                raise RecordingError(
                    f"{path} was recorded with {key} = {was!r}, this would add {now!r}: choose another "
                    f"{'folder' if self._folder else 'file'}"
                )

    def add(self, uuid: str, row: dict[str, Any]) -> None:
        """Append a line to a GPU's slice, which is created if necessary."""
        file = self._files.get(uuid)
        if file is None:
            path = self._output / f"{uuid}.jsonl" if self._folder else self._output
            end_torn_line(path)
            begun = path.exists() and path.stat().st_size > 0
            file = self._files[uuid] = self._open.enter_context(path.open("a", encoding="utf-8"))
            if not begun:
                file.write(json.dumps(self._heads[uuid]) + "\n")
        file.write(json.dumps(row, separators=(",", ":")) + "\n")

    def flush(self) -> None:
        """Flush all slices to the system."""
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Close all slices."""
        self._open.close()


def _row(case: Case, actions: Actions, result: JobResult, target: AnyTarget) -> dict[str, Any]:
    """One slice line: the cells, or the reason of a failure of this shape."""
    if result.reply is None:
        return {"case": case.id, "failed": str(result.error).splitlines()[0]}
    cells = [
        cell_row(target.cell_values(decision), launch, cell["latencies_us"], cell["error"])
        for (decision, launch), cell in zip(actions.values(), result.reply["cells"], strict=True)
    ]
    reply = result.reply
    return {"case": case.id, "sm_clock_mhz": reply["sm_clock_mhz"], "slowed": reply["slowed"], "cells": cells}


def record(
    pool: Pool,
    workload: str,
    setting: Setting,
    output: Path,
    *,
    folder: bool,
    part: tuple[int, int] = (0, 1),
    deadline: float | None = None,
    on_progress: Callable[[RecordingProgress], None] = lambda _: None,
) -> int:
    """Measure the cases that the output lacks; returns the number left.

    The pool was opened with `setting`, and is of one GPU if `output` is a file. Slice or `folder` of slices are created
    or continued; `part` is (index, count) of the part to record. No new case starts after `deadline` by
    `time.monotonic()`; `on_progress` is called after each case.

    Raises:
        RecordingError: the output was recorded under other conditions.
        MeasureError: no worker is left; recorded shapes are kept.
    """
    asked: dict[int, tuple[Case, Actions, Job]] = {}
    with closing(SliceWriter(output, pool, workload, setting, folder=folder)) as slices:
        todo = [c for c in slice_cases(workload, setting, part) if c.id not in slices.done]
        gpu, target = pool.devices[0].gpu(), target_of(setting)

        def jobs() -> Iterator[Job]:
            for case in todo:
                if deadline is not None and time.monotonic() > deadline:
                    return
                actions = target.recorded_actions(case.shape, setting, gpu)
                job = Job(setting, case.shape, tuple(d for d, _ in actions.values()), ROUNDS)
                asked[id(job)] = case, actions, job
                yield job

        started, count = time.monotonic(), 0
        pool.open_client(CLIENT)
        try:
            with closing(pool.measure(CLIENT, jobs())) as batches:
                for results in batches:
                    for result in results:
                        case, actions, _ = asked.pop(id(result.job))
                        if result.error is not None and result.error.kind is MeasureErrorKind.LOST:
                            raise result.error
                        row = _row(case, actions, result, target)
                        # A launch that no GPU survived is written to the first slice.
                        slices.add(result.uuid or next(iter(pool.benches(setting))), row)
                        count += 1
                        left = (time.monotonic() - started) / count * (len(todo) - count)
                        failed, slowed = row.get("failed", ""), row.get("slowed", False)
                        on_progress(RecordingProgress(count, len(todo), case.id, failed, slowed, left))
                    slices.flush()
        finally:
            pool.close_client(CLIENT)
    return len(todo) - count
