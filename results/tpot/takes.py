"""Latencies of both arms' kernels by themselves, in the process that measures their steps.

Two ways, each in several takes over other memory: `recorded` is a graph of the call over other keys and values, as
recordings have it. `behind` is the same with a kernel before each call that reads three times the size of L2, less
that kernel by itself: what a call finds in L2 is then what the weights of a layer leave there, nothing.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from evaluators.data.contract import DecodeShape
from evaluators.data.launches import AnyDecision
from evaluators.measure.bench import GpuBench
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.providers.base import BoundLaunch
from evaluators.measure.providers.memory import CopyPlan
from evaluators.measure.timing import GraphTimer, launches_per_replay
from evaluators.tokens.suite import StepSubject

TAKES, ROUNDS = 4, 6
"""Kernels are timed so often, each time over other memory: where inputs land moves a latency by a percent."""

BEHIND = 12
"""Calls in a graph whose calls each follow an eviction."""


@dataclass(frozen=True)
class Takes:
    """Microseconds of baseline and program, one median per take, by either way."""

    recorded: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    behind: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))


def stop_if_lost(error: MeasureError) -> None:
    """Raise an error after which nothing can be measured; print any other."""
    if error.kind in (MeasureErrorKind.LOST, MeasureErrorKind.UNAVAILABLE):
        raise error
    print("  trouble:", error, flush=True)


def behind(timer: GraphTimer, plan: CopyPlan, call: Callable[[int], None] | None, copy: int) -> None:
    """Enqueue an eviction of L2, then the call, if any."""
    timer.quiet(plan)
    if call is not None:
        call(copy)


def medians(timer: GraphTimer, runs: Sequence[Callable[[int], None]], plan: CopyPlan) -> list[float]:
    """Microseconds per call of each run, in paired rounds."""
    import torch

    launches = [BoundLaunch(None, run) for run in runs]
    for launch in launches:
        launch.run(0)
    torch.cuda.synchronize()
    pool = torch.cuda.graph_pool_handle()
    graphs = [timer.capture(launch, plan, pool) for launch in launches]
    return [statistics.median(t.latencies_us) for t in timer.time(graphs, plan, rounds=ROUNDS, rng=random.Random(0))]


def both_ways(bench: GpuBench, shape: DecodeShape, decisions: Sequence[AnyDecision]) -> tuple[list[float], list[float]]:
    """Latency of each decision, in microseconds, as recorded and behind an eviction."""
    shapes = bench.shapes
    plan, inputs = shapes.fresh_inputs(shape, max(BEHIND, launches_per_replay(shape)))
    calls = [bench.provider.bind(inputs, d, bench.gpu).run for d in decisions]
    recorded = medians(shapes.timer, calls, plan)
    evicted = [partial(behind, shapes.timer, plan, c) for c in (None, *calls)]
    bare, *others = medians(shapes.timer, evicted, plan.of(BEHIND))
    return recorded, [us - bare for us in others]


def kernel_takes(bench: GpuBench, subjects: Sequence[StepSubject], deadline: float) -> dict[str, Takes]:
    """Kernels of both arms by case; no first take begins after the deadline, and cases that fail are left out.

    All cases are taken once before any is taken again, so that a case's takes lie apart.
    """
    found: dict[str, Takes] = {}
    left = list(subjects)
    for take in range(TAKES):
        for subject in left.copy():
            shape, decisions = subject.case.shape, (subject.baseline, subject.program)
            if take == 0 and time.monotonic() > deadline:
                left.remove(subject)
                continue
            try:
                ways = bench.guarded(shape, partial(both_ways, bench, shape, decisions))
            except MeasureError as error:
                stop_if_lost(error)
                left.remove(subject)
                found.pop(subject.case.id, None)
                continue
            bench.shapes.tidy()
            takes = found.setdefault(subject.case.id, Takes())
            for way, values in zip((takes.recorded, takes.behind), ways, strict=True):
                for mine, us in zip(way, values, strict=True):
                    mine.append(us)
    bench.close_shapes()
    return found
