"""Latencies of both arms' calls, as recordings have them, in the process that measures their steps.

By themselves, in graphs of calls over other keys and values, and in layers of the model, less these without a call
(`evaluators/tokens/layer_bench.py`); each in several takes over other memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from evaluators.data.launches import AnyDecision
from evaluators.data.workloads import Case
from evaluators.measure.bench import GpuBench
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.tokens.suite import StepSubject

TAKES, LAYER_TAKES, ROUNDS = 4, 2, 6
"""Kernels are timed so often, each time over other memory: where inputs land moves a latency by a percent."""


@dataclass(frozen=True)
class Takes:
    """Microseconds of baseline and program, one median per take."""

    baseline: list[float] = field(default_factory=list)
    program: list[float] = field(default_factory=list)


def stop_if_lost(error: MeasureError) -> None:
    """Raise an error after which nothing can be measured; print any other."""
    if error.kind in (MeasureErrorKind.LOST, MeasureErrorKind.UNAVAILABLE):
        raise error
    print("  trouble:", error, flush=True)


def medians(bench: GpuBench, case: Case, decisions: Sequence[AnyDecision]) -> list[float]:
    """Latency of each decision in microseconds."""
    return [statistics.median(us) for us, _ in bench.shapes.time_decisions(case, decisions, rounds=ROUNDS)]


def kernel_takes(bench: GpuBench, subjects: Sequence[StepSubject], deadline: float, takes: int) -> dict[str, Takes]:
    """Latencies of both arms by case; no first take begins after the deadline, cases that fail are left out.

    All cases are taken once before any is taken again, so that a case's takes lie apart.
    """
    found: dict[str, Takes] = {}
    left = list(subjects)
    for take in range(takes):
        for subject in left.copy():
            case, decisions = subject.case, (subject.baseline, subject.program)
            if take == 0 and time.monotonic() > deadline:
                left.remove(subject)
                continue
            try:
                one, other = bench.guarded(case.shape, partial(medians, bench, case, decisions))
            except MeasureError as error:
                stop_if_lost(error)
                left.remove(subject)
                found.pop(case.id, None)
                continue
            bench.shapes.tidy()
            mine = found.setdefault(case.id, Takes())
            mine.baseline.append(one)
            mine.program.append(other)
    bench.close_shapes()
    return found
