"""Slices: what recordings write, one file per GPU, and how much of a workload they hold.

A slice is JSON lines: a header, then one line per finished shape. A shape that was interrupted leaves no
line, so that re-running the same command picks up where it stopped.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.data.contract import Decision, Gpu, Setting
from evaluators.data.device import DeviceRecord
from evaluators.data.workloads import Case, cases_for
from evaluators.fa3.launch import Launch
from evaluators.latencies.recorded_decisions import recorded_actions
from evaluators.latencies.table import slice_rows

SLICE_FORMAT = 1
ROUNDS = 6
"""Even and at least 4: the oracle is chosen on one half of the rounds and scored on the other."""

MS_PER_CELL = 9.3
"""Measured on an H100 over llama31-70b; used for `--dry-run` and the time left only."""


class RecordingError(Exception):
    """The recording cannot start or go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One finished case, for a progress bar."""

    done: int
    total: int
    case_id: str
    failed: str
    slowed: bool
    seconds_left: float


def header(workload: str, setting: Setting, device: DeviceRecord, build: str) -> dict[str, Any]:
    """First line of a slice: everything that the latencies' key needs."""
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


def count_cells(workload: str, setting: Setting, gpu: Gpu) -> tuple[int, int]:
    """(shapes, cells) that a recording would measure."""
    cases = cases_for(workload, setting)
    return len(cases), sum(len(recorded_actions(c.shape, setting, gpu)) for c in cases)


def finished_cases(path: Path) -> tuple[dict[str, Any] | None, set[str]]:
    """Header and ids of the shapes that a slice already holds; a torn last line is ignored."""
    if not path.exists():
        return None, set()
    head: dict[str, Any] | None = None
    done: set[str] = set()
    for row in slice_rows(path):
        if head is None:
            head = row
        elif "cells" in row:
            done.add(row["case"])
    return head, done


def end_torn_line(path: Path) -> None:
    """End a line that an interruption cut short, so that what is appended does not join it and get lost too."""
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("ab") as out:
            out.write(b"\n")


def cell_row(decision: Decision, launch: Launch, latencies_us: Sequence[float], error: float) -> dict[str, Any]:
    """One recorded launch as JSON."""
    return {
        "num_splits": decision.num_splits,
        "blocks_per_split": decision.blocks_per_split,
        "pack_gqa": decision.pack_gqa,
        "sm_margin": decision.sm_margin,
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
