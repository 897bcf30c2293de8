"""Records latencies of a workload on this machine's GPU, shape by shape, into a slice file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluators.data.contract import Setting
from evaluators.data.workloads import Case
from evaluators.latencies.recorded_decisions import recorded_actions
from evaluators.measure.claim import claim_gpu
from evaluators.measure.device import ClockLog, DeviceLost
from evaluators.measure.providers import open_provider
from evaluators.measure.shape_timer import ShapeTimer, WrongOutputError
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


class Recorder:
    """Measures cases of one setting on the current GPU, which it locks until the process ends.

    Attributes:
        setting: how calls reach the kernel.
        provider: what launches the kernel.
        device: the GPU.
        gpu: what heuristics may know of it.
        shapes: what measures.
    """

    def __init__(self, setting: Setting, *, seed: int = 0) -> None:
        """Open the provider, take the GPU, and allocate memory.

        Raises:
            ProviderUnavailable: the provider cannot run here.
            MeasureError: of kind unavailable: another process measures on the GPU, or it cannot be timed.
        """
        self.setting = setting
        self.provider = open_provider(setting.provider)
        self.device = claim_gpu()
        self.gpu = self.device.gpu()
        self.shapes = ShapeTimer(setting, self.provider, self.gpu, seed=seed)

    def measure(self, case: Case) -> list[dict[str, Any]]:
        """All recorded launches of one case.

        Raises:
            WrongOutputError: an output disagreed with the reference.
        """
        actions = list(recorded_actions(case.shape, self.setting, self.gpu).values())
        timed = self.shapes.time_decisions(case, [decision for decision, _ in actions], rounds=ROUNDS)
        return [
            cell_row(decision, launch, latencies_us, error)
            for (decision, launch), (latencies_us, error) in zip(actions, timed, strict=True)
        ]

    def record(
        self,
        workload: str,
        path: Path,
        *,
        part: tuple[int, int] = (0, 1),
        deadline: float | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> int:
        """Measure the cases that `path` lacks and append them; returns how many are left.

        Args:
            workload: name of the workload.
            path: slice file, created or continued.
            part: (index, count) of the part of the cases that this slice covers.
            deadline: `time.monotonic()` after which no new case starts.
            on_progress: called after each case.

        Raises:
            RecordingError: `path` belongs to another setting, build or GPU.
        """
        head, done = finished_cases(path)
        ours = header(workload, self.setting, self.device, self.provider.build())
        if head is not None:
            for key in ("format", "workload", "setting", "build", "device"):
                if head[key] != ours[key]:
                    raise RecordingError(
                        f"{path} was recorded with {key} = {head[key]!r}, this would add {ours[key]!r}: "
                        "choose another file"
                    )
        todo = [c for c in slice_cases(workload, self.setting, part) if c.id not in done]
        clocks = ClockLog(self.device.uuid)
        started = time.monotonic()
        end_torn_line(path)
        with path.open("a", encoding="utf-8") as out:
            if head is None:
                out.write(json.dumps(ours) + "\n")
            for k, case in enumerate(todo):
                if deadline is not None and time.monotonic() > deadline:
                    return len(todo) - k
                row = self._row(case, clocks)
                out.write(json.dumps(row, separators=(",", ":")) + "\n")
                out.flush()
                each = (time.monotonic() - started) / (k + 1)
                left = each * (len(todo) - k - 1)
                failed, slowed = row.get("failed", ""), row.get("slowed", False)
                on_progress(Progress(k + 1, len(todo), case.id, failed, slowed, left))
        return 0

    def _row(self, case: Case, clocks: ClockLog) -> dict[str, Any]:
        """One slice line: the cells, or why this shape failed (it then costs this shape alone)."""
        import torch

        try:
            cells = self.measure(case)
        except (RuntimeError, MemoryError, WrongOutputError) as error:
            # The library's stable ABI reports out-of-memory as a plain RuntimeError. An error that leaves
            # the GPU unusable shows at the next synchronisation.
            try:
                torch.cuda.synchronize()
            except RuntimeError as lost:
                raise RecordingError(
                    f"the GPU stopped answering at {case.id} ({lost}); what is recorded is kept: run the same "
                    "command again"
                ) from error
            torch.cuda.empty_cache()
            return {"case": case.id, "failed": str(error).splitlines()[0]}
        self.shapes.tidy()
        try:
            clock, slowed = clocks.sample()
        except DeviceLost as error:
            raise RecordingError(f"{error}; what is recorded is kept: run the same command again") from error
        return {"case": case.id, "sm_clock_mhz": clock, "slowed": slowed, "cells": cells}
