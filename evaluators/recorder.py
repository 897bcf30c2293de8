"""Records latencies of a workload on this machine's GPU, shape by shape, into a slice file.

A slice is JSON lines: a header, then one line per finished shape. A shape that was interrupted leaves no
line, so that re-running the same command picks up where it stopped.
"""

from __future__ import annotations

import datetime
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.contract import Decision, DecodeShape, Gpu, Setting
from evaluators.correctness import MAX_RELATIVE_ERROR, reference, relative_error
from evaluators.device import ClockLog, DeviceRecord, current_device
from evaluators.ladder import recorded_actions
from evaluators.launch import Launch
from evaluators.providers import Provider, open_provider
from evaluators.providers.memory import CopyPlan, KvPool, plan_copies
from evaluators.timing import GraphTimer, launches_per_replay
from evaluators.workloads import Case, cases_for

if TYPE_CHECKING:
    import torch

    from evaluators.providers import BoundLaunch, CallInputs

SLICE_FORMAT = 1
ROUNDS = 6
"""Even and at least 4: the oracle is chosen on one half of the rounds and scored on the other."""

MS_PER_CELL = 9.3
"""Measured on an H100 over llama31-70b; used for `--dry-run` and the time left only."""

POOL_BYTES = 24 << 30
SPARE_BYTES = 16 << 30
"""Cached memory above which it is given back after a shape."""


class RecordingError(Exception):
    """The recording cannot start or go on; the message says why."""


class WrongOutputError(RecordingError):
    """A launch's output disagreed with the reference."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One finished case, for a progress bar."""

    done: int
    total: int
    case_id: str
    failed: str
    seconds_left: float


def header(workload: str, setting: Setting, device: DeviceRecord, build: str) -> dict[str, Any]:
    """First line of a slice: everything that the latencies' key needs."""
    return {
        "format": SLICE_FORMAT,
        "workload": workload,
        "setting": setting.name,
        "provider": setting.provider,
        "mode": setting.mode.value,
        "cache": setting.cache.value,
        "page_size": setting.page_size,
        "dtype": setting.dtype,
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
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
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


class Recorder:
    """Measures cases of one setting on the current GPU."""

    def __init__(
        self, setting: Setting, *, seed: int = 0, pool_bytes: int = POOL_BYTES, provider: Provider | None = None
    ) -> None:
        """Open the provider, unless one is given, and allocate memory.

        Raises:
            ProviderUnavailable: the provider cannot run here.
        """
        self.setting = setting
        self.provider: Provider = provider or open_provider(setting.provider)
        self.device = current_device()
        self.gpu = self.device.gpu()
        self._pool = KvPool(pool_bytes // 2, seed=seed)
        self.timer = GraphTimer(self.gpu)
        self._rng = random.Random(seed)
        self.check_s = 0.0
        """Seconds that the last `time_decisions` spent on the reference and on checking outputs."""

    def measure(self, case: Case) -> list[dict[str, Any]]:
        """All recorded launches of one case.

        Raises:
            RecordingError: an output disagreed with the reference.
        """
        actions = list(recorded_actions(case.shape, self.setting, self.gpu).values())
        timed = self.time_decisions(case, [decision for decision, _ in actions], rounds=ROUNDS)
        return [
            cell_row(decision, launch, latencies_us, error)
            for (decision, launch), (latencies_us, error) in zip(actions, timed, strict=True)
        ]

    def time_decisions(
        self, case: Case, decisions: Sequence[Decision], *, rounds: int
    ) -> list[tuple[tuple[float, ...], float]]:
        """(latencies in microseconds by round, worst relative error) of each decision on one case.

        Outputs are poisoned with NaN and compared with the reference before and after timing.

        Raises:
            WrongOutputError: an output disagreed with the reference.
        """
        import torch

        plan, inputs = self.fresh_inputs(case.shape, launches_per_replay(case.shape))
        torch.cuda.synchronize()
        started = time.monotonic()
        expected = reference(inputs, 0)
        bound = [self.provider.bind(inputs, decision, self.gpu) for decision in decisions]
        errors = [self.checked_run(inputs, expected, launch) for launch in bound]
        torch.cuda.synchronize()
        self.check_s = time.monotonic() - started
        memory = torch.cuda.graph_pool_handle()
        graphs = [self.timer.capture(launch, plan, memory) for launch in bound]
        timed = self.timer.time(graphs, plan, rounds=rounds, rng=self._rng)
        started = time.monotonic()
        errors += [self.checked_replay(inputs, expected, graph) for graph in graphs]
        measured = torch.stack(errors).tolist()
        self.check_s += time.monotonic() - started
        results = []
        for i, decision in enumerate(decisions):
            before, after = measured[i], measured[len(bound) + i]
            if not (before <= MAX_RELATIVE_ERROR and after <= MAX_RELATIVE_ERROR):
                raise WrongOutputError(
                    f"{case.id}: output of {decision} is off by {before:.3g} before and {after:.3g} after timing "
                    f"(bound {MAX_RELATIVE_ERROR})"
                )
            results.append((timed[i].latencies_us, max(before, after)))
        return results

    def fresh_inputs(self, shape: DecodeShape, launches: int) -> tuple[CopyPlan, CallInputs]:
        """Fresh random inputs for replays of `launches` calls, and the plan of their KV copies."""
        plan = plan_copies(
            shape,
            self.setting,
            launches=launches,
            l2_bytes=self.gpu.l2_bytes,
            pool_elements=self._pool.elements,
        )
        return plan, self.provider.make_inputs(shape, self.setting, copies=plan.copies, pool=self._pool)

    @staticmethod
    def checked_run(inputs: CallInputs, expected: torch.Tensor, launch: BoundLaunch) -> torch.Tensor:
        """Relative error of one call over copy 0 into an output poisoned with NaN; not waited for."""
        inputs.out.fill_(float("nan"))
        launch.run(0)
        return relative_error(inputs.out, expected)

    def checked_replay(self, inputs: CallInputs, expected: torch.Tensor, graph: torch.cuda.CUDAGraph) -> torch.Tensor:
        """Relative error after one untimed replay, whose last call is over copy 0."""
        import torch

        inputs.out.fill_(float("nan"))
        torch.cuda.synchronize()
        self.timer.replay(graph)
        torch.cuda.synchronize()
        return relative_error(inputs.out, expected)

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
                on_progress(Progress(k + 1, len(todo), case.id, row.get("failed", ""), left))
        return 0

    def _row(self, case: Case, clocks: ClockLog) -> dict[str, Any]:
        """One slice line: the cells, or why this shape failed (it then costs this shape alone)."""
        import torch

        try:
            cells = self.measure(case)
        except (RuntimeError, MemoryError, RecordingError) as error:
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
        if torch.cuda.memory_reserved() - 2 * self._pool.elements > SPARE_BYTES:
            # Graphs leave their workspaces in private pools, which only this gives back.
            torch.cuda.empty_cache()
        clock, slowed = clocks.sample()
        return {"case": case.id, "sm_clock_mhz": clock, "slowed": slowed, "cells": cells}


def slice_cases(workload: str, setting: Setting, part: tuple[int, int]) -> Iterator[Case]:
    """Cases of one part, in a fixed random order so that drift is not confounded with shape."""
    cases = list(cases_for(workload, setting))
    random.Random(setting.name).shuffle(cases)
    index, count = part
    yield from cases[index::count]
